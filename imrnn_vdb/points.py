"""Points and candidates as arrays and lists side by side, and what a point's id and payload may be."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.payloads import valid_text

PointId = int | str
"""A point's key: an integer or a string (UUIDs travel as their canonical text)."""
Payload = dict[str, Any]
T = TypeVar("T")
_NUMBER = re.compile("0|-?[1-9][0-9]{0,19}")


class LazyRows(Sequence[T]):
    """Ids or payloads that are made when they are asked for: a search returns ten of a hundred candidates.

    Parameters
    ----------
    make
        Returns what belongs to one row, the same each time; it reads nothing from a database.
    count
        Number of rows.
    """

    def __init__(self, make: Callable[[int], T], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        rows = range(self._count)[index]
        return self._make(rows) if isinstance(rows, int) else [self._make(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The first stage's answer to one query, as a struct of arrays, in the order of the database.

    Attributes
    ----------
    ids
        k point ids; the engine's own keys where they are ``partial``.
    base_scores
        Shape (k,), float64, oriented: higher is better (see :mod:`imrnn_vdb.metric`).
    codes
        k factor codes with their status.
    payloads
        k payloads without the fields of this layer.
    cut_short
        Whether a search for a factor filter ended at its own bound, or found fewer points than match.
    partial
        Whether payloads, and ids that are no keys, are still to be read, by ``Store.complete``.
    """

    ids: Sequence[PointId]
    base_scores: npt.NDArray[np.float64]
    codes: Codes
    payloads: Sequence[Payload]
    cut_short: bool = False
    partial: bool = False

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.base_scores) == len(self.codes) == len(self.payloads):
            raise InvalidInputError("candidates need one id, base score, code and payload each")

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Candidates:
        """Return what a search for fewer candidates would have returned."""
        return self if count >= len(self) else replace(self.take(np.arange(count)), cut_short=False)

    def finite(self) -> Candidates:
        """Return those that have a score: some engines store a vector that holds NaN, and find it."""
        finite = np.isfinite(self.base_scores)
        return self if finite.all() else self.take(np.flatnonzero(finite))

    def take(self, rows: npt.NDArray[np.intp]) -> Candidates:
        """Return these rows."""
        kept = rows.tolist()
        return replace(
            self,
            ids=LazyRows(lambda row: self.ids[kept[row]], len(kept)),
            base_scores=self.base_scores[rows],
            codes=self.codes.take(rows),
            payloads=LazyRows(lambda row: self.payloads[kept[row]], len(kept)),
        )


@dataclass(frozen=True, slots=True)
class Points:
    """Points to write, or points that were read.

    Attributes
    ----------
    ids
        n point ids.
    vectors
        Shape (n, d), float32 base vectors; None where they were not read.
    payloads
        n payloads without the fields of this layer.
    codes
        n factor codes with their status; None to write points without a code.
    factor_scores
        Shape (n, number of named factors), float32 in 0..1; None where there is no code.
    """

    ids: list[PointId]
    vectors: FloatArray | None
    payloads: list[Payload]
    codes: Codes | None = None
    factor_scores: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Page:
    """Some points of a scroll, and where it goes on; ``cursor`` is None at the end."""

    points: Points
    cursor: Any


def normalize_id(value: object) -> PointId:
    """Return a point id in the form in which it travels.

    Parameters
    ----------
    value
        An integer in −2⁶³..2⁶⁴−1, a non-empty string of valid Unicode, or a UUID. What of it a collection can hold, its
        store says: Qdrant's integers begin with 0, Milvus's end before 2⁶³.

    Raises
    ------
    InvalidInputError
        For anything else, booleans included.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, str) and value:
        return valid_text(value)
    raise InvalidInputError(f"a point id is an integer of 64 bits, a non-empty string or a UUID, got {value!r}")


def possible_ids(texts: Collection[str]) -> list[PointId]:
    """Return all ids that may be meant where ids are written as text: each as it is and, where it reads so, a number.

    A collection may know texts, numbers or both; those that it does not know do not exist.
    """
    numbers = [int(text) for text in texts if _NUMBER.fullmatch(text)]
    return [*filter(None, texts), *(number for number in numbers if -(2**63) <= number < 2**64)]


def normalize_ids(values: Iterable[object]) -> list[PointId]:
    """Return point ids in the form in which they travel; `InvalidInputError` for one id where several are wanted."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInputError(f"point ids come as a list, got {values!r}: write [{values!r}]")
    return [normalize_id(value) for value in values]

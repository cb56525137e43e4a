"""The two ends of a factor: the documents and terms of a sample that carry most and least of it.

A latent factor has no name, and its ends are what it can be known by; of a named one they show what it orders by here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.terms import telling_terms
from imrnn_vdb.payloads import headline_of, text_of
from imrnn_vdb.points import PointId, Points
from imrnn_vdb.space import LATENT_PREFIX, FactorSpace

_TAIL = 0.1  # share of the sample at each end whose words are compared


@dataclass(frozen=True, slots=True)
class EndDocument:
    """A document at one end: its id, one line that says what it is, and its coordinate on the factor, in −1..1."""

    id: PointId
    headline: str
    coordinate: float


@dataclass(frozen=True, slots=True)
class FactorEnds:
    """What stands at the two ends of a factor in a sample of a collection.

    Attributes
    ----------
    factor
        Its name, or ``latent_<coordinate>``.
    high, low
        Documents with the largest and the smallest coordinates, the outermost first.
    high_terms, low_terms
        Terms of the outermost tenth at each end that the other texts do not use (class-based TF-IDF).
    sample
        Points that were looked at.
    """

    factor: str
    high: tuple[EndDocument, ...]
    low: tuple[EndDocument, ...]
    high_terms: tuple[str, ...]
    low_terms: tuple[str, ...]
    sample: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)


def factor_ends(
    space: FactorSpace, points: Points, factor: str, count: int = 5, text_field: str = "text"
) -> FactorEnds:
    """Find the two ends of a factor.

    Parameters
    ----------
    space
        Space of the collection's codes.
    points
        A sample with vectors, as :meth:`IMRNNCollection.sample` draws it.
    factor
        A factor's name, or ``latent_<coordinate>`` as comparisons call those without one.
    count
        Documents at each end, at most half of the sample.
    text_field
        Payload key of the text; with a title, both give the terms.

    Raises
    ------
    InvalidInputError
        If there is no such factor, or fewer than two points with vectors.
    """
    column = factor_column(space, factor)
    if points.vectors is None or len(points) < 2:
        raise InvalidInputError(f"a factor's ends need at least 2 points with vectors, got {len(points)}")
    coordinates = space.turn(space.encode(points.vectors).directions)[:, column]
    order = np.argsort(-coordinates, kind="stable")
    half = len(order) // 2
    tail = max(1, min(half, round(len(order) * _TAIL)))
    texts = [text_of(payload, text_field) for payload in points.payloads]
    middle = order[tail : len(order) - tail]
    high_terms, low_terms, _ = telling_terms(texts, [order[:tail], order[len(order) - tail :], middle])

    def described(rows: npt.NDArray[np.intp]) -> tuple[EndDocument, ...]:
        return tuple(
            EndDocument(
                points.ids[row], headline_of(points.payloads[row], points.ids[row], text_field), float(coordinates[row])
            )
            for row in rows
        )

    shown = min(max(count, 0), half)
    return FactorEnds(
        factor,
        described(order[:shown]),
        described(order[::-1][:shown]),
        tuple(high_terms),
        tuple(low_terms),
        len(points),
    )


def factor_column(space: FactorSpace, factor: str) -> int:
    """Return the coordinate of a factor among turned codes: by name, or ``latent_<coordinate>``.

    Raises
    ------
    InvalidInputError
        If there is no such factor.
    """
    number = factor.removeprefix(LATENT_PREFIX)
    if factor in space.names or number == factor:
        return space.index(factor)
    if number.isdecimal() and len(space.names) <= int(number) < space.num_factors:
        return int(number)
    raise InvalidInputError(
        f"no latent factor is called {factor!r}: they are {LATENT_PREFIX}{len(space.names)} to "
        f"{LATENT_PREFIX}{space.num_factors - 1}"
    )


def strongest_latent(contributions: Sequence[Sequence[float]], num_names: int, count: int) -> list[str]:
    """Return the latent factors that contribute most, in size, to any of n scores, shape (n, m)."""
    table = np.abs(np.asarray(contributions, np.float64))
    if not table.size:
        return []
    latent = table[:, num_names:].max(axis=0)
    return [f"{LATENT_PREFIX}{num_names + j}" for j in np.argsort(-latent, kind="stable")[:count]]

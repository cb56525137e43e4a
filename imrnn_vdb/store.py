"""What one collection of a database must offer: the abstraction that every store adapter implements.

A :class:`Store` translates each operation into the vendor's calls and the replies into our structs, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.connection import Operation
from imrnn_vdb.errors import InvalidInputError, UnsupportedError
from imrnn_vdb.extras import Extras
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import Guard, admit, checked_guard
from imrnn_vdb.layout import CodeStorage, Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates, Page, PointId, Points


@dataclass(frozen=True, slots=True)
class VectorField:
    """A vector of a collection: its size, its metric, and whether the engine stores it quantised."""

    dim: int
    metric: Metric
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a user may want, and whether it works here.

    Attributes
    ----------
    name
        What it is about, for example ``"code in payload"``.
    status
        ``"works"``, ``"fallback"`` or ``"no"``.
    why
        The fact behind it, and what is done or can be done instead.
    """

    name: str
    status: Literal["works", "fallback", "no"]
    why: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a server says of itself and of one collection.

    Attributes
    ----------
    server
        Product and version, for example ``"Qdrant Edge 0.9.0"``.
    vectors
        The dense vector fields by name.
    count
        Number of points.
    capabilities
        What works here, for ``doctor``.
    settings
        What else is known, for ``doctor``: text, numbers, booleans, and lists and mappings of these, by name.
    """

    server: str
    vectors: Mapping[str, VectorField]
    count: int
    capabilities: tuple[Capability, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class Store(Extras, ABC):
    """One collection of one database. Every method is an operation: see :mod:`imrnn_vdb.connection`.

    Attributes
    ----------
    in_flight
        How many operations of a backfill may run beside one another; 1 where the client is not made for threads.
    filters_factors
        Whether searches and counts can filter on stored factor scores; where not, such filters run on candidates here.
    largest_window
        Candidates that one search returns at most.
    best_code_storage
        Where codes of a new collection lie, unless that is asked for.

    Parameters
    ----------
    collection
        Its name.
    layout
        Where things lie in it.
    guard
        A condition that all points have which are read, counted, given codes or deleted through this store; see
        :mod:`imrnn_vdb.guard`. To a guarded store, other points do not exist.

    Notes
    -----
    What no signature says:

    - A payload that fails :func:`imrnn_vdb.payloads.check_json`, or has a key that begins with ``RESERVED_PREFIX``, and
      a vector that holds NaN, are `InvalidInputError` before anything is sent.
    - A code lies under ``layout.code_field``, made and read by :mod:`imrnn_vdb.codec`, and scores under
      ``layout.factor_field(name)``; ``stored_texts`` and ``own_fields_removed`` of :mod:`imrnn_vdb.layout` take them
      out of payloads.
    - Base scores are oriented (:mod:`imrnn_vdb.metric`). A ``layout.vector_name`` that is not there is an error.
    - The guard is part of every condition; ``upsert`` first asks :meth:`_admit`, and ``drop``, ``strip_codes`` and
      ``drop_room`` ask :meth:`_check_droppable`.
    """

    in_flight = 4
    filters_factors: bool = True
    largest_window: int = 2**31 - 1
    best_code_storage: CodeStorage = "payload"

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        self.collection = collection
        self.layout = layout
        self._guard = checked_guard(guard)

    @abstractmethod
    def unguarded(self) -> Store:
        """Return a store of the same collection without the guard, to see whether an id is taken."""

    def _admit(self, points: Points) -> Operation[None]:
        """Refuse to write points that lie outside the guard, or whose ids belong to points outside it."""
        if self._guard is None:
            return
        admit(self._guard, points.payloads)
        mine = yield from self.fetch(points.ids)
        taken = yield from self.unguarded().fetch(points.ids)
        foreign = len(set(taken.ids) - set(mine.ids))
        if foreign:
            raise InvalidInputError(
                f"{foreign} of the ids are taken by points outside the guard, which an upsert would replace; nothing "
                "was written: give ids a prefix of the tenant's own"
            )

    def _check_droppable(self) -> None:
        if self._guard is not None:
            raise UnsupportedError(
                f"collection {self.collection!r} was opened with a guard, and this would remove what belongs to points "
                "outside it: open it without one"
            )

    @abstractmethod
    def info(self) -> Operation[CollectionInfo]:
        """Describe server and collection; `CollectionNotFoundError` if there is none."""

    @abstractmethod
    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:
        """Create the collection for base vectors and codes; `CollectionExistsError` if there is one.

        ``id_type`` matters to engines with typed keys (Milvus); Qdrant takes both.
        """

    @abstractmethod
    def drop(self) -> Operation[None]:
        """Delete the collection and all its points."""

    @abstractmethod
    def upsert(self, points: Points) -> Operation[None]:
        """Insert or replace whole points, visible to the next read of this connection."""

    @abstractmethod
    def search(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return the first-stage candidates of each query, in one round trip.

        Parameters
        ----------
        query_vectors
            Shape (n, d), float32, finite.
        limit
            Candidates for each query.
        payload_filter
            The vendor's own filter, passed through untouched.
        factor_filter
            On stored factor scores; translated, and combined with the payload filter by "and".
        """

    def search_partly(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return candidates as :meth:`search` does, but partial ones where payloads are dearer to read than codes."""
        return (yield from self.search(query_vectors, limit, payload_filter, factor_filter))

    def complete(
        self, batch: Sequence[Candidates], rows: Sequence[npt.NDArray[np.intp]]
    ) -> Operation[list[tuple[Candidates, npt.NDArray[np.intp]]]]:
        """Read ids and payloads that partial candidates lack, of some rows each, in one round trip for all.

        A point that changed since it was found keeps the score of then, beside the payload of now.

        Parameters
        ----------
        batch
            Partial candidates, as :meth:`search_partly` returned them, or joined from such.
        rows
            For each of them, the rows to read.

        Returns
        -------
        list of tuple
            For each of them, the candidates, with ids and payloads of these rows alone, and those of the rows whose
            points are gone (or, to a guarded store, no longer exist).
        """
        yield from ()
        return [(candidates, np.zeros(0, np.intp)) for candidates, _ in zip(batch, rows, strict=True)]

    @abstractmethod
    def fetch(
        self,
        ids: Sequence[PointId],
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Points]:
        """Read points by id, in the order asked for; ids that do not exist are left out.

        Without payloads, only what this layer wrote is read, and the payloads are empty; without codes as well, codes
        and factor scores are not to be used, and may be None.
        """

    @abstractmethod
    def scroll(
        self,
        limit: int,
        cursor: Any = None,
        payload_filter: Any = None,
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Page]:
        """Read the next points of the collection; every point that stays is seen exactly once.

        Without payloads or codes, as :meth:`fetch` does without them.
        """

    def changed(self, ids: Sequence[PointId], vectors: FloatArray) -> Operation[list[PointId]]:
        """Return those points, of n ids, that are gone or whose base vectors no longer are those of shape (n, d).

        Called after a write of codes. A point may be returned that did not change; one that did may be missed only
        where the code of its new vector would be all but the same, or by a chance of less than 1 in 10,000.
        """
        found = yield from self.fetch(ids, with_vectors=True, with_payloads=False, with_codes=False)
        row_of = {value: row for row, value in enumerate(found.ids)}
        if found.vectors is None or not row_of:
            return list(ids)
        rows = np.array([row_of.get(value, -1) for value in ids], np.intp)
        same = (rows >= 0) & (found.vectors[rows] == vectors).all(axis=1)
        return [ids[row] for row in np.flatnonzero(~same).tolist()]

    @abstractmethod
    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | None = None) -> Operation[int]:
        """Count points exactly."""

    @abstractmethod
    def write_codes(
        self,
        ids: Sequence[PointId],
        codes: Codes,
        factor_scores: FloatArray,
        lacking: npt.NDArray[np.bool_] | None = None,
    ) -> Operation[None]:
        """Write code and named factor scores of existing points; base vectors and foreign payload stay as they are.

        An id that does not exist is left out: no point is created. Where codes lie apart from points, its code may
        stay until :meth:`forget_codes` or :meth:`sweep` removes it; nothing reads it.

        Parameters
        ----------
        ids, codes, factor_scores
            n points, their current codes, and scores of shape (n, named factors).
        lacking
            Shape (n, 1 + named factors), bool: of the code and of each score, whether it has to be written; None for
            all. An engine that only replaces whole rows writes all of them.
        """

    def forget_codes(self, ids: Sequence[PointId]) -> Operation[None]:  # noqa: ARG002
        """Remove the codes of points that are gone, where codes lie apart from points."""
        yield from ()

    @abstractmethod
    def delete(self, ids: Sequence[PointId]) -> Operation[None]:
        """Delete points; ids that do not exist are ignored."""

    @abstractmethod
    def parse_filter(self, text: str) -> Any:
        """Read a payload filter from text: the vendor's JSON or expression; `InvalidInputError` if it is none."""

    @abstractmethod
    def prepare_codes(self, *, in_place: bool = False) -> Operation[bool]:
        """Make room for codes before a backfill, and see all that was written before this moment.

        ``in_place`` says that nobody else writes, so that whole rows may be rewritten where the engine knows no
        smaller update (Milvus).

        Returns
        -------
        bool
            Whether points may have codes already.
        """

    @abstractmethod
    def strip_codes(
        self, space_id: str, limit: int, cursor: Any = None, *, in_place: bool = False
    ) -> Operation[tuple[int, Any]]:
        """Remove a space's codes and factor scores from the next points; return how many had any, and where it goes on.

        Everything else stays as it is; the cursor is None at the end.
        """

    @abstractmethod
    def drop_room(self, space_id: str) -> Operation[None]:
        """Remove what held a space's codes, once they are stripped: payload indexes, vector, sidecar collection."""

    def sweep(self, limit: int, cursor: Any = None) -> Operation[tuple[int, Any]]:  # noqa: ARG002
        """Remove codes that lie apart from their points and whose points are gone; as :meth:`strip_codes` returns."""
        yield from ()
        return 0, None

"""Codes for points that are there already, from their stored vectors, beside other writers (DESIGN.md §5).

A backfill needs no memory of its own: what a collection shows says what is left to do. Each pass reads every point, and
writes where the stored code is not what the stored vector gives. So it can be killed at any moment, and run again.

What other writers do meanwhile: after each write the vectors are looked at again. One that changed gets its code
again, boundedly often; a point that is gone stays gone. What changes later is found by the next pass (``--follow``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from imrnn_vdb.backfill_plan import FailedPoint, Plan, plan
from imrnn_vdb.encoder_check import warn_of_misfit
from imrnn_vdb.errors import InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Page, PointId, Points
from imrnn_vdb.scripts import Progress, Round, Script
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import Store

if TYPE_CHECKING:
    from imrnn_vdb.connection import Operation

BATCH_POINTS = 500
_SWEEP_POINTS = 2_000
MAX_FAILURES = 1_000
"""Failed points that a report lists; all are counted."""
_BATCH_BYTES = 8 * 1024 * 1024
_ROUNDS = 3
_REFUSED = 20
"""So many points of a batch, from its first on, are refused for one reason: then it is not about single points."""


class BackfillKeywords(TypedDict, total=False):
    """Keywords of ``backfill``, as :class:`BackfillOptions` documents them."""

    batch_size: int
    rate: float | None
    limit: int | None
    payload_filter: Any
    dry_run: bool
    in_place: bool


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """How a backfill goes about its work.

    Attributes
    ----------
    batch_size
        Points read and written at a time, at most; fewer where their vectors are above 8 MiB together.
    rate
        Points a second at most; None for no limit.
    limit
        Points to look at, at most; None for all.
    payload_filter
        The database's own filter: only points that match are looked at.
    dry_run
        Count what would be written, and write nothing.
    in_place
        Say that nobody else writes now, so that Milvus may rewrite whole rows instead of filling a sidecar.
    """

    batch_size: int = BATCH_POINTS
    rate: float | None = None
    limit: int | None = None
    payload_filter: Any = None
    dry_run: bool = False
    in_place: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise InvalidInputError("batch_size and limit must be at least 1")
        if self.rate is not None and not self.rate > 0:
            raise InvalidInputError(f"rate is a number of points a second above 0, got {self.rate!r}")

    def batch_points(self, dim: int) -> int:
        """Return how many points to write at a time, by count and by bytes."""
        return max(1, min(self.batch_size, _BATCH_BYTES // (4 * dim)))


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a backfill did.

    Attributes
    ----------
    seen
        Points read.
    written
        Points whose code was written, or would be in a dry run.
    current
        Points that had a current code already.
    unsettled
        Points whose vector changed each time their code was written; the next pass finds them.
    failed
        Points that cannot get a code.
    failures
        The first of them, with reasons.
    orphans
        Codes removed because their points are gone, where codes lie apart from points.
    """

    seen: int = 0
    written: int = 0
    current: int = 0
    unsettled: int = 0
    failed: int = 0
    failures: tuple[FailedPoint, ...] = field(default=())
    orphans: int = 0

    def __add__(self, other: BackfillReport) -> BackfillReport:
        """Add up two parts of one backfill."""
        return BackfillReport(
            self.seen + other.seen,
            self.written + other.written,
            self.current + other.current,
            self.unsettled + other.unsettled,
            self.failed + other.failed,
            (*self.failures, *other.failures)[:MAX_FAILURES],
            self.orphans + other.orphans,
        )


@dataclass(frozen=True, slots=True)
class Filler:
    """Fills in the codes of one collection.

    Attributes
    ----------
    store
        The collection.
    space, metric
        What the codes are made of.
    options
        How.
    """

    store: Store
    space: FactorSpace
    metric: Metric
    options: BackfillOptions

    def begin(self) -> Operation[bool]:
        """Make room, unless nothing is to be written; say whether points may have codes already."""
        if self.options.dry_run:
            return True
        return (yield from self.store.prepare_codes(in_place=self.options.in_place))

    @property
    def batch(self) -> int:
        """Points of a batch."""
        return self.options.batch_points(self.space.dim)

    def read(self, cursor: Any, seen: int, with_codes: bool = True) -> Operation[Page]:
        """Read the next points, without their payloads: a batch for each operation that may run at once."""
        size, limit = self.batch * self.store.in_flight, self.options.limit
        size = size if limit is None else min(size, limit - seen)
        page = yield from self.store.scroll(
            size,
            cursor,
            self.options.payload_filter,
            with_vectors=True,
            with_payloads=False,
            with_codes=with_codes,
        )
        done = limit is not None and seen + len(page.points) >= limit
        return Page(page.points, None if done else page.cursor)

    def doubt(self, points: Points) -> None:
        """Log a warning if points that lack codes do not look like points of the model's encoder."""
        if points.codes is None or not points.codes.current.all():
            warn_of_misfit(self.space, points.vectors, self.store.collection)

    def fill(self, points: Points) -> Operation[BackfillReport]:
        """Write the codes that points lack, and look whether their vectors stayed what they were."""
        wanted = plan(self.space, self.metric, points)
        report = BackfillReport(len(points), 0, wanted.current, 0, len(wanted.failures), wanted.failures)
        if self.options.dry_run or not wanted.ids:
            return report + BackfillReport(written=len(wanted.ids))
        written: set[PointId] = set()
        for _ in range(_ROUNDS):
            failures: list[FailedPoint] = []
            yield from self._write(wanted, 0, len(wanted.ids), failures)
            lost = {failure.id for failure in failures}
            written |= set(wanted.ids) - lost
            report += BackfillReport(failed=len(failures), failures=tuple(failures))
            if self.options.in_place:  # nobody else writes
                return report + BackfillReport(written=len(written))
            wanted = yield from self._changed(wanted, lost)
            if not wanted.ids:
                return report + BackfillReport(written=len(written))
        return report + BackfillReport(written=len(written), unsettled=len(wanted.ids))

    def _changed(self, wanted: Plan, lost: set[PointId]) -> Operation[Plan]:
        """Plan what points need whose vectors changed under the write; forget the codes of points that are gone."""
        rows = [row for row, value in enumerate(wanted.ids) if value not in lost]
        ids: list[PointId] = []
        if rows:
            ids = yield from self.store.changed([wanted.ids[row] for row in rows], wanted.vectors[rows])
        # what was not written, because it was there, may have gone meanwhile with a point that was put anew
        parts = [wanted.ids[row] for row in rows if not wanted.lacking[row].all()]
        ids = list(dict.fromkeys([*ids, *parts]))
        if not ids:
            return plan(self.space, self.metric, Points([], None, []))
        again = yield from self.store.fetch(ids, with_vectors=True, with_payloads=False, with_codes=bool(parts))
        alive = set(again.ids)
        yield from self.store.forget_codes([value for value in ids if value not in alive])
        return plan(self.space, self.metric, again if parts else replace(again, **_written(wanted, again.ids)))

    def _write(self, wanted: Plan, start: int, end: int, failures: list[FailedPoint]) -> Operation[None]:
        """Write codes; where the database refuses, halve until the points it refuses stand alone."""
        if start == end:
            return
        rows = np.arange(start, end)
        try:
            part = wanted.codes.take(rows), wanted.scores[rows], wanted.lacking[rows]
            yield from self.store.write_codes(wanted.ids[start:end], *part)
        except (StoreError, InvalidInputError) as exc:
            if isinstance(exc, UnsupportedError) or (isinstance(exc, StoreError) and exc.transient):
                raise  # it is not about single points
            if end - start == 1:
                failures.append(FailedPoint(wanted.ids[start], str(exc)))
                if len(failures) == end == _REFUSED and len({failure.reason for failure in failures}) == 1:
                    raise
                return
            middle = (start + end) // 2
            yield from self._write(wanted, start, middle, failures)
            yield from self._write(wanted, middle, end, failures)

    def sweep(self, cursor: Any) -> Operation[tuple[int, Any]]:
        """Remove codes that points left behind."""
        return (yield from self.store.sweep(_SWEEP_POINTS, cursor))


def _written(wanted: Plan, ids: list[PointId]) -> dict[str, Any]:
    """Return what was written for the points of these ids, as they would be read back."""
    row_of = {value: row for row, value in enumerate(wanted.ids)}
    rows = np.array([row_of[value] for value in ids], np.intp)
    return {"codes": wanted.codes.take(rows), "factor_scores": wanted.scores[rows]}


class Pace:
    """Holds work back to a rate.

    Parameters
    ----------
    rate
        Points a second; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate, self._next = rate, monotonic()

    def delay(self, count: int) -> float:
        """Return the seconds to wait before ``count`` more points."""
        if self._rate is None:
            return 0.0
        now = monotonic()
        due = max(self._next, now)
        self._next = due + count / self._rate
        return due - now


def backfill_script(filler: Filler, progress: Progress) -> Script[BackfillReport]:
    """Make one pass over a collection: read a page while the batches of the last one are written.

    Parameters
    ----------
    filler
        What to fill in.
    progress
        Called with the number of points done since the last call.
    """
    [coded] = yield Round((filler.begin(),))
    total, pace, workers = BackfillReport(), Pace(filler.options.rate), filler.store.in_flight
    seen, cursor, more = 0, None, True
    waiting: list[Points] = []
    while more or waiting:
        delay = pace.delay(sum(map(len, waiting)))
        reading = [filler.read(cursor, seen, coded)] if more else []
        *parts, page = yield Round((*map(filler.fill, waiting), *reading), delay, workers)
        if not more:
            parts, page = [*parts, page], Page(Points([], None, []), None)
        for part in parts:
            total += part
            progress(part.seen)
        if not seen:
            filler.doubt(page.points)
        seen, cursor, more = seen + len(page.points), page.cursor, page.cursor is not None
        waiting = list(_batches(page.points, filler.batch))
    if filler.options.dry_run:
        return total
    return total + BackfillReport(orphans=(yield from _sweep_script(filler)))


def _sweep_script(filler: Filler) -> Script[int]:
    number, cursor = 0, None
    while True:
        [(part, cursor)] = yield Round((filler.sweep(cursor),))
        number += int(part)
        if cursor is None:
            return number


def undo_script(store: Store, space_id: str, in_place: bool, progress: Progress) -> Script[int]:
    """Remove a space's codes, factor scores, indexes and sidecar; return how many points themselves held some.

    Parameters
    ----------
    store
        The collection.
    space_id
        Whose.
    in_place
        Say that nobody else writes now, so that Milvus may rewrite rows that hold codes.
    progress
        Called with the number of points stripped since the last call.

    Raises
    ------
    UnsupportedError
        If the collection was opened with a guard, or rows may not be rewritten; nothing was removed.
    """
    number, cursor = 0, None
    while True:
        [(part, cursor)] = yield Round((store.strip_codes(space_id, BATCH_POINTS, cursor, in_place=in_place),))
        number += int(part)
        progress(part)
        if cursor is None:
            break
    yield Round((store.drop_room(space_id),))
    return number


def _batches(points: Points, size: int) -> Iterator[Points]:
    for start in range(0, len(points), size):
        rows = slice(start, start + size)
        yield Points(
            points.ids[rows],
            None if points.vectors is None else points.vectors[rows],
            points.payloads[rows],
            None if points.codes is None else points.codes.take(np.arange(len(points))[rows]),
            None if points.factor_scores is None else points.factor_scores[rows],
        )

"""The candidate windows of a search: fetched, modulated, filtered, and grown where too few are left (DESIGN.md §6).

Operations without I/O of their own: the shells run them. A score depends on its fellow candidates, so a window that
grows is modulated anew as a whole, and all scores of a response belong to its last window.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.connection import Operation
from imrnn_vdb.hints import Hints
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.passes import join, refined_queries
from imrnn_vdb.planning import RECENT, QueryPlan, WindowGrowth, first_reach, next_window, passing
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import Refined, refine, refining
from imrnn_vdb.steering import steered
from imrnn_vdb.store import Store
from imrnn_vdb.time_limit import LocalWork, OverdueError, TimeLimit
from imrnn_vdb.timing import Stopwatch

_log = logging.getLogger("imrnn_vdb")


CUT_SHORT = (
    "the factor filter runs beside the search here, and what was within reach holds fewer than were asked for: more "
    "may match"
)


@dataclass(frozen=True, slots=True)
class Window:
    """One query's candidates, refined.

    Attributes
    ----------
    candidates, refined
        What the database returned, and what the model made of it.
    size
        Candidates asked of the database.
    full
        Whether it returned as many, so that there may be more.
    keep
        Shape (k,), bool: candidates that pass the factor filter; None where all do.
    growth
        How far the window grew for that filter; None where there is none.
    """

    candidates: Candidates
    refined: Refined
    size: int
    full: bool
    keep: npt.NDArray[np.bool_] | None = None
    growth: WindowGrowth | None = None


@dataclass(frozen=True, slots=True)
class WindowSearch:
    """Fetches, modulates and filters the windows of one request.

    Attributes
    ----------
    model, store, metric
        Of the collection.
    request
        What is asked.
    plan
        What of its filter runs where.
    active
        Whether the modulator runs.
    watch
        Takes the laps.
    limit
        Of the time that one modulation may take; None for none.
    reaches
        How large windows became of late, by kind of search: what a search may fetch at once.
    whole
        Whether ids and payloads of all candidates are read, and not only those of the rows that are returned.
    """

    model: IMRNNModel
    store: Store
    metric: Metric
    request: SearchRequest
    plan: QueryPlan
    active: bool
    watch: Stopwatch
    limit: TimeLimit | None = None
    reaches: Hints[Hashable, tuple[int, ...]] = field(default_factory=Hints)
    whole: bool = True

    def run(self, query_vectors: FloatArray) -> Operation[list[Window]]:
        """Return one window a query: one round trip for all, and one more for each size that some must grow to.

        Where windows mostly grew for such a filter of late, as many candidates are fetched at once as they held, and
        the windows are cut from these: the same windows, in fewer round trips.
        """
        size, reach = self.plan.window, self._reach()
        held = yield from self._coarse(query_vectors, reach)
        windows = yield from self._modulated(query_vectors, [found.first(size) for found in held], size)
        if self.plan.here is None:
            return [_with_bound(self._current(window)) for window in windows]
        windows = [self._filtered(window, ()) for window in windows]
        while short := self._to_grow(windows):
            size = min(short.values())
            rows = [i for i, wanted in short.items() if wanted == size]
            queries = query_vectors[rows]
            batch = [held[i].first(size) for i in rows] if size <= reach else (yield from self._coarse(queries, size))
            larger = yield from self._modulated(queries, batch, size)
            for i, window in zip(rows, larger, strict=True):
                windows[i] = self._filtered(window, _sizes(windows[i]))
        self._note(max(window.size for window in windows))
        return windows

    @property
    def _kind(self) -> Hashable:
        """What searches have in common whose windows grow alike."""
        return self.plan.here, self.plan.database, self.plan.payload_filter, self.plan.window

    def _reach(self) -> int:
        """Return how many candidates to fetch at first."""
        recent = self.reaches.get(self._kind) if self.plan.here is not None else None
        return min(first_reach(self.plan.window, recent or ()), self.plan.largest_window)

    def _note(self, size: int) -> None:
        self.reaches.note(self._kind, (*(self.reaches.get(self._kind) or ()), size)[-RECENT:])

    def _to_grow(self, windows: list[Window]) -> dict[int, int]:
        """Return the next size of each window that should grow, by its place."""
        wanted, largest = self.request.offset + self.request.limit, self.plan.largest_window
        return {
            i: next_window(window.size, window.growth.kept, wanted, largest)
            for i, window in enumerate(windows)
            if window.growth and not window.growth.reason
        }

    def _modulated(self, query_vectors: FloatArray, batch: list[Candidates], size: int) -> Operation[list[Window]]:
        """Modulate windows of one size, with a second pass where the request wants one."""
        full = [len(candidates) >= size for candidates in batch]
        batch = [candidates.finite() for candidates in batch]
        self.watch.lap("database")
        refined = yield from self._refine(query_vectors, batch)
        self.watch.lap("modulate")
        if self.request.passes == 2 and all(rows.failure is None for rows in refined):
            batch = yield from self._second_pass(query_vectors, batch, refined, size)
            self.watch.lap("second pass")
            refined = yield from self._refine(query_vectors, batch)
        self.watch.lap("modulate")
        if self.request.steer:
            refined = [steered(rows, self.model.space, self.request.steer) for rows in refined]
        return [
            Window(candidates, rows, size, more) for candidates, rows, more in zip(batch, refined, full, strict=True)
        ]

    def _refine(self, query_vectors: FloatArray, batch: list[Candidates]) -> Operation[list[Refined]]:
        return (yield from refine_in_time(self.model, self.metric, query_vectors, batch, self.active, self.limit))

    def _coarse(self, query_vectors: FloatArray, size: int) -> Operation[list[Candidates]]:
        search = self.store.search if self.whole else self.store.search_partly
        return search(query_vectors, size, self.request.payload_filter, self.plan.database)

    def _second_pass(
        self, query_vectors: FloatArray, batch: list[Candidates], refined: list[Refined], size: int
    ) -> Operation[list[Candidates]]:
        """Search again with the refined queries, and join what they find to the first candidates."""
        space = self.model.space
        moved = np.stack([rows.query for rows in refined])
        queries = space.project(query_vectors)
        again = yield from self._coarse(refined_queries(space, query_vectors, queries, moved), size)
        return [
            join(self.metric, first, second.finite(), queries.take(np.array([i])), moved[i])
            for i, (first, second) in enumerate(zip(batch, again, strict=True))
        ]

    def _current(self, window: Window) -> Window:
        """Leave out what the database's factor filter let through by the scores of a code that is none any longer."""
        if self.plan.database is None:
            return window
        keep = window.refined.usable
        return window if keep.all() else replace(window, keep=keep)

    def _filtered(self, window: Window, before: tuple[int, ...]) -> Window:
        """Evaluate the filter here, and note how far the window has grown, and why it grows no further."""
        if self.plan.here is None:
            return window
        keep = passing(self.plan.here, self.model.space, window.candidates, window.refined)
        kept = int(keep.sum())
        growth = WindowGrowth((*before, window.size), kept, self._stop(window, kept))
        return replace(window, keep=keep, growth=growth)

    def _stop(self, window: Window, kept: int) -> str:
        """Say why a window grows no further; "" where it should."""
        if kept >= self.request.offset + self.request.limit:
            return "enough candidates pass the filter"
        if window.candidates.cut_short:
            return CUT_SHORT
        if not window.full:
            return "the database returned no more candidates"
        if window.size >= self.plan.largest_window:
            largest = self.plan.largest_window
            return f"the window reached its largest size, {largest}: pass a larger coarse_k or max_coarse_k"
        return ""


def refine_in_time(
    model: IMRNNModel,
    metric: Metric,
    query_vectors: FloatArray,
    batch: list[Candidates],
    active: bool,
    limit: TimeLimit | None,
) -> Operation[list[Refined]]:
    """Modulate and score; past a time limit, return the database's order with the reason (DESIGN.md §6)."""
    if limit is None or not active:
        return (yield from refining(model, metric, model.space.project(query_vectors), batch, active))
    try:
        refined: list[Refined] = yield LocalWork(partial(refine, model, metric, query_vectors, batch, True), limit)
    except OverdueError as exc:
        _log.warning("modulation was not waited for, the database's order is returned: %s", exc)
        failure = f"modulation was not waited for ({exc}): the database's order is kept"
        kept = refine(model, metric, query_vectors, batch, False)
        return [replace(rows, failure=failure) for rows in kept]
    return refined


def _sizes(window: Window) -> tuple[int, ...]:
    return window.growth.windows if window.growth else ()


def _with_bound(window: Window) -> Window:
    """Say that a search for the database's factor filter ended at its own bound, where it did."""
    if not window.candidates.cut_short:
        return window
    return replace(window, growth=WindowGrowth((window.size,), len(window.candidates), CUT_SHORT))

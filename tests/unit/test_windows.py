"""Windows of candidates whose search for a factor filter ended at its own bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factory import DIM, FACTORS
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import Codes
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import StoreError
from imrnn_vdb.filters import factor, match
from imrnn_vdb.hints import Hints
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import QueryPlan
from imrnn_vdb.points import Candidates
from imrnn_vdb.timing import Stopwatch
from imrnn_vdb.windows import CUT_SHORT, WindowSearch


class FoundThree:
    """Returns three candidates, however many are asked for."""

    def __init__(self, cut_short: bool) -> None:
        self.cut_short = cut_short

    def search(self, query_vectors: np.ndarray, *_: Any) -> Any:
        yield from ()
        directions = np.eye(3, FACTORS, dtype=np.float32)
        codes = Codes(directions, np.ones(3, np.float32), np.zeros(3, np.uint8))
        return [Candidates([1, 2, 3], np.zeros(3), codes, [{}] * 3, self.cut_short) for _ in query_vectors]


@pytest.mark.parametrize("here", [None, match("entity") >= 2.0], ids=["filter in the database", "filter here"])
@pytest.mark.parametrize("cut_short", [False, True])
def test_a_search_that_was_cut_short_is_told(model: IMRNNModel, here: Any, cut_short: bool) -> None:
    plan = QueryPlan(factor("entity") > 0.5, here, False, 10, 80)
    store: Any = FoundThree(cut_short)
    search = WindowSearch(model, store, Metric.DOT, SearchRequest(), plan, False, Stopwatch())
    [window] = Connection(None, lambda exc: StoreError(str(exc))).run(search.run(np.ones((1, DIM), np.float32)))
    if cut_short:
        assert window.growth is not None
        assert (window.growth.windows, window.growth.reason) == ((10,), CUT_SHORT)
    elif here is None:
        assert window.growth is None
    else:
        assert window.growth is not None
        assert window.growth.reason == "the database returned no more candidates"


class FoundInOrder:
    """Holds a hundred points in one order, and remembers how many were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def search(self, query_vectors: np.ndarray, size: int, *_: Any) -> Any:
        yield from ()
        self.asked.append(size)
        codes = Codes(
            np.eye(FACTORS, dtype=np.float32)[np.arange(size) % 2], np.ones(size, np.float32), np.zeros(size, np.uint8)
        )
        scores = np.linspace(1, 0, 100)[:size]
        return [Candidates(list(range(size)), scores, codes, [{"n": i} for i in range(size)]) for _ in query_vectors]


def test_what_is_fetched_ahead_gives_the_same_windows(model: IMRNNModel) -> None:
    reaches: Hints[Any, tuple[int, ...]] = Hints()
    request = SearchRequest(limit=7)
    query = np.ones((2, DIM), np.float32)
    query[1] *= -1
    found = []
    for _ in range(3):
        store: Any = FoundInOrder()
        plan = QueryPlan(None, match("entity") >= 0.01, False, 10, 80)
        search = WindowSearch(model, store, Metric.DOT, request, plan, True, Stopwatch(), reaches=reaches)
        windows = Connection(None, lambda exc: StoreError(str(exc))).run(search.run(query))
        found.append(
            (store.asked, [(w.growth, w.candidates.ids, w.candidates.payloads[-1], w.keep.tolist()) for w in windows])
        )
    assert found[0][0][0] == 10
    assert len(found[0][0]) > 1
    assert found[1][0] == found[2][0] == [max(found[0][0])]
    assert found[0][1] == found[1][1] == found[2][1]


def test_hints_are_bounded_and_keep_what_is_used() -> None:
    hints: Hints[str, int] = Hints(2)
    for number, key in enumerate("ab"):
        hints.note(key, number)
    assert hints.get("a") == 0
    hints.note("c", 2)
    assert (hints.get("a"), hints.get("b"), hints.get("c"), len(hints)) == (0, None, 2, 2)

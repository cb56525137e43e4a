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

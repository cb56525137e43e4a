"""Reading what the returned rows lack, and what happens to points that are gone by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from imrnn_vdb.codec import Codes
from imrnn_vdb.completing import complete_pages
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import StoreError
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import Refined
from imrnn_vdb.results import page_of
from imrnn_vdb.scoring import Scored
from imrnn_vdb.windows import Window

K = 6


class Vanishing:
    """Knows which rows are gone, and remembers what it was asked for."""

    def __init__(self, gone: Sequence[int] = ()) -> None:
        self.gone, self.asked = set(gone), list[list[list[int]]]()

    def complete(self, batch: Sequence[Candidates], rows: Sequence[np.ndarray]) -> Any:
        assert all(candidates.partial for candidates in batch)
        self.asked.append([of.tolist() for of in rows])
        yield from ()
        return [
            (replace(candidates, partial=False), np.array([row for row in of.tolist() if row in self.gone], np.intp))
            for candidates, of in zip(batch, rows, strict=True)
        ]


def window(partial: bool = True, keep: Any = None) -> Window:
    """Candidates of which each later one scores better."""
    codes = Codes(np.zeros((K, 2), np.float32), np.zeros(K, np.float32), np.ones(K, np.uint8))
    candidates = Candidates(list(range(K)), np.arange(K, 0.0, -1.0), codes, [{}] * K, partial=partial)
    scores = Scored(np.arange(K, dtype=np.float64), np.zeros(K), np.zeros((K, 2)))
    query = np.zeros(2, np.float32)
    refined = Refined(scores, query, query, codes.status, np.ones(K, bool), None)
    return Window(candidates, refined, K, False, keep)


def run(store: Vanishing, windows: Sequence[Window], **request: Any) -> list[Window]:
    asked = SearchRequest(**request)
    operation = complete_pages(store, windows, asked)  # type: ignore[arg-type]
    done, rows = Connection(None, lambda exc: StoreError(str(exc))).run(operation)
    for one, page in zip(done, rows, strict=True):
        expected = page_of(one.candidates.base_scores, one.refined.scored.scores, asked, one.keep)
        assert page.tolist() == expected.tolist()
    return done


def test_all_pages_are_read_by_one_call() -> None:
    store = Vanishing()
    done = run(store, [window(), window(partial=False), window()], limit=2, offset=1)
    assert store.asked == [[[4, 3], [4, 3]]]
    assert not any(one.candidates.partial for one in done)
    assert all(one.keep is None for one in done)


def test_nothing_is_asked_where_all_was_read() -> None:
    store, whole = Vanishing([5]), window(partial=False)
    assert run(store, [whole], limit=2) == [whole]
    assert store.asked == []


def test_the_next_takes_the_place_of_a_point_that_is_gone() -> None:
    store = Vanishing([5, 3])
    [done, other] = run(store, [window(), window(keep=np.array([1, 1, 0, 0, 1, 0], bool))], limit=2)
    assert store.asked == [[[5, 4], [4, 1]], [[4, 3]], [[4, 2]]]
    assert done.keep is not None
    assert done.keep.tolist() == [True, True, True, False, True, False]
    assert other.keep is not None
    assert other.keep.tolist() == [True, True, False, False, True, False]


def test_a_page_may_stay_empty() -> None:
    store = Vanishing(range(K))
    [done] = run(store, [window()], limit=K)
    assert done.keep is not None
    assert not done.keep.any()
    assert store.asked == [[[5, 4, 3, 2, 1, 0]], [[]]]

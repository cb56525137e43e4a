"""Shapes that batches are padded to, and what is kept for them."""

from __future__ import annotations

import pytest

from imrnn_vdb.shapes import CANDIDATES, QUERIES, Recent, bucket


@pytest.mark.parametrize("number", range(1, 65))
@pytest.mark.parametrize("k", [1, 16, 17, 100, 128, 2048])
def test_the_smallest_shape_that_holds_a_batch(number, k):
    queries, candidates = bucket(number, k)
    assert number <= queries < 2 * number
    assert k <= candidates < max(2 * k, CANDIDATES[0] + 1)
    assert queries in QUERIES
    assert candidates in CANDIDATES


@pytest.mark.parametrize("shape", [(65, 10), (1, 2049), (1, 0), (0, 10)])
def test_what_is_too_large_or_empty_has_none(shape):
    assert bucket(*shape) is None


def test_the_one_unused_for_longest_goes():
    made: list[int] = []
    recent: Recent[int, int] = Recent(2)

    def make(key: int) -> int:
        made.append(key)
        return 10 * key

    assert [recent.get(key, make) for key in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]
    assert len(recent) == 2


def test_what_could_not_be_made_is_not_kept():
    recent: Recent[int, float] = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get(0, lambda key: 1 / key)
    assert len(recent) == 0

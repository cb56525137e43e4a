"""Shapes that batches are padded to."""

from __future__ import annotations

import pytest

from imrnn_vdb.shapes import CANDIDATES, QUERIES, bucket


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

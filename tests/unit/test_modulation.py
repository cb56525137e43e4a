"""Several modulations side by side: what is padded, and what each gets back."""

from __future__ import annotations

import numpy as np
import pytest

from factory import make_modulator
from imrnn_vdb.modulation import Inputs, side_by_side, taken_apart
from imrnn_vdb.served import FusedModulator

M = 8


def request(number: int, k: int, seed: int = 0) -> Inputs:
    rng = np.random.default_rng(seed)
    query, codes = (rng.normal(size=size).astype(np.float32) * 0.2 for size in ((number, M), (number, k, M)))
    return Inputs(query, codes, rng.random((number, k), np.float32), rng.random((number, k)) > 0.2)


@pytest.mark.parametrize("shapes", [[(1, 20)], [(1, 5), (3, 20), (2, 1)], [(1, 0), (1, 7)], [(2, 0)]], ids=str)
def test_together_each_gets_what_it_gets_alone(shapes):
    parts = [request(number, k, seed) for seed, (number, k) in enumerate(shapes)]
    modulate = FusedModulator(make_modulator(M))
    together = taken_apart(parts, modulate(*side_by_side(parts)))
    for part, found in zip(parts, together, strict=True):
        for array, alone in zip(found, modulate(*part), strict=True):
            assert array.shape == alone.shape
            np.testing.assert_allclose(array, alone, atol=1e-6)


def test_one_part_is_taken_as_it_is():
    part = request(2, 5)
    assert side_by_side([part]) is part


def test_what_an_earlier_batch_left_becomes_padding():
    room = Inputs.zeros(4, 10, M)
    room.put([request(4, 10, seed=1)])
    part = request(1, 3, seed=2)
    room.put([part])
    assert room.shape == (4, 10)
    assert not room.mask[0, 3:].any()
    assert not room.mask[1:].any()
    for left, given in zip(room, part, strict=True):
        assert not left[1:].any()
        np.testing.assert_array_equal(left[0] if left.ndim == 2 and left.shape[1] == M else left[0, :3], given[0])

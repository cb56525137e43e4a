"""Half precision: how agreement of ranks is measured, and what is made of it."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from factory import make_modulator
from imrnn_vdb.metric import Metric
from imrnn_vdb.precision import agreement, final_scores, half_keeps_ranks, sample
from imrnn_vdb.scoring import score_candidates
from imrnn_vdb.served import FusedModulator

M = 16


def naive(exact, other) -> float:
    agreeing = total = 0
    for first, second in zip(exact, other, strict=True):
        for i, j in combinations(range(len(first)), 2):
            agreeing += np.sign(first[i] - first[j]) == np.sign(second[i] - second[j])
            total += 1
    return agreeing / total


def test_agreement_is_the_share_of_pairs_in_the_same_order(rng):
    exact = rng.normal(size=(4, 12))
    other = (exact + rng.normal(scale=0.3, size=exact.shape)).round(1)
    assert agreement(exact, other) == pytest.approx(naive(exact, other))
    assert agreement(exact, exact) == 1.0
    assert agreement(exact, -exact) == 0.0


def test_a_sample_is_of_vectors_that_exist(rng):
    query, candidates, cosines, mask = sample(make_modulator(M))
    assert mask.all()
    room = np.sqrt((1 - (query**2).sum(-1))[:, None] * (1 - (candidates**2).sum(-1)))
    inner = np.einsum("bm,bkm->bk", query, candidates)
    assert (np.abs(cosines - inner) <= room + 1e-6).all(), "Cauchy-Schwarz outside the factor space"
    assert (cosines[:, 0] > cosines[:, -1]).mean() > 0.9


def test_a_sample_asks_what_the_model_is_familiar_with():
    modulator = make_modulator(M, num_familiar=5)
    known = torch.nn.functional.normalize(torch.randn(5, M, generator=torch.Generator().manual_seed(1)), dim=-1)
    modulator.familiar_queries.copy_(known)
    modulator.familiar_similarities.copy_(torch.tensor([0.6, 0.9]))
    modulator.familiar_norms.copy_(torch.tensor([0.8, 0.9]))
    inputs = sample(modulator)
    assert len(inputs.query) == 5
    trust = modulator.familiarity(torch.from_numpy(inputs.query))
    torch.testing.assert_close(trust, torch.ones(5, 1))


def test_scores_are_those_that_a_search_ranks_by():
    modulator = make_modulator(M, shrinkage=0.4)
    inputs = sample(modulator)
    moved = FusedModulator(modulator)(*inputs)
    found = final_scores(modulator, inputs, moved)
    for i in range(3):
        codes = inputs.query[i], inputs.candidates[i], moved[0][i], moved[1][i]
        ones = np.float64(1), np.ones(inputs.shape[1])
        scored = score_candidates(Metric.COSINE, inputs.cosines[i].astype(np.float64), codes, ones, 0.4)
        np.testing.assert_allclose(found[i], scored.scores, atol=1e-6)


@pytest.mark.parametrize(("noise", "kept"), [(0.0, True), (1e-7, True), (1e-2, False), (np.nan, False)])
def test_half_precision_is_used_where_ranks_agree(noise, kept, caplog):
    modulator, rng = make_modulator(M), np.random.default_rng(3)
    fused = FusedModulator(modulator)

    def noisy(inputs):
        query, candidates = fused(*inputs)
        return query, candidates + noise * rng.normal(size=candidates.shape).astype(np.float32)

    with caplog.at_level("INFO", "imrnn_vdb"):
        assert half_keeps_ranks(modulator, lambda inputs: fused(*inputs), noisy) is kept
    assert ("is used" if kept else "is kept") in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_agreement_of_half_precision_as_a_cpu_computes_it(dtype):
    """float16 keeps eleven bits of a number and bfloat16 eight: they are told apart."""
    modulator = make_modulator(M)

    def refine(inputs, half):
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=half):
            query, candidates = modulator(*map(torch.from_numpy, inputs))
        return query.float().numpy(), candidates.float().numpy()

    inputs = sample(modulator)
    exact, other = (final_scores(modulator, inputs, refine(inputs, half)) for half in (False, True))
    share = agreement(exact, other)
    assert 0.9 < share < 1
    assert half_keeps_ranks(modulator, partial(refine, half=False), partial(refine, half=True)) is (share >= 0.999)

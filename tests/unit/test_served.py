"""The modulator as it is served against the module that defines it."""

from __future__ import annotations

import pytest
import torch

from factory import make_modulator
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.served import FusedModulator

M = 16


def batch(b: int, k: int, seed: int = 1, m: int = M):
    generator = torch.Generator().manual_seed(seed)
    query = torch.nn.functional.normalize(torch.randn(b, m, generator=generator), dim=-1) * 0.7
    candidates = torch.nn.functional.normalize(torch.randn(b, k, m, generator=generator), dim=-1) * 0.7
    mask = torch.rand(b, k, generator=generator) > 0.2
    return query, candidates, torch.rand(b, k, generator=generator), mask


def serve(modulator, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    query, candidates = FusedModulator(modulator)(*(part.numpy() for part in inputs))
    return torch.from_numpy(query), torch.from_numpy(candidates)


def agrees(modulator, inputs) -> None:
    with torch.inference_mode():
        expected = modulator(*inputs)
    for found, wanted in zip(serve(modulator, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_steps", range(5))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"two_cells": False},
        {"feedback": False},
        {"linear": False},
        {"prior": FeedbackPrior(strength=0.4)},
        {"num_familiar": 3},
        {"adapters": (3, 2)},
        {"hidden": 5, "pool_size": 3},
    ],
    ids=str,
)
def test_it_computes_what_the_module_defines(settings, num_steps):
    for seed in range(3):
        agrees(make_modulator(M, seed=seed, num_steps=num_steps, **settings), batch(3, 20, seed))


@pytest.mark.parametrize("shape", [(1, 1), (1, 0), (2, 1500), (40, 30), (1, 100)])
def test_any_number_of_queries_and_candidates(shape):
    agrees(make_modulator(M), batch(*shape))


def test_a_query_without_usable_candidates():
    query, candidates, cosines, mask = batch(2, 9)
    mask[1] = False
    agrees(make_modulator(M), (query, candidates, cosines, mask))


@pytest.mark.parametrize("settings", [{}, {"linear": False}, {"num_steps": 0}])
def test_an_untrained_model_changes_nothing_to_the_last_bit(settings):
    modulator = make_modulator(M, trained=False, **settings)
    query, candidates, *_ = inputs = batch(2, 30)
    moved = serve(modulator, inputs)
    assert torch.equal(moved[0], query)
    assert torch.equal(moved[1], candidates)


def test_its_arguments_stay_as_they_were():
    modulator, inputs = make_modulator(M), batch(2, 30)
    before = [part.clone() for part in inputs]
    serve(modulator, inputs)
    assert all(torch.equal(part, kept) for part, kept in zip(inputs, before, strict=True))


def test_weights_changed_later_do_not_reach_it():
    modulator, inputs = make_modulator(M), batch(1, 10)
    arrays, fused = [part.numpy() for part in inputs], FusedModulator(modulator)
    before = fused(*arrays)
    with torch.no_grad():
        modulator.pool.zero_()
        modulator.document_cell.out.weight.zero_()
    assert (fused(*arrays)[1] == before[1]).all()


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("strength", [0.0, 0.7])
@pytest.mark.parametrize("trusted", [0.0, 0.4, 1.0])
def test_what_is_not_familiar_is_carried_out_in_part(trusted, strength, trained):
    prior = FeedbackPrior(strength, low=-0.5, high=0.5)
    modulator, inputs = make_modulator(M, trained=trained, prior=prior), batch(3, 20)
    lengths = inputs[0].norm(dim=-1)
    modulator.familiar_norms.copy_(torch.tensor([lengths[1] - trusted, lengths[1] + 1 - trusted]))
    agrees(modulator, inputs)
    still = trusted == 0 or not (trained or strength)
    assert torch.equal(serve(modulator, inputs)[0], inputs[0]) == still


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (2, 5)])
def test_a_prior_with_masked_heads_and_few_candidates(shape):
    modulator = make_modulator(M, prior=FeedbackPrior(strength=0.7, low=-0.5, high=0.5))
    inputs = batch(*shape)
    inputs[3][0, 1:] = False
    agrees(modulator, inputs)

from __future__ import annotations

import numpy as np
import pytest
import torch

from factory import make_modulator
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.scoring import cosine_of_refined

M = 8


def batch(b: int = 3, k: int = 20, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(b, M, generator=generator) * 0.2
    candidates = torch.randn(b, k, M, generator=generator) * 0.2
    cosines = torch.rand(b, k, generator=generator)
    return query, candidates, cosines, torch.ones(b, k, dtype=torch.bool)


@pytest.mark.parametrize(
    "settings", [{}, {"two_cells": False}, {"feedback": False}, {"linear": False}, {"num_steps": 0}]
)
def test_an_untrained_model_changes_nothing_to_the_last_bit(settings):
    query, candidates, cosines, mask = batch()
    with torch.no_grad():
        out = make_modulator(trained=False, **settings)(query, candidates, cosines, mask)
    assert torch.equal(out.query, query)
    assert torch.equal(out.candidates, candidates)


def test_a_trained_model_moves_both_sides():
    query, candidates, cosines, mask = batch()
    with torch.no_grad():
        out = make_modulator()(query, candidates, cosines, mask)
    assert (out.query - query).abs().max() > 1e-3
    assert (out.candidates - candidates).abs().max() > 1e-3


def test_the_order_of_candidates_changes_nothing():
    query, candidates, cosines, mask = batch()
    order = torch.randperm(20)
    modulator = make_modulator()
    with torch.no_grad():
        out = modulator(query, candidates, cosines, mask)
        shuffled = modulator(query, candidates[:, order], cosines[:, order], mask)
    torch.testing.assert_close(shuffled.candidates, out.candidates[:, order], atol=1e-6, rtol=0)
    torch.testing.assert_close(shuffled.query, out.query, atol=1e-6, rtol=0)


def test_a_batch_of_ragged_sets_equals_each_alone():
    query, candidates, cosines, mask = batch()
    sizes = [20, 5, 1]
    for row, size in enumerate(sizes):
        mask[row, size:] = False
        candidates[row, size:], cosines[row, size:] = 99.0, 99.0  # padding must not be seen
    modulator = make_modulator()
    with torch.no_grad():
        together = modulator(query, candidates, cosines, mask)
        for row, size in enumerate(sizes):
            alone = modulator(
                *(
                    part[row : row + 1, :size] if part.ndim > 1 and part is not query else part[row : row + 1]
                    for part in (query, candidates, cosines, mask)
                )
            )
            torch.testing.assert_close(together.query[row], alone.query[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(together.candidates[row, :size], alone.candidates[0], atol=1e-5, rtol=0)


def test_a_query_without_usable_candidates_is_finite():
    query, candidates, cosines, mask = batch(b=1)
    mask[:] = False
    with torch.no_grad():
        out = make_modulator()(query, candidates, cosines, mask)
    assert torch.isfinite(out.query).all()


def test_one_cell_means_shared_weights():
    shared, apart = make_modulator(two_cells=False), make_modulator(two_cells=True)
    assert shared.query_cell is shared.document_cell
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in apart.parameters())


def test_more_steps_move_further_on():
    query, candidates, cosines, mask = batch()
    outs = []
    for steps in (1, 2, 3):
        modulator = Modulator(ModulatorConfig(M, num_steps=steps))
        modulator.load_state_dict(make_modulator().state_dict())
        with torch.no_grad():
            outs.append(modulator.eval()(query, candidates, cosines, mask).query)
    assert not torch.allclose(outs[0], outs[1])
    assert not torch.allclose(outs[1], outs[2])


def test_gradients_reach_every_parameter_once_the_output_is_not_zero():
    query, candidates, cosines, mask = batch()
    modulator = make_modulator()
    out = modulator(query, candidates, cosines, mask)
    scores = cosine_of_refined(cosines, query.unsqueeze(1), candidates, out.query.unsqueeze(1), out.candidates)
    scores.square().sum().backward()
    silent = [name for name, p in modulator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_torch_and_numpy_score_alike():
    query, candidates, cosines, mask = batch()
    with torch.no_grad():
        out = make_modulator()(query, candidates, cosines, mask)
    arrays = (cosines, query.unsqueeze(1), candidates, out.query.unsqueeze(1), out.candidates)
    by_torch = cosine_of_refined(*arrays).numpy()
    by_numpy = cosine_of_refined(*(array.double().numpy() for array in arrays))
    np.testing.assert_allclose(by_torch, by_numpy, atol=1e-6)


@pytest.mark.parametrize("change", [{"hidden": 0}, {"num_steps": -1}, {"dropout": 1.0}, {"shrinkage": 1.5}])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(InvalidInputError):
        ModulatorConfig(M, **change)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_the_cpu():
    query, candidates, cosines, mask = batch(b=4, k=50)
    modulator = make_modulator()
    with torch.no_grad():
        here = modulator(query, candidates, cosines, mask)
        there = modulator.to("cuda")(*(part.to("cuda") for part in (query, candidates, cosines, mask)))
    torch.testing.assert_close(there.candidates.cpu(), here.candidates, atol=1e-4, rtol=0)

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from factory import make_model, make_modulator, make_space
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import CheckpointError, InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.scoring import score_candidates
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.api import train
from imrnn_vdb.training.settings import TrainingSettings
from retrieval_data import DIM, synthetic

M = 8
PRIOR = FeedbackPrior(strength=1.0)


def batch(b: int = 4, k: int = 30, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(b, M, generator=generator) * 0.2
    candidates = torch.randn(b, k, M, generator=generator) * 0.2
    cosines = torch.rand(b, k, generator=generator) * 0.5
    cosines[:, 0] = 0.9  # a clear first candidate
    return query, candidates, cosines, torch.ones(b, k, dtype=torch.bool)


def with_prior(modulator: Modulator, prior: FeedbackPrior = PRIOR) -> Modulator:
    copy = Modulator(replace(modulator.config, prior=prior)).eval()
    copy.load_state_dict(modulator.state_dict())
    return copy


@pytest.mark.parametrize("trained", [True, False])
def test_without_strength_nothing_changes_to_the_last_bit(trained):
    modulator = make_modulator(trained=trained)
    off = with_prior(modulator, FeedbackPrior(strength=0.0, sharpness=7.0))
    with torch.no_grad():
        expected, found = modulator(*batch()), off(*batch())
    assert torch.equal(found.query, expected.query)
    assert torch.equal(found.candidates, expected.candidates)


def test_the_prior_is_off_by_default():
    assert ModulatorConfig(M).prior.strength == 0


def test_the_shift_equals_its_formula_written_as_a_loop():
    query, candidates, cosines, mask = batch()
    mask[0, 20:] = False
    prior = FeedbackPrior(strength=0.7, sharpness=12.0, low=0.1, high=0.9)
    with torch.no_grad():
        out = with_prior(make_modulator(trained=False), prior)(query, candidates, cosines, mask)
    for i in range(len(query)):
        z, s = candidates[i][mask[i]].double().numpy(), cosines[i][mask[i]].double().numpy()
        weights = np.exp(12.0 * s) / np.exp(12.0 * s).sum()
        head = np.sort(s)[::-1][:10]
        trust = np.clip((head[0] - head[1:].mean() - 0.1) / 0.8, 0, 1)
        expected = query[i].numpy() + 0.7 * trust * (weights @ z - z.mean(0))
        assert 0 < trust < 1
        np.testing.assert_allclose(out.query[i].numpy(), expected, atol=1e-6)
    assert torch.equal(out.candidates, candidates)


def test_the_query_stays_where_it_is_when_the_head_of_the_list_is_flat():
    query, candidates, cosines, mask = batch()
    cosines[0] = torch.linspace(0.50, 0.45, 30)
    with torch.no_grad():
        out = with_prior(make_modulator(trained=False))(query, candidates, cosines, mask)
    assert torch.equal(out.query[0], query[0])
    assert (out.query[1] - query[1]).abs().max() > 1e-3


@pytest.mark.parametrize("usable", [0, 1])
def test_fewer_than_two_candidates_move_nothing(usable):
    query, candidates, cosines, mask = batch()
    mask[:, usable:] = False
    modulator = with_prior(make_modulator(trained=False))
    with torch.no_grad():
        padded = modulator(query, candidates, cosines, mask)
        alone = modulator(query, candidates[:, :usable], cosines[:, :usable], mask[:, :usable])
    assert torch.equal(padded.query, query)
    assert torch.equal(alone.query, query)


def test_ragged_sets_and_any_order_give_what_each_gives_alone():
    query, candidates, cosines, mask = batch()
    sizes = [30, 12, 5, 2]
    for row, size in enumerate(sizes):
        mask[row, size:] = False
        candidates[row, size:], cosines[row, size:] = 99.0, 99.0  # padding must not be seen
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    modulator = with_prior(make_modulator(trained=False))
    with torch.no_grad():
        together = modulator(query, candidates, cosines, mask)
        shuffled = modulator(query, candidates[:, order], cosines[:, order], mask[:, order])
        for row, size in enumerate(sizes):
            alone = modulator(
                query[row : row + 1], candidates[row : row + 1, :size], cosines[row : row + 1, :size],
                mask[row : row + 1, :size],
            )  # fmt: skip
            torch.testing.assert_close(together.query[row], alone.query[0], atol=1e-6, rtol=0)
            assert (alone.query[0] - query[row]).abs().max() > 1e-3
    torch.testing.assert_close(shuffled.query, together.query, atol=1e-6, rtol=0)


def test_scores_from_codes_equal_those_of_the_vectors():
    space = make_space(factors=M)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(21, 32))
    vectors[1] = vectors[0] + 0.5 * vectors[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    q, documents = vectors[0], vectors[1:]
    codes, base = vectors @ space.basis, documents @ q
    tensors = (torch.from_numpy(x).float()[None] for x in (codes[0], codes[1:], base))
    with torch.no_grad():
        z_q = with_prior(make_modulator(trained=False))(*tensors, torch.ones(1, 20, dtype=torch.bool)).query[0]
    moved = q + space.basis @ (z_q.double().numpy() - codes[0])
    exact = documents @ moved / np.linalg.norm(moved)
    scored = score_candidates(Metric.COSINE, base, (codes[0], codes[1:], z_q.numpy(), codes[1:]), (1.0, np.ones(20)))
    assert np.abs(exact - base).max() > 1e-2
    np.testing.assert_allclose(scored.scores, exact, atol=1e-6)


def test_a_query_that_is_not_familiar_stays_where_it_was_whatever_the_prior():
    query, candidates, cosines, mask = batch()
    modulator = with_prior(make_modulator())
    with torch.no_grad():
        moved = modulator(query, candidates, cosines, mask)
        modulator.familiar_norms.copy_(torch.tensor([8.0, 9.0]))
        out = modulator(query, candidates, cosines, mask)
    assert not torch.equal(moved.query, query)
    assert torch.equal(out.query, query)
    assert torch.equal(out.candidates, candidates)


def test_a_prior_does_not_count_as_training():
    assert not with_prior(make_modulator(trained=False)).trained
    assert make_modulator().trained
    assert make_modulator(linear=False).trained


def test_gradients_of_what_is_learned_flow_through_a_model_with_a_prior():
    modulator = with_prior(make_modulator()).train()
    modulator(*batch()).query.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in modulator.parameters() if p.grad is not None)
    assert modulator.query_cell.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_training_goes_on_from_a_model_with_or_without_a_prior(strength):
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, 12)))[0].astype(np.float32)
    prior = FeedbackPrior(strength, sharpness=5.0, low=0.2, high=2.0)
    modulator = Modulator(ModulatorConfig(12, hidden=4, prior=prior)).eval()
    start = IMRNNModel(FactorSpace(basis, (), np.zeros((0, 2), np.float32)), modulator, active=strength > 0)
    settings = TrainingSettings(
        coarse_k=40, num_factors=12, adapter=False, epochs=6, folds=2, learning_rate=1e-2, hidden=4
    )
    model = train(synthetic(), settings=settings, continue_from=start)
    assert model.active
    assert model.modulator.trained
    assert model.modulator.config.prior == prior.gated()
    assert model.space.space_id == start.space.space_id
    assert float(model.modulator.familiar_norms[0]) > 0  # the limits are those of the labelled queries alone


def test_a_checkpoint_keeps_its_prior(tmp_path):
    model = make_model(trained=False, prior=FeedbackPrior(0.3, 20.0, 0.01, 0.2))
    model.save_pretrained(tmp_path)
    loaded = IMRNNModel.from_pretrained(tmp_path)
    assert loaded.modulator.config.prior == FeedbackPrior(0.3, 20.0, 0.01, 0.2)
    assert loaded.model_id == model.model_id != make_model(trained=False).model_id


@pytest.mark.parametrize("prior", [{"strength": 1.0}, None, {**dict.fromkeys(("strength", "low", "high"), 0.1)}])
def test_an_incomplete_prior_is_refused(tmp_path, prior):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["modulator"]["prior"] = prior
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError):
        IMRNNModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"strength": -0.1}, {"strength": float("nan")}, {"sharpness": 0.0}, {"low": 0.2, "high": 0.2}, {"high": 3.0}],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InvalidInputError):
        FeedbackPrior(**change)


def test_the_shipped_model_earns_its_place_by_its_evidence():
    model = IMRNNModel.from_pretrained("minilm")
    assert model.active
    assert not model.modulator.trained
    assert model.modulator.config.prior.strength > 0
    for part in ("seen", "unseen"):
        measured = model.evidence["prior"][part]
        deltas = [item["delta"] for item in measured["collections"].values()]
        assert measured["mean_delta"] == pytest.approx(np.mean(deltas), abs=1e-4)
        assert measured["min_delta"] == min(deltas)
        assert min(deltas) >= -0.002
    assert model.evidence["prior"]["seen"]["mean_delta"] > 0


def test_under_a_gate_a_prior_is_bolder_and_one_that_is_off_stays_off():
    assert FeedbackPrior(0.4, 25.0, 0.1, 0.24).gated() == FeedbackPrior(1.0, 50.0, 0.05, 0.12)
    off = FeedbackPrior(0.0, 25.0, 0.1, 0.24)
    assert off.gated() is off

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.evaluation import evaluate
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.api import train, verdict
from imrnn_vdb.training.embeddings import EmbeddedDataset
from imrnn_vdb.training.settings import Progress, TrainingSettings
from retrieval_data import DIM, synthetic

QUICK = TrainingSettings(
    coarse_k=40,
    num_factors=12,
    train_basis=True,
    adapter=False,
    epochs=8,
    folds=2,
    learning_rate=1e-2,
    temperature=0.1,
    dropout=0.1,
    hidden=4,
)


def named_base() -> IMRNNModel:
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, 12)))[0].astype(np.float32)
    space = FactorSpace(basis, ("first", "second"), np.tile(np.linspace(-1, 1, 5, dtype=np.float32), (2, 1)))
    return IMRNNModel(space, Modulator(ModulatorConfig(12, hidden=4)).eval(), evidence={"space": "kept"})


@pytest.fixture(scope="module")
def data() -> EmbeddedDataset:
    return synthetic()


@pytest.fixture(scope="module")
def trained(data: EmbeddedDataset) -> IMRNNModel:
    return train(data, settings=QUICK)


def test_a_signal_is_learned_and_holds_on_test_queries(data: EmbeddedDataset, trained: IMRNNModel) -> None:
    result = evaluate(trained, data, coarse_k=40)
    assert trained.active
    assert result.modulated["ndcg@10"] > result.base["ndcg@10"] + 0.05
    assert result.test.p_value < 0.05


def test_the_evidence_says_how_it_came_about(trained: IMRNNModel) -> None:
    evidence = json.loads(json.dumps(trained.evidence))["training"]
    assert (evidence["queries"], evidence["better"]) == (60, True)
    assert evidence["validation"]["modulated"] > evidence["validation"]["base"]
    assert evidence["shrinkage"] == trained.modulator.config.shrinkage
    assert verdict(evidence).startswith("better than the base ranking")


def test_without_a_signal_the_model_is_not_switched_on() -> None:
    active = [train(synthetic(30, signal=False, seed=seed), settings=QUICK).active for seed in range(5)]
    assert not any(active)


@pytest.mark.slow
@pytest.mark.parametrize("signal", [False, True])
def test_the_gate_holds_with_many_labels(signal: bool) -> None:
    settings = replace(QUICK, epochs=4, train_basis=None)
    model = train(synthetic(800, 300, signal=signal), settings=settings)
    assert model.evidence["training"]["method"] == "whole model"
    assert model.active is signal


def test_where_the_whole_model_is_not_better_an_adapter_is_tried() -> None:
    data = synthetic(300)
    idle = replace(QUICK, epochs=1, learning_rate=1e-9, penalty=1.0, adapter=None)
    model = train(data, settings=idle)
    assert (model.evidence["training"]["method"], model.active) == ("adapter", True)
    assert model.evidence["training"]["settings"]["folds"] == 2
    assert model.evidence["training"]["against_adapter"] is None
    assert "against an adapter" not in verdict(model.evidence["training"])
    whole = train(data, settings=replace(idle, adapter=False))
    assert (whole.evidence["training"]["method"], whole.active) == ("whole model", False)


@pytest.mark.parametrize(
    ("whole", "penalty", "method"),
    [
        ({"epochs": 2, "learning_rate": 1e-3}, 1.0, "adapter"),
        ({"epochs": 2, "learning_rate": 1e-3}, 1e4, "whole model"),
        ({"epochs": 2, "learning_rate": 1e-3}, 2100.0, "adapter"),  # the whole model is ahead, p = 0.7
        ({"epochs": 4}, 1.0, "whole model"),  # on its own folds, which hold no topic out, the adapter is 0.009 ahead
    ],
)
def test_a_whole_model_is_kept_if_it_surpasses_an_adapter_on_the_same_held_out_queries(whole, penalty, method) -> None:
    data, settings = synthetic(500), replace(QUICK, adapter=None, penalty=penalty, **whole)
    model = train(data, settings=settings)
    training = model.evidence["training"]
    assert (training["method"], model.active) == (method, True)
    ahead = training["against_adapter"]
    assert (ahead["difference"] > 0 and ahead["p_value"] < 0.5) is (method == "whole model")
    assert f"the whole model against an adapter on the same held-out queries: {ahead['difference']:+.4f}" in verdict(
        training
    )
    for adapter in (True, False):
        assert train(data, settings=replace(settings, adapter=adapter)).active


def test_not_better_is_said_in_plain_words() -> None:
    model = train(synthetic(20, signal=False, seed=1), settings=QUICK)
    assert verdict(model.evidence["training"]).startswith("not better than the base ranking")
    assert "not switched on" in verdict(model.evidence["training"])


def test_the_same_seed_gives_the_same_model(data: EmbeddedDataset, trained: IMRNNModel) -> None:
    assert train(data, settings=QUICK).model_id == trained.model_id
    assert train(data, settings=replace(QUICK, seed=1)).model_id != trained.model_id


@pytest.mark.parametrize("stop_after", [3, 11, 17])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    data: EmbeddedDataset, trained: IMRNNModel, tmp_path: Path, stop_after: int
) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, settings=QUICK, journal=tmp_path / "journal", report=stop)
    again: list[Progress] = []
    model = train(data, settings=QUICK, journal=tmp_path / "journal", report=again.append)
    assert model.model_id == trained.model_id
    assert model.evidence == trained.evidence
    assert again[0].done == stop_after + 1
    assert not (tmp_path / "journal").exists()


def test_interrupted_while_an_adapter_is_tried_the_whole_model_is_not_trained_again(tmp_path: Path) -> None:
    data = synthetic(300)
    idle = replace(QUICK, epochs=1, learning_rate=1e-9, penalty=1.0, adapter=None)

    def stop(progress: Progress) -> None:
        if progress.loss is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, settings=idle, journal=tmp_path / "journal", report=stop)
    again: list[Progress] = []
    model = train(data, settings=idle, journal=tmp_path / "journal", report=again.append)
    assert [progress.loss for progress in again] == [None, None]
    assert model.model_id == train(data, settings=idle).model_id
    assert not (tmp_path / "journal").exists()


def test_the_state_of_another_training_is_not_taken_up(data: EmbeddedDataset, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, settings=QUICK, journal=tmp_path, report=stop)
    again: list[Progress] = []
    train(data, settings=replace(QUICK, seed=2), journal=tmp_path, report=again.append)
    assert again[0].done == 1


def test_progress_carries_loss_and_held_out_ndcg(data: EmbeddedDataset) -> None:
    seen: list[Progress] = []
    train(data, settings=QUICK, report=seen.append)
    assert [state.done for state in seen[:16]] == list(range(1, 17))
    assert seen[0].phase == "fold 1/2"
    assert seen[-1].phase == "final"
    assert seen[-1].ndcg is None
    assert seen[7].loss < seen[0].loss
    assert all(state.ndcg is not None and 0 <= state.ndcg <= 1 for state in seen[:16])


def test_named_columns_stay_fixed_while_the_rest_is_learned(data: EmbeddedDataset) -> None:
    base = named_base()
    model = train(data, base=base, settings=QUICK)
    np.testing.assert_allclose(model.space.basis[:, :2], base.space.basis[:, :2], atol=1e-6)
    np.testing.assert_array_equal(model.space.quantiles, base.space.quantiles)
    assert model.space.names == ("first", "second")
    assert np.abs(model.space.basis[:, 2:] - base.space.basis[:, 2:]).max() > 0.01
    assert model.evidence["space"] == "kept"


def test_a_fixed_basis_keeps_the_space_id(data: EmbeddedDataset) -> None:
    base = named_base()
    model = train(data, base=base, settings=replace(QUICK, train_basis=False))
    assert model.space.space_id == base.space.space_id


PRIOR = FeedbackPrior(0.4, sharpness=20.0, low=0.0, high=0.3)
BOLD = FeedbackPrior(1.0, sharpness=40.0, low=0.0, high=0.15)


@pytest.mark.parametrize(
    ("prior", "adapter", "train_basis", "expected"),
    [
        (PRIOR, False, True, BOLD),
        (PRIOR, False, False, BOLD),
        (PRIOR, True, False, PRIOR),
        (PRIOR, True, True, FeedbackPrior()),
        (FeedbackPrior(), False, True, FeedbackPrior()),
    ],
)
def test_a_whole_model_builds_on_a_bolder_prior_and_an_adapter_on_the_one_that_is_there(
    data: EmbeddedDataset, prior: FeedbackPrior, adapter: bool, train_basis: bool, expected: FeedbackPrior
) -> None:
    base = named_base()
    modulator = Modulator(replace(base.modulator.config, prior=prior)).eval()
    base = replace(base, modulator=modulator, evidence={"prior": "measured of this prior"})
    settings = replace(QUICK, epochs=1, adapter=adapter, train_basis=train_basis)
    model = train(data, base=base, settings=settings)
    assert model.modulator.config.prior == expected
    assert ("prior" in model.evidence) == (expected == prior)
    if expected is BOLD:
        again = train(data, base=model, settings=replace(settings, train_basis=False))
        assert again.modulator.config.prior == BOLD  # that of a trained model stays as it is


def test_updating_keeps_the_space_and_the_old_queries(data: EmbeddedDataset, trained: IMRNNModel) -> None:
    other = synthetic(60, seed=9, flipped=slice(0, 6))
    updated = train(other, continue_from=trained, replay=data, settings=replace(QUICK, epochs=10))
    assert updated.space.space_id == trained.space.space_id
    assert updated.modulator.config.shrinkage == trained.modulator.config.shrinkage
    before, after = (evaluate(model, data, coarse_k=40).modulated["ndcg@10"] for model in (trained, updated))
    assert after > before - 0.02
    assert updated.evidence["training"]["before"] == trained.evidence["training"]
    assert updated.evidence["training"]["replayed"]["ndcg@10_after"] > 0


def test_an_update_that_gains_nothing_keeps_the_old_weights(trained: IMRNNModel) -> None:
    updated = train(synthetic(20, signal=False, seed=4), continue_from=trained, settings=QUICK)
    assert updated.model_id == trained.model_id
    assert updated.active
    assert "the old weights are kept" in verdict(updated.evidence["training"])


def test_an_update_that_would_harm_replayed_queries_is_refused(data: EmbeddedDataset, trained: IMRNNModel) -> None:
    contrary = synthetic(60, seed=9, flipped=slice(4, 7))  # what holds there is false for the old queries
    settings = replace(QUICK, penalty=1.0)
    updated = train(contrary, continue_from=trained, replay=data, settings=settings)
    replayed = updated.evidence["training"]["replayed"]
    assert updated.model_id == trained.model_id or replayed["ndcg@10_after"] >= replayed["ndcg@10_before"] - 0.01
    before, after = (evaluate(model, data, coarse_k=40).modulated["ndcg@10"] for model in (trained, updated))
    assert after > before - 0.05


def test_a_refusal_for_replayed_queries_is_told_as_one(data: EmbeddedDataset, trained: IMRNNModel) -> None:
    contrary = synthetic(60, seed=9, flipped=slice(4, 7))
    evidence = train(contrary, continue_from=trained, settings=replace(QUICK, penalty=1.0)).evidence["training"]
    lost = {"ndcg@10_before": 0.8, "ndcg@10_after": 0.7875}
    told = verdict({**evidence, "better": False, "replayed": lost})
    assert told.startswith("refused for what it does to the replayed queries: nDCG@10 0.8000 -> 0.7875")
    assert told.endswith("the old weights are kept")
    kept = verdict({**evidence, "better": False, "replayed": {**lost, "ndcg@10_after": 0.795}})
    assert kept.startswith("not better than the model it was updated from")


@pytest.mark.parametrize("train_basis", [True, False])
def test_a_training_that_diverges_is_an_error_and_no_model(train_basis: bool) -> None:
    settings = replace(QUICK, learning_rate=1e20, epochs=2, train_basis=train_basis, adapter=False)
    with pytest.raises(InvalidInputError, match=r"the training diverged: .* holds NaN or infinity"):
        train(synthetic(20), settings=settings)


def test_a_number_of_factors_that_cannot_be_had_is_refused(data: EmbeddedDataset) -> None:
    with pytest.raises(InvalidInputError, match="num_factors is 1, but the space keeps 2 named factors"):
        train(data, base=named_base(), settings=replace(QUICK, num_factors=1))
    assert train(data, base=named_base(), settings=replace(QUICK, num_factors=2, epochs=1)).space.num_factors == 2
    with pytest.raises(InvalidInputError, match="num_factors must be at least 1, got 0"):
        replace(QUICK, num_factors=0)
    with pytest.raises(InvalidInputError, match="num_factors is 8, but the space that is kept has 12"):
        train(data, base=named_base(), settings=replace(QUICK, num_factors=8, train_basis=False))


def test_queries_unlike_the_training_keep_the_base_ranking(trained: IMRNNModel) -> None:
    outside = torch.zeros(1, 12)
    assert float(trained.modulator.familiarity(outside)) == 0.0
    config = replace(trained.modulator.config, num_familiar=2)
    modulator = Modulator(config)
    modulator.familiar_queries.copy_(torch.eye(2, 12))
    modulator.familiar_similarities.copy_(torch.tensor([0.5, 0.7]))
    queries = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.75, 1.0], [-1.0, 0.0]])
    codes = torch.nn.functional.pad(queries, (0, 10))
    codes[1, 2] = 1.0  # cosine 0.577 with the nearest
    codes[3, 2] = 1.0
    expected = torch.tensor([[1.0], [(1 / 3**0.5 - 0.5) / 0.2], [1.0], [0.0]])
    torch.testing.assert_close(modulator.familiarity(codes), expected)


def test_a_space_of_all_dimensions_holds_every_query(data: EmbeddedDataset) -> None:
    """There every code has length 1, which tells nothing: no query may count as foreign."""
    model = train(data, settings=replace(QUICK, num_factors=DIM))
    trust = model.modulator.familiarity(torch.from_numpy(model.space.encode(data.query_vectors).directions))
    assert model.active
    assert float(trust.min()) > 0.99


def test_a_trained_model_survives_saving(trained: IMRNNModel, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    loaded = IMRNNModel.from_pretrained(tmp_path)
    assert loaded.model_id == trained.model_id
    assert loaded.active


def test_too_few_labels_and_a_wrong_dimension_are_refused(data: EmbeddedDataset) -> None:
    with pytest.raises(InvalidInputError, match="at least 10 different labelled queries"):
        train(synthetic(6), settings=QUICK)
    narrow = FactorSpace(np.eye(8, 4, dtype=np.float32), (), np.zeros((0, 2), np.float32))
    base = IMRNNModel(narrow, Modulator(ModulatorConfig(4)).eval())
    with pytest.raises(SpaceMismatchError, match="8 dimensions"):
        train(data, base=base, settings=QUICK)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"folds": 1}, {"temperature": 0.0}, {"sampled": 4}, {"penalty": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError):
        TrainingSettings(**wrong)  # type: ignore[arg-type]

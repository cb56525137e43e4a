from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from imrnn_vdb.adapter import Adapter, nearest_cosine, ramp
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import evaluate
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.adapting import AdapterTrainer, KeptSpace
from imrnn_vdb.training.api import train, verdict
from imrnn_vdb.training.embeddings import EmbeddedDataset
from imrnn_vdb.training.examples import Examples, make_examples
from imrnn_vdb.training.network import LearnedBasis, Network
from imrnn_vdb.training.selection import Choice
from imrnn_vdb.training.settings import TrainingSettings
from imrnn_vdb.training.starting import starting_space
from imrnn_vdb.training.update import Lists, Update, fit_update, plain_modulator, see, with_adapter
from retrieval_data import DIM, synthetic

FEW = TrainingSettings(coarse_k=40, num_factors=12)
PENALTY = 0.2


def lists(queries: int = 40) -> tuple[Lists, Network]:
    examples = make_examples(synthetic(queries), "train", 40)
    basis = LearnedBasis(torch.eye(DIM, 12), 0, trainable=False)
    network = Network(basis, plain_modulator(12, FeedbackPrior(0.5, low=0.0, high=0.1))).eval()
    return see(network, examples), network


def test_resemblance_rises_between_its_bounds() -> None:
    keys, bounds = torch.eye(2, 3), torch.tensor([0.6, 0.9])
    queries = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.75, (1 - 0.75**2) ** 0.5], [0.0, 0.0, 1.0]])
    trust = ramp(nearest_cosine(queries, keys), bounds)
    torch.testing.assert_close(trust, torch.tensor([[1.0], [0.5], [0.0]]))


def test_an_adapter_moves_the_queries_it_knows_and_no_other() -> None:
    adapter = Adapter(3, 1)
    state = {"map": torch.eye(3), "shift": torch.tensor([0.0, 0.0, 1.0]), "keys": torch.eye(1, 3)}
    adapter.load_state_dict({**state, "similarities": torch.tensor([0.5, 0.9])})
    moved = adapter(torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]), torch.zeros(0, 3))
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def test_an_adapter_leaves_queries_alone_that_older_ones_resemble_as_much() -> None:
    adapter = Adapter(2, 1)
    state = {"map": torch.zeros(2, 2), "shift": torch.ones(2), "keys": torch.tensor([[1.0, 0.0]])}
    adapter.load_state_dict({**state, "similarities": torch.tensor([-1.0, -0.9])})
    queries = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    moved = adapter(queries, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))


def test_an_adapter_needs_a_query_it_was_taught_on() -> None:
    with pytest.raises(InvalidInputError, match="at least one query"):
        ModulatorConfig(4, adapters=(3, 0))


def test_scores_as_seen_foretell_what_is_served() -> None:
    """Documents moved, a shrinkage, the whole collection as candidates: a small update gives the scores foretold."""
    examples = make_examples(synthetic(20), "train", 150)
    torch.manual_seed(0)
    modulator = Modulator(ModulatorConfig(12, hidden=4, shrinkage=0.5)).eval()
    assert modulator.query_map is not None
    assert modulator.document_map is not None
    for parameter in (modulator.query_map, modulator.document_map):
        parameter.detach().normal_(std=0.1)
    basis = LearnedBasis(torch.eye(DIM, 12), 0, trainable=False)
    seen = see(Network(basis, modulator).eval(), examples)
    before, length = _refined(basis, modulator, examples)
    torch.testing.assert_close(seen.scores, (examples.mined_cosines + before) / 2, atol=1e-6, rtol=0)
    update = Update(1e-2 * torch.randn(12, 12), 1e-2 * torch.randn(12))
    after, new_length = _refined(basis, with_adapter(modulator, update, seen.queries), examples)
    foretold = torch.einsum("nkm,nm->nk", seen.directions, seen.queries @ update.map + update.shift)
    gained = (after * new_length / length - before) / 2  # the query's length is the same for all candidates
    torch.testing.assert_close(foretold, gained, atol=1e-5, rtol=0)
    assert float(gained.abs().max()) > 1e-3


def _refined(basis: LearnedBasis, modulator: Modulator, examples: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Refined cosines of the mined candidates, and the lengths of the refined queries."""
    queries, candidates = examples.queries @ basis(), (examples.documents @ basis())[examples.mined]
    with torch.no_grad():
        moved = modulator(
            queries, candidates, examples.mined_cosines, torch.ones(examples.mined.shape, dtype=torch.bool)
        )
        scores = Network(basis, modulator).score(queries, candidates, examples.mined_cosines)
    return scores, (1 + (moved.query**2).sum(1, keepdim=True) - (queries**2).sum(1, keepdim=True)).sqrt()


def test_the_solution_is_a_minimum() -> None:
    """The loss is convex: a solution that no small step improves is the only one."""
    seen, _ = lists()

    def loss(weights: torch.Tensor) -> float:
        inputs = torch.nn.functional.pad(seen.queries, (0, 1), value=0.316)
        scores = seen.scores + torch.einsum("nkm,nm->nk", seen.directions, inputs @ weights)
        target = seen.gains / seen.gains.sum(1, keepdim=True)
        fit = -(target * torch.log_softmax(scores / 0.06, -1)).sum(1).mean()
        return float(fit + PENALTY * (weights**2).sum())

    update = fit_update(seen, PENALTY)
    solution = torch.cat([update.map, update.shift[None] / 0.316])
    torch.manual_seed(0)
    least = loss(solution)
    assert least < loss(torch.zeros_like(solution))
    assert all(loss(solution + 0.05 * torch.randn_like(solution)) > least for _ in range(20))


def test_a_stronger_penalty_moves_less() -> None:
    seen, _ = lists()
    sizes = [float(fit_update(seen, penalty).map.norm()) for penalty in (0.1, 1.0, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_learned_space_holds_what_the_labels_speak_of() -> None:
    """The signal lies where the collection varies least, which principal components leave out."""
    data = synthetic(200, flipped=slice(20, 24))
    vectors = data.query_vectors.copy()
    vectors[:, :12] = 0.0
    data = replace(data, query_vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    components = starting_space(make_examples(data, "train", 40), replace(FEW, train_basis=True), None)
    base = IMRNNModel(components, plain_modulator(12, FeedbackPrior()), active=True)
    kept = train(data, base=base, settings=replace(FEW, num_factors=None, train_basis=False, penalty=5.0))
    learned = train(data, settings=replace(FEW, penalty=5.0))
    gains = [evaluate(model, data, coarse_k=40).test.difference for model in (kept, learned)]
    assert kept.space.space_id == base.space.space_id != learned.space.space_id
    assert learned.space.num_factors == 12
    assert gains[1] > gains[0] + 0.1
    assert np.sum(learned.space.basis[20:] ** 2) > 3.8  # of the four axes that are flipped


def test_a_learned_space_keeps_the_named_factors() -> None:
    named = FactorSpace(np.eye(DIM, 3, dtype=np.float32), ("a", "b"), np.tile([[-1.0, 1.0]], (2, 1)))
    evidence = {"fit": "of the names", "prior": "of what is not there any more"}
    base = IMRNNModel(named, plain_modulator(3, FeedbackPrior(0.5)), evidence=evidence, active=True)
    model = train(synthetic(30), base=base, settings=FEW)
    assert (model.space.names, model.space.num_factors) == (("a", "b"), 12)
    np.testing.assert_array_equal(model.space.basis[:, :2], named.basis[:, :2])
    np.testing.assert_array_equal(model.space.quantiles, named.quantiles)
    assert model.modulator.config.prior == FeedbackPrior()
    assert set(model.evidence) == {"fit", "training"}
    assert model.evidence["training"]["settings"]["penalty"] == 60.0
    assert train(synthetic(30), base=base, settings=FEW).model_id == model.model_id


def test_of_many_labels_some_are_learned_from_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = make_examples(synthetic(40), "train", 40)
    space = starting_space(examples, FEW, None)
    plain = plain_modulator(12, FeedbackPrior())
    some = KeptSpace(examples, space, plain, PENALTY).adapt(torch.arange(0, 40, 2))[1]
    monkeypatch.setattr("imrnn_vdb.training.update._MAX_TAUGHT", 20)
    many = KeptSpace(examples, space, plain, PENALTY)
    for name, weight in many.adapt(torch.arange(40))[1].state_dict().items():
        torch.testing.assert_close(weight, some.state_dict()[name])
    assert many.adapt(torch.arange(10))[1].config.adapters == (5,)


def test_adapters_add_up_and_keep_what_was_there() -> None:
    seen, network = lists()
    first = with_adapter(network.modulator, fit_update(seen, PENALTY), seen.queries)
    second = with_adapter(first, fit_update(seen, PENALTY), seen.queries)
    assert second.config.adapters == (40, 40)
    assert second.config.prior == network.modulator.config.prior
    assert first.trained
    assert not network.modulator.trained
    assert torch.equal(second.adapters[0].map, first.adapters[0].map)
    assert bool((second.adapters[0].similarities[0] < second.adapters[0].similarities[1]).item())


@pytest.mark.parametrize("queries", [30, 100])
def test_few_labels_with_a_signal_open_the_gate(queries: int) -> None:
    data = synthetic(queries)
    model = train(data, settings=replace(FEW, penalty=1.0))
    result = evaluate(model, data, coarse_k=40)
    assert model.active
    assert result.modulated["ndcg@10"] > result.base["ndcg@10"] + 0.05


@pytest.mark.parametrize("queries", [30, 100, 400])
def test_the_gate_holds_without_a_signal(queries: int) -> None:
    """Of models trained on noise, seeds 0-5, at most one may pass a test with an error of 5 %."""
    active = [train(synthetic(queries, signal=False, seed=seed), settings=FEW).active for seed in range(6)]
    assert sum(active) <= 1


def test_what_is_surely_worse_does_not_pass_the_gate() -> None:
    examples, settings = make_examples(synthetic(20), "train", 40), FEW.for_queries(20)
    space = starting_space(examples, settings, None)
    way = KeptSpace(examples, space, plain_modulator(space.num_factors, FeedbackPrior()), PENALTY)
    choice = AdapterTrainer(examples, settings, way, examples.grades).run()[2]  # a perfect ranking
    assert choice.test.difference < 0
    assert choice.joint_p_value is not None
    assert choice.joint_p_value < 0.01
    assert not choice.better


def untrained_against(examples: Examples, rival: torch.Tensor) -> Choice:
    settings = FEW.for_queries(len(examples))
    space = starting_space(examples, settings, None)

    class Untrained:
        def adapt(self, _: torch.Tensor) -> tuple[FactorSpace, Modulator]:
            return space, plain_modulator(space.num_factors, FeedbackPrior())

    return AdapterTrainer(examples, settings, Untrained(), rival).run()[2]


@pytest.mark.parametrize(("pushed", "better"), [(-0.005, True), (0.0, False), (0.005, False)])
def test_the_gate_sees_relevant_documents_move_where_few_queries_change_their_top_ten(
    pushed: float, better: bool
) -> None:
    """The rival is the base ranking, with the scores of what is relevant pushed up or down a little."""
    examples = make_examples(synthetic(60), "train", 40)
    choice = untrained_against(examples, examples.cosines + pushed * (examples.grades > 0))
    assert choice.test.p_value > 0.1, "by nDCG@10 alone it may be chance"
    assert choice.better == better
    evidence = {**asdict(choice.test), "base": 0, "modulated": 0, "joint_p_value": choice.joint_p_value}
    told = verdict({"validation": evidence, "continued_from": None, "better": choice.better, "method": "adapter"})
    assert f"tested together: p = {choice.joint_p_value:.3g}" in told


def test_what_moves_below_the_top_ten_does_not_open_the_gate_beside_one_query_above() -> None:
    examples = make_examples(synthetic(60), "train", 40)
    below = (examples.grades > 0) & (torch.arange(40) >= 12)
    rival = examples.cosines - below.float()
    first = int((examples.grades[:, 0] > 0).nonzero()[0])
    rival[first, 0] = rival[first, 1] - 1e-4
    choice = untrained_against(examples, rival)
    assert choice.joint_p_value is not None
    assert choice.joint_p_value < 0.1
    assert (choice.test.wins, choice.test.losses) == (1, 0)
    assert not choice.better


def test_the_likelihood_of_the_relevant_goes_by_order_and_relative_distances_alone() -> None:
    examples = make_examples(synthetic(30), "train", 40)
    rows = torch.arange(30)
    likelihood = examples.log_likelihood(examples.cosines, rows)
    torch.testing.assert_close(
        examples.log_likelihood(2 * examples.cosines + 1, rows), likelihood, rtol=0.02, atol=0.02
    )
    assert examples.log_likelihood(examples.cosines + 0.05 * examples.grades, rows).mean() > likelihood.mean()
    assert examples.log_likelihood(torch.randn(30, 40), rows).mean() < likelihood.mean()
    lost = replace(examples, grades=torch.zeros_like(examples.grades))
    assert not lost.log_likelihood(lost.cosines, rows).any()


def test_in_a_kept_space_the_prior_stays_too_and_no_recurrence_is_needed() -> None:
    data, prior = synthetic(30), FeedbackPrior(0.5)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(DIM, 12)))[0].astype(np.float32)
    base = IMRNNModel(FactorSpace(basis, (), np.zeros((0, 2), np.float32)), plain_modulator(12, prior), active=True)
    settings = replace(FEW, num_factors=None, train_basis=False)
    model = train(data, base=base, settings=settings)
    assert model.space.space_id == base.space.space_id
    assert model.modulator.config.prior == prior
    assert model.modulator.config.num_steps == 0
    assert model.evidence["training"]["settings"]["penalty"] == 20.0
    assert model.evidence["training"]["method"] == "adapter"
    assert train(data, base=base, settings=settings).model_id == model.model_id


def test_two_domains_the_new_one_gains_and_the_old_one_keeps_what_it_had() -> None:
    """The domains lie in different directions and differ in what holds there (seed 0 and 9; nDCG@10)."""
    old = _in_direction(synthetic(60), 22)
    new = _in_direction(synthetic(100, seed=9, flipped=slice(2, 6)), 23)
    settings = replace(FEW, num_factors=24, penalty=1.0)
    first = train(old, settings=settings)
    updated = train(new, continue_from=first, replay=old, settings=settings)
    assert first.active
    assert updated.active
    assert updated.space.space_id == first.space.space_id
    assert len(updated.modulator.config.adapters) == 2
    assert "better than the model it was updated from" in verdict(updated.evidence["training"])
    before, after = (evaluate(model, new, coarse_k=40).modulated["ndcg@10"] for model in (first, updated))
    assert after > before + 0.05
    before, after = (evaluate(model, old, coarse_k=40).modulated["ndcg@10"] for model in (first, updated))
    assert after == pytest.approx(before, abs=1e-6)
    replayed = updated.evidence["training"]["replayed"]
    assert replayed["ndcg@10_after"] == pytest.approx(replayed["ndcg@10_before"], abs=1e-6)


def _in_direction(data: EmbeddedDataset, axis: int) -> EmbeddedDataset:
    """Add the same large component along one axis to every vector of a data set: what a domain is about."""
    tables = []
    for table in (data.document_vectors, data.query_vectors):
        moved = table.copy()
        moved[:, axis] += 1.5
        tables.append(moved / np.linalg.norm(moved, axis=1, keepdims=True))
    return replace(data, document_vectors=tables[0], query_vectors=tables[1])

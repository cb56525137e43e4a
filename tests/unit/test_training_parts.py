from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import measure, rank_base
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.training.examples import Examples, build_examples, make_examples, merged
from imrnn_vdb.training.loop import listwise_loss
from imrnn_vdb.training.network import LearnedBasis, Network
from imrnn_vdb.training.selection import Folds, HeldOut, choose, make_folds
from imrnn_vdb.training.settings import TrainingSettings
from imrnn_vdb.training.starting import principal_components
from retrieval_data import DIM, synthetic


def small() -> Examples:
    documents = torch.nn.functional.normalize(
        torch.eye(6, 4) + 0.1 * torch.arange(24).reshape(6, 4) / 24, dim=1
    ).numpy()
    position = {f"d{i}": i for i in range(6)}
    qrels = {"q": {"d0": 2.0, "d3": 1.0, "d5": 1.0, "gone": 2.0}}
    return build_examples(["q"], documents[:1], documents, np.array([[0, 4, 1, 2]]), qrels, position)


def test_missed_relevant_documents_take_the_last_places_in_training_only() -> None:
    examples = small()
    assert examples.candidates.tolist() == [[0, 4, 1, 2]]
    assert examples.mined.tolist() == [[0, 4, 5, 3]]
    assert examples.gains.tolist() == [[3.0, 0.0, 1.0, 1.0]]
    assert examples.grades.tolist() == [[2.0, 0.0, 0.0, 0.0]]
    for table, cosines in ((examples.candidates, examples.cosines), (examples.mined, examples.mined_cosines)):
        torch.testing.assert_close(cosines[0], examples.documents[table[0]] @ examples.queries[0])


def test_queries_that_ask_the_same_are_one(caplog: pytest.LogCaptureFixture) -> None:
    texts = {"a": "Cats", "b": " cats\n", "c": "dogs", "d": "cats"}
    qrels = {"d": {"x": 2.0, "z": 0.0}, "b": {"x": 1.0, "y": 1.0}, "c": {"x": 1.0}, "e": {"x": 1.0}}
    assert merged(texts, qrels) == {"b": {"x": 2.0, "y": 1.0, "z": 0.0}, "c": {"x": 1.0}}
    assert "1 of 3 labelled queries ask what others ask" in caplog.text
    vectors = {name: np.full(2, len(text.strip()), np.float32) for name, text in texts.items()}
    assert [*merged(vectors, qrels)] == ["b"]
    caplog.clear()
    assert merged(texts, {"a": {"x": 1.0}, "c": {"y": 1.0}}) == {"a": {"x": 1.0}, "c": {"y": 1.0}}
    assert not caplog.text


def test_a_log_that_repeats_its_queries_gives_the_examples_of_the_different_ones() -> None:
    known = synthetic(20)
    names = [f"{name} again" for name in known.query_ids]
    texts = {**known.data.queries, **{f"{name} again": text.upper() for name, text in known.data.queries.items()}}
    judged = known.data.qrels["train"]
    qrels = {"train": {**judged, **{f"{name} again": grades for name, grades in judged.items()}}}
    log = replace(
        known,
        data=replace(known.data, queries=texts, qrels=qrels),
        query_ids=[*known.query_ids, *names],
        query_vectors=np.tile(known.query_vectors, (2, 1)),
    )
    examples = make_examples(log, "train", 30)
    assert len(examples) == 20
    assert examples.fingerprint() == make_examples(known, "train", 30).fingerprint()


def test_ndcg_equals_trec_eval() -> None:
    generator = torch.Generator().manual_seed(0)
    examples = make_examples(synthetic(20), "train", 30)
    scores = torch.rand(examples.cosines.shape, generator=generator)
    ours = examples.ndcg(scores, torch.arange(len(examples)))
    data = synthetic(20)
    run = {
        query: {data.document_ids[row]: float(s) for row, s in zip(rows, values, strict=True)}
        for query, rows, values in zip(examples.query_ids, examples.candidates.tolist(), scores, strict=True)
    }
    theirs = measure(data.data.qrels["train"], run)["ndcg@10"]
    np.testing.assert_allclose(ours.numpy(), [theirs[query] for query in examples.query_ids], atol=1e-6)


def test_ndcg_equals_trec_eval_where_judged_documents_are_not_there() -> None:
    """Nor do grades other than 0 and 1 make a difference, or queries of which nothing can be found."""
    known = synthetic(20)
    qrels = {query: dict(grades) for query, grades in known.data.qrels["train"].items()}
    queries = list(qrels)
    qrels[queries[0]].update({"gone": 3.0, "d1": -1.0})
    qrels[queries[1]] = {"gone": 2.0}
    data = replace(known, data=replace(known.data, qrels={"train": qrels}))
    examples = make_examples(data, "train", 150)
    assert examples.query_ids == queries
    ours = examples.ndcg(examples.cosines, torch.arange(len(examples)))
    theirs = measure(qrels, rank_base(data, "train", 150))["ndcg@10"]
    np.testing.assert_allclose(ours.numpy(), [theirs[query] for query in queries], atol=1e-6)
    assert ours[1] == 0


@pytest.mark.parametrize("grade", [0.5, 2000.0, 150.0, float("inf"), float("nan")])
def test_grades_out_of_range_are_not_trained_on(grade: float) -> None:
    documents = np.eye(3, dtype=np.float32)
    position, candidates = {"d0": 0, "d1": 1}, np.array([[0, 1, 2]])
    with pytest.raises(InvalidInputError, match="query 'q', document 'd0': a grade is a whole number"):
        build_examples(["q"], documents[:1], documents, candidates, {"q": {"d0": grade}}, position)
    with pytest.raises(InvalidInputError, match="none of the relevant documents is there"):
        build_examples(["q"], documents[:1], documents, candidates, {"q": {"d9": 1.0}}, position)
    largest = build_examples(["q"], documents[:1], documents, candidates, {"q": {"d0": 100.0, "d1": 100.0}}, position)
    assert torch.isfinite(largest.gains.sum(1)).all()


def test_the_learned_basis_stays_orthonormal_and_its_named_columns_fixed() -> None:
    start = torch.linalg.qr(torch.randn(DIM, 8, generator=torch.Generator().manual_seed(0)))[0]
    basis = LearnedBasis(start, 3, trainable=True)
    torch.testing.assert_close(basis(), start, atol=1e-5, rtol=0)
    with torch.no_grad():
        basis.latent.add_(torch.randn(DIM, 5, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(basis().T @ basis(), torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis()[:, :3], start[:, :3], atol=0, rtol=0)


def test_an_untrained_network_returns_the_base_cosines() -> None:
    examples = make_examples(synthetic(20), "train", 30)
    network = Network(LearnedBasis(torch.eye(DIM, 8), 0, trainable=True), Modulator(ModulatorConfig(8, hidden=4)))
    assert torch.equal(network.predict(examples, torch.arange(20)), examples.cosines)


def test_the_loss_is_the_cross_entropy_of_the_base_ranking_at_first() -> None:
    examples = make_examples(synthetic(20), "train", 30)
    network = Network(LearnedBasis(torch.eye(DIM, 8), 0, trainable=True), Modulator(ModulatorConfig(8, hidden=4)))
    settings = TrainingSettings(kept=30, sampled=30, temperature=0.1)
    rows = torch.arange(20)
    expected = torch.stack(
        [
            -(gains / gains.sum() * torch.log_softmax(cosines / 0.1, -1)).sum()
            for gains, cosines in zip(examples.gains, examples.mined_cosines, strict=True)
        ]
    ).mean()
    torch.testing.assert_close(listwise_loss(network.eval(), examples, rows, settings).detach(), expected)


def test_sampled_candidates_always_hold_the_relevant_ones() -> None:
    examples = make_examples(synthetic(20), "train", 30)
    network = Network(LearnedBasis(torch.eye(DIM, 8), 0, trainable=False), Modulator(ModulatorConfig(8, hidden=4)))
    few = TrainingSettings(kept=1, sampled=2, temperature=0.1)
    losses = [float(listwise_loss(network.eval(), examples, row, few).detach()) for row in torch.arange(20).split(1)]
    assert min(losses) > 0  # a sample without its relevant document would have no loss


def test_principal_components_are_ordered_and_orthonormal() -> None:
    table = (np.random.default_rng(0).normal(size=(400, 5)) * [1, 5, 2, 0.1, 3]).astype(np.float32)
    columns = principal_components(table)
    np.testing.assert_allclose(columns.T @ columns, np.eye(5), atol=1e-5)
    assert [int(np.abs(column).argmax()) for column in columns.T] == [1, 4, 2, 0, 3]


def test_principal_components_do_not_depend_on_the_number_of_threads() -> None:
    program = (
        "import sys, numpy as np; from imrnn_vdb.training.loop import one_thread; "
        "from imrnn_vdb.training.starting import principal_components as components\n"
        "table = np.random.default_rng(0).normal(size=(3000, 384)).astype(np.float32)\n"
        "with one_thread(): sys.stdout.write(str(hash(components(table).tobytes())))"
    )
    told = []
    for threads in ("1", "2"):
        variables = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, check=True
        )
        told.append(run.stdout)
    assert told[0] == told[1]


def test_folds_are_of_like_size_and_depend_on_the_seed() -> None:
    examples = make_examples(synthetic(60), "train", 30)
    folds = make_folds(examples, 3, seed=0)
    assert sorted(np.bincount(folds.of)) == [20, 20, 20]
    np.testing.assert_array_equal(folds.of, make_folds(examples, 3, seed=0).of)
    assert (folds.of != make_folds(examples, 3, seed=1).of).any()


def test_queries_of_a_new_topic_share_no_relevant_document_with_other_folds() -> None:
    examples = make_examples(synthetic(60, documents=20), "train", 20)
    folds = make_folds(examples, 3, seed=0)
    relevant = examples.mined[torch.arange(60), examples.gains.argmax(1)].numpy()
    assert 0.2 < folds.new_topic.mean() < 0.8
    for row in np.flatnonzero(folds.new_topic):
        same = relevant == relevant[row]
        assert (folds.of[same] == folds.of[row]).all()
    dealt = ~folds.new_topic
    assert any(len(set(folds.of[dealt & (relevant == document)])) > 1 for document in set(relevant[dealt]))


def test_the_choice_among_noise_is_not_taken_for_a_gain() -> None:
    """Choosing the best of many settings on the same queries would look like a gain; the cross-fitted test must not."""
    better = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table = rng.normal(0.5, 0.1, (20, 9, 40))
        table[:, 0] = rng.normal(0.5, 0.1, 40)
        held = HeldOut(table, rng.uniform(0.4, 0.9, (20, 40)))
        better.append(choose(held, Folds(np.arange(40) % 5, rng.random(40) < 0.5)).better)
    assert np.mean(better) <= 0.1


def test_the_choice_finds_a_gain_that_is_there() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.8, 90)
    table = np.repeat(np.repeat(base[None, None], 6, axis=0), 9, axis=1)
    table[2:5, 3] += 0.1
    table[2:5, 8] += 0.2  # a shrinkage of 1 is not believed with 90 labels
    held = HeldOut(table, np.full((6, 90), 0.6))
    choice = choose(held, Folds(np.arange(90) % 3, np.arange(90) < 45))
    assert (choice.epochs, choice.shrinkage, choice.threshold, choice.better) == (4, 0.375, -1.0, True)
    assert choice.modulated == pytest.approx(base.mean() + 0.1)


def test_a_gain_that_costs_new_topics_is_limited_to_familiar_queries() -> None:
    base = np.full(100, 0.5)
    table = np.repeat(np.repeat(base[None, None], 4, axis=0), 9, axis=1)
    new = np.arange(100) < 50
    table[:, 1:, ~new] += 0.2
    table[:, 1:, new] -= 0.05
    held = HeldOut(table, np.where(new, 0.56, 0.9)[None].repeat(4, axis=0))
    choice = choose(held, Folds(np.arange(100) % 4, new))
    assert choice.better
    assert choice.threshold == 0.6
    assert choice.new_topic_difference == 0.0
    assert choice.modulated == pytest.approx(0.6)


def test_what_is_better_only_where_it_was_chosen_is_not_better() -> None:
    fold = np.arange(40) % 2
    table = np.full((1, 3, 40), 0.5)
    table[0, 1] += np.where(fold == 0, 0.3, -0.2)
    table[0, 2] += np.where(fold == 1, 0.3, -0.2)
    choice = choose(HeldOut(table, np.ones((1, 40))), Folds(fold, np.zeros(40, bool)), (0.0, 0.125, 0.25), (-1.0,))
    assert choice.shrinkage > 0
    assert choice.test.difference == pytest.approx(-0.2)
    assert choice.test.p_value < 0.05
    assert not choice.better
    assert choice.new_topic_difference is None


@pytest.mark.parametrize(
    ("known", "new", "shrinkage"),
    [
        (0.1, [-0.006, -0.006], 0.0),  # more than new topics may cost, whatever known ones gain
        (0.1, [-0.004, -0.004], 0.125),
        (0.1, [0.2, -0.2], 0.125),
        (0.003, [-0.004, -0.004], 0.0),  # little enough, and the mean of all is below 0
    ],
)
def test_a_setting_is_worth_its_mean_if_new_topics_lose_little(known, new, shrinkage) -> None:
    table = np.full((1, 2, 100), 0.5)
    table[0, 1] += [*new * 25, *[known] * 50]
    folds = Folds(np.arange(100) // 2 % 2, np.arange(100) < 50)
    assert choose(HeldOut(table, np.ones((1, 100))), folds, (0.0, 0.125), (-1.0,)).shrinkage == shrinkage


def test_large_changes_are_not_believed_on_few_labels() -> None:
    table = 0.5 + 0.1 * np.array([0.0, 0.25, 0.5, 0.75])[None, :, None] * np.ones((1, 1, 100))
    folds = Folds(np.arange(100) % 2, np.zeros(100, bool))
    held = HeldOut(table, np.ones((1, 100)))
    assert choose(held, folds, (0.0, 0.25, 0.5, 0.75), (-1.0,)).shrinkage == 0.5  # 100 / (100 + 100)


def test_a_grade_below_zero_takes_nothing_from_the_ideal() -> None:
    documents, position = np.eye(2, 4, dtype=np.float32), {"good": 0, "bad": 1}
    qrels = {"q": {"good": 1.0, "bad": -2.0}}
    examples = build_examples(["q"], documents[:1], documents, np.array([[0, 1]]), qrels, position)
    assert examples.ndcg(examples.cosines, torch.tensor([0])).tolist() == [1.0]

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from imrnn_vdb import exact
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import compare_runs, evaluate, measure, paired_test
from imrnn_vdb.exact import nearest
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace
from retrieval_data import DIM, synthetic


def untrained() -> IMRNNModel:
    space = FactorSpace(np.eye(DIM, 8, dtype=np.float32), (), np.zeros((0, 2), np.float32))
    return IMRNNModel(space, Modulator(ModulatorConfig(8, hidden=4)).eval())


def test_measures_equal_a_computation_by_hand() -> None:
    qrels = {"q": {"a": 2.0, "b": 1.0, "c": 1.0}}
    values = measure(qrels, {"q": {"x": 0.9, "a": 0.8, "b": 0.7, "y": 0.6}})
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["ndcg@10"]["q"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(4)) / ideal)  # linear gains
    assert values["mrr@10"]["q"] == pytest.approx(1 / 2)
    assert values["recall@10"]["q"] == pytest.approx(2 / 3)
    assert values["map"]["q"] == pytest.approx((1 / 2 + 2 / 3) / 3)


def test_scores_closer_than_single_precision_keep_their_order() -> None:
    values = measure({"q": {"a": 1.0}}, {"q": {"a": 0.5 + 1e-12, "z": 0.5}})
    assert values["mrr@10"]["q"] == 1.0


def test_a_query_without_results_counts_as_zero() -> None:
    assert measure({"q": {"a": 1.0}, "r": {"a": 1.0}}, {"q": {"a": 1.0}})["ndcg@10"] == {"q": 1.0, "r": 0.0}


@pytest.mark.parametrize("grade", [0.5, 101.0, float("nan"), float("inf")])
def test_grades_that_trec_eval_does_not_know_are_refused(grade: float) -> None:
    with pytest.raises(InvalidInputError, match="document 'a': a grade is a whole number"):
        measure({"q": {"a": grade}}, {"q": {"a": 1.0}})


def test_an_untrained_model_changes_nothing() -> None:
    data = synthetic(20)
    result = evaluate(untrained(), data, coarse_k=30)
    assert result.base == result.modulated
    assert (result.test.wins, result.test.losses, result.queries) == (0, 0, 20)
    assert result.test.p_value == 1.0
    assert not result.most_improved
    assert not result.most_harmed
    assert result.to_dict()["active"] is False


def test_base_figures_are_those_of_an_exact_search() -> None:
    data = synthetic(20)
    result = evaluate(untrained(), data, coarse_k=150)
    row = data.query_ids.index("q20")
    ranked = np.argsort(-(data.document_vectors @ data.query_vectors[row]))
    assert list(result.runs["base"]["q20"]) == [data.document_ids[i] for i in ranked]
    assert result.base["recall@100"] <= 1.0
    with pytest.raises(InvalidInputError, match="coarse_k"):
        evaluate(untrained(), data, coarse_k=0)


def test_wins_losses_and_the_largest_changes_are_reported() -> None:
    qrels = {f"q{i}": {"a": 1.0} for i in range(4)}
    low, high = {"a": 0.1, "b": 0.9}, {"a": 0.9, "b": 0.1}
    base = {"q0": low, "q1": low, "q2": high, "q3": high}
    modulated = {"q0": high, "q1": low, "q2": low, "q3": high}
    result = compare_runs(qrels, base, modulated, {"q0": "text"})
    assert (result.test.wins, result.test.losses, result.test.ties) == (1, 1, 2)
    assert [(change.query_id, change.text) for change in result.most_improved] == [("q0", "text")]
    assert [change.query_id for change in result.most_harmed] == ["q2"]
    assert result.to_dict()["queries"] == 4


def test_the_paired_test_sees_a_clear_gain_and_no_gain_in_noise() -> None:
    rng = np.random.default_rng(3)
    gain = paired_test(rng.normal(0.1, 0.1, 100))
    assert gain.p_value < 0.001
    assert 0 < gain.ci_low < gain.difference < gain.ci_high
    noise = paired_test(np.r_[rng.normal(0, 0.1, 50), 0.0])
    assert noise.p_value > 0.05
    assert noise.ci_low < 0 < noise.ci_high
    assert paired_test([0.1, -0.1, 0.0]) == paired_test([0.1, -0.1, 0.0])
    with pytest.raises(InvalidInputError):
        paired_test([])
    for wrong in (np.nan, np.inf):
        with pytest.raises(InvalidInputError, match="finite differences, that of query 1"):
            paired_test([0.1, wrong])


def test_queries_that_ask_the_same_are_one_piece_of_evidence() -> None:
    once = paired_test([0.1, 0.2, 0.05, -0.02])
    log = paired_test(np.repeat([0.1, 0.2, 0.05, -0.02], 10), groups=np.repeat(np.arange(4), 10))
    assert log.difference == pytest.approx(once.difference)
    assert (log.p_value, log.ci_low, log.ci_high) == pytest.approx((once.p_value, once.ci_low, once.ci_high))
    assert (log.wins, log.losses) == (30, 10)
    often = paired_test([0.1, 0.1, 0.1, -0.2], groups=[0, 0, 0, 1])  # means are of queries, be they repeated or not
    assert (often.difference, often.ci_low, often.ci_high) == pytest.approx((0.025, -0.2, 0.1))


def test_a_comparison_counts_what_is_asked() -> None:
    qrels = {f"q{i}": {"a": 1.0} for i in range(5)}
    base = {name: {"a": 0.1, "b": 0.9} for name in qrels}
    modulated = {**base, "q0": {"a": 0.9, "b": 0.1}, "q1": {"a": 0.9, "b": 0.1}}
    vectors = {"q3": np.ones(2, np.float32), "q4": np.ones(2, np.float32)}
    result = compare_runs(qrels, base, modulated, {"q0": "Cats", "q1": "cats ", **vectors})
    assert (result.queries, result.settings["different_queries"]) == (5, 3)
    assert [change.text for change in result.most_improved] == ["Cats"]


def test_p_values_of_pure_noise_are_uniform_enough() -> None:
    rng = np.random.default_rng(5)
    p_values = [paired_test(rng.normal(size=25), seed=i).p_value for i in range(120)]
    assert 0.0 <= np.mean(np.array(p_values) < 0.05) <= 0.12


def test_nearest_equals_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    documents[3] = documents[9]
    indices, scores = nearest(queries, documents, 12)
    full = queries @ documents.T
    np.testing.assert_array_equal(indices, np.argsort(-full, axis=1, kind="stable")[:, :12])
    np.testing.assert_array_equal(scores, np.take_along_axis(full, indices, axis=1))
    assert nearest(queries, documents[:3], 12)[0].shape == (7, 3)


def test_nearest_in_parts_equals_nearest_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, documents = (np.sign(rng.normal(size=(n, 6))).astype(np.float32) for n in (9, 50))  # many ties
    whole = queries @ documents.T
    monkeypatch.setattr(exact, "_QUERIES", 4)
    monkeypatch.setattr(exact, "_DOCUMENTS", 7)
    for k in (1, 5, 12, 50, 99):
        indices, scores = nearest(queries, documents, k)
        np.testing.assert_array_equal(scores, np.sort(whole, axis=1)[:, ::-1][:, :k])
        np.testing.assert_array_equal(scores, np.take_along_axis(whole, indices, axis=1))
        assert all(len(set(row)) == len(row) for row in indices.tolist())
    np.testing.assert_array_equal(indices, np.argsort(-whole, axis=1, kind="stable"))  # ties by index


def test_nearest_needs_no_more_memory_for_more_documents() -> None:
    documents, queries = np.ones((200_000, 4), np.float32), np.ones((300, 4), np.float32)
    tracemalloc.start()
    nearest(queries, documents, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_a_model_that_fails_is_not_reported_as_base() -> None:
    broken = untrained()
    with torch.no_grad():
        broken.modulator.query_cell.out.bias.fill_(float("nan"))
    with pytest.raises(InvalidInputError, match="could not be evaluated"):
        evaluate(broken, synthetic(20))


def test_a_second_pass_finds_what_the_refined_query_is_near_to() -> None:
    """The prior moves each query; with a window of 5, newcomers join, and recall in the joined window does not fall."""
    data = synthetic(30)
    basis = np.eye(DIM, 12, dtype=np.float32)
    prior = FeedbackPrior(2.0, low=-0.5, high=-0.4)
    modulator = Modulator(ModulatorConfig(12, hidden=4, prior=prior)).eval()
    model = IMRNNModel(FactorSpace(basis, (), np.zeros((0, 2), np.float32)), modulator)
    once, twice = (evaluate(model, data, coarse_k=5, passes=passes) for passes in (1, 2))
    assert once.settings["candidates"] == 5
    assert 5 < twice.settings["candidates"] <= 10
    assert twice.modulated["recall@100"] >= once.modulated["recall@100"]
    assert twice.base == once.base
    with pytest.raises(InvalidInputError, match="passes must be 1 or 2"):
        evaluate(model, data, passes=3)


def test_a_small_difference_is_a_win_and_rounding_is_a_tie() -> None:
    test = paired_test(np.array([0.01, 1e-12, -0.01, 0.0]))
    assert (test.wins, test.losses, test.ties) == (1, 1, 2)

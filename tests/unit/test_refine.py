"""From candidates to results: what the model scores, what keeps its base score, and in what order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from factory import make_model
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import refine
from imrnn_vdb.results import build_results

K = 30


def first_stage(model, rng, k: int = K, metric: Metric = Metric.COSINE) -> tuple[np.ndarray, Candidates]:
    """A query and candidates as a database would return them, best first."""
    query = rng.normal(size=model.space.dim).astype(np.float32)
    vectors = (rng.normal(size=(k, model.space.dim)) + query).astype(np.float32)
    if metric is Metric.COSINE:
        base = vectors @ query / np.linalg.norm(query) / np.linalg.norm(vectors, axis=1)
    elif metric is Metric.DOT:
        base = vectors @ query
    else:
        base = -((vectors - query) ** 2).sum(1)
    order = np.argsort(-base)
    candidates = Candidates(
        [f"id-{i}" for i in order],
        base[order].astype(np.float64),
        model.space.encode(vectors[order]),
        [{"n": int(i)} for i in order],
    )
    return query, candidates


def marked(candidates: Candidates, row: int, status: CodeStatus) -> Candidates:
    codes = Codes(candidates.codes.directions.copy(), candidates.codes.norms.copy(), candidates.codes.status.copy())
    codes.status[row], codes.directions[row], codes.norms[row] = status, 0, 0
    return dataclasses.replace(candidates, codes=codes)


def search(model, query, candidates, metric=Metric.COSINE, active=True, **request):
    (refined,) = refine(model, metric, query[None], [candidates], active)
    return build_results(model.space, candidates, refined, SearchRequest(**{"limit": K, **request}))


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT, Metric.EUCLID])
def test_an_untrained_model_returns_the_databases_order_exactly(metric, rng):
    model = make_model(trained=False)
    query, candidates = first_stage(model, rng, metric=metric)
    results = search(model, query, candidates, metric)
    assert [result.id for result in results] == candidates.ids
    assert [result.score for result in results] == candidates.base_scores.tolist()
    assert all(result.modulated and result.rank == result.base_rank for result in results)


def test_equal_scores_keep_the_databases_order(rng):
    model = make_model(trained=False)
    query, candidates = first_stage(model, rng)
    ties = dataclasses.replace(candidates, base_scores=np.zeros(K))
    assert [result.id for result in search(model, query, ties)] == candidates.ids


def test_a_trained_model_reorders_and_its_parts_sum_to_the_score(model, rng):
    query, candidates = first_stage(model, rng)
    results = search(model, query, candidates, explain=True)
    assert [result.id for result in results] != candidates.ids
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    for result in results:
        assert result.explanation is not None
        assert result.explanation.score == pytest.approx(result.score, abs=1e-6)
        assert set(result.factors) == set(model.space.names)


def test_the_order_of_arrival_changes_nothing_to_the_last_bit(model, rng):
    query, candidates = first_stage(model, rng)
    order = rng.permutation(K)
    shuffled = Candidates(
        [candidates.ids[i] for i in order],
        candidates.base_scores[order],
        candidates.codes.take(order),
        [candidates.payloads[i] for i in order],
    )
    assert search(model, query, shuffled, explain=True) == search(model, query, candidates, explain=True)


@pytest.mark.parametrize("status", [CodeStatus.MISSING, CodeStatus.OTHER_SPACE, CodeStatus.MALFORMED])
def test_a_candidate_without_a_usable_code_keeps_its_base_score_and_is_marked(model, rng, status, caplog):
    caplog.set_level("INFO", logger="imrnn_vdb")
    query, candidates = first_stage(model, rng)
    by_id = {r.id: r for r in search(model, query, marked(candidates, 4, status), explain=True)}
    result = by_id[candidates.ids[4]]
    assert result.score == result.base_score == candidates.base_scores[4]
    assert not result.modulated
    assert result.reason
    assert result.factors == {}
    assert result.explanation is not None
    assert result.explanation.residual == result.score
    assert sum(r.modulated for r in by_id.values()) == K - 1
    assert f"1 of {K} candidates have no usable factor code" in caplog.text


def test_a_candidate_without_a_code_is_not_seen_by_the_others(model, rng):
    query, candidates = first_stage(model, rng)
    without = Candidates(
        candidates.ids[:-1],
        candidates.base_scores[:-1],
        candidates.codes.take(np.arange(K - 1)),
        candidates.payloads[:-1],
    )
    seen = {r.id: r.score for r in search(model, query, without)}
    for result in search(model, query, marked(candidates, K - 1, CodeStatus.MISSING)):
        if result.id in seen:
            assert result.score == pytest.approx(seen[result.id], abs=1e-6)


def test_a_code_that_breaks_the_bound_is_marked_as_stale(rng):
    model = make_model(factors=24)
    query, candidates = first_stage(model, rng)
    codes = candidates.codes.take(np.arange(K))
    codes.directions[2] = -codes.directions[2]
    result = {r.id: r for r in search(model, query, dataclasses.replace(candidates, codes=codes))}[candidates.ids[2]]
    assert not result.modulated
    assert "older than its vector" in (result.reason or "")
    assert result.score == result.base_score


def test_a_zero_vector_keeps_its_base_score(model, rng):
    query, candidates = first_stage(model, rng)
    codes = candidates.codes.take(np.arange(K))
    codes.directions[3], codes.norms[3] = 0, 0
    zero = dataclasses.replace(candidates, codes=codes)
    zero.base_scores[3] = 0.0
    result = {r.id: r for r in search(model, query, zero)}[candidates.ids[3]]
    assert (result.score, result.modulated) == (0.0, False)


def test_a_failing_model_returns_the_databases_order_with_the_reason(model, rng, caplog):
    query, candidates = first_stage(model, rng)
    with np.errstate(all="ignore"):
        model.modulator.pool.data.fill_(float("nan"))
        (refined,) = refine(model, Metric.COSINE, query[None], [candidates], True)
    results = build_results(model.space, candidates, refined, SearchRequest(limit=K))
    assert [result.id for result in results] == candidates.ids
    assert not any(result.modulated for result in results)
    assert "modulation failed (ArithmeticError)" in (refined.failure or "")
    assert "the database's order is returned" in caplog.text


def test_a_model_that_is_off_still_explains(model, rng):
    query, candidates = first_stage(model, rng)
    results = search(model, query, candidates, active=False, explain=True)
    assert [result.id for result in results] == candidates.ids
    assert all(r.explanation and any(r.explanation.contributions) and not r.modulated for r in results)


def test_a_manhattan_distance_keeps_the_databases_order(model, rng):
    query, candidates = first_stage(model, rng)
    results = search(model, query, candidates, Metric.MANHATTAN)
    assert [result.id for result in results] == candidates.ids
    assert "does not split" in (results[0].reason or "")


def test_a_batch_of_ragged_sets_equals_each_alone(model, rng):
    pairs = [first_stage(model, rng, k=k) for k in (30, 7, 0, 1)]
    queries = np.stack([query for query, _ in pairs])
    together = refine(model, Metric.COSINE, queries, [candidates for _, candidates in pairs], True)
    for (query, candidates), refined in zip(pairs, together, strict=True):
        (alone,) = refine(model, Metric.COSINE, query[None], [candidates], True)
        np.testing.assert_allclose(refined.scored.scores, alone.scored.scores, atol=1e-6)


def test_pages_lie_in_one_window_and_thresholds_come_after_scoring(model, rng):
    query, candidates = first_stage(model, rng)
    whole = search(model, query, candidates)
    pages = [search(model, query, candidates, limit=10, offset=offset) for offset in (0, 10, 20)]
    assert [result for page in pages for result in page] == list(whole)
    kept = search(model, query, candidates, threshold=whole[4].score)
    assert kept == whole[:5]

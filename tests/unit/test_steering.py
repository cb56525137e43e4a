from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from factory import make_model
from imrnn_vdb import propose_steering
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import refine
from imrnn_vdb.results import SearchResponse, build_results
from imrnn_vdb.steering import checked_weights, steered

K = 20
WEIGHTS = {"entity": 1.5, "temporal": 0.0}


def window(metric=Metric.COSINE, active=True):
    """A model, a query and its candidates; the last one has no code."""
    rng = np.random.default_rng(3)
    model = make_model()
    query, vectors = rng.normal(size=(1, 32)).astype(np.float32), rng.normal(size=(K, 32)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    scores = unit @ (query[0] / np.linalg.norm(query[0])) if metric is Metric.COSINE else vectors @ query[0]
    codes = model.space.encode(vectors)
    status = codes.status.copy()
    status[-1] = CodeStatus.MISSING
    usable = (status == CodeStatus.CURRENT)[:, None]
    codes = Codes(codes.directions * usable, codes.norms * usable[:, 0], status)
    candidates = Candidates(list(range(K)), scores.astype(np.float64), codes, [{} for _ in range(K)])
    (refined,) = refine(model, metric, query, [candidates], active)
    return model, candidates, refined


def respond(model, candidates, refined, steer=None):
    results = build_results(model.space, candidates, refined, SearchRequest(limit=K, explain=True))
    return SearchResponse(results, True, None, K, K, model.space.space_id, model.model_id, steer=steer or {})


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT])
@pytest.mark.parametrize("active", [True, False])
def test_a_steered_score_is_the_exact_sum_of_scaled_parts(metric, active):
    model, candidates, refined = window(metric, active)
    after = steered(refined, model.space, WEIGHTS)
    factors = np.ones(8)
    factors[[0, 2]] = [1.5, 0.0]
    np.testing.assert_array_equal(after.scored.residuals, refined.scored.residuals)
    np.testing.assert_allclose(after.scored.contributions, refined.scored.contributions * factors)
    np.testing.assert_allclose(
        after.scored.scores, after.scored.residuals + after.scored.contributions.sum(1), atol=1e-6
    )
    assert after.scored.scores[-1] == candidates.base_scores[-1]  # without a code there is nothing to scale
    assert not np.allclose(after.scored.scores[:-1], refined.scored.scores[:-1])
    same = steered(refined, model.space, {"entity": 1.0})
    np.testing.assert_array_equal(same.scored.scores, refined.scored.scores)


@pytest.mark.parametrize("value", [-0.1, 10.1, float("nan"), float("inf"), "1", None, True])
def test_a_weight_out_of_bounds_is_refused(value):
    with pytest.raises(InvalidInputError, match=r"by 0\.\.10, got entity="):
        checked_weights({"entity": value})
    with pytest.raises(InvalidInputError, match=r"by 0\.\.10"):
        SearchRequest(steer={"entity": value})


def test_a_proposal_raises_the_good_above_the_bad():
    model, candidates, refined = window()
    before = respond(model, candidates, refined)
    ids = [result.id for result in before]
    good, bad = ids[8:12], ids[:4]
    weights = propose_steering(before, good, bad, regularisation=0.1)
    assert weights
    assert all(0 <= weight <= 3 and model.space.index(name) >= 0 for name, weight in weights.items())
    after = respond(model, candidates, steered(refined, model.space, weights), weights)

    def gap(response):
        scores = {result.id: result.score for result in response}
        return np.mean([scores[key] for key in good]) - np.mean([scores[key] for key in bad])

    assert gap(after) > gap(before)
    again = propose_steering(after, good, bad, regularisation=0.1)
    assert all(0 <= weight <= 3 for weight in again.values())


def test_a_proposal_follows_its_formula():
    """Against a slow least-squares solution over all pairs, the penalty written as extra rows."""
    model, candidates, refined = window()
    response = respond(model, candidates, refined)
    ids = [result.id for result in response]
    good, bad, regularisation = ids[3:6], ids[0:2], 2.0
    by_id = {result.id: result for result in response}
    sides, lacking = [], []
    spread = np.std([result.score for result in response])
    for g in good:
        for b in bad:
            parts = [np.array(by_id[key].explanation.contributions[:3]) for key in (g, b)]
            sides.append(parts[0] - parts[1])
            lacking.append(max(0.0, spread - (by_id[g].score - by_id[b].score)))
    a, r = np.array(sides), np.array(lacking)
    penalty = regularisation * np.mean((a**2).sum(1)) * len(a)
    rows, wanted = np.vstack([a, np.sqrt(penalty) * np.eye(3)]), np.concatenate([r, np.zeros(3)])
    expected = np.clip(1 + np.linalg.lstsq(rows, wanted, rcond=None)[0], 0, 3)
    found = propose_steering(response, good, bad, regularisation)
    for name, weight in zip(("entity", "numeric", "temporal"), expected, strict=True):
        assert found.get(name, 1.0) == pytest.approx(weight, abs=0.0151)


def test_one_side_alone_is_compared_with_the_unmarked():
    model, candidates, refined = window()
    response = respond(model, candidates, refined)
    ids = [result.id for result in response]
    assert propose_steering(response, good=ids[5:7]) == propose_steering(response, ids[5:7], ids[:5] + ids[7:])
    assert propose_steering(response, good=[], bad=ids[:2]) == propose_steering(response, ids[2:], ids[:2])


def test_uuids_are_marked_as_they_are_or_as_text():
    model, candidates, refined = window()
    response = respond(model, candidates, refined)
    keys = [uuid.UUID(int=row) for row in range(len(response))]
    named = replace(response, results=tuple(replace(one, id=str(key)) for one, key in zip(response, keys, strict=True)))
    assert propose_steering(named, keys[5:7], keys[:2]) == propose_steering(named, [*map(str, keys[5:7])], keys[:2])


def test_what_cannot_be_proposed_is_said():
    model, candidates, refined = window()
    response = respond(model, candidates, refined)
    ids = [result.id for result in response]
    for good, bad, reason in (
        ([], [], "mark at least one"),
        (ids, [], "leave at least one"),
        (["nonesuch"], [], "not among the 20 results"),
        (ids[:1], ids[:1], "both good and bad"),
        (ids[0], [], "come as a list"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            propose_steering(response, good, bad)
    with pytest.raises(InvalidInputError, match="above 0"):
        propose_steering(response, ids[:1], regularisation=0)
    bare = build_results(model.space, candidates, refined, SearchRequest(limit=K))
    with pytest.raises(InvalidInputError, match="explain=True"):
        propose_steering(SearchResponse(bare, True, None, K, K, "", ""), ids[:1])

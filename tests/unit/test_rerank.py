"""Candidates that were fetched elsewhere score as in a search that fetched them itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factory import DIM, make_model
from imrnn_vdb import IMRNNCollection, InvalidInputError, SpaceMismatchError, factor, match
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.points import Candidates
from imrnn_vdb.rerank import rerank

POINTS = 40


@pytest.fixture
def fetched(rng, tmp_path):
    """A collection, two queries, and all points as candidates of each."""
    model = make_model()
    vectors = rng.normal(size=(POINTS, DIM)).astype(np.float32)
    queries = rng.normal(size=(2, DIM)).astype(np.float32)
    payloads = [{"row": row} for row in range(POINTS)]
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/reranked", model, code_dtype="float32") as collection:
        collection.upsert(range(POINTS), vectors=vectors, payloads=payloads)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        codes = model.space.encode(unit)
        scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ unit.T
        batch = [Candidates(list(range(POINTS)), row.astype(np.float64), codes, payloads) for row in scores]
        yield collection, queries, batch


def test_a_zero_query_has_no_cosine(fetched):
    collection, queries, batch = fetched
    queries[1] = 0
    request = SearchRequest(coarse_k=POINTS)
    with pytest.raises(InvalidInputError, match="a zero vector has no cosine"):
        rerank(collection.model, Metric.COSINE, queries, batch, request)
    assert len(rerank(collection.model, Metric.DOT, queries, batch, request)) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"explain": True},
        {"offset": 3, "limit": 5},
        {"steer": {"entity": 2.0}, "explain": True},
        {"factor_filter": match("numeric").in_top(2), "max_coarse_k": POINTS},
        {"modulate": False},
    ],
)
def test_reranking_returns_what_a_search_returns(fetched, options):
    collection, queries, batch = fetched
    wanted = collection.search_batch(queries, coarse_k=POINTS, **options)
    found = rerank(collection.model, Metric.COSINE, queries, batch, SearchRequest(coarse_k=POINTS, **options))
    for one, other in zip(found, wanted, strict=True):
        assert [result.id for result in one] == [result.id for result in other]
        assert [result.base_rank for result in one] == [result.base_rank for result in other]
        np.testing.assert_allclose([r.score for r in one], [r.score for r in other], atol=2e-6)
        assert [result.payload for result in one] == [result.payload for result in other]
        for result in one:
            if options.get("explain"):
                assert result.explanation.score == pytest.approx(result.score, abs=1e-6)


def test_a_filter_on_documents_is_evaluated_on_what_was_given(fetched):
    collection, queries, batch = fetched
    request = SearchRequest(limit=POINTS, coarse_k=POINTS, factor_filter=factor("entity") >= 0.5)
    [found] = rerank(collection.model, Metric.COSINE, queries[:1], batch[:1], request)
    assert 0 < len(found) < POINTS
    assert all(result.factors["entity"] >= 0.5 for result in found)


def test_candidates_without_a_code_are_counted_and_keep_their_score(fetched):
    collection, queries, batch = fetched
    status = np.zeros(POINTS, np.uint8)
    status[:3], status[3] = CodeStatus.MISSING, CodeStatus.OTHER_SPACE
    codes = Codes(batch[0].codes.directions * (status == 0)[:, None], batch[0].codes.norms * (status == 0), status)
    request = SearchRequest(limit=POINTS, coarse_k=POINTS)
    [found] = rerank(collection.model, Metric.COSINE, queries[:1], [replace(batch[0], codes=codes)], request)
    assert found.unusable == {"missing": 3, "other_space": 1}
    assert {r.id for r in found if r.score == r.base_score and not r.modulated} == {0, 1, 2, 3}
    for everything in (~(factor("entity") > 1), ~(match("entity") > 1e9)):  # but what has no code matches no filter
        request = SearchRequest(limit=POINTS, coarse_k=POINTS, factor_filter=everything)
        [found] = rerank(collection.model, Metric.COSINE, queries[:1], [replace(batch[0], codes=codes)], request)
        assert {r.id for r in found} == set(range(4, POINTS))


def test_what_needs_a_database_and_what_makes_no_sense_is_refused(fetched):
    collection, queries, batch = fetched
    model = collection.model
    for request in (SearchRequest(passes=2), SearchRequest(payload_filter="a == 1"), SearchRequest(only="nonesuch")):
        with pytest.raises(InvalidInputError):
            rerank(model, Metric.COSINE, queries, batch, request)
    with pytest.raises(SpaceMismatchError):
        rerank(model, Metric.COSINE, queries[:, 1:], batch, SearchRequest())
    with pytest.raises(InvalidInputError, match="2 queries, but 1"):
        rerank(model, Metric.COSINE, queries, batch[:1], SearchRequest())
    broken = replace(batch[0], base_scores=np.full(POINTS, np.nan))
    with pytest.raises(InvalidInputError, match="NaN"):
        rerank(model, Metric.COSINE, queries[:1], [broken], SearchRequest())
    with pytest.raises(InvalidInputError, match="does not split"):
        rerank(model, Metric.MANHATTAN, queries, batch, SearchRequest(steer={"entity": 2.0}))

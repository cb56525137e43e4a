from __future__ import annotations

import numpy as np
import pytest

from factory import make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.passes import original_scores, refined_queries


def oriented(metric: Metric, q: np.ndarray, d: np.ndarray) -> np.ndarray:
    if metric is Metric.COSINE:
        return d @ q / np.linalg.norm(q) / np.linalg.norm(d, axis=1)
    return d @ q if metric is Metric.DOT else -((d - q) ** 2).sum(1)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT, Metric.EUCLID], ids=str)
def test_base_scores_follow_exactly_from_those_of_the_refined_query(metric, rng):
    space = make_model().space
    query, vectors = rng.normal(size=(1, 32)).astype(np.float32) * 2, rng.normal(size=(50, 32)).astype(np.float32)
    moved = space.encode(query).directions[0] + rng.normal(size=8) * 0.1
    refined = refined_queries(space, query, space.encode(query), moved[None]).astype(np.float64)[0]
    found = original_scores(
        metric, oriented(metric, refined, vectors), space.encode(query), moved, space.encode(vectors)
    )
    np.testing.assert_allclose(found, oriented(metric, query[0].astype(np.float64), vectors), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
def test_two_passes_find_more_and_score_alike(metric, rng, tmp_path):
    model = make_model()
    vectors = rng.normal(size=(400, 32)).astype(np.float32)
    query = rng.normal(size=32).astype(np.float32)
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", model, metric=metric, code_dtype="float32") as collection:
        collection.upsert(range(400), vectors=vectors)
        once = collection.search(query, limit=20, coarse_k=20)
        twice = collection.search(query, limit=40, coarse_k=20, passes=2)
        everything = {r.id: r for r in collection.search(query, limit=400, coarse_k=400, modulate=False)}
    assert {r.id for r in once} < {r.id for r in twice}
    assert len(twice) == twice.candidates > 20
    assert "second pass" in twice.timings
    for result in twice:
        assert result.modulated
        assert result.base_score == pytest.approx(everything[result.id].base_score, rel=1e-4, abs=1e-4)


def test_a_model_that_is_off_has_no_second_pass(rng, tmp_path):
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", make_model(trained=False)) as collection:
        collection.upsert(range(50), vectors=rng.normal(size=(50, 32)))
        response = collection.search(rng.normal(size=32), limit=5, coarse_k=10, passes=2)
        with pytest.raises(InvalidInputError, match="passes is 1 or 2"):
            collection.search(rng.normal(size=32), passes=3)
    assert response.candidates == 10
    assert "second pass" not in response.timings

"""Vectors that are recognised by one score each."""

from __future__ import annotations

import numpy as np
import pytest

from imrnn_vdb.metric import Metric
from imrnn_vdb.probe import as_probed, probe_of

DIM, COUNT = 48, 200


def engine_scores(metric: Metric, probe: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Scores as an engine gives them: in single floats, one vector at a time."""
    rows = []
    for vector in vectors:
        dot, norm = np.float32(vector @ probe), np.float32(np.linalg.norm(vector))
        if metric is Metric.COSINE:
            rows.append(dot / (norm * np.float32(np.linalg.norm(probe))) if norm else np.float32(0))
        elif metric is Metric.DOT:
            rows.append(dot)
        else:
            away = np.abs(vector - probe)
            rows.append(-np.sum(away**2, dtype=np.float32) if metric is Metric.EUCLID else -away.sum(dtype=np.float32))
    return np.asarray(rows)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("metric", list(Metric), ids=str)
def test_only_vectors_that_changed_are_told_apart(metric: Metric, scale: float, rng: np.random.Generator) -> None:
    before = (scale * rng.normal(size=(COUNT, DIM))).astype(np.float32)
    before[0] = 0
    after, moved = before.copy(), np.arange(COUNT) % 3 == 1
    after[moved] = (scale * rng.normal(size=(int(moved.sum()), DIM))).astype(np.float32)
    probe = probe_of(DIM)
    scores = engine_scores(metric, probe, after)
    scores[5] = np.nan  # the engine left it out
    same = as_probed(metric, probe, before, scores)
    assert np.flatnonzero(~same).tolist() == sorted({*np.flatnonzero(moved).tolist(), 5})


def test_the_probe_is_the_same_each_time() -> None:
    np.testing.assert_array_equal(probe_of(DIM), probe_of(DIM))
    assert abs(float(np.linalg.norm(probe_of(4096))) - 1) < 0.1

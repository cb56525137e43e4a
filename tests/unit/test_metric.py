"""The score of each metric, from vectors."""

from __future__ import annotations

import numpy as np

from imrnn_vdb.metric import Metric, base_scores


def test_base_scores_are_oriented_and_a_zero_vector_scores_zero_by_its_cosine():
    query, vectors = np.array([3.0, 4.0], np.float32), np.array([[6.0, 8.0], [0.0, 0.0], [-4.0, 3.0]], np.float32)
    np.testing.assert_allclose(base_scores(Metric.COSINE, query, vectors), [1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(base_scores(Metric.DOT, query, vectors), [50.0, 0.0, 0.0])
    np.testing.assert_allclose(base_scores(Metric.EUCLID, query, vectors), [-25.0, -25.0, -50.0])
    np.testing.assert_allclose(base_scores(Metric.MANHATTAN, query, vectors), [-7.0, -7.0, -8.0])

"""Whether vectors are what they were, told by one score each: pure.

After codes are written, a backfill has to know which vectors changed meanwhile. Reading them again would cost as much
as reading them at first. A score against a fixed random vector is one number for each, and a vector that changed keeps
its score, to the precision of single floats, with a chance of about 1 in 40,000 (d = 384).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.metric import Metric
from imrnn_vdb.metric import base_scores as exact_scores

_TOLERANCE = 2e-6
"""Of the largest score that vectors of these norms can have. Engines were off by 1e-7 of it at most (d = 384)."""


def probe_of(dim: int) -> FloatArray:
    """Return the vector to compare with: random, of norm about 1, the same each time; shape (dim,)."""
    return np.random.default_rng(0).normal(scale=dim**-0.5, size=dim).astype(np.float32)


def as_probed(
    metric: Metric, probe: FloatArray, vectors: FloatArray, base_scores: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Say which vectors have the scores that an engine gives against the probe.

    Parameters
    ----------
    metric
        Of the scores.
    probe
        Shape (d,).
    vectors
        Shape (n, d), finite.
    base_scores
        Shape (n,), higher is better, see :mod:`imrnn_vdb.metric`; NaN where the engine returned none.

    Returns
    -------
    numpy.ndarray
        Shape (n,), bool.
    """
    order = 1 if metric is Metric.MANHATTAN else 2
    norms, own = (np.linalg.norm(rows.astype(np.float64), ord=order, axis=-1) for rows in (vectors, probe))
    if metric is Metric.COSINE:
        scale = np.ones(len(vectors))
    elif metric is Metric.DOT:
        scale = norms * own
    else:
        scale = (norms + own) ** order
    apart = np.abs(np.asarray(base_scores, np.float64) - exact_scores(metric, probe, vectors))
    return np.asarray(apart <= _TOLERANCE * scale)

"""The metrics a collection can have, and how their scores relate to the cosine (DESIGN.md §2).

Everywhere in this package a score is *oriented*: higher is better. Stores translate their engine's number once, at the
boundary:

========== ===================================== ====================
metric     oriented base score                   range
========== ===================================== ====================
cosine     ``⟨q, d⟩ / (‖q‖ ‖d‖)``                −1 … 1
dot        ``⟨q, d⟩``                            unbounded
euclid     ``−‖q − d‖²`` (squared, negated)      −∞ … 0
manhattan  ``−Σ |q − d|``                        −∞ … 0
========== ===================================== ====================
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt


class Metric(str, Enum):
    """Metric of a collection's base vector."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"
    MANHATTAN = "manhattan"

    def __str__(self) -> str:
        return self.value

    @property
    def factorable(self) -> bool:
        """Whether the score splits exactly into factors; a Manhattan distance does not."""
        return self in (Metric.COSINE, Metric.DOT, Metric.EUCLID)


def base_scores(
    metric: Metric, query_vector: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Compute what a database would score, exactly, from stored vectors.

    Parameters
    ----------
    metric
        Of the collection.
    query_vector
        Shape (d,); not zero under cosine.
    vectors
        Shape (k, d).

    Returns
    -------
    numpy.ndarray
        Shape (k,), float64, oriented as above; 0 for a zero vector under cosine, not finite for one that is not.
    """
    with np.errstate(invalid="ignore"):  # what is not finite gives NaN
        return _scored(metric, query_vector.astype(np.float64), vectors.astype(np.float64))


def _scored(metric: Metric, query: npt.NDArray[np.float64], table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    match metric:  # without a last resort, so that a type checker finds a metric that is not here
        case Metric.EUCLID:
            return np.asarray(-((table - query) ** 2).sum(axis=1))
        case Metric.MANHATTAN:
            return np.asarray(-np.abs(table - query).sum(axis=1))
        case Metric.DOT:
            return np.asarray(table @ query)
        case Metric.COSINE:
            inner, lengths = table @ query, np.linalg.norm(table, axis=1) * np.linalg.norm(query)
            return np.asarray(np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths != 0))

"""Which points need which codes: what is stored beside what the stored vector gives. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId, Points
from imrnn_vdb.space import UNMEASURABLE, FactorSpace, measurable


@dataclass(frozen=True, slots=True)
class FailedPoint:
    """A point that could not get its code, and why."""

    id: PointId
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch of points needs.

    Attributes
    ----------
    ids, codes, scores, vectors
        Of the points that lack something: n ids, n codes, those that are stored where they are what their vectors give
        and fresh ones else, factor scores of shape (n, named factors), and the vectors, of shape (n, d).
    lacking
        Shape (n, 1 + named factors), bool: whether the code, and which of the scores, are not what they should be.
    current
        How many points need nothing.
    failures
        Points whose vectors cannot have a code.
    """

    ids: list[PointId]
    codes: Codes
    scores: FloatArray
    vectors: FloatArray
    lacking: npt.NDArray[np.bool_]
    current: int
    failures: tuple[FailedPoint, ...]


def fresh_codes(space: FactorSpace, metric: Metric, vectors: npt.ArrayLike) -> Codes:
    """Compute codes to store. Under cosine a norm means nothing and engines may lose it, so it is stored as 1.

    Parameters
    ----------
    space
        Factor space.
    metric
        Of the base vectors.
    vectors
        Shape (n, d), finite.
    """
    codes = space.encode(vectors)
    if metric is Metric.COSINE:
        return Codes(codes.directions, (codes.norms > 0).astype(np.float32), codes.status)
    return codes


def plan(space: FactorSpace, metric: Metric, points: Points) -> Plan:
    """Say which points need which codes; points were read with vectors.

    Raises
    ------
    SpaceMismatchError
        If the vectors do not have the space's dimension.
    """
    if points.vectors is None or not len(points):
        empty, named = np.zeros((0, space.num_factors), np.float32), len(space.names)
        nothing = Codes(empty, np.zeros(0, np.float32), np.zeros(0, np.uint8))
        scores, vectors = np.zeros((0, named), np.float32), np.zeros((0, space.dim), np.float32)
        return Plan([], nothing, scores, vectors, np.zeros((0, 1 + named), bool), 0, ())
    finite = measurable(points.vectors)
    codes = fresh_codes(space, metric, np.where(finite[:, None], points.vectors, np.float32(0)))
    kept = same_codes(points.codes, codes)
    if points.codes is not None:  # a score is that of the code which stays, to the last bit
        codes = Codes(
            np.where(kept[:, None], points.codes.directions, codes.directions),
            np.where(kept, points.codes.norms, codes.norms),
            codes.status,
        )
    scores = space.factor_scores(codes.directions)
    lacking = ~np.column_stack([kept, _same_scores(points.factor_scores, scores, kept)])
    same = ~lacking.any(axis=1)
    rows = np.flatnonzero(np.asarray(finite & ~same))
    failures = [FailedPoint(points.ids[row], f"its vector {UNMEASURABLE}") for row in np.flatnonzero(~finite)]
    current = int((finite & same).sum())
    ids = [points.ids[row] for row in rows]
    return Plan(ids, codes.take(rows), scores[rows], points.vectors[rows], lacking[rows], current, tuple(failures))


def same_codes(stored: Codes | None, fresh: Codes) -> npt.NDArray[np.bool_]:
    """Say which stored codes are current and are what their vectors give, at the precision they were stored in."""
    if stored is None:
        return np.zeros(len(fresh), bool)
    close = np.isclose(stored.directions, fresh.directions, rtol=2e-3, atol=2e-5).all(axis=1)
    return np.asarray(stored.current & close & np.isclose(stored.norms, fresh.norms, rtol=1e-4, atol=1e-6))


def _same_scores(stored: FloatArray | None, fresh: FloatArray, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Say which stored factor scores are there and are what the vectors give, shape (n, named factors).

    Beside a code that is written anew, one that is merely close would be no longer what the code gives.
    """
    if stored is None:
        return np.zeros(fresh.shape, bool)
    close = np.isclose(stored, fresh, rtol=0, atol=1e-3)  # a missing score is NaN
    return np.asarray(np.where(kept[:, None], close, stored == fresh))

"""Exact scores of refined vectors from factor codes, and their parts (DESIGN.md §2, §4).

All modulation happens inside the span of the basis U, so that with z = Uᵀx the score of two refined vectors needs no
base vector, only the database's own score and the codes before and after. The formulas use nothing but arithmetic,
``sum`` and ``clip``, and so take numpy arrays and torch tensors alike: what is trained is what is served.

Shapes: ``…`` is any number of leading dimensions, k the candidates, m the factors; query arrays have k = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric

Column = npt.NDArray[np.float64]
Array = Any  # numpy.ndarray or torch.Tensor; one formula for both
_MIN_NORM = 1e-6


def base_cosines(metric: Metric, base_scores: Array, query_norm: Array, candidate_norms: Array) -> Array:
    """Turn oriented base scores into cosines, the scale that the model works in.

    Parameters
    ----------
    metric
        A factorable metric.
    base_scores
        Shape (…, k): oriented, higher is better.
    query_norm
        Shape (…, 1): ‖q‖.
    candidate_norms
        Shape (…, k): ‖d‖.

    Returns
    -------
    array
        Shape (…, k), in −1..1 up to rounding; 0 where a norm is 0.
    """
    if metric is Metric.COSINE:
        return base_scores
    inner = base_scores
    if metric is Metric.EUCLID:
        inner = (query_norm**2 + candidate_norms**2 + base_scores) / 2
    return inner / (query_norm * candidate_norms).clip(_MIN_NORM)


def cosine_of_refined(cosines: Array, q0: Array, d0: Array, q_t: Array, d_t: Array) -> Array:
    """Cosine of refined unit vectors: ``(s0 + Σ (q_t·d_t − q0·d0)) / (‖q_t‖ ‖d_t‖)``.

    Written as a difference, so that codes that were not moved return ``s0`` to the last bit.

    Parameters
    ----------
    cosines
        Shape (…, k): s0.
    q0, q_t
        Shape (…, 1, m): the query's direction code before and after.
    d0, d_t
        Shape (…, k, m): the candidates' direction codes before and after.

    Returns
    -------
    array
        Shape (…, k).
    """
    moved = cosines + (q_t * d_t - q0 * d0).sum(-1)
    return moved / _norm_product(q0, d0, q_t, d_t)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one query's candidates, and the parts that they are the sum of.

    Attributes
    ----------
    scores
        Shape (k,), float64, oriented.
    residuals
        Shape (k,), float64: the part outside the factor space.
    parts
        The contributions, or a function that computes them when they are first asked for.
    """

    scores: Column
    residuals: Column
    parts: Column | Callable[[], Column]

    @cached_property
    def contributions(self) -> Column:
        """Shape (k, m), float64, signed: ``scores == residuals + contributions.sum(1)`` to rounding."""
        return self.parts() if callable(self.parts) else self.parts


def score_candidates(
    metric: Metric,
    base_scores: npt.ArrayLike,
    codes: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    norms: tuple[float, npt.ArrayLike],
    shrinkage: float = 1.0,
    usable: npt.NDArray[np.bool_] | None = None,
) -> Scored:
    """Score refined candidates exactly, and take the scores apart.

    Parameters
    ----------
    metric
        A factorable metric.
    base_scores
        Shape (k,): oriented, as the database returned them.
    codes
        ``(q0, d0, q_t, d_t)``: direction codes of the query, shape (m,), and of the candidates, shape (k, m), before
        and after.
    norms
        ``(‖q‖, ‖d‖)``: a float and shape (k,).
    shrinkage
        λ in 0..1: ``score = (1 − λ)·base + λ·refined``.
    usable
        Shape (k,): False where a candidate has no usable code. It keeps its base score, all of it as residual.

    Returns
    -------
    Scored
        In the unit of the base score. Codes that were not moved give the base scores to the last bit.

    Raises
    ------
    InvalidInputError
        If the metric does not split into factors.
    """
    base = np.asarray(base_scores, np.float64)
    q0, d0, q_t, d_t = (np.asarray(code, np.float64) for code in codes)
    d_norms = np.asarray(norms[1], np.float64)
    whole = metric, (q0, d0, q_t, d_t), (float(norms[0]), d_norms)
    if metric is Metric.COSINE:
        lengths = _lengths(q0, d0, q_t, d_t)
        outside = base - _dot(d0, q0)
        refined = (base + _change_of_dot(q0, d0, q_t, d_t)) / lengths
        residuals = outside + shrinkage * (outside / lengths - outside)
    elif metric is Metric.DOT:
        scale = float(norms[0]) * d_norms
        refined = base + scale * _change_of_dot(q0, d0, q_t, d_t)
        residuals = base - scale * _dot(d0, q0)
    elif metric is Metric.EUCLID:
        before, after = (float(norms[0]) * q - d_norms[:, None] * d for q, d in ((q0, d0), (q_t, d_t)))
        refined = base - _sum_of_products(after - before, after + before)
        residuals = base + _sum_of_products(before, before)
    else:
        raise InvalidInputError(f"a {metric} score does not split into factors")
    scores = base + shrinkage * (refined - base)
    if usable is not None and not usable.all():
        scores, residuals = np.where(usable, scores, base), np.where(usable, residuals, base)
    return Scored(scores, residuals, partial(_contributions, *whole, shrinkage, usable))


def _contributions(
    metric: Metric,
    codes: tuple[Column, Column, Column, Column],
    norms: tuple[float, Column],
    shrinkage: float,
    usable: npt.NDArray[np.bool_] | None,
) -> Column:
    """Return each coordinate's part of the scores, shape (k, m); 0 where a code is not usable."""
    q0, d0, q_t, d_t = codes
    if metric is Metric.EUCLID:
        before, after = (-((norms[0] * q - norms[1][:, None] * d) ** 2) for q, d in ((q0, d0), (q_t, d_t)))
    else:
        before, after = q0 * d0, q_t * d_t
        if metric is Metric.COSINE:
            after = after / _lengths(q0, d0, q_t, d_t)[:, None]
        else:
            scale = (norms[0] * norms[1])[:, None]
            before, after = scale * before, scale * after
    parts: Column = before + shrinkage * (after - before)
    return parts if usable is None else np.where(usable[:, None], parts, 0.0)


def ranking(ranks: npt.NDArray[np.intp], scores: Column) -> npt.NDArray[np.intp]:
    """Return the rows of k candidates, shape (k,), best first: by score, ties by base rank.

    Parameters
    ----------
    ranks
        Shape (k,), as :func:`base_ranks` gives them.
    scores
        Shape (k,), oriented.
    """
    order: npt.NDArray[np.intp] = np.lexsort((ranks, -scores))
    return order


def base_ranks(base_scores: Column) -> npt.NDArray[np.intp]:
    """Return the 1-based ranks that the database gives, shape (k,); its order decides between equal base scores."""
    ranks = np.empty(len(base_scores), np.intp)
    ranks[np.argsort(-base_scores, kind="stable")] = np.arange(1, len(base_scores) + 1)
    return ranks


def breaks_bound(
    cosines: npt.ArrayLike, q0: npt.ArrayLike, d0: npt.ArrayLike, tolerance: float = 5e-3
) -> npt.NDArray[np.bool_]:
    """Find codes that cannot belong to the vectors the database scored (Cauchy-Schwarz outside the factor space).

    Parameters
    ----------
    cosines
        Shape (k,): cosines of query and candidates, from the database.
    q0
        Shape (m,): the query's direction code.
    d0
        Shape (k, m): the candidates' direction codes.
    tolerance
        Allowance for half-precision codes and approximate base scores.

    Returns
    -------
    numpy.ndarray
        Shape (k,), True where ``|s0 − q0·d0| > √((1 − ‖q0‖²)(1 − ‖d0‖²))``: the code is certainly stale.
    """
    q, d = np.asarray(q0), np.asarray(d0)  # in single precision, which the tolerance covers many times
    outside = np.abs(np.asarray(cosines) - _dot(d, q))
    room = max(0.0, 1 - float(q @ q)) * (1 - _sum_of_products(d, d)).clip(0)
    return np.asarray(outside > np.sqrt(room) + tolerance)


# Row sums by einsum: no threads, no temporary arrays, and no row depends on where it stands.


def _dot(d: Column, q: Column) -> Column:
    """Σ_j d[i, j]·q[j], shape (k,)."""
    products: Column = np.einsum("kj,j->k", d, q)
    return products


def _sum_of_products(a: Column, b: Column) -> Column:
    """Σ_j a[i, j]·b[i, j], shape (k,)."""
    sums: Column = np.einsum("kj,kj->k", a, b)
    return sums


def _change_of_dot(q0: Column, d0: Column, q_t: Column, d_t: Column) -> Column:
    """q_t·d_t − q0·d0, shape (k,); exactly 0 where nothing moved."""
    return _dot(d_t, q_t - q0) + _dot(d_t - d0, q0)


def _lengths(q0: Column, d0: Column, q_t: Column, d_t: Column) -> Column:
    """‖q_t‖·‖d_t‖ of one query, shape (k,): :func:`_norm_product` without threads."""
    query = max(_MIN_NORM, 1 + float((q_t - q0) @ (q_t + q0)))
    squares = 1 + _sum_of_products(d_t - d0, d_t + d0)
    lengths: Column = np.sqrt(query * squares.clip(_MIN_NORM))
    return lengths


def _norm_product(q0: Array, d0: Array, q_t: Array, d_t: Array) -> Array:
    """‖q_t‖·‖d_t‖ of refined unit vectors, by ``‖x_t‖² = 1 + ‖z_t‖² − ‖z_0‖²``; exactly 1 where nothing moved."""
    squares = [(1 + ((z_t - z_0) * (z_t + z_0)).sum(-1)).clip(_MIN_NORM) for z_0, z_t in ((q0, q_t), (d0, d_t))]
    return (squares[0] * squares[1]) ** 0.5

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
Rows = slice | npt.NDArray[np.intp]
_ALL = slice(None)
_Codes = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]
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
    lengths = query_norm * candidate_norms
    there = lengths > 0
    return there * inner / (lengths + ~there)


@dataclass(frozen=True, slots=True)
class Products:
    """Inner products of the codes of queries and candidates: all that a score needs of them.

    Attributes
    ----------
    dots
        Shape (…, k): q·d.
    squares
        Shape (…, k): ‖d‖².
    own
        Shape (…, 1): ‖q‖².
    """

    dots: Array
    squares: Array
    own: Array


def products_of(query: Array, candidates: Array) -> Products:
    """Return the inner products of codes of shapes (…, 1, m) and (…, k, m)."""
    return Products((query * candidates).sum(-1), (candidates * candidates).sum(-1), (query * query).sum(-1))


def row_products(query: npt.ArrayLike, candidates: npt.ArrayLike) -> Products:
    """Return the same for one query, shape (m,), and its candidates, shape (k, m), in double precision.

    By einsum: no threads, no temporary arrays, and no row depends on where it stands.
    """
    row, table = np.asarray(query, np.float64)[None], np.asarray(candidates, np.float64)
    squares, own = (np.einsum("kj,kj->k", side, side) for side in (table, row))
    return Products(np.einsum("kj,j->k", table, row[0]), squares, own)


def cosine_of_refined(cosines: Array, q0: Array, d0: Array, q_t: Array, d_t: Array) -> Array:
    """Cosine of refined unit vectors, see :func:`refined_cosines`.

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
    return refined_cosines(cosines, products_of(q0, d0), products_of(q_t, d_t))


def refined_cosines(cosines: Array, before: Products, after: Products) -> Array:
    """Return ``(s0 + q_t·d_t − q0·d0) / (‖q_t‖ ‖d_t‖)``, shape (…, k).

    Written in differences, so that codes that were not moved return ``s0`` to the last bit.
    """
    return (cosines + (after.dots - before.dots)) / refined_lengths(before, after)


def refined_lengths(before: Products, after: Products) -> Array:
    """‖q_t‖·‖d_t‖ of refined unit vectors; exactly 1 where nothing moved."""
    query, candidates = _squared_lengths(before, after)
    return (query * candidates) ** 0.5


def _squared_lengths(before: Products, after: Products) -> tuple[Array, Array]:
    """‖q_t‖² and ‖d_t‖² of refined unit vectors."""
    return refined_square(before.own, after.own), refined_square(before.squares, after.squares)


def refined_square(before: Array, after: Array) -> Array:
    """‖x_t‖² of refined unit vectors, ``1 + ‖z_t‖² − ‖z_0‖²``, of any shape; exactly 1 where nothing moved."""
    return (1 + (after - before)).clip(_MIN_NORM)


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
        The contributions, or a function that computes those of some rows and of the first few factors.
    """

    scores: Column
    residuals: Column
    parts: Column | Callable[[Rows, int | None], Column]

    @cached_property
    def contributions(self) -> Column:
        """Shape (k, m), float64, signed: ``scores == residuals + contributions.sum(1)`` to rounding."""
        return self.part()

    def part(self, rows: Rows = _ALL, count: int | None = None) -> Column:
        """Return the contributions of some rows and of the first ``count`` factors; the others are not computed."""
        return self.parts(rows, count) if callable(self.parts) else self.parts[rows, :count]


def score_candidates(
    metric: Metric,
    base_scores: npt.ArrayLike,
    codes: _Codes,
    norms: tuple[float, npt.ArrayLike],
    shrinkage: float = 1.0,
    usable: npt.NDArray[np.bool_] | None = None,
    products: tuple[Products, Products] | None = None,
    turn: Callable[[Any], Any] = np.asarray,
) -> Scored:
    """Score refined candidates exactly, and take the scores apart.

    A refined vector keeps the length that it had, whatever the metric: only its direction is refined. So vectors of one
    length are ranked alike by all three metrics, and as the cosines that a model was trained and judged by.

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
        Shape (k,): False where a candidate has no usable code. It keeps its base score, all of it as residual. None
        where all have one.
    products
        Inner products of the codes before and after, in double precision; None to compute them from the codes.
    turn
        Rotates codes to the coordinates that contributions are told in.

    Returns
    -------
    Scored
        In the unit of the base score. Codes that were not moved give the base scores to the last bit.

    Raises
    ------
    InvalidInputError
        If the metric does not split into factors.
    """
    if not metric.factorable:
        raise InvalidInputError(f"a {metric} score does not split into factors")
    base, sizes = np.asarray(base_scores, np.float64), (float(norms[0]), np.asarray(norms[1], np.float64))
    q0, d0, q_t, d_t = codes
    before, after = products or (row_products(q0, d0), row_products(q_t, d_t))
    scale = 1.0 if metric is Metric.COSINE else sizes[0] * sizes[1]
    lengths = refined_lengths(before, after)
    inner = (sizes[0] ** 2 + sizes[1] ** 2 + base) / 2 if metric is Metric.EUCLID else base
    refined = (inner + scale * (after.dots - before.dots)) / lengths
    if metric is Metric.EUCLID:
        refined = base + 2 * (refined - inner)
        outside = base + _distances(before, sizes)
        outside_after = refined + _distances(after, _sizes_after(sizes, before, after))
    else:
        outside = base - scale * before.dots
        outside_after = outside / lengths
    residuals = outside + shrinkage * (outside_after - outside)
    scores = base + shrinkage * (refined - base)
    if usable is not None:
        scores, residuals = np.where(usable, scores, base), np.where(usable, residuals, base)
    parts = partial(_contributions, metric, codes, turn, sizes, (before, after), shrinkage, usable)
    return Scored(scores, residuals, parts)


def _sizes_after(norms: tuple[float, Column], before: Products, after: Products) -> tuple[Column, Column]:
    """Return what direction codes after modulation are multiplied by, for refined vectors to keep their lengths."""
    query, candidates = _squared_lengths(before, after)
    return norms[0] / query**0.5, norms[1] / candidates**0.5


def _distances(products: Products, norms: tuple[float | Column, Column]) -> Column:
    """Return the squared distances inside the factor space, ``‖ ‖q‖z_q − ‖d‖z_d ‖²``, shape (k,)."""
    inner, (query, candidates) = products, norms
    distances: Column = query**2 * inner.own + candidates * (candidates * inner.squares - 2 * query * inner.dots)
    return distances


def _contributions(
    metric: Metric,
    codes: _Codes,
    turn: Callable[[Any], Any],
    norms: tuple[float, Column],
    products: tuple[Products, Products],
    shrinkage: float,
    usable: npt.NDArray[np.bool_] | None,
    rows: Rows,
    count: int | None,
) -> Column:
    """Return the part of the scores of each of the first coordinates, shape (rows, count); 0 without a usable code."""
    q0, q_t = (np.asarray(turn(code)[:count], np.float64) for code in codes[::2])
    d0, d_t = (np.asarray(turn(code)[rows, :count], np.float64) for code in codes[1::2])
    if metric is Metric.EUCLID:
        before, after = (
            -((query * q - sizes[rows, None] * d) ** 2)
            for q, d, (query, sizes) in ((q0, d0, norms), (q_t, d_t, _sizes_after(norms, *products)))
        )
    else:
        scale = 1.0 if metric is Metric.COSINE else norms[0] * norms[1][rows, None]
        before, after = scale * q0 * d0, scale * q_t * d_t / refined_lengths(*products)[rows, None]
    parts: Column = before + shrinkage * (after - before)
    return parts if usable is None else np.where(usable[rows, None], parts, 0.0)


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
    ranks = np.arange(1, len(base_scores) + 1)
    if not (base_scores[1:] <= base_scores[:-1]).all():  # engines return the best first
        ranks[np.argsort(-base_scores, kind="stable")] = ranks.copy()
    return ranks


def breaks_bound(cosines: npt.ArrayLike, products: Products, tolerance: float = 5e-3) -> npt.NDArray[np.bool_]:
    """Find codes that cannot belong to the vectors the database scored (Cauchy-Schwarz outside the factor space).

    Parameters
    ----------
    cosines
        Shape (k,): cosines of query and candidates, from the database.
    products
        Inner products of the query's direction code with the candidates' k.
    tolerance
        Allowance for half-precision codes and approximate base scores.

    Returns
    -------
    numpy.ndarray
        Shape (k,), True where ``|s0 − q0·d0| > √((1 − ‖q0‖²)(1 − ‖d0‖²))``: the code is certainly stale.
    """
    room = (1 - products.own).clip(0) * (1 - products.squares).clip(0)
    return np.asarray(abs(cosines - products.dots) > room**0.5 + tolerance)

"""The second pass: the refined query goes back to the database, and both candidate sets are joined (DESIGN.md §4).

A newcomer's base score, which belongs to the original query, follows exactly from the score that the refined query
found, because the two queries differ inside the factor space only, where the newcomer's code is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates, LazyRows, T
from imrnn_vdb.scoring import base_cosines, breaks_bound, refined_square, row_products
from imrnn_vdb.space import FactorSpace


def refined_queries(space: FactorSpace, query_vectors: FloatArray, queries: Codes, moved: npt.ArrayLike) -> FloatArray:
    """Return the refined query vectors ``q + ‖q‖ U (z_T − z_0)``, brought back to the lengths of the queries.

    Parameters
    ----------
    space
        Of the codes.
    query_vectors
        Shape (n, d).
    queries
        Their n codes.
    moved
        Shape (n, m): direction codes of the queries after modulation.

    Returns
    -------
    numpy.ndarray
        Shape (n, d), float32.
    """
    directions = np.asarray(moved)
    update = (directions - queries.directions) @ space.basis.T
    lengths = _length(queries.directions, directions)[:, None]
    refined: FloatArray = ((query_vectors + queries.norms[:, None] * update) / lengths).astype(np.float32)
    return refined


def original_scores(
    metric: Metric, scores: npt.ArrayLike, query: Codes, moved: npt.ArrayLike, candidates: Codes
) -> npt.NDArray[np.float64]:
    """Turn the scores of a refined query into base scores of the original one.

    Parameters
    ----------
    metric
        A factorable metric.
    scores
        Shape (k,): oriented, as the database returned them for the refined query.
    query
        One code: the original query's.
    moved
        Shape (m,): the query's direction code after modulation.
    candidates
        k current codes.

    Returns
    -------
    numpy.ndarray
        Shape (k,), float64, oriented; exact up to the precision of the codes.
    """
    found = np.asarray(scores, np.float64)
    q0, q_t = query.directions[0].astype(np.float64), np.asarray(moved, np.float64)
    shift, length = candidates.directions.astype(np.float64) @ (q_t - q0), _length(q0, q_t)
    if metric is Metric.COSINE:
        return np.asarray(found * length - shift)
    norm, norms = float(query.norms[0]), candidates.norms.astype(np.float64)
    if metric is Metric.DOT:
        return np.asarray(found * length - norm * norms * shift)
    squares = norm**2 + norms**2
    return np.asarray((squares + found) * length - 2 * norm * norms * shift - squares)


def _length(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the lengths of refined unit vectors, shape (…), from their codes before and after, shape (…, m)."""
    return np.asarray(np.sqrt(refined_square((before**2).sum(-1), (after**2).sum(-1))))


def join(metric: Metric, first: Candidates, second: Candidates, query: Codes, moved: npt.ArrayLike) -> Candidates:
    """Add to a first candidate set what only the refined query found.

    A newcomer's base score is derived from its code (:func:`original_scores`), not asked of the database. Newcomers
    without a current code, or with one that certainly belongs to another vector, are left out: their base score cannot
    be known without another request.

    Parameters
    ----------
    metric
        A factorable metric.
    first, second
        Candidates of the original and of the refined query.
    query
        One code: the original query's.
    moved
        Shape (m,): the query's direction code after modulation.

    Returns
    -------
    Candidates
        All of ``first``, then the newcomers.
    """
    known = set(first.ids)
    rows = np.array(
        [i for i, point_id in enumerate(second.ids) if point_id not in known and second.codes.current[i]], np.intp
    )
    codes = second.codes.take(rows)
    base = original_scores(metric, second.base_scores[rows], query, moved, codes)
    cosines = base_cosines(metric, base, query.norms.astype(np.float64), codes.norms.astype(np.float64))
    true = ~breaks_bound(cosines, row_products(query.directions[0], codes.directions))
    rows, codes, base = rows[true], codes.take(np.flatnonzero(true)), base[true]
    kept = rows.tolist()
    return Candidates(
        _joined(first.ids, second.ids, kept),
        np.concatenate([first.base_scores, base]),
        Codes(
            np.concatenate([first.codes.directions, codes.directions]),
            np.concatenate([first.codes.norms, codes.norms]),
            np.concatenate([first.codes.status, codes.status]),
        ),
        _joined(first.payloads, second.payloads, kept),
        first.cut_short,
        first.partial or second.partial,
    )


def _joined(first: Sequence[T], second: Sequence[T], rows: list[int]) -> LazyRows[T]:
    """Return all of ``first``, then these rows of ``second``."""
    known = len(first)
    return LazyRows(lambda row: first[row] if row < known else second[rows[row - known]], known + len(rows))

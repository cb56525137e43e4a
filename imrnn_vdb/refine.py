"""From candidates to exact scores: modulate all queries of a request at once, then score each (DESIGN.md §6, step 3).

Pure: no I/O. What cannot be modulated keeps its base score and says why; a failing model never fails the search.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, CodeStatus, FloatArray
from imrnn_vdb.joined import Joined
from imrnn_vdb.metric import Metric
from imrnn_vdb.modulation import Inputs, side_by_side
from imrnn_vdb.points import Candidates, PointId
from imrnn_vdb.scoring import Products, Scored, base_cosines, breaks_bound, row_products, score_candidates

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel

_log = logging.getLogger("imrnn_vdb")


@dataclass(frozen=True, slots=True)
class Refined:
    """One query's candidates after modulation, in the order in which they came.

    Attributes
    ----------
    scored
        Scores, residuals and contributions, one row a candidate.
    asked, query
        Shape (m,): the query's direction code before and after modulation.
    status
        Shape (k,), values of :class:`CodeStatus`, stale codes found included.
    modulated
        Shape (k,), bool: True where the model moved and scored the candidate.
    failure
        Why nothing was modulated; None where the model ran.
    """

    scored: Scored
    asked: FloatArray
    query: FloatArray
    status: npt.NDArray[np.uint8]
    modulated: npt.NDArray[np.bool_]
    failure: str | None

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Shape (k,), bool: candidates with a current code; no other matches a factor filter."""
        return np.asarray(self.status == CodeStatus.CURRENT)


def refine(
    model: IMRNNModel, metric: Metric, query_vectors: FloatArray, batch: list[Candidates], active: bool
) -> list[Refined]:
    """Modulate and score the candidates of several queries together.

    Parameters
    ----------
    model
        Space and modulator.
    metric
        Metric of the base scores.
    query_vectors
        Shape (n, d), float32, finite: what :func:`imrnn_vdb.space.check_vectors` lets through.
    batch
        n candidate sets, of any sizes.
    active
        Whether the modulator runs. Without it the scores are the base scores, still taken apart exactly.

    Returns
    -------
    list of Refined
        n entries.
    """
    return refine_codes(model, metric, model.space.project(query_vectors), batch, active)


def refine_codes(
    model: IMRNNModel, metric: Metric, queries: Codes, batch: list[Candidates], active: bool
) -> list[Refined]:
    """Do the same for n queries of which only the codes are known."""
    steps = refining(model, metric, queries, batch, active)
    try:
        while True:
            wait([next(steps)])
    except StopIteration as stop:
        refined: list[Refined] = stop.value
        return refined


def refining(
    model: IMRNNModel, metric: Metric, queries: Codes, batch: list[Candidates], active: bool
) -> Generator[Future[Any], None, list[Refined]]:
    """Do the same, and yield what must be waited for: the modulation, where concurrent requests share it."""
    if not metric.factorable:
        reason = f"a {metric} distance does not split into factors: the database's order is kept"
        return [
            _unrefined(candidates, query, reason) for candidates, query in zip(batch, queries.directions, strict=True)
        ]
    prepared = [
        _prepare(metric, query, float(norm), candidates)
        for query, norm, candidates in zip(queries.directions, queries.norms, batch, strict=True)
    ]
    _log_marked(prepared)
    failure = None if active else "the model is not switched on: the database's order is kept"
    if failure is None:
        try:
            moved = yield from _modulate(model, queries.directions, prepared)
        except Exception as exc:  # noqa: BLE001 - the failure policy: a failing model never fails the search
            _log.warning("modulation failed, the database's order is returned: %s", exc, exc_info=True)
            failure = f"modulation failed ({type(exc).__name__}): the database's order is kept"
    if failure is not None:
        moved = [_Moved(rows.query, rows.codes.directions, rows.products) for rows in prepared]
    shrinkage, turn = model.modulator.config.shrinkage, model.space.turn
    return [_score(metric, rows, after, shrinkage, failure, turn) for rows, after in zip(prepared, moved, strict=True)]


@dataclass(frozen=True, slots=True)
class _Rows:
    """One query, its candidates, and the canonical order in which the model sees them.

    In that order, the order of arrival cannot change a single bit of a sum over all candidates. ``order`` is None where
    they came in it, as they do from every engine that sorts. ``whole`` says that all have a usable code.
    """

    query: FloatArray
    norm: float
    order: npt.NDArray[np.intp] | None
    base_scores: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float64]
    codes: Codes
    products: Products
    usable: npt.NDArray[np.bool_]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Moved:
    """Directions of one query, shape (m,), and of its candidates, shape (k, m), after modulation."""

    query: FloatArray
    directions: FloatArray
    products: Products


def _prepare(metric: Metric, query: FloatArray, norm: float, candidates: Candidates) -> _Rows:
    base, codes = candidates.base_scores, candidates.codes
    cosines = base_cosines(metric, base, norm, codes.norms.astype(np.float64))
    products = row_products(query, codes.directions)
    stale = breaks_bound(cosines, products)
    whole = not stale.any() and bool(codes.norms.all()) and not codes.status.any()
    usable = ~stale
    if not whole:
        usable &= (codes.norms != 0) & codes.current
        wrong = np.where(codes.norms == 0, np.uint8(CodeStatus.ZERO), np.uint8(CodeStatus.STALE))
        codes = replace(codes, status=np.where(codes.current & ~usable, wrong, codes.status))
    order = canonical_order(base, candidates.ids)
    return _Rows(query, norm, order, base, cosines, codes, products, usable, whole)


def _log_marked(prepared: Sequence[_Rows]) -> None:
    """Say in the log how many candidates keep their base score for want of a usable code."""
    if all(rows.whole for rows in prepared):
        return
    total = sum(len(rows.usable) for rows in prepared)
    marked = total - sum(int(np.count_nonzero(rows.usable)) for rows in prepared)
    _log.info("%d of %d candidates have no usable factor code and keep their base score", marked, total)


def canonical_order(base_scores: npt.NDArray[np.float64], ids: Sequence[PointId]) -> npt.NDArray[np.intp] | None:
    """Return the order by falling base score, equal ones by id as text; None where it is the order they have."""
    if (base_scores[1:] < base_scores[:-1]).all():
        return None
    return np.lexsort((np.array([str(point_id) for point_id in ids]), -base_scores))


def _modulate(
    model: IMRNNModel, queries: FloatArray, prepared: list[_Rows]
) -> Generator[Future[Any], None, list[_Moved]]:
    """Run the model once over all queries, candidate sets in canonical order and padded to the longest."""
    inputs, modulate = _stacked(queries, prepared), model.modulate
    if isinstance(modulate, Joined):
        answer = modulate.submit(inputs)
        yield answer
        query, moved = answer.result()
    else:
        query, moved = modulate(*inputs)
    return [_checked(rows, q_t, d_t[: len(rows.usable)]) for rows, q_t, d_t in zip(prepared, query, moved, strict=True)]


def _checked(rows: _Rows, query: FloatArray, directions: FloatArray) -> _Moved:
    """Return what the model made of one query, in the order of arrival, if it is finite."""
    if rows.order is not None:
        back = np.empty_like(directions)
        back[rows.order] = directions
        directions = back
    products = row_products(query, directions)
    if not math.isfinite(products.squares.sum() + products.own[0]):
        raise ArithmeticError("the model returned values that are not finite")
    return _Moved(query, directions, products)


def _stacked(queries: FloatArray, prepared: list[_Rows]) -> Inputs:
    """Return the arguments of one modulation of all; codes that are not usable are zero."""
    parts = [_inputs(queries[i : i + 1], rows) for i, rows in enumerate(prepared)]
    return side_by_side(parts) if parts else Inputs.zeros(0, 0, queries.shape[1])


def _inputs(query: FloatArray, rows: _Rows) -> Inputs:
    codes, cosines, mask = rows.codes.directions, rows.cosines.astype(np.float32), rows.usable
    if rows.order is not None:
        codes, cosines, mask = codes[rows.order], cosines[rows.order], mask[rows.order]
    if not rows.whole:
        codes = codes * mask[:, None]
    return Inputs(query, codes[None], cosines[None], mask[None])


def _score(
    metric: Metric,
    rows: _Rows,
    after: _Moved,
    shrinkage: float,
    failure: str | None,
    turn: Callable[[FloatArray], FloatArray],
) -> Refined:
    codes = rows.query, rows.codes.directions, after.query, after.directions
    usable, products = None if rows.whole else rows.usable, (rows.products, after.products)
    norms = rows.norm, rows.codes.norms
    scored = score_candidates(metric, rows.base_scores, codes, norms, shrinkage, usable, products, turn)
    modulated = rows.usable if failure is None else np.zeros(len(rows.usable), bool)
    return Refined(scored, rows.query, after.query, rows.codes.status, modulated, failure)


def _unrefined(candidates: Candidates, query: FloatArray, failure: str) -> Refined:
    k, m = candidates.codes.directions.shape
    base = candidates.base_scores
    parts = Scored(base.copy(), base.copy(), np.zeros((k, m)))
    return Refined(parts, query, query, candidates.codes.status, np.zeros(k, bool), failure)

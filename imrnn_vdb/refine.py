"""From candidates to exact scores: modulate all queries of a request at once, then score each (DESIGN.md §6, step 3).

Pure: no I/O. What cannot be modulated keeps its base score and says why; a failing model never fails the search.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, CodeStatus, FloatArray
from imrnn_vdb.metric import Metric
from imrnn_vdb.scoring import Scored, base_cosines, breaks_bound, score_candidates
from imrnn_vdb.store import Candidates

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
        Shape (n, d), finite.
    batch
        n candidate sets, of any sizes.
    active
        Whether the modulator runs. Without it the scores are the base scores, still taken apart exactly.

    Returns
    -------
    list of Refined
        n entries.
    """
    queries = model.space.encode(query_vectors)
    if not metric.factorable:
        reason = f"a {metric} distance does not split into factors: the database's order is kept"
        return [
            _unrefined(candidates, query, reason) for candidates, query in zip(batch, queries.directions, strict=True)
        ]
    prepared = [_prepare(metric, queries, i, candidates) for i, candidates in enumerate(batch)]
    failure = None if active else "the model is not switched on: the database's order is kept"
    q_t, moved = queries.directions, [rows.codes.directions for rows in prepared]
    if active:
        try:
            q_t, moved = _modulate(model, queries.directions, prepared)
        except Exception as exc:  # noqa: BLE001 - the failure policy: a failing model never fails the search
            _log.warning("modulation failed, the database's order is returned: %s", exc, exc_info=True)
            failure = f"modulation failed ({type(exc).__name__}): the database's order is kept"
    shrinkage = model.modulator.config.shrinkage
    turn = model.space.turn
    return [
        _score(metric, rows, queries, i, (q_t[i], moved[i]), shrinkage, failure, turn)
        for i, rows in enumerate(prepared)
    ]


@dataclass(frozen=True, slots=True)
class _Rows:
    """One query's candidates in canonical order, so that the order of arrival cannot change a single bit."""

    order: npt.NDArray[np.intp]
    base_scores: npt.NDArray[np.float64]
    cosines: npt.NDArray[np.float64]
    codes: Codes
    status: npt.NDArray[np.uint8]

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.status == CodeStatus.CURRENT)


def _prepare(metric: Metric, queries: Codes, i: int, candidates: Candidates) -> _Rows:
    ids = np.array([str(point_id) for point_id in candidates.ids])
    order = np.lexsort((ids, -candidates.base_scores))
    base, codes = candidates.base_scores[order], candidates.codes.take(order)
    cosines = base_cosines(metric, base, queries.norms[i].astype(np.float64), codes.norms.astype(np.float64))
    status = codes.status.copy()
    stale = codes.current & breaks_bound(cosines, queries.directions[i], codes.directions)
    status[stale] = CodeStatus.STALE
    status[codes.current & (codes.norms == 0)] = CodeStatus.ZERO
    return _Rows(order, base, cosines, codes, status)


def _modulate(
    model: IMRNNModel, queries: FloatArray, prepared: list[_Rows]
) -> tuple[FloatArray, list[npt.NDArray[np.float32]]]:
    """Run the model once over all queries, candidate sets padded to the longest."""
    import torch

    width = max((len(rows.order) for rows in prepared), default=0)
    shape = (len(prepared), width)
    codes = np.zeros((*shape, queries.shape[1]), np.float32)
    cosines = np.zeros(shape, np.float32)
    mask = np.zeros(shape, bool)
    for i, rows in enumerate(prepared):
        k = len(rows.order)
        codes[i, :k], cosines[i, :k], mask[i, :k] = rows.codes.directions, rows.cosines, rows.usable
    device = model.modulator.pool.device
    with torch.inference_mode():
        tensors = (torch.from_numpy(array).to(device) for array in (queries, codes, cosines, mask))
        modulated = model.modulator(*tensors)
    query, moved = modulated.query.cpu().numpy(), modulated.candidates.cpu().numpy()
    if not (np.isfinite(query).all() and np.isfinite(moved[mask]).all()):
        raise ArithmeticError("the model returned values that are not finite")
    return query, [moved[i, : len(rows.order)] for i, rows in enumerate(prepared)]


def _score(
    metric: Metric,
    rows: _Rows,
    queries: Codes,
    i: int,
    after: tuple[FloatArray, npt.NDArray[np.float32]],
    shrinkage: float,
    failure: str | None,
    turn: Callable[[FloatArray], FloatArray],
) -> Refined:
    q_t, d_t = after
    usable = rows.usable
    scored = score_candidates(
        metric,
        rows.base_scores[usable],
        (turn(queries.directions[i]), turn(rows.codes.directions[usable]), turn(q_t), turn(d_t[usable])),
        (float(queries.norms[i]), rows.codes.norms[usable]),
        shrinkage,
    )
    k, m = len(rows.order), queries.directions.shape[1]
    scores, residuals, contributions = rows.base_scores.copy(), rows.base_scores.copy(), np.zeros((k, m))
    scores[usable], residuals[usable], contributions[usable] = scored.scores, scored.residuals, scored.contributions
    back = np.empty(k, np.intp)
    back[rows.order] = np.arange(k)
    modulated = usable[back] if failure is None else np.zeros(k, bool)
    parts = Scored(scores[back], residuals[back], contributions[back])
    return Refined(parts, queries.directions[i], q_t, rows.status[back], modulated, failure)


def _unrefined(candidates: Candidates, query: FloatArray, failure: str) -> Refined:
    k, m = candidates.codes.directions.shape
    base = candidates.base_scores
    parts = Scored(base.copy(), base.copy(), np.zeros((k, m)))
    return Refined(parts, query, query, candidates.codes.status, np.zeros(k, bool), failure)

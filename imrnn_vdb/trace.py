"""How each step moved scores and ranks, on request: a search that asks for no trace pays nothing for it.

What a model with T steps makes of its candidates after t of them is what the same model with t steps makes of them: a
step sees only what came before it. So a trace refines one window T + 1 times, each time by the code that serves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.joined import Joined
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId
from imrnn_vdb.refine import refine
from imrnn_vdb.scoring import base_ranks, ranking

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.windows import Window

BASE, START, STEERED = "database", "start", "steering"


@dataclass(frozen=True, slots=True)
class StepTrace:
    """Scores and ranks of the results after each stage of a search.

    Attributes
    ----------
    stages
        ``"database"``: base scores; ``"start"``: what needs no step, which is the prior, linear maps and adapters;
        ``"step 1"`` to ``"step T"``; ``"steering"`` where weights were given. Stages that cannot move anything are left
        out.
    ids
        Point ids of the results, by final rank.
    scores
        One row a stage, one score a result. The last row holds the final scores.
    ranks
        The same for ranks, 1-based, among the candidates that pass the filter.
    """

    stages: tuple[str, ...]
    ids: tuple[PointId, ...]
    scores: tuple[tuple[float, ...], ...]
    ranks: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return stages, each with its scores and ranks, ready for JSON."""
        return {
            "ids": list(self.ids),
            "stages": [
                {"stage": stage, "scores": list(scores), "ranks": list(ranks)}
                for stage, scores, ranks in zip(self.stages, self.scores, self.ranks, strict=True)
            ],
        }


def trace_windows(
    model: IMRNNModel,
    metric: Metric,
    query_vectors: FloatArray,
    windows: Sequence[Window],
    pages: Sequence[Sequence[PointId]],
    steer: Mapping[str, float] | None,
) -> list[StepTrace]:
    """Refine windows once more for each stage, and note where the results stood.

    Parameters
    ----------
    model, metric
        Of the collection.
    query_vectors
        Shape (n, d).
    windows
        n windows, refined and steered.
    pages
        Ids of the n queries' results.
    steer
        The request's steering weights.
    """
    batch = [window.candidates for window in windows]
    ran = all(window.refined.failure is None for window in windows)
    counts = range(model.modulator.moving_steps + 1 if ran else 0)
    before: list[list[npt.NDArray[np.float64]]] = [[candidates.base_scores] for candidates in batch]
    for count in counts if steer else counts[:-1]:
        for scores, rows in zip(before, refine(_cut(model, count), metric, query_vectors, batch, True), strict=True):
            scores.append(rows.scored.scores)
    names = [BASE, *([START] if counts else []), *(f"step {count}" for count in counts[1:])]
    names += [STEERED] if steer else []
    traces = []
    for window, scores, ids in zip(windows, before, pages, strict=True):
        last = [window.refined.scored.scores] if len(scores) < len(names) else []
        traces.append(_trace(names, [*scores, *last], window, ids))
    return traces


def _trace(
    names: Sequence[str], scores: Sequence[npt.NDArray[np.float64]], window: Window, ids: Sequence[PointId]
) -> StepTrace:
    row_of = {point_id: row for row, point_id in enumerate(window.candidates.ids)}
    rows = [row_of[point_id] for point_id in ids]
    ranks, before = [], base_ranks(window.candidates.base_scores)
    for stage in scores:
        order = ranking(before, stage)
        if window.keep is not None:
            order = order[window.keep[order]]
        place = np.empty(len(window.candidates), np.intp)
        place[order] = np.arange(1, len(order) + 1)
        ranks.append(tuple(place[rows].tolist()))
    return StepTrace(tuple(names), tuple(ids), tuple(tuple(stage[rows].tolist()) for stage in scores), tuple(ranks))


def _cut(model: IMRNNModel, count: int) -> IMRNNModel:
    """Return the model with fewer steps; weights are shared, nothing of the model itself changes.

    It runs once. So on a GPU it is not served as a model is, by a thread and graphs of its own, in a precision that was
    measured for it, but eagerly, and as precisely as the model.
    """
    if count == model.modulator.config.num_steps:
        return model
    modulator = copy.copy(model.modulator)
    modulator.config = replace(modulator.config, num_steps=count)
    cut = replace(model, modulator=modulator)
    if isinstance(model.modulate, Joined):
        from imrnn_vdb.on_device import OnDevice

        if isinstance(model.modulate.modulate, OnDevice):
            vars(cut)["modulate"] = model.modulate.modulate.eager(modulator)
    return cut

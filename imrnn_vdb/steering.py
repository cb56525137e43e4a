"""Steering: a factor's contributions scaled by the caller, and weights proposed from results marked good and bad.

A steered score is still an exact sum: ``residual + Σ_j w_j·contribution_j`` over the same parts, with w_j = 1 where
nothing was said. A candidate with a usable code is steered whether or not the model moved it; one without has no parts
to scale, and keeps its base score.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.points import normalize_ids
from imrnn_vdb.scoring import Scored

if TYPE_CHECKING:
    from imrnn_vdb.points import PointId
    from imrnn_vdb.refine import Refined
    from imrnn_vdb.results import SearchResponse
    from imrnn_vdb.space import FactorSpace

LARGEST_WEIGHT = 10.0
LARGEST_PROPOSAL = 3.0
_NEGLIGIBLE = 0.01


def checked_weights(steer: Mapping[str, float]) -> dict[str, float]:
    """Return steering weights as floats.

    Raises
    ------
    InvalidInputError
        If it is no mapping, or a weight is not a number in 0..10.
    """
    if not isinstance(steer, Mapping):
        raise InvalidInputError(f"steer takes weights by factor name, such as {{'entity': 1.5}}, got {steer!r}")
    weights = {}
    for name, value in steer.items():
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
        if not 0 <= number <= LARGEST_WEIGHT:
            raise InvalidInputError(
                f"a steering weight scales a factor's contributions by 0..{LARGEST_WEIGHT:g}, got {name}={value!r}"
            )
        weights[name] = number
    return weights


def steered(refined: Refined, space: FactorSpace, weights: Mapping[str, float]) -> Refined:
    """Scale contributions, and the scores with them; residuals stay.

    Parameters
    ----------
    refined
        One query's candidates.
    space
        Of the codes; names the factors.
    weights
        Weight by factor name.
    """
    scored = refined.scored
    factors = np.ones(scored.contributions.shape[1])
    for name, weight in weights.items():
        factors[space.index(name)] = weight
    change = scored.contributions @ (factors - 1)
    parts = Scored(scored.scores + change, scored.residuals, scored.contributions * factors)
    return replace(refined, scored=parts)


def propose_steering(
    response: SearchResponse, good: Collection[object], bad: Collection[object] = (), regularisation: float = 1.0
) -> dict[str, float]:
    """Propose steering weights that raise the results marked good above those marked bad.

    For each pair of a good result g and a bad one b, the weights ``1 + δ`` change the difference of their scores by
    ``a·δ``, where a is the difference of their contributions. What a pair lacks to a margin t, the standard deviation
    of the response's scores, is ``r = max(0, t − (score_g − score_b))``. Then

        δ = argmin  mean_pairs (r − a·δ)² + λ‖δ‖²,   λ = regularisation · mean_pairs ‖a‖²

    and each weight is cut to 0..3. Pairs that stand far enough apart ask for nothing, so a second round changes little
    where the first one helped. Weights of a steered response multiply: what is returned is to be used as it is.

    Parameters
    ----------
    response
        With explanations (``explain=True``).
    good, bad
        Point ids among its results. Where one of both is empty, all results without a mark stand for it.
    regularisation
        Above 0; the larger, the closer the weights stay to those in force.

    Returns
    -------
    dict
        Weight of each named factor that differs from 1, ready for ``search(..., steer=...)``.

    Raises
    ------
    InvalidInputError
        If the response has no explanations, an id is not among its results or marked twice, or nothing is marked.
    """
    if not (math.isfinite(regularisation) and regularisation > 0):
        raise InvalidInputError(f"regularisation must be above 0 and finite, got {regularisation!r}")
    wanted, unwanted = _marked(response, normalize_ids(good), normalize_ids(bad))
    scores, parts, names = _table(response)
    gaps = (scores[wanted][:, None] - scores[unwanted][None]).ravel()
    sides = (parts[wanted][:, None] - parts[unwanted][None]).reshape(len(gaps), len(names))
    lacking = np.maximum(0.0, scores.std() - gaps)
    penalty = regularisation * float((sides**2).sum(1).mean()) + np.finfo(np.float64).tiny
    normal = sides.T @ sides / len(gaps) + penalty * np.eye(len(names))
    change = np.linalg.solve(normal, sides.T @ lacking / len(gaps))
    before = np.array([response.steer.get(name, 1.0) for name in names])
    weights = np.round(np.clip(before * (1 + change), 0.0, LARGEST_PROPOSAL), 2)
    return {name: float(w) for name, w in zip(names, weights, strict=True) if abs(w - 1) >= _NEGLIGIBLE}


def _marked(
    response: SearchResponse, good: Collection[PointId], bad: Collection[PointId]
) -> tuple[list[int], list[int]]:
    """Return the rows of good and of bad results, the unmarked standing in for a side that is empty."""
    rows = {result.id: row for row, result in enumerate(response)}
    for point_id in [*good, *bad]:
        if point_id not in rows:
            raise InvalidInputError(f"point {point_id!r} is not among the {len(rows)} results of this response")
    twice = set(good) & set(bad)
    if twice:
        raise InvalidInputError(f"marked both good and bad: {', '.join(map(repr, sorted(twice, key=str)))}")
    unmarked = [row for point_id, row in rows.items() if point_id not in {*good, *bad}]
    wanted = [rows[point_id] for point_id in dict.fromkeys(good)] or unmarked
    unwanted = [rows[point_id] for point_id in dict.fromkeys(bad)] or unmarked
    if not (good or bad) or not wanted or not unwanted:
        raise InvalidInputError("mark at least one result good or bad, and leave at least one other to compare with")
    return wanted, unwanted


def _table(response: SearchResponse) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    explanations = [result.explanation for result in response]
    explained = [explanation for explanation in explanations if explanation is not None]
    if len(explained) < len(explanations):
        raise InvalidInputError("this response has no explanations: search again with explain=True")
    names = explained[0].names
    parts = np.array([explanation.contributions[: len(names)] for explanation in explained], np.float64)
    return np.array([result.score for result in response]), parts.reshape(len(explained), len(names)), names

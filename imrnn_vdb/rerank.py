"""Scoring candidates that somebody else fetched: the second half of a search, without a database (DESIGN.md §6).

Pure: no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.planning import checked_condition, passing
from imrnn_vdb.refine import refine
from imrnn_vdb.results import SearchResponse, build_results, make_response, page_of
from imrnn_vdb.space import check_vectors
from imrnn_vdb.steering import steered
from imrnn_vdb.timing import Stopwatch
from imrnn_vdb.windows import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.codec import FloatArray
    from imrnn_vdb.filters import FactorFilter
    from imrnn_vdb.options import SearchRequest
    from imrnn_vdb.points import Candidates
    from imrnn_vdb.refine import Refined


def rerank(
    model: IMRNNModel,
    metric: Metric,
    query_vectors: npt.ArrayLike,
    batch: list[Candidates],
    request: SearchRequest,
) -> list[SearchResponse]:
    """Modulate, filter and score the candidates of several queries as a search does that fetched them itself.

    Parameters
    ----------
    model
        Space and modulator.
    metric
        Metric of the base scores.
    query_vectors
        Shape (n, d).
    batch
        n candidate sets, their base scores oriented (see :mod:`imrnn_vdb.metric`).
    request
        What is asked; its filters are evaluated here, and nothing is fetched.

    Returns
    -------
    list of SearchResponse
        n responses.

    Raises
    ------
    InvalidInputError
        For NaN, for a zero query under cosine, for a number of candidate sets that is not that of the queries, or for
        what needs a database.
    SpaceMismatchError
        For vectors of another dimension.
    """
    watch = Stopwatch()
    queries = check_vectors(query_vectors, model.space.dim)
    if len(queries) != len(batch):
        raise InvalidInputError(f"{len(queries)} queries, but {len(batch)} candidate sets")
    check_answerable(metric, queries)
    if request.passes != 1 or request.payload_filter is not None:
        raise InvalidInputError("candidates that are given are scored as they are: no second pass, no payload filter")
    for candidates in batch:
        if not np.isfinite(candidates.base_scores).all():
            raise InvalidInputError("a base score is NaN or infinite")
    condition = checked_condition(model.space, metric, request)
    refined = refine(model, metric, queries, batch, request.modulates(model))
    windows = [
        given_window(model, request, condition, candidates, rows)
        for candidates, rows in zip(batch, refined, strict=True)
    ]
    responses = [respond(model, request, window, watch.laps) for window in windows]
    watch.lap("modulate")
    return responses


def check_answerable(metric: Metric, query_vectors: FloatArray) -> None:
    """Raise `InvalidInputError` if a query of shape (n, d) has no score with anything."""
    if metric is Metric.COSINE and not query_vectors.any(axis=1).all():
        raise InvalidInputError("a zero vector has no cosine with anything: this query cannot be answered")


def given_window(
    model: IMRNNModel,
    request: SearchRequest,
    condition: FactorFilter | None,
    candidates: Candidates,
    refined: Refined,
) -> Window:
    """Steer and filter one query's candidates, all of which are here."""
    rows = steered(refined, model.space, request.steer) if request.steer else refined
    keep = None if condition is None else passing(condition, model.space, candidates, rows)
    return Window(candidates, rows, len(candidates), full=False, keep=keep)


def respond(model: IMRNNModel, request: SearchRequest, window: Window, timings: Mapping[str, float]) -> SearchResponse:
    """Page the candidates of a window that holds all there are."""
    rows = page_of(window.candidates.base_scores, window.refined.scored.scores, request, window.keep)
    page = build_results(model.space, window.candidates, window.refined, request, rows)
    return make_response(model, request, window.candidates, window.refined, page, timings)

"""Exact search over vectors in memory, and the rankings that a model makes of it, by the code that serves searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.passes import join, refined_queries
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import Refined, refine

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.training.embeddings import EmbeddedDataset

_QUERIES, _DOCUMENTS = 256, 16_384
"""Sides of the largest table of scores: 16 MB, and three times as much to put it in order, however many documents."""
Ranking = dict[str, float]


def nearest(queries: FloatArray, documents: FloatArray, k: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Find the k documents with the largest inner product, exactly.

    Parameters
    ----------
    queries, documents
        Shapes (q, d) and (n, d), unit vectors.
    k
        At least 1; n if there are fewer.

    Returns
    -------
    tuple
        Indices and inner products, each of shape (q, min(k, n)), best first; ties by index.
    """
    k = min(k, len(documents))
    indices, scores = np.zeros((len(queries), k), np.intp), np.zeros((len(queries), k), np.float32)
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        found, best = np.zeros((len(block), 0), np.intp), np.zeros((len(block), 0), np.float32)
        for first in range(0, len(documents), _DOCUMENTS):
            table = block @ documents[first : first + _DOCUMENTS].T
            there = _largest(table, k)
            found = np.hstack([found, there + first])
            best = np.hstack([best, np.take_along_axis(table, there, axis=1)])
            order = _largest(best, k)
            found, best = np.take_along_axis(found, order, axis=1), np.take_along_axis(best, order, axis=1)
        indices[start : start + len(block)], scores[start : start + len(block)] = found, best
    return indices, scores


def _largest(table: FloatArray, k: int) -> npt.NDArray[np.intp]:
    """Return the places of each row's k largest values, or of all, best first; ties by place."""
    k = min(k, table.shape[1])
    part = np.sort(np.argpartition(-table, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(table, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def rankings(
    model: IMRNNModel,
    embedded: EmbeddedDataset,
    rows: npt.NDArray[np.intp],
    coarse_k: int,
    passes: int = 1,
    batch_size: int = 64,
) -> tuple[list[Ranking], list[Ranking]]:
    """Rank the candidates of queries by the base score and as the model does, be it switched on or not.

    Parameters
    ----------
    model
        Space and modulator.
    embedded
        Unit vectors.
    rows
        Shape (n,): the queries.
    coarse_k
        Candidates per query and pass.
    passes
        1 or 2.
    batch_size
        Queries modulated at once.

    Returns
    -------
    tuple
        n base rankings, of the first candidates, and n of the model, of all: score by document id.
    """
    codes = model.space.encode(embedded.document_vectors)
    base: list[Ranking] = []
    modulated: list[Ranking] = []
    for start in range(0, len(rows), batch_size):
        queries = embedded.query_vectors[rows[start : start + batch_size]]
        first = batch = _candidates(embedded, codes, queries, coarse_k)
        refined = _refined(model, queries, batch)
        if passes == 2:
            batch = _second(model, embedded, codes, queries, (batch, refined), coarse_k)
            refined = _refined(model, queries, batch)
        for found, candidates, result in zip(first, batch, refined, strict=True):
            base.append(_ranking(found, found.base_scores))
            modulated.append(_ranking(candidates, result.scored.scores))
    return base, modulated


def _candidates(embedded: EmbeddedDataset, codes: Codes, queries: FloatArray, coarse_k: int) -> list[Candidates]:
    batch = []
    for indices, scores in zip(*nearest(queries, embedded.document_vectors, coarse_k), strict=True):
        payloads: list[dict[str, Any]] = [{} for _ in indices]
        ids = [embedded.document_ids[i] for i in indices]
        batch.append(Candidates(list(ids), scores.astype(np.float64), codes.take(indices), payloads))
    return batch


def _second(
    model: IMRNNModel,
    embedded: EmbeddedDataset,
    codes: Codes,
    queries: FloatArray,
    found: tuple[list[Candidates], list[Refined]],
    coarse_k: int,
) -> list[Candidates]:
    """Search for the refined queries, of any length, and join what they find."""
    batch, refined = found
    moved, encoded = np.stack([result.query for result in refined]), model.space.encode(queries)
    vectors = refined_queries(model.space, queries, encoded, moved)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    again = _candidates(embedded, codes, unit, coarse_k)
    return [
        join(Metric.COSINE, first, second, encoded.take(np.array([i])), moved[i])
        for i, (first, second) in enumerate(zip(batch, again, strict=True))
    ]


def _refined(model: IMRNNModel, queries: FloatArray, batch: list[Candidates]) -> list[Refined]:
    refined = refine(model, Metric.COSINE, queries, batch, active=True)
    for result in refined:
        if result.failure is not None:
            raise InvalidInputError(f"the model could not be evaluated: {result.failure}")
    return refined


def _ranking(candidates: Candidates, scores: npt.NDArray[np.float64]) -> Ranking:
    return dict(zip((str(point_id) for point_id in candidates.ids), scores.tolist(), strict=True))

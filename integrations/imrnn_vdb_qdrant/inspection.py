"""Finding out the vectors of an Edge shard that the caller opened: a shard tells neither sizes nor distances.

Everything here reads. The distance follows from the score that the engine gives a stored point for known queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import UnsupportedError
from imrnn_vdb.layout import CODE_PREFIX
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import VectorField
from imrnn_vdb_qdrant.schema import Schema
from imrnn_vdb_qdrant.vendor import load_edge

_SAMPLE = 64
_TOLERANCE = 1e-3
_EXPECTED_DIM = re.compile(r"expected dim: (\d+)")


def inspect_shard(shard: Any, code_field: str) -> Schema:
    """Return the dense vectors of a shard.

    Parameters
    ----------
    shard
        The caller's ``qdrant_edge.EdgeShard``.
    code_field
        Name that the vector for codes would have.

    Raises
    ------
    UnsupportedError
        If the shard holds no point with a vector other than zero: its distance cannot be seen.
    """
    edge = load_edge()
    records, _ = shard.scroll(edge.ScrollRequest(limit=_SAMPLE, with_payload=False, with_vector=True))
    found: dict[str, VectorField] = {}
    for record in records:
        vectors = record.vector if isinstance(record.vector, Mapping) else {"": record.vector}
        for name, vector in vectors.items():
            if name not in found and _is_dense(vector) and any(vector):
                metric = _metric(edge, shard, record.id, name, np.asarray(vector, np.float64))
                found[name] = VectorField(len(vector), metric)
    if all(name.startswith(CODE_PREFIX) for name in found):
        raise UnsupportedError(
            "the distance of an empty EdgeShard cannot be read: upsert a point first, or open its folder by URL "
            "(qdrant+edge:FOLDER/NAME)"
        )
    # the points that were read may have no code yet
    code = found.get(code_field) or _code_vector(edge, shard, code_field)
    if code is not None:
        found[code_field] = code
    return Schema(found, frozenset(shard.info().payload_schema))


def _code_vector(edge: Any, shard: Any, code_field: str) -> VectorField | None:
    """Return the vector for codes, if there is one: the engine's complaint about a wrong size tells the right one."""
    request = edge.QueryRequest(limit=1, query=edge.Query.Nearest([0.0], using=code_field))
    try:
        shard.query(request)
    except Exception as exc:  # noqa: BLE001  (Edge raises bare exceptions)
        size = _EXPECTED_DIM.search(str(exc))
        return VectorField(int(size.group(1)), Metric.DOT) if size else None
    return VectorField(1, Metric.DOT)


def _metric(edge: Any, shard: Any, point: Any, name: str, vector: npt.NDArray[np.float64]) -> Metric:
    """Return the metric whose formula gives the engine's scores for two queries."""
    distance = dict.fromkeys(Metric, 0.0)
    for scale in (2.0, 5.0):
        query = scale * vector + 1.0  # every coordinate differs, so no two metrics agree
        score = _score(edge, shard, point, name, query)
        for metric, value in _expected(query, vector).items():
            distance[metric] += abs(score - value) / max(1.0, abs(value))
    best = min(distance, key=lambda metric: distance[metric])
    if distance[best] > _TOLERANCE * 2:
        raise UnsupportedError(f"the distance of the shard's vector {name or '(unnamed)'!r} is none that is known here")
    return best


def _score(edge: Any, shard: Any, point: Any, name: str, query: npt.NDArray[np.float64]) -> float:
    request = edge.QueryRequest(
        limit=1,
        query=edge.Query.Nearest(query.tolist(), using=name or None),
        filter=edge.Filter(must=[edge.HasIdCondition({point})]),
        params=edge.SearchParams(exact=True),
    )
    return float(shard.query(request)[0].score)


def _expected(query: npt.NDArray[np.float64], vector: npt.NDArray[np.float64]) -> dict[Metric, float]:
    dot = float(query @ vector)
    return {
        Metric.COSINE: dot / float(np.linalg.norm(query) * np.linalg.norm(vector)),
        Metric.DOT: dot,
        Metric.EUCLID: float(np.linalg.norm(query - vector)),
        Metric.MANHATTAN: float(np.abs(query - vector).sum()),
    }


def _is_dense(vector: object) -> bool:
    return isinstance(vector, list) and all(isinstance(value, float | int) for value in vector)

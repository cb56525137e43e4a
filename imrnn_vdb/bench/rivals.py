"""What a modulated search is compared with: the vendor's client alone, and the route through base vectors.

The clients are called as a user would call them, with the parameters that this package's own stores use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import UnsupportedError

_SECONDS = 60.0

Fetch = Callable[[FloatArray, int, bool], tuple[list[Any], FloatArray | None]]
"""Takes a query (d,), a limit, and whether to bring base vectors; returns ids and the vectors (k, d)."""


def vendor_search(collection: IMRNNCollection) -> Fetch:
    """Return a plain search with the collection's own vendor client.

    Raises
    ------
    UnsupportedError
        If the client is none that is known here.
    """
    client, name, wanted = collection.client, collection.name, collection.vector_name
    if hasattr(client, "describe_collection"):
        return _milvus(client, name, wanted)
    if hasattr(client, "query_points"):
        return _qdrant(client, name, wanted)
    if hasattr(client, "shard"):
        return _edge(client.shard(name), wanted)
    raise UnsupportedError(f"no plain search is known for a client of type {type(client).__qualname__}")


def _milvus(client: Any, name: str, vector: str) -> Fetch:
    [found] = client.list_indexes(collection_name=name, field_name=vector, timeout=_SECONDS)[:1]
    index = client.describe_index(collection_name=name, index_name=found, timeout=_SECONDS)
    hnsw = str(index.get("index_type")) == "HNSW"

    def fetch(query: FloatArray, limit: int, with_vectors: bool) -> tuple[list[Any], FloatArray | None]:
        params = {"params": {"ef": max(64, 2 * limit)}} if hnsw else {}
        (hits,) = client.search(
            collection_name=name,
            data=[query],
            anns_field=vector,
            limit=limit,
            output_fields=[vector] if with_vectors else None,
            search_params=params,
            consistency_level="Session",
            timeout=_SECONDS,
        )
        table = np.array([hit["entity"][vector] for hit in hits], np.float32) if with_vectors else None
        return list(hits.ids), table

    return fetch


def _qdrant(client: Any, name: str, vector: str) -> Fetch:
    def fetch(query: FloatArray, limit: int, with_vectors: bool) -> tuple[list[Any], FloatArray | None]:
        points = client.query_points(
            name,
            query=query.tolist(),
            using=vector or None,
            limit=limit,
            with_payload=False,
            with_vectors=with_vectors,
        ).points
        return [point.id for point in points], _vectors(points, vector) if with_vectors else None

    return fetch


def _edge(shard: Any, vector: str) -> Fetch:
    import qdrant_edge as edge

    def fetch(query: FloatArray, limit: int, with_vectors: bool) -> tuple[list[Any], FloatArray | None]:
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(query.tolist(), using=vector or None),
            with_payload=False,
            with_vector=with_vectors,
        )
        points = shard.query(request)
        return [point.id for point in points], _vectors(points, vector) if with_vectors else None

    return fetch


def _vectors(points: Any, name: str) -> FloatArray:
    rows = [point.vector[name] if isinstance(point.vector, dict) else point.vector for point in points]
    return np.array(rows, np.float32)


def imrnns_adapter(dim: int) -> Any:
    """Return ``imrnns.IMRNNAdapter`` with random weights, or the reason in words why there is none."""
    try:
        import imrnns
    except ImportError as exc:
        return f"imrnns cannot be imported ({exc}): pip install --no-deps imrnns==0.2.3"
    model = imrnns.IMRNN(imrnns.ModelConfig(dim)).eval()
    return imrnns.IMRNNAdapter(model=model, encoder_spec=None, metadata={}, device="cpu")

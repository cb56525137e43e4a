"""Synthetic collections: filled, and left alone until the database has come to rest."""

from __future__ import annotations

import time
from typing import Any

from imrnn_vdb.bench.synthetic import random_vectors
from imrnn_vdb.collection import IMRNNCollection

_FEWEST_ROWS, _WRITES = 1000, 20
_LARGE = 50_000
"""Points from which on Milvus is given time to build its index, as a collection that has stood for a while has one."""
_PATIENCE_S, _POLL_S, _LOADING_S = 1800.0, 1.0, 10.0


def fill(collection: IMRNNCollection, size: int) -> None:
    """Write random points with a text of 400 characters each, and wait for the index of a large collection."""
    at_once = max(_FEWEST_ROWS, size // _WRITES)  # Qdrant Edge works on its index after every write
    for first in range(0, size, at_once):
        rows = range(first, min(size, first + at_once))
        payloads = [{"title": f"passage {row}", "text": "a synthetic passage " * 20, "year": row % 50} for row in rows]
        vectors = random_vectors(len(rows), collection.model.space.dim, seed=100 + first)
        collection.upsert([f"doc-{row}" for row in rows], vectors=vectors, payloads=payloads)
    if size >= _LARGE and hasattr(collection.client, "describe_collection"):
        _indexed(collection.client, collection.name)


def _indexed(client: Any, name: str) -> None:
    """Seal what was written to Milvus, and wait until its index is built and loaded."""
    within = {"collection_name": name, "timeout": _PATIENCE_S}
    client.flush(**within)
    indexes = client.list_indexes(**within)
    patience = time.monotonic() + _PATIENCE_S
    while time.monotonic() < patience:
        if not any(client.describe_index(index_name=index, **within)["pending_index_rows"] for index in indexes):
            break
        time.sleep(_POLL_S)
    time.sleep(_LOADING_S)

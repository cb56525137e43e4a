"""The demo: a team's collection as it might be, attached, and searched plain and modulated.

The documentation strings of the running Python's standard library stand for the team's texts. Their vectors go into an
embedded database through the vendor's own client, without any knowledge of this package; then the collection is opened,
codes are written from the stored vectors, and the same questions are asked with and without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import MissingExtraError
from imrnn_vdb.explain import ReportSection
from imrnn_vdb.filters import FactorFilter, factor
from imrnn_vdb.pydocs import DocEntry
from imrnn_vdb.results import SearchResponse

StoreName = Literal["edge", "milvus"]
COLLECTION = "pydocs"
BATCH = 500


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A question to show, with what is special about it."""

    text: str
    note: str = ""
    factor_filter: FactorFilter | None = None
    explain: bool = False


QUERIES = (
    DemoQuery("stop waiting for a child process after ten seconds"),
    DemoQuery("start a fresh log file every midnight"),
    DemoQuery("keep only the newest hundred items of a stream"),
    DemoQuery(
        "how many days lie between two dates",
        'only entries in the upper half of the factor: factor("temporal") >= 0.5',
        factor_filter=factor("temporal") >= 0.5,
    ),
    DemoQuery("pick a random winner from a list of names", "each score taken apart", explain=True),
)


def fill_edge(folder: Path, entries: Sequence[DocEntry], vectors: FloatArray) -> str:
    """Make a Qdrant Edge collection as a team would, with the vendor's client; returns its URL."""
    try:
        import qdrant_edge as edge
    except ImportError as exc:
        raise MissingExtraError("qdrant-edge-py", "qdrant-edge") from exc
    path = folder / COLLECTION
    path.mkdir(parents=True)
    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=vectors.shape[1], distance=edge.Distance.Cosine))
    shard = edge.EdgeShard.create(str(path), config)
    for start in range(0, len(entries), BATCH):
        points = [
            edge.Point(start + i, vectors[start + i].tolist(), payload(entry))
            for i, entry in enumerate(entries[start : start + BATCH])
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.close()
    return f"qdrant+edge:{folder}/{COLLECTION}"


def fill_milvus(folder: Path, entries: Sequence[DocEntry], vectors: FloatArray) -> str:
    """Make a Milvus Lite collection as a team would, with the vendor's client; returns its URL."""
    try:
        from pymilvus import MilvusClient
    except ImportError as exc:
        raise MissingExtraError("pymilvus", "milvus-lite") from exc
    file = folder / "demo.db"
    client = MilvusClient(str(file))
    client.create_collection(COLLECTION, dimension=vectors.shape[1], metric_type="COSINE", auto_id=False)
    for start in range(0, len(entries), BATCH):
        rows = [
            {"id": start + i, "vector": vectors[start + i].tolist(), **payload(entry)}
            for i, entry in enumerate(entries[start : start + BATCH])
        ]
        client.insert(COLLECTION, rows)
    client.flush(COLLECTION)
    client.close()
    return f"milvus+lite:{file}/{COLLECTION}"


FILL: dict[StoreName, Callable[[Path, Sequence[DocEntry], FloatArray], str]] = {
    "edge": fill_edge,
    "milvus": fill_milvus,
}


def payload(entry: DocEntry) -> dict[str, Any]:
    """Return what the team stores beside a vector."""
    return {
        "name": entry.id,
        "title": entry.title,
        "text": entry.text,
        "module": entry.module,
        "kind": entry.kind,
    }


def ask(collection: IMRNNCollection, query: DemoQuery, limit: int = 5) -> ReportSection:
    """Ask one question twice: of the database alone, and with the model."""
    vectors = collection.encode_queries([query.text])[0]
    plain = collection.search(vectors, limit=limit, factor_filter=query.factor_filter, modulate=False)
    response = collection.search(vectors, limit=limit, factor_filter=query.factor_filter, explain=True)
    return ReportSection(query.text, response, plain, query.note)


def ranked_names(responses: Sequence[SearchResponse]) -> list[dict[str, float]]:
    """Return, for each response, the score of each entry by its name."""
    return [{str(result.payload["name"]): result.score for result in response} for response in responses]


def code_size(num_factors: int, dim: int) -> tuple[int, int]:
    """Return the bytes of a stored code's numbers, and those of a base vector in single precision."""
    return num_factors * np.dtype(np.float16).itemsize, dim * np.dtype(np.float32).itemsize

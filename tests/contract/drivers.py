"""The stores under contract: each engine, sync and async, behind one small driver."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

from imrnn_vdb.backend import Backend, ConnectionOptions, load_backend
from imrnn_vdb.connection import Call, Connection, Operation
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url
from imrnn_vdb_milvus.expressions import dynamic_key, literal
from imrnn_vdb_qdrant.filters import payload_path
from servers import images, tag

T = TypeVar("T")
SPACE, FACTORS, NAMES = "0a1b2c3d", 6, ("entity", "my größe.2")
_counter = itertools.count()


@dataclass(frozen=True)
class Engine:
    """What the suite must know of an engine.

    Attributes
    ----------
    name
        Id of the test parameter.
    where
        Returns the URL without the collection, from the request and a fresh folder.
    equals
        Returns the vendor's payload filter for ``field == value``, whatever signs the field's name has.
    contents
        Reads points, payloads, vectors, schema, indexes and metadata of a collection with the vendor's own calls.
    code_storage
        Where codes lie.
    metrics
        Metrics that the engine has.
    names
        Factor names that the engine can hold.
    server
        Whether it needs a server.
    finds_zero
        Whether a cosine search returns a stored zero vector.
    keeps_records, adds_code_vector
        Whether it offers these (:mod:`imrnn_vdb.extras`).
    rewrites_rows
        Whether codes in its rows are written, and undone, ``in_place`` only.
    longest_id
        Bytes of an id at most.
    """

    name: str
    where: Callable[[pytest.FixtureRequest, Path], str]
    equals: Callable[[str, Any], Any]
    contents: Callable[[str], Operation[str]]
    code_storage: Literal["payload", "vector"] = "payload"
    metrics: tuple[Metric, ...] = tuple(Metric)
    names: tuple[str, ...] = NAMES
    server: bool = False
    finds_zero: bool = True
    keeps_records: bool = False
    adds_code_vector: bool = False
    rewrites_rows: bool = False
    longest_id: int = 10**9


def qdrant_equals(field: str, value: Any) -> Any:
    from qdrant_client import models

    key = payload_path(field)
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


def qdrant_contents(name: str) -> Operation[str]:
    about = yield lambda client, _: client.get_collection(name)
    points = yield lambda client, _: client.scroll(name, limit=1000, with_payload=True, with_vectors=True)
    return f"{about!r}{json.dumps([point.model_dump() for point in points[0]], sort_keys=True, default=str)}"


def edge_equals(field: str, value: Any) -> Any:
    import qdrant_edge

    condition = qdrant_edge.FieldCondition(payload_path(field), match=qdrant_edge.MatchValue(value))
    return qdrant_edge.Filter(must=[condition])


def edge_contents(name: str) -> Operation[str]:
    return (yield lambda engine, _: _of_shard(engine.shard(name), engine.root / name / "edge_config.json"))


def _of_shard(shard: Any, config: Path) -> str:
    import qdrant_edge as edge

    records, _ = shard.scroll(edge.ScrollRequest(limit=1000, with_payload=True, with_vector=True))
    info = shard.info()
    points = json.dumps([[str(one.id), one.payload, one.vector] for one in records], sort_keys=True)
    return f"{sorted(info.payload_schema)}{info.points_count}{points}{config.read_text('utf-8')}"


def milvus_equals(field: str, value: Any) -> str:
    return f"{field if field.isidentifier() else dynamic_key(field)} == {literal(value)}"


def milvus_contents(name: str) -> Operation[str]:
    names = yield lambda client, seconds: client.list_collections(timeout=seconds)
    state = []
    for one in sorted(found for found in names if found.startswith(name)):
        about = yield _of_collection("describe_collection", one)
        indexes = yield _of_collection("list_indexes", one)
        details = []
        for index in indexes:
            detail = yield _of_collection("describe_index", one, index_name=index)
            details.append({name: value for name, value in detail.items() if "rows" not in name and name != "state"})
        fields = [field["name"] for field in about["fields"]] + ["$meta"]
        read = {"filter": "", "output_fields": fields, "limit": 1000, "consistency_level": "Strong"}
        rows = yield _of_collection("query", one, **read)
        state.append([one, about, details, sorted(json.dumps(dict(row), sort_keys=True, default=str) for row in rows)])
    return repr(state)


def _of_collection(method: str, name: str, **arguments: Any) -> Call:
    return lambda client, seconds: getattr(client, method)(collection_name=name, timeout=seconds, **arguments)


def on_servers(product: str, engine: Engine) -> list[Engine]:
    """Return the engine once for each server image that this run is to use."""
    chosen = images(product)

    def on(image: str) -> Engine:
        name = f"{engine.name}-{tag(image)}" if len(chosen) > 1 else engine.name
        return replace(
            engine, name=name, where=lambda request, _: request.getfixturevalue("server_pool").url(product, image)
        )

    return [on(image) for image in chosen]


def named_later(_: pytest.FixtureRequest, __: Path) -> str:
    raise AssertionError("which server, `on_servers` says")


EDGE = Engine("edge", lambda _, folder: f"qdrant+edge:{folder}", edge_equals, edge_contents, adds_code_vector=True)
LOCAL = Engine(
    "local",
    lambda _, __: "qdrant+local::memory:",
    qdrant_equals,
    qdrant_contents,
    keeps_records=True,
    adds_code_vector=True,
)
WIRE = replace(LOCAL, name="qdrant-wire", where=lambda request, _: request.getfixturevalue("qdrant_wire_url"))
QDRANT = replace(LOCAL, name="qdrant-server", where=named_later, server=True)
LITE = Engine(
    "milvus-lite",
    lambda _, folder: f"milvus+lite:{folder}/milvus.db",
    milvus_equals,
    milvus_contents,
    metrics=(Metric.COSINE, Metric.DOT, Metric.EUCLID),
    keeps_records=True,
    rewrites_rows=True,
    longest_id=512,
)
MILVUS = replace(
    LITE,
    name="milvus-server",
    where=named_later,
    server=True,
    finds_zero=False,  # 2.3 computes NaN for it, and leaves it out
)


def in_vector(engine: Engine) -> Engine:
    """Return the engine with codes in a vector."""
    return replace(engine, name=f"{engine.name}-vector", code_storage="vector")


ENGINES = [
    *(each for engine in (EDGE, LOCAL, WIRE) for each in (engine, in_vector(engine))),
    *on_servers("qdrant", QDRANT),
    *on_servers("qdrant", in_vector(QDRANT)),
    *(LITE, in_vector(LITE)),
    *on_servers("milvus", MILVUS),
]


@dataclass
class Driver:
    """A connection to one engine; ``call`` runs an operation the same way for sync and async."""

    engine: Engine
    backend: Backend
    base_url: str
    connection: Connection
    loop: asyncio.AbstractEventLoop | None
    used: list[Store] = field(default_factory=list)

    def call(self, operation: Operation[T]) -> T:
        if self.loop is None:
            return self.connection.run(operation)
        return self.loop.run_until_complete(self.connection.arun(operation))

    def layout(self, **changes: Any) -> Layout:
        settings = {"space_id": SPACE, "num_factors": FACTORS, "factor_names": self.engine.names}
        return Layout(**{**settings, "code_storage": self.engine.code_storage, **changes})

    def store(self, collection: str | None = None, **changes: Any) -> Store:
        """A store of a collection; a new name where none is given."""
        name = collection or f"contract_{next(_counter)}"
        store = self.backend.store(self.connection, name, self.layout(**changes))
        self.used.append(store)
        return store

    def create(self, dim: int, metric: Metric = Metric.COSINE, id_type: Literal["int", "str"] = "str") -> Store:
        if metric not in self.engine.metrics:
            pytest.skip(f"{self.engine.name} has no {metric} distance")
        store = self.store()
        self.call(store.create(dim, metric, id_type))
        return store

    def close(self) -> None:
        for store in self.used:
            self.call(store.drop())
        if self.loop is None:
            self.connection.close()
        else:
            self.loop.run_until_complete(self.connection.aclose())
            self.loop.close()


def connect(engine: Engine, base_url: str, asynchronous: bool, options: ConnectionOptions) -> Driver:
    """Connect as the package does: by the scheme of a URL."""
    url = parse_url(f"{base_url}/any")
    backend = load_backend(url.scheme)
    if not asynchronous:
        return Driver(engine, backend, base_url, backend.connect(url, options, asynchronous=False), None)

    async def connected() -> Connection:  # async clients want a running loop when they are made
        return backend.connect(url, options, asynchronous=True)

    loop = asyncio.new_event_loop()
    return Driver(engine, backend, base_url, loop.run_until_complete(connected()), loop)

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
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url
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
        Returns the vendor's payload filter for ``field == value``.
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
    """

    name: str
    where: Callable[[pytest.FixtureRequest, Path], str]
    equals: Callable[[str, Any], Any]
    code_storage: Literal["payload", "vector"] = "payload"
    metrics: tuple[Metric, ...] = tuple(Metric)
    names: tuple[str, ...] = NAMES
    server: bool = False
    finds_zero: bool = True


def qdrant_equals(field: str, value: Any) -> Any:
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key=field, match=models.MatchValue(value=value))])


def edge_equals(field: str, value: Any) -> Any:
    import qdrant_edge

    condition = qdrant_edge.FieldCondition(field, match=qdrant_edge.MatchValue(value))
    return qdrant_edge.Filter(must=[condition])


def milvus_equals(field: str, value: Any) -> str:
    return f"{field} == {json.dumps(value)}"


def lite_file(_: pytest.FixtureRequest, folder: Path) -> str:
    return f"milvus+lite:{folder}/milvus.db"


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


MILVUS_METRICS = (Metric.COSINE, Metric.DOT, Metric.EUCLID)

ENGINES = [
    Engine("edge", lambda _, folder: f"qdrant+edge:{folder}", edge_equals),
    Engine("edge-vector", lambda _, folder: f"qdrant+edge:{folder}", edge_equals, code_storage="vector"),
    Engine("local", lambda _, __: "qdrant+local::memory:", qdrant_equals),
    Engine("local-vector", lambda _, __: "qdrant+local::memory:", qdrant_equals, code_storage="vector"),
    Engine("qdrant-wire", lambda request, _: request.getfixturevalue("qdrant_wire_url"), qdrant_equals),
    Engine(
        "qdrant-wire-vector",
        lambda request, _: request.getfixturevalue("qdrant_wire_url"),
        qdrant_equals,
        code_storage="vector",
    ),
    *on_servers("qdrant", Engine("qdrant-server", named_later, qdrant_equals, server=True)),
    *on_servers(
        "qdrant", Engine("qdrant-server-vector", named_later, qdrant_equals, code_storage="vector", server=True)
    ),
    Engine("milvus-lite", lite_file, milvus_equals, metrics=MILVUS_METRICS),
    Engine("milvus-lite-vector", lite_file, milvus_equals, code_storage="vector", metrics=MILVUS_METRICS),
    *on_servers(
        "milvus",
        Engine(
            "milvus-server",
            named_later,
            milvus_equals,
            metrics=MILVUS_METRICS,
            server=True,
            finds_zero=False,  # 2.3 computes NaN for it, and leaves it out
        ),
    ),
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

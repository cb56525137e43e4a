"""The Qdrant product: connects to servers, local mode and Edge, and knows their clients."""

from __future__ import annotations

import sys
from typing import Any

from imrnn_vdb.backend import IN_MEMORY, Backend, ConnectionOptions
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import InvalidInputError, StoreError
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.store import Store
from imrnn_vdb.urls import CollectionURL
from imrnn_vdb_qdrant.edge import EdgeStore
from imrnn_vdb_qdrant.engine import EdgeEngine, SingleShard
from imrnn_vdb_qdrant.faults import translate_client, translate_edge
from imrnn_vdb_qdrant.inspection import inspect_shard
from imrnn_vdb_qdrant.local import LocalClient, is_local
from imrnn_vdb_qdrant.server import QdrantStore, server_client
from imrnn_vdb_qdrant.vendor import load_client, load_edge


class QdrantBackend(Backend):
    """Qdrant servers over gRPC, qdrant-client's local mode, and Qdrant Edge."""

    def connect(self, url: CollectionURL, options: ConnectionOptions, *, asynchronous: bool) -> Connection:
        """Open a connection that this package owns; a server is not called yet.

        Parameters
        ----------
        url
            ``qdrant://host:6334/NAME`` (the port is the server's gRPC port, 6334 where none is given),
            ``qdrant+local:PATH/NAME`` (``:memory:`` for PATH keeps everything in memory), or
            ``qdrant+edge:PATH/NAME`` (the folder PATH holds one folder for each collection).
        options
            Key, TLS, deadline and attempts.
        asynchronous
            Whether the connection serves ``arun``; embedded engines then work in worker threads.

        Raises
        ------
        MissingExtraError
            If the package that this scheme needs is not installed.
        InvalidInputError
            If the scheme is another product's.
        StoreError
            If the folder of local mode is in use.
        """
        if url.scheme == "qdrant":
            client = server_client(url, options, asynchronous=asynchronous)
            return _connection(client, options, asynchronous=asynchronous)
        if url.scheme == "qdrant+edge":
            load_edge()
            return _connection(EdgeEngine(url.path), options, asynchronous=asynchronous, threaded=asynchronous)
        if url.scheme == "qdrant+local":
            client = _open_local(url.path)
            return _connection(client, options, asynchronous=asynchronous, threaded=asynchronous)
        raise InvalidInputError(f"Qdrant's schemes are qdrant, qdrant+edge and qdrant+local, not {url.scheme!r}")

    def adopt(self, client: object, options: ConnectionOptions) -> Connection | None:
        """Wrap a ``QdrantClient``, an ``AsyncQdrantClient`` or an ``EdgeShard``; None for anything else.

        The client stays the caller's: it is never closed here.
        """
        # a client of a package that nobody imported cannot exist, so nothing is imported to find out
        if "qdrant_edge" in sys.modules and isinstance(client, load_edge().EdgeShard):
            return _connection(SingleShard(client, inspect_shard), options, owned=False)
        if "qdrant_client" not in sys.modules:
            return None
        if isinstance(client, load_client().AsyncQdrantClient):
            return _connection(client, options, asynchronous=True, owned=False)
        if isinstance(client, load_client().QdrantClient):
            return _connection(LocalClient(client) if is_local(client) else client, options, owned=False)
        return None

    def store(self, connection: Connection, collection: str, layout: Layout, guard: Guard = None) -> Store:
        """Make the store of one collection, with its guard; no call is sent."""
        if isinstance(connection.client, EdgeEngine | SingleShard):
            return EdgeStore(collection, layout, guard)
        return QdrantStore(collection, layout, guard, local=is_local(connection.client))


def _open_local(path: str) -> LocalClient:
    module = load_client()
    try:
        return LocalClient(module.QdrantClient(IN_MEMORY) if path == IN_MEMORY else module.QdrantClient(path=path))
    except RuntimeError as exc:  # the folder is locked
        raise StoreError(
            f"{path} is open elsewhere: close the other client, or use a Qdrant server for several processes"
        ) from exc


def _connection(
    client: Any,
    options: ConnectionOptions,
    *,
    asynchronous: bool = False,
    threaded: bool = False,
    owned: bool = True,
) -> Connection:
    edge = isinstance(client, EdgeEngine | SingleShard)
    return Connection(
        client,
        translate_edge if edge else translate_client,
        asynchronous=asynchronous,
        threaded=threaded,
        owned=owned,
        timeout=options.timeout,
        attempts=options.attempts,
    )

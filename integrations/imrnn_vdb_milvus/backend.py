"""How Milvus is reached: by URL, or by a client that the caller built."""

from __future__ import annotations

import sys
from typing import Any

from imrnn_vdb.backend import Backend, ConnectionOptions
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.urls import CollectionURL
from imrnn_vdb_milvus import quiet
from imrnn_vdb_milvus.clients import AsyncServerClient, LiteClient, ServerClient
from imrnn_vdb_milvus.faults import translate
from imrnn_vdb_milvus.store import MilvusStore

DEFAULT_PORT = 19530


class MilvusBackend(Backend):
    """Milvus servers (``milvus://host:19530/NAME``) and Milvus Lite files (``milvus+lite:FILE.db/NAME``)."""

    def connect(self, url: CollectionURL, options: ConnectionOptions, *, asynchronous: bool) -> Connection:
        """Open a connection that this package owns; the first call connects, within its own deadline.

        Raises
        ------
        InvalidInputError
            If the URL has another scheme, or names no server or no ``.db`` file.
        MissingExtraError
            If pymilvus is not installed.
        """
        if url.scheme == "milvus+lite":
            return _connection(LiteClient(url.path), options, asynchronous=asynchronous, threaded=asynchronous)
        if url.scheme != "milvus" or not url.host:
            raise InvalidInputError(f"{url} is no Milvus URL: milvus://host:19530/NAME or milvus+lite:FILE.db/NAME")
        uri, token = _server_uri(url, options), options.api_key or ""
        client = AsyncServerClient(uri, token, options.timeout) if asynchronous else ServerClient(uri, token)
        return _connection(client, options, asynchronous=asynchronous)

    def adopt(self, client: object, options: ConnectionOptions) -> Connection | None:
        """Wrap a ``MilvusClient`` or an ``AsyncMilvusClient``; None for anything else.

        A ``MilvusClient`` of a Milvus Lite file is taken as it is: let one thread at a time write through it.
        """
        vendor = sys.modules.get("pymilvus")
        if vendor is None:  # then it cannot be one of its clients
            return None
        quiet.install()
        if isinstance(client, vendor.AsyncMilvusClient):
            return _connection(client, options, asynchronous=True, owned=False)
        if isinstance(client, vendor.MilvusClient):
            return _connection(client, options, owned=False)
        return None

    def store(
        self,
        connection: Connection,  # noqa: ARG002 - no client needed
        collection: str,
        layout: Layout,
        guard: Guard = None,
    ) -> MilvusStore:
        """Make the store of one collection, with its guard; no call is sent."""
        return MilvusStore(collection, layout, guard)


def _connection(client: Any, options: ConnectionOptions, **how: bool) -> Connection:
    return Connection(client, translate, timeout=options.timeout, attempts=options.attempts, **how)


def _server_uri(url: CollectionURL, options: ConnectionOptions) -> str:
    """Return the vendor's URI: encrypted where asked for, or where a key would travel to another machine."""
    tls = options.encrypts(url)
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{'https' if tls else 'http'}://{host}:{url.port or DEFAULT_PORT}"

"""How a database is found and connected to.

A :class:`Backend` stands for one database product: it connects, and it knows its own clients. Backends register under
the entry point group ``imrnn_vdb.stores`` by URL scheme, so others can add a database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import CollectionNotFoundError, InvalidInputError
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.store import Store
from imrnn_vdb.urls import CollectionURL, is_this_machine

ENTRY_POINT_GROUP = "imrnn_vdb.stores"
IN_MEMORY = ":memory:"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect and to call.

    Attributes
    ----------
    api_key
        Secret for the server; never shown in a repr, a log or an error.
    tls
        Whether the connection is encrypted; None: where a key would travel to another machine.
    timeout
        Deadline of one operation in seconds.
    attempts
        How often a transient failure is tried at most.
    """

    api_key: str | None = field(default=None, repr=False)
    tls: bool | None = None
    timeout: float = 10.0
    attempts: int = 4

    def encrypts(self, url: CollectionURL) -> bool:
        """Say whether to encrypt: as asked, else where a key would travel to another machine."""
        return self.tls if self.tls is not None else bool(self.api_key) and not is_this_machine(url.host)


class Backend(ABC):
    """One database product: connects, recognises its own clients, makes stores."""

    @abstractmethod
    def connect(self, url: CollectionURL, options: ConnectionOptions, *, asynchronous: bool) -> Connection:
        """Open a connection that this package owns."""

    @abstractmethod
    def adopt(self, client: object, options: ConnectionOptions) -> Connection | None:
        """Wrap a client that the caller built and keeps owning; None if it is not one of this product's."""

    @abstractmethod
    def store(self, connection: Connection, collection: str, layout: Layout, guard: Guard = None) -> Store:
        """Make the store of one collection, with its guard; no call is sent."""


def load_backend(scheme: str) -> Backend:
    """Return the backend registered for a URL scheme, without its variant (``qdrant`` of ``qdrant+edge``).

    Raises
    ------
    InvalidInputError
        If no installed package registers the scheme; the message lists those that do.
    """
    backend: Backend = registered(scheme).load()()
    return backend


def registered(scheme: str) -> EntryPoint:
    """Return what is registered for a URL scheme, not imported yet; raises as :func:`load_backend`."""
    product = scheme.partition("+")[0]
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if product not in found:
        raise InvalidInputError(f"no store is registered for {scheme!r} URLs; there are: {', '.join(sorted(found))}")
    return found[product]


def connect(
    where: CollectionURL, options: ConnectionOptions, *, asynchronous: bool, create: bool = False
) -> tuple[Backend, Connection]:
    """Connect to what a URL names.

    Parameters
    ----------
    where
        The parsed URL.
    options
        Key, encryption, deadline.
    asynchronous
        Whether the connection serves ``arun``.
    create
        Whether an embedded engine may make its file or folder; otherwise a mistyped path leaves nothing behind.

    Raises
    ------
    CollectionNotFoundError
        If the path of an embedded engine does not exist and is not to be created.
    """
    backend = load_backend(where.scheme)
    if where.embedded and not create and where.path != IN_MEMORY and not Path(where.path).expanduser().exists():
        raise CollectionNotFoundError(f"there is no collection {where.collection!r}: {where.path} does not exist")
    return backend, backend.connect(where, options, asynchronous=asynchronous)


def adopt_client(client: object, options: ConnectionOptions) -> tuple[Backend, Connection]:
    """Find the backend that knows a caller's client.

    Raises
    ------
    InvalidInputError
        If no installed store knows the client's type.
    """
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        backend: Backend = entry.load()()
        connection = backend.adopt(client, options)
        if connection is not None:
            return backend, connection
    raise InvalidInputError(
        f"no store knows a client of type {type(client).__module__}.{type(client).__qualname__}; pass a QdrantClient, "
        "an AsyncQdrantClient, a qdrant_edge.EdgeShard, a MilvusClient or an AsyncMilvusClient"
    )

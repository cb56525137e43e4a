"""What the two facades share: identity, and how a collection is recorded or adopted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imrnn_vdb.attach import Attachment, find_attachment
from imrnn_vdb.backend import Backend, adopt_client
from imrnn_vdb.connection import Connection
from imrnn_vdb.core import CollectionCore
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import Settings
from imrnn_vdb.payloads import text_of
from imrnn_vdb.points import Payload, PointId, normalize_id

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.connection import Operation
    from imrnn_vdb.options import OpenOptions

    Begin = Callable[[Backend, Connection, str, IMRNNModel, Settings], Operation[CollectionCore]]


class Shell:
    """What both facades share: identity, and access to what they are made of."""

    def __init__(self, core: CollectionCore, connection: Connection) -> None:
        self._core = core
        self._connection = connection

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._core.store.collection

    @property
    def model(self) -> IMRNNModel:
        """Space, modulator and evidence."""
        return self._core.model

    @property
    def metric(self) -> Metric:
        """Metric of the base vector."""
        return self._core.metric

    def text_of(self, payload: Payload) -> str:
        """Return a point's title and text, as far as its payload has any."""
        return text_of(payload, self._core.text_field)

    @property
    def text_field(self) -> str:
        """Payload key of the text."""
        return self._core.text_field

    @property
    def client(self) -> Any:
        """The vendor's client, or what stands for it here and connects late: methods by keyword, with ``timeout=``.

        For what this layer does not do. It closes with this collection, unless it is yours.
        """
        return self._connection.client

    @property
    def vector_name(self) -> str:
        """Name of the base vector; "" where it has none."""
        return self._core.store.layout.vector_name

    def key_of(self, point_id: object) -> PointId:
        """Return the key under which the database keeps a point, by which other clients know it; of a key, itself.

        On Qdrant, whose keys are integers and UUIDs, it is a UUID for every other text.
        """
        return self._core.store.key_of(normalize_id(point_id))

    def parse_filter(self, text: str) -> Any:
        """Read a payload filter from text: JSON of a ``models.Filter`` for Qdrant, an expression for Milvus."""
        return self._core.store.parse_filter(text)

    def __repr__(self) -> str:
        model = self.model
        identity = f"space_id={model.space.space_id!r}, model_id={model.model_id!r}, active={model.active}"
        return f"{type(self).__name__}({self.name!r}, metric={str(self.metric)!r}, {identity})"


def attached(source: str | Path, options: OpenOptions) -> tuple[Attachment, IMRNNModel, OpenOptions]:
    """Return what was recorded of a collection, its model, checked, and the options that open it."""
    attachment = find_attachment(source, Settings(**options))
    merged: Any = attachment.merged(options)
    model = Settings(**merged).load(attachment.model)
    attachment.check(model.space)
    return attachment, model, merged


def adopt(client: object, settings: Settings, *, asynchronous: bool) -> tuple[Backend, Connection]:
    """Return the backend of a client of the caller's, and a connection that leaves it open."""
    backend, connection = adopt_client(client, settings.connection)
    if connection.asynchronous and not asynchronous:
        raise InvalidInputError("this client is asynchronous: use AsyncIMRNNCollection.from_client")
    if asynchronous and not connection.asynchronous:  # a blocking client serves an event loop from worker threads
        connection.asynchronous = connection.threaded = True
    return backend, connection


def no_progress(_count: int) -> None:
    """Report no progress."""

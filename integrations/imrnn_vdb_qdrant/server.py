"""Collections on a Qdrant server, and in qdrant-client's local mode."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.connection import Call, Operation
from imrnn_vdb.errors import (
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from imrnn_vdb.extras import RECORD_KEY
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId
from imrnn_vdb.store import CollectionInfo, Store
from imrnn_vdb.urls import CollectionURL
from imrnn_vdb_qdrant.capabilities import server_capabilities, settings_of
from imrnn_vdb_qdrant.convert import CodeRow, Row, vectors_of
from imrnn_vdb_qdrant.filters import Condition, Vocabulary
from imrnn_vdb_qdrant.native import ALL_BUT_SCORES, NativeId, NativeStore, WithPayload, WithVectors
from imrnn_vdb_qdrant.schema import Schema, new_base_name, schema_from_client
from imrnn_vdb_qdrant.vendor import load_client, then

_GRPC_PORT = 6334


def server_client(url: CollectionURL, options: ConnectionOptions, *, asynchronous: bool) -> Any:
    """Make a ``QdrantClient`` or ``AsyncQdrantClient`` that speaks gRPC; nothing is sent yet.

    Qdrant's deadlines are whole seconds: a blocking client gives up after one second at the earliest.

    Raises
    ------
    InvalidInputError
        If the key holds characters that a header cannot carry (the key is not repeated).
    MissingExtraError
        If qdrant-client is not installed.
    """
    key = options.api_key
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidInputError("api_key holds characters that no key has: a line break or a non-ASCII letter?")
    module = load_client()
    make = module.AsyncQdrantClient if asynchronous else module.QdrantClient
    grpc_port = url.port or _GRPC_PORT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # as asked for, or local
        return make(
            host=url.host,
            port=max(1, grpc_port - 1),  # REST lies one below by default (6333, 6334); nothing here uses it
            grpc_port=grpc_port,
            prefer_grpc=True,
            https=options.encrypts(url),
            api_key=key,
            timeout=math.ceil(options.timeout),  # of requests that take no deadline of their own
            check_compatibility=False,  # a background request over REST, and a warning where only gRPC is open
        )


class QdrantStore(NativeStore):
    """A collection on a Qdrant server (client and server may differ by one minor version), or in local mode.

    Payload filters are ``qdrant_client.models.Filter``.

    Parameters
    ----------
    collection
        Its name.
    layout
        Where things lie in it.
    guard
        A ``models.Filter``, or a mapping of payload keys to values; see :mod:`imrnn_vdb.guard`.
    local
        Whether the client works in this process.
    """

    _filter_name = "qdrant_client.models.Filter"

    def __init__(self, collection: str, layout: Layout, guard: Guard = None, *, local: bool = False) -> None:
        self._local = local
        self.in_flight = 1 if local else type(self).in_flight
        self._models: Any = load_client().models
        super().__init__(collection, layout, guard)

    def unguarded(self) -> QdrantStore:
        """Return a store of the same collection without the guard."""
        return QdrantStore(self.collection, self.layout, local=self._local)

    # operations of its own

    def info(self) -> Operation[CollectionInfo]:
        """Describe server and collection."""
        schema = yield from self._schema(fresh=True)
        number = yield from self.count()
        about = yield from self._ask(lambda client, _: client.info())
        server = f"qdrant-client local mode {about.version}" if self._local else f"Qdrant {about.version}"
        capabilities = server_capabilities(schema, about.version, self.layout, local=self._local)
        return CollectionInfo(server, schema.vectors, number, capabilities, settings_of(schema, self._factor_paths))

    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:  # noqa: ARG002
        """Create the collection, with indexed factor scores; it takes ids of every type."""
        m = self._models
        distance = m.Distance(metric.value.capitalize())
        name, vectors = new_base_name(self.layout), m.VectorParams(size=dim, distance=distance)
        named = {name: vectors} if name else vectors
        if self.layout.code_storage == "vector":
            named[self.layout.code_field] = m.VectorParams(
                size=self.layout.code_width,
                distance=m.Distance.DOT,
                hnsw_config=m.HnswConfigDiff(m=0),  # it is read with its point, never searched
            )
        yield from self._ask(
            lambda client, seconds: client.create_collection(
                self.collection, vectors_config=named, timeout=self._whole(seconds)
            )
        )
        self._known = None
        yield from self._add_indexes(Schema({}), self._factor_paths)
        self._indexes_seen = True

    def drop(self) -> Operation[None]:
        """Delete the collection and all its points; nothing if there is none, and `StoreError` for an alias.

        Qdrant takes the deletion of an alias for that of a collection that is not there.
        """
        yield from super().drop()
        try:
            yield from self._schema(fresh=True)
        except CollectionNotFoundError:
            return
        raise StoreError(
            f"{self.collection!r} is there still, so it is an alias: nothing was deleted; drop the collection it "
            "stands for"
        )

    def read_record(self) -> Operation[str | None]:
        """Return what lies under our key of the collection's metadata."""
        schema = yield from self._schema(fresh=True)
        return schema.metadata.get(RECORD_KEY)

    def write_record(self, text: str) -> Operation[None]:
        """Set our key of the collection's metadata (server 1.16 or newer); an older server ignores it, which shows."""
        yield from self._ask(
            lambda client, seconds: client.update_collection(
                self.collection, metadata={RECORD_KEY: text}, timeout=self._whole(seconds)
            )
        )
        if (yield from self.read_record()) != text:
            raise UnsupportedError(
                f"the server did not keep metadata for collection {self.collection!r}: Qdrant does from 1.16 on; "
                "record it in a file"
            )

    def parse_filter(self, text: str) -> Any:
        """Read the JSON of a ``qdrant_client.models.Filter``.

        Raises
        ------
        InvalidInputError
            If it is none.
        """
        try:
            return self._models.Filter.model_validate_json(text)
        except ValueError as exc:  # of pydantic, with an error for each kind of condition that it could have been
            errors = exc.errors() if hasattr(exc, "errors") else []
            why = ": ".join([*map(str, errors[0]["loc"][:1]), errors[0]["msg"]]) if errors else exc
            raise InvalidInputError(
                f'no Qdrant filter in JSON, such as {{"must": [{{"key": "year", "match": {{"value": 2020}}}}]}}: {why}'
            ) from exc

    def changed(self, ids: Sequence[PointId], vectors: FloatArray) -> Operation[list[PointId]]:
        """Return points that are gone or whose vectors changed; local mode, which would score all, reads them."""
        ask = Store.changed if self._local else NativeStore.changed
        return (yield from ask(self, ids, vectors))

    # how single requests are sent

    @property
    def _words(self) -> Vocabulary:
        m = self._models
        return Vocabulary(
            m.Filter,
            m.FieldCondition,
            m.Range,
            lambda value: m.MatchValue(value=value),
            self._has_id,
            lambda name: m.HasVectorCondition(has_vector=name),
        )

    def _has_id(self, ids: list[NativeId]) -> Any:
        return self._models.HasIdCondition(has_id=ids)

    def _whole(self, seconds: float) -> int:
        """Return a deadline in whole seconds, which is what requests carry: rounded down, but at least one.

        Strict mode refuses requests with longer deadlines than it allows, however soon they would be done.
        """
        # a deadline that has just begun to run is still whole
        return self._at_most(max(1, math.floor(seconds + 0.01)), "max_timeout")

    def _read_limits(self) -> Operation[None]:
        yield from self._schema()

    def _read_schema(self) -> Call:
        return lambda client, _: then(client.get_collection(self.collection), schema_from_client)

    def _send_rows(self, rows: Sequence[Row], base: str) -> Call:
        points = [
            self._models.PointStruct(id=row.id, vector=vectors_of(row, base, self.layout), payload=row.payload)
            for row in rows
        ]
        return lambda client, seconds: then(
            client.upsert(self.collection, points, wait=True, timeout=self._whole(seconds)), _completed
        )

    def _send_codes(self, rows: Sequence[CodeRow]) -> Call:
        m = self._models
        operations: list[Any] = [
            m.SetPayloadOperation(set_payload=m.SetPayload(payload=row.payload, points=[row.id])) for row in rows
        ]
        vectors = [
            m.PointVectors(id=row.id, vector={self.layout.code_field: row.code}) for row in rows if row.code is not None
        ]
        if vectors:
            operations.insert(0, m.UpdateVectorsOperation(update_vectors=m.UpdateVectors(points=vectors)))
        return lambda client, seconds: then(
            client.batch_update_points(self.collection, operations, wait=True, timeout=self._whole(seconds)),
            _all_completed,
        )

    def _query(
        self,
        vectors: list[list[float]],
        limit: int,
        base: str,
        condition: Condition,
        with_payload: WithPayload,
        with_vectors: WithVectors,
    ) -> Call:
        m = self._models
        params = m.SearchParams(exact=self.exact or None, quantization=m.QuantizationSearchParams(rescore=True))
        requests = [
            m.QueryRequest(
                query=vector,
                using=base or None,
                filter=condition,
                params=None if self._local else params,  # local mode compares all vectors, and warns of parameters
                limit=limit,
                with_payload=self._selector(with_payload),
                with_vector=with_vectors,
            )
            for vector in vectors
        ]
        return lambda client, seconds: then(
            client.query_batch_points(self.collection, requests, timeout=self._whole(seconds)),
            lambda replies: [reply.points for reply in replies],
        )

    def _selector(self, with_payload: WithPayload) -> Any:
        if with_payload != ALL_BUT_SCORES:
            return with_payload
        return self._models.PayloadSelectorExclude(exclude=self._factor_paths) if self._factor_paths else True

    def _scores(self, vector: list[float], limit: int, base: str, condition: Condition) -> Call:
        m = self._models
        params = m.SearchParams(exact=True, quantization=m.QuantizationSearchParams(ignore=True))
        return lambda client, seconds: then(
            client.query_points(
                self.collection,
                query=vector,
                using=base or None,
                query_filter=condition,
                search_params=params,
                limit=limit,
                with_payload=False,
                with_vectors=False,
                timeout=self._whole(seconds),
            ),
            lambda reply: reply.points,
        )

    def _retrieve(self, ids: list[NativeId], with_payload: WithPayload, with_vectors: WithVectors) -> Call:
        return lambda client, seconds: client.retrieve(
            self.collection,
            ids,
            with_payload=self._selector(with_payload),
            with_vectors=with_vectors,
            timeout=self._whole(seconds),
        )

    def _scroll(
        self, limit: int, cursor: Any, condition: Condition, with_payload: WithPayload, with_vectors: WithVectors
    ) -> Call:
        return lambda client, seconds: client.scroll(
            self.collection,
            scroll_filter=condition,
            limit=limit,
            offset=cursor,
            with_payload=self._selector(with_payload),
            with_vectors=with_vectors,
            timeout=self._whole(seconds),
        )

    def _count(self, condition: Condition) -> Call:
        return lambda client, seconds: then(
            client.count(self.collection, condition, exact=self._counts_exactly, timeout=self._whole(seconds)),
            lambda reply: reply.count,
        )

    def _delete(self, condition: Condition) -> Call:
        selector = self._models.FilterSelector(filter=condition)
        return lambda client, seconds: then(
            client.delete(self.collection, selector, wait=True, timeout=self._whole(seconds)), _completed
        )

    def _drop(self) -> Call:
        return lambda client, seconds: client.delete_collection(self.collection, timeout=self._whole(seconds))

    def _add_code_vector(self, schema: Schema) -> Operation[None]:
        """Add the named vector (server 1.18 or newer), and wait until the collection shows it and is green."""
        m = self._models
        if self._local and "" in schema.vectors:
            raise UnsupportedError(
                f"collection {self.collection!r} has an unnamed vector, beside which local mode cannot add one: keep "
                'codes in the payload (code_storage="payload")'
            )
        name = self.layout.code_field
        params = m.DenseVectorConfig(size=self.layout.code_width, distance=m.Distance.DOT)
        config = m.DenseVectorNameConfig(dense=params)
        yield from self._ask(
            lambda client, seconds: client.create_vector_name(
                self.collection, name, config, wait=True, timeout=self._whole(seconds)
            )
        )
        yield from self._verify_code_vector()

    def _verify_code_vector(self) -> Operation[None]:
        name = self.layout.code_field
        yield from self._ask(
            lambda client, _: then(client.get_collection(self.collection), lambda found: _check_shows(found, name))
        )

    def _add_indexes(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:
        if self._local:  # it has no indexes, and warns of them
            return
        for path in paths:
            if path not in schema.indexed:
                yield from self._ask(self._index(path))
        self._known = None

    def _prepare_filter(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:
        if schema.strict:  # a search writes an index only where the server refuses it otherwise
            yield from self._add_indexes(schema, [path for path in paths if path not in schema.indexed])

    def _remove_keys(self, ids: list[NativeId], paths: list[str]) -> Call:
        m = self._models
        operation = m.DeletePayloadOperation(delete_payload=m.DeletePayload(keys=paths, points=ids))
        return lambda client, seconds: then(
            client.batch_update_points(self.collection, [operation], wait=True, timeout=self._whole(seconds)),
            _all_completed,
        )

    def _remove_index(self, path: str) -> Call:
        return lambda client, seconds: then(
            client.delete_payload_index(self.collection, path, wait=True, timeout=self._whole(seconds)), _completed
        )

    def _remove_vector(self, name: str) -> Call:
        return lambda client, seconds: client.delete_vector_name(
            self.collection, name, wait=True, timeout=self._whole(seconds)
        )

    def _index(self, path: str) -> Call:
        kind = self._models.PayloadSchemaType.FLOAT
        return lambda client, seconds: then(
            client.create_payload_index(self.collection, path, kind, wait=True, timeout=self._whole(seconds)),
            _completed,
        )


def _completed(result: Any) -> Any:
    """Check that a write was carried out: a server may accept one, and answer before it is done."""
    if result.status != "completed":
        raise StoreTimeoutError(f"Qdrant accepted a write but did not finish it in time (status {result.status.value})")
    return result


def _all_completed(results: Sequence[Any]) -> Any:
    for result in results:
        _completed(result)
    return results


def _check_shows(info: Any, code_field: str) -> None:
    if code_field not in schema_from_client(info).vectors:
        raise StoreError("the new vector for codes does not show in the collection: look at the server's log")
    if info.status != "green":
        raise StoreUnavailableError(
            f"the collection is {info.status.value} while it takes on the vector for codes: try later"
        )

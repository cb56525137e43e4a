"""One Milvus collection: each operation of :class:`imrnn_vdb.store.Store` as calls to a MilvusClient, sync or async."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.connection import Call, Operation
from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
    UnsupportedError,
)
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import Candidates, CollectionInfo, Layout, Page, PointId, Points, Store
from imrnn_vdb_milvus.capabilities import capabilities_of
from imrnn_vdb_milvus.expressions import every, factor_expression, is_one_of, literal, user_filter
from imrnn_vdb_milvus.quiet import quiet, quietly
from imrnn_vdb_milvus.rows import Row, batches, candidates_of, check_vectors, code_fields, merged, points_of, rows_of
from imrnn_vdb_milvus.schema import Schema, Server, check_partitions, new_indexes, new_schema, search_params

MAX_WINDOW = 16_384
"""Most rows of one reply, and most queries of one request: Milvus's own limits, which Milvus Lite does not enforce."""

_IDS_PER_CALL = 500
_LITE_UNFLUSHED_ROWS = 256
"""Rows that a search in Milvus Lite may find unflushed: it scans each of them, which takes some 50 µs a row."""
_SESSION: dict[str, Any] = {"consistency_level": "Session"}


class MilvusStore(Store):
    """A collection on a Milvus server or in a Milvus Lite file.

    Reads see this process's own writes (session consistency). Payload is what the collection's scalar fields and its
    dynamic field hold: JSON with 64-bit integers and finite floats; tuples come back as lists. Milvus limits the
    dynamic field of a point to 65,536 bytes, Milvus Lite does not.

    A Milvus update rewrites the whole row. :meth:`write_codes` reads a row, changes the fields of this layer, and
    writes it back; what another client changes in between is lost.
    """

    def __init__(self, collection: str, layout: Layout) -> None:
        super().__init__(collection, layout)
        self._found: tuple[Server, Schema] | None = None
        self._unflushed = _LITE_UNFLUSHED_ROWS  # unknown: an earlier process may have left some

    def info(self) -> Operation[CollectionInfo]:
        """Describe server and collection; `CollectionNotFoundError` if there is none."""
        server, schema = yield from self._look()
        partitions = yield from self._ask("list_partitions")
        count = yield from self.count()
        return CollectionInfo(
            str(server), dict(schema.vectors), count, capabilities_of(server, schema, partitions, self.layout)
        )

    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:
        """Create the collection for base vectors and codes; `CollectionExistsError` if there is one.

        Raises
        ------
        UnsupportedError
            For the Manhattan metric, and for codes as a second vector on a server before 2.4.
        """
        server = Server.parse((yield _call("get_server_version")))
        if self.layout.code_storage == "vector" and not server.at_least(2, 4):
            raise UnsupportedError(f"{server} allows one vector field: store codes in the payload, or use Milvus 2.4")
        schema, indexes = new_schema(dim, id_type, self.layout), new_indexes(metric, self.layout, server)
        if (
            yield from self._ask("has_collection")
        ):  # servers take an identical second creation for a repeated first one
            raise CollectionExistsError(f"collection {self.collection!r} exists: choose another name or drop it first")
        yield from self._ask("create_collection", schema=schema, **_SESSION)
        try:
            yield from self._ask("create_index", index_params=indexes, sync=False)  # nothing to wait for: it is empty
            yield from self._ask("load_collection")
        except StoreError:  # half a collection would answer "exists" to the next attempt
            yield from self._ask("drop_collection")
            raise
        self._found = None

    def drop(self) -> Operation[None]:
        """Delete the collection and all its points; what is gone already is no error."""
        yield from self._ask("drop_collection")
        self._found = None

    def upsert(self, points: Points) -> Operation[None]:
        """Insert or replace whole points, visible to the next read of this connection.

        Of several points with one id the last is written.

        Raises
        ------
        InvalidInputError
            For an id, vector or payload that the collection cannot hold.
        UnsupportedError
            If the server invents the ids, or if the collection has partitions made by hand.
        """
        if not len(points):
            return
        server, schema = yield from self._look()
        if schema.auto_id:
            raise UnsupportedError(
                f"collection {self.collection!r} has autoID keys: the server would not keep the ids given here"
            )
        rows = rows_of(points, schema, self.layout)
        check_partitions(schema, (yield from self._ask("list_partitions")))
        for batch in batches(rows):
            yield from self._write(server, batch)

    def search(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return the first-stage candidates of each query, in one round trip; the filter is a Milvus expression."""
        if not len(query_vectors):
            return []
        if not 0 < limit <= MAX_WINDOW or len(query_vectors) > MAX_WINDOW:
            raise InvalidInputError(f"Milvus answers 1 to {MAX_WINDOW} queries with 1 to {MAX_WINDOW} candidates each")
        server, schema = yield from self._look()
        base = schema.base_name(self.layout)
        check_vectors(query_vectors, schema, base)
        if server.lite and self._unflushed >= _LITE_UNFLUSHED_ROWS:
            yield from self._ask("flush")
            self._unflushed = 0
        reply = yield from self._ask(
            "search",
            data=list(query_vectors),
            anns_field=base,
            limit=limit,
            filter=self._filter(schema, payload_filter, factor_filter),
            output_fields=schema.read_fields(self.layout),
            search_params=search_params(schema.index_types[base], limit),
            **_SESSION,
        )
        metric = schema.vectors[base].metric
        return [candidates_of(hits, schema, self.layout, metric) for hits in reply]

    def fetch(self, ids: Sequence[PointId], with_vectors: bool = False) -> Operation[Points]:
        """Read points by id, in the order asked for; ids that do not exist are left out."""
        if not len(ids):
            return Points([], np.zeros((0, 0), np.float32) if with_vectors else None, [])
        _, schema = yield from self._look()
        base = schema.base_name(self.layout) if with_vectors else None
        fields = schema.point_fields(self.layout) + ([base] if base else [])
        found = yield from self._rows(schema, schema.usable_keys(ids), fields)
        return points_of([found[value] for value in ids if value in found], schema, self.layout, base)

    def scroll(
        self, limit: int, cursor: Any = None, payload_filter: Any = None, with_vectors: bool = False
    ) -> Operation[Page]:
        """Read the next points by ascending id; every point that stays is seen exactly once.

        The cursor is the last id read.
        """
        if limit < 1:
            raise InvalidInputError(f"a page has at least one point, got limit={limit}")
        server, schema = yield from self._look()
        base = schema.base_name(self.layout) if with_vectors else None
        fields = schema.point_fields(self.layout) + ([base] if base else [])
        given = user_filter(payload_filter)
        if server.lite:
            rows, last = yield from self._page_of_lite(schema, limit, cursor, given, fields)
        else:
            rows, last = yield from self._page_of_server(schema, limit, cursor, given, fields)
        return Page(points_of(rows, schema, self.layout, base), last)

    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | None = None) -> Operation[int]:
        """Count points exactly."""
        _, schema = yield from self._look()
        condition = self._filter(schema, payload_filter, factor_filter)
        reply = yield from self._ask("query", filter=condition, output_fields=["count(*)"], **_SESSION)
        return int(reply[0]["count(*)"])

    def write_codes(self, ids: Sequence[PointId], codes: Codes, factor_scores: FloatArray) -> Operation[None]:
        """Write code and named factor scores of existing points; base vectors and foreign payload stay as they are.

        An id that does not exist is left out. Each row is read, changed and written back as a whole, on servers with
        partial updates too; so a change that another client makes to the same row in between, a deletion included, is
        lost. Do not run this beside other writers.

        Raises
        ------
        UnsupportedError
            If rewriting rows would change their keys (autoID) or lose values, or if there is no room for codes.
        """
        if not len(ids):
            return
        server, schema = yield from self._look()
        self._check_rewritable(schema)
        fields = dict(zip(ids, code_fields(codes, factor_scores, schema, self.layout), strict=True))
        partitions = [""] if schema.partition_key else (yield from self._ask("list_partitions"))
        for partition in partitions if len(partitions) > 1 else [""]:
            # a row belongs back into its partition: elsewhere it would be a second row of the same key
            where = {"partition_names": [partition]} if partition else {}
            keys = schema.usable_keys(fields)
            for start in range(0, len(keys), _IDS_PER_CALL):
                found = yield from self._rows(schema, keys[start : start + _IDS_PER_CALL], schema.row_fields, **where)
                rows = [merged(row, fields[value]) for value, row in found.items()]
                for batch in batches(rows):
                    yield from self._write(server, batch, **({"partition_name": partition} if partition else {}))

    def delete(self, ids: Sequence[PointId]) -> Operation[None]:
        """Delete points; ids that do not exist are ignored."""
        if not len(ids):
            return
        server, schema = yield from self._look()
        keys = schema.usable_keys(ids)
        for start in range(0, len(keys), _IDS_PER_CALL):
            yield from self._ask("delete", filter=is_one_of(schema.key, keys[start : start + _IDS_PER_CALL]))
        if keys and not server.lite:
            # Milvus 2.3 does not say when a deletion happened, so session consistency would not wait for it
            gone = is_one_of(schema.key, keys[-1:])
            yield from self._ask("query", filter=gone, output_fields=[schema.key], consistency_level="Strong")

    def _look(self) -> Operation[tuple[Server, Schema]]:
        """Describe the collection, once; a Milvus Lite collection is loaded, as no one else can."""
        if self._found is None:
            server = Server.parse((yield _call("get_server_version")))
            description = yield from self._ask("describe_collection")
            indexes = []
            for name in (yield from self._ask("list_indexes")):
                indexes.append((yield from self._ask("describe_index", index_name=name)))
            schema = Schema.parse(description, [index for index in indexes if index])
            if server.lite and schema.vectors:
                yield from self._ask("load_collection")
            self._found = server, schema
        return self._found

    def _filter(self, schema: Schema, payload_filter: Any, factor_filter: FactorFilter | None) -> str:
        factors = factor_expression(factor_filter, lambda name: schema.score_address(self.layout, name))
        return every(user_filter(payload_filter), factors)

    def _rows(
        self, schema: Schema, keys: Sequence[PointId], fields: list[str], **where: Any
    ) -> Operation[dict[PointId, Row]]:
        found: dict[PointId, Row] = {}
        for start in range(0, len(keys), _IDS_PER_CALL):
            # not ids=, which pymilvus puts into an expression without escaping quotes
            wanted = is_one_of(schema.key, keys[start : start + _IDS_PER_CALL])
            reply = yield from self._ask("query", filter=wanted, output_fields=fields, **where, **_SESSION)
            found.update((row[schema.key], row) for row in reply)
        return found

    def _page_of_server(
        self, schema: Schema, limit: int, cursor: Any, given: str | None, fields: list[str]
    ) -> Operation[tuple[list[Row], Any]]:
        """Read one page in the way of pymilvus's own iterator.

        A reply holds the lowest keys without a gap, but with several segments fewer or more of them than the limit
        (seen on 2.3.5); an empty one is the end.
        """
        if cursor is None:  # an iterator's reads have no session consistency: wait for our own writes once
            yield from self._ask("query", filter=given or "", output_fields=[schema.key], limit=1, **_SESSION)
        rows: list[Row] = []
        while len(rows) < limit:
            reply = yield from self._ask(
                "query",
                filter=every(_beyond(schema, cursor), given),
                output_fields=fields,
                limit=min(limit - len(rows), MAX_WINDOW),
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not reply:
                return rows, None
            rows += sorted(reply, key=lambda row: row[schema.key])[: limit - len(rows)]
            cursor = rows[-1][schema.key]
        return rows, cursor

    def _page_of_lite(
        self, schema: Schema, limit: int, cursor: Any, given: str | None, fields: list[str]
    ) -> Operation[tuple[list[Row], Any]]:
        """Read one page where a limit takes rows in storage order: all keys first, then the rows of the lowest."""
        condition = every(_beyond(schema, cursor), given)
        reply = yield from self._ask("query", filter=condition, output_fields=[schema.key])
        keys = sorted(row[schema.key] for row in reply)
        found = yield from self._rows(schema, keys[:limit], fields)
        rows = [found[key] for key in keys[:limit] if key in found]
        return rows, (keys[limit - 1] if len(keys) > limit else None)

    def _check_rewritable(self, schema: Schema) -> None:
        schema.check_room(self.layout)
        if schema.auto_id:
            raise UnsupportedError(
                f"collection {self.collection!r} has autoID keys, and Milvus gives a rewritten row a new key: keep "
                "codes in a collection of their own, with the ids as keys"
            )
        if schema.foreign:
            raise UnsupportedError(
                f"collection {self.collection!r} has fields whose values cannot be read and written again unchanged "
                f"({', '.join(schema.foreign)}), and Milvus updates whole rows: keep codes in a collection of their own"
            )

    def _write(self, server: Server, rows: list[Row], **where: str) -> Operation[None]:
        """Write whole rows, in place of those that have their keys.

        Milvus Lite merges what is upserted into the row that is there, keys of the dynamic field included; its insert
        replaces the row. A server's insert would add a second row of the same key.
        """
        yield from self._ask("insert" if server.lite else "upsert", data=rows, **where)
        self._unflushed += len(rows)

    def _ask(self, method: str, **arguments: Any) -> Operation[Any]:
        """Call a method about this collection; servers do not always name the collection they miss."""
        try:
            return (yield _call(method, collection_name=self.collection, **arguments))
        except CollectionNotFoundError as exc:
            self._found = None
            raise CollectionNotFoundError(
                f"there is no collection {self.collection!r}: check the name, or create it"
            ) from exc


def _call(method: str, **arguments: Any) -> Call:
    """Return a call of a client's method; MilvusClient and AsyncMilvusClient name theirs alike."""

    def send(client: Any, seconds: float) -> Any:
        with quiet():
            reply = getattr(client, method)(timeout=seconds, **arguments)
        return quietly(reply) if inspect.isawaitable(reply) else reply

    return send


def _beyond(schema: Schema, cursor: Any) -> str | None:
    return None if cursor is None else f"{schema.key} > {literal(cursor)}"

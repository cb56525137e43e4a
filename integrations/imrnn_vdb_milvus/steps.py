"""What the operations of a Milvus store are made of: calls about the collection or its sidecar, rows, pages, writes."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from imrnn_vdb.connection import Call, Operation
from imrnn_vdb.errors import CollectionNotFoundError, InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.points import PointId
from imrnn_vdb.store import Store
from imrnn_vdb_milvus.direct import SEARCH, method_of
from imrnn_vdb_milvus.expressions import every, is_above, is_one_of, literal, user_filter
from imrnn_vdb_milvus.faults import RefusedConditionError
from imrnn_vdb_milvus.hits import Hits, Row
from imrnn_vdb_milvus.quiet import quiet, quietly
from imrnn_vdb_milvus.rows import rows_read
from imrnn_vdb_milvus.schema import Schema, Server
from imrnn_vdb_milvus.sidecar import sidecar_name

MAX_WINDOW = 16_384
"""Most rows of one reply, and most queries of one request: Milvus's own limits, which Milvus Lite does not enforce."""

IDS_PER_CALL = 2_000
"""Keys that one condition lists: on 2.3.5 a key costs 6 µs in a list of 2,000, and 16 µs in one of 500."""
LOOK_AGAIN_S = 5.0
"""After so long, a read looks again: another process may have moved the alias, made the collection anew, or filled a
sidecar that was not there."""
ALL_CELLS = 65_536
"""As many cells as an index can have."""
LITE_UNFLUSHED_ROWS = 256
"""Rows that a search in Milvus Lite may find unflushed; unknown at first, as an earlier process may have left some."""
_READS = frozenset({SEARCH, "query", "delete"})
"""Methods of a client that take a condition."""
SESSION: dict[str, Any] = {"consistency_level": "Session"}
_VECTORS: dict[str, Any] = {"strict_float32": True}
"""Vectors come as arrays, not as lists of Python floats."""


class MilvusSteps(Store):
    """Steps of operations on one collection; what is known of it is found out once."""

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        super().__init__(collection, layout, guard)
        self._found: tuple[Server, Schema] | None = None
        self._outdated = False
        self._sidecar: Schema | None = None
        self._looked = 0.0
        self._unflushed: dict[str, int] = {}

    @abstractmethod
    def _may_have_sidecar(self, schema: Schema) -> bool:
        """Say whether codes lie in a sidecar, where there is one."""

    @abstractmethod
    def _look_beside(self, server: Server, schema: Schema, writing: bool) -> Operation[Schema | None]:
        """Find the sidecar, if there is one that answers, or for writing, takes rows."""

    @property
    def _name(self) -> str:
        """The collection's own name; ``collection`` may be an alias, which is followed when it moves."""
        return self.collection if self._found is None else self._found[1].collection

    @property
    def _sidecar_name(self) -> str:
        return sidecar_name(self._name, self.layout.space_id)

    def _look(self, *, writing: bool = False) -> Operation[tuple[Server, Schema]]:
        """Describe the collection, once; a Milvus Lite collection is loaded, as no one else can.

        Before each write, and before a read from time to time, it looks again: whether the name, or the alias, stands
        for another collection now, and for a sidecar that was not there.
        """
        again = writing or monotonic() > self._looked + LOOK_AGAIN_S
        if self._found is not None and again and not self._outdated:
            now = yield from self._about(self.collection, "describe_collection")
            self._outdated = not self._found[1].is_of(now)
            self._looked = monotonic()
        if self._found is None or self._outdated:
            server = Server.parse((yield call_of("get_server_version")))
            schema = yield from self._describe(self.collection)
            if server.lite and schema.vectors:
                yield from self._about(schema.collection, "load_collection")
            yield from self._look_for_sidecar(server, schema, writing)
            self._found, self._outdated = (server, schema), False
        elif self._sidecar is None and again:
            yield from self._look_for_sidecar(*self._found, writing)
        return self._found

    def _look_for_sidecar(self, server: Server, schema: Schema, writing: bool) -> Operation[None]:
        found = None
        if self._may_have_sidecar(schema):
            found = yield from self._look_beside(server, schema, writing)
        self._sidecar, self._looked = found, monotonic()  # at once: searches of other threads go on with what was known

    def _describe(self, name: str) -> Operation[Schema]:
        description = yield from self._about(name, "describe_collection")
        indexes = []
        for index in (yield from self._about(name, "list_indexes")):
            indexes.append((yield from self._about(name, "describe_index", index_name=index)))
        return Schema.parse(description, [index for index in indexes if index])

    def _rows(
        self, schema: Schema, keys: Sequence[PointId], fields: list[str], **where: Any
    ) -> Operation[dict[PointId, Row]]:
        found: dict[PointId, Row] = {}
        for start in range(0, len(keys), IDS_PER_CALL):
            # not ids=, which pymilvus puts into an expression without escaping quotes
            wanted = is_one_of(schema.key, keys[start : start + IDS_PER_CALL])
            # without a limit, 2.3.5 leaves rows out where other keys have several
            arguments = {"filter": wanted, "output_fields": fields, "limit": MAX_WINDOW, **_VECTORS, **SESSION, **where}
            reply = yield from self._about(schema.collection, "query", **arguments)
            found.update((row[schema.key], row) for row in rows_read(reply))
        return found

    def _page(
        self, server: Server, schema: Schema, limit: int, cursor: Any, given: str | None, fields: list[str]
    ) -> Operation[tuple[list[Row], Any]]:
        read = self._page_of_lite if server.lite else self._page_of_server
        return read(schema, limit, cursor, given, fields)

    def _page_of_server(
        self, schema: Schema, limit: int, cursor: Any, given: str | None, fields: list[str]
    ) -> Operation[tuple[list[Row], Any]]:
        """Read one page in the way of pymilvus's own iterator.

        A reply holds the lowest keys without a gap, but with several segments fewer or more of them than the limit
        (seen on 2.3.5); an empty one is the end.
        """
        if cursor is None:  # an iterator's reads have no session consistency: wait for our own writes once
            first = {"filter": given or "", "output_fields": [schema.key], "limit": 1}
            yield from self._about(schema.collection, "query", **first, **SESSION)
        rows: list[Row] = []
        while len(rows) < limit:
            reply = yield from self._about(
                schema.collection,
                "query",
                filter=every(_beyond(schema, cursor), given),
                output_fields=fields,
                limit=min(limit - len(rows), MAX_WINDOW),
                **_VECTORS,
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not reply:
                return rows, None
            rows += sorted(rows_read(reply), key=lambda row: row[schema.key])[: limit - len(rows)]
            cursor = rows[-1][schema.key]
        return rows, cursor

    def _page_of_lite(
        self, schema: Schema, limit: int, cursor: Any, given: str | None, fields: list[str]
    ) -> Operation[tuple[list[Row], Any]]:
        """Read one page where a limit takes rows in storage order: all keys first, then the rows of the lowest."""
        condition = every(_beyond(schema, cursor), given)
        arguments = {"filter": condition, "output_fields": [schema.key]}
        reply = yield from self._about(schema.collection, "query", **arguments)
        keys = sorted(row[schema.key] for row in reply)
        found = yield from self._rows(schema, keys[:limit], fields)
        rows = [found[key] for key in keys[:limit] if key in found]
        return rows, (keys[limit - 1] if len(keys) > limit else None)

    def _create(self, name: str, schema: Any, indexes: Any, **loading: bool) -> Operation[None]:
        yield from self._about(name, "create_collection", schema=schema, **SESSION)
        try:
            yield from self._about(name, "create_index", index_params=indexes, sync=False)  # it is empty: no waiting
            yield from self._about(name, "load_collection", **loading)
        except StoreError:  # half a collection would answer "exists" to the next attempt
            yield from self._about(name, "drop_collection")
            raise

    def _write(self, server: Server, rows: list[Row], name: str | None = None, **where: str) -> Operation[None]:
        """Write whole rows, in place of those that have their keys.

        Milvus Lite merges what is upserted into the row that is there, keys of the dynamic field included; its insert
        replaces the row. A server's insert would add a second row of the same key.
        """
        target = name or self._name
        yield from self._about(target, "insert" if server.lite else "upsert", data=rows, **where)
        self._unflushed[target] = self._unflushed.get(target, LITE_UNFLUSHED_ROWS) + len(rows)

    def _settle(self, server: Server, name: str) -> Operation[None]:
        """Flush before a search in Milvus Lite, which scans each row that is not flushed: some 50 µs a row."""
        if server.lite and self._unflushed.get(name, LITE_UNFLUSHED_ROWS) >= LITE_UNFLUSHED_ROWS:
            yield from self._about(name, "flush")
            self._unflushed[name] = 0

    def _ask(self, method: str, **arguments: Any) -> Operation[Any]:
        """Call a method about this collection."""
        return (yield from self._about(self._name, method, **arguments))

    def _hits(self, **question: Any) -> Operation[list[Hits]]:
        """Search this collection; one entry a query.

        An index of cells finds what matches a filter in the cells that it visits alone. Where that is too little, it
        visits them all, which costs the less the fewer points match.
        """
        hits: list[Hits] = yield from self._ask(SEARCH, **question)
        how = question["search_params"]
        if "nprobe" in how["params"] and any(len(found.ids) < question["limit"] for found in hits):
            question["search_params"] = {**how, "params": {"nprobe": ALL_CELLS}}
            hits = yield from self._ask(SEARCH, **question)
        return hits

    def _about(self, name: str, method: str, **arguments: Any) -> Operation[Any]:
        """Call a method about this collection or its sidecar; errors name it, which those of servers do not always.

        Every condition goes through here, and one on anything but the sidecar gets the guard. A sidecar holds no
        payload: it is asked only for keys that the collection has shown.
        """
        if method in _READS and name != self._sidecar_name:
            arguments["filter"] = every(self._guard_text(), arguments.get("filter"))
        try:
            return (yield call_of(method, collection_name=name, **arguments))
        except CollectionNotFoundError as exc:
            self._outdated = True
            if name == self._name != self.collection:  # dropped, now that its alias stands for another
                return (yield from self._about(self.collection, method, **arguments))
            raise CollectionNotFoundError(f"there is no collection {name!r}: check the name, or create it") from exc
        except StoreError as exc:
            exc.args = (f"collection {name!r}: {exc}", *exc.args[1:])
            if isinstance(exc, RefusedConditionError) and method in _READS:  # ours are whole: it is the caller's
                raise InvalidInputError(str(exc)) from exc
            raise

    def _guard_text(self) -> str | None:
        if not isinstance(self._guard, Mapping):
            return user_filter(self._guard)
        if self._found is None:
            raise StoreError(f"collection {self.collection!r} is read before it was described")
        server, schema = self._found
        flags = [key for key, value in self._guard.items() if isinstance(value, bool) and key not in schema.columns]
        if server.lite and flags:  # tried on 3.2
            raise UnsupportedError(
                f"Milvus Lite does not tell true from 1 under {flags[0]!r}: guard by a text or integer"
            )
        return every(*(f"{schema.address(key)} == {literal(value)}" for key, value in self._guard.items()))


def call_of(method: str, **arguments: Any) -> Call:
    """Return a call of a client's method; MilvusClient and AsyncMilvusClient name theirs alike."""

    def send(client: Any, seconds: float) -> Any:
        with quiet():
            reply = method_of(client, method)(timeout=seconds, **arguments)
        return quietly(reply) if inspect.isawaitable(reply) else reply

    return send


def _beyond(schema: Schema, cursor: Any) -> str | None:
    return None if cursor is None else is_above(schema.key, cursor)

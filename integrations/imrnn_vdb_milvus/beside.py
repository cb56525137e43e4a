"""The operations of a Milvus collection whose codes lie in a sidecar (:mod:`imrnn_vdb_milvus.sidecar`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.connection import Operation
from imrnn_vdb.errors import CollectionNotFoundError, StoreError
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.points import Candidates, LazyRows, PointId, Points
from imrnn_vdb_milvus.expressions import LEAST, every, factor_expression, is_one_of, literal
from imrnn_vdb_milvus.faults import DeniedError, NotLoadedError
from imrnn_vdb_milvus.hits import Row
from imrnn_vdb_milvus.rows import MAX_BATCH_ROWS, oriented, payload_of
from imrnn_vdb_milvus.schema import Schema, Server, search_params
from imrnn_vdb_milvus.sidecar import (
    codes_beside,
    sidecar_indexes,
    sidecar_layout,
    sidecar_name,
    sidecar_rows,
    sidecar_schema,
    with_codes,
)
from imrnn_vdb_milvus.steps import IDS_PER_CALL, MAX_WINDOW, SESSION, MilvusSteps

_STRONG = {"consistency_level": "Strong"}


class SidecarSteps(MilvusSteps):
    """Steps for codes in a sidecar."""

    _loading = False
    """Whether the sidecar is new and not loaded yet: it takes writes, but no reads."""

    def _look_beside(self, server: Server, schema: Schema, writing: bool) -> Operation[Schema | None]:
        """Find the sidecar; to reads, one that is not loaded is none: a backfill that was killed may have left it.

        What is written goes there all the same: a backfill may be filling it right now, and once it is loaded, again
        after a restore or a release, its codes are those that count. One older than the collection belonged to an
        earlier one of its name.
        """
        name = sidecar_name(schema.collection, self.layout.space_id)
        if not (yield from self._about(name, "has_collection")):
            return None
        if server.lite:
            yield from self._about(name, "load_collection")
        else:
            state = yield from self._load_state(name)
            self._loading = writing and state != "Loaded"
            if state != "Loaded" and not self._loading:
                return None
        found = yield from self._describe(name)
        return found if found.vectors and found.created >= schema.created else None

    def _load_state(self, name: str) -> Operation[str]:
        """Return how far a server has loaded a collection; to who may not ask, which 2.3.5 lets loaders alone, all."""
        try:
            state: str = (yield from self._about(name, "get_load_state"))["state"].name
        except DeniedError:
            state = "Loaded"  # reads of one that is not loaded say so
        return state

    def _may_have_sidecar(self, schema: Schema) -> bool:
        return schema.code_home(self.layout) not in {"vector", "column"}

    @property
    def _beside(self) -> Schema:
        if self._sidecar is None:
            raise StoreError(f"collection {self.collection!r} has no sidecar for space {self.layout.space_id}")
        return self._sidecar

    def _make_sidecar(self, server: Server, schema: Schema) -> Operation[bool]:
        """Create the sidecar, or finish one whose creation was cut short; idempotent. Say whether it may hold codes.

        A server takes 3 s to load even an empty collection, so a new one is loaded while it is written.
        """
        name, indexes = self._sidecar_name, sidecar_indexes(self.layout, server)
        exists = yield from self._about(name, "has_collection")
        if exists and (yield from self._describe(name)).created < schema.created:
            yield from self._about(name, "drop_collection")
            exists = False
        if exists:
            if not (yield from self._about(name, "list_indexes")):
                yield from self._about(name, "create_index", index_params=indexes, sync=False)
            yield from self._about(name, "load_collection")
        else:
            yield from self._create(name, sidecar_schema(schema, self.layout), indexes, _async=not server.lite)
            self._loading = not server.lite
        self._sidecar = yield from self._describe(name)
        return bool(exists)

    def _await_loaded(self) -> Operation[None]:
        """Wait until the sidecar can be read."""
        if self._loading:
            yield from self._about(self._sidecar_name, "load_collection")
            self._loading = False

    def _search_beside(
        self, schema: Schema, question: dict[str, Any], limit: int, given: str | None
    ) -> Operation[list[Candidates]]:
        """Search the base, then read the codes; a sidecar that was released has none, as for who opens it now."""
        params = search_params(schema, question["anns_field"], limit)
        reply = yield from self._hits(limit=limit, filter=given or "", search_params=params, **question)
        fields = [self._beside.key, self.layout.code_field]
        try:
            codes = yield from self._codes(list({key for hits in reply for key in hits.ids}), fields)
        except NotLoadedError:
            codes = {}
        return [self._candidates(schema, question, hits.ids, hits.distances, hits.rows, codes) for hits in reply]

    def _candidates(
        self,
        schema: Schema,
        question: dict[str, Any],
        ids: Sequence[PointId],
        distances: Sequence[float],
        rows: Sequence[Row],
        codes: Mapping[PointId, Row],
    ) -> Candidates:
        """Join hits of one query, whose payload is made when it is looked at, with the rows that hold their codes."""
        return Candidates(
            ids=list(ids),
            base_scores=oriented(distances, schema.vectors[question["anns_field"]].metric),
            codes=codes_beside(ids, codes, self.layout),
            payloads=LazyRows(lambda row: payload_of(rows[row], schema), len(rows)),
        )

    def _factor_condition(self, factor_filter: FactorFilter | None) -> str:
        layout = sidecar_layout(self.layout)
        return factor_expression(factor_filter, lambda name: self._beside.score_address(layout, name)) or ""

    def _codes(self, keys: Sequence[PointId], fields: list[str], condition: str = "") -> Operation[dict[PointId, Row]]:
        """Read rows of the sidecar; a sidecar that was removed meanwhile has none."""
        schema = self._beside
        found: dict[PointId, Row] = {}
        try:
            yield from self._await_loaded()
            for start in range(0, len(keys), IDS_PER_CALL):
                wanted = every(is_one_of(schema.key, keys[start : start + IDS_PER_CALL]), condition)
                reply = yield from self._about(
                    self._sidecar_name, "query", filter=wanted, output_fields=fields, **SESSION
                )
                found.update((row[schema.key], row) for row in reply)
        except CollectionNotFoundError:  # the next operation looks again
            return {}
        return found

    def _number_of_codes(self, condition: str = "") -> Operation[int]:
        yield from self._await_loaded()
        counted = yield from self._about(
            self._beside.collection, "query", filter=condition, output_fields=["count(*)"], **SESSION
        )
        return int(counted[0]["count(*)"])

    def _joined(self, schema: Schema, rows: list[Row]) -> Operation[list[Row]]:
        if self._sidecar is None:
            return rows
        fields = self._beside.own_fields(sidecar_layout(self.layout))
        codes = yield from self._codes([row[schema.key] for row in rows], fields)
        return [with_codes(row, row[schema.key], codes) for row in rows]

    def _count_beside(
        self, server: Server, schema: Schema, given: str | None, factor_filter: FactorFilter
    ) -> Operation[int]:
        """Count the points whose scores match: their keys come from the sidecar, page by page."""
        yield from self._await_loaded()
        condition, cursor, number = self._factor_condition(factor_filter), None, 0
        while True:
            rows, cursor = yield from self._page(
                server, self._beside, IDS_PER_CALL, cursor, condition, [self._beside.key]
            )
            if rows:
                wanted = every(is_one_of(schema.key, [row[self._beside.key] for row in rows]), given)
                reply = yield from self._ask("query", filter=wanted, output_fields=["count(*)"], **SESSION)
                number += int(reply[0]["count(*)"])
            if cursor is None:
                return number

    def _write_beside(
        self, server: Server, schema: Schema, ids: Sequence[PointId], codes: Codes, scores: FloatArray
    ) -> Operation[None]:
        """Write codes; behind a guard, of those points that it shows."""
        last = {value: row for row, value in enumerate(ids)}
        if self._guard is not None:
            shown = yield from self._rows(schema, schema.usable_keys(ids), [schema.key])
            last = {value: row for value, row in last.items() if value in shown}
        rows = np.fromiter(last.values(), np.intp, len(last))
        yield from self._put(server, list(last), codes.take(rows), scores[rows])

    def _upsert_beside(self, server: Server, points: Points) -> Operation[None]:
        """Write the codes of whole points, and remove those of points that come without one."""
        last = {value: row for row, value in enumerate(points.ids)}
        coded = {} if points.codes is None else {v: row for v, row in last.items() if points.codes.current[row]}
        if coded and points.codes is not None:
            rows = np.array([*coded.values()], np.intp)
            scores = None if points.factor_scores is None else points.factor_scores[rows]
            yield from self._put(server, [*coded], points.codes.take(rows), scores)
        yield from self._forget([value for value in last if value not in coded])

    def _put(self, server: Server, ids: Sequence[PointId], codes: Codes, scores: FloatArray | None) -> Operation[None]:
        rows = sidecar_rows(ids, codes, scores, self._beside, self.layout)
        for start in range(0, len(rows), MAX_BATCH_ROWS):
            yield from self._write(server, rows[start : start + MAX_BATCH_ROWS], self._sidecar_name)

    def _forget(self, keys: Sequence[PointId]) -> Operation[None]:
        for start in range(0, len(keys), IDS_PER_CALL):
            gone = is_one_of(self._beside.key, keys[start : start + IDS_PER_CALL])
            yield from self._about(self._sidecar_name, "delete", filter=gone)

    def forget_codes(self, ids: Sequence[PointId]) -> Operation[None]:
        """Remove the rows of points that are gone from the sidecar, if there is one."""
        _, schema = yield from self._look()
        if self._sidecar is not None:
            yield from self._forget(schema.usable_keys(ids))

    def _alive(self, server: Server, schema: Schema, keys: Sequence[PointId]) -> Operation[Collection[PointId]]:
        """Return the keys of the points between the first and the last key, or of those that exist among the keys.

        A server takes 2 µs a key for a range, and 6 for a list.
        """
        if server.lite or not keys or LEAST in keys:
            return (yield from self._rows(schema, keys, [schema.key]))
        between = every(f"{schema.key} >= {literal(min(keys))}", f"{schema.key} <= {literal(max(keys))}")
        found = yield from self._ask("query", filter=between, output_fields=[schema.key], limit=MAX_WINDOW, **SESSION)
        if len(found) == MAX_WINDOW:  # there may be more
            return (yield from self._rows(schema, keys, [schema.key]))
        return {row[schema.key] for row in found}

    def _partitions(self, schema: Schema) -> Operation[list[str]]:
        """Return the names of partitions made by hand, the default one among them; none of a partition key."""
        return [] if schema.partition_key else (yield from self._ask("list_partitions"))

    def _loaded(self, partitions: Sequence[str]) -> Operation[bool]:
        """Say whether a server has loaded some partitions: it calls a collection loaded where one of them is."""
        for name in partitions:
            if (yield from self._ask("get_load_state", partition_name=name))["state"].name != "Loaded":
                return False
        return True

    def sweep(self, limit: int, cursor: Any = None) -> Operation[tuple[int, Any]]:
        """Remove sidecar rows whose points are gone; none where a guard, or what is not loaded, hides points."""
        server, schema = yield from self._look()
        if self._sidecar is None or self._guard is not None:
            return 0, None
        yield from self._await_loaded()
        rows, last = yield from self._page(server, self._sidecar, limit, cursor, None, [self._sidecar.key])
        keys = [row[self._sidecar.key] for row in rows]
        alive = yield from self._alive(server, schema, keys)
        gone = [key for key in keys if key not in alive]
        if gone and not server.lite:  # perhaps only not seen yet
            alive = yield from self._rows(schema, gone, [schema.key], **_STRONG)
            gone = [key for key in gone if key not in alive]
        if gone and not server.lite and not (yield from self._loaded((yield from self._partitions(schema)))):
            return 0, None
        yield from self._forget(gone)
        return len(gone), last

"""One Milvus collection: each operation of :class:`imrnn_vdb.store.Store` as calls to a MilvusClient, sync or async."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.connection import Operation
from imrnn_vdb.errors import CollectionExistsError, InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.extras import RECORD_KEY
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates, Page, PointId, Points
from imrnn_vdb.probe import as_probed, probe_of
from imrnn_vdb.store import CollectionInfo
from imrnn_vdb_milvus.capabilities import capabilities_of, settings_of
from imrnn_vdb_milvus.expressions import every, factor_expression, identifier, is_one_of, user_filter
from imrnn_vdb_milvus.filtered import FilteredSteps
from imrnn_vdb_milvus.hits import Row
from imrnn_vdb_milvus.rows import (
    batches,
    candidates_of,
    check_vectors,
    code_fields,
    merged,
    oriented,
    points_of,
    rows_of,
    stripped,
)
from imrnn_vdb_milvus.schema import (
    Schema,
    Server,
    check_partitions,
    check_placing,
    new_indexes,
    new_schema,
    prolongs,
    search_params,
)
from imrnn_vdb_milvus.sidecar import is_sidecar_of, sidecar_name
from imrnn_vdb_milvus.steps import IDS_PER_CALL, MAX_WINDOW, SESSION, MilvusSteps, call_of

_PROBED = frozenset({"FLAT", "HNSW"})
"""Index types whose scores are those of the stored vectors."""


class MilvusStore(FilteredSteps):
    """A collection on a Milvus server or in a Milvus Lite file.

    Reads see this process's own writes (session consistency). Payload is what the collection's scalar fields and its
    dynamic field hold: JSON with 64-bit integers and finite floats; tuples come back as lists. Milvus limits the
    dynamic field of a point to 65,536 bytes, Milvus Lite does not.

    A Milvus update rewrites the whole row. So codes of existing points go into a sidecar collection
    (:mod:`imrnn_vdb_milvus.sidecar`), once :meth:`prepare_codes` has made one: from then on only its codes count, and
    every read takes a second call. Without one, :meth:`write_codes` reads a row, changes the fields of this layer, and
    writes it back; what another client changes in between is lost.
    """

    largest_window = MAX_WINDOW

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        super().__init__(collection, layout, guard)
        if not isinstance(self._guard, Mapping):
            user_filter(self._guard)
        self._rewrites = True

    def unguarded(self) -> MilvusStore:
        """Return a store of the same collection without the guard."""
        return MilvusStore(self.collection, self.layout)

    def info(self) -> Operation[CollectionInfo]:
        """Describe server and collection; `CollectionNotFoundError` if there is none."""
        server, schema = yield from self._look()
        partitions = yield from self._ask("list_partitions")
        count = yield from self.count()
        beside = self._sidecar.collection if self._sidecar is not None else None
        growing = 0 if server.lite else count - (yield from self._indexed())
        return CollectionInfo(
            str(server),
            dict(schema.vectors),
            count,
            capabilities_of(server, schema, partitions, self.layout, sidecar=beside is not None, growing=growing),
            settings_of(schema, partitions, beside),
        )

    def _indexed(self) -> Operation[int]:
        """Return how many rows the vector indexes hold, the least of them; a server builds them after a flush."""
        rows = []
        for index in (yield from self._ask("list_indexes")):
            found = yield from self._ask("describe_index", index_name=index)
            rows += [int(found.get("indexed_rows") or 0)] if found else []
        return min(rows, default=0)

    def read_record(self) -> Operation[str | None]:
        """Return the property of ours that the collection has."""
        described = yield from self._ask("describe_collection")
        return (described.get("properties") or {}).get(RECORD_KEY)

    def write_record(self, text: str) -> Operation[None]:
        """Set a property of ours; others stay (tried on 2.3.5 and on Milvus Lite)."""
        yield from self._ask("alter_collection_properties", properties={RECORD_KEY: text})
        if (yield from self.read_record()) != text:
            raise UnsupportedError(f"the server did not keep a property of collection {self.collection!r}: use a file")

    def add_code_vector(self) -> Operation[None]:
        """Refuse, unless the collection was created with one.

        Raises
        ------
        UnsupportedError
            Always otherwise.
        """
        server, schema = yield from self._look()
        if schema.code_home(self.layout) != "vector":
            raise UnsupportedError(
                f"collection {self.collection!r} cannot be given a vector for codes: {server} adds no vector field to "
                "a collection (Milvus does from 2.6.18 on, which this package does not use); a backfill puts codes "
                "into a sidecar collection"
            )

    def coded(self) -> Operation[int | None]:
        """Count the codes of a sidecar, or of a column; None where they are keys of the dynamic field."""
        _, schema = yield from self._look()
        if self._sidecar is not None:
            return None if self._guard is not None else (yield from self._number_of_codes())
        if schema.code_home(self.layout) != "column":
            return None
        return (yield from self.count(f'{identifier(self.layout.code_field)} != ""'))

    def second_call(self, ids: Sequence[PointId]) -> Operation[float | None]:
        """Time the call that a sidecar costs: on it, or before there is one, the like of it on the collection."""
        _, schema = yield from self._look()
        if schema.code_home(self.layout) in {"vector", "column"}:
            return None
        started = monotonic()
        if self._sidecar is not None:
            yield from self._codes(ids, [self._sidecar.key, self.layout.code_field])
        else:
            yield from self._rows(schema, ids, [schema.key])
        return monotonic() - started

    def bytes_of(self, fields: Mapping[str, Any]) -> int:
        """Return about how many bytes a row of a sidecar takes: key, unused vector, code, and four for each score."""
        return 16 + sum(len(value) if isinstance(value, str) else 4 for value in fields.values())

    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:
        """Create the collection for base vectors and codes; `CollectionExistsError` if there is one.

        Raises
        ------
        UnsupportedError
            For the Manhattan metric, and for codes as a second vector on a server before 2.4.
        """
        server = Server.parse((yield call_of("get_server_version")))
        if self.layout.code_storage == "vector" and not server.at_least(2, 4):
            raise UnsupportedError(f"{server} allows one vector field: store codes in the payload, or use Milvus 2.4")
        schema, indexes = new_schema(dim, id_type, self.layout), new_indexes(metric, self.layout, server)
        if (
            yield from self._ask("has_collection")
        ):  # servers take an identical second creation for a repeated first one
            raise CollectionExistsError(f"collection {self.collection!r} exists: choose another name or drop it first")
        yield from self._create(self.collection, schema, indexes)
        self._outdated = True

    def drop(self) -> Operation[None]:
        """Delete the collection, all its points and its sidecars; what is gone already is no error."""
        self._check_droppable()
        for name in (yield call_of("list_collections")):
            if is_sidecar_of(self.collection, name):
                yield from self._about(name, "drop_collection")
        yield from self._about(self.collection, "drop_collection")
        self._outdated = True

    def upsert(self, points: Points) -> Operation[None]:
        """Insert or replace whole points, visible to the next read of this connection.

        Of several points with one id the last is written.

        Raises
        ------
        InvalidInputError
            For an id, vector or payload that the collection cannot hold.
        UnsupportedError
            If the server invents the ids, if the collection has partitions made by hand, or if the server would put
            rows into the wrong ones.
        """
        if not len(points):
            return
        server, schema = yield from self._look(writing=True)
        if schema.auto_id:
            raise UnsupportedError(
                f"collection {self.collection!r} has autoID keys: the server would not keep the ids given here"
            )
        check_placing(server, schema)
        bare = points if self._sidecar is None else replace(points, codes=None, factor_scores=None)
        rows = rows_of(bare, schema, self.layout)
        yield from self._admit(points)
        check_partitions(schema, (yield from self._ask("list_partitions")))
        for batch in batches(rows):
            yield from self._write(server, batch)
        if self._sidecar is not None:
            yield from self._upsert_beside(server, points)

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
        yield from self._settle(server, self._name)
        question = {
            "data": list(query_vectors),
            "anns_field": base,
            "output_fields": schema.read_fields(self.layout),
            **SESSION,
        }
        if self._sidecar is not None:
            given = user_filter(payload_filter)
            if factor_filter is not None:
                return (yield from self._search_filtered(schema, question, limit, given, factor_filter))
            return (yield from self._search_beside(schema, question, limit, given))
        reply = yield from self._hits(
            limit=limit,
            filter=self._filter(schema, payload_filter, factor_filter),
            search_params=search_params(schema, base, limit),
            **question,
        )
        metric = schema.vectors[base].metric
        return [candidates_of(hits.ids, hits.distances, hits.rows, schema, self.layout, metric) for hits in reply]

    def fetch(
        self,
        ids: Sequence[PointId],
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Points]:
        """Read points by id, in the order asked for; ids that do not exist are left out."""
        if not len(ids):
            return Points([], np.zeros((0, 0), np.float32) if with_vectors else None, [])
        _, schema = yield from self._look()
        base = schema.base_name(self.layout) if with_vectors else None
        fields = self._fields(schema, base, with_payloads, with_codes)
        found = yield from self._rows(schema, schema.usable_keys(ids), fields)
        rows = [found[value] for value in ids if value in found]
        rows = (yield from self._joined(schema, rows)) if with_codes else rows
        return points_of(rows, schema, self.layout, base, with_payloads, with_codes)

    def scroll(
        self,
        limit: int,
        cursor: Any = None,
        payload_filter: Any = None,
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Page]:
        """Read the next points by ascending id; every point that stays is seen exactly once.

        The cursor is the last id read.
        """
        if limit < 1:
            raise InvalidInputError(f"a page has at least one point, got limit={limit}")
        server, schema = yield from self._look()
        base = schema.base_name(self.layout) if with_vectors else None
        fields = self._fields(schema, base, with_payloads, with_codes)
        rows, last = yield from self._page(server, schema, limit, cursor, user_filter(payload_filter), fields)
        rows = (yield from self._joined(schema, rows)) if with_codes else rows
        return Page(points_of(rows, schema, self.layout, base, with_payloads, with_codes), last)

    def changed(self, ids: Sequence[PointId], vectors: FloatArray) -> Operation[list[PointId]]:
        """Return points that are gone or whose vectors changed, where an index tells exact scores: by one score each.

        A search in a few points compares with each of them; where it leaves one out, that one counts as changed.
        """
        server, schema = yield from self._look()
        base = schema.base_name(self.layout)
        if server.lite or schema.index_types[base] not in _PROBED:
            return (yield from super().changed(ids, vectors))
        probe, scores = probe_of(vectors.shape[1]), dict[PointId, float]()
        keys = schema.usable_keys(ids)
        for start in range(0, len(keys), IDS_PER_CALL):
            part = keys[start : start + IDS_PER_CALL]
            [hits] = yield from self._hits(
                data=[probe],
                anns_field=base,
                filter=is_one_of(schema.key, part),
                limit=len(part),
                search_params=search_params(schema, base, len(part)),
                output_fields=[],
                **SESSION,
            )
            scores.update(zip(hits.ids, hits.distances, strict=True))
        metric = schema.vectors[base].metric
        found = oriented([scores.get(value, np.nan) for value in ids], metric)
        return [ids[row] for row in np.flatnonzero(~as_probed(metric, probe, vectors, found)).tolist()]

    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | None = None) -> Operation[int]:
        """Count points exactly."""
        server, schema = yield from self._look()
        if self._sidecar is not None and factor_filter is not None:
            return (yield from self._count_beside(server, schema, user_filter(payload_filter), factor_filter))
        condition = self._filter(schema, payload_filter, factor_filter)
        reply = yield from self._ask("query", filter=condition, output_fields=["count(*)"], **SESSION)
        return int(reply[0]["count(*)"])

    def write_codes(
        self,
        ids: Sequence[PointId],
        codes: Codes,
        factor_scores: FloatArray,
        lacking: npt.NDArray[np.bool_] | None = None,  # noqa: ARG002 - rows are written whole
    ) -> Operation[None]:
        """Write code and named factor scores of existing points; base vectors and foreign payload stay as they are.

        An id that does not exist is left out. With a sidecar, that is where they are written, and this is safe beside
        other writers. Without one, each row is read, changed and written back as a whole, on servers with partial
        updates too; so a change that another client makes to the same row in between, a deletion included, is lost.

        Raises
        ------
        UnsupportedError
            If rewriting rows would change their keys (autoID), lengthen their life or lose values, or if codes have no
            room.
        """
        if not len(ids):
            return
        server, schema = yield from self._look()
        if self._sidecar is not None:
            yield from self._write_beside(server, schema, ids, codes, factor_scores)
            return
        if not self._rewrites:
            raise UnsupportedError(
                f"collection {self.collection!r} keeps codes in its own rows, and Milvus rewrites whole rows, so "
                "a change that another client makes meanwhile would be lost: pass in_place=True (--in-place) while no "
                "one else writes (points that are written through this package have their codes already)"
            )
        self._check_rewritable(server, schema)
        fields = dict(zip(ids, code_fields(codes, factor_scores, schema, self.layout), strict=True))
        yield from self._rewrite(server, schema, list(fields), lambda row: merged(row, fields[row[schema.key]]))

    def delete(self, ids: Sequence[PointId]) -> Operation[None]:
        """Delete points; ids that do not exist are ignored."""
        if not len(ids):
            return
        server, schema = yield from self._look(writing=True)
        keys = schema.usable_keys(ids)
        if self._guard is not None:  # a sidecar knows no guard, so it is told only of keys inside
            keys = list((yield from self._rows(schema, keys, [schema.key])))
        for start in range(0, len(keys), IDS_PER_CALL):
            yield from self._ask("delete", filter=is_one_of(schema.key, keys[start : start + IDS_PER_CALL]))
        if self._sidecar is not None:
            yield from self._forget(keys)
        if keys and not server.lite:
            # Milvus 2.3 does not say when a deletion happened, so session consistency would not wait for it
            gone = is_one_of(schema.key, keys[-1:])
            yield from self._ask("query", filter=gone, output_fields=[schema.key], consistency_level="Strong")

    def parse_filter(self, text: str) -> str | None:
        """Return an expression as it is; whether it is one, the server says."""
        return user_filter(text)

    def prepare_codes(self, *, in_place: bool = False) -> Operation[bool]:
        """Make a sidecar for codes, unless rows may be rewritten or hold them in columns; see all earlier writes.

        Raises
        ------
        UnsupportedError
            If rows are to be rewritten although there is a sidecar.
        """
        self._outdated = True
        server, schema = yield from self._look()
        self.in_flight = 1 if server.lite else MilvusSteps.in_flight
        self._rewrites = in_place
        if not server.lite:  # what others wrote until now is seen from here on
            yield from self._ask("query", filter="", output_fields=[schema.key], limit=1, consistency_level="Strong")
        if in_place:
            if self._sidecar is not None:
                raise UnsupportedError(
                    f"the codes of collection {self.collection!r} lie in {self._sidecar.collection!r}: undo them "
                    "first, or go on there, without in_place"
                )
            self._check_rewritable(server, schema)
        elif self._sidecar is None and self._may_have_sidecar(schema):
            return (yield from self._make_sidecar(server, schema))
        return True

    def strip_codes(
        self, space_id: str, limit: int, cursor: Any = None, *, in_place: bool = False
    ) -> Operation[tuple[int, Any]]:
        """Remove a space's codes from the next rows, which rewrites them; beside a sidecar, only if in place.

        Raises
        ------
        UnsupportedError
            If rows hold codes and may not be rewritten, or if there is a guard.
        """
        self._check_droppable()
        server, schema = yield from self._look()
        if not in_place and (yield from self._about(sidecar_name(self._name, space_id), "has_collection")):
            return 0, None
        layout = replace(self.layout, space_id=space_id)
        fields = list(dict.fromkeys([*schema.own_fields(layout), *self._code_vectors(schema, layout)]))
        rows, last = yield from self._page(server, schema, limit, cursor, None, fields)
        holding = [row[schema.key] for row in rows if stripped(row, schema, layout) is not None]
        if holding and not in_place:
            raise UnsupportedError(
                f"rows of collection {self.collection!r} hold codes of space {space_id} ({len(holding)} of the "
                f"{len(rows)} looked at), and Milvus rewrites whole rows: pass in_place=True (--in-place) while nobody "
                "else writes"
            )
        if holding:
            self._check_rewritable(server, schema)
            yield from self._rewrite(server, schema, holding, lambda row: stripped(row, schema, layout))
        return len(holding), last

    def drop_room(self, space_id: str) -> Operation[None]:
        """Drop a space's sidecar, if there is one; a column stays, with empty values."""
        self._check_droppable()
        yield from self._look()
        name = sidecar_name(self._name, space_id)
        if (yield from self._about(name, "has_collection")):
            yield from self._about(name, "drop_collection")
        self._outdated = True

    def _code_vectors(self, schema: Schema, layout: Layout) -> list[str]:
        return [layout.code_field] if layout.code_field in schema.vectors else []

    def _fields(self, schema: Schema, base: str | None, with_payloads: bool, with_codes: bool) -> list[str]:
        if with_payloads:
            fields = schema.point_fields(self.layout)
        else:
            here = with_codes and self._sidecar is None
            fields = schema.own_fields(self.layout) if here else [schema.key]
        return fields + ([base] if base else [])

    def _filter(self, schema: Schema, payload_filter: Any, factor_filter: FactorFilter | None) -> str:
        factors = factor_expression(factor_filter, lambda name: schema.score_address(self.layout, name))
        return every(user_filter(payload_filter), factors)

    def _check_rewritable(self, server: Server, schema: Schema) -> None:
        schema.check_room(self.layout)
        check_placing(server, schema)
        if schema.auto_id:
            raise UnsupportedError(
                f"collection {self.collection!r} has autoID keys, and Milvus gives a rewritten row a new key: "
                "without in_place a backfill keeps codes in a collection of their own"
            )
        if prolongs(server, schema):
            raise UnsupportedError(
                f"rows of collection {self.collection!r} live for {schema.lifetime} s from their last write "
                "(collection.ttl.seconds), and a rewritten row would live on: without in_place a backfill keeps codes "
                "in a collection of their own"
            )
        if schema.foreign:
            raise UnsupportedError(
                f"collection {self.collection!r} has fields whose values cannot be read and written again unchanged "
                f"({', '.join(schema.foreign)}), and Milvus updates whole rows: keep codes in a collection of their own"
            )

    def _rewrite(
        self, server: Server, schema: Schema, ids: Sequence[PointId], change: Callable[[Row], Row | None]
    ) -> Operation[int]:
        """Read whole rows, and write back what ``change`` makes of them (None: leave it); return how many it changed.

        A row belongs back into its partition: elsewhere it would be a second row of the same key.

        Raises
        ------
        UnsupportedError
            If a partition is not loaded; nothing was written.
        StoreError
            If a key has several rows, as a server's insert allows: an upsert would keep one of them. Nothing was
            written of those that were read with it.
        """
        partitions = yield from self._partitions(schema)
        if len(partitions) > 1 and not server.lite and not (yield from self._loaded(partitions)):
            raise UnsupportedError(
                f"collection {self.collection!r} has partitions that are not loaded, whose rows would stay as they "
                "are: load all of them first"
            )
        number = 0
        for partition in partitions if len(partitions) > 1 else [""]:
            where = {"partition_names": [partition]} if partition else {}
            keys = schema.usable_keys(ids)
            for start in range(0, len(keys), IDS_PER_CALL):
                found = yield from self._rows(schema, keys[start : start + IDS_PER_CALL], schema.row_fields, **where)
                rows = [row for row in map(change, found.values()) if row is not None]
                if rows and not server.lite:
                    yield from self._check_single(schema, list(found), **where)
                number += len(rows)
                for batch in batches(rows):
                    yield from self._write(server, batch, **({"partition_name": partition} if partition else {}))
        return number

    def _check_single(self, schema: Schema, keys: list[PointId], **where: Any) -> Operation[None]:
        """Raise `StoreError` if one of some keys has several rows: a query shows one of them, a count all."""
        question = {"filter": is_one_of(schema.key, keys), "output_fields": ["count(*)"], **SESSION, **where}
        [counted] = yield from self._ask("query", **question)
        if int(counted["count(*)"]) > len(keys):
            raise StoreError(
                f"collection {self.collection!r} has {counted['count(*)']} rows of {len(keys)} keys, one of them "
                f"{keys[0]!r}, and a rewrite would keep one row of each: delete those that are there twice, or keep "
                "codes in a sidecar collection (while Milvus compacts, it may count too many: try again later)"
            )

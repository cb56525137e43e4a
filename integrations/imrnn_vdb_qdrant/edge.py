"""Collections in Qdrant Edge, Qdrant's engine in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from imrnn_vdb.connection import Call, Operation
from imrnn_vdb.errors import UnsupportedError
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import CollectionInfo
from imrnn_vdb_qdrant.capabilities import edge_capabilities, settings_of
from imrnn_vdb_qdrant.convert import CodeRow, Row, vectors_of
from imrnn_vdb_qdrant.edge_filters import EdgeFilterReader
from imrnn_vdb_qdrant.engine import Engine
from imrnn_vdb_qdrant.filters import Condition, Vocabulary
from imrnn_vdb_qdrant.native import ALL_BUT_SCORES, NativeId, NativeStore, WithPayload, WithVectors
from imrnn_vdb_qdrant.schema import Schema, new_base_name
from imrnn_vdb_qdrant.vendor import load_edge

_INDEX_FROM_POINTS = 20_000
"""From how many vectors on an HNSW index is built. Measured once on two cores, d = 384, random vectors, top 100 without
payload: 12,000 vectors took 0.9 ms to scan and 1.5 ms with an index that took 12 s to build. So an index does not pay
there; where it begins to was not measured, and 20,000 is a cautious guess."""
_CORES_FOR_ONE_THREAD = 2
"""Up to how many cores a collection is searched by one thread. The engine hands each segment to a thread, the empty one
that takes new points included. Measured on two cores, 20,000 points, top 100 with codes: 0.30 ms with one thread and
0.43 with two; 0.36 and 0.46 a search in two threads at once; 20 and 21 ms for a batch of 64. With more cores, which
search large segments side by side, the engine decides."""


class EdgeStore(NativeStore):
    """A collection in Qdrant Edge.

    Payload filters are ``qdrant_edge.Filter``. An upsert that takes the collection past the engine's indexing threshold
    builds the HNSW index before it returns, which takes seconds and is not stopped by the timeout. Every write is in
    the write-ahead log when it returns, so it survives the end of the process; closing writes everything to disk.
    """

    _filter_name = "qdrant_edge.Filter"
    best_code_storage = "vector"  # 100 payloads take 1.3 ms to read, 100 codes 0.2 and ten payloads 0.1
    _calls_are_cheap = True
    in_flight = 1  # each update lets go of Python's lock: beside another thread, one takes three times as long

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        self._edge: Any = load_edge()
        super().__init__(collection, layout, guard)

    def unguarded(self) -> EdgeStore:
        """Return a store of the same collection without the guard."""
        return EdgeStore(self.collection, self.layout)

    # operations of its own

    def info(self) -> Operation[CollectionInfo]:
        """Describe the engine and the collection."""
        schema = yield from self._schema(fresh=True)
        number = yield from self.count()
        capabilities, settings = edge_capabilities(schema, self.layout), settings_of(schema, self._factor_paths)
        return CollectionInfo(f"Qdrant Edge {_version()}", schema.vectors, number, capabilities, settings)

    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:  # noqa: ARG002
        """Create the collection in its own folder; it takes ids of every type."""
        config = self._config(dim, metric)
        yield from self._ask(lambda engine, _: engine.create(self.collection, config))
        self._known = None

    def parse_filter(self, text: str) -> Any:
        """Read the JSON of a filter, as a server takes it; see :class:`~imrnn_vdb_qdrant.edge_filters`."""
        return EdgeFilterReader(self._edge).read(text)

    # how single requests are sent

    @property
    def _words(self) -> Vocabulary:
        edge = self._edge
        return Vocabulary(
            edge.Filter,
            edge.FieldCondition,
            edge.RangeFloat,
            self._equal,
            lambda ids: edge.HasIdCondition(set(ids)),
            edge.HasVectorCondition,
        )

    def _equal(self, value: Any) -> Any:
        if isinstance(value, bool):  # tried on 0.9: a condition made of True finds 1, and never true
            raise UnsupportedError(
                "Qdrant Edge takes a boolean for an integer in a guard: guard by a text or an integer"
            )
        return self._edge.MatchValue(value)

    def _read_schema(self) -> Call:
        def call(engine: Engine, _: float) -> Schema:
            indexed = frozenset(engine.shard(self.collection).info().payload_schema)
            return replace(engine.schema(self.collection, self.layout.code_field), indexed=indexed)

        return call

    def _send_rows(self, rows: Sequence[Row], base: str) -> Call:
        points = [self._edge.Point(row.id, vectors_of(row, base, self.layout), row.payload) for row in rows]
        return self._update([self._edge.UpdateOperation.upsert_points(points)])

    def _send_codes(self, rows: Sequence[CodeRow]) -> Call:
        make, name = self._edge.UpdateOperation, self.layout.code_field
        vectors = [self._edge.PointVectors(row.id, {name: row.code}) for row in rows if row.code is not None]

        def call(engine: Engine, _: float) -> None:
            shard = engine.shard(self.collection)
            if vectors:
                shard.update(make.update_vectors(vectors))
            for row in rows:
                shard.update(make.set_payload([row.id], row.payload))

        return call

    def _query(
        self,
        vectors: list[list[float]],
        limit: int,
        base: str,
        condition: Condition,
        with_payload: WithPayload,
        with_vectors: WithVectors,
    ) -> Call:
        edge = self._edge
        selector = self._selector(with_payload)
        params = edge.SearchParams(exact=self.exact, quantization=edge.QuantizationSearchParams(rescore=True))
        requests = [
            edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(vector, using=base or None),
                filter=condition,
                params=params,
                with_payload=selector,
                with_vector=with_vectors,
            )
            for vector in vectors
        ]
        batch = edge.QueryBatchRequest(requests)
        return lambda engine, _: engine.shard(self.collection).query_batch(batch)

    def _scores(self, vector: list[float], limit: int, base: str, condition: Condition) -> Call:
        request = self._edge.QueryRequest(
            limit=limit,
            query=self._edge.Query.Nearest(vector, using=base or None),
            filter=condition,
            params=self._edge.SearchParams(exact=True, quantization=self._edge.QuantizationSearchParams(ignore=True)),
            with_payload=False,
            with_vector=False,
        )
        return lambda engine, _: engine.shard(self.collection).query(request)

    def _retrieve(self, ids: list[NativeId], with_payload: WithPayload, with_vectors: WithVectors) -> Call:
        wanted = self._selector(with_payload)
        return lambda engine, _: engine.shard(self.collection).retrieve(ids, wanted, with_vectors)

    def _scroll(
        self, limit: int, cursor: Any, condition: Condition, with_payload: WithPayload, with_vectors: WithVectors
    ) -> Call:
        request = self._edge.ScrollRequest(
            offset=cursor,
            limit=limit,
            filter=condition,
            with_payload=self._selector(with_payload),
            with_vector=with_vectors,
        )
        return lambda engine, _: engine.shard(self.collection).scroll(request)

    def _selector(self, with_payload: WithPayload) -> Any:
        selector = self._edge.PayloadSelector
        if with_payload == ALL_BUT_SCORES:
            return selector.Exclude(self._factor_paths) if self._factor_paths else True
        return selector.Include(with_payload) if isinstance(with_payload, list) else with_payload

    def _remove_keys(self, ids: list[NativeId], paths: list[str]) -> Call:
        return self._update([self._edge.UpdateOperation.delete_payload(ids, paths)])

    def _remove_index(self, path: str) -> Call:
        return self._update([self._edge.UpdateOperation.delete_field_index(path)])

    def _remove_vector(self, name: str) -> Call:
        return self._update([self._edge.UpdateOperation.delete_vector_name(name)])

    def _count(self, condition: Condition) -> Call:
        request = self._edge.CountRequest(exact=True, filter=condition)
        return lambda engine, _: engine.shard(self.collection).count(request)

    def _delete(self, condition: Condition) -> Call:
        return self._update([self._edge.UpdateOperation.delete_points_by_filter(condition)])

    def _drop(self) -> Call:
        return lambda engine, _: engine.drop(self.collection)

    def _add_code_vector(self, schema: Schema) -> Operation[None]:  # noqa: ARG002
        operation = self._edge.UpdateOperation.create_dense_vector(
            self.layout.code_field, self.layout.code_width, self._edge.Distance.Dot
        )
        yield from self._ask(self._update([operation]))

    def _add_indexes(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:  # noqa: ARG002
        yield from ()  # 0.15 s for each key: left to the first filter that needs one

    def _prepare_filter(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:
        """Index the keys on first use: at 5,500 points a filter takes 24 ms without the index and 1 ms with it."""
        missing = [path for path in paths if path not in schema.indexed]
        if missing:
            index = [self._index(path) for path in missing]
            yield from self._ask(self._update(index))
            yield from self._schema(fresh=True)

    def _after_upsert(self) -> Operation[None]:
        yield from self._ask(lambda engine, _: engine.optimizes and engine.shard(self.collection).optimize())

    def _update(self, operations: Sequence[Any]) -> Call:
        def call(engine: Engine, _: float) -> None:
            shard = engine.shard(self.collection)
            for operation in operations:
                shard.update(operation)

        return call

    def _index(self, path: str) -> Any:
        return self._edge.UpdateOperation.create_field_index(path, self._edge.PayloadSchemaType.Float)

    def _config(self, dim: int, metric: Metric) -> Any:
        edge = self._edge
        distance = getattr(edge.Distance, metric.value.capitalize())
        vectors = {new_base_name(self.layout): edge.EdgeVectorParams(size=dim, distance=distance)}
        if self.layout.code_storage == "vector":
            vectors[self.layout.code_field] = edge.EdgeVectorParams(
                size=self.layout.code_width,
                distance=edge.Distance.Dot,
                hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=1),  # it is never searched
            )
        threshold = edge.EdgeOptimizersConfig(indexing_threshold=_INDEX_FROM_POINTS * dim * 4 // 1024)  # in kB
        threads = 1 if (os.cpu_count() or 1) <= _CORES_FOR_ONE_THREAD else None
        return edge.EdgeConfig(
            vectors=vectors, optimizers=threshold, max_search_threads=threads, payload_memory=edge.Memory.Cached
        )


def _version() -> str:
    try:
        return version("qdrant-edge-py")
    except PackageNotFoundError:
        return "(unknown version)"

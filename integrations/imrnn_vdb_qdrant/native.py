"""The operations of both Qdrant stores: what is asked in which order; how it is asked is each store's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray
from imrnn_vdb.connection import Call, Operation
from imrnn_vdb.errors import InvalidInputError, StoreError
from imrnn_vdb.filters import FactorFilter, factor, factor_names
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import CODE_PREFIX, FACTOR_PREFIX, ID_FIELD, Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates, Page, Payload, PointId, Points
from imrnn_vdb.probe import as_probed, probe_of
from imrnn_vdb.store import Store, VectorField
from imrnn_vdb_qdrant.convert import (
    MAX_BATCH_POINTS,
    CodeRow,
    Row,
    batches,
    candidates_of,
    check_finite,
    check_order,
    code_rows,
    completed,
    oriented,
    partial_candidates_of,
    points_of,
    rows_of,
)
from imrnn_vdb_qdrant.faults import PointVanishedError, RefusedArgumentError
from imrnn_vdb_qdrant.filters import Condition, Vocabulary, combine, guarded, payload_path
from imrnn_vdb_qdrant.ids import key_of, native_id, native_ids
from imrnn_vdb_qdrant.schema import Schema

_WRITE_ROUNDS = 3
_MAX_KEYS = 10_000

WithVectors = bool | list[str]
AllButScores = Literal["all but scores"]
ALL_BUT_SCORES: AllButScores = "all but scores"
WithPayload = bool | list[str] | AllButScores
"""All of it, none, the paths of the keys wanted, or all but the factor scores, which are stored for filters."""
NativeId = int | str


class NativeStore(Store):
    """A collection in Qdrant's own model: a subclass says how each single request is sent.

    Attributes
    ----------
    exact
        Whether searches compare with every vector instead of using the index; slower, for checks.
    """

    exact = False
    _filter_name: ClassVar[str]
    _calls_are_cheap: ClassVar[bool] = False
    """Whether a second call for the payloads of the returned rows costs less than reading those of all candidates."""

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        super().__init__(collection, layout, guard)
        if not isinstance(self._guard, Mapping):
            self._check_filter(self._guard)
        self._factor_paths = [payload_path(layout.factor_field(name)) for name in layout.factor_names]
        self._own_paths = [ID_FIELD, layout.code_field, *self._factor_paths]
        self._known: Schema | None = None
        self._limits: Mapping[str, Any] = {}
        self._indexes_seen = False

    def key_of(self, point_id: PointId) -> PointId:
        """Return the integer or the UUID that the point is stored under."""
        return native_id(point_id)

    # how single requests are sent

    @property
    @abstractmethod
    def _words(self) -> Vocabulary: ...

    @abstractmethod
    def _read_schema(self) -> Call: ...

    @abstractmethod
    def _send_rows(self, rows: Sequence[Row], base: str) -> Call: ...

    @abstractmethod
    def _send_codes(self, rows: Sequence[CodeRow]) -> Call: ...

    @abstractmethod
    def _query(
        self,
        vectors: list[list[float]],
        limit: int,
        base: str,
        condition: Condition,
        with_payload: WithPayload,
        with_vectors: WithVectors,
    ) -> Call:
        """Search by several vectors."""

    @abstractmethod
    def _scores(self, vector: list[float], limit: int, base: str, condition: Condition) -> Call:
        """Compare a vector with every point that matches, exactly; nothing but ids and scores is read."""

    @abstractmethod
    def _retrieve(self, ids: list[NativeId], with_payload: WithPayload, with_vectors: WithVectors) -> Call: ...

    @abstractmethod
    def _scroll(
        self, limit: int, cursor: Any, condition: Condition, with_payload: WithPayload, with_vectors: WithVectors
    ) -> Call: ...

    @abstractmethod
    def _remove_keys(self, ids: list[NativeId], paths: list[str]) -> Call: ...

    @abstractmethod
    def _remove_index(self, path: str) -> Call: ...

    @abstractmethod
    def _remove_vector(self, name: str) -> Call: ...

    @abstractmethod
    def _count(self, condition: Condition) -> Call: ...

    @abstractmethod
    def _delete(self, condition: Condition) -> Call: ...

    @abstractmethod
    def _drop(self) -> Call: ...

    @abstractmethod
    def _add_code_vector(self, schema: Schema) -> Operation[None]:
        """Give an existing collection the named vector for codes."""

    @abstractmethod
    def _add_indexes(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:
        """Index the payload keys of factor scores that are not indexed."""

    @abstractmethod
    def _prepare_filter(self, schema: Schema, paths: Sequence[str]) -> Operation[None]:
        """Do what a filter on these keys needs."""

    def _after_upsert(self) -> Operation[None]:
        yield from ()

    def _read_limits(self) -> Operation[None]:
        """Find out what strict mode allows, where there is one."""
        yield from ()

    # operations

    def drop(self) -> Operation[None]:
        """Delete the collection and all its points; nothing if there is none."""
        self._check_droppable()
        yield from self._ask(self._drop())
        self._known = None

    def upsert(self, points: Points) -> Operation[None]:
        """Insert or replace whole points, in batches of bounded size; codes that are not current are left out."""
        if not len(points):
            return
        rows = rows_of(points, self.layout)
        yield from self._admit(points)
        schema = yield from self._schema()
        if any(row.code is not None for row in rows):
            yield from self._make_room(schema)
        base = schema.base_name(self.layout, self.collection)
        for batch in batches(rows, self._at_most(MAX_BATCH_POINTS, "upsert_max_batchsize")):
            yield from self._ask(self._send_rows(batch, base))
        yield from self._after_upsert()

    def search(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return the first-stage candidates of each query on the base vector, in one round trip.

        The first use of a store also reads the collection's description, for its metric.
        """
        if not len(query_vectors):
            return []
        metric, replies = yield from self._hits(query_vectors, limit, payload_filter, factor_filter, ALL_BUT_SCORES)
        return [candidates_of(hits, self.layout, metric) for hits in replies]

    def search_partly(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return candidates without payload and with keys for ids, where codes lie in a vector and calls are cheap."""
        if not (self._calls_are_cheap and self.layout.code_storage == "vector" and len(query_vectors)):
            return (yield from self.search(query_vectors, limit, payload_filter, factor_filter))
        metric, replies = yield from self._hits(query_vectors, limit, payload_filter, factor_filter, False)
        return [partial_candidates_of(hits, self.layout, metric) for hits in replies]

    def complete(
        self, batch: Sequence[Candidates], rows: Sequence[npt.NDArray[np.intp]]
    ) -> Operation[list[tuple[Candidates, npt.NDArray[np.intp]]]]:
        """Read payloads of some rows by their keys; behind a guard, of those points that it still shows."""
        keys = [{row: candidates.ids[row] for row in of.tolist()} for candidates, of in zip(batch, rows, strict=True)]
        found: dict[PointId, Payload] = {}
        for part in _parts(list({key: None for of in keys for key in of.values()}), _MAX_KEYS):
            records = yield from self._records(part, ALL_BUT_SCORES, False)
            found.update((key_of(record.id), record.payload or {}) for record in records)
        return [completed(candidates, of, found) for candidates, of in zip(batch, keys, strict=True)]

    def _hits(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any,
        factor_filter: FactorFilter | None,
        with_payload: WithPayload,
    ) -> Operation[tuple[Metric, list[Any]]]:
        """Search, and return the metric with the vendor's hits of each query."""
        check_finite(query_vectors)
        schema = yield from self._schema()
        base = schema.base_name(self.layout, self.collection)
        condition = yield from self._condition(payload_filter, factor_filter)
        wanted = self._code_vectors(schema) or False
        replies = yield from self._ask(
            self._query(query_vectors.tolist(), limit, base, condition, with_payload, wanted), payload_filter
        )
        metric = schema.vectors[base].metric
        for hits in replies:
            check_order(hits, metric, self.collection)
        return metric, replies

    def fetch(
        self,
        ids: Sequence[PointId],
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Points]:
        """Read points by id, in the order asked for; ids that do not exist are left out.

        With vectors, so are points that lack the base vector.
        """
        if not len(ids):
            return points_of([], self.layout, "", with_vectors)
        yield from self._read_limits()
        base, wanted = yield from self._vectors_to_read(with_vectors)
        keys = native_ids(ids)
        own = self._own_paths if with_codes else [ID_FIELD]
        found: dict[NativeId, Any] = {}
        for part in _parts(list(dict.fromkeys(keys)), _MAX_KEYS):
            records = yield from self._records(part, with_payloads or own, wanted)
            found.update((key_of(record.id), record) for record in records)
        return points_of([found[key] for key in keys if key in found], self.layout, base, with_vectors)

    def scroll(
        self,
        limit: int,
        cursor: Any = None,
        payload_filter: Any = None,
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Page]:
        """Read the next points in the order of their keys; with vectors, points that lack the base vector are left out.

        The cursor is the key of the next point, an integer or a text: it can be kept, and used by another process. A
        page is shorter than asked for where strict mode allows no larger one.
        """
        yield from self._read_limits()
        base, wanted = yield from self._vectors_to_read(with_vectors)
        condition = yield from self._condition(payload_filter, None)
        read = with_payloads or (self._own_paths if with_codes else [ID_FIELD])
        size = self._at_most(limit, "max_query_limit")
        records, following = yield from self._ask(self._scroll(size, cursor, condition, read, wanted), payload_filter)
        points = points_of(records, self.layout, base, with_vectors)
        return Page(points, None if following is None else key_of(following))

    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | None = None) -> Operation[int]:
        """Count points: exactly, unless strict mode allows estimates alone."""
        yield from self._read_limits()
        condition = yield from self._condition(payload_filter, factor_filter)
        number = yield from self._ask(self._count(condition), payload_filter)
        return int(number)

    def write_codes(
        self,
        ids: Sequence[PointId],
        codes: Codes,
        factor_scores: FloatArray,
        lacking: npt.NDArray[np.bool_] | None = None,
    ) -> Operation[None]:
        """Set the code and the factor scores that existing points lack, key by key; everything else stays as it is.

        An id that does not exist is left out: nothing is created. The first write also indexes the factor scores.
        """
        if not len(ids):
            return
        rows = code_rows(ids, codes, factor_scores, self.layout, lacking)
        schema = yield from self._schema()
        if self.layout.code_storage == "vector":
            yield from self._make_room(schema)
        yield from self._index_scores(schema)
        for part in _parts(rows, self._at_most(MAX_BATCH_POINTS, "upsert_max_batchsize")):
            yield from self._write_existing(part)

    def changed(self, ids: Sequence[PointId], vectors: FloatArray) -> Operation[list[PointId]]:
        """Return points that are gone or whose base vectors changed: one score each instead of the whole vector.

        Where the engine cannot be asked so (a strict mode without exact searches, local mode, which looks at all
        points), the vectors are read.
        """
        schema = yield from self._schema()
        base = schema.base_name(self.layout, self.collection)
        metric, keys = schema.vectors[base].metric, [native_id(value) for value in ids]
        probe, condition = probe_of(vectors.shape[1]), guarded(self._words, self._guard, self._words.has_id(keys))
        try:
            hits = yield from self._ask(self._scores(probe.tolist(), len(keys), base, condition))
        except StoreError as exc:
            if exc.transient:
                raise
            return (yield from super().changed(ids, vectors))
        scores = {key_of(hit.id): hit.score for hit in hits}
        found = oriented([scores.get(key, np.nan) for key in keys], metric)
        same = as_probed(metric, probe, vectors, found)
        return [ids[row] for row in np.flatnonzero(~same).tolist()]

    def delete(self, ids: Sequence[PointId]) -> Operation[None]:
        """Delete points; ids that do not exist are ignored."""
        if not len(ids):
            return
        yield from self._read_limits()
        for part in _parts(native_ids(ids), self._at_most(_MAX_KEYS, "condition_max_size")):
            yield from self._ask(self._delete(guarded(self._words, self._guard, self._words.has_id(part))))

    def prepare_codes(self, *, in_place: bool = False) -> Operation[bool]:  # noqa: ARG002 - keys are set one by one
        """Make room for codes before a backfill, and index the factor scores; the keys of a payload need no room."""
        schema = yield from self._schema(fresh=True)
        if self.layout.code_storage == "vector":
            schema = yield from self._make_room(schema)
        yield from self._index_scores(schema)
        return True

    def strip_codes(
        self,
        space_id: str,
        limit: int,
        cursor: Any = None,
        *,
        in_place: bool = False,  # noqa: ARG002 - as above
    ) -> Operation[tuple[int, Any]]:
        """Delete the keys of a space from the next points, key by key.

        Raises
        ------
        UnsupportedError
            If there is a guard: the indexes, which go next, belong to all.
        """
        self._check_droppable()
        yield from self._read_limits()
        size = self._at_most(limit, "max_query_limit")
        records, following = yield from self._ask(
            self._scroll(size, cursor, guarded(self._words, self._guard), True, False)
        )
        own = {record.id: _keys_of(space_id, record.payload or {}) for record in records}
        ids = [key_of(native) for native, keys in own.items() if keys]
        if ids:
            paths = sorted({payload_path(key) for keys in own.values() for key in keys})
            yield from self._ask(self._remove_keys(ids, paths))
        return len(ids), None if following is None else key_of(following)

    def drop_room(self, space_id: str) -> Operation[None]:
        """Remove a space's payload indexes, and its vector where there is one."""
        self._check_droppable()
        schema = yield from self._schema(fresh=True)
        for path in sorted(schema.indexed):
            if _is_of_space(space_id, path.strip('"')):
                yield from self._ask(self._remove_index(path))
        name = replace(self.layout, space_id=space_id).code_field
        if name in schema.vectors:
            yield from self._ask(self._remove_vector(name))
        self._known, self._indexes_seen = None, False

    def add_code_vector(self) -> Operation[None]:
        """Give the collection a named vector for codes, once, and verify that it is there and settled."""
        schema = yield from self._schema(fresh=True)
        if self.layout.code_field in schema.vectors:
            yield from self._verify_code_vector()
        else:
            schema = yield from self._make_room(schema)
        self.layout = self.layout.in_vector(schema.vectors[self.layout.code_field].dim)

    def coded(self) -> Operation[int | None]:
        """Count the points that have a factor score, which is set with the code, by an index that is there already.

        Those that lack the base vector count as well: they never get a code.
        """
        schema = yield from self._schema(fresh=True)
        if not self._counts_exactly:
            return None
        base = schema.base_name(self.layout, self.collection)
        for name in self.layout.factor_names:
            if payload_path(self.layout.factor_field(name)) in schema.indexed:
                done = combine(self._words, self.layout, None, factor(name) >= 0.0)
                if base:  # an unnamed one has no name to ask by
                    without = self._words.group(must_not=[self._words.has_vector(base)])
                    done = self._words.group(should=[done, without])
                return int((yield from self._ask(self._count(guarded(self._words, self._guard, done)))))
        return None

    # steps

    def _verify_code_vector(self) -> Operation[None]:
        yield from ()

    def _ask(self, call: Call, payload_filter: Any = None) -> Operation[Any]:
        """Send a call; an error that comes back names the collection, which the next operation looks at anew.

        Of a call with a caller's filter, an argument that is refused is the caller's.
        """
        try:
            return (yield call)
        except StoreError as exc:
            self._known = None  # the vector for codes may be gone, by an undo somewhere else
            exc.args = (f"collection {self.collection!r}: {exc}", *exc.args[1:])
            if isinstance(exc, RefusedArgumentError) and payload_filter is not None:
                raise InvalidInputError(f"{exc} (asked with a payload filter)") from exc
            raise

    def _schema(self, *, fresh: bool = False) -> Operation[Schema]:
        known = self._known  # which another thread may forget at any moment
        if known is None or fresh:
            self._known = known = yield from self._ask(self._read_schema())
            self._limits = known.limits
            self.largest_window = self._at_most(type(self).largest_window, "max_query_limit")
        return known

    def _at_most(self, wanted: int, *limits: str) -> int:
        """Return a size within some limits of strict mode, as far as it has them."""
        return min([wanted, *(int(self._limits[name]) for name in limits if name in self._limits)])

    @property
    def _counts_exactly(self) -> bool:
        return self._limits.get("search_allow_exact") is not False

    def _index_scores(self, schema: Schema) -> Operation[None]:
        if not self._indexes_seen:
            yield from self._add_indexes(schema, self._factor_paths)
            self._indexes_seen = True

    def _make_room(self, schema: Schema) -> Operation[Schema]:
        """Add the vector for codes where it is not there; return the schema with it."""
        if self.layout.code_field in schema.vectors:
            return schema
        yield from self._add_code_vector(schema)
        added = VectorField(self.layout.code_width, Metric.DOT)
        self._known = known = replace(schema, vectors={**schema.vectors, self.layout.code_field: added})
        return known

    def _code_vectors(self, schema: Schema) -> list[str]:
        """Return the name of the vector that codes are read from, once there is one: engines refuse unknown names."""
        name = self.layout.code_field
        return [name] if self.layout.code_storage == "vector" and name in schema.vectors else []

    def _records(
        self, ids: list[NativeId], with_payload: WithPayload, with_vectors: WithVectors
    ) -> Operation[list[Any]]:
        """Read points by id: a retrieval takes no filter, so under a guard they are scrolled for."""
        if self._guard is None:
            return list((yield from self._ask(self._retrieve(ids, with_payload, with_vectors))))
        found: list[Any] = []
        for part in _parts(ids, self._at_most(_MAX_KEYS, "max_query_limit", "condition_max_size")):
            condition = guarded(self._words, self._guard, self._words.has_id(part))
            records, _ = yield from self._ask(self._scroll(len(part), None, condition, with_payload, with_vectors))
            found += records
        return found

    def _condition(self, payload_filter: Any, factor_filter: FactorFilter | None) -> Operation[Condition]:
        self._check_filter(payload_filter)
        if factor_filter is not None:
            schema = yield from self._schema()
            yield from self._prepare_filter(schema, self._paths_of(factor_filter))
        return guarded(self._words, self._guard, combine(self._words, self.layout, payload_filter, factor_filter))

    def _check_filter(self, payload_filter: Any) -> None:
        kind: Any = self._words.group
        if payload_filter is not None and not isinstance(payload_filter, kind):
            raise InvalidInputError(
                f"a payload filter of this store is a {self._filter_name}, "
                f"got {type(payload_filter).__module__}.{type(payload_filter).__qualname__}"
            )

    def _paths_of(self, tree: FactorFilter) -> list[str]:
        return [payload_path(self.layout.factor_field(name)) for name in sorted(factor_names(tree))]

    def _vectors_to_read(self, with_vectors: bool) -> Operation[tuple[str, WithVectors]]:
        """Return the base vector's name, and what to ask for; an unnamed vector comes only with all the others."""
        if not with_vectors and self.layout.code_storage == "payload":
            return "", False
        schema = yield from self._schema()
        code = self._code_vectors(schema)
        if not with_vectors:
            return "", code or False
        base = schema.base_name(self.layout, self.collection)
        return base, [base, *code] if base else True

    def _write_existing(self, rows: Sequence[CodeRow]) -> Operation[None]:
        """Write codes to those points that exist: the engine answers a write to a missing point with an error."""
        by_id, existing = {row.id: row for row in rows}, list(rows)
        for rounds_left in reversed(range(_WRITE_ROUNDS)):
            if self._guard is not None:
                records = yield from self._records([row.id for row in existing], False, False)
                existing = [by_id[key_of(record.id)] for record in records]
                if not existing:
                    return
            try:
                yield from self._ask(self._send_codes(existing))
            except PointVanishedError:  # deleted, perhaps just now
                if not rounds_left:
                    raise
            else:
                return
            records = yield from self._records(list(by_id), False, False)
            existing = [by_id[key_of(record.id)] for record in records]
            if not existing:
                return


def _keys_of(space_id: str, payload: Mapping[str, Any]) -> list[str]:
    return [key for key in payload if _is_of_space(space_id, key)]


def _is_of_space(space_id: str, key: str) -> bool:
    return key == f"{CODE_PREFIX}{space_id}" or key.startswith(f"{FACTOR_PREFIX}{space_id}_")


def _parts(items: list[Any] | Sequence[Any], size: int) -> list[Any]:
    return [items[start : start + size] for start in range(0, len(items), size)]

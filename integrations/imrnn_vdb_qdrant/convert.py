"""Between our structs and what Qdrant stores: pure, and the same for servers, local mode and Edge."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray, decode_rows, decode_texts, encode_rows, encode_texts
from imrnn_vdb.errors import InvalidInputError, StoreError
from imrnn_vdb.layout import RESERVED_PREFIX, Layout, own_fields_removed, stored_texts
from imrnn_vdb.metric import Metric
from imrnn_vdb.payloads import check_json
from imrnn_vdb.points import Candidates, LazyRows, Payload, PointId, Points
from imrnn_vdb_qdrant.ids import id_fields, key_of, native_id, original_id

MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_BATCH_POINTS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One point as Qdrant takes it; ``code`` is the second vector, where codes lie in one."""

    id: int | str
    vector: list[float]
    payload: dict[str, Any]
    code: list[float] | None
    size: int


@dataclass(frozen=True, slots=True)
class CodeRow:
    """The code of one existing point: payload keys to set, and the second vector, where codes lie in one."""

    id: int | str
    payload: dict[str, Any]
    code: list[float] | None


def rows_of(points: Points, layout: Layout) -> list[Row]:
    """Turn points into rows; the caller's payloads are copied, never changed.

    Raises
    ------
    InvalidInputError
        If there are no vectors, or some that are not finite, or a payload holds a key of ours or a value that JSON
        cannot hold.
    """
    if points.vectors is None:
        raise InvalidInputError("points are upserted with their base vectors; these have none")
    check_finite(points.vectors)
    vectors = points.vectors.tolist()
    own = [CodeRow(native_id(value), {}, None) for value in points.ids]
    if points.codes is not None:
        current = np.flatnonzero(points.codes.current)
        scores = None if points.factor_scores is None else points.factor_scores[current]
        fresh = code_rows([points.ids[row] for row in current], points.codes.take(current), scores, layout)
        for row, code in zip(current.tolist(), fresh, strict=True):
            own[row] = code
    return [
        _row(value, vector, payload, code)
        for value, vector, payload, code in zip(points.ids, vectors, points.payloads, own, strict=True)
    ]


def vectors_of(row: Row, base: str, layout: Layout) -> Any:
    """Return the vectors of a row as both clients take them; ``base`` is the base vector's name, "" where unnamed."""
    if row.code is not None:
        return {base: row.vector, layout.code_field: row.code}
    return {base: row.vector} if base else row.vector


def code_rows(
    ids: Sequence[PointId],
    codes: Codes,
    scores: FloatArray | None,
    layout: Layout,
    lacking: npt.NDArray[np.bool_] | None = None,
) -> list[CodeRow]:
    """Turn codes and named factor scores into what is set on each point.

    Parameters
    ----------
    ids
        n point ids.
    codes
        n codes, all current.
    scores
        Shape (n, number of named factors), 0..1; None to set no scores.
    layout
        Where codes lie.
    lacking
        Shape (n, 1 + number of named factors): what of code and scores is to be set; None for all.
    """
    keys = [layout.factor_field(name) for name in layout.factor_names]
    if scores is not None and scores.shape != (len(ids), len(keys)):
        raise InvalidInputError(f"factor scores have shape {scores.shape}, not ({len(ids)}, {len(keys)})")
    factors = [{}] * len(ids) if scores is None else [dict(zip(keys, row, strict=True)) for row in scores.tolist()]
    if layout.code_storage == "vector":
        vectors = encode_rows(codes, layout.code_dtype).tolist()
        rows = [
            CodeRow(native_id(value), extra, vector) for value, extra, vector in zip(ids, factors, vectors, strict=True)
        ]
    else:
        texts = encode_texts(codes, layout.space_id, layout.code_dtype)
        rows = [
            CodeRow(native_id(value), {layout.code_field: text, **extra}, None)
            for value, extra, text in zip(ids, factors, texts, strict=True)
        ]
    if lacking is None or lacking.all():
        return rows
    names = [layout.code_field, *keys]
    return [
        _only(row, {key for key, wanted in zip(names, line, strict=True) if wanted}, layout)
        for row, line in zip(rows, lacking.tolist(), strict=True)
    ]


def _only(row: CodeRow, fields: set[str], layout: Layout) -> CodeRow:
    """Return what is set of these fields alone."""
    payload = {key: value for key, value in row.payload.items() if key in fields}
    return CodeRow(row.id, payload, row.code if layout.code_field in fields else None)


def batches(rows: Sequence[Row], most: int = MAX_BATCH_POINTS) -> Iterator[Sequence[Row]]:
    """Split rows so that no batch is above :data:`MAX_BATCH_BYTES`, or has more than so many points."""
    start = size = 0
    for end, row in enumerate(rows):
        if end > start and (size + row.size > MAX_BATCH_BYTES or end - start == most):
            yield rows[start:end]
            start, size = end, 0
        size += row.size
    if start < len(rows):
        yield rows[start:]


def oriented(scores: Sequence[float], metric: Metric) -> npt.NDArray[np.float64]:
    """Turn Qdrant's scores into base scores, higher is better (:mod:`imrnn_vdb.metric`).

    Qdrant returns similarities for cosine and dot, and true distances for euclid (not squared) and manhattan.
    """
    values = np.asarray(scores, np.float64).reshape(len(scores))
    if metric is Metric.EUCLID:
        return 0.0 - values**2
    return 0.0 - values if metric is Metric.MANHATTAN else values


def check_order(hits: Sequence[Any], metric: Metric, collection: str) -> None:
    """Raise `StoreError` for hits that come worst first: the collection has another metric than when it was opened."""
    if not hits:
        return
    ends = (hits[-1], hits[0]) if metric in (Metric.EUCLID, Metric.MANHATTAN) else (hits[0], hits[-1])
    if ends[0].score < ends[1].score:
        raise StoreError(
            f"the hits of collection {collection!r} come worst first by its metric, {metric}: it was made anew with "
            "another one; open it again"
        )


def candidates_of(hits: Sequence[Any], layout: Layout, metric: Metric) -> Candidates:
    """Read the hits of one query: anything with ``id``, ``score``, ``payload`` and ``vector``."""
    payloads = [hit.payload or {} for hit in hits]
    return Candidates(
        ids=[original_id(hit.id, payload) for hit, payload in zip(hits, payloads, strict=True)],
        base_scores=oriented([hit.score for hit in hits], metric),
        codes=_codes_of(hits, payloads, layout),
        payloads=LazyRows(lambda row: own_fields_removed(payloads[row]), len(payloads)),
    )


def partial_candidates_of(hits: Sequence[Any], layout: Layout, metric: Metric) -> Candidates:
    """Read the hits of one query that came without payload: their ids are keys."""
    return Candidates(
        ids=LazyRows(lambda row: key_of(hits[row].id), len(hits)),
        base_scores=oriented([hit.score for hit in hits], metric),
        codes=_codes_of(hits, [{}] * len(hits), layout),
        payloads=LazyRows(_unread, len(hits)),
        partial=True,
    )


def completed(
    candidates: Candidates, keys: Mapping[int, PointId], payloads: Mapping[PointId, Payload]
) -> tuple[Candidates, npt.NDArray[np.intp]]:
    """Return partial candidates with id and payload of some rows, and those rows whose points were not found.

    Parameters
    ----------
    candidates
        As for ``Store.complete``.
    keys
        By row.
    payloads
        What was read, by key.
    """
    found = {row: payloads[key] for row, key in keys.items() if key in payloads}
    ids = {row: original_id(keys[row], payload) for row, payload in found.items()}
    made = replace(
        candidates,
        ids=LazyRows(lambda row: ids[row] if row in ids else candidates.ids[row], len(candidates)),
        payloads=LazyRows(
            lambda row: own_fields_removed(found[row]) if row in found else _unread(row), len(candidates)
        ),
        partial=False,
    )
    return made, np.array([row for row in keys if row not in found], np.intp)


def _unread(row: int) -> Payload:
    raise LookupError(f"the payload of candidate {row} was not read: it is not among the rows that are returned")


def points_of(records: Sequence[Any], layout: Layout, base: str, with_vectors: bool) -> Points:
    """Read records: anything with ``id``, ``payload`` and ``vector``.

    Factor scores that a point lacks are NaN. Where vectors are wanted, points without the base vector are left out.
    """
    vectors = None
    if with_vectors:  # no query ever returns a point without the base vector, so nothing can be scored or written there
        packed = [_packed(vector_of(record, base)) for record in records]
        records = [record for record, vector in zip(records, packed, strict=True) if vector is not None]
        table = bytearray().join([vector for vector in packed if vector is not None])
        vectors = np.frombuffer(table, np.float32).reshape(len(records), -1 if records else 0)
    payloads = [record.payload or {} for record in records]
    return Points(
        ids=[original_id(record.id, payload) for record, payload in zip(records, payloads, strict=True)],
        vectors=vectors,
        payloads=[own_fields_removed(payload) for payload in payloads],
        codes=_codes_of(records, payloads, layout),
        factor_scores=_scores_of(payloads, layout) if layout.factor_names else None,
    )


def check_finite(vectors: FloatArray) -> None:
    """Raise `InvalidInputError` for NaN and infinity, which Qdrant Edge takes for vectors like any other."""
    if not np.isfinite(vectors).all():
        raise InvalidInputError("a vector holds NaN or infinity; nothing was sent")


def vector_of(record: Any, name: str) -> Any:
    """Return a record's vector of one name; engines give an unnamed vector bare, named ones as a mapping."""
    vector = record.vector  # once: Edge builds a list each time
    if isinstance(vector, dict):
        return vector.get(name)
    return vector if name == "" else None


def _packed(vector: Sequence[float] | None) -> bytes | None:
    """Return a vector's floats as bytes; numpy takes three times as long to read a list."""
    return None if vector is None else struct.pack(f"={len(vector)}f", *vector)


def _row(value: PointId, vector: list[float], payload: Mapping[str, Any], own: CodeRow) -> Row:
    taken = [key for key in payload if not isinstance(key, str) or key.startswith(RESERVED_PREFIX)]
    if taken:
        raise InvalidInputError(
            f"the payload of point {value!r} has the key {taken[0]!r}: keys are strings that do not start with "
            f"{RESERVED_PREFIX!r}, which this layer uses itself"
        )
    size = 9 * len(vector) + 5 * len(own.code or ()) + _json_bytes(value, payload) + 256
    return Row(own.id, vector, {**payload, **id_fields(value), **own.payload}, own.code, size)


def _json_bytes(value: PointId, payload: Mapping[str, Any]) -> int:
    try:
        check_json(payload)
        return len(json.dumps(payload, ensure_ascii=False).encode())
    except (InvalidInputError, RecursionError) as exc:
        raise InvalidInputError(
            f"the payload of point {value!r} is not JSON ({exc}): use text, finite numbers, booleans, lists and "
            "mappings, and None"
        ) from exc


def _codes_of(records: Sequence[Any], payloads: Sequence[Payload], layout: Layout) -> Codes:
    if layout.code_storage == "vector":
        field = layout.code_field
        try:  # of most searches: all points have one, and there is nothing to ask
            rows = [record.vector[field] for record in records]
        except (KeyError, TypeError):
            rows = [vector_of(record, field) for record in records]
        return decode_rows(rows, layout.num_factors)
    return decode_texts(stored_texts(payloads, layout), layout.space_id, layout.num_factors)


def _scores_of(payloads: Sequence[Payload], layout: Layout) -> FloatArray:
    keys = [layout.factor_field(name) for name in layout.factor_names]
    if not any(payloads):
        return np.full((len(payloads), len(keys)), np.nan, np.float32)
    table = [[payload.get(key) for key in keys] for payload in payloads]
    numbers = [[value if isinstance(value, int | float) else np.nan for value in row] for row in table]
    return np.asarray(numbers, np.float32).reshape(len(payloads), len(keys))

"""Between our structs and Milvus rows: pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray, decode_rows, decode_texts, encode_rows, encode_texts
from imrnn_vdb.errors import InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.layout import CODE_PREFIX, FACTOR_PREFIX, RESERVED_PREFIX, Layout, is_own_field, stored_texts
from imrnn_vdb.metric import Metric
from imrnn_vdb.payloads import check_json, valid_text
from imrnn_vdb.points import Candidates, LazyRows, Payload, PointId, Points
from imrnn_vdb_milvus.hits import HitRows, Row, with_lists
from imrnn_vdb_milvus.schema import DYNAMIC_FIELD, Schema

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""A quarter of what Milvus takes in one request: its own form of a row is larger than the estimate here."""
MAX_BATCH_ROWS = 1000

_FLOAT_VECTOR = 101  # of pymilvus's DataType


def rows_of(points: Points, schema: Schema, layout: Layout) -> list[Row]:
    """Turn points into rows, the last of each id; the caller's payloads are copied, never changed.

    Milvus 2.3 keeps the first row where a request holds two of one key, Milvus Lite the last.

    Raises
    ------
    InvalidInputError
        If there are no vectors, or an id or payload cannot be stored.
    """
    if points.vectors is None:
        raise InvalidInputError("points are upserted with their base vectors; these have none")
    base = schema.base_name(layout)
    check_vectors(points.vectors, schema, base)
    empty = no_code(schema)
    own = [empty for _ in points.ids]
    if points.codes is not None and points.codes.current.any():
        schema.check_room(layout)
        current = np.flatnonzero(points.codes.current)
        scores = None if points.factor_scores is None else points.factor_scores[current]
        for row, fields in zip(
            current.tolist(), code_fields(points.codes.take(current), scores, schema, layout), strict=True
        ):
            own[row] = {**empty, **fields}
    rows = {}
    for value, vector, payload, fields in zip(points.ids, points.vectors, points.payloads, own, strict=True):
        check_payload(value, payload, schema)
        rows[value] = {schema.key: schema.check_key(value), base: vector, **payload, **fields}
    return list(rows.values())


def code_fields(codes: Codes, scores: FloatArray | None, schema: Schema, layout: Layout) -> list[Row]:
    """Turn codes and named factor scores into the fields of this layer.

    Parameters
    ----------
    codes
        n codes, all current.
    scores
        Shape (n, number of named factors), 0..1; None to store no scores.
    schema, layout
        Where they lie.
    """
    texts = encode_texts(codes, layout.space_id, layout.code_dtype)  # refuses codes that are not current
    names = [layout.factor_field(name) for name in layout.factor_names]
    table = np.zeros((len(codes), 0), np.float32) if scores is None else np.asarray(scores, np.float32)
    used = names if scores is not None else []
    if table.shape != (len(codes), len(used)) or not np.isfinite(table).all():
        raise InvalidInputError(f"factor scores of shape ({len(codes)}, {len(used)}) are finite numbers in 0..1")
    if schema.code_home(layout) == "vector":
        homes: list[Row] = [{layout.code_field: row} for row in encode_rows(codes, layout.code_dtype)]
    else:
        limit = schema.columns.get(layout.code_field, 0)
        if texts and limit and len(texts[0]) > limit:
            raise UnsupportedError(
                f"a code of {len(texts[0])} characters does not fit the field {layout.code_field!r} of {limit}: use "
                "code_dtype='float16', or a new collection"
            )
        homes = [{layout.code_field: text} for text in texts]
    return [{**home, **dict(zip(used, row, strict=True))} for home, row in zip(homes, table.tolist(), strict=True)]


def merged(row: Row, fields: Row) -> Row:
    """Return a stored row with other code fields; everything else as it was read, codes of other spaces included."""
    return {**row, **fields}


def stripped(row: Row, schema: Schema, layout: Layout) -> Row | None:
    """Return a stored row without the layout's code and its space's scores; None if it has none.

    Columns get the values of a point without a code, keys of the dynamic field go.
    """
    prefix, empty = layout.factor_field(""), no_code(schema)
    own = {name: value for name, value in row.items() if name == layout.code_field or name.startswith(prefix)}
    held = [name for name, value in own.items() if name not in empty or not np.array_equal(value, empty[name])]
    if not held:
        return None
    rest = {name: value for name, value in row.items() if name not in own}
    return {**rest, **{name: value for name, value in empty.items() if name in own}}


def check_vectors(vectors: FloatArray, schema: Schema, base: str) -> None:
    """Raise `StoreError` for vectors of another dimension, `InvalidInputError` for those that are not finite.

    Milvus answers a NaN query with nothing, Milvus Lite stores NaN and returns NaN scores.
    """
    dim = schema.vectors[base].dim
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise StoreError(
            f"the field {base!r} of collection {schema.collection!r} takes vectors of shape (n, {dim}), "
            f"got {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise InvalidInputError("vectors hold NaN or infinite values: fix the encoder or leave those points out")


def check_payload(value: object, payload: Mapping[str, Any], schema: Schema) -> None:
    """Raise `InvalidInputError` if a payload cannot be stored as it is.

    pymilvus would store NaN and infinity as null, and the engines differ in what else they take.
    """
    for key, item in payload.items():
        if not isinstance(key, str) or key.startswith(RESERVED_PREFIX) or key in schema.hidden or key == DYNAMIC_FIELD:
            raise InvalidInputError(
                f"the payload of point {value!r} has the key {key!r}: keys are strings other than {DYNAMIC_FIELD!r}, "
                f"the key and vector fields ({', '.join(sorted(schema.hidden))}), and those that start with "
                f"{RESERVED_PREFIX!r}"
            )
        if key not in schema.columns and not schema.dynamic:
            raise InvalidInputError(
                f"the payload of point {value!r} has the key {key!r}, but collection {schema.collection!r} has no "
                f"such field and no dynamic field; its fields: {', '.join(schema.columns) or 'none'}"
            )
        try:
            valid_text(key)
            check_json(item)
        except (InvalidInputError, RecursionError) as exc:
            raise InvalidInputError(f"the payload of point {value!r} cannot be stored at {key!r}: {exc}") from exc


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Split rows so that no batch is above :data:`MAX_BATCH_BYTES` or :data:`MAX_BATCH_ROWS`."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        row_size = _row_bytes(row)
        if batch and (size + row_size > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row_size
    if batch:
        yield batch


def candidates_of(
    ids: Sequence[PointId],
    distances: Sequence[float],
    rows: Sequence[Row],
    schema: Schema,
    layout: Layout,
    metric: Metric,
) -> Candidates:
    """Read the hits of one query: keys, distances as Milvus gives them, and rows."""
    return Candidates(
        ids=list(ids),
        base_scores=oriented(distances, metric),
        codes=_codes_of(rows, schema, layout),
        payloads=LazyRows(lambda row: payload_of(rows[row], schema), len(rows)),
    )


def oriented(distances: Sequence[float], metric: Metric) -> npt.NDArray[np.float64]:
    """Turn distances as Milvus gives them into base scores, higher is better."""
    scores = np.asarray(distances, np.float64).reshape(len(distances))
    return -scores if metric is Metric.EUCLID else scores  # L2 is squared already


def rows_read(reply: Any) -> list[Row]:
    """Return the rows of a query's reply, float vectors as arrays, other arrays as lists.

    pymilvus makes each row when it is looked at, 10 µs a vector even as an array (by ``strict_float32``), 45 as
    a list (d = 384). Where nothing but float vectors is missing from the rows, they are taken from the reply at once.
    """
    lazy = getattr(reply, "_lazy_field_data", None)
    if lazy is None or any(int(field.type) != _FLOAT_VECTOR or len(field.valid_data) for field in lazy):
        return with_lists(list(reply))
    rows: list[Row] = list(list.__iter__(reply))  # its own iterator goes field by field
    places = [row.pop("_original_idx", place) for place, row in enumerate(rows)]
    for field in lazy:
        table = np.array(field.vectors.float_vector.data, np.float32).reshape(-1, field.vectors.dim)
        for row, place in zip(rows, places, strict=True):
            row[field.field_name] = table[place]
    return with_lists(rows)


def points_of(
    rows: Sequence[Row],
    schema: Schema,
    layout: Layout,
    base: str | None,
    with_payloads: bool = True,
    with_codes: bool = True,
) -> Points:
    """Read rows; factor scores that a point lacks are NaN.

    Parameters
    ----------
    rows
        Rows with at least the fields that are wanted.
    schema, layout
        Where things lie.
    base
        Name of the vector to read; None to read none.
    with_payloads, with_codes
        Whether to read those; payloads are empty else, codes and factor scores None.
    """
    vectors = None
    if base is not None:
        dim = schema.vectors[base].dim
        vectors = np.asarray([row[base] for row in rows], np.float32).reshape(len(rows), dim)
    return Points(
        ids=[row[schema.key] for row in rows],
        vectors=vectors,
        payloads=[payload_of(row, schema) if with_payloads else {} for row in rows],
        codes=_codes_of(rows, schema, layout) if with_codes else None,
        factor_scores=_scores_of(rows, layout) if with_codes and layout.factor_names else None,
    )


def payload_of(row: Row, schema: Schema) -> Payload:
    """Return what of a row is payload: neither key nor vector, nor a field of this layer."""
    return {key: value for key, value in row.items() if key not in schema.hidden and not is_own_field(key)}


def _codes_of(rows: Sequence[Row], schema: Schema, layout: Layout) -> Codes:
    field = layout.code_field
    column = rows.column(field) if isinstance(rows, HitRows) else [row.get(field) for row in rows]
    if schema.code_home(layout) == "vector":
        there = [vector if vector is not None and vector[-1] >= 0 else None for vector in column]
        return decode_rows(there, layout.num_factors)
    if not all(column):  # the dynamic field may hold them, or those of another space
        column = stored_texts(rows, layout)
    return decode_texts(column, layout.space_id, layout.num_factors)


def _scores_of(rows: Sequence[Row], layout: Layout) -> FloatArray:
    fields = [layout.factor_field(name) for name in layout.factor_names]
    table = [[row.get(field) for field in fields] for row in rows]
    numbers = [[value if isinstance(value, int | float) else np.nan for value in row] for row in table]
    scores = np.asarray(numbers, np.float32).reshape(len(rows), len(fields))
    return np.where(scores < 0, np.float32(np.nan), scores)


def no_code(schema: Schema) -> Row:
    """Return the fields of a point without a code: columns need some value, dynamic keys are left out."""
    fields: Row = {}
    for name in schema.columns:
        if name.startswith(FACTOR_PREFIX):
            fields[name] = -1.0
        elif name.startswith(CODE_PREFIX):
            fields[name] = ""
    for name, vector in schema.vectors.items():
        if name.startswith(CODE_PREFIX):  # a norm below zero: a code that no vector has
            fields[name] = np.append(np.zeros(vector.dim - 1, np.float32), np.float32(-1))
    return fields


def _row_bytes(row: Row) -> int:
    vectors = [value for value in row.values() if isinstance(value, np.ndarray)]
    rest = {name: value for name, value in row.items() if not isinstance(value, np.ndarray)}
    return sum(4 * len(vector) for vector in vectors) + len(json.dumps(rest, ensure_ascii=False).encode())

"""Codes in a collection of their own, beside a collection that others write (DESIGN.md §5). Pure.

A Milvus update is a deletion and an insertion of the whole row, so a code cannot be added to a row beside other writers
without risk to their changes. A sidecar ``<name>_imrnn_<space id>`` holds the codes and factor scores under the same
primary keys instead, with a tiny vector that is never searched, because Milvus wants one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from imrnn_vdb.codec import SPACE_ID_CHARS, Codes, FloatArray, decode_texts
from imrnn_vdb.layout import Layout, is_own_field, stored_texts
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId
from imrnn_vdb_milvus.clients import pymilvus
from imrnn_vdb_milvus.hits import Row
from imrnn_vdb_milvus.rows import code_fields, no_code
from imrnn_vdb_milvus.schema import BASE_NAME, KEY_NAME, Schema, Server, new_indexes, new_schema

_DIM = 2
_NAME = re.compile(rf"_imrnn_[0-9a-f]{{{SPACE_ID_CHARS}}}")
_UNSEARCHED = np.zeros(_DIM, np.float32)


def sidecar_name(collection: str, space_id: str) -> str:
    """Return the name of a collection's sidecar for a space."""
    return f"{collection}_imrnn_{space_id}"


def is_sidecar_of(collection: str, name: str) -> bool:
    """Say whether a name is that of a sidecar, of any space, of a collection."""
    return name.startswith(collection) and _NAME.fullmatch(name[len(collection) :]) is not None


def sidecar_layout(layout: Layout) -> Layout:
    """Return the layout inside a sidecar: codes as text, in columns."""
    return replace(layout, vector_name="", code_storage="payload")


def sidecar_schema(base: Schema, layout: Layout) -> Any:
    """Build the schema of a sidecar: the base's kind of key, the code, and a column for each named factor."""
    id_type: Any = "str" if base.key_is_text else "int"
    return new_schema(_DIM, id_type, sidecar_layout(layout), key_bytes=base.key_bytes)


def sidecar_indexes(layout: Layout, server: Server) -> Any:
    """Build the index parameters of a sidecar: none is ever searched."""
    if server.lite:
        return new_indexes(Metric.DOT, sidecar_layout(layout), server)
    indexes = pymilvus().MilvusClient.prepare_index_params()
    indexes.add_index(BASE_NAME, index_type="FLAT", metric_type="IP")
    return indexes


def sidecar_rows(
    ids: Sequence[PointId], codes: Codes, scores: FloatArray | None, schema: Schema, layout: Layout
) -> list[Row]:
    """Turn codes and named factor scores into rows of a sidecar; parameters as for :func:`rows.code_fields`.

    Columns of factors that another model added, for which the sidecar was made, get the values of a point without.
    """
    fields, empty = code_fields(codes, scores, schema, sidecar_layout(layout)), no_code(schema)
    return [{KEY_NAME: value, BASE_NAME: _UNSEARCHED, **empty, **own} for value, own in zip(ids, fields, strict=True)]


def with_codes(row: Row, key: PointId, codes: Mapping[PointId, Row]) -> Row:
    """Return a base row with the code and scores that its sidecar has; what lies in the row itself does not count."""
    mine = {name: value for name, value in codes.get(key, {}).items() if is_own_field(name)}
    return {**{name: value for name, value in row.items() if not is_own_field(name)}, **mine}


def codes_beside(ids: Sequence[PointId], rows: Mapping[PointId, Row], layout: Layout) -> Codes:
    """Return the codes of points by the rows of a sidecar; points without a row there have none."""
    texts = stored_texts([rows.get(value, {}) for value in ids], sidecar_layout(layout))
    return decode_texts(texts, layout.space_id, layout.num_factors)

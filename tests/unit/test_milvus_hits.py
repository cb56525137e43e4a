"""Replies read by column, against the objects that pymilvus makes of the same message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pymilvus.client.search_result import SearchResult
from pymilvus.grpc_gen import schema_pb2

from imrnn_vdb_milvus.hits import hits_by_column, hits_of_vendor, with_lists

COUNTS = [3, 0, 2]  # hits of three queries
TOTAL = sum(COUNTS)
Field = schema_pb2.FieldData


def scalars(name: str, kind: int, **values: Any) -> Any:
    [(slot, data)] = values.items()
    field = Field(field_name=name, type=kind)
    getattr(field.scalars, slot).data.extend(data)
    return field


def documents(values: list[Any], name: str = "$meta", *, dynamic: bool = True) -> Any:
    field = scalars(name, 23, json_data=[json.dumps(value).encode() for value in values])
    field.is_dynamic = dynamic
    return field


def message(*fields: Any, text_keys: bool = True) -> Any:
    results = schema_pb2.SearchResultData(num_queries=len(COUNTS), topks=COUNTS, primary_field_name="key")
    results.scores.extend(np.linspace(0.9, 0.1, TOTAL, dtype=np.float32).tolist())
    if text_keys:
        results.ids.str_id.data.extend(f"doc-{i}" for i in range(TOTAL))
    else:
        results.ids.int_id.data.extend(range(TOTAL))
    results.fields_data.extend(fields)
    results.output_fields.extend(field.field_name for field in fields)
    return results


def same(results: Any) -> None:
    found, expected = hits_by_column(results), hits_of_vendor(SearchResult(results, -1))
    assert found is not None
    assert [len(hits.ids) for hits in found] == COUNTS
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.ids, mine.distances) == (theirs.ids, theirs.distances)
        assert [list(row.items()) for row in mine.rows] == [list(row.items()) for row in theirs.rows]


@pytest.mark.parametrize("text_keys", [True, False])
def test_scalars_and_json_are_what_pymilvus_makes_of_them(text_keys: bool) -> None:
    same(
        message(
            scalars("flag", 1, bool_data=[True, False, True, False, True]),
            scalars("tiny", 2, int_data=range(-2, 3)),
            scalars("small", 3, int_data=range(5)),
            scalars("medium", 4, int_data=range(5)),
            scalars("large", 5, long_data=[2**63 - 1, -(2**63), 0, 1, 2]),
            scalars("single", 10, float_data=[0.1, 0.2, -0.0, 1e30, 3]),
            scalars("double", 11, double_data=[0.1, 0.2, -0.0, 1e300, 3]),
            scalars("title", 21, string_data=["", "é", "\n", '"', "e"]),
            documents([{"n": i} for i in range(TOTAL)], "extra", dynamic=False),
            documents([{"n": [i, None]} if i % 2 else {} for i in range(TOTAL)]),
            text_keys=text_keys,
        )
    )


def test_a_nullable_column_is_none_where_it_has_no_value() -> None:
    years, extra = scalars("year", 5, long_data=[1, 0, 3, 4, 0]), documents([1, 2, 3, 4, 5], "extra", dynamic=False)
    for field in (years, extra):
        field.valid_data.extend([True, False, True, True, False])
    results = message(years, extra)
    same(results)
    first, _, last = hits_by_column(results) or []
    assert first.rows[1] == {"year": None, "extra": None}
    assert [*last.rows] == [{"year": 4, "extra": 4}, {"year": None, "extra": None}]


def test_a_row_without_dynamic_keys_gets_none() -> None:
    meta = documents([{"n": i} for i in range(TOTAL)])
    meta.valid_data.extend([True, False, True, True, True])
    first, *_ = hits_by_column(message(meta)) or []
    assert [*first.rows] == [{"n": 0}, {}, {"n": 2}]


def test_vectors_come_as_arrays() -> None:
    field = Field(field_name="code", type=101)
    field.vectors.dim = 2
    field.vectors.float_vector.data.extend(range(2 * TOTAL))
    first, _, last = hits_by_column(message(field)) or []
    assert np.array_equal(np.array(first.rows[0]["code"]), np.array([0, 1], np.float32))
    assert np.array_equal(np.array(last.rows.column("code")), np.array([[6, 7], [8, 9]], np.float32))  # type: ignore[attr-defined]


def test_columns_are_those_of_one_query() -> None:
    [first, _, last] = hits_by_column(message(scalars("title", 21, string_data="abcde"))) or []
    assert list(first.rows.column("title")) == ["a", "b", "c"]  # type: ignore[attr-defined]
    assert list(last.rows.column("title")) == ["d", "e"]  # type: ignore[attr-defined]
    assert last.rows.column("other") == [None, None]  # type: ignore[attr-defined]
    assert first.rows[-2:] == [{"title": "b"}, {"title": "c"}]
    with pytest.raises(IndexError):
        first.rows[3]


def test_what_is_not_known_is_left_to_pymilvus() -> None:
    assert hits_by_column(message(Field(field_name="tags", type=22))) is None
    assert hits_by_column(message(Field(field_name="sparse", type=104))) is None
    gaps = Field(field_name="code", type=101, valid_data=[True] * 4 + [False])
    assert hits_by_column(message(gaps)) is None


def test_json_is_parsed_in_the_rows_that_are_looked_at() -> None:
    meta = documents([{"n": 0}, {}, {}, {}, {}])
    meta.scalars.json_data.data[1] = b"{broken"
    [first, *_] = hits_by_column(message(scalars("title", 21, string_data="abcde"), meta)) or []
    assert first.rows[0] == {"title": "a", "n": 0}
    with pytest.raises(json.JSONDecodeError):
        first.rows[1]


def test_no_hits_are_no_hits() -> None:
    empty = schema_pb2.SearchResultData(num_queries=2, topks=[0, 0])
    assert [(hits.ids, hits.distances, [*hits.rows]) for hits in hits_by_column(empty) or []] == [([], [], [])] * 2


def test_protobuf_s_own_arrays_become_lists() -> None:
    tags, years = schema_pb2.StringArray(data=["a", "b"]), schema_pb2.LongArray(data=[2**40])
    plain = [{"key": 1, "tags": ["a", "b"], "raw": b"x", "at": bytearray(b"y"), "years": None}]
    assert with_lists(plain) is plain
    mixed = [*plain, {"key": 2, "tags": tags.data, "raw": b"x", "at": bytearray(b"y"), "years": years.data}]
    found = with_lists(mixed)
    assert found == [plain[0], {**plain[0], "key": 2, "years": [2**40]}]
    assert type(found[1]["tags"]) is type(found[1]["years"]) is list
    assert type(found[1]["at"]) is bytearray

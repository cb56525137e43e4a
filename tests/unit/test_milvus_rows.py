from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.errors import InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb_milvus.capabilities import capabilities_of
from imrnn_vdb_milvus.rows import MAX_BATCH_BYTES, MAX_BATCH_ROWS, batches, check_payload, merged, points_of, rows_of
from imrnn_vdb_milvus.schema import Schema, Server, check_partitions, check_placing, search_params

LAYOUT = Layout("0a1b2c3d", 3, ("entity", "two words"), vector_name="vector")
KEY = {"name": "id", "type": 21, "params": {"max_length": 16}, "is_primary": True}
VECTOR = {"name": "vector", "type": 101, "params": {"dim": 2}}
OURS = [
    {"name": "imrnn_code_0a1b2c3d", "type": 21, "params": {"max_length": 64}},
    {"name": "imrnn_factor_0a1b2c3d_entity", "type": 10, "params": {}},
]
INDEX = {"field_name": "vector", "index_type": "HNSW", "metric_type": "COSINE"}


def schema(*fields: dict[str, Any], key: dict[str, Any] = KEY, dynamic: bool = True, **extra: Any) -> Schema:
    description = {"collection_name": "c", "fields": [key, VECTOR, *fields], "enable_dynamic_field": dynamic, **extra}
    return Schema.parse(description, [INDEX])


def codes(count: int, status: int = 0) -> Codes:
    rng = np.random.default_rng(count)
    return Codes(
        rng.normal(size=(count, 3)).astype(np.float32), np.ones(count, np.float32), np.full(count, status, np.uint8)
    )


def points(ids: list[Any], **changes: Any) -> Points:
    values = {"vectors": np.ones((len(ids), 2), np.float32), "payloads": [{"n": n} for n in range(len(ids))]}
    return Points(ids, **{**values, **changes})


def test_rows_of_a_collection_of_ours() -> None:
    given = points(["a", "b"], codes=codes(2), factor_scores=np.asarray([[0.25, 0.5], [1, 0]], np.float32))
    before = copy.deepcopy(given.payloads)
    first, second = rows_of(given, schema(*OURS), LAYOUT)
    assert (
        first["id"],
        first["n"],
        first["imrnn_factor_0a1b2c3d_entity"],
        first["imrnn_factor_0a1b2c3d_two words"],
    ) == (
        "a",
        0,
        0.25,
        0.5,
    )
    assert first["imrnn_code_0a1b2c3d"].startswith("0a1b2c3d")
    assert second["imrnn_factor_0a1b2c3d_entity"] == 1.0
    assert given.payloads == before


def test_points_without_a_code_fill_the_columns_with_nothing() -> None:
    [row] = rows_of(points(["a"]), schema(*OURS), LAYOUT)
    assert (row["imrnn_code_0a1b2c3d"], row["imrnn_factor_0a1b2c3d_entity"]) == ("", -1.0)
    read = points_of([{**row, "vector": [1.0, 1.0]}], schema(*OURS), LAYOUT, "vector")
    assert read.codes is not None
    assert read.codes.status.tolist() == [CodeStatus.MISSING]
    assert read.factor_scores is not None
    assert np.isnan(read.factor_scores).all()
    assert read.payloads == [{"n": 0}]


def test_some_points_may_lack_a_code() -> None:
    mixed = codes(2)
    mixed.status[1] = CodeStatus.MISSING
    first, second = rows_of(points(["a", "b"], codes=mixed), schema(), LAYOUT)
    assert "imrnn_code_0a1b2c3d" in first
    assert "imrnn_code_0a1b2c3d" not in second


def test_the_last_of_two_points_with_one_id_is_written() -> None:
    rows = rows_of(points(["a", "b", "a"]), schema(), LAYOUT)
    assert sorted((row["id"], row["n"]) for row in rows) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("value", [7, "x" * 17, "é" * 9])
def test_ids_that_the_key_cannot_hold_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="16 bytes"):
        rows_of(points([value]), schema(), LAYOUT)


@pytest.mark.parametrize("value", ["7", 2**63, -(2**63) - 1])
def test_integer_keys(value: Any) -> None:
    numbers = schema(key={"name": "id", "type": 5, "params": {}, "is_primary": True})
    assert rows_of(points([2**63 - 1]), numbers, LAYOUT)[0]["id"] == 2**63 - 1
    with pytest.raises(InvalidInputError, match="2\\^63"):
        rows_of(points([value]), numbers, LAYOUT)
    assert numbers.usable_keys([1, value, 1, -(2**63)]) == [1, -(2**63)]


def test_vectors_are_checked() -> None:
    with pytest.raises(StoreError, match=r"\(n, 2\)"):
        rows_of(points(["a"], vectors=np.ones((1, 3), np.float32)), schema(), LAYOUT)
    with pytest.raises(InvalidInputError, match="NaN"):
        rows_of(points(["a"], vectors=np.asarray([[1, np.nan]], np.float32)), schema(), LAYOUT)
    with pytest.raises(InvalidInputError, match="base vectors"):
        rows_of(points(["a"], vectors=None), schema(), LAYOUT)


@pytest.mark.parametrize(
    "payload",
    [
        {"imrnn_x": 1},
        {"id": 1},
        {"vector": 1},
        {"$meta": 1},
        {1: 1},
        {"a": float("nan")},
        {"a": [{"b": float("inf")}]},
        {"a": 2**63},
        {"a": -(2**63) - 1},
        {"a": {1: 2}},
        {"a": "\ud800"},
        {"a": {"\ud800": 1}},
        {"a": b"x"},
        {"a": {1, 2}},
    ],
)
def test_payloads_that_milvus_would_change_are_refused(payload: Any) -> None:
    with pytest.raises(InvalidInputError, match="point 'a'"):
        check_payload("a", payload, schema())


def test_endless_payloads_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInputError, match="'loop'"):
        check_payload("a", {"loop": endless}, schema())


TEXT = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_json_payloads_are_taken(value: Any) -> None:
    check_payload("a", {"value": value}, schema())


def test_without_a_dynamic_field_payload_keys_are_fields() -> None:
    strict = schema({"name": "title", "type": 21, "params": {"max_length": 9}}, dynamic=False)
    check_payload("a", {"title": "x"}, strict)
    with pytest.raises(InvalidInputError, match="its fields: title"):
        check_payload("a", {"other": 1}, strict)
    assert strict.code_home(LAYOUT) is None
    with pytest.raises(UnsupportedError, match="enable_dynamic_field"):
        strict.check_room(LAYOUT)
    assert strict.read_fields(LAYOUT) == ["title"]


def test_codes_too_long_for_their_field_are_refused() -> None:
    narrow = schema({**OURS[0], "params": {"max_length": 9}}, OURS[1])
    with pytest.raises(UnsupportedError, match="does not fit"):
        rows_of(points(["a"], codes=codes(1)), narrow, LAYOUT)


def test_rewriting_a_row_replaces_only_fields_of_this_space() -> None:
    row = {"id": "a", "vector": [1.0], "title": "t", "imrnn_code_0a1b2c3d": "old", "imrnn_code_ffffffff": "another"}
    assert merged(row, {"imrnn_code_0a1b2c3d": "new"}) == {**row, "imrnn_code_0a1b2c3d": "new"}


def test_batches_are_bounded_by_rows_and_bytes() -> None:
    small = [{"id": str(n), "vector": np.zeros(2, np.float32)} for n in range(2 * MAX_BATCH_ROWS + 1)]
    assert [len(batch) for batch in batches(small)] == [MAX_BATCH_ROWS, MAX_BATCH_ROWS, 1]
    large = [{"id": str(n), "text": "é" * (MAX_BATCH_BYTES // 8)} for n in range(7)]
    sizes = [len(json.dumps(batch, ensure_ascii=False).encode()) for batch in batches(large)]
    assert sum(map(len, batches(large))) == 7
    assert max(sizes) <= MAX_BATCH_BYTES + 100
    assert list(batches([])) == []


def test_schema_reads_collections_of_others() -> None:
    extra = [
        {"name": "sparse", "type": 104, "params": {}},
        {"name": "text", "type": 21, "params": {"max_length": 99}},
        {"name": "half", "type": 102, "params": {"dim": 2}},
        {"name": "plain", "type": 101, "params": {"dim": 4}},
    ]
    found = schema(*extra, functions=[{"output_field_names": ["sparse"]}], auto_id=True)
    assert set(found.vectors) == {"vector"}  # the others have no index that a search could use
    assert found.vectors["vector"].metric is Metric.COSINE
    assert found.stored == ("id", "vector", "text", "half", "plain")
    assert found.foreign == ("half",)
    assert found.hidden == {"id", "vector", "sparse", "half", "plain"}
    assert found.auto_id
    assert found.base_name(Layout("0a1b2c3d", 3)) == "vector"
    with pytest.raises(InvalidInputError, match="vector"):
        found.base_name(Layout("0a1b2c3d", 3, vector_name="plain"))


def test_partitions_made_by_hand_are_refused_for_new_rows() -> None:
    check_partitions(schema(), ["_default"])
    with pytest.raises(UnsupportedError, match="partitions"):
        check_partitions(schema(), ["_default", "2024"])
    spread = {"name": "tenant", "type": 21, "params": {"max_length": 9}, "is_partition_key": True}
    check_partitions(schema(spread), ["_default_0", "_default_1"])


def test_servers_that_upsert_into_wrong_partitions_may_not_rewrite_rows() -> None:
    spread = {"name": "tenant", "type": 21, "params": {"max_length": 9}, "is_partition_key": True}
    for name in ("v2.4.0", "milvus_lite-3.2.0"):
        check_placing(Server.parse(name), schema(spread))
    old = Server.parse("v2.3.5")
    check_placing(old, schema())
    with pytest.raises(UnsupportedError, match="wrong partitions"):
        check_placing(old, schema(spread))
    said = capabilities_of(old, schema(spread), ["_default_0", "_default_1"], Layout("0a1b2c3d", 3))
    assert [found.status for found in said if "wrong partitions" in found.why] == ["fallback"]


@pytest.mark.parametrize(
    ("text", "expected", "lite", "name"),
    [
        ("v2.3.5-lite", (2, 3, 5), False, "Milvus 2.3.5"),  # the server in a PyPI package, not Milvus Lite
        ("2.6.18", (2, 6, 18), False, "Milvus 2.6.18"),
        ("milvus_lite-3.2.0", (3, 2, 0), True, "Milvus Lite 3.2.0"),
        ("master-abc", (), False, "Milvus (version unknown)"),
    ],
)
def test_server_versions(text: str, expected: tuple[int, ...], lite: bool, name: str) -> None:
    server = Server.parse(text)
    assert (server.version, server.lite, str(server)) == (expected, lite, name)
    assert server.at_least(2, 4) == (text != "v2.3.5-lite")


def test_an_index_visits_more_than_it_returns() -> None:
    def params(kind: str, limit: int) -> Any:
        found = Schema.parse({"collection_name": "c", "fields": [KEY, VECTOR]}, [{**INDEX, "index_type": kind}])
        asked = search_params(found, "vector", limit)
        assert asked["metric_type"] == "COSINE"
        return asked["params"]

    assert params("HNSW", 10) == {"ef": 64}
    assert params("HNSW", 100) == params("HNSW_SQ", 100) == {"ef": 200}
    assert params("HNSW", 16_384)["ef"] >= 16_384
    assert params("IVF_SQ8", 10) == params("SCANN", 10) == {"nprobe": 16}
    assert params("GPU_IVF_FLAT", 4_000) == {"nprobe": 1_000}
    assert params("FLAT", 10) == params("DISKANN", 10) == {}

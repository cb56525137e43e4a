"""Milvus Lite collections that others made: any schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from factory import DIM
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.errors import CollectionNotFoundError, InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.filters import factor
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb_milvus import MilvusBackend, steps
from imrnn_vdb_milvus.store import MAX_WINDOW, MilvusStore


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MilvusClient]:
    made = MilvusClient(str(tmp_path / "theirs.db"))
    yield made
    made.close()


@pytest.fixture
def connection(client: MilvusClient) -> Connection:
    adopted = MilvusBackend().adopt(client, ConnectionOptions())
    assert adopted is not None
    return adopted


def make(
    client: MilvusClient, name: str = "docs", *, dynamic: bool = True, auto_id: bool = False, second: bool = False
) -> None:
    schema = MilvusClient.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("title", DataType.VARCHAR, max_length=100)
    schema.add_field("year", DataType.INT64, nullable=True)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=9)
    schema.add_field("extra", DataType.JSON)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="L2")
    if second:
        schema.add_field("image", DataType.FLOAT_VECTOR, dim=3)
        indexes.add_index("image", index_type="FLAT", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=indexes)


def row(key: int, **more: Any) -> dict[str, Any]:
    fixed = {"title": f"t{key}", "year": 2000 + key, "tags": ["a", "b"], "extra": {"n": [key]}}
    return {"key": key, **fixed, "embedding": [float(key), 1.0], **more}


def store(connection: Connection, **changes: Any) -> MilvusStore:
    layout = Layout(**{"space_id": "0a1b2c3d", "num_factors": 3, "factor_names": ("entity",), **changes})
    return MilvusBackend().store(connection, "docs", layout)


def codes(count: int) -> Codes:
    directions = np.linspace(0, 1, 3 * count, dtype=np.float32).reshape(count, 3)
    return Codes(directions, np.ones(count, np.float32), np.zeros(count, np.uint8))


def test_codes_go_to_dynamic_keys_and_touch_nothing_else(client: MilvusClient, connection: Connection) -> None:
    make(client, second=True)
    rows = [row(key, color="red", image=[0.0, 0.5, float(key)]) for key in range(4)]
    rows[2]["year"] = None
    client.insert("docs", rows)
    mine = store(connection, vector_name="embedding")
    scores = np.asarray([[0.1], [0.9], [0.5], [0.5]], np.float32)
    connection.run(mine.write_codes([0, 1, 2, 99], codes(4), scores))
    after = client.query("docs", filter="key >= 0", output_fields=["*", "image", "embedding"])
    for read, wrote in zip(sorted(after, key=lambda found: found["key"]), rows, strict=True):
        assert {name: value for name, value in read.items() if not name.startswith("imrnn_")} == wrote
    [found] = connection.run(mine.search(np.asarray([[0, 1]], np.float32), 10))
    assert found.ids == [0, 1, 2, 3]
    np.testing.assert_allclose(found.base_scores, [0, -1, -4, -9])  # L2 is squared: negated, it is the base score
    assert found.codes.status.tolist() == [0, 0, 0, CodeStatus.MISSING]
    assert found.payloads[1] == {
        "title": "t1", "year": 2001, "tags": ["a", "b"], "extra": {"n": [1]}, "color": "red"
    }  # fmt: skip
    assert connection.run(mine.count(factor_filter=~(factor("entity") > 0.4))) == 1
    assert connection.run(mine.count("year == 2001", factor("entity") > 0.4)) == 1


def test_codes_of_an_older_space_stay_until_they_are_undone(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(1)])
    older = store(connection, space_id="ffffffff", factor_names=("gone",))
    connection.run(older.write_codes([1], codes(1), np.asarray([[0.5]], np.float32)))
    connection.run(store(connection).write_codes([1], codes(1), np.asarray([[0.25]], np.float32)))
    [read] = client.query("docs", filter="key == 1", output_fields=["*"])
    assert {name for name in read if name.startswith("imrnn_")} == {
        "imrnn_code_0a1b2c3d",
        "imrnn_code_ffffffff",
        "imrnn_factor_0a1b2c3d_entity",
        "imrnn_factor_ffffffff_gone",
    }


def test_columns_of_a_foreign_schema_are_payload(client: MilvusClient, connection: Connection) -> None:
    make(client)
    payload = {"title": "x", "year": None, "tags": [], "extra": {}, "more": "y"}
    mine = store(connection)
    connection.run(mine.upsert(Points([5], np.ones((1, 2), np.float32), [payload])))
    assert connection.run(mine.fetch([5])).payloads == [payload]
    with pytest.raises(InvalidInputError, match="'key'"):
        connection.run(mine.upsert(Points([5], np.ones((1, 2), np.float32), [{"key": 6}])))
    with pytest.raises(StoreError, match="title"):  # a column of theirs that must have a value
        connection.run(mine.upsert(Points([6], np.ones((1, 2), np.float32), [{"year": 1}])))


def test_several_vectors_need_a_name(client: MilvusClient, connection: Connection) -> None:
    make(client, second=True)
    info = connection.run(store(connection).info())
    assert {name: (field.dim, field.metric) for name, field in info.vectors.items()} == {
        "embedding": (2, Metric.EUCLID),
        "image": (3, Metric.DOT),
    }
    with pytest.raises(InvalidInputError, match="embedding, image"):
        connection.run(store(connection).search(np.ones((1, 2), np.float32), 1))
    assert connection.run(store(connection, vector_name="image").search(np.ones((1, 3), np.float32), 1))[0].ids == []


@pytest.mark.parametrize("auto_id", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_where_there_are_no_codes_undoing_is_no_error(
    client: MilvusClient, connection: Connection, auto_id: bool, in_place: bool
) -> None:
    """Also the second time, and where rows have no room for any."""
    make(client, dynamic=auto_id, auto_id=auto_id)
    client.insert("docs", [{name: value for name, value in row(1).items() if name != "key" or not auto_id}])
    assert connection.run(store(connection).strip_codes("0a1b2c3d", 10, in_place=in_place)) == (0, None)


def test_no_dynamic_field_means_no_codes_in_rows(client: MilvusClient, connection: Connection) -> None:
    make(client, dynamic=False)
    client.insert("docs", [row(1)])
    mine = store(connection)
    with pytest.raises(UnsupportedError, match="enable_dynamic_field"):
        connection.run(mine.write_codes([1], codes(1), np.zeros((1, 1), np.float32)))
    with pytest.raises(UnsupportedError, match="entity"):
        connection.run(mine.count(factor_filter=factor("entity") > 0))
    assert connection.run(mine.search(np.ones((1, 2), np.float32), 1))[0].codes.status.tolist() == [CodeStatus.MISSING]
    statuses = {item.name: item.status for item in connection.run(mine.info()).capabilities}
    assert statuses["codes"] == statuses["writing codes of existing points"] == "works"  # in a sidecar
    assert statuses["factor filters in the database"] == "fallback"  # on the sidecar's scores
    connection.run(mine.prepare_codes())
    connection.run(mine.write_codes([1, 2], codes(2), np.ones((2, 1), np.float32)))
    assert connection.run(mine.fetch([1])).codes.current.all()
    assert connection.run(mine.count(factor_filter=factor("entity") > 0)) == 1
    assert client.query("docs", filter="key == 1", output_fields=["*"])[0].keys() == row(1).keys() - {"more"}


def test_a_guard_holds_for_codes_in_a_sidecar(client: MilvusClient, connection: Connection) -> None:
    """A sidecar holds the codes of all tenants, and no payload to tell them apart."""
    make(client, dynamic=False)
    client.insert("docs", [row(key) for key in range(6)])
    whole = store(connection)
    connection.run(whole.prepare_codes())
    connection.run(whole.write_codes(list(range(6)), codes(6), np.ones((6, 1), np.float32)))
    mine = MilvusBackend().store(connection, "docs", whole.layout, {"title": "t2"})
    condition = factor("entity") > 0
    assert connection.run(mine.count(factor_filter=condition)) == 1
    assert connection.run(mine.search(np.ones((1, 2), np.float32), 6, factor_filter=condition))[0].ids == [2]
    connection.run(mine.write_codes([1, 2], codes(2), np.full((2, 1), 0.5, np.float32)))
    assert connection.run(whole.fetch([1, 2])).factor_scores.tolist() == [[1.0], [0.5]]
    connection.run(mine.delete([1, 2, 3]))
    assert connection.run(mine.sweep(10)) == (0, None)
    for operation in (mine.drop(), mine.drop_room(mine.layout.space_id)):
        with pytest.raises(UnsupportedError, match="guard"):
            connection.run(operation)
    left = connection.run(whole.fetch(list(range(6))))
    assert left.ids == [0, 1, 3, 4, 5]
    assert left.codes.current.all()


def test_a_sidecar_takes_the_codes_of_models_with_other_added_factors(
    client: MilvusClient, connection: Connection
) -> None:
    """It has a column for each factor that it was made with, and such a factor may be added anew, or left out."""
    make(client)
    client.insert("docs", [row(key) for key in range(3)])
    first = store(connection, factor_names=("entity", "own"), score_ids={"own": "0000000a"})
    connection.run(first.prepare_codes())
    connection.run(first.write_codes([0, 1], codes(2), np.full((2, 2), 0.25, np.float32)))
    again = store(connection, factor_names=("entity", "own"), score_ids={"own": "0000000b"})
    connection.run(again.write_codes([1], codes(1), np.full((1, 2), 0.75, np.float32)))
    connection.run(store(connection).write_codes([2], codes(1), np.full((1, 1), 0.5, np.float32)))
    assert connection.run(again.fetch([1])).factor_scores.tolist() == [[0.75, 0.75]]
    assert connection.run(store(connection).fetch([0, 1, 2])).factor_scores.tolist() == [[0.25], [0.75], [0.5]]
    assert connection.run(first.search(np.ones((1, 2), np.float32), 3, factor_filter=factor("own") <= 1))[0].ids == [0]


def test_a_search_that_ends_at_its_own_bound_says_so(
    client: MilvusClient, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(6)])
    mine = store(connection)
    connection.run(mine.prepare_codes())
    connection.run(mine.write_codes(list(range(6)), codes(6), np.arange(6, dtype=np.float32)[:, None] / 10))
    query, condition = np.asarray([[0, 1]], np.float32), factor("entity") > 0.35

    def found() -> tuple[list[Any], bool]:
        [candidates] = connection.run(mine.search(query, 2, factor_filter=condition))
        return candidates.ids, candidates.cut_short

    assert found() == ([4, 5], False)  # few match: their ids go into the search
    for name, value in {"_LISTED": 1, "MAX_WINDOW": 2}.items():
        monkeypatch.setattr(f"imrnn_vdb_milvus.filtered.{name}", value)
    assert found() == ([], True)


def test_generated_keys_are_not_rewritten(client: MilvusClient, connection: Connection) -> None:
    make(client, auto_id=True)
    values = row(0)
    del values["key"]
    client.insert("docs", [values])
    mine = store(connection)
    [key] = connection.run(mine.scroll(5)).points.ids
    with pytest.raises(UnsupportedError, match="autoID"):
        connection.run(mine.write_codes([key], codes(1), np.zeros((1, 1), np.float32)))
    with pytest.raises(UnsupportedError, match="autoID"):
        connection.run(mine.upsert(Points([1], np.ones((1, 2), np.float32), [{}])))
    assert connection.run(mine.fetch([key])).ids == [key]


def test_limits_are_checked_before_anything_is_sent(connection: Connection) -> None:
    mine = store(connection)  # there is no such collection: a call would say so
    for limit in (0, MAX_WINDOW + 1):
        with pytest.raises(InvalidInputError, match="16384"):
            connection.run(mine.search(np.ones((1, 2), np.float32), limit))
    with pytest.raises(InvalidInputError, match="at least one point"):
        connection.run(mine.scroll(0))


def test_manhattan_is_unknown_to_milvus(connection: Connection) -> None:
    with pytest.raises(UnsupportedError, match="manhattan"):
        connection.run(store(connection).create(2, Metric.MANHATTAN))


def test_negative_keys_are_scrolled(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(key) for key in (3, -5, 0, 2**62, -(2**63))])
    seen, cursor = [], None
    while True:
        page = connection.run(store(connection).scroll(1, cursor))
        seen += page.points.ids
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [-(2**63), -5, 0, 3, 2**62]


def test_negative_keys_are_keys(client: MilvusClient, connection: Connection, model: IMRNNModel) -> None:
    schema = MilvusClient.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    client.create_collection("signed", schema=schema, index_params=indexes)
    table = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)
    client.insert(
        "signed", [{"key": key, "embedding": row} for key, row in zip((3, -5, 0, -(2**63)), table, strict=True)]
    )
    collection = IMRNNCollection.from_client(client, "signed", model)
    collection.backfill()
    found = [result.id for result in collection.search(table[1])]
    assert found[0] == -5
    assert collection.explain(table[1], -5).modulated
    assert [result.id for result in collection.rerank(table[1], found)] == found
    collection.upsert([-5], vectors=table[:1])
    collection.delete([-(2**63)])
    assert sorted(collection.fetch([3, -5, 0, -(2**63)]).ids) == [-5, 0, 3]


def test_a_collection_that_was_opened_before_there_was_a_sidecar_finds_it(
    client: MilvusClient, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(4)])
    early, later = store(connection), store(connection)
    assert not connection.run(early.fetch([0])).codes.current.any()
    connection.run(later.prepare_codes())
    scores = np.full((4, 1), 0.5, np.float32)
    connection.run(later.write_codes(list(range(4)), codes(4), scores))
    changed = connection.run(early.fetch([1], with_vectors=True))
    fresh = replace(changed, codes=codes(2).take(np.array([1])), factor_scores=np.ones((1, 1), np.float32))
    connection.run(early.upsert(fresh))  # its code goes where codes count now
    found = connection.run(later.fetch([1]))
    np.testing.assert_allclose(found.codes.directions, fresh.codes.directions, atol=1e-3)
    assert found.factor_scores.tolist() == [[1.0]]

    reader = store(connection)
    reader._found = connection.run(reader._look())
    reader._sidecar = None  # as one that looked before the backfill
    assert not connection.run(reader.fetch([0])).codes.current.any()
    monkeypatch.setattr("imrnn_vdb_milvus.steps.LOOK_AGAIN_S", 0.0)
    assert connection.run(reader.fetch([0])).codes.current.all()
    assert connection.run(reader.count(factor_filter=factor("entity") > 0.9)) == 1


def test_what_is_read_while_codes_are_prepared_keeps_its_guard(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(4)])
    mine = MilvusBackend().store(connection, "docs", store(connection).layout, {"title": "t2"})
    assert connection.run(mine.count()) == 1
    reading, preparing = mine.scroll(10), mine.prepare_codes()
    call = next(reading)
    assert callable(call)
    next(preparing)  # the collection is being described anew
    again = reading.send(call(client, 10.0))  # a second call, with its condition
    assert callable(again)
    assert [found["key"] for found in again(client, 10.0)] == [2]
    reading.close()
    preparing.close()


def resumed(operation: Operation[Any], call: Any) -> Operation[Any]:
    """Go on with an operation that has yielded a call."""
    while True:
        reply = yield call
        try:
            call = operation.send(reply)
        except StopIteration as end:
            return end.value


def test_a_search_goes_on_beside_a_backfill_that_begins(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(4)])
    mine = store(connection)
    connection.run(mine.prepare_codes())
    connection.run(mine.write_codes(list(range(4)), codes(4), np.full((4, 1), 0.5, np.float32)))
    for calls in range(1, 12):  # of the backfill, which looks for the sidecar anew, between two calls of a search
        searching, preparing = mine.search(np.ones((1, 2), np.float32), 4), mine.prepare_codes()
        call: Any = next(searching)
        with suppress(StopIteration):
            looking: Any = next(preparing)
            for _ in range(calls):
                looking = preparing.send(looking(client, 10.0))
        [found] = connection.run(resumed(searching, call))
        assert found.codes.current.all()
        preparing.close()


def test_an_invalid_expression_is_reported(client: MilvusClient, connection: Connection) -> None:
    make(client)
    with pytest.raises(InvalidInputError, match="refused"):
        connection.run(store(connection).count("year >>> 1"))


def test_small_collections_of_ours_are_searched_exactly(connection: Connection) -> None:
    """Milvus Lite's HNSW would leave out 6 to 11 of 60 points."""
    mine = store(connection)
    connection.run(mine.create(12, Metric.COSINE, "int"))
    vectors = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    for _ in range(5):  # 300 rows in all: enough for the search to flush them first
        connection.run(mine.upsert(Points(list(range(60)), vectors, [{}] * 60)))
    for vector in vectors[:5]:
        [found] = connection.run(mine.search(vector[None], 1000))
        assert sorted(found.ids) == list(range(60))


@pytest.mark.parametrize(("index", "params"), [("HNSW", {"M": 16, "efConstruction": 200}), ("IVF_FLAT", {"nlist": 64})])
def test_doctor_is_told_of_indexes_that_leave_points_out(
    client: MilvusClient, connection: Connection, index: str, params: dict[str, int]
) -> None:
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("embedding", index_type=index, metric_type="IP", params=params)
    client.create_collection("docs", schema=schema, index_params=indexes)
    statuses = {item.name: item.status for item in connection.run(store(connection).info()).capabilities}
    assert statuses["every point can be found"] == "fallback"
    assert statuses["codes"] == "works"
    assert statuses["factor filters in the database"] == "fallback"  # of a collection made by others


def test_a_sidecars_second_call_is_timed(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(4)])
    mine = store(connection)
    assert connection.run(mine.second_call([0, 1, 2, 3])) > 0  # what it would be
    assert connection.run(mine.coded()) is None
    connection.run(mine.prepare_codes())
    connection.run(mine.write_codes([0, 1, 2], codes(3), np.full((3, 1), 0.5, np.float32)))
    assert connection.run(mine.second_call([0, 1, 2, 3])) > 0
    assert connection.run(mine.coded()) == 3
    guarded = MilvusBackend().store(connection, "docs", mine.layout, "key >= 0")
    assert connection.run(guarded.coded()) is None  # a sidecar knows no guard


def test_a_guard_holds_behind_an_alias(client: MilvusClient, connection: Connection) -> None:
    make(client)
    client.insert("docs", [row(key, tenant="ab"[key % 2]) for key in range(6)])
    client.create_alias("docs", "current")
    mine = MilvusBackend().store(connection, "current", Layout("0a1b2c3d", 3, ("entity",)), {"tenant": "a"})
    assert connection.run(mine.fetch([0, 1, 2, 3])).ids == [0, 2]
    assert connection.run(mine.scroll(10)).points.ids == [0, 2, 4]
    connection.run(mine.delete([0, 1]))
    taken = Points([3], np.ones((1, 2), np.float32), [{"tenant": "a"}])
    with pytest.raises(InvalidInputError, match="outside the guard"):
        connection.run(mine.upsert(taken))
    client.flush("docs")
    assert sorted(found["key"] for found in client.query("docs", filter="key >= 0")) == [1, 2, 3, 4, 5]


def test_an_alias_that_moves_is_followed_with_the_codes_of_its_new_collection(
    client: MilvusClient, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client)
    client.insert("docs", [row(key) for key in range(3)])
    client.create_alias("docs", "current")
    mine = MilvusBackend().store(connection, "current", Layout("0a1b2c3d", 3, ("entity",)))
    connection.run(mine.prepare_codes())
    connection.run(mine.write_codes([0, 1], codes(2), np.zeros((2, 1), np.float32)))
    assert connection.run(store(connection).fetch([0, 1, 2])).codes.status.tolist() == [0, 0, 1]  # by its own name
    make(client, "newer")
    client.insert("newer", [row(key) for key in range(4)])
    client.alter_alias("newer", "current")
    monkeypatch.setattr(steps, "LOOK_AGAIN_S", 0.0)
    found = connection.run(mine.fetch([0, 1, 2, 3]))
    assert found.codes.status.tolist() == [CodeStatus.MISSING] * 4
    monkeypatch.undo()
    client.alter_alias("docs", "current")
    client.drop_collection("newer")
    assert connection.run(mine.count()) == 3  # at once, before it looks again
    client.drop_alias("current")
    client.drop_collection("docs")
    with pytest.raises(CollectionNotFoundError, match="'current'"):
        connection.run(mine.count())

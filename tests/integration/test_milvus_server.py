"""Facts that need a real Milvus server; the contract suite covers what every store promises."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from pymilvus import AsyncMilvusClient, DataType, MilvusClient

from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import StoreError, StoreTimeoutError, StoreUnavailableError, UnsupportedError
from imrnn_vdb.filters import factor
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb.urls import parse_url
from imrnn_vdb_milvus import MilvusBackend, steps
from imrnn_vdb_milvus.expressions import dynamic_key, is_one_of, literal
from imrnn_vdb_milvus.schema import Server
from imrnn_vdb_milvus.sidecar import sidecar_name
from imrnn_vdb_milvus.store import MilvusStore
from proxy import Proxy

pytestmark = pytest.mark.integration

DIM = 8
HOSTILE = [
    *('"', "'", "\\", '\\"', "\\\\", '" or id != "', "' or '1'=='1", "x] or id in [", "\n", "\r\n", "\t", "\x00"),
    *(
        "\x1f\x7f\x85",
        "\\u6f22",
        "\\x41",
        "\\n",
        "漢",
        '漢\\"',
        "漢\n",
        "🙂",
        "{v}",
        "%",
        "_",
        "$meta",
        "\u2028",
        "\ufeff",
    ),
]


@pytest.fixture(scope="module")
def uri(milvus_server_url: str) -> str:
    where = parse_url(f"{milvus_server_url}/any")
    return f"http://{where.host}:{where.port}"


@pytest.fixture(scope="module")
def client(uri: str) -> Iterator[MilvusClient]:
    made = MilvusClient(uri, dedicated=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def connection(milvus_server_url: str) -> Iterator[Connection]:
    made = connect(milvus_server_url)
    yield made
    made.close()


@pytest.fixture
def name(client: MilvusClient, request: pytest.FixtureRequest) -> Iterator[str]:
    made = f"it_{abs(hash(request.node.nodeid)) % 10**9}"
    yield made
    client.drop_collection(made)


def connect(base_url: str, asynchronous: bool = False, timeout: float = 60.0) -> Connection:
    url = parse_url(f"{base_url}/any")
    return MilvusBackend().connect(url, ConnectionOptions(timeout=timeout), asynchronous=asynchronous)


def layout(**changes: Any) -> Layout:
    return Layout(**{"space_id": "0a1b2c3d", "num_factors": 3, "factor_names": ("entity",), **changes})


def points(ids: list[Any], payloads: list[dict[str, Any]] | None = None, seed: int = 0) -> Points:
    vectors = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
    return Points(ids, vectors, payloads or [{"n": number} for number in range(len(ids))])


def codes(count: int) -> Codes:
    return Codes(np.full((count, 3), 0.25, np.float32), np.ones(count, np.float32), np.zeros(count, np.uint8))


def theirs(
    client: MilvusClient,
    name: str,
    metric: str = "COSINE",
    index: str = "HNSW",
    params: dict[str, Any] | None = None,
    **fields: dict[str, Any],
) -> None:
    """Make a collection as a team would have one: integer keys, a dynamic field, no field of ours."""
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("key", DataType.INT64, is_primary=True)
    for field, settings in fields.items():
        schema.add_field(field, **settings)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = MilvusClient.prepare_index_params()
    params = params or {"M": 16, "efConstruction": 200}
    indexes.add_index("embedding", index_type=index, metric_type=metric, params=params)
    client.create_collection(name, schema=schema, index_params=indexes)


def test_session_consistency_sees_own_writes(connection: Connection, name: str) -> None:
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE))
    for turn in range(10):
        connection.run(store.upsert(points([f"p{turn}"], [{"turn": turn}])))
        assert connection.run(store.count(f"turn == {turn}")) == 1
        connection.run(store.upsert(points([f"p{turn}"], [{"turn": -turn - 1}])))
        assert connection.run(store.fetch([f"p{turn}"])).payloads == [{"turn": -turn - 1}]
    for turn in range(5):
        connection.run(store.delete([f"p{turn}"]))  # 2.3 says of no deletion when it happened
        assert connection.run(store.fetch([f"p{turn}"])).ids == []
    assert connection.run(store.count()) == 5


async def test_session_consistency_sees_own_writes_async(milvus_server_url: str, uri: str, name: str) -> None:
    own = connect(milvus_server_url, asynchronous=True)
    vendor = AsyncMilvusClient(uri, dedicated=True)
    adopted = MilvusBackend().adopt(vendor, ConnectionOptions(timeout=60.0))
    assert adopted is not None
    store = MilvusStore(name, layout())
    await own.arun(store.create(DIM, Metric.COSINE))
    for turn in range(10):
        for connection in (own, adopted):
            await connection.arun(store.upsert(points([f"p{turn}"], [{"turn": turn}])))
            found = await connection.arun(store.search(points(["q"]).vectors, 5, f"turn == {turn}"))
            assert found[0].ids == [f"p{turn}"]
            await connection.arun(store.delete([f"p{turn}"]))
            assert await connection.arun(store.count()) == 0
    together = await asyncio.gather(*(own.arun(store.count()) for _ in range(20)))
    assert together == [0] * 20
    await own.aclose()
    await adopted.aclose()
    assert await vendor.has_collection(name)  # the caller's client stays open
    await vendor.close()


async def test_first_calls_that_come_together_connect_once(milvus_server_url: str, name: str) -> None:
    connection = connect(milvus_server_url, asynchronous=True)
    reply = await asyncio.gather(*(connection.arun(MilvusStore(name, layout()).drop()) for _ in range(10)))
    assert reply == [None] * 10
    await connection.aclose()


def test_the_server_reads_hostile_text_as_a_value(connection: Connection, client: MilvusClient, name: str) -> None:
    letters = random.Random(5)
    made = [
        "".join(letters.choices("ab\"'\\\n\r\t漢🙂é{}[]%_$\x00\x01u6 ", k=letters.randint(1, 12))) for _ in range(150)
    ]
    texts = list(dict.fromkeys([*HOSTILE, *made]))
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE))
    connection.run(store.upsert(points(texts, [{"value": text, f"key {text}": 1} for text in texts])))
    assert connection.run(store.fetch(texts[::-1])).ids == texts[::-1]

    def ids(expression: str) -> list[str]:
        reply = client.query(name, filter=expression, output_fields=["id"], timeout=10)
        return sorted(found["id"] for found in reply)

    for text in texts:
        assert ids(is_one_of("id", [text])) == ids(f"value == {literal(text)}") == [text]
        if "][" not in text and text.isprintable():  # dynamic_key refuses what the server cannot address
            assert ids(f"{dynamic_key(f'key {text}')} == 1") == [text]
    ordered = sorted(texts)
    for place in range(0, len(ordered), 10):
        assert ids(f"id > {literal(ordered[place])}") == ordered[place + 1 :]
    connection.run(store.delete(texts[::2]))
    assert connection.run(store.fetch(texts)).ids == texts[1::2]


def test_scroll_sees_every_point_once_across_segments(connection: Connection, client: MilvusClient, name: str) -> None:
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE, "int"))
    ids = random.Random(1).sample(range(10**6), 1500)
    for start in range(0, 1500, 500):
        connection.run(store.upsert(points(ids[start : start + 500])))
        client.flush(name)
    connection.run(store.upsert(points(ids[::7])))  # now some lie in another segment than before
    for limit in (97, 1500, 4000):
        seen: list[Any] = []
        cursor = None
        while True:
            page = connection.run(store.scroll(limit, cursor, with_vectors=True))
            assert len(page.points) <= limit
            seen += page.points.ids
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == sorted(ids)


def test_the_least_key_is_a_key(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name)
    keys = [-(2**63), -(2**63) + 1, 5]
    vectors = points(keys).vectors
    client.insert(name, [{"key": key, "embedding": vector} for key, vector in zip(keys, vectors, strict=True)])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes())
    connection.run(store.write_codes(keys, codes(3), np.full((3, 1), 0.5, np.float32)))
    seen, cursor = [], None
    while True:
        page = connection.run(store.scroll(1, cursor))
        seen += page.points.ids
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == keys
    assert connection.run(store.fetch(keys)).codes.current.all()
    assert connection.run(store.sweep(100)) == (0, None)
    connection.run(store.delete(keys[:1]))
    assert connection.run(store.fetch(keys)).ids == keys[1:]
    connection.run(store.drop())


def test_the_last_of_two_points_with_one_id_is_kept(connection: Connection, name: str) -> None:
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE))
    connection.run(store.upsert(points(["a", "a"], [{"n": 1}, {"n": 2}])))
    assert connection.run(store.fetch(["a"])).payloads == [{"n": 2}]
    assert connection.run(store.count()) == 1


def test_codes_in_a_collection_of_theirs(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name, title={"datatype": DataType.VARCHAR, "max_length": 50})
    vectors = points(list(range(6))).vectors
    rows = [{"key": n, "title": f"t{n}", "embedding": vectors[n], "color": "red", "deep": {"n": [n]}} for n in range(6)]
    client.insert(name, rows)
    store = MilvusStore(name, layout())
    scores = np.asarray([[0.1], [0.2], [0.9]], np.float32)
    connection.run(store.write_codes([0, 1, 2, 77], codes(4), np.vstack([scores, [[1]]]).astype(np.float32)))
    found = connection.run(store.fetch([5, 2, 0], with_vectors=True))
    np.testing.assert_array_equal(found.vectors, vectors[[5, 2, 0]])
    assert found.payloads == [{"title": f"t{n}", "color": "red", "deep": {"n": [n]}} for n in (5, 2, 0)]
    assert found.codes.status.tolist() == [1, 0, 0]
    assert connection.run(store.count(factor_filter=factor("entity") <= 0.2)) == 2
    assert connection.run(store.count(factor_filter=~(factor("entity") <= 0.2))) == 1  # none of those without scores
    assert connection.run(store.count("title == 't1' or title == 't2'", factor("entity") > 0.2)) == 1
    assert connection.run(store.count()) == 6


def test_more_factors_than_a_collection_has_fields(connection: Connection, client: MilvusClient, name: str) -> None:
    names = tuple(f"f{number}" for number in range(70))
    theirs(client, name)
    client.insert(name, [{"key": key, "embedding": row} for key, row in enumerate(points([0, 1]).vectors)])
    store = MilvusStore(name, layout(factor_names=names))
    connection.run(store.prepare_codes())
    scores = np.repeat(np.array([[0.25], [0.75]], np.float32), 70, axis=1)
    connection.run(store.write_codes([0, 1], codes(2), scores))
    np.testing.assert_array_equal(connection.run(store.fetch([0, 1])).factor_scores, scores)
    both = (factor("f0") > 0.5) & (factor("f69") > 0.5)
    [found] = connection.run(store.search(np.ones((1, DIM), np.float32), 2, factor_filter=both))
    assert found.ids == [1]
    connection.run(store.drop())


def test_rows_go_back_into_their_partitions(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name)
    client.create_partition(name, "old")
    client.load_collection(name)
    vectors = points(list(range(4))).vectors
    for partition, keys in (("_default", (0, 1)), ("old", (2, 3))):
        client.insert(name, [{"key": n, "embedding": vectors[n], "n": n} for n in keys], partition_name=partition)
    store = MilvusStore(name, layout())
    connection.run(store.write_codes([0, 2, 3], codes(3), np.full((3, 1), 0.5, np.float32)))
    for partition, keys in (("_default", [0, 1]), ("old", [2, 3])):
        reply = client.query(
            name, filter="key >= 0", output_fields=["n"], partition_names=[partition], consistency_level="Strong"
        )
        assert sorted(found["key"] for found in reply) == keys
    assert connection.run(store.fetch([0, 1, 2, 3])).codes.status.tolist() == [0, 1, 0, 0]
    with pytest.raises(UnsupportedError, match="partitions"):
        connection.run(store.upsert(points([2])))


def test_keys_that_have_several_rows_lose_none(connection: Connection, client: MilvusClient, name: str) -> None:
    """An insert adds a second row of a key, and an upsert would replace both: only a sidecar is safe."""
    theirs(client, name)
    vectors = points(list(range(30))).vectors
    client.insert(name, [{"key": n, "embedding": vectors[n], "n": 0} for n in range(30)])
    client.insert(name, [{"key": n, "embedding": vectors[n], "n": 1} for n in (3, 4, 5)])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes(in_place=True))
    with pytest.raises(StoreError, match="6 rows of 3 keys"):
        connection.run(store.write_codes([3, 4, 5], codes(3), np.full((3, 1), 0.5, np.float32)))
    connection.run(store.write_codes([0, 1], codes(2), np.full((2, 1), 0.5, np.float32)))
    assert connection.run(store.count()) == 33
    assert [connection.run(store.count(f"n == {n}")) for n in (0, 1)] == [30, 3]
    assert connection.run(store.fetch(list(range(30)))).ids == list(range(30))


def test_rows_that_expire_are_not_rewritten(connection: Connection, client: MilvusClient, name: str) -> None:
    """Milvus counts a row's life from its last write, so a rewritten row would outlive the others."""
    theirs(client, name)
    client.insert(name, [{"key": 1, "embedding": points([1]).vectors[0]}])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes(in_place=True))
    client.alter_collection_properties(name, {"collection.ttl.seconds": 3600})
    with pytest.raises(UnsupportedError, match="live for 3600 s"):
        connection.run(store.prepare_codes(in_place=True))
    capabilities = {found.name: found for found in connection.run(store.info()).capabilities}
    assert "live longer" in capabilities["writing codes of existing points"].why
    connection.run(store.prepare_codes())
    connection.run(store.write_codes([1], codes(1), np.full((1, 1), 0.5, np.float32)))
    assert connection.run(store.fetch([1])).codes.current.all()
    connection.run(store.drop())


def test_codes_of_a_partition_that_is_not_loaded_stay(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name)
    client.create_partition(name, "old")
    vectors = points([0, 1]).vectors
    client.insert(name, [{"key": 0, "embedding": vectors[0]}], partition_name="old")
    client.insert(name, [{"key": 1, "embedding": vectors[1]}])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes())
    connection.run(store.write_codes([0, 1], codes(2), np.zeros((2, 1), np.float32)))
    client.release_partitions(name, ["old"])
    assert connection.run(store.count()) == 1
    assert connection.run(store.sweep(100))[0] == 0
    client.load_partitions(name, ["old"])
    assert connection.run(store.fetch([0, 1])).codes.current.all()
    client.delete(name, filter="key == 0")
    connection.run(store.prepare_codes())  # which waits until that is seen
    assert connection.run(store.sweep(100))[0] == 1
    connection.run(store.drop())


def test_rows_are_rewritten_only_where_all_partitions_are_loaded(
    connection: Connection, client: MilvusClient, name: str
) -> None:
    theirs(client, name)
    client.create_partition(name, "old")
    for key, partition in enumerate(("_default", "old")):
        client.insert(name, [{"key": key, "embedding": points([key]).vectors[0]}], partition_name=partition)
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes(in_place=True))
    client.release_partitions(name, ["old"])
    with pytest.raises(UnsupportedError, match="not loaded"):
        connection.run(store.write_codes([0, 1], codes(2), np.zeros((2, 1), np.float32)))
    assert not connection.run(store.fetch([0])).codes.current.any()
    client.load_partitions(name, ["old"])
    connection.run(store.write_codes([0, 1], codes(2), np.zeros((2, 1), np.float32)))
    client.release_partitions(name, ["old"])
    with pytest.raises(UnsupportedError, match="not loaded"):
        connection.run(store.strip_codes("0a1b2c3d", 10, in_place=True))
    client.load_partitions(name, ["old"])
    assert connection.run(store.fetch([0, 1])).codes.current.all()


def test_filters_on_a_partition_key_find_what_was_written(
    connection: Connection, client: MilvusClient, name: str
) -> None:
    """Before 2.4 an upsert goes to a wrong partition, so that only a sidecar is safe."""
    tenant = {"datatype": DataType.VARCHAR, "max_length": 20, "is_partition_key": True}
    theirs(client, name, tenant=tenant)
    given = points(list(range(20)), [{"tenant": f"t{n}"} for n in range(20)])
    rows = zip(given.ids, given.vectors, given.payloads, strict=True)
    client.insert(name, [{"key": key, "embedding": vector, **payload} for key, vector, payload in rows])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes())
    if Server.parse(client.get_server_version()).at_least(2, 4):
        connection.run(store.upsert(given))
    else:
        with pytest.raises(UnsupportedError, match="wrong partitions"):
            connection.run(store.upsert(given))
        with pytest.raises(UnsupportedError, match="wrong partitions"):
            connection.run(MilvusStore(name, layout(space_id="11111111")).prepare_codes(in_place=True))
    connection.run(store.write_codes(given.ids, codes(20), np.full((20, 1), 0.5, np.float32)))
    assert [connection.run(store.count(f'tenant == "t{n}"')) for n in range(20)] == [1] * 20
    found = connection.run(store.fetch(given.ids))
    assert found.codes.current.all()
    assert found.payloads == given.payloads
    connection.run(store.drop())


def test_large_writes_are_split(connection: Connection, name: str) -> None:
    """80 MB, above the 64 MB that one request may have."""
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE))
    ids = [f"p{n}" for n in range(1600)]
    connection.run(store.upsert(points(ids, [{"text": "x" * 50_000}] * len(ids))))
    assert connection.run(store.count()) == 1600


def test_a_payload_beyond_the_limit_is_reported(connection: Connection, name: str) -> None:
    store = MilvusStore(name, layout())
    connection.run(store.create(DIM, Metric.COSINE))
    with pytest.raises(StoreError, match="65536"):
        connection.run(store.upsert(points(["a"], [{"text": "x" * 70_000}])))


def test_a_collection_that_is_not_loaded_says_so(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name)
    client.release_collection(name)
    with pytest.raises(StoreError, match="load_collection"):
        connection.run(MilvusStore(name, layout()).count())


def test_a_sidecar_older_than_its_collection_is_of_an_earlier_one(
    connection: Connection, client: MilvusClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nightly job drops the collection and makes it anew, with the same keys."""
    store, vectors = MilvusStore(name, layout()), points([0, 1]).vectors
    rows = [{"key": key, "embedding": vectors[key]} for key in (0, 1)]
    theirs(client, name)
    client.insert(name, rows)
    connection.run(store.prepare_codes())
    connection.run(store.write_codes([0, 1], codes(2), np.zeros((2, 1), np.float32)))
    assert connection.run(store.fetch([0, 1])).codes.current.all()
    client.drop_collection(name)
    theirs(client, name)
    client.insert(name, rows)
    monkeypatch.setattr(steps, "LOOK_AGAIN_S", 0.0)
    assert connection.run(store.fetch([0, 1])).codes.status.tolist() == [1, 1]
    assert not connection.run(store.prepare_codes())  # an empty sidecar, in place of that one
    connection.run(store.write_codes([0], codes(1), np.zeros((1, 1), np.float32)))
    assert connection.run(store.fetch([0, 1])).codes.status.tolist() == [0, 1]
    connection.run(store.drop())


def test_who_may_read_and_not_load_is_answered(
    connection: Connection, client: MilvusClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milvus 2.3.5 asks for the privilege Load before it says whether a collection is loaded (seen with users)."""

    class Denied(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.PERMISSION_DENIED

    def deny(*_: Any, **__: Any) -> None:
        raise Denied

    theirs(client, name)
    given = points([0, 1])
    client.insert(name, [{"key": key, "embedding": given.vectors[key]} for key in given.ids])
    store = MilvusStore(name, layout())
    connection.run(store.prepare_codes())
    connection.run(store.write_codes(given.ids, codes(2), np.zeros((2, 1), np.float32)))
    assert connection.run(store.fetch(given.ids)).codes.current.all()  # it is loaded
    monkeypatch.setattr(MilvusClient, "get_load_state", deny)
    reader = MilvusStore(name, layout())
    [found] = connection.run(reader.search(given.vectors[:1], 2))
    assert found.codes.current.all()
    client.release_collection(sidecar_name(name, "0a1b2c3d"))
    [found] = connection.run(reader.search(given.vectors[:1], 2))
    assert found.codes.status.tolist() == [CodeStatus.MISSING] * 2
    connection.run(store.drop())


def test_writes_reach_a_sidecar_that_is_not_loaded(connection: Connection, client: MilvusClient, name: str) -> None:
    """As after a restore, where only the collection itself was loaded again."""
    theirs(client, name)
    first = MilvusStore(name, layout())
    connection.run(first.prepare_codes())
    connection.run(first.upsert(replace(points([0, 1]), codes=codes(2), factor_scores=np.zeros((2, 1), np.float32))))
    assert connection.run(first.fetch([0, 1])).codes.current.all()
    beside = sidecar_name(name, first.layout.space_id)
    client.release_collection(beside)
    with pytest.raises(StoreError, match=f"{beside}.*load_collection"):
        connection.run(first.fetch([0]))
    [found] = connection.run(first.search(np.ones((1, DIM), np.float32), 2))  # the database's order, and no error
    assert found.codes.status.tolist() == [1, 1]
    second = MilvusStore(name, layout())
    assert connection.run(second.fetch([0, 1])).codes.status.tolist() == [1, 1]
    other = Codes(np.full((1, 3), 0.75, np.float32), np.ones(1, np.float32), np.zeros(1, np.uint8))
    connection.run(second.upsert(replace(points([0]), codes=other, factor_scores=np.zeros((1, 1), np.float32))))
    connection.run(second.delete([1]))
    [row] = client.query(name, filter="key == 0", output_fields=["$meta"], consistency_level="Strong")
    assert not [key for key in row if key.startswith("imrnn_")]
    client.load_collection(beside)
    found = connection.run(first.fetch([0, 1]))
    assert found.ids == [0]
    assert found.codes.directions.tolist() == [[0.75] * 3]
    connection.run(first.drop())


def test_a_collection_made_anew_with_another_metric_is_refused(
    connection: Connection, client: MilvusClient, name: str
) -> None:
    theirs(client, name)
    store, query = MilvusStore(name, layout()), points(["q"]).vectors
    assert len(connection.run(store.search(query, 3))) == 1
    client.drop_collection(name)
    theirs(client, name, metric="L2")
    client.insert(name, [{"key": 0, "embedding": query[0]}])
    connection.run(MilvusStore(name, layout()).fetch([0]))  # it is there
    with pytest.raises(StoreError, match="metric type not match"):
        connection.run(store.search(query, 3))


def test_cells_of_an_index_fill_a_window(connection: Connection, client: MilvusClient, name: str) -> None:
    theirs(client, name, index="IVF_FLAT", params={"nlist": 128})
    vectors = points(list(range(6_000))).vectors
    client.insert(name, [{"key": key, "embedding": vectors[key]} for key in range(6_000)])
    client.flush(name)
    deadline = time.monotonic() + 60
    while client.describe_index(name, "embedding").get("indexed_rows") != 6_000 and time.monotonic() < deadline:
        time.sleep(0.2)
    client.release_collection(name)
    client.load_collection(name)
    [found] = connection.run(MilvusStore(name, layout()).search(vectors[:1], 4_000))
    assert len(found) == 4_000
    [found] = connection.run(MilvusStore(name, layout()).search(vectors[:1], 100, "key % 100 == 7"))
    assert len(found) == 60  # of all cells, where those near the query hold too few


@pytest.fixture
def proxy(milvus_server_url: str) -> Iterator[Proxy]:
    where = parse_url(f"{milvus_server_url}/any")
    made = Proxy(where.host, where.port or 0)
    yield made
    made.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_server_that_goes_silent_or_away(connection: Connection, proxy: Proxy, name: str, asynchronous: bool) -> None:
    setup = MilvusStore(name, layout())
    connection.run(setup.create(DIM, Metric.COSINE))

    async def use() -> None:
        tested = connect(f"milvus://127.0.0.1:{proxy.port}", asynchronous, timeout=5.0)

        async def send(operation: Any) -> Any:
            return await tested.arun(operation) if asynchronous else await asyncio.to_thread(tested.run, operation)

        store = MilvusStore(name, layout())
        query = points(["q"]).vectors
        assert len(await send(store.search(query, 3))) == 1
        tested.timeout = 1.0
        proxy.mode = "hole"
        for operation in (store.search(query, 3), store.upsert(points(["a"])), store.delete(["a"]), store.scroll(3)):
            start = time.monotonic()
            with pytest.raises(StoreTimeoutError):
                await send(operation)
            assert time.monotonic() - start < 2
        proxy.mode = "open"
        tested.timeout = 10.0
        assert len(await send(store.search(query, 3))) == 1  # and it is there again
        proxy.close()
        tested.timeout = 2.0
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await send(store.search(query, 3))
        assert time.monotonic() - start < 4
        if asynchronous:
            await tested.aclose()
        else:
            tested.close()

    asyncio.run(use())

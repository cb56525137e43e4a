"""Requests to and faults of a Qdrant server, over a real gRPC connection (see ``qdrant_wire``)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from imrnn_vdb import IMRNNCollection
from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.codec import Codes
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import (
    InvalidInputError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from imrnn_vdb.extras import RECORD_KEY
from imrnn_vdb.filters import factor
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url
from imrnn_vdb_qdrant import QdrantBackend
from imrnn_vdb_qdrant.faults import RefusedArgumentError
from qdrant_wire import Fault, WireServer

LAYOUT = Layout("0a1b2c3d", 4, ("entity", "numeric"))
DIM, COUNT = 6, 10


@pytest.fixture
def wire() -> Iterator[WireServer]:
    server = WireServer()
    yield server
    server.close()


def connect(url: str, **options: Any) -> Connection:
    settings = ConnectionOptions(**{"timeout": 5.0, **options})
    return QdrantBackend().connect(parse_url(f"{url}/articles"), settings, asynchronous=False)


@pytest.fixture
def connection(wire: WireServer) -> Iterator[Connection]:
    made = connect(wire.url)
    yield made
    made.close()


def codes(count: int) -> Codes:
    return Codes(np.full((count, 4), 0.5, np.float32), np.ones(count, np.float32), np.zeros(count, np.uint8))


def points(rng: np.random.Generator, coded: bool = True, count: int = COUNT) -> Points:
    vectors = rng.normal(size=(count, DIM)).astype(np.float32)
    scores = np.full((count, 2), 0.5, np.float32) if coded else None
    return Points(list(range(count)), vectors, [{}] * count, codes(count) if coded else None, scores)


def store_of(connection: Connection, layout: Layout = LAYOUT) -> Store:
    return QdrantBackend().store(connection, "articles", layout)


@pytest.fixture
def store(connection: Connection, rng: np.random.Generator) -> Store:
    made = store_of(connection)
    connection.run(made.create(DIM, Metric.COSINE))
    connection.run(made.upsert(points(rng)))
    return made


def test_a_batch_is_one_request_for_what_is_needed(wire: WireServer, connection: Connection, store: Store) -> None:
    connection.run(store.search(np.ones((1, DIM), np.float32), 1))
    wire.requests.clear()
    connection.run(store.search(np.ones((5, DIM), np.float32), 3, factor_filter=factor("entity") >= 0.2))
    [(method, request)] = wire.requests
    assert (method, len(request.query_points)) == ("QueryBatch", 5)
    query = request.query_points[0]
    assert query.params.quantization.rescore
    assert list(query.with_payload.exclude.fields) == ["imrnn_factor_0a1b2c3d_entity", "imrnn_factor_0a1b2c3d_numeric"]
    assert not query.with_vectors.enable
    assert 1 <= request.timeout <= 5


def test_creating_indexes_factor_scores(wire: WireServer, connection: Connection, store: Store) -> None:
    assert wire.indexed["articles"] == {"imrnn_factor_0a1b2c3d_entity", "imrnn_factor_0a1b2c3d_numeric"}
    [works] = [item for item in connection.run(store.info()).capabilities if item.name == "factor pre-filters"]
    assert (works.status, works.why) == ("works", "factor scores are indexed")


def test_attaching_indexes_with_the_first_codes(
    wire: WireServer, connection: Connection, rng: np.random.Generator
) -> None:
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    wire.local.create_collection("articles", vectors_config=params)
    store = store_of(connection)
    given = points(rng, coded=False)
    connection.run(store.upsert(given))
    assert "articles" not in wire.indexed
    for _ in range(2):
        connection.run(store.write_codes(given.ids, codes(COUNT), np.full((COUNT, 2), 0.5, np.float32)))
    assert [request.field_name for request in wire.sent("CreateFieldIndex")] == [
        "imrnn_factor_0a1b2c3d_entity",
        "imrnn_factor_0a1b2c3d_numeric",
    ]
    assert all(request.wait for request in wire.sent("UpdateBatch"))


def test_points_without_the_base_vector_are_not_counted_as_lacking_a_code(
    wire: WireServer, connection: Connection, rng: np.random.Generator
) -> None:
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    wire.local.create_collection("articles", vectors_config={"text": params, "title": params})
    vectors = rng.normal(size=(6, DIM)).tolist()
    given = [models.PointStruct(id=n, vector={"text" if n < 4 else "title": vectors[n]}, payload={}) for n in range(6)]
    wire.local.upsert("articles", given)
    store = store_of(connection, replace(LAYOUT, vector_name="text"))
    for written, coded in ((3, 5), (4, 6)):
        connection.run(store.write_codes(list(range(written)), codes(written), np.full((written, 2), 0.5, np.float32)))
        assert connection.run(store.coded()) == coded


def test_dropping_an_alias_says_that_nothing_was_deleted(
    wire: WireServer, connection: Connection, store: Store
) -> None:
    alias = models.CreateAlias(collection_name="articles", alias_name="current")
    wire.local.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    other = QdrantBackend().store(connection, "current", LAYOUT)
    assert connection.run(other.count()) == COUNT
    with pytest.raises(StoreError, match="alias"):
        connection.run(other.drop())
    assert connection.run(store.count()) == COUNT


@pytest.mark.parametrize("strict", [True, False])
def test_a_search_writes_an_index_only_for_strict_mode(
    wire: WireServer, connection: Connection, store: Store, strict: bool
) -> None:
    wire.indexed.clear()
    if strict:
        wire.strict["articles"] = {}
    fresh = store_of(connection)
    connection.run(fresh.search(np.ones((1, DIM), np.float32), 3, factor_filter=factor("entity") >= 0.2))
    assert wire.indexed.get("articles", set()) == ({"imrnn_factor_0a1b2c3d_entity"} if strict else set())


def test_a_code_vector_is_added_beside_a_named_vector(
    wire: WireServer, connection: Connection, rng: np.random.Generator
) -> None:
    params = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    wire.local.create_collection("articles", vectors_config={"text": params})
    store = store_of(connection, Layout("0a1b2c3d", 4, (), code_storage="vector"))
    given = points(rng, coded=False)
    connection.run(store.upsert(given))
    connection.run(store.write_codes(given.ids, codes(COUNT), np.zeros((COUNT, 0), np.float32)))
    [request] = wire.sent("CreateVectorName")
    assert (request.vector_name, request.dense_config.size) == ("imrnn_code_0a1b2c3d", 3)
    [found] = connection.run(store.search(given.vectors[:1], COUNT))
    assert found.codes.current.all()
    np.testing.assert_array_equal(connection.run(store.fetch(given.ids, True)).vectors, given.vectors)


def test_a_point_deleted_under_a_write_does_not_stop_it(wire: WireServer, connection: Connection, store: Store) -> None:
    fault = Fault(grpc.StatusCode.NOT_FOUND, "Not found: No point with id 3 found")
    wire.faults["UpdateBatch"] = [fault]
    wire.requests.clear()
    connection.run(store.write_codes([2, 3], codes(2), np.full((2, 2), 0.9, np.float32)))
    assert [name for name, _ in wire.requests] == ["UpdateBatch", "Get", "UpdateBatch"]
    assert connection.run(store.count(factor_filter=factor("entity") >= 0.8)) == 2


def test_large_upserts_are_split_by_count(wire: WireServer, connection: Connection, store: Store, rng: Any) -> None:
    wire.requests.clear()
    connection.run(store.upsert(points(rng, count=1201)))
    assert [len(request.points) for request in wire.sent("Upsert")] == [500, 500, 201]
    assert all(request.wait for request in wire.sent("Upsert"))


def test_what_passes_by_itself_is_tried_again(wire: WireServer, connection: Connection, store: Store) -> None:
    wire.faults["Count"] = [Fault(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
    assert connection.run(store.count()) == COUNT
    wire.faults["Count"] = [Fault(grpc.StatusCode.UNAVAILABLE, "restarting")] * 9
    with pytest.raises(StoreUnavailableError, match=r"articles.*restarting"):
        connection.run(store.count())
    assert len(wire.faults["Count"]) == 5  # four attempts


def test_a_rate_limit_says_how_long_to_wait(wire: WireServer, store: Store) -> None:
    hasty = connect(wire.url, attempts=1)
    wire.faults["Count"] = [Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate limit", retry_after=7)]
    with pytest.raises(StoreUnavailableError, match="rate limit") as caught:
        hasty.run(store.count())
    assert caught.value.retry_after == 7.0
    hasty.close()


@pytest.mark.parametrize(
    ("code", "kind", "transient"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, StoreTimeoutError, True),
        (grpc.StatusCode.UNIMPLEMENTED, UnsupportedError, False),
        (grpc.StatusCode.UNAUTHENTICATED, StoreError, False),
        (grpc.StatusCode.PERMISSION_DENIED, StoreError, False),
        (grpc.StatusCode.INVALID_ARGUMENT, RefusedArgumentError, False),
        (grpc.StatusCode.INTERNAL, StoreError, False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_status_has_its_error(
    wire: WireServer, store: Store, code: Any, kind: type[StoreError], transient: bool
) -> None:
    key = "top-secret-key"
    hasty = connect(wire.url, attempts=1, api_key=key)  # a key for a server on this machine travels unencrypted
    wire.faults["Count"] = [Fault(code, "what the server said")]
    with pytest.raises(kind, match="articles") as caught:
        hasty.run(store.count())
    assert "what the server said" in str(caught.value)
    assert caught.value.transient is transient
    assert type(caught.value) is kind
    assert wire.metadata[-1]["api-key"] == key  # it was sent, and is shown nowhere
    assert key not in str(caught.value) + repr(hasty)
    hasty.close()


def test_a_key_that_no_header_can_carry_is_refused_unseen() -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect("qdrant://127.0.0.1:6334", api_key="secret\nkey")
    assert "secret" not in str(caught.value)


def test_a_write_that_is_only_accepted_is_no_success(connection: Connection, store: Store, rng: Any) -> None:
    from qdrant_client import grpc as pb

    import qdrant_wire

    original = qdrant_wire._done
    qdrant_wire._done = lambda: pb.UpdateResult(operation_id=1, status=pb.UpdateStatus.Acknowledged)
    try:
        with pytest.raises(StoreTimeoutError, match="did not finish"):
            connection.run(store.upsert(points(rng)))
    finally:
        qdrant_wire._done = original


@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_a_slow_answer_is_cut_at_the_timeout(wire: WireServer, store: Store, seconds: float) -> None:
    hasty = connect(wire.url, timeout=seconds)
    for method, operation in (("Count", store.count()), ("Upsert", store.upsert(points(np.random.default_rng(0))))):
        wire.faults[method] = [Fault(delay=seconds + 1)]
        started = time.monotonic()
        with pytest.raises(StoreTimeoutError, match="articles"):
            hasty.run(operation)
        assert seconds - 0.1 < time.monotonic() - started < seconds + 0.4
    hasty.close()


def _silent_port() -> socket.socket:
    """A port that accepts connections and never says a word."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("silent", [False, True], ids=["closed port", "silent port"])
def test_a_server_that_is_down_gives_our_error_within_the_timeout(asynchronous: bool, silent: bool) -> None:
    listener = _silent_port() if silent else None
    port = listener.getsockname()[1] if listener else _closed_port()
    url, options = parse_url(f"qdrant://127.0.0.1:{port}/articles"), ConnectionOptions(timeout=1.0)
    began = []  # once the client is made: its making is no part of the deadline

    def sync() -> None:
        made = QdrantBackend().connect(url, options, asynchronous=False)
        began.append(time.monotonic())
        try:
            made.run(store_of(made).search(np.ones((1, DIM), np.float32), 3))
        finally:
            made.close()

    async def unsync() -> None:
        made = QdrantBackend().connect(url, options, asynchronous=True)
        began.append(time.monotonic())
        try:
            await made.arun(store_of(made).search(np.ones((1, DIM), np.float32), 3))
        finally:
            await made.aclose()

    with pytest.raises((StoreUnavailableError, StoreTimeoutError), match="articles"):
        asyncio.run(unsync()) if asynchronous else sync()
    assert 1.5 > time.monotonic() - began[0] > (0.9 if silent else 0.0)
    if listener:
        listener.close()


def test_clients_of_the_caller_are_adopted_and_stay_open(wire: WireServer, store: Store) -> None:
    client = QdrantClient(host="127.0.0.1", grpc_port=wire.port, prefer_grpc=True, check_compatibility=False)
    adopted = QdrantBackend().adopt(client, ConnectionOptions())
    assert adopted is not None
    assert (adopted.owned, adopted.asynchronous) == (False, False)
    assert adopted.run(store_of(adopted).count()) == COUNT
    adopted.close()
    assert client.count("articles").count == COUNT
    client.close()
    assert QdrantBackend().adopt(object(), ConnectionOptions()) is None


async def test_async_clients_of_the_caller_are_adopted(wire: WireServer, connection: Connection, store: Store) -> None:
    client = AsyncQdrantClient(host="127.0.0.1", grpc_port=wire.port, prefer_grpc=True, check_compatibility=False)
    adopted = QdrantBackend().adopt(client, ConnectionOptions())
    assert adopted is not None
    assert (adopted.owned, adopted.asynchronous) == (False, True)
    found = await adopted.arun(store_of(adopted).search(np.ones((2, DIM), np.float32), 3))
    expected = connection.run(store.search(np.ones((2, DIM), np.float32), 3))
    assert [candidates.ids for candidates in found] == [candidates.ids for candidates in expected]
    await adopted.aclose()
    assert (await client.count("articles")).count == COUNT
    await client.close()


@pytest.mark.parametrize(
    ("host", "key", "tls", "encrypted"),
    [
        ("db.example", "k", None, True),
        ("db.example", "k", False, False),
        ("db.example", None, None, False),
        ("db.example", None, True, True),
        ("localhost", "k", None, False),
        ("localhost", "k", True, True),
    ],
)
def test_a_key_travels_encrypted_unless_the_server_is_here(
    host: str, key: str | None, tls: bool | None, encrypted: bool
) -> None:
    options = ConnectionOptions(api_key=key, tls=tls)
    assert options.encrypts(parse_url(f"qdrant://{host}:6334/c")) is encrypted
    assert "k'" not in repr(options)


def test_a_code_vector_is_verified_until_the_collection_is_green(
    wire: WireServer, connection: Connection, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    wire.local.create_collection("articles", vectors_config={"text": params})
    genuine, status = wire.local.get_collection, ["yellow"] * 2

    def describe(name: str) -> Any:
        info = genuine(name)
        info.status = models.CollectionStatus(
            status.pop() if status and len(info.config.params.vectors) > 1 else "green"
        )
        return info

    monkeypatch.setattr(wire.local, "get_collection", describe)
    store = store_of(connection, Layout("0a1b2c3d", 4))
    connection.run(store.add_code_vector())  # it asks again until the collection is green
    assert not status
    assert store.layout.code_storage == "vector"
    status += ["yellow"] * 99
    with pytest.raises(StoreUnavailableError, match="yellow while it takes on"):
        connection.run(store_of(connection, Layout("0a1b2c3d", 4)).add_code_vector())
    assert len(wire.sent("CreateVectorName")) == 1


def test_a_server_that_adds_no_vectors_says_so_and_nothing_changes(
    wire: WireServer, connection: Connection, store: Store
) -> None:
    wire.faults["CreateVectorName"] = [Fault(grpc.StatusCode.UNIMPLEMENTED, "unknown method")]
    with pytest.raises(UnsupportedError, match="does not know the request"):
        connection.run(store.add_code_vector())
    assert store.layout.code_storage == "payload"


def test_a_server_that_ignores_metadata_is_noticed(wire: WireServer, connection: Connection, store: Store) -> None:
    wire.local.update_collection("articles", metadata={"owner": "them", "n": 1})
    connection.run(store.write_record("ours"))
    assert connection.run(store.read_record()) == "ours"
    assert wire.local.get_collection("articles").config.metadata == {"owner": "them", "n": 1, RECORD_KEY: "ours"}
    wire.forgets_metadata = True
    with pytest.raises(UnsupportedError, match=r"1\.16"):
        connection.run(store.write_record("other"))


def test_strict_mode_is_told_limit_by_limit(wire: WireServer, connection: Connection, store: Store) -> None:
    wire.indexed.clear()
    wire.strict["articles"] = {
        "max_query_limit": 50,
        "max_timeout": 5,
        "search_max_batchsize": 8,
        "upsert_max_batchsize": 100,
        "search_allow_exact": False,
        "max_payload_index_count": 1,
        "write_rate_limit": 600,
    }
    info = connection.run(store.info())
    told = {one.name.removeprefix("strict mode: "): one for one in info.capabilities if "strict" in one.name}
    assert {name: one.status for name, one in told.items()} == {
        "candidates": "fallback",
        "deadlines": "works",
        "batches": "works",
        "upserts": "works",
        "exact requests": "fallback",
        "indexes": "no",
        "writes": "fallback",
    }
    assert "coarse_k" in told["candidates"].why
    assert "at most 5 s" in told["deadlines"].why
    assert "--rate" in told["writes"].why
    assert info.settings["strict mode"]["max_query_limit"] == 50
    assert info.settings["factor scores without a payload index"] == "2 of 2"


STRICT = {
    "max_query_limit": 30,
    "max_timeout": 2,
    "search_allow_exact": False,
    "upsert_max_batchsize": 40,
    "condition_max_size": 25,
}


@pytest.mark.parametrize("storage", ["payload", "vector"])
def test_requests_keep_within_strict_mode(
    wire: WireServer, connection: Connection, rng: np.random.Generator, storage: Any
) -> None:
    layout = Layout("0a1b2c3d", 4, ("entity", "numeric"), code_storage=storage)
    connection.run(store_of(connection, layout).create(DIM, Metric.COSINE))
    wire.strict["articles"] = STRICT
    given = points(rng, count=130)
    connection.run(store_of(connection, layout).upsert(replace(given, payloads=[{"tenant": "a"}] * 130)))
    wire.indexed["articles"].add("tenant")
    for guard in (None, {"tenant": "a"}):

        def fresh(guard: Any = guard) -> Store:  # knows nothing of the collection yet
            return QdrantBackend().store(connection, "articles", layout, guard)

        assert connection.run(fresh().info()).count == connection.run(fresh().count()) == 130
        assert len(connection.run(fresh().fetch(given.ids, with_vectors=True))) == 130
        connection.run(fresh().write_codes(given.ids, codes(130), np.full((130, 2), 0.5, np.float32)))
        [found] = connection.run(fresh().search(np.ones((1, DIM), np.float32), 30, factor_filter=factor("entity") > 0))
        assert len(found) == 30
        seen, cursor = 0, None
        while seen < 130:
            page = connection.run(fresh().scroll(1000, cursor, with_vectors=True))
            seen, cursor = seen + len(page.points), page.cursor
        assert (seen, cursor) == (130, None)
    stored = connection.run(fresh().fetch(given.ids, with_vectors=True)).vectors
    assert connection.run(fresh().changed(given.ids, stored)) == []
    connection.run(fresh().delete(given.ids[:60]))
    assert connection.run(fresh().count()) == 70


def test_windows_grow_within_strict_mode(wire: WireServer) -> None:
    params = models.VectorParams(size=384, distance=models.Distance.COSINE)
    wire.local.create_collection("articles", vectors_config=params)
    table = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
    wire.local.upsert("articles", [models.PointStruct(id=i, vector=row.tolist()) for i, row in enumerate(table)])
    wire.strict["articles"] = STRICT
    with IMRNNCollection.open(f"{wire.url}/articles", model="minilm") as articles:
        assert articles.backfill().written == 200
        found = articles.search(table[0], limit=5, coarse_k=10, factor_filter="match(temporal) >= 0.9")
        assert found.growth is not None
        assert found.growth.windows[-1] == 30


def test_a_refused_index_ends_a_backfill_at_once(
    wire: WireServer, connection: Connection, rng: np.random.Generator
) -> None:
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    wire.local.create_collection("articles", vectors_config=params)
    connection.run(store_of(connection).upsert(points(rng, coded=False)))
    wire.strict["articles"] = {"max_payload_index_count": 1}
    with pytest.raises(StoreError, match="payload index"):
        connection.run(store_of(connection).prepare_codes())


def test_what_is_no_filter_is_told_in_one_line(store: Store) -> None:
    for text in ("year == 2020", '{"must": [{"key": "a", "mach": 1}]}'):
        with pytest.raises(InvalidInputError, match=r"no Qdrant filter in JSON[^\n]*$") as caught:
            store.parse_filter(text)
        assert "pydantic" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="musst: Extra inputs"):
        store.parse_filter('{"musst": []}')


@pytest.mark.parametrize(
    ("details", "filtered", "expected"),
    [
        ('Bad request: Index required but not found for "year"', True, InvalidInputError),
        ('Bad request: Index required but not found for "year"', False, StoreError),
        ("Wrong input: Not existing vector name error: imrnn_0a1b2c3d", True, StoreError),
    ],
)
def test_what_is_refused_is_its_callers_fault_where_the_filter_is_its_callers(
    wire: WireServer,
    connection: Connection,
    store: Store,
    details: str,
    filtered: bool,
    expected: type[Exception],
) -> None:
    wire.faults["QueryBatch"] = [Fault(grpc.StatusCode.INVALID_ARGUMENT, details)]
    wanted = models.Filter(must=[models.FieldCondition(key="year", match=models.MatchValue(value=1))])
    with pytest.raises(expected, match="'articles'"):
        connection.run(store.search(np.ones((1, DIM), np.float32), 1, wanted if filtered else None))

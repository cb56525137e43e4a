"""Searches over the connection of pymilvus's client: the request it would send itself, and its own way where needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from pymilvus import AsyncMilvusClient, DataType, MilvusClient
from pymilvus.client import prepare, ts_utils
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from imrnn_vdb_milvus import direct
from imrnn_vdb_milvus.direct import method_of, search_by_column
from imrnn_vdb_milvus.hits import HitRows, Hits


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    made = MilvusClient(str(tmp_path_factory.mktemp("milvus") / "direct.db"))
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=20)
    schema.add_field("title", DataType.VARCHAR, max_length=100)
    schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=9)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=3)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="IP")
    made.create_collection("docs", schema=schema, index_params=indexes)
    rows = [{"key": f"k{i}", "title": f"t{i}", "tags": ["a"], "vector": [i, 1.0, 0.0], "n": i} for i in range(5)]
    made.upsert("docs", rows)
    yield made
    made.close()


def question(**changes: Any) -> dict[str, Any]:
    fixed = {
        "collection_name": "docs",
        "data": [np.array([1, 0, 0], np.float32), np.array([-1, 0, 0], np.float32)],
        "anns_field": "vector",
        "limit": 3,
        "filter": 'title != "t4"',
        "output_fields": ["title", "$meta"],
        "search_params": {"params": {"ef": 64}},
        "consistency_level": "Session",
    }
    return {**fixed, **changes}


def plain(hits: list[Hits]) -> list[Any]:
    return [(found.ids, found.distances, [*found.rows]) for found in hits]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"filter": "", "limit": 1, "search_params": {}},
        {"output_fields": [], "data": [np.array([0.5, 0.25, 0], np.float32)]},
    ],
)
def test_the_request_is_the_one_that_pymilvus_sends(
    client: MilvusClient, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    sent, search = [], client._handler._stub.Search

    def record(request: Any, **how: Any) -> Any:
        sent.append((request.SerializeToString(deterministic=True), [key for key, _ in how["metadata"]]))
        return search(request, **how)

    monkeypatch.setattr(client._handler._stub, "Search", record)
    for _ in range(2):  # both are copies of one
        search_by_column(client, timeout=5.0, **question(**changes))
    client.search(timeout=5.0, **question(**changes))
    assert sent[0] == sent[1] == sent[2]


def test_the_timestamp_is_that_of_the_last_write(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    search = client._handler._stub.Search

    def record(request: Any, **how: Any) -> Any:
        sent.append(request.guarantee_timestamp)
        return search(request, **how)

    monkeypatch.setattr(client._handler._stub, "Search", record)
    search_by_column(client, timeout=5.0, **question())
    ts_utils.update_ts_on_mutation("docs", client._handler.server_address)(SimpleNamespace(timestamp=7))  # as a server
    client.search(timeout=5.0, **question())
    search_by_column(client, timeout=5.0, **question())
    assert sent == [1, 7, 7]


def test_both_ways_find_the_same(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = search_by_column(client, timeout=5.0, **question())
    assert all(isinstance(found.rows, HitRows) for found in straight)  # pymilvus as installed is known
    assert [found.ids[0] for found in straight] == ["k3", "k0"]
    monkeypatch.setattr(direct, "_vendor", lambda: None)  # as another pymilvus
    assert plain(straight) == plain(search_by_column(client, timeout=5.0, **question()))


def test_fields_that_are_not_known_are_read_by_pymilvus(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(client), "search", None)
    found = search_by_column(client, timeout=5.0, **question(output_fields=["tags"]))
    assert [list(row["tags"]) for row in found[0].rows] == [["a"]] * 3


@pytest.mark.parametrize("changed", ["get_collection_ts", "search_requests_with_expr"])
def test_parts_of_another_pymilvus_are_not_used(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    home = ts_utils if changed == "get_collection_ts" else prepare.Prepare
    monkeypatch.setattr(home, changed, lambda collection: None)
    assert direct._Vendor.find() is None
    monkeypatch.delattr(home, changed)
    assert direct._Vendor.find() is None


def test_subclasses_keep_their_own_search() -> None:
    class Traced(MilvusClient):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def search(self, **how: Any) -> Any:  # type: ignore[override]
            return [] if how.keys() == {"timeout", *question()} else None

    assert method_of(Traced(), direct.SEARCH)(timeout=1.0, **question()) == []


class Failure(grpc.RpcError):
    pass


BUSY = milvus_pb2.SearchResults(status=common_pb2.Status(code=8, reason="rate limit"))


@pytest.mark.parametrize("answer", [Failure("unavailable"), BUSY])
def test_what_fails_is_left_to_pymilvus_with_the_time_that_remains(
    client: MilvusClient, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    def fail(_request: Any, **_how: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client._handler._stub, "Search", fail)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(type(client), "search", lambda _self, **how: asked.append(how) or [])
    assert search_by_column(client, timeout=5.0, **question()) == []
    assert 4.0 < asked[0].pop("timeout") <= 5.0
    assert asked[0].keys() == question().keys()


def test_past_the_deadline_nothing_is_sent_again(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_request: Any, *, timeout: float, **_how: Any) -> Any:
        time.sleep(timeout)
        raise Failure("deadline")

    monkeypatch.setattr(client._handler._stub, "Search", fail)
    monkeypatch.setattr(type(client), "search", None)
    with pytest.raises(Failure):
        search_by_column(client, timeout=0.05, **question())


def test_asynchronous_clients(client: MilvusClient, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plain(search_by_column(client, timeout=5.0, **question()))
    answers: list[Any] = []

    async def search(request: Any, **how: Any) -> Any:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return client._handler._stub.Search(request, **how)

    async def ordinary(_self: Any, **how: Any) -> Any:
        return client.search(**how)

    async def run() -> None:
        twin = AsyncMilvusClient(uri="http://localhost:1")
        monkeypatch.setattr(AsyncMilvusClient, "search", ordinary)
        assert plain(await search_by_column(twin, timeout=5.0, **question())) == expected  # not connected yet
        twin._handler = SimpleNamespace(_async_stub=SimpleNamespace(Search=search), server_address="x")
        for answer in (None, Failure("unavailable")):
            answers.append(answer)
            found = await search_by_column(twin, timeout=5.0, **question())
            assert plain(found) == expected
            assert isinstance(found[0].rows, HitRows) == (answer is None)
        twin._handler = None

    asyncio.run(run())
    assert not answers

"""The service over a real engine: what a client gets is what the collection returns; what is wrong gets its status."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from factory import DIM, make_model
from imrnn_vdb import IMRNNCollection, InvalidInputError, SpaceMismatchError, factor, match
from imrnn_vdb import filter_text as filters_as_text
from imrnn_vdb.codec import encode_texts
from imrnn_vdb.errors import (
    AuditError,
    CheckpointError,
    CollectionNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from imrnn_vdb.factors.topics import find_topics
from imrnn_vdb.filter_text import _parser
from imrnn_vdb.serving import AsyncServiceClient, ServiceClient, hosted, service
from imrnn_vdb.serving.config import TLS, CollectionConfig, Limits, ServiceConfig, Telemetry
from imrnn_vdb.serving.convert import query_message
from imrnn_vdb.serving.hosted import Registry, open_hosted
from imrnn_vdb.serving.probe import healthy
from imrnn_vdb.serving.proto import imrnn_vdb_pb2 as pb
from imrnn_vdb.serving.proto.imrnn_vdb_pb2_grpc import RetrievalStub
from imrnn_vdb.serving.server import Server, _reload
from imrnn_vdb.serving.status import details_of, error_of, name_of
from imrnn_vdb_milvus.faults import NotLoadedError
from servers import free_ports
from serving import running

POINTS, TOKEN = 60, "a-token-of-the-tests"
RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(POINTS, DIM)).astype(np.float32)
QUERIES = RNG.normal(size=(7, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, and a collection with points of all kinds of ids and payloads."""
    path = tmp_path_factory.mktemp("service")
    replace(make_model(), evidence={"fit": {"factors": {"entity": {"auc": 0.7}}}}).save_pretrained(path / "model")
    make_model(seed=1).save_pretrained(path / "other")
    with IMRNNCollection.create(f"qdrant+edge:{path}/articles", str(path / "model")) as made:
        ids = [row if row % 2 else f"doc-{row}" for row in range(POINTS)]
        payloads = [{"row": row, "big": 2**60 + row, "title": "ü <b>", "tags": ["a", None]} for row in range(POINTS)]
        made.upsert(ids, vectors=VECTORS, payloads=payloads)
    return path


def config_of(folder: Path, **changes) -> ServiceConfig:
    model = str(folder / "model")
    collections = {
        "articles": CollectionConfig(f"qdrant+edge:{folder}/articles", model=model),
        "model": CollectionConfig(model=model, metric="cosine"),
    }
    return ServiceConfig(**{"collections": collections, "listen": "127.0.0.1:0", **changes})


@pytest.fixture(scope="module")
def served(folder):
    (folder / "token").write_text(TOKEN)
    limits = Limits(slowdown=0.0, queries=50)
    with running(config_of(folder, token_file=str(folder / "token"), limits=limits)) as (server, _):
        yield server


@pytest.fixture
def client(served):
    with ServiceClient(f"127.0.0.1:{served.port}", token=TOKEN) as made:
        yield made


@pytest.fixture
def own(folder):
    with IMRNNCollection.open(f"qdrant+edge:{folder}/articles", str(folder / "model")) as collection:
        yield collection


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 3, "offset": 2, "explain": True, "steer": {"entity": 2.0}},
        {"factor_filter": (factor("entity") >= 0.2) & match("numeric").in_top(2), "plan": True, "explain": True},
        {"only": "entity", "coarse_k": 20, "max_coarse_k": 40, "limit": 5},
        {"modulate": False, "threshold": 0.0},
        {"passes": 2},
        {"trace": True, "steer": {"entity": 2.0}, "limit": 4},
    ],
)
def test_a_client_gets_what_the_collection_returns(client, own, options):
    for query in QUERIES[:2]:
        assert client.search("articles", query, **options) == own.search(query, **options)
    assert list(client.search_batch("articles", QUERIES, **options)) == own.search_batch(QUERIES, **options)


@pytest.fixture
def with_topics(folder, own, tmp_path):
    """A service whose configuration names topics, a client of it, and the topics."""
    texts = [f"alpha beta {row}" if row % 2 else f"gamma delta {row}" for row in range(POINTS)]
    codes = own.model.space.encode(VECTORS).directions
    found = find_topics(own.model.space, codes, texts, coarse=3, fine=2)
    named = found.renamed(found.topics[0].name, "entity")  # also the name of a factor
    named.save(tmp_path / "topics.json")
    where, topics = config_of(folder).collections, str(tmp_path / "topics.json")
    collections = {name: replace(table, topics=topics) for name, table in where.items()}
    served = running(config_of(folder, collections=collections))
    with served as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        yield client, named


def test_topics_are_those_that_the_configuration_names(with_topics, client, own):
    asked, topics = with_topics
    for query in QUERIES:
        assert asked.search("articles", query, topics=True) == own.search(query, topics=topics)
    found = own.search(QUERIES[0], topics=topics)
    assert found.topics
    assert "entity" not in found[0].explanation.of_topics  # a factor that was shipped stays what it is
    point = found[3].id
    explained = asked.explain("articles", QUERIES[0], point, topics=True)
    assert explained == own.explain(QUERIES[0], point, topics=topics)
    ranked = asked.rerank("model", QUERIES[0], [3], [0.5], vectors=VECTORS[3:4], topics=True)
    assert ranked.topics == found.topics
    assert not asked.search("articles", QUERIES[0], explain=True)[0].explanation.topics
    with pytest.raises(InvalidInputError, match="no topics: name their file"):
        client.search("articles", QUERIES[0], topics=True)
    with pytest.raises(InvalidInputError, match="cannot have"):
        client.search("articles", QUERIES[0], topics="topics.json")
    with pytest.raises(InvalidInputError, match="takes no trace"):
        client.rerank("model", QUERIES[0], [3], [0.5], trace=True)


def test_topics_of_another_space_are_found_at_the_start(folder, tmp_path):
    space, path = make_model(seed=1).space, tmp_path / "topics.json"
    find_topics(space, space.encode(VECTORS).directions, ["a text"] * POINTS, coarse=2).save(path)
    for name, table in config_of(folder).collections.items():
        with pytest.raises(SpaceMismatchError, match="these topics belong"):
            open_hosted(name, replace(table, topics=str(path)), None)


def test_explanations_factors_and_scores_of_given_candidates(client, own):
    found = own.search(QUERIES[0], limit=POINTS, explain=True)
    assert client.explain("articles", QUERIES[0], found[4].id) == own.explain(QUERIES[0], found[4].id)
    [described] = client.factors("articles")
    assert [one.name for one in described.factors] == list(own.model.space.names)
    np.testing.assert_array_equal([one.quantiles for one in described.factors], own.model.space.quantiles)
    assert {one.name: one.held_out_auc for one in described.factors if one.HasField("held_out_auc")} == {"entity": 0.7}
    assert [one.collection for one in client.factors()] == ["articles", "model"]
    by_base = sorted(found, key=lambda result: result.base_rank)
    ids, scores = [result.id for result in by_base], [result.base_score for result in by_base]
    rows = [result.payload["row"] for result in by_base]
    codes = [payload[key] for payload in own.payload_for(VECTORS[rows]) for key in payload if "code" in key]
    by_code = client.rerank("model", QUERIES[0], ids, scores, codes=codes, explain=True)
    by_vector = client.rerank("model", QUERIES[0], ids, scores, vectors=VECTORS[rows], limit=9)
    assert [result.id for result in by_code] == [result.id for result in found]
    np.testing.assert_allclose([r.score for r in by_code], [r.score for r in found], atol=1e-6)
    np.testing.assert_allclose([r.score for r in by_vector], [r.score for r in found[:9]], atol=1e-3)  # half floats
    texts = encode_texts(own.model.space.encode(VECTORS[rows]), own.model.space.space_id)
    assert client.rerank("model", QUERIES[0], ids, scores, codes=texts, explain=True) == by_code
    mixed = client.rerank(
        "model", QUERIES[0], ["a", 7, "b", 8], [0.5, 0.25, 0.2, 0.1], codes=[codes[0], None, texts[0], [1.0]]
    )
    assert mixed.unusable == {"missing": 1, "malformed": 1}
    with pytest.raises(InvalidInputError, match="the text or the vector that is stored"):
        client.rerank("model", QUERIES[0], ["a"], [0.5], codes=[{"code": 1}])


async def test_the_asynchronous_client_is_the_same(served, own):
    async with AsyncServiceClient(f"127.0.0.1:{served.port}", token=TOKEN) as client:
        found = await asyncio.gather(*[client.search("articles", query, limit=4) for query in QUERIES])
        for one, other in zip(found, [own.search(query, limit=4) for query in QUERIES], strict=True):
            assert [result.id for result in one] == [result.id for result in other]
            np.testing.assert_allclose([r.score for r in one], [r.score for r in other], atol=1e-6)  # batched sums
        streamed = [one async for one in client.search_batch("articles", QUERIES, limit=4)]
        assert streamed == own.search_batch(QUERIES, limit=4)
        assert await client.explain("articles", QUERIES[0], found[0][0].id) == own.explain(QUERIES[0], found[0][0].id)
        scored = await client.rerank("model", QUERIES[0], ["a"], [0.5], vectors=VECTORS[:1])
        assert len(scored) == 1
        assert len(await client.factors()) == 2
        with pytest.raises(SpaceMismatchError):
            await client.search("articles", [1.0, 2.0])
        await client.feedback("articles", found[0], {found[0][1].id: 1.0})


@pytest.mark.parametrize(
    ("call", "error", "status"),
    [
        (lambda c: c.search("nonesuch", QUERIES[0]), CollectionNotFoundError, "NOT_FOUND"),
        (lambda c: c.search("", QUERIES[0]), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0][:5]), SpaceMismatchError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", []), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0] * np.nan), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0] * 0), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", "a text, without an encoder"), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0], limit=0), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0], factor_filter="entity >"), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0], payload_filter="{}"), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("model", QUERIES[0]), UnsupportedError, "UNIMPLEMENTED"),
        (lambda c: c.explain("articles", QUERIES[0], "nonesuch"), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.rerank("model", QUERIES[0], ["a"], [0.5], coarse_k=9), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.rerank("model", QUERIES[0] * 0, ["a"], [0.5]), InvalidInputError, "INVALID_ARGUMENT"),
        (
            lambda c: c.search("articles", QUERIES[0], factor_filter="(" * 400_000),
            InvalidInputError,
            "INVALID_ARGUMENT",
        ),
        (lambda c: c.search("articles", QUERIES[0], factor_filter="é" * 8_000), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", QUERIES[0], only="😀" * 20_000), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: c.search("articles", "x" * 9_000_000), InvalidInputError, "RESOURCE_EXHAUSTED"),
        (lambda c: list(c.search_batch("articles", [QUERIES[0]] * 51)), InvalidInputError, "INVALID_ARGUMENT"),
        (lambda c: list(c.search_batch("articles", [QUERIES[0], "text"])), InvalidInputError, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_wrong_gets_its_status_and_its_own_error(client, call, error, status):
    with pytest.raises(error) as caught:
        call(client)
    assert caught.value.__cause__.code().name == status
    assert len(client.search("articles", QUERIES[0])) == 10


def test_a_wrong_token_an_expired_deadline_and_messages_that_are_none(served, client):
    target = f"127.0.0.1:{served.port}"
    for token in (None, "wrong", TOKEN + "x"):
        with ServiceClient(target, token=token) as stranger:
            with pytest.raises(StoreError, match="UNAUTHENTICATED"):
                stranger.search("articles", QUERIES[0])
            with pytest.raises(StoreError, match="UNAUTHENTICATED"):
                list(stranger.search_batch("articles", QUERIES))
    for _ in range(served.config.limits.workers):
        served._service._workers.submit(time.sleep, 0.5)
    with ServiceClient(target, token=TOKEN, timeout=0.1) as hurried, pytest.raises(StoreTimeoutError):
        hurried.search("articles", QUERIES[0])
    with grpc.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
        metadata = [("authorization", f"Bearer {TOKEN}")]
        raw = channel.unary_unary("/imrnn_vdb.v1.Retrieval/Search")
        for data, wanted in ((b"\xff" * 1000, "INVALID_ARGUMENT"), (b"x" * 100_000_000, "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.RpcError) as caught:
                raw(data, metadata=metadata, timeout=20)
            assert caught.value.code().name == wanted
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/imrnn_vdb.v1.Retrieval/Nonesuch")(b"", metadata=metadata, timeout=5)
        assert caught.value.code().name == "UNIMPLEMENTED"
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as garbage:
        garbage.sendall(b"\x00\xff not HTTP/2 at all \r\n\r\n" * 50)
    assert len(client.search("articles", QUERIES[0])) == 10


def test_request_ids_come_back_and_bad_ones_are_replaced(client):
    def answered(request_id):
        request = pb.FactorsRequest()
        metadata = (*client._metadata, ("x-request-id", request_id))
        _, call = client._stub.Factors.with_call(request, metadata=metadata, timeout=5)
        return dict(call.trailing_metadata())["x-request-id"]

    assert answered("my-request 7") == "my-request 7"
    for bad in ("", "x" * 129):
        assert len(answered(bad)) == 32


def test_health_and_reflection(served):
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for name in ("", "imrnn_vdb.v1.Retrieval"):
            found = check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        assert healthy(f"127.0.0.1:{served.port}")
        assert not healthy("127.0.0.1:1")
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as refused:
            list(reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5))
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        listing = reflect(asked, metadata=[("authorization", f"Bearer {TOKEN}")], timeout=5)
        names = {service.name for service in next(listing).list_services_response.service}
        assert "imrnn_vdb.v1.Retrieval" in names


async def test_what_is_replaced_is_closed_after_its_last_request_and_not_before(folder):
    configs = config_of(folder).collections
    registry = Registry()
    await registry.load(configs)
    with registry.use("articles") as former:
        await registry.load(configs)
        await asyncio.sleep(0.1)
        assert former.searched().count() == POINTS
    await asyncio.sleep(0.1)
    with pytest.raises(StoreError, match="was closed"):
        former.searched().count()
    await registry.close()


async def test_what_a_failed_load_had_opened_is_closed_and_the_culprit_named(folder, monkeypatch, caplog):
    opened = []

    def open_and_note(*args):
        opened.append(open_hosted(*args))
        return opened[-1]

    monkeypatch.setattr("imrnn_vdb.serving.hosted.open_hosted", open_and_note)
    configs = {**config_of(folder).collections, "z": CollectionConfig(model=str(folder / "none"), metric="dot")}
    with pytest.raises(CheckpointError):
        await Registry().load(configs)
    assert "[collections.z] cannot be served" in caplog.text
    with pytest.raises(StoreError, match="was closed"):
        opened[0].searched().count()


def test_a_reload_swaps_the_model_and_drops_no_request(folder):
    config = config_of(folder, limits=Limits(slowdown=0.0))
    former, other = (
        IMRNNCollection.open(f"qdrant+edge:{folder}/articles", str(folder / n)) for n in ("model", "other")
    )
    with running(config) as (server, run), ServiceClient(f"127.0.0.1:{server.port}") as client, former, other:
        seen: list[str] = []
        failed: list[BaseException] = []
        done = threading.Event()

        def ask() -> None:
            try:
                while not done.is_set():
                    seen.append(client.search("articles", QUERIES[0]).model_id)
            except BaseException as exc:
                failed.append(exc)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for name in ("other", "model", "other"):
            tables = {"articles": CollectionConfig(f"qdrant+edge:{folder}/articles", model=str(folder / name))}
            run(server.reload(config_of(folder, collections=tables)))
        broken = {"articles": CollectionConfig("qdrant+edge:/nonexistent/x", model=str(folder / "model"))}
        with pytest.raises(CollectionNotFoundError):
            run(server.reload(config_of(folder, collections=broken)))
        assert client.search("articles", QUERIES[0]).model_id == other.model.model_id, "a failed reload changes nothing"
        done.set()
        for thread in threads:
            thread.join()
        assert not failed
        assert set(seen) == {former.model.model_id, other.model.model_id}


def test_a_full_service_says_so(folder):
    with running(config_of(folder, limits=Limits(in_flight=1, slowdown=0.0))) as (server, _):
        server._service.admission.running = 1
        with ServiceClient(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(StoreUnavailableError, match="at its limit") as caught:
                client.search("articles", QUERIES[0])
            assert caught.value.__cause__.code().name == "RESOURCE_EXHAUSTED"
            with pytest.raises(StoreUnavailableError, match="at its limit"):  # before the candidates are looked at
                client.rerank("model", QUERIES[0], ["a"], [0.5], vectors=[[1.0]])
            with pytest.raises(StoreUnavailableError, match="at its limit"):  # and before the payload filter is read
                client.search("articles", QUERIES[0], payload_filter="no filter")
            with pytest.raises(StoreUnavailableError, match="at its limit"):  # the factor filter
                client.search("articles", QUERIES[0], factor_filter="no filter")
            with pytest.raises(StoreUnavailableError, match="at its limit"):  # the queries of a batch
                list(client.search_batch("articles", [[1.0]]))
            with pytest.raises(StoreUnavailableError, match="at its limit"):
                client._call(client._stub.Feedback, pb.FeedbackRequest(collection="articles"), None)
            server._service.admission.running = 0
            assert len(client.search("articles", QUERIES[0])) == 10


def test_long_payload_filters_are_read_off_the_loop_and_say_what_short_ones_say(folder, monkeypatch):
    seen: list[tuple[int, str]] = []
    read = IMRNNCollection.parse_filter

    def watched(self, text):
        seen.append((len(text), threading.current_thread().name))
        return read(self, text)

    monkeypatch.setattr(IMRNNCollection, "parse_filter", watched)
    rows = [1, 3, 5]
    texts = [filter_text(rows), filter_text(rows * 1000)]
    with running(config_of(folder)) as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        for text in texts:
            found = client.search("articles", QUERIES[0], payload_filter=text)
            assert sorted(result.id for result in found) == rows
            [streamed] = client.search_batch("articles", QUERIES[:1], payload_filter=text)
            assert [result.id for result in streamed] == [result.id for result in found]
            assert client.explain("articles", QUERIES[0], found[0].id, payload_filter=text).rank == 1
        with pytest.raises(InvalidInputError):
            client.search("articles", QUERIES[0], payload_filter=texts[1][:-1])
        assert server._service.admission.running == 0
    assert [length for length, _ in seen] == [*[len(texts[0])] * 3, *[len(texts[1])] * 3, len(texts[1]) - 1]
    assert [name.startswith("imrnn-search") for _, name in seen] == [False] * 3 + [True] * 4


def test_what_is_long_is_read_off_the_loop_and_what_is_short_on_it(folder, monkeypatch):
    seen: list[tuple[str, bool]] = []

    def watched(module, name: str, function) -> None:
        def wrapper(*args):
            seen.append((name, threading.current_thread().name.startswith("imrnn-search")))
            return function(*args)

        monkeypatch.setattr(module, name, wrapper)

    for name in ("read_candidates", "read_query", "Judgement"):
        watched(service, name, getattr(service, name))
    watched(filters_as_text, "parse_filter", filters_as_text.parse_filter)
    many = 300
    with running(config_of(folder)) as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:

        def threads(name: str, call) -> set[bool]:
            seen.clear()
            call()
            return {off for seen_name, off in seen if seen_name == name}

        def reranked(count: int):
            return lambda: client.rerank("model", QUERIES[0], range(count), [0.5] * count, limit=1)

        def noted(count: int):
            relevant = [pb.Judgement(rank=i + 1, base_rank=i + 1, gain=1) for i in range(count)]
            return lambda: client._stub.Feedback(pb.FeedbackRequest(collection="model", relevant=relevant))

        def filtered(count: int):
            text = " and ".join(["entity >= 0.0"] * count)
            return lambda: client.search("articles", QUERIES[0], factor_filter=text)

        for name, short, long in (
            ("read_candidates", reranked(10), reranked(many)),
            ("Judgement", noted(10), noted(many)),
            ("parse_filter", filtered(1), filtered(30)),
            (
                "read_query",
                lambda: list(client.search_batch("articles", QUERIES)),
                lambda: list(client.search_batch("articles", np.tile(QUERIES, (3, 1)))),
            ),
        ):
            assert threads(name, short) == {False}, name
            assert threads(name, long) == {True}, name
        filtered(1)()
        assert sum(name == "parse_filter" for name, _ in seen) == 1, "and once"


def test_the_first_request_finds_the_parser_of_factor_filters_built(folder):
    for name, table in config_of(folder).collections.items():
        _parser.cache_clear()
        open_hosted(name, table, None).close()
        assert _parser.cache_info().currsize == 1, name


def test_what_one_request_may_cost_is_bounded(folder):
    limits = Limits(slowdown=0.0, coarse_k=100, queries=5)
    with running(config_of(folder, limits=limits)) as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        for wrong in ({"limit": 101}, {"coarse_k": 101}, {"max_coarse_k": 4_000_000_000}):
            for call in (
                lambda wrong=wrong: client.search("articles", QUERIES[0], **wrong),
                lambda wrong=wrong: list(client.search_batch("articles", QUERIES[:2], **wrong)),
                lambda wrong=wrong: client.explain("articles", QUERIES[0], 1, **wrong),
            ):
                with pytest.raises(InvalidInputError, match="this service fetches at most 100 candidates"):
                    call()
        with pytest.raises(InvalidInputError, match="a Rerank has at most 100 candidates"):
            client.rerank("model", QUERIES[0], range(101), [0.5] * 101)
        relevant = [pb.Judgement(rank=i + 1, base_rank=i + 1, gain=1) for i in range(6)]
        with pytest.raises(grpc.RpcError) as caught:
            client._stub.Feedback(pb.FeedbackRequest(collection="articles", relevant=relevant))
        assert caught.value.details() == "a Feedback has at most 5 judgements"
        assert len(client.search("articles", QUERIES[0], limit=100, coarse_k=100, max_coarse_k=100)) == POINTS
        grown = {"factor_filter": match("entity").in_top(1), "plan": True}  # runs here, so that windows grow
        assert client.search("articles", QUERIES[0], coarse_k=10, **grown).plan.largest_window == 80
        assert client.search("articles", QUERIES[0], coarse_k=20, **grown).plan.largest_window == 100
        assert client.search("articles", QUERIES[0], coarse_k=20, max_coarse_k=30, **grown).plan.largest_window == 30


def test_tls_and_an_address_that_is_taken(folder, tmp_path):
    certificate, key = self_signed(tmp_path)
    config = config_of(folder, tls=TLS(str(certificate), str(key)))
    with running(config) as (server, _):
        with ServiceClient(f"localhost:{server.port}", ca=certificate) as client:
            assert len(client.search("articles", QUERIES[0])) == 10
        with ServiceClient(f"localhost:{server.port}", timeout=2) as plain, pytest.raises(StoreError):
            plain.search("articles", QUERIES[0])
        taken = config_of(folder, listen=f"127.0.0.1:{server.port}")
        with pytest.raises(StoreError, match="cannot be listened on"), running(taken):
            pass


async def test_a_service_that_wants_certificates_takes_those_of_client_and_probe(folder, tmp_path):
    for name in ("server", "client", "stranger"):
        (tmp_path / name).mkdir()
    server_pair, own, foreign = (self_signed(tmp_path / name) for name in ("server", "client", "stranger"))
    ca = str(server_pair[0])
    with running(config_of(folder, tls=TLS(*map(str, server_pair), client_ca=str(own[0])))) as (server, _):
        target = f"localhost:{server.port}"
        with ServiceClient(target, ca=ca, certificate=own[0], key=own[1]) as client:
            assert len(client.search("articles", QUERIES[0])) == 10
        async with AsyncServiceClient(target, ca=ca, certificate=own[0], key=own[1]) as asynchronous:
            assert len(await asynchronous.search("articles", QUERIES[0])) == 10
        for refused in ({}, {"certificate": foreign[0], "key": foreign[1]}):
            with ServiceClient(target, ca=ca, timeout=2, **refused) as client, pytest.raises(StoreError):
                client.search("articles", QUERIES[0])
        assert healthy(target, ca, *map(str, own))
        assert not healthy(target, ca)
        asked = [sys.executable, "-m", "imrnn_vdb.serving.probe", target, ca, *map(str, own)]
        assert subprocess.run(asked, timeout=60, check=False).returncode == 0


def test_a_tls_file_that_is_wrong_is_named(folder, tmp_path):
    (tmp_path / "other").mkdir()
    certificate, key = map(str, self_signed(tmp_path))
    _, foreign = map(str, self_signed(tmp_path / "other"))
    garbage, missing = tmp_path / "garbage.pem", str(tmp_path / "none.pem")
    garbage.write_text("no PEM")
    for pair, wrong in (
        ({"certificate": str(garbage), "key": key}, str(garbage)),
        ({"certificate": certificate, "key": str(garbage)}, str(garbage)),
        ({"certificate": certificate, "key": foreign}, foreign),
        ({"certificate": certificate, "key": missing}, missing),
    ):
        with (
            pytest.raises(InvalidInputError, match=rf"\[tls\]: .*{re.escape(wrong)}"),
            running(config_of(folder, tls=TLS(**pair))),
        ):
            pass
        with pytest.raises(InvalidInputError, match=re.escape(wrong)):
            ServiceClient("localhost:1", **pair)
    with (
        pytest.raises(InvalidInputError, match=r"\[tls\]: .*garbage.pem holds no certificates"),
        running(config_of(folder, tls=TLS(certificate, key, str(garbage)))),
    ):
        pass
    with pytest.raises(InvalidInputError, match=r"garbage.pem holds no certificates"):
        ServiceClient("localhost:1", ca=garbage)
    with pytest.raises(InvalidInputError, match="given together"):
        ServiceClient("localhost:1", certificate=certificate)
    encrypted = tmp_path / "encrypted.pem"
    subprocess.run(["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", key, "-out", encrypted], check=True)
    with pytest.raises(InvalidInputError, match=r"encrypted.pem are no certificate and its key"):
        ServiceClient("localhost:1", certificate=certificate, key=encrypted)


def test_a_token_travels_to_other_machines_only_encrypted():
    for target, options, encrypted in (
        ("prod.example:50061", {"token": TOKEN}, True),
        ("prod.example:50061", {"token": TOKEN, "tls": False}, False),
        ("prod.example:50061", {}, False),
        ("127.0.0.1.example:50061", {"token": TOKEN}, True),
        ("localhost:50061", {"token": TOKEN}, False),
        ("[::1]:50061", {"token": TOKEN}, False),
    ):
        with ServiceClient(target, **options) as client:
            assert (client._credentials is not None) == encrypted, target


def test_a_client_is_told_an_error_that_it_knows():
    assert name_of(SpaceMismatchError("x")) == "SpaceMismatchError"
    assert name_of(NotLoadedError("x")) == "StoreError"  # the class is Milvus's adapter's own


def test_what_the_service_lacks_is_no_missing_package_of_the_client():
    found = error_of(grpc.StatusCode.INTERNAL, "transformers is needed", "MissingExtraError")
    assert type(found) is StoreError


def test_an_errors_text_is_cut_so_that_it_arrives():
    assert details_of(InvalidInputError("ü" * 500)) == "ü" * 500
    assert details_of(InvalidInputError("x" * 20_000)) == "x" * 1000
    assert details_of(InvalidInputError("😀" * 20_000)) == "😀" * 500  # 6 kB on the way
    assert details_of(InvalidInputError("\ud800")) == "?"


async def test_a_batch_has_a_timeout_of_its_own(folder, monkeypatch):
    search = service._search

    def slow(*args):
        time.sleep(0.4)
        return search(*args)

    with running(config_of(folder, limits=Limits(slowdown=0.0, batch=2))) as (server, _):
        target = f"127.0.0.1:{server.port}"
        monkeypatch.setattr(service, "_search", slow)
        with ServiceClient(target, timeout=1.0) as client:
            found = []
            with pytest.raises(StoreTimeoutError):
                found.extend(client.search_batch("articles", QUERIES))
            assert len(found) < len(QUERIES)
            assert len(list(client.search_batch("articles", QUERIES, timeout=30.0))) == len(QUERIES)
        async with AsyncServiceClient(target, timeout=1.0) as client:
            found = [one async for one in client.search_batch("articles", QUERIES, timeout=30.0)]
            assert len(found) == len(QUERIES)


async def test_a_closed_client_says_so():
    with ServiceClient("localhost:1") as client:
        pass
    async with AsyncServiceClient("localhost:1") as asynchronous:
        pass
    with pytest.raises(StoreError, match="was closed"):
        client.search("articles", QUERIES[0])
    with pytest.raises(StoreError, match="was closed"):
        list(client.search_batch("articles", QUERIES))
    with pytest.raises(StoreError, match="was closed"):
        await asynchronous.search("articles", QUERIES[0])
    with pytest.raises(StoreError, match="was closed"):
        [one async for one in asynchronous.search_batch("articles", QUERIES)]


def test_what_cannot_be_sent_is_the_callers_fault(client):
    for token in ("secret\n", "sécret"):
        with pytest.raises(InvalidInputError, match="a token is printable ASCII") as caught:
            ServiceClient("localhost:1", token=token)
        assert "cret" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="a request id is printable ASCII"):
        client.search("articles", QUERIES[0], request_id="a\nb")
    with pytest.raises(InvalidInputError, match="no valid Unicode text"):
        client.search("articles", "\ud800")


def test_a_text_is_no_batch(client):
    with pytest.raises(InvalidInputError, match="takes a list of queries"):
        list(client.search_batch("articles", "abc"))


def test_what_a_table_says_of_the_connection_is_used(monkeypatch):
    class OpenedError(Exception):
        pass

    def opened(url, **options):
        raise OpenedError(options)

    monkeypatch.setattr(IMRNNCollection, "open", opened)
    monkeypatch.setenv("IMRNN_API_KEY", "of another database")
    monkeypatch.delenv("KEY_OF_B", raising=False)
    table = CollectionConfig(
        "qdrant://db/b", model="m", text_field="body", api_key_variable="KEY_OF_B", modulation_timeout=0.5
    )
    with pytest.raises(OpenedError) as caught:
        open_hosted("b", table, None)
    [options] = caught.value.args
    assert options["api_key"] == "", "no key, whatever IMRNN_API_KEY says"
    assert (options["model"], options["text_field"], options["modulation_timeout"]) == ("m", "body", 0.5)
    assert "vector_name" not in options
    monkeypatch.setenv("KEY_OF_B", "of b")
    with pytest.raises(OpenedError) as caught:
        open_hosted("b", table, None)
    assert caught.value.args[0]["api_key"] == "of b"


def test_metrics_have_the_configured_name_and_count_no_warm_up(folder):
    [port] = free_ports(1)
    model = str(folder / "model")
    tables = {"shop": CollectionConfig(f"qdrant+edge:{folder}/articles", model=model)}
    config = config_of(folder, collections=tables, telemetry=Telemetry(metrics=f"127.0.0.1:{port}"))
    with running(config) as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        found = client.search("shop", QUERIES[0])
        client.rerank("shop", QUERIES[0], ["a"], [0.5], vectors=VECTORS[:1])
        client.feedback("shop", found, {found[0].id: 1.0})
        metrics = server._instruments.metrics
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert {sample.labels["collection"] for sample in samples if "collection" in sample.labels} == {"shop"}
    counts = {s.labels["kind"]: s.value for s in samples if s.name == "imrnn_searches_total"}
    assert counts == {"search": 1, "rerank": 1}


@pytest.mark.parametrize("wrong", [QUERIES[0] * 0, " "])
async def test_a_query_that_cannot_be_answered_is_in_no_batch(folder, wrong):
    limits, telemetry = Limits(slowdown=0.0, batch_wait_ms=50.0), Telemetry(metrics=f"127.0.0.1:{free_ports(1)[0]}")
    with running(config_of(folder, limits=limits, telemetry=telemetry)) as (server, _):
        async with AsyncServiceClient(f"127.0.0.1:{server.port}") as client:
            queries = [*QUERIES, wrong, *QUERIES]
            found = await asyncio.gather(*(client.search("articles", q) for q in queries), return_exceptions=True)
            scored = [client.rerank("model", QUERIES[0], ["a"], [score]) for score in (0.5, 0.5, 0.5, math.nan)]
            found += await asyncio.gather(*scored, return_exceptions=True)
    assert [type(one) for one in found if isinstance(one, Exception)] == [InvalidInputError] * 2
    samples = [sample for family in server._instruments.metrics.registry.collect() for sample in family.samples]
    counts = {(s.labels["kind"], s.labels["code"]): s.value for s in samples if s.name == "imrnn_searches_total"}
    assert counts == {("search", "OK"): 14, ("rerank", "OK"): 3}


def test_metrics_tell_a_callers_deadline_from_a_caller_that_gave_up(folder):
    [port] = free_ports(1)
    config = config_of(folder, limits=Limits(workers=1), telemetry=Telemetry(metrics=f"127.0.0.1:{port}"))
    request = pb.SearchRequest(collection="articles", query=query_message(QUERIES[0]))
    with running(config) as (server, _), grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        go = threading.Event()
        server._service._workers.submit(go.wait, 30)
        for seconds, gives_up in ((0.2, False), (1.005, False), (None, True), (30.0, True)):  # 1.005 is told as 1.01
            call = RetrievalStub(channel).Search.future(request, timeout=seconds)
            while not server._service.admission.running:
                time.sleep(0.01)
            if gives_up:
                call.cancel()
            while server._service._calls:
                time.sleep(0.01)
        go.set()
        families = server._instruments.metrics.registry.collect()
    counts = {s.labels["code"]: s.value for f in families for s in f.samples if s.name == "imrnn_request_seconds_count"}
    assert counts == {"DEADLINE_EXCEEDED": 2, "CANCELLED": 2}


def test_metrics_listen_on_an_address_in_brackets(folder):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as held:
            port = held.getsockname()[1]
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    with running(config_of(folder, telemetry=Telemetry(metrics=f"[::1]:{port}"))):
        socket.create_connection(("::1", port), timeout=5).close()


def test_the_services_deadline_is_for_requests_that_have_none(folder):
    config = config_of(folder, limits=Limits(slowdown=0.0, deadline_s=0.2, workers=1))
    with running(config) as (server, _), ServiceClient(f"127.0.0.1:{server.port}", timeout=30.0) as client:
        server._service._workers.submit(time.sleep, 1.0)
        assert len(client.search("articles", QUERIES[0])) == 10
        server._service._workers.submit(time.sleep, 1.0)
        request = pb.SearchRequest(collection="articles", query=query_message(QUERIES[0]))
        with pytest.raises(grpc.RpcError) as caught:
            client._stub.Search(request)
        assert caught.value.code().name == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_stream_that_nobody_reads_gives_its_place_back(folder, timeout):
    config = config_of(folder, limits=Limits(slowdown=0.0, in_flight=1, deadline_s=1.0))
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]  # 64 KiB are read ahead, no more
    request = pb.SearchBatchRequest(
        collection="articles",
        queries=[query_message(query) for query in np.tile(QUERIES, (200, 1))],
        options=pb.SearchOptions(limit=POINTS, explain=True),
    )
    with running(config) as (server, _), grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        call, began = RetrievalStub(channel).SearchBatch(request, timeout=timeout), time.monotonic()
        assert len(next(call).response.results) == POINTS
        assert server._service.admission.running == 1
        while server._service.admission.running and time.monotonic() < began + 20:
            time.sleep(0.05)
        assert time.monotonic() - began < 10
        with ServiceClient(f"127.0.0.1:{server.port}") as other:
            assert len(other.search("articles", QUERIES[0])) == 10
        with pytest.raises(grpc.RpcError) as caught:  # what lies there is read, and then the end
            list(call)
        assert caught.value.code().name == "DEADLINE_EXCEEDED"
        assert "the service's own deadline" in caught.value.details()


def test_a_stream_that_its_client_leaves_ends_without_an_error(folder, caplog):
    queries = [query_message(query) for query in np.tile(QUERIES, (100, 1))]
    request = pb.SearchBatchRequest(collection="articles", queries=queries, options=pb.SearchOptions(limit=1))
    config = config_of(folder, limits=Limits(slowdown=0.0))
    with running(config) as (server, _), grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for _ in range(10):
            call = RetrievalStub(channel).SearchBatch(request, timeout=30)
            next(call)
            call.cancel()
        until = time.monotonic() + 20
        while server._service._calls and time.monotonic() < until:
            time.sleep(0.05)
        assert (server._service._calls, server._service.admission.running) == (0, 0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_stream_ends_with_the_services_deadline_though_it_is_read(folder):
    config = config_of(folder, limits=Limits(slowdown=0.0, deadline_s=0.5, batch=1))
    request = pb.SearchBatchRequest(collection="articles", queries=[query_message(query) for query in QUERIES])
    with running(config) as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        search = server._service._search_batch

        async def slow(ask, items):
            await asyncio.sleep(0.2)  # less than the deadline, each
            return await search(ask, items)

        server._service._search_batch = slow
        with pytest.raises(grpc.RpcError) as caught:
            list(client._stub.SearchBatch(request))
        assert caught.value.code().name == "DEADLINE_EXCEEDED"


def test_the_end_waits_for_what_runs_and_not_on_the_loop(folder):
    with running(config_of(folder, limits=Limits(workers=1))) as (server, run):
        going, go = threading.Event(), threading.Event()
        running_one = server._service._workers.submit(lambda: (going.set(), go.wait(30)))
        waiting = server._service._workers.submit(time.sleep, 0)
        assert going.wait(10)

        async def end() -> None:
            task = asyncio.get_running_loop().create_task(server._service.close())
            await asyncio.sleep(0.1)  # the loop is free
            assert not task.done()
            go.set()
            await task

        run(end())
        assert running_one.result()[1]
        assert waiting.cancelled(), "what did not begin never will"


def test_the_end_waits_for_a_search_and_not_for_a_health_watch(folder):
    config = config_of(folder, grace_s=20.0, limits=Limits(workers=1))
    with running(config) as (server, run), grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server._service._workers.submit(time.sleep, 2.0)
        request = pb.SearchRequest(collection="articles", query=query_message(QUERIES[0]))
        search = RetrievalStub(channel).Search.future(request, timeout=30)
        while not server._service.admission.running:
            time.sleep(0.01)
        began = time.monotonic()
        run(server.stop())
        assert time.monotonic() - began < 10, "of 20 s of grace"
        assert len(search.result().results) == 10
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_the_end_waits_no_longer_than_the_grace(folder):
    config = config_of(folder, grace_s=0.5, limits=Limits(workers=1))
    with running(config) as (server, run), grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        server._service._workers.submit(time.sleep, 4.0)
        request = pb.SearchRequest(collection="articles", query=query_message(QUERIES[0]))
        search = RetrievalStub(channel).Search.future(request, timeout=30)
        while not server._service.admission.running:
            time.sleep(0.01)
        began = time.monotonic()
        run(server._finish())
        assert time.monotonic() - began < 3.0
        assert search.code().name == "UNAVAILABLE"


def test_signals_are_heard_while_it_starts(folder, tmp_path):
    config, log = tmp_path / "service.toml", tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as silent, log.open("w") as output:  # a database that never answers
        url = f"qdrant://127.0.0.1:{silent.getsockname()[1]}/a"
        config.write_text(
            f'listen = "127.0.0.1:0"\n[collections.a]\nurl = "{url}"\nmodel = "{folder}/model"\ntimeout = 300\n'
        )
        command = [sys.executable, "-m", "imrnn_vdb", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stderr=output)

        def wait_for(text: str) -> None:
            until = time.monotonic() + 60
            while text not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)

        try:
            wait_for("starting with a")
            process.send_signal(signal.SIGHUP)
            wait_for("still starting")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
    assert "stopped before it was ready" in log.read_text()


async def test_what_opens_after_nobody_waits_any_more_is_closed(folder, monkeypatch):
    going, go, closed = threading.Event(), threading.Event(), threading.Event()

    def slow(name, *others):
        going.set()
        assert go.wait(30)
        made = open_hosted(name, *others)
        close = type(made).close
        monkeypatch.setattr(type(made), "close", lambda self: (close(self), closed.set()))
        return made

    monkeypatch.setattr(hosted, "open_hosted", slow)
    starting = asyncio.create_task(Server.start(config_of(folder)))
    assert await asyncio.to_thread(going.wait, 30)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go.set()
    assert await asyncio.to_thread(closed.wait, 30)


def test_what_a_caller_sent_is_told_to_the_caller_and_not_to_the_log(client, caplog):
    private = "jane.doe@example.org"
    wrong = json.dumps({"must": [{"key": "email", "match": {"value": private}, "colour": 1}]})
    for level, told in (("INFO", False), ("DEBUG", True)):
        caplog.clear()
        with caplog.at_level(level, "imrnn_vdb"):
            for options in ({"payload_filter": wrong}, {"factor_filter": f'"{private}" >= 0'}, {"only": private}):
                with pytest.raises(InvalidInputError, match=re.escape(private)):
                    client.search("articles", QUERIES[0], **options)
        lines = [record.getMessage() for record in caplog.records if record.name == "imrnn_vdb.serving"]
        assert "Search: InvalidInputError" in lines
        assert (private in caplog.text) == told


async def test_a_reload_that_fails_for_any_reason_is_told(tmp_path, caplog):
    class Broken:
        async def reload(self, config) -> None:
            raise RuntimeError("a surprise")

    path = tmp_path / "service.toml"
    path.write_text('[collections.a]\nmetric = "dot"\n')
    await _reload(Broken(), path)
    [record] = caplog.records
    assert "what was served still is: a surprise" in record.getMessage()
    assert record.exc_info


def filter_text(rows: list[int]) -> str:
    return json.dumps({"must": [{"key": "row", "match": {"any": rows}}]})


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"openssl cannot make a certificate here: {exc}")
    return certificate, key


def test_searches_are_recorded_where_the_configuration_names_a_log(folder, own, tmp_path, caplog):
    log, broken = tmp_path / "audit.jsonl", tmp_path / "gone" / "audit.jsonl"
    broken.parent.mkdir()
    where = {"url": f"qdrant+edge:{folder}/articles", "model": str(folder / "model")}
    collections = {
        "kept": CollectionConfig(**where, audit=str(log)),
        "broken": CollectionConfig(**where, audit=str(broken)),
    }
    served = running(config_of(folder, collections=collections))
    with served as (server, _), ServiceClient(f"127.0.0.1:{server.port}") as client:
        found = client.search("kept", QUERIES[0], limit=3)
        client.explain("kept", QUERIES[1], found[0].id)
        list(client.search_batch("kept", QUERIES[2:4], limit=2))
        broken.unlink()
        broken.parent.rmdir()
        with pytest.raises(AuditError, match="not answered") as failure:
            client.search("broken", QUERIES[0])
    assert str(tmp_path) not in str(failure.value)
    assert str(broken) in caplog.text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 4, "and none of the warm-up"
    assert [result["id"] for result in lines[0]["results"]] == [result.id for result in found]
    assert own.verify_audit(log).holds


def test_a_log_that_cannot_be_written_stops_start_and_reload(folder, tmp_path):
    where = {"url": f"qdrant+edge:{folder}/articles", "model": str(folder / "model")}
    open_to_all = tmp_path / "shared.jsonl"
    open_to_all.touch(0o644)
    for log in (tmp_path / "none" / "audit.jsonl", open_to_all, tmp_path):
        wrong = config_of(folder, collections={"articles": CollectionConfig(**where, audit=str(log))})
        with pytest.raises(InvalidInputError, match=r"the audit log .* cannot be written: "), running(wrong):
            pass
        with running(config_of(folder)) as (server, run), ServiceClient(f"127.0.0.1:{server.port}") as client:
            with pytest.raises(InvalidInputError, match="cannot be written"):
                run(server.reload(wrong))
            assert len(client.search("articles", QUERIES[0])) == 10

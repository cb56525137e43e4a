"""Observers: told of each search and never in its way; what metrics, spans and logs say."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from factory import DIM, SlowModulator, make_model, make_space
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, InvalidInputError, SpaceMismatchError, errors
from imrnn_vdb.errors import IMRNNError, StoreError, StoreUnavailableError
from imrnn_vdb.observability import Background, Judgement, Observers, OpenTelemetryTracing, PrometheusMetrics
from imrnn_vdb.observability.codes import CODES, code_of
from imrnn_vdb.observability.drift import FactorDrift
from imrnn_vdb.observability.feedback import judgements, quality
from imrnn_vdb.observability.logs import REQUEST_IDS, JSONFormatter, TextFormatter
from imrnn_vdb.observability.metrics import reason_label
from imrnn_vdb.observability.observer import CALLERS, Caller, Observation, observing
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.serving.admission import OverloadedError
from imrnn_vdb.serving.config import Telemetry
from imrnn_vdb.serving.instruments import Instruments
from imrnn_vdb.serving.status import status_of

POINTS = 30
DASHBOARD = json.loads((Path(__file__).parents[2] / "docker/grafana/dashboards/imrnn_vdb.json").read_text())
QUERIES = np.random.default_rng(2).normal(size=(3, DIM)).astype(np.float32)


class Recorder:
    def __init__(self) -> None:
        self.seen = []

    def searched(self, observation) -> None:
        self.seen.append(observation)


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    url = f"qdrant+edge:{tmp_path_factory.mktemp('observed')}/articles"
    with IMRNNCollection.create(url, make_model()) as made:
        vectors = np.random.default_rng(1).normal(size=(POINTS, DIM)).astype(np.float32)
        made.upsert(range(POINTS), vectors=vectors, payloads=[{"secret": "payload"}] * POINTS)
    return url


def opened(url: str, observer, **model):
    return IMRNNCollection.open(url, make_model(**model), observer=observer)


@pytest.fixture
def spans():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter.get_finished_spans


def values(metrics: PrometheusMetrics) -> dict[tuple, float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


async def test_both_facades_tell_of_each_search(url):
    observer = Recorder()
    with opened(url, observer) as collection:
        found = collection.search_batch(QUERIES, limit=4)
        with pytest.raises(SpaceMismatchError):
            collection.search(QUERIES[0][:3])
    async with await AsyncIMRNNCollection.open(url, make_model(), observer=observer) as twin:
        await twin.search(QUERIES[0])
    first, failed, third = observer.seen
    assert first.responses == found
    assert (first.kind, first.collection, first.request.limit, first.error) == ("search", "articles", 4, None)
    assert 0 < first.seconds < 60
    assert isinstance(failed.error, SpaceMismatchError)
    assert len(third.responses) == 1


async def test_both_facades_tell_of_each_reranking(url, spans):
    provider, finished = spans
    observer = Recorder()
    both = Observers((observer, OpenTelemetryTracing(provider)))
    with opened(url, both) as collection:
        found = collection.rerank(QUERIES[0], iter(range(5)), limit=3)
        with pytest.raises(SpaceMismatchError):
            collection.rerank(QUERIES[0][:3], range(5))
        with pytest.raises(InvalidInputError, match="point ids come as a list"):
            collection.rerank(QUERIES[0], "123")
    async with await AsyncIMRNNCollection.open(url, make_model(), observer=both) as twin:
        assert (await twin.rerank(QUERIES[0], iter(range(5)), limit=3)).results == found.results
        await twin.rerank(QUERIES[0], [])
        with pytest.raises(InvalidInputError, match="point ids come as a list"):
            await twin.rerank(QUERIES[0], "123")
    assert [seen.kind for seen in observer.seen] == ["rerank"] * 4
    first, failed, third, empty = observer.seen
    assert first.responses == [found]
    assert (first.collection, first.request.limit, len(first.queries), first.error) == ("articles", 3, 1, None)
    assert isinstance(failed.error, SpaceMismatchError)
    assert (third.responses[0].results, empty.responses[0].results) == (found.results, ())
    told = [span for span in finished() if span.name == "imrnn_vdb.rerank"]
    assert len(told) == 4
    assert told[0].attributes["reranker.top_k"] == 3


def test_an_observer_that_fails_does_not_fail_the_search(url, caplog):
    class Broken:
        def searched(self, observation) -> None:
            raise RuntimeError("broken")

    recorder = Recorder()
    with opened(url, Observers((Broken(), recorder))) as collection:
        assert len(collection.search(QUERIES[0])) == 10
    assert "an observer failed: broken" in caplog.text
    assert len(recorder.seen) == 1


def test_in_the_background_everything_is_told_in_its_own_context_and_nothing_waits(url, spans):
    provider, finished = spans
    recorder = Recorder()
    behind = Background(Observers((recorder, OpenTelemetryTracing(provider))))
    with opened(url, behind) as collection, provider.get_tracer("test").start_as_current_span("outer") as outer:
        for query in QUERIES:
            collection.search(query)
    behind.close()
    assert len(recorder.seen) == len(QUERIES)
    searches = [span for span in finished() if span.name == "imrnn_vdb.search"]
    assert {span.parent.span_id for span in searches} == {outer.get_span_context().span_id}


def test_in_the_background_what_is_too_much_is_dropped_and_counted(url, caplog):
    begun, go = threading.Event(), threading.Event()

    class Slow:
        def searched(self, observation) -> None:
            begun.set()
            go.wait(10)

    behind = Background(Slow(), capacity=1)
    with opened(url, behind) as collection:
        collection.search(QUERIES[0])
        assert begun.wait(10)
        for _ in range(3):
            collection.search(QUERIES[0])
    assert behind.dropped == 2
    assert "some are dropped" in caplog.text
    go.set()
    behind.close()


def test_what_is_dropped_is_told_to_those_who_count_it(url, caplog):
    begun, go = threading.Event(), threading.Event()

    class Slow:
        def searched(self, observation) -> None:
            begun.set()
            go.wait(10)

        def lost(self) -> None:
            raise RuntimeError("broken")

    metrics = PrometheusMetrics()
    assert values(metrics)[("imrnn_observations_dropped_total",)] == 0
    behind = Background(Observers((Slow(), Recorder(), metrics)), capacity=1)
    with opened(url, behind) as collection:
        collection.search(QUERIES[0])
        assert begun.wait(10)
        for _ in range(3):
            assert len(collection.search(QUERIES[0])) == 10
    assert values(metrics)[("imrnn_observations_dropped_total",)] == behind.dropped == 2
    assert "an observer failed: broken" in caplog.text
    go.set()
    behind.close()


def test_times_are_a_monotonic_clocks(url, monkeypatch):
    """A wall clock that is set back while a search runs makes nothing negative."""
    observer, clock = Recorder(), iter(range(10**18, 0, -(10**12)))
    with opened(url, observer) as collection:
        monkeypatch.setattr(time, "time_ns", lambda: next(clock))
        collection.search(QUERIES[0])
    [seen] = observer.seen
    assert seen.began > 10**17
    assert 0 < seen.seconds < 60


TOLD_AS = {
    "InvalidInputError": "INVALID_ARGUMENT",
    "SpaceMismatchError": "INVALID_ARGUMENT",
    "CollectionNotFoundError": "NOT_FOUND",
    "UnsupportedError": "UNIMPLEMENTED",
    "StoreTimeoutError": "DEADLINE_EXCEEDED",
    "StoreUnavailableError": "UNAVAILABLE",
}
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IMRNNError)]


@pytest.mark.parametrize("kind", [*ERRORS, GeneratorExit, OSError])
def test_codes_are_few_and_those_that_the_service_answers_with(kind):
    error = kind.__new__(kind)
    code = code_of(error)
    assert code in CODES
    assert grpc.StatusCode[code]
    if isinstance(error, IMRNNError):
        assert code == status_of(error).name == TOLD_AS.get(kind.__name__, "INTERNAL")


def test_outcomes_of_requests_can_be_told_apart():
    metrics = PrometheusMetrics()
    watched = Instruments(metrics=metrics)
    expected = {
        "OK": None,
        "RESOURCE_EXHAUSTED": OverloadedError(),
        "INVALID_ARGUMENT": InvalidInputError("a"),
        "DEADLINE_EXCEEDED": asyncio.TimeoutError(),
        "CANCELLED": asyncio.CancelledError(),
        "UNAVAILABLE": StoreUnavailableError("a"),
        "INTERNAL": ZeroDivisionError(),
    }
    for error in expected.values():
        with suppress(BaseException), watched.request("Search", "r", {}, lambda: None):
            if error is not None:
                raise error
    found = values(metrics)
    for code in expected:
        assert found[("imrnn_request_seconds_count", *sorted((code, "Search")))] == 1


def test_the_process_itself_is_measured_where_that_is_asked_for():
    def names(metrics: PrometheusMetrics) -> set[str]:
        return {family.name.partition("_")[0] for family in metrics.registry.collect()}

    assert names(PrometheusMetrics()) == {"imrnn"}
    assert names(PrometheusMetrics(process=True)) == {"imrnn", "process", "python"}
    served = Instruments.from_config(Telemetry(metrics="127.0.0.1:0"))
    served.close()
    assert names(served.metrics) == {"imrnn", "process", "python"}


def test_metrics_of_searches(url):
    metrics = PrometheusMetrics()
    with opened(url, metrics) as collection:
        responses = collection.search_batch(QUERIES)
        collection.search(QUERIES[0], modulate=False)
        with pytest.raises(InvalidInputError):
            collection.search(QUERIES[0] * 0)
    found = values(metrics)
    assert found["imrnn_searches_total", "OK", "articles", "modulated", "search"] == 3
    assert found["imrnn_searches_total", "OK", "articles", "fallback", "search"] == 1
    assert found["imrnn_searches_total", "INVALID_ARGUMENT", "articles", "error", "search"] == 1
    assert found["imrnn_fallbacks_total", "articles", "not switched on"] == 1
    assert found["imrnn_candidate_codes_total", "articles", "current"] == 4 * POINTS
    assert found["imrnn_candidates_sum", "articles"] == 4 * POINTS
    for stage in ("encode", "database", "modulate", "total"):
        assert found["imrnn_stage_seconds_count", "articles", stage] == 2
    moved = sum(abs(result.rank - result.base_rank) for response in responses for result in response)
    assert found["imrnn_rank_movement_sum", "articles"] == moved > 0
    assert found["imrnn_first_changed_total", "articles"] == sum(response[0].base_rank != 1 for response in responses)
    factors = [result.factors["entity"] for response in [*responses, responses[0]] for result in response]
    assert found["imrnn_factor_mean", "articles", "entity"] == pytest.approx(np.mean(factors), abs=0.1)
    assert found["imrnn_factor_drift", "articles", "entity"] >= 0


def test_points_without_a_code_are_counted(url, tmp_path):
    metrics = PrometheusMetrics()
    with IMRNNCollection.create(
        f"qdrant+edge:{tmp_path}/other", make_model(), code_storage="payload", observer=metrics
    ) as collection:
        collection.upsert(range(5), vectors=QUERIES[[0, 1, 2, 0, 1]])
        with IMRNNCollection.open(f"qdrant+edge:{tmp_path}/other", make_model(seed=9), observer=metrics) as foreign:
            foreign.search(QUERIES[0])
    assert values(metrics)["imrnn_candidate_codes_total", "other", "other_space"] == 5


def test_a_modulation_that_was_not_waited_for_counts_as_a_timeout(url):
    metrics, model, slow = PrometheusMetrics(), make_model(), SlowModulator()
    vars(model)["modulate"] = slow
    with IMRNNCollection.open(url, model, observer=metrics, modulation_timeout=0.05) as collection:
        assert "not waited for" in collection.search(QUERIES[0], modulate=True).reason
        slow.go_on.set()
    assert values(metrics)["imrnn_fallbacks_total", "articles", "timeout"] == 1


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("the model is not switched on: the database's order is kept", "not switched on"),
        ("modulation failed (RuntimeError): the database's order is kept", "failed: RuntimeError"),
        ("a manhattan distance does not split into factors: the database's order is kept", "does not split"),
        ("whatever comes", "other"),
    ],
)
def test_reasons_become_few_labels(reason, label):
    assert reason_label(reason) == label


def test_feedback_compares_both_rankings(url):
    metrics = PrometheusMetrics()
    with opened(url, metrics) as collection:
        response = collection.search(QUERIES[0])
    chosen = response[1]
    metrics.feedback("articles", judgements(response, {chosen.id: 1.0}))
    found = values(metrics)
    assert found["imrnn_feedback_reciprocal_rank_sum", "articles", "final"] == 0.5
    assert found["imrnn_feedback_reciprocal_rank_sum", "articles", "base"] == pytest.approx(1 / chosen.base_rank)
    for wrong in ({"nonesuch": 1.0}, {chosen.id: 0.0}):
        with pytest.raises(InvalidInputError):
            judgements(response, wrong)
    with pytest.raises(InvalidInputError):
        metrics.feedback("articles", [])
    for twice in ([Judgement(1, 1), Judgement(1, 2)], [Judgement(1, 2), Judgement(2, 2)]):
        with pytest.raises(InvalidInputError, match="two results of one rank"):
            metrics.feedback("articles", twice)
    assert values(metrics) == found | {key: value for key, value in values(metrics).items() if "created" in key[0]}
    for values_of_none in ((0, 1), (1, 0), (1, 1, 0.0), (1, 1, 1.1e6), (1, 1, np.nan), (1, 1, np.inf)):
        with pytest.raises(InvalidInputError, match="a gain above 0 and up to 1e\\+06"):
            Judgement(*values_of_none)


def test_quality_by_hand():
    assert quality([1], [1.0]) == replace(quality([1], [3.0]))
    found = quality([2, 4], [1.0, 2.0])
    assert found.reciprocal_rank == 0.5
    best = 2 / np.log2(2) + 1 / np.log2(3)
    assert found.ndcg == pytest.approx((1 / np.log2(3) + 2 / np.log2(5)) / best)
    assert quality([11], [1.0]).ndcg == 0


def test_drift_is_small_on_the_reference_and_large_elsewhere(rng):
    space = make_space()
    near, far = FactorDrift(space.names), FactorDrift(space.names)
    for _ in range(50):
        near.add(rng.uniform(size=(100, 3)).astype(np.float32))
        far.add((rng.uniform(size=(100, 3)) ** 4).astype(np.float32))
    assert max(near.index().values()) < 0.02
    assert min(far.index().values()) > 0.5
    assert max(abs(mean - 0.5) for mean in near.means().values()) < 0.02
    for _ in range(2000):
        far.add(rng.uniform(size=(100, 3)).astype(np.float32))
    assert max(far.index().values()) < 0.02, "what is long past is forgotten"
    assert FactorDrift(("a",)).index() == {"a": pytest.approx(0, abs=1e-9)}
    assert FactorDrift(("a",)).means() == {"a": 0.5}


def test_metrics_are_served(url):
    from servers import free_ports

    metrics, [port] = PrometheusMetrics(), free_ports(1)
    close = metrics.serve("127.0.0.1", port)
    try:
        with opened(url, metrics) as collection:
            collection.search(QUERIES[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            sample = 'imrnn_searches_total{code="OK",collection="articles",kind="search",outcome="modulated"} 1.0'
            assert sample in answer.read().decode()
        with pytest.raises(InvalidInputError, match="cannot be served"):
            PrometheusMetrics().serve("127.0.0.1", port)
    finally:
        close()


def test_the_dashboard_shows_only_metrics_that_exist():
    everything = {family.name for family in PrometheusMetrics(process=True).registry.collect()}
    everything |= {"imrnn_factor_drift", "imrnn_factor_mean"}
    names = {name for name in everything if name.startswith("imrnn_")}
    known = everything | {f"{name}{end}" for name in everything for end in ("_total", "_bucket", "_sum", "_count")}
    used = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\b(?:imrnn|process|python)_\w+", target["expr"])
    }
    assert used <= known, used - known
    plain = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used}
    assert names <= plain | {"imrnn_first_changed"}, "each metric is shown"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_asks_for_labels_that_the_metrics_have(url):
    metrics = PrometheusMetrics(process=True)
    with opened(url, metrics) as collection:
        for modulate in (True, False):
            response = collection.search(QUERIES[0], modulate=modulate)
    metrics.feedback("articles", judgements(response, {response[0].id: 1.0}))
    with metrics.request("Search"):
        pass
    labels = {sample.name: set(sample.labels) for family in metrics.registry.collect() for sample in family.samples}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = {label for name in re.findall(r"\b\w+_\w+", target["expr"]) for label in labels.get(name, ())}
            asked = set(re.findall(r'(\w+)(?:=~|!=|=)"', target["expr"]))
            asked |= {label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(", ")}
            assert asked <= named | {"instance"}, (panel["title"], asked - named)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= named | {"instance"}, panel["title"]


def test_spans_carry_the_attributes_of_rerankers(url, spans):
    provider, finished = spans
    tracing = OpenTelemetryTracing(provider, query_texts=True, documents=3)
    with opened(url, tracing) as collection, provider.get_tracer("test").start_as_current_span("outer") as outer:
        [response] = collection.search_batch(QUERIES[:1], limit=5)
    [search] = [span for span in finished() if span.name == "imrnn_vdb.search"]
    assert search.parent.span_id == outer.get_span_context().span_id
    told = search.attributes
    assert told["openinference.span.kind"] == "RERANKER"
    assert (told["reranker.model_name"], told["reranker.top_k"]) == (response.model_id, 5)
    assert "reranker.query" not in told, "a vector is no text"
    shown = response[:3]
    for i, result in enumerate(shown):
        assert told[f"reranker.output_documents.{i}.document.id"] == str(result.id)
        assert told[f"reranker.output_documents.{i}.document.score"] == result.score
    by_base = sorted(shown, key=lambda result: result.base_rank)
    for i, result in enumerate(by_base):
        assert told[f"reranker.input_documents.{i}.document.score"] == result.base_score
    assert not [key for key in told if "payload" in key or ".3." in key]
    stages = [span for span in finished() if span.parent and span.parent.span_id == search.context.span_id]
    assert [span.name for span in stages] == ["imrnn_vdb.encode", "imrnn_vdb.database", "imrnn_vdb.modulate"]
    assert all(search.start_time <= span.start_time <= span.end_time for span in stages)
    assert stages[-1].end_time <= search.end_time + 1_000_000


def test_spans_of_a_batch_have_their_callers_as_parents_and_failures_are_told(url, spans):
    provider, finished = spans
    tracing = OpenTelemetryTracing(provider)
    with tracing.request("Search", "r1", {}) as one, tracing.request("Search", "r2", {}) as two:
        token = CALLERS.set((Caller("r1", one), Caller("r2", two)))
        with opened(url, tracing) as collection:
            collection.search_batch(QUERIES[:2])
            with pytest.raises(InvalidInputError):
                collection.search_batch(QUERIES[:2] * 0)
        CALLERS.reset(token)
    requests = {span.attributes["imrnn.request_id"]: span for span in finished() if span.name.endswith("/Search")}
    searches = [span for span in finished() if span.name == "imrnn_vdb.search"]
    for span in searches[:2]:
        assert span.parent.span_id == requests[span.attributes["imrnn.request_id"]].context.span_id
    assert len(searches) == 4
    for span, request_id in zip(searches[2:], ("r1", "r2"), strict=True):
        assert span.parent.span_id == requests[request_id].context.span_id
        assert span.status.status_code is StatusCode.ERROR
    assert searches[-1].events[0].attributes["exception.type"].endswith("InvalidInputError")


@pytest.mark.parametrize("query_texts", [False, True])
def test_what_an_error_says_is_in_spans_only_where_texts_may_be(spans, query_texts):
    provider, finished = spans
    told = Observation("search", "articles", make_space(), ["a query"], SearchRequest())
    tracing = OpenTelemetryTracing(provider, query_texts=query_texts)
    with pytest.raises(StoreError), observing(tracing, told):
        raise StoreError("no filter: email = john.doe@example.org") from ValueError("john.doe@example.org")
    [span] = finished()
    [event] = span.events
    assert event.attributes["exception.type"] == "imrnn_vdb.errors.StoreError"
    assert event.timestamp == span.end_time
    assert ("john.doe" in span.to_json()) is query_texts


def test_a_caller_is_understood_across_the_wire(spans):
    provider, finished = spans
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with OpenTelemetryTracing(provider).request("Search", "r", {"traceparent": f"00-{trace_id}-{span_id}-01"}):
        pass
    assert finished()[0].context.trace_id == int(trace_id, 16)
    assert finished()[0].parent.span_id == int(span_id, 16)


def test_logs_are_json_with_request_ids():
    stream, logger = io.StringIO(), logging.Logger("imrnn_vdb.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)
    logger.info("no request")
    token = REQUEST_IDS.set(("a",))
    try:
        raise ValueError("x\ny")
    except ValueError:
        logger.exception("one %s", "request", extra={"collection": "articles"})
    REQUEST_IDS.set(("a", "b"))
    logger.warning("two requests")
    handler.setFormatter(TextFormatter())
    logger.warning("as text")
    REQUEST_IDS.reset(token)
    *lines, text = stream.getvalue().splitlines()
    none, one, two = (json.loads(line) for line in lines)
    assert {"time", "level", "logger", "message"} == set(none)
    assert (one["message"], one["request_id"], one["collection"]) == ("one request", "a", "articles")
    assert "ValueError" in one["exception"]
    assert two["request_ids"] == ["a", "b"]
    assert text.endswith("WARNING imrnn_vdb.test: as text [a b]")

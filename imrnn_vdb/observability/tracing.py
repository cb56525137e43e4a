"""OpenTelemetry spans of searches, with OpenInference's attributes for rerankers.

One span a query, of kind RERANKER, and under it one for each stage. They are written when the search is over, with the
times that were taken on the way, so that a search does the same work whether or not it is traced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from imrnn_vdb.errors import MissingExtraError
from imrnn_vdb.observability.observer import Caller

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate, trace
    from opentelemetry.trace import SpanKind, StatusCode
except ImportError as exc:
    raise MissingExtraError("opentelemetry-api", "telemetry") from exc

if TYPE_CHECKING:
    from imrnn_vdb.observability.observer import Observation
    from imrnn_vdb.results import SearchResponse, SearchResult

_SPAN_KIND = "openinference.span.kind"
_STAGES = ("encode", "database", "modulate", "second pass")
"""In the order in which they begin; of a stage that runs more than once, the times are added up."""


class OpenTelemetryTracing:
    """An observer that writes spans.

    Parameters
    ----------
    provider
        An ``opentelemetry.trace.TracerProvider``; None for the process's own.
    query_texts
        Whether spans carry query texts, and what errors say, which may quote a filter; off, because both may be
        personal.
    documents
        Results that a span lists, with ids and scores, at most.
    """

    def __init__(self, provider: Any = None, *, query_texts: bool = False, documents: int = 10) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer("imrnn_vdb", tracer_provider=provider)
        self._query_texts = query_texts
        self._documents = documents

    def searched(self, observation: Observation) -> None:
        """Write the spans of a search that is over."""
        count = len(observation.responses) or len(observation.callers) or 1
        callers = observation.callers if len(observation.callers) == count else (Caller(),) * count
        for i, caller in enumerate(callers):
            response = observation.responses[i] if observation.responses else None
            self._write(observation, i, response, caller)

    def _write(self, observation: Observation, i: int, response: SearchResponse | None, caller: Caller) -> None:
        span = self._tracer.start_span(
            f"imrnn_vdb.{observation.kind}", context=caller.context, start_time=observation.began
        )
        if span.is_recording():
            attributes = {_SPAN_KIND: "RERANKER", "imrnn.collection": observation.collection}
            if caller.request_id:
                attributes["imrnn.request_id"] = caller.request_id
            if self._query_texts and i < len(observation.queries) and isinstance(observation.queries[i], str):
                attributes["reranker.query"] = observation.queries[i]
            if response is not None:
                attributes |= self._told(observation, response)
                self._write_stages(span, observation.began, response.timings)
            span.set_attributes(attributes)
            if observation.error is not None:
                self._write_error(span, observation.error, observation.ended)
        span.end(observation.ended)

    def _write_error(self, span: Any, error: BaseException, ended: int) -> None:
        kind = type(error)
        if self._query_texts:
            span.record_exception(error, timestamp=ended)
        else:  # neither message nor stack trace, whose last line is the message
            span.add_event("exception", {"exception.type": f"{kind.__module__}.{kind.__qualname__}"}, timestamp=ended)
        span.set_status(StatusCode.ERROR, kind.__name__)

    def _told(self, observation: Observation, response: SearchResponse) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "reranker.model_name": response.model_id,
            "reranker.top_k": observation.request.limit,
            "imrnn.space_id": response.space_id,
            "imrnn.modulated": response.modulated,
            "imrnn.coarse_k": response.coarse_k,
            "imrnn.candidates": response.candidates,
            "imrnn.candidates.unusable": sum(response.unusable.values()),
        }
        if response.reason is not None:
            attributes["imrnn.fallback"] = response.reason
        shown = response.results[: self._documents]
        by_base = sorted(shown, key=lambda result: result.base_rank)
        _list(attributes, "reranker.input_documents", [(result, result.base_score) for result in by_base])
        _list(attributes, "reranker.output_documents", [(result, result.score) for result in shown])
        return attributes

    def _write_stages(self, span: Any, began: int, timings: Mapping[str, float]) -> None:
        parent = trace.set_span_in_context(span, otel_context.Context())
        for stage in _STAGES:
            if stage in timings:
                ended = began + int(timings[stage] * 1e6)
                self._tracer.start_span(f"imrnn_vdb.{stage}", context=parent, start_time=began).end(ended)
                began = ended

    @contextmanager
    def request(self, method: str, request_id: str, metadata: Mapping[str, Any]) -> Iterator[Any]:
        """Write the span of a request to the service; yields the context that is the parent of what it leads to."""
        parent = propagate.extract(metadata)
        attributes = {"rpc.system": "grpc", "rpc.service": "imrnn_vdb.v1.Retrieval", "rpc.method": method}
        span = self._tracer.start_span(
            f"imrnn_vdb.v1.Retrieval/{method}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={**attributes, "imrnn.request_id": request_id},
        )
        try:
            yield trace.set_span_in_context(span, parent)
        except BaseException as exc:
            span.set_status(StatusCode.ERROR, type(exc).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._provider is not None and hasattr(self._provider, "shutdown"):
            self._provider.shutdown()


def otlp_provider(endpoint: str, sample: float) -> Any:
    """Return a provider that sends spans to an OTLP collector, in batches, from a thread.

    Parameters
    ----------
    endpoint
        Such as ``"http://localhost:4317"``.
    sample
        Share of traces that are recorded where the caller did not decide.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as exc:
        raise MissingExtraError(exc.name or "opentelemetry-sdk", "telemetry") from exc
    resource = Resource.create({"service.name": "imrnn-vdb"})
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sample)), resource=resource)
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _list(attributes: dict[str, Any], name: str, rows: Sequence[tuple[SearchResult, float]]) -> None:
    for i, (result, score) in enumerate(rows):
        id_key, score_key = _keys(name, i)
        attributes[id_key] = str(result.id)
        attributes[score_key] = score


@cache
def _keys(name: str, place: int) -> tuple[str, str]:
    return f"{name}.{place}.document.id", f"{name}.{place}.document.score"

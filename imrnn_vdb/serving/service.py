"""The calls of the service: messages in, batches through the collections, messages out.

The event loop only speaks gRPC: searches run in worker threads, so that a request that must be refused is refused at
once, whatever runs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from imrnn_vdb.errors import AuditError, IMRNNError, InvalidInputError, StoreUnavailableError
from imrnn_vdb.factors.quality import stored_auc
from imrnn_vdb.observability.feedback import Judgement
from imrnn_vdb.observability.logs import REQUEST_IDS
from imrnn_vdb.observability.observer import CALLERS, Caller, Observation, observing
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import largest_window
from imrnn_vdb.rerank import check_answerable, rerank
from imrnn_vdb.serving.admission import Admission, OverloadedError
from imrnn_vdb.serving.batching import Batcher
from imrnn_vdb.serving.convert import (
    read_candidates,
    read_id,
    read_options,
    read_query,
    read_vector,
    response_message,
    result_message,
    topic_names,
)
from imrnn_vdb.serving.proto import imrnn_vdb_pb2 as pb
from imrnn_vdb.serving.status import ERROR_KEY, REQUEST_ID_KEY, details_of, name_of, status_of

if TYPE_CHECKING:
    from imrnn_vdb.codec import FloatArray
    from imrnn_vdb.observability.observer import Observer
    from imrnn_vdb.points import Candidates
    from imrnn_vdb.results import SearchResponse
    from imrnn_vdb.serving.config import Limits
    from imrnn_vdb.serving.hosted import Hosted, Registry
    from imrnn_vdb.serving.instruments import Instruments

_log = logging.getLogger("imrnn_vdb.serving")
SERVICE_NAME = "imrnn_vdb.v1.Retrieval"
_REQUEST_ID_CHARS = 128
_LONG_PAYLOAD_FILTER, _LONG_FACTOR_FILTER, _MANY = 4_096, 256, 256
"""Characters of a filter, and items of a list, that take half a millisecond at most; what is longer is read in a worker
thread. Of a payload filter pydantic reads as many in a tenth of a millisecond."""
_LAST_WORD_S = 1.0
"""How long the end of a call may wait for its client to take what comes before it."""
_FETCHING = ("payload_filter", "coarse_k", "max_coarse_k", "passes", "plan", "trace")


@dataclass(frozen=True, slots=True)
class _Ask:
    """What searches must agree in to be run as one: the opened collection, the options, the kind of query."""

    hosted: Hosted
    encoded: bytes
    texts: bool
    options: dict[str, Any] = field(compare=False)


Answer = TypeVar("Answer")
_Search = tuple["str | FloatArray", Caller]
_Scoring = tuple["FloatArray", "Candidates", Caller]


class Retrieval:
    """The service itself.

    Parameters
    ----------
    registry
        What is served.
    limits
        What is taken on.
    instruments
        Spans, metrics and feedback of requests.
    """

    def __init__(self, registry: Registry, limits: Limits, instruments: Instruments) -> None:
        self._registry = registry
        self._limits = limits
        self._instruments = instruments
        self.ending = False
        self._calls, self._idle = 0, asyncio.Event()
        self._idle.set()
        self.admission = Admission(limits.in_flight, limits.slowdown)
        self._workers = ThreadPoolExecutor(limits.workers, "imrnn-search")
        wait = limits.batch_wait_ms / 1e3
        self._searches: Batcher[_Ask, _Search, pb.SearchResponse] = Batcher(self._search_batch, limits.batch, wait)
        self._reranks: Batcher[_Ask, _Scoring, pb.SearchResponse] = Batcher(self._rerank_batch, limits.batch, wait)

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:  # noqa: N802
        """Search one collection."""
        async with self._answering("Search", request, context) as caller:
            ends = self._ends(context)
            with self._registry.use(request.collection) as hosted, self.admission.enter(_kind("Search", request)):
                query = _read_one(hosted, request.query)
                ask = await self._ask(ends, hosted, request.options, isinstance(query, str))
                return await self._in_time(ends, self._searches.submit(ask, (query, caller)))

    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Any) -> None:  # noqa: N802
        """Search for many queries, in batches of bounded size, and answer as they are found.

        The whole of it has one end, and a client that reads nothing for as long as ``deadline_s`` is not waited for.
        """
        async with self._answering("SearchBatch", request, context) as caller:
            ends, batch = self._ends(context), self._limits.batch
            with self._registry.use(request.collection) as hosted, self.admission.enter():
                if len(request.queries) > self._limits.queries:
                    raise InvalidInputError(f"a SearchBatch has at most {self._limits.queries} queries")
                read = partial(_read_queries, request.queries, hosted.model.space.dim)
                queries = await self._read(ends, len(request.queries) > batch, read)
                ask = await self._ask(ends, hosted, request.options, any(isinstance(query, str) for query in queries))
                for first in range(0, len(queries), batch):
                    part = [(query, caller) for query in queries[first : first + batch]]
                    found = await self._in_time(ends, self._search_batch(ask, part))
                    for index, response in enumerate(found, first):
                        message = pb.SearchBatchResponse(index=index, response=response)
                        await self._in_time(min(ends, self._later()), _write(context, message))

    async def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:  # noqa: N802
        """Take one point's score apart."""
        async with self._answering("Explain", request, context) as caller:
            ends = self._ends(context)
            with self._registry.use(request.collection) as hosted, self.admission.enter(_kind("Explain", request)):
                query = read_query(request.query, hosted.model.space.dim)
                ask = await self._ask(ends, hosted, request.options, isinstance(query, str))
                explain = partial(hosted.searched().explain, query, read_id(request.id), **ask.options)
                with _called_by([caller]):
                    result = await self._in_time(ends, self._work(explain))
                space = hosted.model.space
                return pb.ExplainResponse(
                    result=result_message(result),
                    factor_names=space.names,
                    topic_names=topic_names(result),
                    space_id=space.space_id,
                    model_id=hosted.model.model_id,
                )

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.SearchResponse:  # noqa: N802
        """Score candidates that the caller fetched."""
        async with self._answering("Rerank", request, context) as caller:
            ends, count = self._ends(context), len(request.candidates)
            kind = ("Rerank", request.collection, count.bit_length())
            with self._registry.use(request.collection) as hosted, self.admission.enter(kind):
                if count > self._limits.coarse_k:
                    raise InvalidInputError(f"a Rerank has at most {self._limits.coarse_k} candidates")
                query = read_vector(request.query, hosted.model.space.dim)
                check_answerable(hosted.metric, query[None])
                long = count > _MANY or _is_long(request.options)
                ask, candidates = await self._read(ends, long, partial(_read_rerank, hosted, request))
                return await self._in_time(ends, self._reranks.submit(ask, (query, candidates, caller)))

    async def Factors(self, request: pb.FactorsRequest, context: Any) -> pb.FactorsResponse:  # noqa: N802
        """Describe the factors of one collection, or of all."""
        async with self._answering("Factors", request, context):
            made = pb.FactorsResponse()
            for name in [request.collection] if request.collection else self._registry.names:
                with self._registry.use(name) as hosted:
                    made.collections.append(_factors_message(hosted))
            return made

    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:  # noqa: N802
        """Take note of what was clicked or judged relevant."""
        async with self._answering("Feedback", request, context):
            ends, count = self._ends(context), len(request.relevant)
            with self._registry.use(request.collection), self.admission.enter():
                if count > self._limits.queries:
                    raise InvalidInputError(f"a Feedback has at most {self._limits.queries} judgements")
                await self._read(ends, count > _MANY, partial(_note, self._instruments, request))
            return pb.FeedbackResponse()

    async def _ask(self, ends: float, hosted: Hosted, message: pb.SearchOptions, texts: bool) -> _Ask:
        """Check the options of a search, so that one that is wrong never gets into a batch."""
        return await self._read(ends, _is_long(message), partial(_ask, hosted, message, self._limits.coarse_k, texts))

    async def _read(self, ends: float, long: bool, read: Callable[[], Answer]) -> Answer:
        """Read a part of a request that was accepted; one that is long is read in a worker thread."""
        return await self._in_time(ends, self._work(read)) if long else read()

    async def _search_batch(self, ask: _Ask, items: list[_Search]) -> list[pb.SearchResponse]:
        with _called_by([caller for _, caller in items]):
            return await self._work(partial(_search, ask, [query for query, _ in items]))

    async def _rerank_batch(self, ask: _Ask, items: list[_Scoring]) -> list[pb.SearchResponse]:
        queries, batch = np.stack([query for query, _, _ in items]), [candidates for _, candidates, _ in items]
        with _called_by([caller for *_, caller in items]):
            return await self._work(partial(_rerank, ask, queries, batch, self._registry.observer))

    def handler(self) -> Any:
        """Return what a gRPC server calls; bytes that are no message reach a method as None, which it answers."""
        kinds = {False: grpc.unary_unary_rpc_method_handler, True: grpc.unary_stream_rpc_method_handler}
        methods = pb.DESCRIPTOR.services_by_name["Retrieval"].methods
        handlers = {
            method.name: kinds[method.server_streaming](
                getattr(self, method.name),
                request_deserializer=partial(_parsed, getattr(pb, method.input_type.name)),
                response_serializer=getattr(pb, method.output_type.name).SerializeToString,
            )
            for method in methods
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    async def _work(self, function: Callable[[], Answer]) -> Answer:
        """Run a function in a worker thread, in the context of who waits for it."""
        run = partial(copy_context().run, function)
        return await asyncio.get_running_loop().run_in_executor(self._workers, run)

    async def left(self) -> None:
        """Wait until no call is open, its answer included."""
        await self._idle.wait()

    def _came(self, context: Any) -> None:
        self._calls += 1
        self._idle.clear()
        context.add_done_callback(self._went)

    def _went(self, _: Any) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def close(self) -> None:
        """End the worker threads; what did not begin never will."""
        await asyncio.to_thread(self._workers.shutdown, cancel_futures=True)

    @asynccontextmanager
    async def _answering(self, method: str, request: Any, context: Any) -> AsyncIterator[Caller]:
        """Name the request, watch it, and turn what goes wrong into a status."""
        self._came(context)
        metadata = dict(context.invocation_metadata() or ())
        request_id = _request_id(metadata)
        REQUEST_IDS.set((request_id,))  # each call has a task, and so a context, of its own
        trailing = [(REQUEST_ID_KEY, request_id)]
        context.set_trailing_metadata(tuple(trailing))
        try:
            with self._instruments.request(method, request_id, metadata, context.time_remaining) as caller:
                if self.ending:
                    raise StoreUnavailableError("the service is shutting down")
                if request is None:
                    raise InvalidInputError(f"these bytes are no message for {method}")
                yield caller
        except OverloadedError:
            trailing.append((ERROR_KEY, StoreUnavailableError.__name__))
            told = "the service is at its limit: try again later"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, told, tuple(trailing))
        except IMRNNError as exc:
            told = details_of(exc)
            if isinstance(exc, AuditError):
                _log.error("%s: %s", method, exc)
            else:
                _log.info("%s: %s", method, type(exc).__name__)
                _log.debug("%s: %s", method, told)  # it may hold what the caller sent
            trailing.append((ERROR_KEY, name_of(exc)))
            await _abort(context, status_of(exc), told, trailing)
        except asyncio.TimeoutError:
            told = "the service's own deadline has passed"
            await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, told, trailing)
        except Exception as exc:
            if isinstance(exc, grpc.aio.AbortError):
                raise
            _log.exception("%s failed", method)  # the caller learns nothing of the inside but where to look
            told = f"internal error; see the service's log for {request_id}"
            await _abort(context, grpc.StatusCode.INTERNAL, told, trailing)

    def _later(self) -> float:
        """Return when the service's own deadline passes for what begins now, by the loop's clock."""
        return asyncio.get_running_loop().time() + self._limits.deadline_s

    def _ends(self, context: Any) -> float:
        """Return when a request that begins now must have ended; infinity where it has a deadline, as gRPC ends it."""
        return self._later() if context.time_remaining() is None else math.inf

    async def _in_time(self, ends: float, answer: Coroutine[Any, Any, Answer]) -> Answer:
        """Await an answer until then."""
        if ends == math.inf:
            return await answer
        return await asyncio.wait_for(answer, max(0.0, ends - asyncio.get_running_loop().time()))


async def _write(context: Any, message: pb.SearchBatchResponse) -> None:
    """Send a message of a stream; a client that has left ends the call, as where gRPC notices it first."""
    try:
        await context.write(message)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


async def _abort(context: Any, code: grpc.StatusCode, told: str, trailing: Sequence[tuple[str, str]]) -> None:
    """End a call with a status; where its client takes nothing, the status lies there for it and is not waited for."""
    try:
        await asyncio.wait_for(context.abort(code, told, tuple(trailing)), _LAST_WORD_S)
    except asyncio.TimeoutError:
        raise asyncio.CancelledError from None


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None


def _search(ask: _Ask, queries: Sequence[str | FloatArray]) -> list[pb.SearchResponse]:
    asked: Any = queries if ask.texts else np.stack(queries)
    return _messages(ask, ask.hosted.searched().search_batch(asked, **ask.options))


def _rerank(
    ask: _Ask, queries: FloatArray, batch: list[Candidates], observer: Observer | None
) -> list[pb.SearchResponse]:
    model, metric, request = ask.hosted.model, ask.hosted.metric, ask.options["request"]
    if observer is None:
        return _messages(ask, rerank(model, metric, queries, batch, request))
    with observing(observer, Observation("rerank", ask.hosted.name, model.space, list(queries), request)) as seen:
        seen.responses = responses = rerank(model, metric, queries, batch, request)
    return _messages(ask, responses)


def _messages(ask: _Ask, responses: Sequence[SearchResponse]) -> list[pb.SearchResponse]:
    """Make messages in the thread that searched: the event loop stays free, and what they are made of is at hand."""
    return [response_message(response, ask.hosted.model.space) for response in responses]


@contextmanager
def _called_by(callers: Sequence[Caller]) -> Iterator[None]:
    tokens = CALLERS.set(tuple(callers)), REQUEST_IDS.set(tuple(dict.fromkeys(c.request_id for c in callers)))
    try:
        yield
    finally:
        CALLERS.reset(tokens[0])
        REQUEST_IDS.reset(tokens[1])


def _is_long(options: pb.SearchOptions) -> bool:
    """Say whether reading options takes longer than handing them to a thread."""
    return (
        len(options.payload_filter) > _LONG_PAYLOAD_FILTER
        or len(options.factor_filter) > _LONG_FACTOR_FILTER
        or len(options.steer) > _MANY
    )


def _ask(hosted: Hosted, message: pb.SearchOptions, most: int, texts: bool) -> _Ask:
    options = _options(hosted, message)
    for name in ("limit", "coarse_k", "max_coarse_k"):
        if options.get(name, 0) > most:
            raise InvalidInputError(f"{name} is {options[name]}, and this service fetches at most {most} candidates")
    if hosted.audit is not None:
        options["audit"] = hosted.audit
    request = SearchRequest(**options)
    options["factor_filter"] = request.factor_filter  # it is read once
    options.setdefault("max_coarse_k", largest_window(request.window, None, most))
    if request.payload_filter is not None:
        options["payload_filter"] = hosted.searched().parse_filter(request.payload_filter)
    return _Ask(hosted, message.SerializeToString(deterministic=True), texts, options)


def _options(hosted: Hosted, message: pb.SearchOptions) -> dict[str, Any]:
    options = read_options(message)
    if message.topics:
        options["topics"] = hosted.told_topics()
    return options


def _read_one(hosted: Hosted, message: pb.Query) -> str | FloatArray:
    """Return a query that can be answered; one that cannot would have its whole batch run and counted twice."""
    query = read_query(message, hosted.model.space.dim)
    if not isinstance(query, str):
        check_answerable(hosted.metric, query[None])
    elif not query.strip():
        raise InvalidInputError("the query is empty: give a text or a vector")
    return query


def _read_queries(messages: Sequence[pb.Query], dim: int) -> list[str | FloatArray]:
    queries = [read_query(message, dim) for message in messages]
    if len({isinstance(query, str) for query in queries}) > 1:
        raise InvalidInputError("the queries of a batch are all texts or all vectors")
    return queries


def _read_rerank(hosted: Hosted, request: pb.RerankRequest) -> tuple[_Ask, Candidates]:
    options = _options(hosted, request.options)
    foreign = [name for name in _FETCHING if options.get(name)]
    if foreign:
        raise InvalidInputError(f"Rerank fetches nothing, so it takes no {', '.join(foreign)}")
    count = max(1, len(request.candidates))
    given = {**options, "limit": min(options.get("limit", count), count)}
    given["coarse_k"] = max(count, given["limit"] + given["offset"])
    made = SearchRequest(**given)
    encoded = request.options.SerializeToString(deterministic=True) + b"%d" % count
    ask = _Ask(hosted, encoded, False, {"request": made})
    return ask, read_candidates(request.candidates, hosted.model.space)


def _note(instruments: Instruments, request: pb.FeedbackRequest) -> None:
    relevant = [Judgement(one.rank, one.base_rank, one.gain) for one in request.relevant]
    instruments.feedback(request.collection, relevant)


def _kind(method: str, request: pb.SearchRequest | pb.ExplainRequest) -> Hashable:
    """Say what makes the latency of searches comparable, coarsely, so that the kinds are few."""
    options, texts = request.options, request.query.WhichOneof("kind") == "text"
    asked = [bool(text) for text in (options.payload_filter, options.factor_filter, options.only)]
    window = (options.coarse_k or options.limit or 10).bit_length()
    modulate = options.modulate if options.HasField("modulate") else None
    return (method, request.collection, texts, *asked, options.explain, window, options.passes or 1, modulate)


def _request_id(metadata: dict[str, Any]) -> str:
    given = metadata.get(REQUEST_ID_KEY, "")
    if given and len(given) <= _REQUEST_ID_CHARS and given.isascii() and given.isprintable():
        return str(given)
    return uuid.uuid4().hex


def _factors_message(hosted: Hosted) -> pb.CollectionFactors:
    space, stored = hosted.model.space, stored_auc(hosted.model)
    return pb.CollectionFactors(
        collection=hosted.name,
        metric=str(hosted.metric),
        dim=space.dim,
        num_factors=space.num_factors,
        space_id=space.space_id,
        model_id=hosted.model.model_id,
        active=hosted.model.active,
        searchable=hosted.collection is not None,
        factors=[
            pb.Factor(name=name, quantiles=quantiles.tolist(), held_out_auc=stored.get(name, {}).get("auc"))
            for name, quantiles in zip(space.names, space.quantiles, strict=True)
        ],
    )

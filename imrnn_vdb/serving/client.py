"""Typed clients of the service: the same words, results and errors as a collection in one's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from imrnn_vdb.errors import IMRNNError, InvalidInputError, MissingExtraError, StoreError
from imrnn_vdb.observability.feedback import judgements
from imrnn_vdb.results import SearchResponse, SearchResult
from imrnn_vdb.serving.status import ERROR_KEY, REQUEST_ID_KEY, check_header, error_of
from imrnn_vdb.serving.tls import channel_credentials
from imrnn_vdb.urls import is_this_machine

try:
    import grpc

    from imrnn_vdb.serving.convert import (
        candidate_message,
        id_message,
        options_message,
        query_message,
        read_response,
        read_result,
        vector_message,
    )
    from imrnn_vdb.serving.proto import imrnn_vdb_pb2 as pb
    from imrnn_vdb.serving.proto.imrnn_vdb_pb2_grpc import RetrievalStub
except ImportError as exc:
    raise MissingExtraError(exc.name or "grpcio", "serve") from exc

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from imrnn_vdb.options import ServiceOptions
    from imrnn_vdb.points import PointId

_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]

Query = str | npt.ArrayLike


class _Caller:
    """What both clients share: how they connect, how requests are written and errors read."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        tls: bool | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        timeout: float = 10.0,
    ) -> None:
        check_header("a token", token or "")
        self.target = target
        self._timeout = timeout
        self._closed = False
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        host = target.rpartition(":")[0]
        files = (ca, certificate, key)
        wanted = any(file is not None for file in files) or (bool(token) and not is_this_machine(host))
        encrypted = tls if tls is not None else wanted
        self._credentials = channel_credentials(*files) if encrypted else None
        if self._credentials is None:
            self._channel = self._grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = self._grpc.secure_channel(target, self._credentials, options=_CHANNEL_OPTIONS)
        self._stub: Any = RetrievalStub(self._channel)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"

    def _sent(self, request_id: str | None, timeout: float | None = None) -> dict[str, Any]:
        if self._closed:
            raise StoreError("this client was closed: make another one")
        check_header("a request id", request_id or "")
        named = ((REQUEST_ID_KEY, request_id),) if request_id else ()
        seconds = self._timeout if timeout is None else timeout
        return {"timeout": seconds, "metadata": (*self._metadata, *named)}


def _search(collection: str, query: Query, options: ServiceOptions) -> pb.SearchRequest:
    return pb.SearchRequest(collection=collection, query=query_message(query), options=options_message(options))


def _search_batch(collection: str, queries: Sequence[Query], options: ServiceOptions) -> pb.SearchBatchRequest:
    if isinstance(queries, str):
        raise InvalidInputError("search_batch takes a list of queries; use search for a single text")
    messages = [query_message(query) for query in queries]
    return pb.SearchBatchRequest(collection=collection, queries=messages, options=options_message(options))


def _explain(collection: str, query: Query, point_id: object, options: ServiceOptions) -> pb.ExplainRequest:
    return pb.ExplainRequest(
        collection=collection, query=query_message(query), id=id_message(point_id), options=options_message(options)
    )


def _rerank(
    collection: str,
    query_vector: npt.ArrayLike,
    ids: Sequence[object],
    base_scores: Sequence[float],
    codes: Sequence[str | npt.ArrayLike | None] | None,
    vectors: npt.ArrayLike | None,
    options: ServiceOptions,
) -> pb.RerankRequest:
    table: Any = vectors if vectors is not None else [None] * len(ids)
    stored = codes if codes is not None else [None] * len(ids)
    if not len(ids) == len(base_scores) == len(stored) == len(table):
        raise InvalidInputError("give one id, one base score, and one code or vector for each candidate")
    rows = zip(ids, base_scores, stored, table, strict=True)
    return pb.RerankRequest(
        collection=collection,
        query=vector_message(query_vector),
        candidates=[candidate_message(*row) for row in rows],
        options=options_message(options),
    )


def _feedback(collection: str, response: SearchResponse, relevant: Mapping[PointId, float]) -> pb.FeedbackRequest:
    made = [
        pb.Judgement(rank=one.rank, base_rank=one.base_rank, gain=one.gain) for one in judgements(response, relevant)
    ]
    return pb.FeedbackRequest(collection=collection, relevant=made)


def _read_explained(message: pb.ExplainResponse) -> SearchResult:
    return read_result(message.result, tuple(message.factor_names), frozenset(message.topic_names))


def _error(error: Any) -> IMRNNError:
    named = dict(error.trailing_metadata() or ()).get(ERROR_KEY)
    return error_of(error.code(), error.details() or "", named)


class ServiceClient(_Caller):
    """A blocking client; safe to share between threads.

    Parameters
    ----------
    target
        ``"HOST:PORT"``.
    token
        What the service wants, printable ASCII; keep it in a file or in the environment.
    tls
        Whether to encrypt; None: where a file is given, or a token would travel to another machine.
    ca
        PEM file of the authority that signed the service's certificate; None for those the system trusts.
    certificate, key
        PEM files of the client's own certificate chain and its private key, for a service with ``client_ca``.
    timeout
        Seconds for a call; the service ends its work for it then. ``search_batch`` takes one of its own.

    Raises
    ------
    InvalidInputError
        If a PEM file cannot be read or used, or the token cannot be sent.

    Examples
    --------
    >>> with ServiceClient("localhost:50061") as client:  # doctest: +SKIP
    ...     for result in client.search("articles", "who discovered penicillin", limit=3):
    ...         print(result.rank, result.id, result.score)
    """

    _grpc = grpc

    def search(
        self, collection: str, query: Query, *, request_id: str | None = None, **options: Unpack[ServiceOptions]
    ) -> SearchResponse:
        """Search a collection, as :meth:`imrnn_vdb.IMRNNCollection.search` does; filters travel as text.

        ``topics=True`` asks for the topics that the service's configuration names, and ``audit`` is its own matter.

        Raises
        ------
        IMRNNError
            The error that the search met; `StoreUnavailableError` where the service is at its limit.
        """
        request = _search(collection, query, options)
        return read_response(self._call(self._stub.Search, request, request_id))

    def search_batch(
        self,
        collection: str,
        queries: Sequence[Query],
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> Iterator[SearchResponse]:
        """Search for n texts or n vectors; yields n responses, in their order, as they are found.

        Parameters
        ----------
        collection
            Its name.
        queries
            n texts or n vectors.
        timeout
            Seconds for all of them, and for reading what is found; None for those of the client, which are meant for
            one call. Give more for thousands of queries.
        request_id
            Names the request in the service's log.
        options
            As for :meth:`search`.

        Raises
        ------
        StoreTimeoutError
            If the time is up before the last response; those before it were yielded.
        IMRNNError
            The error that a search met.
        """
        request = _search_batch(collection, queries, options)
        try:
            for message in self._stub.SearchBatch(request, **self._sent(request_id, timeout)):
                yield read_response(message.response)
        except grpc.RpcError as exc:
            raise _error(exc) from exc

    def explain(
        self,
        collection: str,
        query: Query,
        point_id: object,
        *,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> SearchResult:
        """Take one point's score apart, as :meth:`imrnn_vdb.IMRNNCollection.explain` does."""
        request = _explain(collection, query, point_id, options)
        return _read_explained(self._call(self._stub.Explain, request, request_id))

    def rerank(
        self,
        collection: str,
        query_vector: npt.ArrayLike,
        ids: Sequence[object],
        base_scores: Sequence[float],
        *,
        codes: Sequence[str | npt.ArrayLike | None] | None = None,
        vectors: npt.ArrayLike | None = None,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> SearchResponse:
        """Score candidates that were fetched already.

        Parameters
        ----------
        collection
            Names model and metric.
        query_vector
            Shape (d,).
        ids, base_scores
            k ids, and the database's scores of them, oriented (see :mod:`imrnn_vdb.metric`).
        codes
            k stored codes, each the text or the vector that the database holds; None where there is none.
        vectors
            Shape (k, d) base vectors, in place of codes.
        options
            ``limit, offset, factor_filter, only, steer, threshold, explain, modulate, topics`` of a search.
        """
        request = _rerank(collection, query_vector, ids, base_scores, codes, vectors, options)
        return read_response(self._call(self._stub.Rerank, request, request_id))

    def factors(self, collection: str = "") -> list[pb.CollectionFactors]:
        """Describe the factors of one collection, or of all."""
        return list(self._call(self._stub.Factors, pb.FactorsRequest(collection=collection), None).collections)

    def feedback(self, collection: str, response: SearchResponse, relevant: Mapping[PointId, float]) -> None:
        """Report which results were clicked or judged relevant: a gain above 0 by point id, 1 for a click."""
        self._call(self._stub.Feedback, _feedback(collection, response, relevant), None)

    def _call(self, method: Any, request: Any, request_id: str | None) -> Any:
        try:
            return method(request, **self._sent(request_id))
        except grpc.RpcError as exc:
            raise _error(exc) from exc

    def close(self) -> None:
        """Close the channel."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncServiceClient(_Caller):
    """The asynchronous twin of :class:`ServiceClient`: the same methods, parameters and errors, awaited.

    It serves the event loop that runs when it is made: make it in a coroutine.
    """

    _grpc = grpc.aio

    async def search(
        self, collection: str, query: Query, *, request_id: str | None = None, **options: Unpack[ServiceOptions]
    ) -> SearchResponse:
        """Search a collection; see :meth:`ServiceClient.search`."""
        request = _search(collection, query, options)
        return read_response(await self._call(self._stub.Search, request, request_id))

    async def search_batch(
        self,
        collection: str,
        queries: Sequence[Query],
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> AsyncIterator[SearchResponse]:
        """Search for many queries; see :meth:`ServiceClient.search_batch`."""
        request = _search_batch(collection, queries, options)
        try:
            async for message in self._stub.SearchBatch(request, **self._sent(request_id, timeout)):
                yield read_response(message.response)
        except grpc.RpcError as exc:
            raise _error(exc) from exc

    async def explain(
        self,
        collection: str,
        query: Query,
        point_id: object,
        *,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> SearchResult:
        """Take one point's score apart; see :meth:`ServiceClient.explain`."""
        request = _explain(collection, query, point_id, options)
        return _read_explained(await self._call(self._stub.Explain, request, request_id))

    async def rerank(
        self,
        collection: str,
        query_vector: npt.ArrayLike,
        ids: Sequence[object],
        base_scores: Sequence[float],
        *,
        codes: Sequence[str | npt.ArrayLike | None] | None = None,
        vectors: npt.ArrayLike | None = None,
        request_id: str | None = None,
        **options: Unpack[ServiceOptions],
    ) -> SearchResponse:
        """Score candidates that were fetched already; see :meth:`ServiceClient.rerank`."""
        request = _rerank(collection, query_vector, ids, base_scores, codes, vectors, options)
        return read_response(await self._call(self._stub.Rerank, request, request_id))

    async def factors(self, collection: str = "") -> list[pb.CollectionFactors]:
        """Describe the factors of one collection, or of all."""
        return list((await self._call(self._stub.Factors, pb.FactorsRequest(collection=collection), None)).collections)

    async def feedback(self, collection: str, response: SearchResponse, relevant: Mapping[PointId, float]) -> None:
        """Report which results were clicked or judged relevant; see :meth:`ServiceClient.feedback`."""
        await self._call(self._stub.Feedback, _feedback(collection, response, relevant), None)

    async def _call(self, method: Any, request: Any, request_id: str | None) -> Any:
        try:
            return await method(request, **self._sent(request_id))
        except grpc.RpcError as exc:
            raise _error(exc) from exc

    async def close(self) -> None:
        """Close the channel."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

"""The asynchronous facade: the methods of :class:`imrnn_vdb.collection.IMRNNCollection`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from imrnn_vdb.backend import connect
from imrnn_vdb.backfill import BackfillOptions, BackfillReport, backfill_script, undo_script
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.comparison import RankComparison, compare
from imrnn_vdb.core import Query, as_batch, pick, rerank_request, whole_window
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.opening import create_core, open_core
from imrnn_vdb.options import Model, SearchRequest, Settings
from imrnn_vdb.points import Payload, Points, normalize_id, normalize_ids
from imrnn_vdb.results import SearchResponse, SearchResult
from imrnn_vdb.scripts import arun_script
from imrnn_vdb.shell import Shell, adopt, attached, no_progress
from imrnn_vdb.store import CollectionInfo
from imrnn_vdb.timing import Stopwatch
from imrnn_vdb.urls import parse_url
from imrnn_vdb.verify import VerifyReport, verify_script

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from imrnn_vdb.backfill import BackfillKeywords
    from imrnn_vdb.factors.tokens import TokenFactors
    from imrnn_vdb.options import ClientOptions, CreateOptions, OpenOptions, RerankOptions, SearchOptions
    from imrnn_vdb.recheck import AuditReport
    from imrnn_vdb.shell import Begin


class AsyncIMRNNCollection(Shell):
    """The asynchronous twin of :class:`IMRNNCollection`: the same methods, parameters and errors, awaited.

    Server clients are truly asynchronous; an engine in this process, and the encoder, run in worker threads.
    """

    @classmethod
    async def open(cls, url: str, model: Model = "minilm", **options: Unpack[OpenOptions]) -> Self:
        """Open an existing collection; see :meth:`IMRNNCollection.open`."""
        return await cls._start(url, model, Settings(**options), open_core)

    @classmethod
    async def from_attachment(cls, source: str | Path, **options: Unpack[OpenOptions]) -> Self:
        """Open a collection as it was recorded; see :meth:`IMRNNCollection.from_attachment`."""
        attachment, model, merged = await asyncio.to_thread(attached, source, options)
        return await cls.open(attachment.url, model, **merged)

    @classmethod
    async def from_client(
        cls, client: object, collection: str, model: Model = "minilm", **options: Unpack[ClientOptions]
    ) -> Self:
        """Use an ``AsyncQdrantClient``, ``AsyncMilvusClient`` or embedded engine of yours; it stays yours."""
        settings = Settings(**options)
        backend, connection = adopt(client, settings, asynchronous=True)
        loaded = await asyncio.to_thread(settings.load, model)
        return cls(await connection.arun(open_core(backend, connection, collection, loaded, settings)), connection)

    @classmethod
    async def create(cls, url: str, model: Model = "minilm", **options: Unpack[CreateOptions]) -> Self:
        """Create a collection and open it; see :meth:`IMRNNCollection.create`."""
        return await cls._start(url, model, Settings(**options), create_core)

    @classmethod
    async def _start(cls, url: str, model: Model, settings: Settings, begin: Begin) -> Self:
        where = parse_url(url)
        backend, connection = connect(where, settings.connection, asynchronous=True, create=begin is create_core)
        try:
            loaded = await asyncio.to_thread(settings.load, model)
            operation = begin(backend, connection, where.collection, loaded, settings)
            return cls(await connection.arun(operation), connection)
        except BaseException:
            await connection.aclose()
            raise

    async def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResponse:
        """Search, modulate, score and explain; see :meth:`IMRNNCollection.search`."""
        return (await self.search_batch(as_batch(query), **options))[0]

    async def search_batch(
        self, queries: Sequence[str] | npt.ArrayLike, **options: Unpack[SearchOptions]
    ) -> list[SearchResponse]:
        """Search many queries in one round trip and one modulation; see :meth:`IMRNNCollection.search_batch`."""
        return await self._search(queries, SearchRequest(**options))

    async def explain(self, query: Query, point_id: object, **options: Unpack[SearchOptions]) -> SearchResult:
        """Return one point of a query's window, explained; see :meth:`IMRNNCollection.explain`."""
        request = whole_window(options)
        return pick((await self._search(as_batch(query), request))[0], normalize_id(point_id))

    async def compare(
        self, query: Query, first_id: object, second_id: object, **options: Unpack[SearchOptions]
    ) -> RankComparison:
        """Say why one of two points ranks above the other; see :meth:`IMRNNCollection.compare`."""
        response = (await self._search(as_batch(query), whole_window(options)))[0]
        return compare(pick(response, normalize_id(first_id)), pick(response, normalize_id(second_id)))

    async def verify_audit(self, path: str | Path) -> AuditReport:
        """Recompute what the lines of an audit log say; see :meth:`IMRNNCollection.verify_audit`."""
        return await arun_script(self._connection, self._core.recheck(path))

    async def token_factors(self, text: str, *, query: bool = False) -> TokenFactors:
        """Say which words of a text carry a factor; see :meth:`IMRNNCollection.token_factors`."""
        return await asyncio.to_thread(self._core.token_factors, text, query)

    async def rerank(self, query: Query, ids: Iterable[object], **options: Unpack[RerankOptions]) -> SearchResponse:
        """Rank points that somebody else found; see :meth:`IMRNNCollection.rerank`."""
        queries = as_batch(query)
        if self._core.observer is None:
            return await self._ranked(queries, ids, options)
        points = normalize_ids(ids)
        with self._core.observing(queries, rerank_request(options, len(points)), "rerank") as seen:
            response = await self._ranked(queries, points, options)
            seen.responses = [response]
        return response

    async def _ranked(
        self, queries: Sequence[str] | npt.ArrayLike, ids: Iterable[object], options: RerankOptions
    ) -> SearchResponse:
        watch = Stopwatch()
        vectors = await asyncio.to_thread(self._core.query_vectors, queries)
        watch.lap("encode")
        request, window, response = await self._connection.arun(self._core.rerank(vectors, ids, options, watch))
        if self._core.log_of(request) is not None:
            await asyncio.to_thread(self._core.record, queries, vectors, request, [window], [response], "rerank")
        return response

    async def _search(self, queries: Sequence[str] | npt.ArrayLike, request: SearchRequest) -> list[SearchResponse]:
        if self._core.observer is None:
            return await self._answer(queries, request)
        with self._core.observing(queries, request) as seen:
            seen.responses = responses = await self._answer(queries, request)
        return responses

    async def _answer(self, queries: Sequence[str] | npt.ArrayLike, request: SearchRequest) -> list[SearchResponse]:
        watch = Stopwatch()
        if isinstance(queries, Sequence):  # texts, or a list; an array is checked faster than a thread starts
            vectors = await asyncio.to_thread(self._core.query_vectors, queries)
        else:
            vectors = self._core.query_vectors(queries)
        watch.lap("encode")
        windows, responses = await self._connection.arun(self._core.search(vectors, request, watch))
        if self._core.log_of(request) is not None:
            await asyncio.to_thread(self._core.record, queries, vectors, request, windows, responses)
        return responses

    async def upsert(
        self,
        ids: Iterable[object],
        *,
        texts: Sequence[str] | None = None,
        vectors: npt.ArrayLike | None = None,
        payloads: Sequence[Payload] | None = None,
    ) -> None:
        """Insert or replace points together with their codes; see :meth:`IMRNNCollection.upsert`."""
        points = await asyncio.to_thread(self._core.points, ids, texts, vectors, payloads)
        if len(points):
            await self._connection.arun(self._core.store.upsert(points))

    async def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts as queries: n texts to vectors of shape (n, d)."""
        return await asyncio.to_thread(self._core.query_vectors, texts)

    async def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts as they would be stored: n texts to vectors of shape (n, d)."""
        return await asyncio.to_thread(self._core.passage_vectors, texts)

    async def backfill(
        self, *, progress: Callable[[int], None] | None = None, **options: Unpack[BackfillKeywords]
    ) -> BackfillReport:
        """Write the codes that are missing or outdated; see :meth:`IMRNNCollection.backfill`."""
        filler = self._core.filler(BackfillOptions(**options))
        return await arun_script(self._connection, backfill_script(filler, progress or no_progress))

    async def add_code_vector(self) -> None:
        """Give the collection a vector of its own for codes; see :meth:`IMRNNCollection.add_code_vector`."""
        await self._connection.arun(self._core.store.add_code_vector())

    async def verify(
        self,
        sample: int | None = 1_000,
        *,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[BackfillKeywords],
    ) -> VerifyReport:
        """Recompute codes and compare; see :meth:`IMRNNCollection.verify`."""
        filler = self._core.filler(BackfillOptions(**options))
        return await arun_script(self._connection, verify_script(filler, sample, progress or no_progress))

    async def undo(
        self,
        space_id: str | None = None,
        *,
        in_place: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Remove what was written; see :meth:`IMRNNCollection.undo`."""
        space = self.model.space.space_id if space_id is None else space_id
        script = undo_script(self._core.store, space, in_place, progress or no_progress)
        return await arun_script(self._connection, script)

    async def payload_for(self, vectors: npt.ArrayLike) -> list[Payload]:
        """Return the fields that writers of their own add; see :meth:`IMRNNCollection.payload_for`."""
        return await asyncio.to_thread(self._core.payload_for, vectors)

    async def fetch(self, ids: Iterable[object], with_vectors: bool = False) -> Points:
        """Read points by id, in the order asked for; ids that do not exist are left out."""
        return await self._connection.arun(self._core.store.fetch(normalize_ids(ids), with_vectors))

    async def peek(self, limit: int = 10) -> Points:
        """Read some points with vectors and payloads: those that the database comes to first."""
        return await self._connection.arun(self._core.peek(limit))

    async def sample(self, limit: int = 5000, seed: int = 0) -> Points:
        """Draw points evenly from the whole collection; see :meth:`IMRNNCollection.sample`."""
        return await arun_script(self._connection, self._core.sample(limit, seed))

    async def count(self, payload_filter: Any = None, factor_filter: FactorFilter | str | None = None) -> int:
        """Count points exactly."""
        return await self._connection.arun(self._core.count(payload_filter, factor_filter))

    async def delete(self, ids: Iterable[object]) -> None:
        """Delete points; ids that do not exist are ignored."""
        await self._connection.arun(self._core.store.delete(normalize_ids(ids)))

    async def info(self) -> CollectionInfo:
        """Describe server and collection."""
        return await self._connection.arun(self._core.store.info())

    async def drop(self) -> None:
        """Delete the collection and all its points."""
        await self._connection.arun(self._core.store.drop())

    async def close(self) -> None:
        """Close the connection, unless the client is yours."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

"""The facade: a collection in Qdrant or Milvus whose results are modulated, filtered and explained.

All decisions stand in :mod:`imrnn_vdb.core`, as operations; this class and its asynchronous twin
(:mod:`imrnn_vdb.async_collection`) differ in how they run one.
"""

from __future__ import annotations

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
from imrnn_vdb.scripts import run_script
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


class IMRNNCollection(Shell):
    """A collection in Qdrant or Milvus with modulated, filtered, explained search.

    Made by :meth:`open` (a URL), :meth:`from_client` (a client of yours) or :meth:`create`. As thread-safe as its
    client.

    Examples
    --------
    >>> collection = IMRNNCollection.open("qdrant://localhost:6334/articles")  # doctest: +SKIP
    >>> for result in collection.search("who discovered penicillin", limit=3):  # doctest: +SKIP
    ...     print(result.rank, result.id, result.score, result.base_rank)
    """

    @classmethod
    def open(cls, url: str, model: Model = "minilm", **options: Unpack[OpenOptions]) -> Self:
        """Open an existing collection.

        Parameters
        ----------
        url
            ``qdrant://host:6334/NAME``, ``qdrant+edge:PATH/NAME``, ``qdrant+local:PATH/NAME``,
            ``milvus://host:19530/NAME`` or ``milvus+lite:FILE.db/NAME``.
        model
            A checkpoint: loaded, or a folder, a shipped name, or a Hugging Face repo id.
        options
            ``encoder=None, vector_name="", text_field="text", timeout=10.0, attempts=4, device="cpu",
            precision="float32", code_dtype="float16", guard=None, modulation_timeout=None, audit=None,
            observer=None, api_key=None, tls=None``; see :class:`imrnn_vdb.options.Settings`.

        Raises
        ------
        InvalidInputError
            For a URL or an option that makes no sense, or where several vectors fit the model.
        MissingExtraError
            If what speaks to this database is not installed.
        StoreError
            If the server cannot be reached or has no such collection.
        SpaceMismatchError
            If the collection's vectors do not fit the model.
        CheckpointError
            If the model cannot be loaded.
        """
        return cls._start(url, model, Settings(**options), open_core)

    @classmethod
    def from_attachment(cls, source: str | Path, **options: Unpack[OpenOptions]) -> Self:
        """Open a collection as ``imrnn-vdb attach`` recorded it.

        Parameters
        ----------
        source
            The file; or the collection's URL, where the record lies in the collection (``--in-collection``).
        options
            As for :meth:`open`; they go before what is recorded, but a recorded guard stays.

        Raises
        ------
        InvalidInputError
            If there is no attachment, or it has a guard and ``guard=`` is given.
        SpaceMismatchError
            If the model now has another space than the one that was attached.
        """
        attachment, model, merged = attached(source, options)
        return cls.open(attachment.url, model, **merged)

    @classmethod
    def from_client(
        cls, client: object, collection: str, model: Model = "minilm", **options: Unpack[ClientOptions]
    ) -> Self:
        """Use a ``QdrantClient``, a ``MilvusClient`` or an Edge shard of yours; it stays yours, and open.

        Parameters
        ----------
        client
            The client.
        collection
            Name of the collection; of an Edge shard, which holds one, any name you like.
        model, options
            As for :meth:`open`, without ``api_key`` and ``tls``.
        """
        settings = Settings(**options)
        backend, connection = adopt(client, settings, asynchronous=False)
        return cls(
            connection.run(open_core(backend, connection, collection, settings.load(model), settings)), connection
        )

    @classmethod
    def create(cls, url: str, model: Model = "minilm", **options: Unpack[CreateOptions]) -> Self:
        """Create a collection with room for base vectors and codes, and open it.

        Parameters
        ----------
        url, model
            As for :meth:`open`.
        options
            Those of :meth:`open`, and ``metric="cosine", id_type="str", code_storage=None``; see
            :class:`imrnn_vdb.options.Settings`.

        Raises
        ------
        CollectionExistsError
            If there is a collection of that name; it is not touched.
        """
        return cls._start(url, model, Settings(**options), create_core)

    @classmethod
    def _start(cls, url: str, model: Model, settings: Settings, begin: Begin) -> Self:
        where = parse_url(url)
        backend, connection = connect(where, settings.connection, asynchronous=False, create=begin is create_core)
        try:
            loaded = settings.load(model)
            return cls(connection.run(begin(backend, connection, where.collection, loaded, settings)), connection)
        except BaseException:
            connection.close()
            raise

    def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResponse:
        """Search, modulate, score and explain.

        Parameters
        ----------
        query
            A text, or a query vector of shape (d,).
        options
            ``limit=10, offset=0, coarse_k=None, payload_filter=None, factor_filter=None, only=None, steer=None,
            max_coarse_k=None, threshold=None, explain=False, plan=False, trace=False, modulate=None, passes=1,
            audit=None, topics=None``; see :class:`imrnn_vdb.options.SearchRequest`.

        Returns
        -------
        SearchResponse
            At most ``limit`` results by rank.

        Raises
        ------
        InvalidInputError
            For an empty text, NaN, or options that contradict each other.
        SpaceMismatchError
            For a vector of another dimension.
        StoreError
            What the database answered, after bounded retries.
        AuditError
            If the search cannot be recorded in a log that requires it.
        """
        return self.search_batch(as_batch(query), **options)[0]

    def search_batch(
        self, queries: Sequence[str] | npt.ArrayLike, **options: Unpack[SearchOptions]
    ) -> list[SearchResponse]:
        """Search many queries in one round trip and one modulation.

        Parameters
        ----------
        queries
            n texts, or query vectors of shape (n, d).
        options
            As for :meth:`search`, the same for all queries.

        Returns
        -------
        list of SearchResponse
            n responses, in the order of the queries.
        """
        return self._search(queries, SearchRequest(**options))

    def explain(self, query: Query, point_id: object, **options: Unpack[SearchOptions]) -> SearchResult:
        """Return one point of a query's window, with its rank there and its score's parts.

        Raises
        ------
        InvalidInputError
            If the point is not among the query's candidates.
        """
        request = whole_window(options)
        return pick(self._search(as_batch(query), request)[0], normalize_id(point_id))

    def compare(
        self, query: Query, first_id: object, second_id: object, **options: Unpack[SearchOptions]
    ) -> RankComparison:
        """Say why one of two points ranks above the other: the exact differences of their parts, and what decides.

        Raises
        ------
        InvalidInputError
            If one of them is not among the query's candidates.
        """
        response = self._search(as_batch(query), whole_window(options))[0]
        return compare(pick(response, normalize_id(first_id)), pick(response, normalize_id(second_id)))

    def verify_audit(self, path: str | Path) -> AuditReport:
        """Recompute what the lines of an audit log say, with the codes that are stored now; nothing is written.

        Raises
        ------
        InvalidInputError
            If the file cannot be read.
        """
        return run_script(self._connection, self._core.recheck(path))

    def token_factors(self, text: str, *, query: bool = False) -> TokenFactors:
        """Say which words of a text carry a factor; see :func:`imrnn_vdb.factors.tokens.token_factors`."""
        return self._core.token_factors(text, query)

    def rerank(self, query: Query, ids: Iterable[object], **options: Unpack[RerankOptions]) -> SearchResponse:
        """Rank points that somebody else found, as a search does whose window holds exactly these.

        They are read by id, with vectors and codes, in one call; base scores come from the vectors.

        Parameters
        ----------
        query
            A text, or a query vector of shape (d,).
        ids
            The points; ids that do not exist are left out.
        options
            ``limit=None, factor_filter=None, only=None, steer=None, threshold=None, explain=False, modulate=None,
            audit=None, topics=None``, as for :meth:`search`; without a limit, all are returned.

        Raises
        ------
        InvalidInputError, SpaceMismatchError, StoreError, AuditError
            As for :meth:`search`.
        """
        queries = as_batch(query)
        if self._core.observer is None:
            return self._ranked(queries, ids, options)
        points = normalize_ids(ids)
        with self._core.observing(queries, rerank_request(options, len(points)), "rerank") as seen:
            response = self._ranked(queries, points, options)
            seen.responses = [response]
        return response

    def _ranked(
        self, queries: Sequence[str] | npt.ArrayLike, ids: Iterable[object], options: RerankOptions
    ) -> SearchResponse:
        watch = Stopwatch()
        vectors = self._core.query_vectors(queries)
        watch.lap("encode")
        request, window, response = self._connection.run(self._core.rerank(vectors, ids, options, watch))
        self._core.record(queries, vectors, request, [window], [response], "rerank")
        return response

    def _search(self, queries: Sequence[str] | npt.ArrayLike, request: SearchRequest) -> list[SearchResponse]:
        if self._core.observer is None:
            return self._answer(queries, request)
        with self._core.observing(queries, request) as seen:
            seen.responses = responses = self._answer(queries, request)
        return responses

    def _answer(self, queries: Sequence[str] | npt.ArrayLike, request: SearchRequest) -> list[SearchResponse]:
        watch = Stopwatch()
        vectors = self._core.query_vectors(queries)
        watch.lap("encode")
        windows, responses = self._connection.run(self._core.search(vectors, request, watch))
        self._core.record(queries, vectors, request, windows, responses)
        return responses

    def upsert(
        self,
        ids: Iterable[object],
        *,
        texts: Sequence[str] | None = None,
        vectors: npt.ArrayLike | None = None,
        payloads: Sequence[Payload] | None = None,
    ) -> None:
        """Insert or replace points together with their codes.

        A point that is there is replaced whole: its payload, and in Qdrant its other named vectors, are gone.

        Parameters
        ----------
        ids
            n integers, strings or UUIDs.
        texts
            n texts; encoded where no vectors are given, and stored under the text field.
        vectors
            Shape (n, d) base vectors.
        payloads
            n payloads; they are copied, never changed.
        """
        points = self._core.points(ids, texts, vectors, payloads)
        if len(points):
            self._connection.run(self._core.store.upsert(points))

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts as queries: n texts to vectors of shape (n, d)."""
        return self._core.query_vectors(texts)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts as they would be stored: n texts to vectors of shape (n, d)."""
        return self._core.passage_vectors(texts)

    def backfill(
        self, *, progress: Callable[[int], None] | None = None, **options: Unpack[BackfillKeywords]
    ) -> BackfillReport:
        """Write code and factor scores of every point that lacks a current one, from its stored vector.

        No text is encoded; base vectors and foreign payload stay as they are. Safe to kill, and safe beside other
        writers (``docs/backfill.md``). Run again, it writes only what is new or has changed.

        Parameters
        ----------
        progress
            Called with the number of points done since the last call.
        options
            ``batch_size=500, rate=None, limit=None, payload_filter=None, dry_run=False, in_place=False``; see
            :class:`imrnn_vdb.backfill.BackfillOptions`.

        Raises
        ------
        UnsupportedError
            If codes lie in rows of a Milvus collection, and ``in_place`` does not say that nobody else writes.
        StoreError
            If the database cannot be reached any longer; what is done stays done.
        """
        filler = self._core.filler(BackfillOptions(**options))
        return run_script(self._connection, backfill_script(filler, progress or no_progress))

    def add_code_vector(self) -> None:
        """Give the collection a vector of its own for codes, once; later backfills and searches of this object use it.

        Codes are then no part of the payload that your own reads return. They are missing until they are backfilled;
        other processes go on with the payload until they open the collection anew. Only :meth:`undo` removes it.

        Raises
        ------
        UnsupportedError
            If the server cannot add a vector to an existing collection (Qdrant before 1.18, Milvus); the codes then
            stay where they are, and nothing was changed.
        StoreUnavailableError
            If the collection is still taking on the vector: call again later.
        """
        self._connection.run(self._core.store.add_code_vector())

    def verify(
        self,
        sample: int | None = 1_000,
        *,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[BackfillKeywords],
    ) -> VerifyReport:
        """Recompute the codes of a random sample of points, or of all (None), and compare; nothing is written.

        Of the keywords of :meth:`backfill`, ``batch_size`` and ``payload_filter`` count, and ``limit`` where all are
        compared.
        """
        filler = self._core.filler(BackfillOptions(**options))
        return run_script(self._connection, verify_script(filler, sample, progress or no_progress))

    def undo(
        self,
        space_id: str | None = None,
        *,
        in_place: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Remove codes, factor scores, their indexes and their sidecar, and nothing else.

        Parameters
        ----------
        space_id
            Of which space; None for this model's.
        in_place
            Say that nobody else writes now, so that Milvus may rewrite rows that hold codes.
        progress
            Called with the number of points stripped since the last call.

        Returns
        -------
        int
            How many points held codes themselves; those in a sidecar are not counted.
        """
        space = self.model.space.space_id if space_id is None else space_id
        return run_script(self._connection, undo_script(self._core.store, space, in_place, progress or no_progress))

    def payload_for(self, vectors: npt.ArrayLike) -> list[Payload]:
        """Return the fields that writers of their own add to n points, from their vectors of shape (n, d).

        On Qdrant they are payload keys, and where codes lie in a named vector, its value is among them. On Milvus they
        are fields of the row, or of the row of the same key in the sidecar collection, where there is one.
        """
        return self._core.payload_for(vectors)

    def fetch(self, ids: Iterable[object], with_vectors: bool = False) -> Points:
        """Read points by id, in the order asked for; ids that do not exist are left out."""
        return self._connection.run(self._core.store.fetch(normalize_ids(ids), with_vectors))

    def peek(self, limit: int = 10) -> Points:
        """Read some points with vectors and payloads: those that the database comes to first."""
        return self._connection.run(self._core.peek(limit))

    def sample(self, limit: int = 5000, seed: int = 0) -> Points:
        """Draw points with vectors and payloads evenly from the whole collection: all of them where there are fewer.

        Those whose vector holds NaN or infinity, which have no code, are left out.
        """
        return run_script(self._connection, self._core.sample(limit, seed))

    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | str | None = None) -> int:
        """Count points exactly, by the factor scores that are stored, which zero vectors have too."""
        return self._connection.run(self._core.count(payload_filter, factor_filter))

    def delete(self, ids: Iterable[object]) -> None:
        """Delete points; ids that do not exist are ignored."""
        self._connection.run(self._core.store.delete(normalize_ids(ids)))

    def info(self) -> CollectionInfo:
        """Describe server and collection."""
        return self._connection.run(self._core.store.info())

    def drop(self) -> None:
        """Delete the collection and all its points."""
        self._connection.run(self._core.store.drop())

    def close(self) -> None:
        """Close the connection, unless the client is yours."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

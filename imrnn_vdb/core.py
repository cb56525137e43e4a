"""All decisions about a collection, without I/O: operations out, results in. The shells in ``collection`` run them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.audit import AuditLog, audit_entries, read_audit
from imrnn_vdb.backfill import BackfillOptions, Filler
from imrnn_vdb.backfill_plan import fresh_codes
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import Codes, FloatArray, decode_rows, encode_rows, encode_texts
from imrnn_vdb.completing import complete_pages
from imrnn_vdb.connection import Operation
from imrnn_vdb.encoders import AnyEncoder, Encoder, as_encoder, one_each
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filter_text import as_filter
from imrnn_vdb.filters import FactorFilter, factor_names
from imrnn_vdb.hints import Hints
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric, base_scores
from imrnn_vdb.options import RerankOptions, SearchRequest, whole_number
from imrnn_vdb.payloads import valid_text
from imrnn_vdb.planning import QueryPlan, checked_condition, largest_window, split_filter
from imrnn_vdb.points import Candidates, Payload, PointId, Points, normalize_ids
from imrnn_vdb.recheck import AuditReport, recheck
from imrnn_vdb.rerank import check_answerable, given_window, respond
from imrnn_vdb.results import SearchResponse, SearchResult, build_results, make_response
from imrnn_vdb.scripts import Round, Script, draw_script
from imrnn_vdb.space import FactorSpace, check_vectors, measurable
from imrnn_vdb.store import Store
from imrnn_vdb.time_limit import TimeLimit
from imrnn_vdb.timing import Stopwatch
from imrnn_vdb.trace import StepTrace, trace_windows
from imrnn_vdb.windows import Window, WindowSearch, refine_in_time

if TYPE_CHECKING:
    from imrnn_vdb.factors.tokens import TokenFactors
    from imrnn_vdb.observability.observer import Observation, Observer
    from imrnn_vdb.options import SearchOptions

Query = str | npt.ArrayLike
_SAMPLE_PAGE = 500


@dataclass(slots=True)
class CollectionCore:
    """A collection as the model sees it.

    Attributes
    ----------
    model
        Space, modulator and encoder configuration.
    store
        Translates to one collection of one database.
    metric
        Of the base vector.
    text_field
        Payload key of the text.
    encoder
        What the caller gave, or None for the model's own; built when the first text comes.
    limit
        Of the time that one modulation may take; None for none.
    log
        What every search is recorded in; None for nothing.
    observer
        Who is told of each search; None for nobody.
    """

    model: IMRNNModel
    store: Store
    metric: Metric
    text_field: str
    encoder: AnyEncoder | None
    limit: TimeLimit | None = None
    log: AuditLog | None = None
    observer: Observer | None = None
    _built: Encoder | None = field(default=None, init=False)
    _reaches: Hints[Hashable, tuple[int, ...]] = field(default_factory=Hints, init=False, repr=False)
    _building: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def query_vectors(self, queries: Sequence[str] | npt.ArrayLike) -> FloatArray:
        """Turn n query texts, or vectors of shape (n, d), into checked query vectors of shape (n, d)."""
        dim = self.model.space.dim
        if isinstance(queries, np.ndarray):
            return check_vectors(queries, dim)
        if isinstance(queries, str):
            raise InvalidInputError("search_batch takes a list of queries; use search for a single text")
        if isinstance(queries, Sequence) and not queries:
            return np.zeros((0, dim), np.float32)
        texts = [query for query in queries if isinstance(query, str)] if isinstance(queries, Sequence) else []
        if not texts:
            return check_vectors(queries, dim)
        if len(texts) != len(queries):  # type: ignore[arg-type]
            raise InvalidInputError("the queries of a batch are all texts or all vectors")
        for i, text in enumerate(texts):
            if not valid_text(text).strip():
                raise InvalidInputError(f"query {i} is empty: give a text or a vector")
        return one_each(check_vectors(self._encoder().encode_queries(texts), dim), texts)

    def points(
        self,
        ids: Iterable[object],
        texts: Sequence[str] | None,
        vectors: npt.ArrayLike | None,
        payloads: Sequence[Payload] | None,
    ) -> Points:
        """Check what is to be written, encode texts that come without vectors, and compute codes and factor scores."""
        keys = normalize_ids(ids)
        if isinstance(texts, str):
            raise InvalidInputError("texts come as a list, one for each id")
        if texts is None and vectors is None:
            raise InvalidInputError("give texts, vectors or both")
        for name, values in (("texts", texts), ("vectors", vectors), ("payloads", payloads)):
            if values is not None and len(values) != len(keys):  # type: ignore[arg-type]
                raise InvalidInputError(f"{len(keys)} ids, but {len(values)} {name}")  # type: ignore[arg-type]
        own = [_own_payload(payload) for payload in payloads] if payloads is not None else [{} for _ in keys]
        if texts is not None:
            own = [{**payload, self.text_field: valid_text(text)} for payload, text in zip(own, texts, strict=True)]
        if not keys:
            return Points([], None, [])
        dim = self.model.space.dim
        table = check_vectors(vectors, dim) if vectors is not None else self.passage_vectors(list(texts or ()))
        codes = fresh_codes(self.model.space, self.metric, table)
        return Points(keys, table, own, codes, self.model.space.factor_scores(codes.directions))

    def search(
        self, query_vectors: FloatArray, request: SearchRequest, watch: Stopwatch
    ) -> Operation[tuple[list[Window], list[SearchResponse]]]:
        """Fetch the candidates of all queries in one round trip, modulate them at once, and build the responses.

        Where payloads are dearer to read than codes, another call reads those of the results alone.

        Returns
        -------
        tuple
            n windows, and the n responses that came from them.
        """
        check_answerable(self.metric, query_vectors)
        plan = self._plan(request)
        if not len(query_vectors):
            return [], []
        active = request.modulates(self.model)
        windows = yield from WindowSearch(
            self.model,
            self.store,
            self.metric,
            request,
            plan,
            active,
            watch,
            self.limit,
            self._reaches,
            whole=self.log_of(request) is not None,
        ).run(query_vectors)
        windows, rows = yield from complete_pages(self.store, windows, request)
        watch.lap("database")
        pages = [
            build_results(self.model.space, window.candidates, window.refined, request, page)
            for window, page in zip(windows, rows, strict=True)
        ]
        watch.lap("modulate")
        traces: Sequence[StepTrace | None] = [None] * len(pages)
        if request.trace:
            ids = [[result.id for result in page] for page in pages]
            traces = trace_windows(self.model, self.metric, query_vectors, windows, ids, request.steer)
        return windows, [
            make_response(
                self.model,
                request,
                window.candidates,
                window.refined,
                page,
                watch.laps,
                coarse_k=window.size,
                growth=window.growth,
                plan=plan if request.plan else None,
                trace=trace,
            )
            for page, window, trace in zip(pages, windows, traces, strict=True)
        ]

    def rerank(
        self, query_vectors: FloatArray, ids: Iterable[object], options: RerankOptions, watch: Stopwatch
    ) -> Operation[tuple[SearchRequest, Window, SearchResponse]]:
        """Read points by id and rank them for one query, of shape (1, d), as a search does that found exactly these."""
        check_answerable(self.metric, query_vectors)
        keys = list(dict.fromkeys(map(self.store.key_of, normalize_ids(ids))))  # a point has two names on Qdrant
        points = yield from self.store.fetch(keys, with_vectors=True)
        watch.lap("database")
        request = rerank_request(options, len(points))
        condition = checked_condition(self.model.space, self.metric, request)
        active = request.modulates(self.model)
        candidates = self._fetched(points, query_vectors[0])
        [refined] = yield from refine_in_time(self.model, self.metric, query_vectors, [candidates], active, self.limit)
        watch.lap("modulate")
        window = given_window(self.model, request, condition, candidates, refined)
        return request, window, respond(self.model, request, window, watch.laps)

    def _fetched(self, points: Points, query_vector: FloatArray) -> Candidates:
        """Make candidates of points that were read; without those whose vector is not finite, which have no score."""
        table = points.vectors if len(points) and points.vectors is not None else query_vector[None][:0]
        base = base_scores(self.metric, query_vector, table)
        codes = points.codes or decode_rows([None] * len(points), self.model.space.num_factors)
        return Candidates(points.ids, base, codes, points.payloads).finite()

    def record(
        self,
        queries: Sequence[str] | npt.ArrayLike,
        vectors: FloatArray,
        request: SearchRequest,
        windows: Sequence[Window],
        responses: Sequence[SearchResponse],
        kind: Literal["search", "rerank"] = "search",
    ) -> None:
        """Write searches, or a reranking, to the audit log of the request, or to the collection's."""
        log = self.log_of(request)
        if log is not None and responses:
            texts = [query if isinstance(query, str) else None for query in queries]  # type: ignore[union-attr]
            asked = texts, vectors, self.model.space.encode(vectors)
            log.append(audit_entries(self.store.collection, request, asked, windows, responses, kind))

    def log_of(self, request: SearchRequest) -> AuditLog | None:
        """Return what a search is recorded in: the request's own log, else the collection's."""
        return request.log or self.log

    def recheck(self, path: str | Path) -> Script[AuditReport]:
        """Recompute what an audit log says, each line with its own deadline."""
        verdicts = []
        for line, entry in read_audit(path):
            [verdict] = yield Round((recheck(self, line, entry),))
            verdicts.append(verdict)
        return AuditReport(tuple(verdicts))

    def observing(
        self,
        queries: Sequence[str] | npt.ArrayLike,
        request: SearchRequest,
        kind: Literal["search", "rerank"] = "search",
    ) -> AbstractContextManager[Observation]:
        """Tell the observer of a search, or a reranking, that happens inside."""
        from imrnn_vdb.observability.observer import Observation, observing

        assert self.observer is not None  # noqa: S101 - asked for only where there is one
        seen: Any = queries
        return observing(self.observer, Observation(kind, self.store.collection, self.model.space, seen, request))

    def peek(self, limit: int) -> Operation[Points]:
        """Read the points that the database comes to first, with their vectors."""
        page = yield from self.store.scroll(limit, with_vectors=True)
        return page.points

    def sample(self, limit: int, seed: int) -> Script[Points]:
        """Draw points with their vectors evenly: the whole collection is read once, each page with its own deadline.

        Points whose vector is not :func:`measurable` are left out: they have no code.
        """

        def measured(points: Points) -> Iterable[tuple[PointId, FloatArray, Payload]]:
            table = points.vectors if points.vectors is not None else np.zeros((0, self.model.space.dim), np.float32)
            return compress(zip(points.ids, table, points.payloads, strict=True), measurable(table))

        pages = partial(self.store.scroll, _SAMPLE_PAGE, with_vectors=True)
        kept = yield from draw_script(pages, measured, limit, seed)
        vectors = [vector for _, vector, _ in kept]
        return Points(
            [point_id for point_id, _, _ in kept],
            np.stack(vectors) if vectors else np.zeros((0, self.model.space.dim), np.float32),
            [payload for _, _, payload in kept],
        )

    def _plan(self, request: SearchRequest) -> QueryPlan:
        """Say what of a request runs where; names are checked, and what this metric cannot answer is refused."""
        condition = checked_condition(self.model.space, self.metric, request)
        largest = largest_window(request.window, request.max_coarse_k, self.store.largest_window)
        database, here = split_filter(condition, self.store.filters_factors)
        if here is None:
            largest = request.window
        return QueryPlan(database, here, request.payload_filter is not None, request.window, largest)

    def count(self, payload_filter: Any, factor_filter: FactorFilter | str | None) -> Operation[int]:
        """Count points exactly."""
        condition = as_filter(factor_filter)
        self._check_names(factor_names(condition) if condition is not None else ())
        database, here = split_filter(condition, self.store.filters_factors)
        if here is not None:
            why = "conditions on a match need a query" if self.store.filters_factors else "it stores no factor scores"
            raise InvalidInputError(f"the database counts, and cannot evaluate this factor filter: {why}")
        return (yield from self.store.count(payload_filter, database))

    def _check_names(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self.model.space.index(name)

    def filler(self, options: BackfillOptions) -> Filler:
        """Return what fills in the codes of this collection."""
        return Filler(self.store, self.model.space, self.metric, options)

    def payload_for(self, vectors: npt.ArrayLike) -> list[Payload]:
        """Compute what writers of their own store with n vectors of shape (n, d)."""
        return stored_fields(self.model.space, self.store.layout, fresh_codes(self.model.space, self.metric, vectors))

    def passage_vectors(self, texts: Sequence[str]) -> FloatArray:
        """Turn n passages into checked vectors of shape (n, d)."""
        if isinstance(texts, str):
            raise InvalidInputError("texts come as a list, one for each vector")
        if not len(texts):
            return np.zeros((0, self.model.space.dim), np.float32)
        passages = [valid_text(text) for text in texts]
        return one_each(check_vectors(self._encoder().encode_passages(passages), self.model.space.dim), passages)

    def token_factors(self, text: str, query: bool) -> TokenFactors:
        """Take a text's code apart by words."""
        from imrnn_vdb.factors.tokens import token_factors

        return token_factors(self._encoder(), self.model.space, valid_text(text), query=query)

    def _encoder(self) -> Encoder:
        with self._building:  # two first searches at once must not load it twice
            if self._built is None:
                source = self.encoder if self.encoder is not None else self.model.encoder
                if source is None:
                    raise InvalidInputError("this model has no encoder: in Python, pass encoder= or ask by vector")
                self._built = as_encoder(source)
            return self._built


def stored_fields(space: FactorSpace, layout: Layout, codes: Codes) -> list[Payload]:
    """Return the fields that hold n current codes and their factor scores."""
    scores = space.factor_scores(codes.directions)
    stored: Sequence[Any] = (
        encode_rows(codes, layout.code_dtype).tolist()
        if layout.code_storage == "vector"
        else encode_texts(codes, layout.space_id, layout.code_dtype)
    )
    keys = [layout.factor_field(name) for name in layout.factor_names]
    return [
        {layout.code_field: code, **dict(zip(keys, row, strict=True))}
        for code, row in zip(stored, scores.tolist(), strict=True)
    ]


def whole_window(options: SearchOptions) -> SearchRequest:
    """Return a request for every candidate of the window that a search with these options has, explained."""
    wanted: Any = {"limit": 1, **options}  # a small window is no error for want of results
    request = SearchRequest(**wanted)
    everything = request.window * request.passes
    return replace(
        request,
        limit=everything,
        offset=0,
        coarse_k=request.window,
        threshold=None,
        explain=True,
        max_coarse_k=request.window,
        plan=False,
        trace=False,
    )


def rerank_request(options: RerankOptions, count: int) -> SearchRequest:
    """Return the request of a reranking of so many points."""
    if foreign := sorted(set(options) - RerankOptions.__annotations__.keys()):
        raise InvalidInputError(f"rerank takes no {', '.join(foreign)}: nothing is searched for")
    size = max(1, count)  # of an empty list nothing can be asked
    given: Any = options.get("limit")
    limit: Any = size if given is None else whole_number("limit", given)
    wanted: Any = {**options, "limit": min(limit, size), "coarse_k": size}
    return SearchRequest(**wanted)


def pick(response: SearchResponse, point_id: PointId) -> SearchResult:
    """Return one point of a response, or say that it is not among the candidates."""
    for result in response:
        if result.id == point_id:
            return result
    raise InvalidInputError(
        f"point {point_id!r} is not among the {response.candidates} candidates of this query, or does not pass "
        "its filter: if there is such a point, pass a larger coarse_k, or leave the filter out"
    )


def as_batch(query: Query) -> Sequence[str] | npt.ArrayLike:
    """Make a batch of one of a text, or of a vector of shape (d,)."""
    if isinstance(query, str):
        return [query]
    try:
        vector = np.asarray(query)
    except ValueError as exc:  # rows of several lengths
        raise InvalidInputError(f"a query is a text or a vector of shape (d,): {exc}") from exc
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise InvalidInputError(f"a query is a text or a vector of shape (d,), got an array of shape {vector.shape}")
    return vector[None]


def _own_payload(payload: Payload) -> Payload:
    if not isinstance(payload, Mapping):
        raise InvalidInputError(f"a payload is a mapping of keys to values, got {payload!r}")
    return dict(payload)

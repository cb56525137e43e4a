"""The benchmark itself: end to end against rivals, then stage by stage, then sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from imrnn_vdb.async_collection import AsyncIMRNNCollection
from imrnn_vdb.bench.measure import Task, interleaved
from imrnn_vdb.bench.report import BenchReport, Figure, figures, machine
from imrnn_vdb.bench.rivals import imrnns_adapter, vendor_search
from imrnn_vdb.bench.synthetic import random_candidates, random_model, random_vectors
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import FloatArray, decode_texts, encode_texts
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import factor, match
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import passing
from imrnn_vdb.refine import refine
from imrnn_vdb.results import build_results

LIMIT = 10
_FILL_ROWS = 1000
_QUERIES = 256


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is measured.

    Attributes
    ----------
    coarse_k
        Candidates of the end-to-end figures.
    rounds, calls
        Turns that each rival gets, and calls in each.
    sweep_coarse_k, sweep_factors, sweep_batch
        Values of the three sweeps that need no database of their own; empty to leave one out.
    sizes
        Points of the synthetic collections; the first one serves the end-to-end figures.
    """

    coarse_k: int = 100
    rounds: int = 7
    calls: int = 30
    sweep_coarse_k: Sequence[int] = (50, 100, 200, 500, 1000, 2000)
    sweep_factors: Sequence[int] = (16, 32, 64, 128, 256, 384)
    sweep_batch: Sequence[int] = (1, 4, 16, 64, 256)
    sizes: Sequence[int] = (20_000,)

    def __post_init__(self) -> None:
        values = [*self.sweep_coarse_k, *self.sweep_factors, *self.sweep_batch, *self.sizes]
        if min(self.coarse_k, self.rounds, self.calls, *values) < 1 or self.coarse_k < LIMIT:
            raise InvalidInputError(f"all numbers of a benchmark are at least 1, coarse_k at least {LIMIT}")


def bench_collection(
    collection: IMRNNCollection, options: BenchOptions, url: str = "", queries: FloatArray | None = None
) -> BenchReport:
    """Measure a collection of yours; nothing is written.

    Parameters
    ----------
    collection
        Opened with a model whose codes it holds.
    options
        How much is measured.
    url
        To open it a second time, for concurrent searches; "" to leave these out.
    queries
        Shape (n, d) query vectors; None to take stored vectors.

    Raises
    ------
    InvalidInputError
        If the collection is empty.
    """
    if queries is None:
        queries = collection.peek(_QUERIES).vectors
        if queries is None or not len(queries):
            raise InvalidInputError("the collection is empty: there is nothing to measure")
    found = end_to_end(collection, queries, options)
    found += batches(collection, queries, options, url)
    info = collection.info()
    setting = {**machine(), "server": info.server, "points": info.count, "dim": queries.shape[1]}
    return BenchReport({**setting, "factors": collection.model.space.num_factors, "coarse_k": options.coarse_k}, found)


def bench_synthetic(
    options: BenchOptions, url: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> BenchReport:
    """Measure a random model on random points, in collections that are made for it and dropped at the end.

    Parameters
    ----------
    options
        How much is measured.
    url
        Where to make the collections, without their name (``milvus://localhost:19530``); None for Qdrant Edge in a
        temporary folder.
    progress
        Told what is done next.
    """
    model, found = random_model(), []
    setting: dict[str, Any] = {**machine(), "dim": model.space.dim, "factors": model.space.num_factors}
    with TemporaryDirectory() as folder:
        for number, size in enumerate(options.sizes):
            progress(f"making a collection of {size:,} points")
            where = f"{url or f'qdrant+edge:{folder}'}/imrnn_bench_{size}"
            with IMRNNCollection.create(where, model, timeout=600.0) as collection:
                try:
                    _fill(collection, size)
                    queries = random_vectors(_QUERIES, seed=3)
                    progress(f"searching among {size:,} points")
                    times = end_to_end(collection, queries, options)
                    if not number:
                        setting |= {"server": collection.info().server, "points": size, "coarse_k": options.coarse_k}
                        found += times + batches(collection, queries, options, where if url else "")
                    found += [_at("points", f, size) for f in times[:2]]
                finally:
                    collection.drop()
    progress("stages and sweeps without a database")
    return BenchReport(setting, found + stages(model, options) + sweeps(options))


def end_to_end(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions) -> list[Figure]:
    """Compare a modulated search with the vendor's ids alone, and with base vectors and ``imrnns``."""
    fetch, k = vendor_search(collection), options.coarse_k
    adapter = imrnns_adapter(queries.shape[1])

    def ours(**more: Any) -> Task:
        return lambda i: collection.search(queries[i % len(queries)], limit=LIMIT, coarse_k=k, modulate=True, **more)

    tasks: dict[str, Task] = {
        "vendor, ids only": lambda i: fetch(queries[i % len(queries)], k, False),
        "modulated search": ours(),
        "modulated search, explained": ours(explain=True),
        "vendor, with base vectors": lambda i: fetch(queries[i % len(queries)], k, True),
    }
    if not isinstance(adapter, str):

        def rival(i: int) -> object:
            query = queries[i % len(queries)]
            ids, vectors = fetch(query, k, True)
            return adapter.rank_embeddings(query, vectors, document_ids=[str(value) for value in ids], top_k=LIMIT)

        tasks["vendor, base vectors, imrnns"] = rival
    found = figures("search", interleaved(tasks, options.rounds, options.calls), relative=True)
    if isinstance(adapter, str):
        found.append(Figure.missing("search", "vendor, base vectors, imrnns", adapter))
    laps = [collection.search(query, limit=LIMIT, coarse_k=k, modulate=True).timings for query in queries[:50]]
    for name in laps[0]:
        times = np.array([[lap.get(name, 0.0) for lap in laps]])
        found += figures("stages of a search", {name: times})
    return found


def batches(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions, url: str) -> list[Figure]:
    """Compare 64 single searches with one batch, and with concurrent asynchronous ones."""
    k, many = options.coarse_k, [queries[i % len(queries)] for i in range(64)]
    how: dict[str, Any] = {"limit": LIMIT, "coarse_k": k, "modulate": True}
    tasks: dict[str, Task] = {
        "64 searches, one by one": lambda _: [collection.search(query, **how) for query in many],
        "64 searches, one batch": lambda _: collection.search_batch(np.stack(many), **how),
    }
    rounds = max(1, options.rounds // 2)
    if not url:
        found = figures("64 searches", interleaved(tasks, rounds, 2), relative=True)
        reason = "only measured on a server: an engine in this process has no connection to wait for"
        return [*found, Figure.missing("64 searches", "64 searches, concurrent", reason)]
    loop = asyncio.new_event_loop()
    try:
        twin = loop.run_until_complete(AsyncIMRNNCollection.open(url, collection.model))

        async def concurrent() -> None:
            await asyncio.gather(*(twin.search(query, **how) for query in many))

        tasks["64 searches, concurrent"] = lambda _: loop.run_until_complete(concurrent())
        found = figures("64 searches", interleaved(tasks, rounds, 2), relative=True)
        loop.run_until_complete(twin.close())
    finally:
        loop.close()
    return found


def stages(model: IMRNNModel, options: BenchOptions) -> list[Figure]:
    """Time what happens between the database's reply and the results, for 100 and 1,000 candidates."""
    found = []
    for k in (100, 1000):
        tasks = stage_tasks(model, k)
        found += figures("stages without a database", interleaved(tasks, options.rounds, options.calls), k)
    return found


def stage_tasks(model: IMRNNModel, k: int) -> dict[str, Task]:
    """Return each stage of one query with k candidates as a task."""
    query = random_vectors(1, model.space.dim, seed=4)
    candidates = random_candidates(model, query[0], k)
    texts = encode_texts(candidates.codes, model.space.space_id)
    plain, explained = (SearchRequest(limit=LIMIT, coarse_k=k, explain=explain) for explain in (False, True))
    (refined,) = refine(model, Metric.COSINE, query, [candidates], True)
    first, second, *_ = model.space.names
    condition = (factor(first) >= 0.5) | (match(second) > 0)

    def whole(request: SearchRequest) -> Task:
        def task(_: int) -> object:
            (rows,) = refine(model, Metric.COSINE, query, [candidates], True)
            return build_results(model.space, candidates, rows, request)

        return task

    return {
        "decode": lambda _: decode_texts(texts, model.space.space_id, model.space.num_factors),
        "modulate and score": lambda _: refine(model, Metric.COSINE, query, [candidates], True),
        "filter by a factor and by a match": lambda _: passing(condition, model.space, candidates, refined),
        "results": lambda _: build_results(model.space, candidates, refined, plain),
        "results, their factor scores read": lambda _: [
            dict(result.factors) for result in build_results(model.space, candidates, refined, plain)
        ],
        "modulate, score, results": whole(plain),
        "modulate, score, results, explained": whole(explained),
    }


def sweeps(options: BenchOptions) -> list[Figure]:
    """Time modulation, scoring and results over coarse_k, over m, and over the size of a batch."""
    rounds, calls = max(3, options.rounds // 2), max(3, options.calls // 3)
    found, model = [], random_model()
    name = "modulate, score, results"
    for k in options.sweep_coarse_k:
        task = stage_tasks(model, k)[name]
        found += figures("coarse_k", interleaved({name: task}, rounds, calls), k)
    for m in options.sweep_factors:
        task = stage_tasks(random_model(num_factors=m), options.coarse_k)[name]
        found += figures("factors m", interleaved({name: task}, rounds, calls), m)
    for size in options.sweep_batch:
        queries = random_vectors(size, seed=5)
        sets = [random_candidates(model, query, options.coarse_k) for query in queries]
        batch: Task = lambda _, queries=queries, sets=sets: refine(model, Metric.COSINE, queries, sets, True)  # type: ignore[misc]  # noqa: E731
        found += figures("batch", interleaved({"modulate and score": batch}, rounds, max(2, calls // size)), size)
    return found


def _fill(collection: IMRNNCollection, size: int) -> None:
    for first in range(0, size, _FILL_ROWS):
        count = min(_FILL_ROWS, size - first)
        rows = range(first, first + count)
        payloads = [{"title": f"passage {row}", "text": "a synthetic passage " * 20, "year": row % 50} for row in rows]
        vectors = random_vectors(count, collection.model.space.dim, seed=100 + first)
        collection.upsert([f"doc-{row}" for row in rows], vectors=vectors, payloads=payloads)


def _at(group: str, figure: Figure, at: int) -> Figure:
    return Figure(group, figure.name, figure.median, figure.p95, figure.best, at, figure.ratio, figure.ratio_p95)

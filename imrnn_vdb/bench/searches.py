"""Whole searches in a collection: against rivals, taken apart, in batches, and swept. Nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from imrnn_vdb.async_collection import AsyncIMRNNCollection
from imrnn_vdb.bench.measure import Task, interleaved
from imrnn_vdb.bench.options import LIMIT, BenchOptions
from imrnn_vdb.bench.report import Figure, figures
from imrnn_vdb.bench.rivals import imrnns_adapter, vendor_search
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import IMRNNError

Twin = Callable[[], Awaitable[AsyncIMRNNCollection]]
_LAPS = {"database": "database, codes decoded", "modulate": "modulate, score, results"}
_QUESTION = "what does it cost to look for something"


def end_to_end(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions) -> list[Figure]:
    """Compare a modulated search with the vendor's ids alone, and with base vectors and ``imrnns``."""
    fetch, k = vendor_search(collection), options.coarse_k
    adapter = imrnns_adapter(queries.shape[1])

    def ours(**more: Any) -> Task:
        return lambda i: collection.search(queries[i % len(queries)], limit=LIMIT, coarse_k=k, modulate=True, **more)

    for query in queries[: options.rounds * options.calls]:  # the first rival must not find cold on a disk what the
        fetch(query, k, True)  # others then find in memory
        collection.search(query, limit=LIMIT, coarse_k=k)
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
    return found


def taken_apart(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions) -> list[Figure]:
    """Time the stages of searches as they run; a text is encoded where the model has an encoder."""
    group = "stages of a search"
    try:
        times = interleaved({"encode a text": lambda _: collection.encode_queries([_QUESTION])}, 3, 5)
        found = figures(group, times)
    except (IMRNNError, OSError) as exc:
        found = [Figure.missing(group, "encode a text", f"left out, queries are vectors: {exc}")]
    how: Any = {"limit": LIMIT, "coarse_k": options.coarse_k, "modulate": True}
    laps = [collection.search(query, **how).timings for query in queries[:50]]
    for lap, name in _LAPS.items():
        found += figures(group, {name: np.array([[taken.get(lap, 0.0) for taken in laps]])})
    return found


def batches(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions, twin: Twin | None) -> list[Figure]:
    """Compare 64 single searches with one batch, and with concurrent asynchronous ones."""
    k, many = options.coarse_k, [queries[i % len(queries)] for i in range(64)]
    how: dict[str, Any] = {"limit": LIMIT, "coarse_k": k, "modulate": True}
    tasks: dict[str, Task] = {
        "64 searches, one by one": lambda _: [collection.search(query, **how) for query in many],
        "64 searches, one batch": lambda _: collection.search_batch(np.stack(many), **how),
    }
    rounds = max(1, options.rounds // 2)
    if twin is None:
        found = figures("64 searches", interleaved(tasks, rounds, 2), relative=True)
        reason = "only measured on a server: an engine in this process has no connection to wait for"
        return [*found, Figure.missing("64 searches", "64 searches, concurrent", reason)]
    loop = asyncio.new_event_loop()
    try:
        other = loop.run_until_complete(twin())

        async def concurrent() -> None:
            await asyncio.gather(*(other.search(query, **how) for query in many))

        tasks["64 searches, concurrent"] = lambda _: loop.run_until_complete(concurrent())
        found = figures("64 searches", interleaved(tasks, rounds, 2), relative=True)
        loop.run_until_complete(other.close())
    finally:
        loop.close()
    return found


def search_sweeps(collection: IMRNNCollection, queries: FloatArray, options: BenchOptions, points: int) -> list[Figure]:
    """Time whole searches over coarse_k, beside the vendor's ids, and over the size of a batch."""
    rounds, calls = options.fewer
    fetch, number, found = vendor_search(collection), len(queries), list[Figure]()
    windows = [k for k in options.sweep_coarse_k if k <= points]
    for query in queries[: rounds * calls if windows else 0]:
        collection.search(query, limit=LIMIT, coarse_k=max(windows))
    for k in windows:
        tasks: dict[str, Task] = {
            "vendor, ids only": lambda i, k=k: fetch(queries[i % number], k, False),  # type: ignore[misc]
            "modulated search": lambda i, k=k: collection.search(  # type: ignore[misc]
                queries[i % number], limit=LIMIT, coarse_k=k, modulate=True
            ),
        }
        found += figures("search over coarse_k", interleaved(tasks, rounds, calls), k)
    for size in options.sweep_batch:
        rows = queries[np.arange(size) % number]
        batch: Task = lambda _, rows=rows: collection.search_batch(  # type: ignore[misc]  # noqa: E731
            rows, limit=LIMIT, coarse_k=min(options.coarse_k, points), modulate=True
        )
        times = interleaved({"modulated searches": batch}, rounds, max(2, calls // size))
        found += figures("search over batch", times, size)
    return found

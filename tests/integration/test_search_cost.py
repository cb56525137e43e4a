"""What a modulated search costs beside a plain one, on a real Milvus server with 20,000 points.

Measured figures stand in docs/benchmark.md. The bounds here are wide, for a machine that does other things as well, and
hold for the best of several rounds in which the rivals take turns.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import numpy as np
import pytest

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.bench.measure import interleaved
from imrnn_vdb.bench.rivals import vendor_search
from imrnn_vdb.bench.synthetic import random_model, random_vectors

POINTS, K = 20_000, 100
pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(milvus_server_url) -> str:
    return f"{milvus_server_url}/search_cost_{os.getpid()}"


@pytest.fixture(scope="module")
def collection(url) -> Iterator[IMRNNCollection]:
    with IMRNNCollection.create(url, random_model(), timeout=60.0) as made:
        vectors = random_vectors(POINTS)
        for start in range(0, POINTS, 2000):
            rows = range(start, start + 2000)
            payloads = [{"title": f"passage {row}"} for row in rows]
            made.upsert([f"doc-{row}" for row in rows], vectors=vectors[start : start + 2000], payloads=payloads)
        yield made
        made.drop()


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return random_vectors(64, seed=9)


def best(tasks, rounds: int, calls: int) -> dict[str, float]:
    return {name: float(np.median(times, axis=1).min()) for name, times in interleaved(tasks, rounds, calls).items()}


def test_a_search_takes_at_most_twice_the_time_of_its_ids_alone(collection, queries):
    fetch = vendor_search(collection)
    took = best(
        {
            "ids": lambda i: fetch(queries[i % 64], K, False),
            "ours": lambda i: collection.search(queries[i % 64], limit=10, coarse_k=K),
            "base vectors": lambda i: fetch(queries[i % 64], K, True),
        },
        rounds=8,
        calls=20,
    )
    assert took["ours"] <= 2.0 * took["ids"]
    assert took["ours"] <= took["base vectors"]


def test_a_batch_and_concurrent_searches_are_faster_than_one_by_one(collection, queries, url):
    loop = asyncio.new_event_loop()
    twin = loop.run_until_complete(AsyncIMRNNCollection.open(url, collection.model))

    async def concurrent() -> list[object]:
        return await asyncio.gather(*(twin.search(query, limit=10, coarse_k=K) for query in queries))

    took = best(
        {
            "one by one": lambda _: [collection.search(query, limit=10, coarse_k=K) for query in queries],
            "batch": lambda _: collection.search_batch(queries, limit=10, coarse_k=K),
            "concurrent": lambda _: loop.run_until_complete(concurrent()),
        },
        rounds=4,
        calls=1,
    )
    loop.run_until_complete(twin.close())
    loop.close()
    assert took["one by one"] >= 2.0 * took["batch"]
    assert took["one by one"] >= 1.2 * took["concurrent"]

"""What a filtered search costs beside an unfiltered one, on a real Milvus server with 20,000 points.

Measured figures stand in docs/factors.md; the bounds here are wide, for a machine that does other things as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from imrnn_vdb import IMRNNCollection, factor
from imrnn_vdb.bench.synthetic import random_model, random_vectors

POINTS, DIM, ROUNDS = 20_000, 64, 15
pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def collection(milvus_server_url) -> Iterator[IMRNNCollection]:
    model, vectors = random_model(DIM, 32), random_vectors(POINTS, DIM)
    url = f"{milvus_server_url}/filter_cost_{os.getpid()}"
    with IMRNNCollection.create(url, model, timeout=60.0, id_type="int") as made:
        for start in range(0, POINTS, 4000):
            rows = range(start, start + 4000)
            made.upsert(rows, vectors=vectors[start : start + 4000], payloads=[{"part": i % 10} for i in rows])
        yield made
        made.drop()


def medians(collection: IMRNNCollection, cases: dict[str, dict]) -> dict[str, float]:
    """Median time of each kind of search, taken in turns."""
    queries = random_vectors(ROUNDS, DIM, seed=9)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for query in queries:
        for name, options in cases.items():
            started = time.perf_counter()
            collection.search(query, **options)
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def test_a_filtered_search_costs_little_more_than_a_plain_one(collection):
    half, few = factor("factor_0") >= 0.5, factor("factor_0") >= 0.95
    assert collection.count(factor_filter=few) < collection.count(factor_filter=half) < POINTS
    took = medians(
        collection,
        {
            "plain": {},
            "half": {"factor_filter": half},
            "few": {"factor_filter": few},
            "both": {"factor_filter": half, "payload_filter": "part == 3"},
        },
    )
    slowest = max(value / took["plain"] for name, value in took.items() if name != "plain")
    assert slowest <= 5, {name: f"{1e3 * value:.1f} ms" for name, value in took.items()}

"""Concurrent modulations that run as one: who runs together, and what becomes of those who fail or leave."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_modulation import M, request

import imrnn_vdb.joined
from factory import DIM, make_model, make_modulator
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.joined import Joined
from imrnn_vdb.modulation import Inputs
from imrnn_vdb.served import FusedModulator


class Recorder:
    """Modulates nothing, notes the shape of each batch, and waits at a gate before the first answer."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, query, candidates, cosines, mask):
        self.batches.append(mask.shape)
        self.begun.set()
        assert self.gate.wait(30)
        if np.isnan(query).any():
            raise ArithmeticError("not a number")
        return query + 1, candidates + 1


def started(recorder: Recorder, joined: Joined, *requests: Inputs):
    """Submit a first request of one candidate, and the others while it runs."""
    first = joined.submit(request(1, 1))
    assert recorder.begun.wait(30)
    return [first, *(joined.submit(inputs) for inputs in requests)]


def finish(recorder: Recorder, answers) -> None:
    recorder.gate.set()
    for answer in answers:
        assert answer.result(30)


def test_the_first_runs_at_once_and_those_that_come_meanwhile_run_together():
    recorder = Recorder()
    requests = [request(1, 5), request(2, 9), request(1, 3)]
    answers = started(recorder, Joined(recorder), *requests)
    assert recorder.batches == [(1, 1)]
    finish(recorder, answers)
    assert recorder.batches == [(1, 1), (4, 9)]
    for inputs, answer in zip(requests, answers[1:], strict=True):
        np.testing.assert_array_equal(answer.result()[0], inputs.query + 1)
        np.testing.assert_array_equal(answer.result()[1], inputs.candidates + 1)


def test_a_batch_is_bounded_in_queries_but_for_a_single_request():
    recorder = Recorder()
    sizes = [2, 1, 3, 9, 1]
    finish(recorder, started(recorder, Joined(recorder, largest=4), *(request(size, 5) for size in sizes)))
    assert [number for number, _ in recorder.batches] == [1, 3, 3, 9, 1]


def test_a_batch_is_bounded_in_candidates_padding_included(monkeypatch):
    monkeypatch.setattr(imrnn_vdb.joined, "_MOST_CANDIDATES", 100)
    recorder = Recorder()
    finish(recorder, started(recorder, Joined(recorder), request(1, 10), request(4, 10), request(1, 60), request(1, 5)))
    assert recorder.batches == [(1, 1), (5, 10), (1, 60), (1, 5)]


def test_one_poisonous_request_does_not_fail_the_others():
    recorder = Recorder()
    poison = request(1, 5)
    poison.query[:] = np.nan
    answers = started(recorder, Joined(recorder), request(1, 5), poison, request(2, 7))
    recorder.gate.set()
    with pytest.raises(ArithmeticError):
        answers[2].result(30)
    finish(recorder, [answers[1], answers[3]])
    assert recorder.batches == [(1, 1), (4, 7), (1, 5), (1, 5), (2, 7)], "one by one"


def test_who_leaves_in_time_is_left_out():
    recorder = Recorder()
    answers = started(recorder, Joined(recorder), request(1, 5), request(1, 6))
    assert answers[1].cancel()
    finish(recorder, [answers[0], answers[2]])
    assert recorder.batches == [(1, 1), (1, 6)]


def test_threads_get_what_they_get_alone():
    fused = FusedModulator(make_modulator(M))
    joined = Joined(fused, largest=5)
    requests = [request(1 + seed % 3, seed, seed) for seed in range(60)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda inputs: joined(*inputs), requests))
    for inputs, answer in zip(requests, found, strict=True):
        for array, alone in zip(answer, fused(*inputs), strict=True):
            np.testing.assert_allclose(array, alone, atol=1e-6)


async def test_an_event_loop_awaits_its_answers():
    recorder = Recorder()
    joined = Joined(recorder)
    waiting = [asyncio.wrap_future(joined.submit(request(1, 4))) for _ in range(3)]
    await asyncio.sleep(0)
    recorder.gate.set()
    assert len(await asyncio.gather(*waiting)) == 3


def test_an_idle_one_keeps_no_thread_and_no_model(monkeypatch):
    monkeypatch.setattr(imrnn_vdb.joined, "_LINGER_S", 0.01)
    modulate = FusedModulator(make_modulator(M))
    joined = Joined(modulate)
    joined(*request(1, 3))
    patience = time.monotonic() + 30
    while joined._thread is not None:
        assert time.monotonic() < patience
        time.sleep(0.01)
    joined(*request(1, 3))  # and begins anew
    kept = weakref.ref(modulate)
    del modulate, joined
    while kept() is not None:
        assert time.monotonic() < patience
        time.sleep(0.01)
        gc.collect()


class Poisonable:
    """A model's own modulation, slowed down; refuses batches with a query that it does not like."""

    def __init__(self, modulate, hated=None) -> None:
        self.modulate, self.hated = modulate, hated
        self.batches: list[int] = []

    def __call__(self, query, *rest):
        self.batches.append(len(query))
        time.sleep(0.005)
        if self.hated is not None and (query == self.hated).all(1).any():
            raise ArithmeticError("poison")
        return self.modulate(query, *rest)


@pytest.fixture
def url(tmp_path, rng):
    """A collection of 60 points, filled and closed."""
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    where = f"qdrant+edge:{tmp_path}/articles"
    with IMRNNCollection.create(where, make_model()) as collection:
        collection.upsert(range(60), vectors=rng.normal(size=(60, DIM)))
    return where


def joined_model(hated=None):
    model, plain = make_model(), make_model()
    noted = Poisonable(plain.modulate, hated)
    model.__dict__["modulate"] = Joined(noted)  # as on a GPU
    return model, noted


def same(found, wanted) -> None:
    assert [result.id for result in found] == [result.id for result in wanted]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in wanted], atol=1e-6)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "event loop"])
def test_concurrent_searches_share_modulations_and_find_what_they_find_alone(asynchronous, url, rng):
    queries = rng.normal(size=(24, DIM))
    windows = [10 + 5 * (i % 4) for i in range(len(queries))]
    with IMRNNCollection.open(url, make_model()) as collection:
        alone = [collection.search(query, coarse_k=k) for query, k in zip(queries, windows, strict=True)]
    model, noted = joined_model()

    async def loop():
        async with await AsyncIMRNNCollection.open(url, model) as twin:
            return await asyncio.gather(
                *(twin.search(query, coarse_k=k) for query, k in zip(queries, windows, strict=True))
            )

    def threads():
        with IMRNNCollection.open(url, model) as shared, ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda query, k: shared.search(query, coarse_k=k), queries, windows))

    for found, wanted in zip(asyncio.run(loop()) if asynchronous else threads(), alone, strict=True):
        same(found, wanted)
    assert sum(noted.batches) == len(queries)
    assert len(noted.batches) < len(queries), "some ran together"


async def test_a_search_that_fails_or_leaves_does_not_touch_those_beside_it(url, rng):
    queries = rng.normal(size=(12, DIM)).astype(np.float32)
    model, _ = joined_model(make_model().space.encode(queries[3:4]).directions[0])
    async with await AsyncIMRNNCollection.open(url, make_model()) as twin:
        alone = await twin.search_batch(queries)
    async with await AsyncIMRNNCollection.open(url, model) as twin:
        tasks = [asyncio.create_task(twin.search(query)) for query in queries]
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0)
        left = next(task for task in reversed(tasks) if not task.done())
        left.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    for i, (task, response, wanted) in enumerate(zip(tasks, found, alone, strict=True)):
        if task is left:
            assert task.cancelled()
        elif i == 3:
            assert not any(result.modulated for result in response)
            assert "ArithmeticError" in response.reason
        else:
            same(response, wanted)


def test_a_time_limit_holds_where_modulations_are_shared(url, rng):
    model, noted = joined_model()
    gate = threading.Event()
    noted.modulate = lambda *_: gate.wait(60)
    with IMRNNCollection.open(url, model, modulation_timeout=0.05) as collection:
        response = collection.search(rng.normal(size=DIM))
    gate.set()
    assert "not waited for" in response.reason

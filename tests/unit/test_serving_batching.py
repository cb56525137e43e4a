"""Micro-batches: who runs together, who waits how long, and what becomes of those who fail or leave."""

from __future__ import annotations

import asyncio

import pytest

from imrnn_vdb.errors import InvalidInputError, StoreUnavailableError
from imrnn_vdb.serving.batching import Batcher


class Recorder:
    """Runs batches; each waits for its turn."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.gate = asyncio.Event()
        self.cancelled = 0

    async def run(self, key: str, items: list[int]) -> list[int]:
        self.batches.append((key, items))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if -1 in items:
            raise InvalidInputError("minus one")
        if key == "down":
            raise StoreUnavailableError("down")
        return [10 * item for item in items]


async def started(batcher, *asked):
    tasks = [asyncio.create_task(batcher.submit(key, item)) for key, item in asked]
    await asyncio.sleep(0.01)
    return tasks


async def test_the_first_starts_at_once_and_others_wait_for_it():
    recorder = Recorder()
    batcher = Batcher(recorder.run, largest=3, wait_s=60.0)
    tasks = await started(batcher, ("a", 1), ("a", 2), ("b", 3), ("a", 4))
    assert recorder.batches == [("a", [1])]
    tasks += await started(batcher, ("a", 5))
    assert recorder.batches == [("a", [1]), ("a", [2, 4, 5])], "a full batch does not wait"
    recorder.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50]
    assert recorder.batches[2:] == [("b", [3])]


async def test_the_wait_is_bounded():
    recorder = Recorder()
    batcher = Batcher(recorder.run, wait_s=0.001)
    tasks = await started(batcher, ("a", 1), ("a", 2), ("a", 3))
    await asyncio.sleep(0.02)
    assert recorder.batches == [("a", [1]), ("a", [2, 3])], "although the first still runs"
    recorder.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]


async def test_one_wrong_item_does_not_spoil_the_others():
    recorder = Recorder()
    batcher = Batcher(recorder.run, wait_s=60.0)
    tasks = await started(batcher, ("a", 1), ("a", 2), ("a", -1), ("a", 4), ("down", 5))
    recorder.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [int, int, InvalidInputError, int, StoreUnavailableError]


async def test_who_leaves_is_forgotten_and_a_batch_that_all_left_is_cancelled():
    recorder = Recorder()
    batcher = Batcher(recorder.run, wait_s=60.0)
    tasks = await started(batcher, ("a", 1), ("a", 2), ("a", 3))
    tasks[1].cancel()
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert recorder.cancelled == 1
    assert recorder.batches == [("a", [1]), ("a", [3])]
    recorder.gate.set()
    assert await tasks[2] == 30
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_a_batch_is_cancelled_when_its_last_caller_leaves_and_not_before():
    recorder = Recorder()
    batcher = Batcher(recorder.run, wait_s=0.001)
    tasks = await started(batcher, ("a", 1), ("a", 2), ("a", 3))
    await asyncio.sleep(0.02)
    assert recorder.batches == [("a", [1]), ("a", [2, 3])]
    for left, cancelled in ((1, 0), (2, 1)):
        tasks[left].cancel()
        await asyncio.sleep(0.01)
        assert recorder.cancelled == cancelled
    recorder.gate.set()
    assert await tasks[0] == 10

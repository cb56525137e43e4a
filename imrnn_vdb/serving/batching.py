"""Micro-batches: searches that ask for the same and come while another runs are run as one.

A search starts at once where none runs; otherwise it waits for others until one ends, a batch is full, or its bounded
wait is over. So nothing waits in an idle service, and under load the round trip and the modulation are shared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]


@dataclass(slots=True, eq=False)
class Batcher(Generic[Key, Item, Answer]):
    """Runs items of equal keys together.

    Attributes
    ----------
    run
        Answers a batch: a key and its items to as many answers.
    largest
        Items of a batch, at most.
    wait_s
        Seconds that an item waits while another batch runs, at most.
    """

    run: Callable[[Key, list[Item]], Awaitable[list[Answer]]]
    largest: int = 16
    wait_s: float = 0.002
    _waiting: dict[Key, list[_Waiting[Item, Answer]]] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _alone: bool = field(default=False, init=False)

    async def submit(self, key: Key, item: Item) -> Answer:
        """Answer an item, as part of a batch.

        A caller that is cancelled leaves its batch; a batch that all callers left is cancelled.
        """
        if not self._tasks and not self._alone:
            return await self._answer_alone(key, item)
        loop = asyncio.get_running_loop()
        entry = _Waiting[Item, Answer](item, loop.create_future())
        group = self._waiting.setdefault(key, [])
        group.append(entry)
        if len(group) >= self.largest:
            self._start(key)
        elif len(group) == 1:
            loop.call_later(self.wait_s, self._start, key, group)
        return await entry.answer

    async def _answer_alone(self, key: Key, item: Item) -> Answer:
        """Run one item in its caller's own task: where nothing else runs, a batch would only cost turns of the loop."""
        self._alone = True
        try:
            [answer] = await self.run(key, [item])
        finally:
            self._alone = False
            self._start_waiting()
        return answer

    def _start(self, key: Key, group: list[_Waiting[Item, Answer]] | None = None) -> None:
        """Run what waits under a key; given a group, only if it still waits."""
        if group is not None and self._waiting.get(key) is not group:
            return
        entries = [entry for entry in self._waiting.pop(key, []) if not entry.answer.done()]
        if not entries:
            return
        task = asyncio.get_running_loop().create_task(self._answer(key, entries))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        for entry in entries:
            entry.answer.add_done_callback(lambda _: _cancel_if_left(task, entries))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start_waiting()

    def _start_waiting(self) -> None:
        if not self._tasks and not self._alone:
            for key in list(self._waiting):
                self._start(key)

    async def _answer(self, key: Key, entries: list[_Waiting[Item, Answer]]) -> None:
        try:
            answers = await self.run(key, [entry.item for entry in entries])
        except asyncio.CancelledError:
            for entry in entries:
                entry.answer.cancel()
            raise
        except (InvalidInputError, SpaceMismatchError) as exc:
            if len(entries) == 1:
                _settle(entries[0], error=exc)
            else:  # one of them is wrong, and must not spoil the others
                for entry in entries:
                    await self._answer(key, [entry])
        except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait hear of it
            for entry in entries:
                _settle(entry, error=exc)
        else:
            for entry, answer in zip(entries, answers, strict=True):
                _settle(entry, answer)


def _settle(entry: _Waiting[Any, Any], answer: Any = None, error: Exception | None = None) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # the caller has left
        if error is None:
            entry.answer.set_result(answer)
        else:
            entry.answer.set_exception(error)


def _cancel_if_left(task: asyncio.Task[None], entries: list[_Waiting[Any, Any]]) -> None:
    if all(entry.answer.cancelled() for entry in entries):
        task.cancel()

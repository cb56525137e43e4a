"""Long work as rounds of operations, each with its own deadline, run against a connection: blocking, or awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from imrnn_vdb.connection import Connection, Operation, all_of
from imrnn_vdb.points import Page, Points

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Round:
    """Operations that may run beside one another.

    Attributes
    ----------
    operations
        What to run; the results come back in this order.
    delay
        Seconds to wait before.
    workers
        How many may run at once.
    """

    operations: tuple[Operation[Any], ...]
    delay: float = 0.0
    workers: int = 1


Script = Generator[Round, list[Any], T]
"""Long work as rounds of operations, each with its own deadline."""

Progress = Callable[[int], None]
"""Called with the number of points done since the last call."""


def run_script(connection: Connection, script: Script[T]) -> T:
    """Run a script with a blocking client; threads run the operations of a round, where they may run together.

    Raises
    ------
    StoreError
        What the database answered, after bounded retries; what else of the round has begun is finished first.
    """
    with ThreadPoolExecutor(thread_name_prefix="imrnn") as pool:
        try:
            todo = next(script)
            while True:
                time.sleep(todo.delay)
                todo = script.send(_results(connection, todo, pool))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def _results(connection: Connection, todo: Round, pool: ThreadPoolExecutor) -> list[Any]:
    if todo.workers == 1 or len(todo.operations) == 1:
        return [connection.run(operation) for operation in todo.operations]
    return list(pool.map(connection.run, todo.operations))


async def arun_script(connection: Connection, script: Script[T]) -> T:
    """Run a script without blocking the event loop; see :func:`run_script`."""
    try:
        todo = next(script)
        while True:
            await asyncio.sleep(todo.delay)
            todo = script.send(await _aresults(connection, todo))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def _aresults(connection: Connection, todo: Round) -> list[Any]:
    if todo.workers == 1:
        return [await connection.arun(operation) for operation in todo.operations]
    return all_of(await asyncio.gather(*map(connection.arun, todo.operations), return_exceptions=True))


def draw_script(
    scroll: Callable[[Any], Operation[Page]], rows: Callable[[Points], Iterable[T]], count: int, seed: int | None
) -> Script[list[T]]:
    """Draw rows evenly while all pages are read once: reservoir sampling (Vitter, 1985), each stays with one chance.

    Parameters
    ----------
    scroll
        Reads the page at a cursor, None for the first.
    rows
        What of a page may be drawn.
    count
        How many to draw; all of them where there are fewer.
    seed
        Of the draw; None for another one each time.
    """
    rng, kept, seen, cursor = np.random.default_rng(seed), list[T](), 0, None
    while True:
        [page] = yield Round((scroll(cursor),))
        for row in rows(page.points):
            seen += 1
            place = len(kept) if len(kept) < count else int(rng.integers(seen))
            if place < count:
                kept[place : place + 1] = [row]
        cursor = page.cursor
        if cursor is None:
            return kept

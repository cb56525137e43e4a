"""Timing that holds on a busy machine: rivals take turns, so that what slows one slows the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Task = Callable[[int], object]
"""Does one piece of work; takes a running number, so that no two calls in a row ask the same."""


def interleaved(tasks: Mapping[str, Task], rounds: int, calls: int) -> dict[str, npt.NDArray[np.float64]]:
    """Run every task in each round, after one round that is not counted.

    Parameters
    ----------
    tasks
        By name.
    rounds
        Times that every task gets its turn.
    calls
        Calls of a task in one turn.

    Returns
    -------
    dict of numpy.ndarray
        Milliseconds of each call, shape (rounds, calls), by name.
    """
    taken = {name: np.empty((rounds, calls)) for name in tasks}
    for turn in range(-1, rounds):
        for name, task in tasks.items():
            for call in range(calls):
                start = time.perf_counter()
                task(max(0, turn) * calls + call)
                milliseconds = (time.perf_counter() - start) * 1e3
                if turn >= 0:
                    taken[name][turn, call] = milliseconds
    return taken

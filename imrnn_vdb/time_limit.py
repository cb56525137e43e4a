"""A time limit for work of this process: it runs in a thread beside, and is no longer waited for when its time is up.

Python cannot stop a thread. What overruns goes on to its end with nobody waiting; so that a model that hangs cannot
fill a process with threads, further work is refused at once while too much of it is overdue.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from imrnn_vdb.errors import InvalidInputError

MAX_OVERDUE = 8
"""Threads that may be left behind by work that overran; a guess between one and what a process can bear."""


class OverdueError(Exception):
    """The time is up. Never leaves this package: the failure policy turns it into the database's order."""


@dataclass(slots=True)
class TimeLimit:
    """Runs work under one limit, and counts what overran.

    Attributes
    ----------
    seconds
        The limit, above 0 and finite.
    """

    seconds: float
    _overdue: set[Future[Any]] = field(default_factory=set, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InvalidInputError(f"a time limit is a finite number of seconds above 0, got {self.seconds!r}")

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        """Start work in a thread of its own, which does not keep the process from ending.

        Raises
        ------
        OverdueError
            If too much earlier work is still running past its limit.
        """
        with self._lock:
            if len(self._overdue) >= MAX_OVERDUE:
                raise OverdueError(f"{MAX_OVERDUE} earlier ones are still running past their limit")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # an event loop that gives up waiting cancels it, which changes nothing
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._carry_out, work, future), daemon=True).start()
        return future

    def overran(self, future: Future[Any]) -> OverdueError:
        """Note that work is no longer waited for, and return the error to raise."""
        with self._lock:
            if not future.done():
                self._overdue.add(future)
        return OverdueError(f"it took longer than {self.seconds:g} s")

    def _carry_out(self, work: Callable[[], Any], future: Future[Any]) -> None:
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - carried to whoever waits
            future.set_exception(exc)
        else:
            future.set_result(result)
        with self._lock:
            self._overdue.discard(future)


@dataclass(frozen=True, slots=True)
class LocalWork:
    """A step of an operation that computes here instead of calling the database, under a limit; it is never repeated.

    Attributes
    ----------
    work
        What to do.
    limit
        For how long it is waited for; afterwards `OverdueError` is raised inside the operation.
    """

    work: Callable[[], Any]
    limit: TimeLimit

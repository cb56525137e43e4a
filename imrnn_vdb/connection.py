"""The one I/O seam: runs a store's operations against a vendor's client, sync or async.

A store never calls its client. It writes an operation as a generator that yields *calls* and receives their replies, so
that each operation exists once, for sync and async alike, and deadlines, retries and error translation stand in one
place.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tenacity

from imrnn_vdb.errors import IMRNNError, InvalidInputError, StoreError, StoreTimeoutError
from imrnn_vdb.time_limit import LocalWork, OverdueError

T = TypeVar("T")

Call = Callable[[Any, float], Any]
"""One network call: takes the client and the seconds left, returns the reply (or, of an async client, an awaitable).

Every call must be idempotent: it may be sent again after a failure whose outcome is unknown.
"""


@dataclass(frozen=True, slots=True)
class Together:
    """Operations that run at the same time, within the deadline of the one that yields them.

    Attributes
    ----------
    operations
        One or more; what they return is the reply, in this order. If some fail, one of their errors is raised when all
        have ended.
    """

    operations: tuple[Operation[Any], ...]


Step = Call | LocalWork | futures.Future[Any] | Together
"""What an operation yields: a network call, work of this process under a time limit, work that goes on elsewhere,
which is waited for and no more, or operations that may run at the same time."""

Operation = Generator[Step, Any, T]
"""Yields steps, receives their replies (of a future: nothing), returns a ``T``."""

_log = logging.getLogger("imrnn_vdb")
_FIRST_WAIT_S, _MAX_WAIT_S = 0.05, 2.0


def check_policy(timeout: float, attempts: int) -> None:
    """Raise `InvalidInputError` for a deadline or a number of attempts that makes no sense."""
    if not 0 < timeout < float("inf") or attempts < 1:
        raise InvalidInputError("timeout must be a finite number of seconds above 0, attempts at least 1")


@dataclass(slots=True)
class Connection:
    """A vendor's client, with the policy by which it is called.

    Attributes
    ----------
    client
        The vendor's client.
    translate
        Turns a vendor's exception into one of ours, with ``transient`` set where a retry can help.
    asynchronous
        Whether the connection serves ``arun`` (True) or ``run``.
    threaded
        An asynchronous connection whose client blocks (an engine in this process): its calls go to worker threads.
    owned
        Whether ``close`` closes the client; a client that the caller built stays the caller's.
    timeout
        Deadline of one operation in seconds, retries included.
    attempts
        How often a call is sent at most.
    """

    client: Any
    translate: Callable[[Exception], StoreError]
    asynchronous: bool = False
    threaded: bool = False
    owned: bool = True
    timeout: float = 10.0
    attempts: int = 4
    _threads: futures.ThreadPoolExecutor | None = field(default=None, init=False, repr=False)
    _starting: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check_policy(self.timeout, self.attempts)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation with a blocking client.

        Raises
        ------
        StoreError
            What the database answered, after bounded retries of what is transient; that this connection was closed.
        """
        return self._run_until(operation, time.monotonic() + self.timeout)

    def _run_until(self, operation: Operation[T], deadline: float) -> T:
        try:
            call = next(operation)
            while True:
                try:
                    reply = self._send(call, deadline)
                except (StoreError, OverdueError) as exc:
                    call = operation.throw(exc)
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def arun(self, operation: Operation[T]) -> T:
        """Run an operation without blocking the event loop; a blocking engine's calls go to a worker thread."""
        return await self._arun_until(operation, time.monotonic() + self.timeout)

    async def _arun_until(self, operation: Operation[T], deadline: float) -> T:
        try:
            call = next(operation)
            while True:
                try:
                    reply = await self._asend(call, deadline)
                except (StoreError, OverdueError) as exc:
                    call = operation.throw(exc)
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _send(self, call: Step, deadline: float) -> Any:
        if isinstance(call, LocalWork):
            return _wait_for(call)
        if isinstance(call, futures.Future):
            return futures.wait([call])
        if isinstance(call, Together):
            return self._together(call.operations, deadline)
        try:
            return self._attempt(call, deadline)  # most calls succeed, and need no policy
        except StoreError as exc:
            if not exc.transient:
                raise
            failed = [exc]

        def attempt() -> Any:
            if failed:
                raise failed.pop()
            return self._attempt(call, deadline)

        return tenacity.Retrying(**self._policy(deadline))(attempt)

    def _together(self, operations: Sequence[Operation[Any]], deadline: float) -> list[Any]:
        """Run the first operation here, and the others in threads."""
        with self._starting:
            self._check_open()
            if self._threads is None:
                self._threads = futures.ThreadPoolExecutor(thread_name_prefix="imrnn")
            others = [self._threads.submit(self._run_until, one, deadline) for one in operations[1:]]
        try:
            first = self._run_until(operations[0], deadline)
        finally:
            futures.wait(others)
        return [first, *(other.result() for other in others)]

    async def _asend(self, call: Step, deadline: float) -> Any:
        if isinstance(call, LocalWork):
            return await _await_for(call)
        if isinstance(call, futures.Future):
            return await _until_done(call)
        if isinstance(call, Together):
            running = (self._arun_until(operation, deadline) for operation in call.operations)
            return all_of(await asyncio.gather(*running, return_exceptions=True))
        try:
            return await self._aattempt(call, deadline)
        except StoreError as exc:
            if not exc.transient:
                raise
            failed = [exc]

        async def attempt() -> Any:
            if failed:
                raise failed.pop()
            return await self._aattempt(call, deadline)

        return await tenacity.AsyncRetrying(**self._policy(deadline))(attempt)

    def _policy(self, deadline: float) -> dict[str, Any]:
        """Bounded exponential back-off with jitter, never past the deadline, only for what is transient.

        Told of the first failure too, as its first attempt.
        """

        def finished(state: tenacity.RetryCallState) -> bool:
            over = state.attempt_number >= self.attempts or time.monotonic() + state.upcoming_sleep >= deadline
            if over:
                _log.info("gave up after %d attempts: %s", state.attempt_number, _error_of(state))
            return over

        return {
            "retry": tenacity.retry_if_exception(lambda exc: isinstance(exc, StoreError) and exc.transient),
            "stop": finished,
            "wait": _wait,
            "before_sleep": _log_retry,
            "reraise": True,
        }

    def _attempt(self, call: Call, deadline: float) -> Any:
        self._check_open()
        left = _seconds_left(deadline)
        try:
            return call(self.client, left)
        except IMRNNError:
            raise
        except Exception as exc:  # whatever a vendor raises becomes ours, chained
            self._check_open()  # closed meanwhile: a vendor has many words for it
            raise self.translate(exc) from exc

    async def _aattempt(self, call: Call, deadline: float) -> Any:
        if self.threaded:
            return await asyncio.to_thread(self._attempt, call, deadline)  # by when it may have been closed
        self._check_open()
        left = _seconds_left(deadline)
        try:
            return await asyncio.wait_for(call(self.client, left), left)
        except IMRNNError:
            raise
        except asyncio.TimeoutError as exc:
            raise StoreTimeoutError(f"no answer from the database within {self.timeout:g} s") from exc
        except Exception as exc:  # whatever a vendor raises becomes ours, chained
            self._check_open()  # closed meanwhile: a vendor has many words for it
            raise self.translate(exc) from exc

    def _check_open(self) -> None:
        """Refuse calls that come late: an engine of this process would open its files again, and keep others out."""
        if self._closed:
            raise StoreError("this collection was closed: open it again")

    def close(self) -> None:
        """Close the client, unless it belongs to the caller; nothing runs here any longer."""
        self._closed = True
        with self._starting:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None
        if self.owned:
            self.client.close()

    async def aclose(self) -> None:
        """Close an asynchronous connection's client, unless it belongs to the caller; nothing runs here any longer."""
        self._closed = True
        if self.owned:
            closing = self.client.close()
            if inspect.isawaitable(closing):
                await closing


def all_of(done: Sequence[Any]) -> list[Any]:
    """Return what was awaited together, or raise the first error among it."""
    for one in done:
        if isinstance(one, BaseException):
            raise one
    return list(done)


def _wait_for(local: LocalWork) -> Any:
    future = local.limit.start(local.work)
    if not futures.wait([future], local.limit.seconds).done:
        raise local.limit.overran(future)
    return future.result()


async def _await_for(local: LocalWork) -> Any:
    future = local.limit.start(local.work)
    waiting = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait([waiting], timeout=local.limit.seconds)
    except asyncio.CancelledError:  # whoever gives up waiting leaves the work running all the same
        local.limit.overran(future)
        raise
    if not done:
        waiting.cancel()
        raise local.limit.overran(future)
    return waiting.result()


async def _until_done(future: futures.Future[Any]) -> None:
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting])
    except asyncio.CancelledError:
        waiting.cancel()  # where it has not begun, it never will
        raise
    waiting.exception()  # looked at by the operation, in the future itself


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise StoreTimeoutError("the deadline of this operation has passed; allow more with timeout=")
    return left


_BACK_OFF = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S)


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds to wait: random, doubling, and at least what the server asked for."""
    error = _error_of(state)
    asked = error.retry_after if isinstance(error, StoreError) else None
    return max(asked or 0.0, _BACK_OFF(state))


def _log_retry(state: tenacity.RetryCallState) -> None:
    again = state.upcoming_sleep
    _log.info("attempt %d failed (%s); trying again in %.2f s", state.attempt_number, _error_of(state), again)


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None

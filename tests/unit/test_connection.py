"""The I/O seam, with a fake client: the one place where a fault must be produced at will."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imrnn_vdb.connection import Connection, Together
from imrnn_vdb.errors import (
    CollectionNotFoundError,
    InvalidInputError,
    MissingExtraError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)


class FlakyClient:
    """Fails as often as it is told, then answers; notes the seconds each call was given."""

    def __init__(self, failures: list[Exception]) -> None:
        self.failures = failures
        self.seconds: list[float] = []
        self.closed = False

    def ask(self, seconds: float) -> str:
        self.seconds.append(seconds)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    async def aask(self, seconds: float) -> str:
        return self.ask(seconds)

    def close(self) -> None:
        self.closed = True


class VendorError(Exception):
    def __init__(self, ours: StoreError) -> None:
        super().__init__("vendor text")
        self.ours = ours


def translate(exc: Exception) -> StoreError:
    return exc.ours if isinstance(exc, VendorError) else StoreError(f"unexpected: {exc}")


def operation(method: str = "ask"):
    first = yield lambda client, seconds: getattr(client, method)(seconds)
    second = yield lambda client, seconds: getattr(client, method)(seconds)
    return [first, second]


def connect(failures: list[Exception], **options: object) -> tuple[FlakyClient, Connection]:
    client = FlakyClient(failures)
    return client, Connection(client, translate, **options)


def run(connection: Connection, asynchronous: bool):
    if asynchronous:
        return asyncio.run(connection.arun(operation("ask" if connection.threaded else "aask")))
    return connection.run(operation())


MODES = pytest.mark.parametrize(
    ("asynchronous", "options"),
    [(False, {}), (True, {"asynchronous": True}), (True, {"asynchronous": True, "threaded": True})],
    ids=["sync", "async", "threaded"],
)


@MODES
def test_what_is_transient_is_tried_again(asynchronous, options):
    failures = [VendorError(StoreUnavailableError("busy")), VendorError(StoreTimeoutError("slow"))]
    client, connection = connect(failures, **options)
    assert run(connection, asynchronous) == ["answer", "answer"]
    assert len(client.seconds) == 4


@MODES
def test_what_is_not_transient_is_raised_at_once_and_chained(asynchronous, options):
    client, connection = connect([VendorError(CollectionNotFoundError("none"))], **options)
    with pytest.raises(CollectionNotFoundError) as caught:
        run(connection, asynchronous)
    assert isinstance(caught.value.__cause__, VendorError)
    assert len(client.seconds) == 1


@MODES
def test_attempts_are_bounded(asynchronous, options):
    client, connection = connect([VendorError(StoreUnavailableError("busy"))] * 9, attempts=3, **options)
    with pytest.raises(StoreUnavailableError, match="busy"):
        run(connection, asynchronous)
    assert len(client.seconds) == 3


@MODES
def test_the_deadline_bounds_the_whole_operation(asynchronous, options):
    failures = [VendorError(StoreUnavailableError("wait", retry_after=5.0))] * 9
    client, connection = connect(failures, timeout=0.5, attempts=9, **options)
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        run(connection, asynchronous)
    assert time.monotonic() - started < 0.5
    assert all(seconds <= 0.5 for seconds in client.seconds)


def test_a_server_that_asks_to_wait_is_waited_for():
    _, connection = connect([VendorError(StoreUnavailableError("wait", retry_after=0.3))])
    started = time.monotonic()
    assert connection.run(operation()) == ["answer", "answer"]
    assert time.monotonic() - started >= 0.3


async def test_an_answer_that_never_comes_times_out():
    async def hang() -> None:
        await asyncio.sleep(60)

    def hanging():
        yield lambda _client, _seconds: hang()

    _, connection = connect([], asynchronous=True, timeout=0.1)
    with pytest.raises(StoreTimeoutError, match=r"0\.1 s"):
        await connection.arun(hanging())


def test_an_operation_can_handle_a_failure_and_go_on():
    def careful():
        try:
            yield lambda client, seconds: client.ask(seconds)
        except CollectionNotFoundError:
            return (yield lambda client, seconds: client.ask(seconds))

    _, connection = connect([VendorError(CollectionNotFoundError("none"))])
    assert connection.run(careful()) == "answer"


@MODES
def test_errors_of_ours_pass_through_unchanged(asynchronous, options):
    _, connection = connect([MissingExtraError("pymilvus", "milvus")], **options)
    with pytest.raises(MissingExtraError, match=r"imrnn-vdb\[milvus\]"):
        run(connection, asynchronous)


def test_only_an_owned_client_is_closed():
    client, connection = connect([], owned=False)
    connection.close()
    assert not client.closed
    client, connection = connect([])
    connection.close()
    assert client.closed


@MODES
@pytest.mark.parametrize("failures", [[], [VendorError(CollectionNotFoundError("none"))]], ids=["before", "during"])
def test_an_operation_whose_connection_is_closed_calls_nothing_more(asynchronous, options, failures):
    client, connection = connect([*failures], **options)

    def closed_in_the_middle():
        if failures:  # an engine that is closed under a call has words of its own for it
            yield lambda client, seconds: (connection.close(), client.ask(seconds))
        connection.close()
        yield lambda client, seconds: client.ask(seconds)

    begin = (lambda operation: asyncio.run(connection.arun(operation))) if asynchronous else connection.run
    with pytest.raises(StoreError, match="was closed"):
        begin(closed_in_the_middle())
    assert client.closed


async def test_a_call_that_waited_for_a_thread_while_its_connection_was_closed_is_not_made():
    client, connection = connect([], asynchronous=True, threaded=True)
    loop, busy = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocking = loop.run_in_executor(None, busy.wait)
    asked = asyncio.create_task(connection.arun(operation()))
    await asyncio.sleep(0.01)
    await connection.aclose()
    busy.set()
    with pytest.raises(StoreError, match="was closed"):
        await asked
    await blocking
    assert not client.seconds


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": -1}, {"attempts": 0}, {"timeout": float("nan")}, {"timeout": float("inf")}]
)
def test_a_policy_that_makes_no_sense_is_refused(options):
    with pytest.raises(InvalidInputError):
        connect([], **options)


class MeetingClient:
    """Answers a call only when as many as were agreed on are under way."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.waiting, self.all_there, self.parties = 0, asyncio.Event(), parties

    def ask(self, seconds: float) -> float:
        self.barrier.wait(timeout=5)
        return seconds

    async def aask(self, seconds: float) -> float:
        self.waiting += 1
        if self.waiting == self.parties:
            self.all_there.set()
        await asyncio.wait_for(self.all_there.wait(), 5)
        return seconds

    def close(self) -> None:
        """Nothing is open."""


def asking(name: str, asynchronous: bool):
    method = "aask" if asynchronous else "ask"
    seconds = yield lambda client, left: getattr(client, method)(left)
    return name, seconds


@pytest.mark.parametrize("asynchronous", [False, True])
def test_operations_run_together_within_one_deadline(asynchronous):
    def whole():
        return (yield Together(tuple(asking(name, asynchronous) for name in "abc")))

    async def awaited():
        return await Connection(MeetingClient(3), translate, asynchronous=True, timeout=4.0).arun(whole())

    connection = Connection(MeetingClient(3), translate, timeout=4.0)
    found = asyncio.run(awaited()) if asynchronous else connection.run(whole())
    assert [name for name, _ in found] == ["a", "b", "c"]
    assert all(3 < seconds <= 4 for _, seconds in found)
    connection.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_among_operations_is_raised_when_all_have_ended(asynchronous):
    ended = []

    def one(name):
        try:
            yield from operation("aask" if asynchronous else "ask")
        finally:
            ended.append(name)

    def whole():
        try:
            yield Together((one("a"), one("b")))
        except CollectionNotFoundError:
            return sorted(ended)

    _, connection = connect([VendorError(CollectionNotFoundError("gone"))], asynchronous=asynchronous)
    assert (asyncio.run(connection.arun(whole())) if asynchronous else connection.run(whole())) == ["a", "b"]

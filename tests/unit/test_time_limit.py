"""Work under a time limit: waited for, blocking or awaited; left behind where it overruns, and never too much of it."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import InvalidInputError, StoreError
from imrnn_vdb.time_limit import MAX_OVERDUE, LocalWork, OverdueError, TimeLimit


def run(work: Any, limit: TimeLimit, asynchronous: bool) -> Any:
    def operation() -> Any:
        return (yield LocalWork(work, limit))

    connection = Connection(None, lambda exc: StoreError(str(exc)), asynchronous=asynchronous)
    return asyncio.run(connection.arun(operation())) if asynchronous else connection.run(operation())


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@BOTH
def test_work_in_time_gives_its_result_or_its_error(asynchronous: bool) -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    assert run(variable.get, TimeLimit(5.0), asynchronous) == 7
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0, TimeLimit(5.0), asynchronous)


@BOTH
def test_work_that_overruns_is_left_behind_and_bounded(asynchronous: bool) -> None:
    go_on, limit, begun = threading.Event(), TimeLimit(0.02), time.monotonic()
    for _ in range(MAX_OVERDUE):
        with pytest.raises(OverdueError, match=r"longer than 0\.02 s"):
            run(lambda: go_on.wait(60), limit, asynchronous)
    with pytest.raises(OverdueError, match="still running"):
        run(lambda: None, limit, asynchronous)
    assert time.monotonic() - begun < 30
    go_on.set()
    patience = time.monotonic() + 30
    while time.monotonic() < patience:  # once they end there is room again
        try:
            assert run(lambda: "done", TimeLimit(5.0), asynchronous) == "done"
            assert run(lambda: "done", limit, asynchronous) == "done"
            break
        except OverdueError:
            time.sleep(0.01)
    else:
        pytest.fail("the limit never recovered")


async def test_work_that_a_cancelled_caller_leaves_behind_counts_as_well() -> None:
    go_on, limit = threading.Event(), TimeLimit(30.0)
    connection = Connection(None, lambda exc: StoreError(str(exc)), asynchronous=True)

    def operation() -> Any:
        return (yield LocalWork(lambda: go_on.wait(60), limit))

    for _ in range(MAX_OVERDUE):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.arun(operation()), 0.01)
    with pytest.raises(OverdueError, match="still running"):
        await connection.arun(operation())
    go_on.set()


async def test_an_event_loop_goes_on_meanwhile() -> None:
    go_on = threading.Event()
    connection = Connection(None, lambda exc: StoreError(str(exc)), asynchronous=True)

    def operation() -> Any:
        return (yield LocalWork(lambda: go_on.wait(60), TimeLimit(30.0)))

    waiting = asyncio.ensure_future(connection.arun(operation()))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    go_on.set()
    assert await waiting


def test_a_process_ends_although_work_hangs() -> None:
    code = (
        "import time\n"
        "from imrnn_vdb.time_limit import TimeLimit\n"
        "TimeLimit(1.0).start(lambda: time.sleep(600))\n"
        "print('over')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "over\n"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidInputError):
        TimeLimit(seconds)

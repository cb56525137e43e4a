"""Rounds of operations: one that fails leaves nothing running behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest

from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.errors import StoreError
from imrnn_vdb.points import Page, Points
from imrnn_vdb.scripts import Round, Script, arun_script, draw_script, run_script


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_has_begun_is_finished_before_an_error_is_raised(asynchronous: bool) -> None:
    begun, done = threading.Event(), []

    def refuse(_client: Any, _seconds: float) -> Any:
        assert asynchronous or begun.wait(10)
        raise ValueError("refused")

    def write(_client: Any, _seconds: float) -> None:
        begun.set()
        time.sleep(0.05)
        done.append("written")

    async def awrite(_client: Any, _seconds: float) -> None:
        await asyncio.sleep(0.05)
        done.append("written")

    def operation(call: Any) -> Any:
        return (yield call)

    def script() -> Script[None]:
        yield Round((operation(refuse), operation(awrite if asynchronous else write)), workers=2)

    def run() -> None:
        connection = Connection(None, lambda exc: StoreError(str(exc)), asynchronous=asynchronous)
        if asynchronous:
            asyncio.run(arun_script(connection, script()))
        else:
            run_script(connection, script())

    with pytest.raises(StoreError, match="refused"):
        run()
    assert done == ["written"]


def test_a_draw_is_even_and_never_larger_than_asked() -> None:
    def scroll(cursor: int | None) -> Operation[Page]:
        start = cursor or 0
        return Page(Points([*range(start, start + 8)], None, [{}] * 8), start + 8 if start < 32 else None)
        yield  # an operation that needs no call

    connection, drawn = Connection(None, lambda exc: StoreError(str(exc)), asynchronous=False), Counter[object]()
    for seed in range(500):
        ids = run_script(connection, draw_script(scroll, lambda points: points.ids, 10, seed))
        assert len(set(ids)) == len(ids) == 10
        drawn.update(ids)
    assert len(drawn) == 40
    assert all(80 < times < 170 for times in drawn.values()), drawn  # 125 expected, four standard deviations are 39
    assert run_script(connection, draw_script(scroll, lambda points: points.ids, 99, 0)) == [*range(40)]

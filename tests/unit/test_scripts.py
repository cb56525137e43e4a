"""Rounds of operations: one that fails leaves nothing running behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import StoreError
from imrnn_vdb.scripts import Round, Script, arun_script, run_script


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

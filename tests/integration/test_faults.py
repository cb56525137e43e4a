"""Searches through a proxy that delays, cuts, resets and black-holes connections, sync and async, on both protocols.

A search answers rightly or raises one of our errors, never later than its deadline, and works again afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from factory import make_model
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.errors import StoreError
from imrnn_vdb.urls import parse_url
from proxy import Proxy

COUNT, TIMEOUT_S, TOLERANCE_S = 30, 2.0, 1.0
KEY = "planted-secret-7f3a"
QUERY = np.random.default_rng(5).normal(size=32)


@pytest.fixture(
    params=["qdrant_wire_url", pytest.param("milvus_server_url", marks=pytest.mark.integration)],
    ids=["qdrant", "milvus"],
)
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    """A proxy before a server with a filled collection, and the collection's URL through the proxy."""
    base = request.getfixturevalue(request.param)
    where = parse_url(f"{base}/faults")
    with IMRNNCollection.create(f"{base}/faults", make_model(), timeout=60.0, id_type="int") as direct:
        direct.upsert(range(COUNT), vectors=np.random.default_rng(0).normal(size=(COUNT, 32)))
        made = Proxy(where.host, where.port or 0)
        yield made, f"{where.scheme}://127.0.0.1:{made.port}/faults"
        made.mode = "cut"
        made.close()
        direct.drop()


def check(search: Callable[[], Any], batch: Callable[[], Any], proxy: Proxy) -> None:
    truth, patience = [], time.monotonic() + 30  # written by another session, whose writes Milvus shows a little later
    while len(truth) < COUNT and time.monotonic() < patience:
        truth = [result.id for result in search()[0]]
    assert len(truth) == COUNT
    for mode in ("slow", "cut", "reset", "hole"):
        proxy.mode = mode
        for ask, expected in ((search, [truth]), (batch, [truth, truth])):
            started = time.monotonic()
            try:
                found = [[result.id for result in response] for response in ask()]
                said = ""
            except StoreError as exc:
                found, said = expected, f"{exc!r}{exc.__cause__!r}"
            assert found == expected, mode
            assert KEY not in said
            assert time.monotonic() - started < TIMEOUT_S + TOLERANCE_S, mode
        proxy.mode = "open"
        for _ in range(20):  # gRPC waits before it connects again
            try:
                again = [result.id for result in search()[0]]
                break
            except StoreError:
                time.sleep(0.2)
        assert again == truth, f"after {mode}"


OPTIONS: dict[str, Any] = {"timeout": TIMEOUT_S, "api_key": KEY, "tls": False}


@pytest.mark.slow
def test_a_search_never_hangs_nor_loses_a_result(
    proxy: tuple[Proxy, str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    between, url = proxy
    with caplog.at_level(logging.DEBUG), IMRNNCollection.open(url, make_model(), **OPTIONS) as collection:
        single, batch = partial(collection.search, QUERY), partial(collection.search_batch, [QUERY, QUERY])
        check(lambda: [single(limit=COUNT)], lambda: batch(limit=COUNT), between)
        assert KEY not in repr(collection)
    shown = capfd.readouterr()
    assert KEY not in caplog.text + shown.out + shown.err
    assert "Traceback" not in shown.err


@pytest.mark.slow
def test_an_asynchronous_search_never_hangs_nor_loses_a_result(
    proxy: tuple[Proxy, str], caplog: pytest.LogCaptureFixture
) -> None:
    between, url = proxy
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.DEBUG):
        collection = loop.run_until_complete(AsyncIMRNNCollection.open(url, make_model(), **OPTIONS))
        run = loop.run_until_complete
        single, batch = partial(collection.search, QUERY), partial(collection.search_batch, [QUERY, QUERY])
        check(lambda: [run(single(limit=COUNT))], lambda: run(batch(limit=COUNT)), between)
        loop.run_until_complete(collection.close())
    loop.close()
    assert KEY not in caplog.text

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imrnn_vdb.backend import ConnectionOptions, adopt_client
from imrnn_vdb.errors import (
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb.urls import parse_url
from imrnn_vdb_milvus import MilvusBackend
from imrnn_vdb_milvus.backend import _server_uri
from imrnn_vdb_milvus.clients import LiteClient
from servers import free_ports

LAYOUT = Layout("0a1b2c3d", 3, ("entity",))


def run_python(code: str, folder: Path, **environment: str) -> str:
    reply = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert reply.returncode == 0, reply.stderr
    return reply.stdout + reply.stderr


def test_importing_the_package_does_not_import_pymilvus(tmp_path: Path) -> None:
    assert run_python("import sys, imrnn_vdb_milvus; print('pymilvus' in sys.modules)", tmp_path) == "False\n"


def test_a_dotenv_file_is_not_loaded_and_failures_print_nothing(tmp_path: Path) -> None:
    code = (
        "import dotenv, os, sys\n"
        "called = []\n"
        "record = dotenv.load_dotenv = lambda *a, **k: called.append(1)\n"
        "from imrnn_vdb_milvus import MilvusBackend\n"
        "from imrnn_vdb.backend import ConnectionOptions\n"
        "from imrnn_vdb.layout import Layout\n"
        "from imrnn_vdb.urls import parse_url\n"
        "url = parse_url('milvus+lite:x.db/missing')\n"
        "connection = MilvusBackend().connect(url, ConnectionOptions(), asynchronous=False)\n"
        "try:\n"
        "    connection.run(MilvusBackend().store(connection, 'missing', Layout('0a1b2c3d', 3)).count())\n"
        "except Exception as exc:\n"
        "    print(type(exc).__name__)\n"
        "connection.close()\n"
        "print(called, dotenv.load_dotenv is record, 'pymilvus' in sys.modules)\n"
    )
    assert run_python(code, tmp_path) == "CollectionNotFoundError\n[] True True\n"


def test_the_callers_own_failures_are_still_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pymilvus

    client = pymilvus.MilvusClient(str(tmp_path / "own.db"))
    backend, connection = adopt_client(client, ConnectionOptions())
    logger = logging.getLogger("pymilvus.decorators")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(CollectionNotFoundError):
            connection.run(backend.store(connection, "missing", LAYOUT).count())
        assert not [record for record in caplog.records if record.name.startswith("pymilvus")]
        with pytest.raises(pymilvus.MilvusException):
            client.describe_collection("missing")
        assert [record for record in caplog.records if record.name == "pymilvus.decorators"]
    finally:
        logger.removeHandler(caplog.handler)
        connection.close()
        assert client.list_collections() == []  # the caller's client stays open
        client.close()


def test_a_lite_file_that_cannot_be_opened_is_told_without_a_stack_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.db").write_text("no folder of Milvus Lite")
    url = parse_url(f"milvus+lite:{tmp_path}/x.db/articles")
    connection = MilvusBackend().connect(url, ConnectionOptions(), asynchronous=False)
    with pytest.raises(StoreError, match=r"cannot open .*x\.db: another process may hold it, it may not be written"):
        connection.run(MilvusBackend().store(connection, "articles", LAYOUT).count())
    assert not caplog.records


def test_foreign_clients_are_not_ours() -> None:
    assert MilvusBackend().adopt(object(), ConnectionOptions()) is None


@pytest.mark.parametrize(
    ("host", "key", "tls", "scheme"),
    [
        ("db.example.com", None, None, "http"),
        ("db.example.com", "secret", None, "https"),
        ("localhost", "secret", None, "http"),
        ("localhost", None, True, "https"),
        ("db.example.com", "secret", False, "http"),
    ],
)
def test_a_key_travels_encrypted(host: str, key: str | None, tls: bool | None, scheme: str) -> None:
    uri = _server_uri(parse_url(f"milvus://{host}/c"), ConnectionOptions(api_key=key, tls=tls))
    assert uri == f"{scheme}://{host}:19530"


def test_urls_are_checked() -> None:
    with pytest.raises(InvalidInputError, match=r"\.db"):
        MilvusBackend().connect(parse_url("milvus+lite:folder/c"), ConnectionOptions(), asynchronous=False)
    with pytest.raises(InvalidInputError, match="no Milvus URL"):
        MilvusBackend().connect(parse_url("milvus+other:x.db/c"), ConnectionOptions(), asynchronous=False)


@pytest.fixture(params=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


def ask(url: str, asynchronous: bool, timeout: float) -> tuple[StoreError, float]:
    """Count the points of a collection that cannot answer; return our error and the seconds it took."""
    where, backend = parse_url(url), MilvusBackend()
    options = ConnectionOptions(api_key="THE-SECRET", tls=False, timeout=timeout)

    async def use() -> None:
        connection = backend.connect(where, options, asynchronous=True)
        try:
            await connection.arun(backend.store(connection, "c", LAYOUT).count())
        finally:
            await connection.aclose()

    def use_sync() -> None:
        connection = backend.connect(where, options, asynchronous=False)
        try:
            connection.run(backend.store(connection, "c", LAYOUT).count())
        finally:
            connection.close()

    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        asyncio.run(use()) if asynchronous else use_sync()
    assert "SECRET" not in f"{caught.value!r} {caught.value}"
    return caught.value, time.monotonic() - start


def test_a_port_that_nobody_listens_on(asynchronous: bool) -> None:
    error, seconds = ask(f"milvus://127.0.0.1:{free_ports(1)[0]}/c", asynchronous, 3.0)
    assert isinstance(error, StoreUnavailableError)
    assert seconds < 4


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.socket() as listening:  # connections are accepted by the system, and never answered
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_port_that_never_answers(asynchronous: bool, silent_port: int) -> None:
    error, seconds = ask(f"milvus://127.0.0.1:{silent_port}/c", asynchronous, 1.5)
    assert isinstance(error, StoreTimeoutError)
    assert 1 < seconds < 3


class TestLiteFile:
    @staticmethod
    def open(path: Path) -> tuple[MilvusBackend, object]:
        backend = MilvusBackend()
        return backend, backend.connect(parse_url(f"milvus+lite:{path}/c"), ConnectionOptions(), asynchronous=False)

    def test_connections_share_the_file_and_the_last_releases_it(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "shared.db"
        backend, first = self.open(path)
        _, second = self.open(path)
        first.run(backend.store(first, "c", LAYOUT).create(2, Metric.DOT))
        point = Points(["a"], np.ones((1, 2), np.float32), [{"n": 1}])
        second.run(backend.store(second, "c", LAYOUT).upsert(point))
        first.close()
        first.close()  # closing twice lets go once
        assert second.run(backend.store(second, "c", LAYOUT).count()) == 1
        second.close()
        code = (
            "import pymilvus; c = pymilvus.MilvusClient('shared.db'); c.load_collection('c');"
            "print(c.query('c', filter='', output_fields=['count(*)'])[0]['count(*)']); c.close()"
        )
        assert run_python(code, path.parent) == "1\n"  # another process can open it
        _, again = self.open(path)  # and a collection opened again is loaded
        assert again.run(backend.store(again, "c", LAYOUT).fetch(["a"])).payloads == [{"n": 1}]
        again.close()

    def test_a_file_held_by_another_process_is_named(self, tmp_path: Path) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", "import pymilvus; c = pymilvus.MilvusClient('held.db'); print(1, flush=1); input()"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            backend, connection = self.open(tmp_path / "held.db")
            with pytest.raises(StoreError, match=r"held\.db.*another process"):
                connection.run(backend.store(connection, "c", LAYOUT).count())
            connection.close()
            holder.communicate(b"\n")

    def test_threads_can_read_and_write_together(self, tmp_path: Path) -> None:
        backend, connection = self.open(tmp_path / "threads.db")
        store = backend.store(connection, "c", LAYOUT)
        connection.run(store.create(8, Metric.COSINE))
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(400, 8)).astype(np.float32)
        connection.run(store.upsert(Points([f"s{n}" for n in range(100)], vectors[:100], [{}] * 100)))
        failures: list[BaseException] = []

        def write(part: int) -> None:
            own = backend.store(connection, "c", LAYOUT)
            for start in range(part * 100, part * 100 + 100, 10):
                rows = list(range(start, start + 10))
                connection.run(own.upsert(Points([f"w{n}" for n in rows], vectors[rows], [{"n": n} for n in rows])))

        def read(_: int) -> None:
            own = backend.store(connection, "c", LAYOUT)
            for row in range(20):
                [found] = connection.run(own.search(vectors[row : row + 1], 5))
                assert len(found) == 5

        def guarded(work: object, part: int) -> None:
            try:
                work(part)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=guarded, args=(work, part)) for work in (write, read) for part in (0, 1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert connection.run(store.count()) == 400
        connection.close()


def test_a_collection_is_opened_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """milvus-lite would open it for each, and lose what is written to all but one of them."""
    from milvus_lite import db

    path, opened, engine = str(tmp_path / "once.db"), [], db.Collection
    first = LiteClient(path)
    first.create_collection(timeout=9.0, collection_name="docs", dimension=2)
    first.close()

    def slowly(name: str, *args: Any, **options: Any) -> Any:
        opened.append(name)
        time.sleep(0.1)
        return engine(name, *args, **options)

    monkeypatch.setattr(db, "Collection", slowly)
    client = LiteClient(path)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.load_collection, timeout=9.0, collection_name="docs") for _ in range(2)]
        asked += [pool.submit(client.query, timeout=9.0, collection_name="docs", filter="id > 0") for _ in range(2)]
        for call in asked:
            call.result()
    client.close()
    assert opened == ["docs"]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("ImportError('an engine of it wants a newer numpy')", "StoreError: .* wants a newer numpy"),
        ("ModuleNotFoundError(name='milvus_lite')", "MissingExtraError: .*imrnn-vdb\\[milvus-lite\\]"),
    ],
)
def test_an_engine_that_cannot_be_imported_says_why(tmp_path: Path, raised: str, told: str) -> None:
    for package in ("milvus_lite", "pymilvus"):
        (tmp_path / f"{package}.py").write_text(f"raise {raised}")
    code = (
        "from imrnn_vdb_milvus.clients import LiteClient\n"
        "try:\n"
        "    LiteClient('a.db').list_collections(timeout=9.0)\n"
        "except Exception as exc:\n"
        "    print(f'{type(exc).__name__}: {exc}')\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    assert re.match(told, run_python(code, tmp_path, PYTHONPATH=path))

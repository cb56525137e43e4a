"""Database servers for tests, as session-scoped fixtures: one that is named by the environment, else a container.

A fixture yields a URL without the collection (``qdrant://127.0.0.1:6334``), or skips with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from qdrant_wire import WireServer

__all__ = ["milvus_server_url", "qdrant_server_url", "qdrant_wire_url"]

QDRANT_IMAGE = "qdrant/qdrant:v1.19.0"
MILVUS_IMAGE = "milvusdb/milvus:v2.6.11"
_READY_S, _MILVUS_READY_S = 60.0, 180.0


@pytest.fixture(scope="session")
def qdrant_server_url() -> Iterator[str]:
    """A Qdrant server: ``IMRNN_TEST_QDRANT_URL``, else a container."""
    if named := named_server("IMRNN_TEST_QDRANT_URL", "qdrant", {"6333": "6334"}):  # the REST port means its server
        yield named
        return
    container = docker_container(QDRANT_IMAGE, 6333, 6334)
    with container:
        host = container.get_container_host_ip()
        await_http(f"http://{host}:{container.get_exposed_port(6333)}/readyz")
        yield f"qdrant://{host}:{container.get_exposed_port(6334)}"


@pytest.fixture(scope="session")
def qdrant_wire_url() -> Iterator[str]:
    """Qdrant's protocol on a real gRPC port, with local mode behind it."""
    server = WireServer()
    yield server.url
    server.close()


def named_server(variable: str, scheme: str, ports: dict[str, str]) -> str | None:
    """Return the server that the environment names, as ``SCHEME://HOST:PORT``; ``http://`` is understood as well."""
    named = os.environ.get(variable, "").rstrip("/")
    if not named:
        return None
    host, colon, port = named.rpartition("://")[2].rpartition(":")
    return f"{scheme}://{host}:{ports.get(port, port)}" if colon else f"{scheme}://{port}"


def docker_container(image: str, *ports: int) -> Any:
    """Return a container to start with ``with``; skip where Docker does not answer."""
    if not _docker_listens():  # asked first: Docker's own client leaks a socket where nobody listens
        pytest.skip("no server named in the environment, and Docker does not answer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers warns of itself when it is imported
        testcontainers = pytest.importorskip("testcontainers.core.container", reason="testcontainers is not installed")
    return testcontainers.DockerContainer(image).with_exposed_ports(*ports)


def _docker_listens() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(host.removeprefix("unix://")) == 0


def await_http(url: str, seconds: float = _READY_S) -> None:
    """Wait until a URL answers with success."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (OSError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="session")
def milvus_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Milvus server: ``IMRNN_TEST_MILVUS_URL``, else a container, else the server in the PyPI package ``milvus``."""
    if named := named_server("IMRNN_TEST_MILVUS_URL", "milvus", {}):
        yield named
        return
    with _milvus_container() or _milvus_package(tmp_path_factory.mktemp("milvus")) as url:
        yield url


@contextmanager
def _started(container: Any) -> Iterator[str]:
    with container:
        host = container.get_container_host_ip()
        await_http(f"http://{host}:{container.get_exposed_port(9091)}/healthz", _MILVUS_READY_S)
        yield f"milvus://{host}:{container.get_exposed_port(19530)}"


def _milvus_container() -> AbstractContextManager[str] | None:
    try:
        container = docker_container(MILVUS_IMAGE, 19530, 9091)
    except pytest.skip.Exception:
        return None
    settings = {"ETCD_USE_EMBED": "true", "ETCD_DATA_DIR": "/var/lib/milvus/etcd", "COMMON_STORAGETYPE": "local"}
    for name, value in {**settings, "DEPLOY_MODE": "STANDALONE"}.items():
        container = container.with_env(name, value)
    return _started(container.with_command("milvus run standalone"))


@contextmanager
def _milvus_package(folder: Path) -> Iterator[str]:
    """Start ``milvus-server`` on ports of its own; it and its children are killed at the end, and its data removed."""
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("no server named in the environment, no Docker, and the package milvus is not installed")
    names = ("proxy", "proxy-internal", "etcd", "root-coord", "query-coord", "query-node", "index-coord", "index-node")
    ports = free_ports(len(names) + 2)
    flags = [f"--{name}-port={port}" for name, port in zip((*names, "data-coord", "data-node"), ports, strict=True)]
    log = folder / "server.log"
    command = [sys.executable, "-u", "-c", "import milvus; milvus.main()", "--data", str(folder / "data"), *flags]
    with log.open("w") as output:  # a session of its own, so that all of it can be ended at once
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + _MILVUS_READY_S
        while "Welcome" not in log.read_text():  # printed when its health check succeeds
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Milvus server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield f"milvus://127.0.0.1:{ports[0]}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]

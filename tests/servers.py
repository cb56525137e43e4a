"""Database servers for tests, as session-scoped fixtures: one that is named by the environment, else containers.

A fixture returns a URL without the collection (``qdrant://127.0.0.1:6334``), or skips with the reason.
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from qdrant_wire import WireServer

__all__ = ["milvus_server_url", "qdrant_server_url", "qdrant_wire_url", "server_pool"]

IMAGES = {
    "qdrant": ("qdrant/qdrant:v1.19.1", "qdrant/qdrant:v1.18.2"),
    "milvus": (
        "milvusdb/milvus:v3.0.1",
        "milvusdb/milvus:v2.6.19",
        "milvusdb/milvus:v2.5.27",
        "milvusdb/milvus:v2.4.23",
    ),
}
"""By product, newest first. ``IMRNN_TEST_IMAGES`` chooses: the newest alone by default, ``all``, or some by name."""
_VARIABLES = {"qdrant": "IMRNN_TEST_QDRANT_URL", "milvus": "IMRNN_TEST_MILVUS_URL"}
_NAMED, _PACKAGE = "named", "package"
_READY_S, _MILVUS_READY_S = 60.0, 180.0
_FASTER_LOADING = {"QUERYCOORD_CHECKCHANNELINTERVAL": "100", "QUERYCOORD_DISTPULLINTERVAL": "50"}
"""Milliseconds between two looks at what is to be loaded and what is. With Milvus's own 1,000 and 500, making a
collection takes 2.7 s instead of 1.7."""


def images(product: str) -> tuple[str, ...]:
    """Return what a product's tests run against: the server that the environment names, else images.

    Without Docker that is one entry at most, so that a matrix skips no test more than once.
    """
    if os.environ.get(_VARIABLES[product]):
        return (_NAMED,)
    known = IMAGES[product]
    if not _docker_listens():
        return (_PACKAGE,) if product == "milvus" else known[:1]
    wanted = os.environ.get("IMRNN_TEST_IMAGES", "")
    if not wanted:
        return known[:1]
    return known if wanted == "all" else tuple(image for image in known if image in wanted.split(",")) or known[:1]


class ServerPool:
    """The servers that this run has started; each is started when it is first asked for, and lives until the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._urls: dict[str, str] = {}
        self._stack = ExitStack()

    def url(self, product: str, image: str) -> str:
        """Return the URL of a product's server without the collection; skip, with the reason, where there is none."""
        key = f"{product} {image}"
        if key not in self._urls:
            start = _qdrant_server if product == "qdrant" else _milvus_server
            self._urls[key] = self._stack.enter_context(start(image, self._folder / product))
        return self._urls[key]

    def close(self) -> None:
        """Stop all."""
        self._stack.close()


@pytest.fixture(scope="session")
def server_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPool]:
    """What starts servers, and stops them at the end."""
    pool = ServerPool(tmp_path_factory.mktemp("servers"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def qdrant_server_url(request: pytest.FixtureRequest, server_pool: ServerPool) -> str:
    """A Qdrant server: ``IMRNN_TEST_QDRANT_URL``, else a container of the image that the test is parametrised with."""
    return server_pool.url("qdrant", getattr(request, "param", images("qdrant")[0]))


@pytest.fixture(scope="session")
def milvus_server_url(request: pytest.FixtureRequest, server_pool: ServerPool) -> str:
    """A Milvus server: as for Qdrant, and where Docker does not answer, the server in the PyPI package ``milvus``."""
    return server_pool.url("milvus", getattr(request, "param", images("milvus")[0]))


def parametrize_servers(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a server once on each image; ids stay as they are where there is but one."""
    for product in IMAGES:
        fixture, chosen = f"{product}_server_url", images(product)
        if fixture in metafunc.fixturenames and len(chosen) > 1:
            metafunc.parametrize(fixture, chosen, indirect=True, scope="session", ids=tag)


def tag(image: str) -> str:
    """Return an image's version."""
    return image.rpartition(":")[2]


@contextmanager
def _qdrant_server(image: str, _: Path) -> Iterator[str]:
    if image == _NAMED:  # the REST port means its server
        yield named_server(_VARIABLES["qdrant"], "qdrant", {"6333": "6334"})
        return
    with docker_container(image, 6333, 6334) as container:
        host = container.get_container_host_ip()
        await_http(f"http://{host}:{container.get_exposed_port(6333)}/readyz")
        yield f"qdrant://{host}:{container.get_exposed_port(6334)}"


@contextmanager
def _milvus_server(image: str, folder: Path) -> Iterator[str]:
    if image == _NAMED:
        yield named_server(_VARIABLES["milvus"], "milvus", {})
        return
    if image == _PACKAGE:
        folder.mkdir()
        with _milvus_package(folder) as url:
            yield url
        return
    container = docker_container(image, 19530, 9091)
    settings = {"ETCD_USE_EMBED": "true", "ETCD_DATA_DIR": "/var/lib/milvus/etcd", "COMMON_STORAGETYPE": "local"}
    for name, value in {**settings, "DEPLOY_MODE": "STANDALONE"}.items():
        container = container.with_env(name, value)
    with container.with_command("milvus run standalone"):
        host = container.get_container_host_ip()
        await_http(f"http://{host}:{container.get_exposed_port(9091)}/healthz", _MILVUS_READY_S)
        yield f"milvus://{host}:{container.get_exposed_port(19530)}"


@pytest.fixture(scope="session")
def qdrant_wire_url() -> Iterator[str]:
    """Qdrant's protocol on a real gRPC port, with local mode behind it."""
    server = WireServer()
    yield server.url
    server.close()


def named_server(variable: str, scheme: str, ports: dict[str, str]) -> str:
    """Return the server that the environment names, as ``SCHEME://HOST:PORT``; ``http://`` is understood as well."""
    named = os.environ[variable].rstrip("/")
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


@contextmanager
def _milvus_package(folder: Path) -> Iterator[str]:
    """Start ``milvus-server`` on ports of its own; it and its children are killed at the end, and its data removed."""
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("no server named in the environment, no Docker, and the package milvus is not installed")
    names = ("proxy", "proxy-internal", "etcd", "root-coord", "query-coord", "query-node", "index-coord", "index-node")
    *ports, metrics = free_ports(len(names) + 3)
    flags = [f"--{name}-port={port}" for name, port in zip((*names, "data-coord", "data-node"), ports, strict=True)]
    log = folder / "server.log"
    command = [sys.executable, "-u", "-c", "import milvus; milvus.main()", "--data", str(folder / "data"), *flags]
    with log.open("w") as output:  # a session of its own, so that all of it can be ended at once
        environment = {**os.environ, **_FASTER_LOADING, "METRICS_PORT": str(metrics)}
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment)
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

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

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
_DOCKER = "unix:///var/run/docker.sock"
_READY_S, _MILVUS_READY_S = 60.0, 180.0
_TIMEOUT_S = 1200
"""Of a test that may have to wait until an image is there; Milvus's are larger than 1 GB."""
_LOG_LINES = 30
_ETCD = """\
listen-client-urls: http://127.0.0.1:{clients}
advertise-client-urls: http://127.0.0.1:{clients}
listen-peer-urls: http://127.0.0.1:{peers}
initial-advertise-peer-urls: http://127.0.0.1:{peers}
initial-cluster: default=http://127.0.0.1:{peers}
"""
_FASTER = {
    "QUERYCOORD_CHECKCHANNELINTERVAL": "100",
    "QUERYCOORD_DISTPULLINTERVAL": "50",
    "PROXY_TIMETICKINTERVAL": "50",
}
"""Milliseconds between two looks at what is to be loaded, and at what is, and between two time ticks, for which a read
after a write waits. With Milvus's own 1,000, 500 and 200, making a collection takes 2.7 s instead of 1.7, and such a
read 0.3 s instead of 0.06."""


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


class _Running(NamedTuple):
    image: str
    url: str
    stack: ExitStack


class ServerPool:
    """The servers of this run, one of each product at a time: started when first asked for, and never again in vain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, _Running] = {}
        self._failed: dict[tuple[str, str], str] = {}

    def url(self, product: str, image: str) -> str:
        """Return the URL of a product's server without the collection; skip, with the reason, where there is none.

        A server of another image of this product ends. One that did not start fails each test, at once.
        """
        if why := self._failed.get((product, image)):
            pytest.fail(f"{image} was not started again: {why}", pytrace=False)
        found = self._running.get(product)
        if found is None or found.image != image:
            self._end(product)
            found = self._running[product] = self._start(product, image)
        return found.url

    def _start(self, product: str, image: str) -> _Running:
        start, stack = _qdrant_server if product == "qdrant" else _milvus_server, ExitStack()
        try:
            return _Running(image, stack.enter_context(start(image, self._folder / product)), stack)
        except (Exception, pytest.fail.Exception) as exc:  # the latter is how a timeout of pytest-timeout comes, too
            self._failed[product, image] = f"{type(exc).__name__}: {exc}"
            raise

    def _end(self, product: str) -> None:
        if running := self._running.pop(product, None):
            running.stack.close()

    def close(self) -> None:
        """Stop all."""
        for product in list(self._running):
            self._end(product)


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


def arrange(items: list[pytest.Item]) -> None:
    """Give the tests of containers time to fetch images, and put those of one image together, so that each starts once.

    Tests without a server come first, and with them those that ask for one while they run: they get the newest.
    """
    chosen = {product: images(product) for product in IMAGES}
    if any(set(chosen[product]) & set(known) for product, known in IMAGES.items()) and _docker_listens():
        for item in items:
            if item.get_closest_marker("integration") and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(_TIMEOUT_S))
    if any(len(known) > 1 for known in chosen.values()):
        items.sort(key=lambda item: [_place(item, product, known) for product, known in chosen.items()])


def _place(item: pytest.Item, product: str, chosen: tuple[str, ...]) -> int:
    """Return the place of the image that a test runs on, -1 for none."""
    parameters = getattr(item, "callspec", None)
    given = parameters.params if parameters else {}
    engine = getattr(given.get("engine"), "name", "")
    for place, image in enumerate(chosen):
        if given.get(f"{product}_server_url") == image:
            return place
        if engine.startswith(f"{product}-server") and engine.endswith(f"-{tag(image)}"):
            return place
    return -1


def tag(image: str) -> str:
    """Return an image's version."""
    return image.rpartition(":")[2]


@contextmanager
def _qdrant_server(image: str, _: Path) -> Iterator[str]:
    if image == _NAMED:  # the REST port means its server
        yield named_server(_VARIABLES["qdrant"], "qdrant", {"6333": "6334"})
        return
    container = docker_container(image, 6333, 6334)
    with _ready(container, 6333, "/readyz", _READY_S) as host:
        yield f"qdrant://{host}:{container.get_exposed_port(6334)}"


@contextmanager
def _milvus_server(image: str, folder: Path) -> Iterator[str]:
    if image == _NAMED:
        yield named_server(_VARIABLES["milvus"], "milvus", {})
        return
    if image == _PACKAGE:
        folder.mkdir(exist_ok=True)
        with _milvus_package(folder) as url:
            yield url
        return
    container = docker_container(image, 19530, 9091)
    settings = {"ETCD_USE_EMBED": "true", "ETCD_DATA_DIR": "/var/lib/milvus/etcd", "COMMON_STORAGETYPE": "local"}
    for name, value in {**settings, "DEPLOY_MODE": "STANDALONE"}.items():
        container = container.with_env(name, value)
    with _ready(container.with_command("milvus run standalone"), 9091, "/healthz", _MILVUS_READY_S) as host:
        yield f"milvus://{host}:{container.get_exposed_port(19530)}"


@contextmanager
def _ready(container: Any, port: int, path: str, seconds: float) -> Iterator[str]:
    """Run a container; yields its host once a path answers. Where that never comes, the error has its last words."""
    with container:
        try:
            host = container.get_container_host_ip()
            await_http(f"http://{host}:{container.get_exposed_port(port)}{path}", seconds, lambda: _ended(container))
        except Exception as exc:
            raise RuntimeError(f"the server in the container did not start: {exc}\n{_last_words(container)}") from exc
        yield host


def _ended(container: Any) -> bool:
    docker = container.get_wrapped_container()
    docker.reload()
    return docker.status in ("exited", "dead")


def _last_words(container: Any) -> str:
    try:
        streams = container.get_logs()
    except Exception as exc:
        return f"(its log cannot be read: {exc})"
    return "\n".join(line for text in streams for line in text.decode(errors="replace").splitlines()[-_LOG_LINES:])


@pytest.fixture(scope="session")
def qdrant_wire_url() -> Iterator[str]:
    """Qdrant's protocol on a real gRPC port, with local mode behind it."""
    server = WireServer()
    yield server.url
    server.close()


def named_server(variable: str, scheme: str, ports: dict[str, str]) -> str:
    """Return the server that the environment names, as ``SCHEME://HOST:PORT``; ``http://`` is understood as well."""
    given, separator, address = os.environ[variable].rstrip("/").rpartition("://")
    if separator and given not in (scheme, "http"):  # TLS above all: tests open what they need by URL alone
        pytest.fail(
            f"{variable} is {scheme}://HOST:PORT or http://HOST:PORT, without TLS, not {given}://", pytrace=False
        )
    host, colon, port = address.rpartition(":")
    return f"{scheme}://{host}:{ports.get(port, port)}" if colon else f"{scheme}://{port}"


def docker_container(image: str, *ports: int) -> Any:
    """Return a container to start with ``with``; skip where Docker does not answer."""
    if not _docker_listens():  # asked first: Docker's own client leaks a socket where nobody listens
        pytest.skip("no server named in the environment, and Docker does not answer")
    if (host := docker_host()) != _DOCKER:  # Docker's client for Python knows of no contexts
        os.environ["DOCKER_HOST"] = host
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers warns of itself when it is imported
        testcontainers = pytest.importorskip("testcontainers.core.container", reason="testcontainers is not installed")
    return testcontainers.DockerContainer(image).with_exposed_ports(*ports)


def docker_host() -> str:
    """Return where Docker listens: ``DOCKER_HOST``, else what its current context says (rootless, Colima)."""
    return os.environ.get("DOCKER_HOST") or _host_of_context() or _DOCKER


@cache
def _host_of_context() -> str:
    """Ask the command line of Docker; "" where there is none, or it does not know."""
    command = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _docker_listens() -> bool:
    host = docker_host()
    if not host.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        return probe.connect_ex(host.removeprefix("unix://")) == 0


def await_http(url: str, seconds: float = _READY_S, ended: Callable[[], bool] = lambda: False) -> None:
    """Wait until a URL answers with success; give up when its server has ended, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (OSError, urllib.error.URLError) as exc:
            if isinstance(exc, urllib.error.HTTPError):
                exc.close()
            if ended():
                raise RuntimeError("it has ended") from exc
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} did not answer within {seconds:g} s: {exc}") from exc
            time.sleep(0.2)


@contextmanager
def _milvus_package(folder: Path) -> Iterator[str]:
    """Start ``milvus-server`` on ports of its own; it and its children are killed at the end, and its data removed."""
    if importlib.util.find_spec("milvus") is None:
        pytest.skip("no server named in the environment, no Docker, and the package milvus is not installed")
    names = ("proxy", "proxy-internal", "etcd", "root-coord", "query-coord", "query-node", "index-coord", "index-node")
    *ports, metrics, peers = free_ports(len(names) + 4)
    flags = [f"--{name}-port={port}" for name, port in zip((*names, "data-coord", "data-node"), ports, strict=True)]
    etcd = folder / "etcd.yaml"  # its own etcd would listen on 2379 and 2380, where another Milvus may
    etcd.write_text(_ETCD.format(clients=ports[names.index("etcd")], peers=peers))
    log = folder / "server.log"
    command = [sys.executable, "-u", "-c", "import milvus; milvus.main()", "--data", str(folder / "data"), *flags]
    with log.open("w") as output:  # a session of its own, so that all of it can be ended at once
        places = {"METRICS_PORT": str(metrics), "ETCD_CONFIG_PATH": str(etcd)}
        environment = {**os.environ, **_FASTER, **places}
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

"""Database servers for tests, as session-scoped fixtures: one that is named by the environment, else a container.

A fixture yields a URL without the collection (``qdrant://127.0.0.1:6334``), or skips with the reason.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["qdrant_server_url"]

QDRANT_IMAGE = "qdrant/qdrant:v1.19.0"
_READY_S = 60.0


@pytest.fixture(scope="session")
def qdrant_server_url() -> Iterator[str]:
    """A Qdrant server: ``IMRNN_TEST_QDRANT_URL`` (its gRPC address), else a container."""
    named = os.environ.get("IMRNN_TEST_QDRANT_URL")
    if named:
        yield named.rstrip("/")
        return
    container = docker_container(QDRANT_IMAGE, 6333, 6334)
    with container:
        host = container.get_container_host_ip()
        await_http(f"http://{host}:{container.get_exposed_port(6333)}/readyz")
        yield f"qdrant://{host}:{container.get_exposed_port(6334)}"


def docker_container(image: str, *ports: int) -> Any:
    """Return a container to start with ``with``; skip where Docker does not answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers warns of itself when it is imported
        docker = pytest.importorskip("docker", reason="no server named in the environment, and no Docker client here")
        testcontainers = pytest.importorskip("testcontainers.core.container", reason="testcontainers is not installed")
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except docker.errors.DockerException as exc:
        pytest.skip(f"no server named in the environment, and Docker does not answer ({type(exc).__name__})")
    return testcontainers.DockerContainer(image).with_exposed_ports(*ports)


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


# Milvus: the fixture `milvus_server_url` stands below this line, and its name in `__all__`.

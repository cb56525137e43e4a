"""Which servers a run of the tests uses."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from types import SimpleNamespace

import pytest

import servers
from servers import IMAGES, ServerPool, arrange, docker_host, images, named_server, tag

FAILED = pytest.fail.Exception


@pytest.fixture
def docker(monkeypatch):
    for variable in ("IMRNN_TEST_IMAGES", "IMRNN_TEST_QDRANT_URL", "IMRNN_TEST_MILVUS_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(servers, "_docker_listens", lambda: True)
    return monkeypatch


def test_the_newest_image_is_the_default_and_all_is_the_matrix(docker):
    assert images("milvus") == IMAGES["milvus"][:1]
    docker.setenv("IMRNN_TEST_IMAGES", "all")
    assert images("qdrant") == IMAGES["qdrant"]
    assert images("milvus") == IMAGES["milvus"]
    docker.setenv("IMRNN_TEST_IMAGES", IMAGES["milvus"][2])
    assert images("milvus") == (IMAGES["milvus"][2],)
    assert images("qdrant") == IMAGES["qdrant"][:1]


def test_a_named_server_is_used_once_whatever_the_matrix(docker):
    docker.setenv("IMRNN_TEST_IMAGES", "all")
    docker.setenv("IMRNN_TEST_MILVUS_URL", "milvus://127.0.0.1:19530")
    assert images("milvus") == ("named",)


def test_without_docker_a_matrix_skips_nothing_twice(docker):
    docker.setattr(servers, "_docker_listens", lambda: False)
    docker.setenv("IMRNN_TEST_IMAGES", "all")
    assert images("milvus") == ("package",)
    assert len(images("qdrant")) == 1


def test_the_matrix_has_the_promised_versions_each_pinned():
    versions = {
        product: [tag(image).removeprefix("v").split(".") for image in known] for product, known in IMAGES.items()
    }
    assert all(len(version) == 3 for known in versions.values() for version in known)
    minors = [int(version[1]) for version in versions["qdrant"]]
    assert minors[1] == minors[0] - 1
    assert [".".join(version[:2]) for version in versions["milvus"][1:]] == ["2.6", "2.5", "2.4"]


class Container:
    """What the pool uses of testcontainers' ``DockerContainer``, over a web server of this process."""

    def __init__(self, status: str = "running", answers: int = 200) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(answers)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.status = status
        self.stopped = False
        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def with_env(self, name, value):
        return self

    def with_command(self, command):
        return self

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.stopped = True

    def get_container_host_ip(self):
        return "127.0.0.1"

    def get_exposed_port(self, port):
        return self._server.server_port

    def get_wrapped_container(self):
        return SimpleNamespace(reload=lambda: None, status=self.status)

    def get_logs(self):
        return b"\n".join(b"line %d" % n for n in range(100)), b"panic: no memory\n"


@pytest.fixture
def pool(tmp_path):
    made = ServerPool(tmp_path)
    yield made
    made.close()


@pytest.fixture
def started(docker):
    """Containers by image, and the list of images that were started."""
    made, log = {}, []

    def container(image, *ports):
        log.append(image)
        return made.get(image) or made.setdefault(image, Container())

    docker.setattr(servers, "docker_container", container)
    return made, log


def test_a_container_that_ends_is_not_waited_for_and_never_started_again(pool, started):
    made, log = started
    made["m"] = Container("exited", answers=503)
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="it has ended") as caught:
        pool.url("milvus", "m")
    assert "line 99\npanic: no memory" in str(caught.value)
    assert "line 9\n" not in str(caught.value), "only the end of the log"
    for _ in range(3):
        with pytest.raises(FAILED, match=r"(?s)not started again: RuntimeError.*it has ended.*panic: no memory"):
            pool.url("milvus", "m")
    assert time.monotonic() - begun < 10
    assert log == ["m"]
    assert made["m"].stopped
    assert pool.url("milvus", "other").startswith("milvus://127.0.0.1:")


def test_a_container_that_never_answers_is_waited_for_once(pool, started, docker):
    made, log = started
    made["m"] = Container(answers=503)
    docker.setattr(servers, "_MILVUS_READY_S", 0.3)
    with pytest.raises(RuntimeError, match=r"did not answer within 0\.3 s: HTTP Error 503"):
        pool.url("milvus", "m")
    with pytest.raises(FAILED, match="not started again"):
        pool.url("milvus", "m")
    assert log == ["m"]


def test_a_timeout_of_the_test_that_starts_a_server_counts_as_its_failure(pool, docker):
    @contextlib.contextmanager
    def slow(image, folder):
        pytest.fail("Timeout (>1200.0s) from pytest-timeout.")
        yield

    docker.setattr(servers, "_milvus_server", slow)
    with pytest.raises(FAILED, match=r"^Timeout"):
        pool.url("milvus", "m")
    with pytest.raises(FAILED, match="not started again: Failed: Timeout"):
        pool.url("milvus", "m")


def test_one_server_of_a_product_runs_at_a_time(pool, started):
    made, log = started
    first = pool.url("milvus", "m1")
    assert pool.url("milvus", "m1") == first
    qdrant = pool.url("qdrant", "q1")
    assert not made["m1"].stopped
    assert pool.url("milvus", "m2") != first
    assert made["m1"].stopped
    assert not made["m2"].stopped
    assert pool.url("qdrant", "q1") == qdrant
    assert log == ["m1", "q1", "m2"]
    pool.close()
    assert made["m2"].stopped
    assert made["q1"].stopped


def test_where_the_package_is_not_installed_every_test_skips(pool, docker):
    docker.setattr(servers.importlib.util, "find_spec", lambda name: None)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="package milvus is not installed"):
            pool.url("milvus", "package")


class Item:
    def __init__(self, name, *marks, **params) -> None:
        self.name, self.marks = name, dict.fromkeys(marks)
        if params:
            self.callspec = SimpleNamespace(params=params)

    def get_closest_marker(self, name):
        return name if name in self.marks else None

    def add_marker(self, mark) -> None:
        self.marks[mark.name] = mark.mark.args


def engine_item(product: str, image: str, suffix: str = "") -> Item:
    engine = SimpleNamespace(name=f"{product}-server{suffix}-{tag(image)}")
    return Item(engine.name, "integration", engine=engine)


def test_tests_of_one_image_stand_together_and_may_wait_for_it(docker):
    docker.setenv("IMRNN_TEST_IMAGES", "all")
    new, old = IMAGES["milvus"][:2]
    items = [
        engine_item("milvus", new),
        engine_item("milvus", old),
        engine_item("qdrant", IMAGES["qdrant"][0], "-vector"),
        Item("plain"),
        Item("old", "integration", milvus_server_url=old),
        Item("asks", "integration", "timeout"),
        Item("new", "integration", milvus_server_url=new),
        Item("local", engine=SimpleNamespace(name="local")),
    ]
    arrange(items)
    assert [item.name for item in items] == [
        *("plain", "asks", "local"),
        *(f"milvus-server-{tag(new)}", "new", f"milvus-server-{tag(old)}", "old"),
        f"qdrant-server-vector-{tag(IMAGES['qdrant'][0])}",
    ]
    limits = {item.name: item.marks.get("timeout") for item in items}
    assert limits["new"] == limits[f"milvus-server-{tag(old)}"] == (1200,)
    assert limits["plain"] is limits["local"] is limits["asks"] is None, "others keep what they have"


def test_without_containers_tests_stay_as_they_are(docker):
    docker.setattr(servers, "_docker_listens", lambda: False)
    items = [Item("b", "integration"), Item("a")]
    arrange(items)
    assert [(item.name, "timeout" in item.marks) for item in items] == [("b", False), ("a", False)]


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("http://db:6333", "qdrant://db:6334"),
        ("qdrant://db:6334/", "qdrant://db:6334"),
        ("db:7000", "qdrant://db:7000"),
        ("db", "qdrant://db"),
    ],
)
def test_a_named_server_in_any_of_its_forms(monkeypatch, named, url):
    monkeypatch.setenv("V", named)
    assert named_server("V", "qdrant", {"6333": "6334"}) == url


@pytest.mark.parametrize("named", ["https://db:6334", "grpcs://db", "milvus://db:19530"])
def test_a_server_that_the_tests_would_not_reach_as_named_is_refused(monkeypatch, named):
    monkeypatch.setenv("V", named)
    with pytest.raises(FAILED, match="V is qdrant://HOST:PORT or http://HOST:PORT, without TLS"):
        named_server("V", "qdrant", {})


@pytest.fixture
def no_docker_host(monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    servers._host_of_context.cache_clear()
    yield monkeypatch
    servers._host_of_context.cache_clear()


@pytest.mark.parametrize(
    ("script", "host"),
    [
        ("echo unix:///run/user/1000/docker.sock", "unix:///run/user/1000/docker.sock"),
        ("exit 1", "unix:///var/run/docker.sock"),
        (None, "unix:///var/run/docker.sock"),
    ],
)
def test_docker_is_looked_for_where_its_context_says(no_docker_host, tmp_path, script, host):
    if script is not None:
        command = tmp_path / "docker"
        command.write_text(f'#!/bin/sh\n[ "$1 $2" = "context inspect" ] || exit 9\n{script}\n')
        command.chmod(0o755)
    no_docker_host.setenv("PATH", str(tmp_path))
    assert docker_host() == host
    no_docker_host.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
    assert docker_host() == "tcp://elsewhere:2375"

"""Which servers a run of the tests uses."""

from __future__ import annotations

import pytest

import servers
from servers import IMAGES, images, tag


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

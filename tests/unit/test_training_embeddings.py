from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.datasets import Dataset
from imrnn_vdb.encoders import CallableEncoder
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.training.embeddings import EmbeddingCache, embed, unit_vectors


class CountingEncoder:
    """Encodes a text by its letters, and remembers what it was asked."""

    encoder_id = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.array([[len(text), text.count("a") + 1.0, 1.0] for text in texts], np.float32)

    encode_passages = encode_queries


def data(*documents: str) -> Dataset:
    return Dataset("small", {str(i): text for i, text in enumerate(documents)}, {"q": "banana"}, {})


def test_a_second_run_encodes_only_what_is_new(tmp_path: Path) -> None:
    encoder, cache = CountingEncoder(), EmbeddingCache(tmp_path)
    first = embed(data("one", "two", "one"), encoder, cache)
    assert encoder.asked == ["one", "two", "banana"]
    again = embed(data("two", "three"), encoder, EmbeddingCache(tmp_path))
    assert encoder.asked[3:] == ["three"]
    np.testing.assert_array_equal(again.document_vectors[0], first.document_vectors[1])
    np.testing.assert_allclose(np.linalg.norm(again.document_vectors, axis=1), 1.0, rtol=1e-6)


def test_queries_and_passages_are_kept_apart(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    embed(data("banana"), encoder, EmbeddingCache(tmp_path))
    assert encoder.asked == ["banana", "banana"]


def test_a_damaged_cache_is_encoded_again(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    embed(data("one"), encoder, EmbeddingCache(tmp_path))
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:20])
    again = embed(data("one"), encoder, EmbeddingCache(tmp_path))
    assert encoder.asked == ["one", "banana", "one", "banana"]
    assert np.isfinite(again.document_vectors).all()


def test_cached_vectors_of_another_dimension_are_refused(tmp_path: Path) -> None:
    encoder, cache = CountingEncoder(), EmbeddingCache(tmp_path)
    embed(data("one"), encoder, cache)

    def wider(texts: Sequence[str]) -> FloatArray:
        return np.ones((len(texts), 5), np.float32)

    message = "'counting' have 3 and 5 dimensions.*remove the cache"
    for _ in range(2):  # nothing of the other encoder was kept
        with pytest.raises(InvalidInputError, match=message):
            cache.encode("counting", "passage", ["one", "two"], wider)
    cache.encode("counting", "passage", ["two"], wider)
    with pytest.raises(InvalidInputError, match="passages have 5 dimensions and queries 3"):
        embed(data("two"), encoder, cache)


def test_a_bare_callable_is_not_cached(tmp_path: Path) -> None:
    encoder = CallableEncoder(lambda texts: np.ones((len(texts), 3)))
    embed(data("one"), encoder, EmbeddingCache(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EmbeddingCache().folder == tmp_path / "imrnn_vdb" / "embeddings"


@pytest.mark.parametrize("identity", ["", "careless"], ids=["uncached", "cached"])
def test_an_encoder_that_leaves_out_a_text_is_refused(tmp_path: Path, identity: str) -> None:
    class Careless(CountingEncoder):
        encoder_id = identity

        def encode_passages(self, texts: Sequence[str]) -> FloatArray:
            return self.encode_queries(texts)[1:]

    with pytest.raises(InvalidInputError, match="2 vectors for 3 texts"):
        embed(data("one", "two", "three"), Careless(), EmbeddingCache(tmp_path))


def test_zero_vectors_and_empty_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="vector 1 is zero"):
        unit_vectors(np.array([[1, 0], [0, 0]], np.float32))
    with pytest.raises(InvalidInputError, match="needs documents and queries"):
        embed(Dataset("empty", {}, {"q": "x"}), CountingEncoder(), EmbeddingCache(tmp_path))

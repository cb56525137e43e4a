"""One small collection with real texts, that the tests of the framework adapters search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory import DIM, make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.checkpoint import IMRNNModel

QUERY = "penicillin"
TEXTS = [f"text number {i}" for i in range(30)]


def embed(texts: Sequence[str]) -> np.ndarray:
    """A stand-in for an encoder: a fixed random vector for each text."""
    return np.stack([np.random.default_rng(list(text.encode())).normal(size=DIM) for text in texts])


def payloads() -> list[dict[str, Any]]:
    return [{"title": f"title {i}", "part": i % 2, "nested": {"a": [i]}} for i in range(len(TEXTS))]


def filled(folder: Path, scheme: str = "qdrant+edge", **options: Any) -> str:
    """Make a collection with integer ids, and return its URL; nothing holds it open."""
    url = f"{scheme}:{folder}/articles"
    with IMRNNCollection.create(url, model(), encoder=embed, **options) as collection:
        collection.upsert(range(len(TEXTS)), texts=TEXTS, payloads=payloads())
    return url


def model() -> IMRNNModel:
    return make_model()


def opened(url: str, **options: Any) -> IMRNNCollection:
    return IMRNNCollection.open(url, model(), encoder=embed, **options)


def check_details(told: dict[str, Any], result: Any) -> None:
    """What an adapter says of a result is what the search said, and its parts add up to its score."""
    for name in ("id", "rank", "score", "base_rank", "base_score", "modulated", "reason"):
        assert told[name] == getattr(result, name)
    assert told["factors"] == dict(result.factors)
    assert told["contributions"] == result.explanation.named
    assert abs(told["residual"] + sum(told["contributions"].values()) + told["latent"] - told["score"]) < 1e-6

"""Small synthetic retrieval data whose signal is known."""

from __future__ import annotations

import numpy as np

from imrnn_vdb.datasets import Dataset
from imrnn_vdb.training.embeddings import EmbeddedDataset, unit_vectors

DIM = 24


def synthetic(
    queries: int = 60, documents: int = 150, *, signal: bool = True, seed: int = 0, flipped: slice = slice(0, 4)
) -> EmbeddedDataset:
    """Make data where each query is a document with some axes flipped, or, without signal, any document at random.

    Half the queries are for training and half for test. The first axes carry most of the variance, so that they lie
    in a space of principal components.
    """
    rng = np.random.default_rng(seed)
    scales = np.r_[np.full(8, 2.0), np.full(DIM - 8, 0.7)]
    table = unit_vectors((rng.normal(size=(documents, DIM)) * scales).astype(np.float32))
    relevant = rng.integers(0, documents, 2 * queries)
    flip = np.ones(DIM)
    flip[flipped] = -1.0
    vectors = table[relevant] * flip + 0.1 * rng.normal(size=(2 * queries, DIM))
    answers = relevant if signal else rng.integers(0, documents, 2 * queries)
    ids, names = [f"d{i}" for i in range(documents)], [f"q{i}" for i in range(2 * queries)]
    judged = {name: {ids[row]: 1.0} for name, row in zip(names, answers, strict=True)}
    qrels = {"train": dict(list(judged.items())[:queries]), "test": dict(list(judged.items())[queries:])}
    data = Dataset("synthetic", {key: f"text {key}" for key in ids}, {key: f"query {key}" for key in names}, qrels)
    return EmbeddedDataset(data, ids, table, names, unit_vectors(vectors.astype(np.float32)))

"""The scoring identities on real vectors, through the code path that serves searches: codes as stored, model as run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factory import make_modulator
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import CodeDtype, decode_texts, encode_texts
from imrnn_vdb.encoder_check import latent_spread, misfit
from imrnn_vdb.encoders import MINILM, TransformerEncoder
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates
from imrnn_vdb.pydocs import read_questions, read_stdlib
from imrnn_vdb.refine import refine
from imrnn_vdb.space import FactorSpace

QUERIES, DOCUMENTS = 12, 150


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    encoder = TransformerEncoder(MINILM)
    entries = read_stdlib()
    chosen = np.random.default_rng(0).choice(len(entries), DOCUMENTS, replace=False)
    questions = [question.text for question in read_questions("test")[:QUERIES]]
    documents = encoder.encode_passages([entries[i].text for i in chosen])
    return encoder.encode_queries(questions), documents


@pytest.fixture(scope="module")
def model() -> IMRNNModel:
    space = IMRNNModel.from_pretrained("minilm").space
    return IMRNNModel(space, make_modulator(space.num_factors, shrinkage=0.7), active=True)


def oriented(metric: Metric, q: np.ndarray, d: np.ndarray) -> np.ndarray:
    if metric is Metric.COSINE:
        return d @ q / np.linalg.norm(q) / np.linalg.norm(d, axis=1)
    return d @ q if metric is Metric.DOT else -((d - q) ** 2).sum(1)


def full_scores(model: IMRNNModel, metric: Metric, q: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Scores of full refined vectors ``x + U (z_T − z_0)``, of the length of x, in float64: the slow definition."""
    space: FactorSpace = model.space
    basis = space.basis.astype(np.float64)
    q_code, d_code = space.encode(q[None]), space.encode(d)
    cosines = oriented(Metric.COSINE, q.astype(np.float64), d.astype(np.float64))
    order = np.argsort(-cosines, kind="stable")
    with torch.no_grad():
        out = model.modulator(
            torch.from_numpy(q_code.directions),
            torch.from_numpy(d_code.directions[order])[None],
            torch.from_numpy(cosines[order].astype(np.float32))[None],
            torch.ones(1, len(d), dtype=torch.bool),
        )
    moved = np.empty_like(d_code.directions)
    moved[order] = out.candidates[0].numpy()
    q_shift = basis @ (out.query[0].numpy().astype(np.float64) - q_code.directions[0])
    d_shift = (moved.astype(np.float64) - d_code.directions) @ basis.T
    q_t = q + float(q_code.norms[0]) * q_shift
    d_t = d + d_code.norms[:, None].astype(np.float64) * d_shift
    q_t *= np.linalg.norm(q) / np.linalg.norm(q_t)
    d_t *= (np.linalg.norm(d, axis=1) / np.linalg.norm(d_t, axis=1))[:, None]
    shrinkage = model.modulator.config.shrinkage
    base = oriented(metric, q.astype(np.float64), d.astype(np.float64))
    return (1 - shrinkage) * base + shrinkage * oriented(metric, q_t, d_t)


def served(model: IMRNNModel, metric: Metric, q: np.ndarray, d: np.ndarray, dtype: CodeDtype) -> np.ndarray:
    """Scores as a search computes them: the database's score in single precision, codes read back from their text."""
    stored = encode_texts(model.space.encode(d), model.space.space_id, dtype)
    codes = decode_texts(stored, model.space.space_id, model.space.num_factors)
    base = oriented(metric, q, d).astype(np.float32).astype(np.float64)
    candidates = Candidates(list(range(len(d))), base, codes, [{} for _ in d])
    (refined,) = refine(model, metric, q[None], [candidates], True)
    assert refined.failure is None
    assert refined.modulated.all()
    parts = refined.scored
    np.testing.assert_allclose(parts.residuals + parts.contributions.sum(1), parts.scores, atol=1e-6)
    return parts.scores


METRICS = pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT, Metric.EUCLID], ids=str)


def scaled(metric: Metric, d: np.ndarray) -> np.ndarray:
    """Vectors of many lengths where the metric sees lengths."""
    return d if metric is Metric.COSINE else d * np.linspace(0.5, 1.5, len(d), dtype=np.float32)[:, None]


@METRICS
def test_single_precision_codes_give_the_scores_of_full_refined_vectors(vectors, model, metric):
    queries, documents = vectors
    d = scaled(metric, documents)
    for q in queries:
        np.testing.assert_allclose(served(model, metric, q, d, "float32"), full_scores(model, metric, q, d), atol=1e-5)


@METRICS
def test_half_precision_codes_rank_pairs_alike(vectors, model, metric):
    queries, documents = vectors
    d = scaled(metric, documents)
    upper = np.triu_indices(len(d), 1)
    agreements = []
    for q in queries:
        exact, found = full_scores(model, metric, q, d), served(model, metric, q, d, "float16")
        agreements.append((np.sign(exact[:, None] - exact)[upper] == np.sign(found[:, None] - found)[upper]).mean())
    assert np.mean(agreements) >= 0.999


@pytest.mark.parametrize("name", ["minilm", "pydocs"])
def test_an_encoders_vectors_are_told_from_a_turned_encoders(vectors, name: str) -> None:
    _, d = vectors
    space = IMRNNModel.from_pretrained(name).space
    assert misfit(latent_spread(space, d)) is None
    assert latent_spread(space, d) > 2
    turned = d[:, np.random.default_rng(1).permutation(space.dim)]
    assert 0.8 < latent_spread(space, turned) < 1.2
    assert misfit(latent_spread(space, turned)) is not None

"""Random models that do a trained model's work, and random points for them."""

from __future__ import annotations

import numpy as np

from imrnn_vdb.checkpoint import IMRNNModel, move
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.modulation import Precision
from imrnn_vdb.points import Candidates
from imrnn_vdb.space import FactorSpace

_NAMED = 26
_CLUSTERS = 200
_SPREAD = 0.8


def random_model(
    dim: int = 384, num_factors: int = 64, device: str = "cpu", precision: Precision = "float32"
) -> IMRNNModel:
    """Return a model with random, non-zero weights everywhere: two cells of 64, two steps, linear maps.

    Parameters
    ----------
    dim, num_factors
        d and m.
    device, precision
        Where and how the modulator computes.

    Raises
    ------
    InvalidInputError
        If torch cannot use the device here.
    """
    import torch

    from imrnn_vdb.model import Modulator, ModulatorConfig

    rng = np.random.default_rng(0)
    names = tuple(f"factor_{i}" for i in range(min(_NAMED, num_factors)))
    basis = np.linalg.qr(rng.normal(size=(dim, num_factors)))[0].astype(np.float32)
    quantiles = np.sort(rng.normal(scale=dim**-0.5, size=(len(names), 101)), axis=1).astype(np.float32)
    modulator = Modulator(ModulatorConfig(num_factors))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in modulator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    move(modulator, device)
    return IMRNNModel(FactorSpace(basis, names, quantiles), modulator.eval(), active=True, precision=precision)


def random_vectors(count: int, dim: int = 384, seed: int = 1) -> FloatArray:
    """Return unit vectors in clusters, shape (count, dim): neighbours exist, as in a real collection."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(_CLUSTERS, dim)).astype(np.float32)
    noise = rng.standard_normal(size=(count, dim), dtype=np.float32)
    vectors = centres[rng.integers(0, _CLUSTERS, count)] + np.float32(_SPREAD) * noise
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def random_candidates(model: IMRNNModel, query: FloatArray, count: int) -> Candidates:
    """Return candidates of one query as a database would, best first, with a small payload each."""
    vectors = random_vectors(count, model.space.dim, seed=2)
    scores = (vectors @ query).astype(np.float64)
    order = np.argsort(-scores)
    return Candidates(
        [f"doc-{row}" for row in order],
        scores[order],
        model.space.encode(vectors[order]),
        [{"title": f"passage {row}"} for row in order],
    )

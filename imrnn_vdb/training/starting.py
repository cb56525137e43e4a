"""Where a training starts: the factor space, the modulator, and the range of queries that it will be trusted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace, complete_basis, oriented
from imrnn_vdb.training.examples import Examples
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.settings import TrainingSettings

_FAMILIAR_QUANTILES = (0.01, 0.05)
_MIN_RANGE = 1e-3
_RAMP = 0.03
_MAX_FAMILIAR = 2000
_DEFAULT_LATENT = 64


def check_num_factors(settings: TrainingSettings, space: FactorSpace | None) -> None:
    """Check that a training from a space can have the number of factors that was asked for.

    Raises
    ------
    InvalidInputError
        If ``num_factors`` is not that of a space that is kept, or is below the number of named columns.
    """
    asked = settings.num_factors
    if space is None or asked is None:
        return
    if not settings.train_basis and asked != space.num_factors:
        raise InvalidInputError(
            f"num_factors is {asked}, but the space that is kept has {space.num_factors} factors: leave it out, or "
            "train the basis"
        )
    if asked < len(space.names):
        raise InvalidInputError(
            f"num_factors is {asked}, but the space keeps {len(space.names)} named factors: give at least as many, or "
            "start from no space"
        )


def starting_space(examples: Examples, settings: TrainingSettings, space: FactorSpace | None) -> FactorSpace:
    """Return the space that learning starts in.

    Named columns come from ``space`` as they are. The latent ones are the principal components of the collection in
    their complement, unless the basis is not to be trained: then ``space`` is returned unchanged.

    Raises
    ------
    SpaceMismatchError
        If space and vectors differ in dimension.
    """
    dim = examples.documents.shape[1]
    if space is not None and space.dim != dim:
        raise SpaceMismatchError(f"the space was made for {space.dim} dimensions, the vectors have {dim}")
    if space is not None and not settings.train_basis:
        return space
    named = np.zeros((dim, 0), np.float32) if space is None else space.named_axes
    num_factors = wanted_factors(settings, named.shape[1], dim)
    basis = complete_basis(named, principal_components(examples.documents.numpy()), num_factors)
    names, quantiles = ((), np.zeros((0, 2), np.float32)) if space is None else (space.names, space.quantiles)
    return FactorSpace(basis, names, quantiles)


def wanted_factors(settings: TrainingSettings, named: int, dim: int) -> int:
    """Return the number of factors of a space whose latent columns are learned beside so many named ones."""
    return min(settings.num_factors or _DEFAULT_LATENT + named, dim)


def principal_components(vectors: FloatArray) -> FloatArray:
    """Return all principal directions of vectors (n, d) as columns (d, d), the largest variance first."""
    centred = torch.from_numpy(vectors).double()
    centred = centred - centred.mean(dim=0)
    return eigenvectors(centred.T @ centred)


def eigenvectors(matrix: Tensor) -> FloatArray:
    """Return the eigenvectors of a symmetric matrix (d, d) as columns, the largest eigenvalue first.

    Torch's, not numpy's, whose number of threads :func:`one_thread` does not hold: another number rounds differently.
    """
    return np.asarray(oriented(torch.linalg.eigh(matrix)[1].numpy()[:, ::-1]), np.float32)


def build_network(space: FactorSpace, settings: TrainingSettings, prior: FeedbackPrior, seed: int) -> Network:
    """Make the network of one training run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modulator = Modulator(_modulator_config(space.num_factors, settings, prior))
    return Network.of(space, modulator, trainable=bool(settings.train_basis))


def familiar_codes(queries: Tensor, basis: Tensor) -> Tensor:
    """Return the codes, of unit length, that new queries are compared with, shape (at most 2,000, m).

    Parameters
    ----------
    queries
        Shape (n, d): training queries, unit vectors.
    basis
        Shape (d, m).
    """
    return thinned(torch.nn.functional.normalize(queries @ basis, dim=1))


def thinned(table: Tensor, most: int = _MAX_FAMILIAR) -> Tensor:
    """Return at most so many rows of a table, evenly spaced."""
    return table if len(table) <= most else table[torch.arange(most) * len(table) // most]


def finished_modulator(network: Network, queries: Tensor, shrinkage: float, threshold: float) -> Modulator:
    """Return the trained modulator with its shrinkage and the range of queries that it is trusted on.

    Parameters
    ----------
    network
        Trained.
    queries
        Shape (n, d): the training queries, unit vectors.
    shrinkage
        λ in 0..1.
    threshold
        Cosine with the nearest training query's code from which a query is modulated; −1 for every query.
    """
    basis = network.basis().detach()
    keys = familiar_codes(queries, basis) if threshold > -1 else torch.zeros(0, basis.shape[1])
    modulator = Modulator(replace(network.modulator.config, shrinkage=shrinkage, num_familiar=len(keys)))
    norms = torch.linalg.vector_norm(queries @ basis, dim=1)
    low, high = torch.quantile(norms, torch.tensor(_FAMILIAR_QUANTILES)).tolist()
    state = {**network.modulator.state_dict(), "familiar_queries": keys}
    state["familiar_norms"] = torch.tensor([min(low, high - _MIN_RANGE), high])
    if len(keys):
        state["familiar_similarities"] = torch.tensor([threshold - _RAMP, threshold + _RAMP])
    modulator.load_state_dict(state)
    return modulator.eval()


def _modulator_config(num_factors: int, settings: TrainingSettings, prior: FeedbackPrior) -> ModulatorConfig:
    return ModulatorConfig(
        num_factors,
        hidden=settings.hidden,
        num_steps=settings.num_steps,
        pool_size=settings.pool_size,
        two_cells=settings.two_cells,
        feedback=settings.feedback,
        linear=settings.linear,
        dropout=settings.dropout,
        prior=prior,
    )

"""Half precision, where it leaves the ranking as it is: how that is measured, and where it holds.

State, softmax and scores stay in single precision; matrix products and gates are computed in half
(``torch.autocast``). That moves scores by about their fourth digit, so that pairs of candidates that lay closer may
change places. How many do is a matter of the model, and is measured with it, on its device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from imrnn_vdb.model import Modulator
from imrnn_vdb.modulation import Inputs
from imrnn_vdb.scoring import cosine_of_refined

ENOUGH = 0.999
"""Share of pairs of candidates whose order half precision must keep."""

_QUERIES, _CANDIDATES = 64, 100
_LENGTH, _LONGEST, _NEAR = 0.7, 0.98, 0.6
"""Length of a unit vector's code, at most, and cosine of a query with its first candidate: as among sentences."""

_log = logging.getLogger("imrnn_vdb")
Refine = Callable[[Inputs], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def agreement(exact: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> float:
    """Return the share of pairs of candidates, in 0..1, that two sets of scores put in the same order.

    Parameters
    ----------
    exact, other
        Shape (B, k), k at least 2: scores of the same candidates. A pair counts if both sets order it alike, or tie it.
    """
    first, second = np.triu_indices(exact.shape[1], 1)
    signs = [np.sign(scores[:, first] - scores[:, second]) for scores in (exact, other)]
    return float((signs[0] == signs[1]).mean())


def half_keeps_ranks(modulator: Modulator, exact: Refine, half: Refine) -> bool:
    """Say whether half precision may be used for a model, and log what was measured.

    Parameters
    ----------
    modulator
        The model.
    exact, half
        Its computation in single and in half precision.
    """
    inputs = sample(modulator)
    scores = [final_scores(modulator, inputs, compute(inputs)) for compute in (exact, half)]
    share = agreement(*scores)
    kept = share >= ENOUGH  # False for NaN
    outcome = "half precision is used" if kept else "single precision is kept"
    _log.info("half precision orders %.3f %% of pairs of candidates as single does: %s", 100 * share, outcome)
    return kept


def sample(modulator: Modulator, seed: int = 0) -> Inputs:
    """Return queries and candidates to measure on: the queries that the model was trained on, where it knows them.

    Queries and candidates are unit vectors whose first m coordinates are their codes; candidates lie around their
    query, the first nearest, as a database's do.

    Parameters
    ----------
    modulator
        The model, on any device.
    seed
        Of all that is random.
    """
    rng, m = np.random.default_rng(seed), modulator.config.num_factors
    queries = moving_queries(modulator, rng)
    near = np.linspace(_NEAR, _NEAR / 2, _CANDIDATES)[:, None]
    noise = _unit(rng.normal(size=(len(queries), _CANDIDATES, 2 * m)))
    candidates = _unit(near * queries[:, None] + np.sqrt(1 - near**2) * noise)
    cosines = np.einsum("bd,bkd->bk", queries, candidates)
    mask = np.ones(cosines.shape, bool)
    query, codes = (table[..., :m].astype(np.float32) for table in (queries, candidates))
    return Inputs(query, codes, cosines.astype(np.float32), mask)


def moving_queries(modulator: Modulator, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return queries that the model moves: unit vectors, shape (n, 2m), whose first m coordinates are their codes."""
    m = modulator.config.num_factors
    known = modulator.familiar_queries.detach().cpu().numpy()[:_QUERIES]
    inside = known[known.any(axis=1)]
    if not len(inside):
        inside = rng.normal(size=(_QUERIES, m))
    length = min(_LONGEST, max(_LENGTH, float(modulator.familiar_norms[1])))  # from where on a query is familiar
    outside = (1 - length**2) ** 0.5 * _unit(rng.normal(size=(len(inside), m)))
    return np.concatenate([length * _unit(inside), outside], axis=-1)


def final_scores(
    modulator: Modulator, inputs: Inputs, refined: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
) -> npt.NDArray[np.float64]:
    """Return the cosines that candidates are ranked by, shape (B, k), shrinkage included."""
    base = inputs.cosines.astype(np.float64)
    asked, moved = (query[:, None].astype(np.float64) for query in (inputs.query, refined[0]))
    after = cosine_of_refined(base, asked, inputs.candidates, moved, refined[1])
    scores: npt.NDArray[np.float64] = base + modulator.config.shrinkage * (after - base)
    return scores


def half_type(device: torch.device) -> torch.dtype:
    """Return the 16-bit type that a device computes fast in: float16, but bfloat16 on a CPU."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16


def _unit(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    unit: npt.NDArray[np.floating] = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit

"""Whether vectors can be of the encoder that a factor space was made for: told by how they spread in it.

The latent factors of a space are directions along which vectors of its encoder spread much. Vectors of another encoder
know nothing of them: these factors then hold as much of the variance as directions drawn by chance.
"""

from __future__ import annotations

import logging

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.space import FactorSpace

MIN_VECTORS = 100
"""Fewer vectors tell nothing."""
MIN_LATENT = 16
"""Fewer latent factors tell nothing."""
LEAST_SPREAD = 1.15
"""Vectors whose spread is smaller are taken for another encoder's (docs/attach.md)."""
_log = logging.getLogger("imrnn_vdb")


def latent_spread(space: FactorSpace, vectors: FloatArray | None) -> float | None:
    """Compute how much more the vectors' directions vary along the latent factors than along directions by chance.

    ``(‖(X − x̄)·L‖² / l) / (‖X − x̄‖² / d)``, with X the n vectors at length 1 and L the basis' l latent columns.

    Parameters
    ----------
    space
        With d dimensions.
    vectors
        Shape (n, d); rows that are zero or not finite are left out. None for none.

    Returns
    -------
    float or None
        0 or above, about 1 by chance; None where it would tell nothing: fewer than 100 usable vectors, vectors that are
        all alike, fewer than 16 latent factors, or more than half as many factors as dimensions.
    """
    latent = space.basis[:, space.num_columns :]
    if vectors is None or latent.shape[1] < MIN_LATENT or 2 * space.num_factors > space.dim:
        return None
    usable = vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)].astype(np.float64)
    if len(usable) < MIN_VECTORS:
        return None
    units = usable / np.linalg.norm(usable, axis=1, keepdims=True)
    centred = units - units.mean(axis=0)
    total = float((centred**2).mean())
    return float(((centred @ latent) ** 2).mean()) / total if total > np.finfo(np.float32).eps else None


def misfit(spread: float | None) -> str | None:
    """Say what a spread means that is too small for the space's encoder; None where it is not, or is not known."""
    if spread is None or spread >= LEAST_SPREAD:
        return None
    return (
        f"the vectors vary along the model's latent factors {spread:.2f} times as much as along directions drawn by "
        "chance, where those of its encoder do so at least 1.2 times: they look like another encoder's, for which "
        "the model's factors mean nothing. Fit a model to them: imrnn-vdb attach URL --fit FOLDER"
    )


def warn_of_misfit(space: FactorSpace, vectors: FloatArray | None, collection: str) -> None:
    """Log a warning if vectors of a collection do not look like those of the space's encoder."""
    if reason := misfit(latent_spread(space, vectors)):
        _log.warning("collection %r: %s", collection, reason)

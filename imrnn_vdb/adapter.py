"""A linear update of the query that few labels can teach, carried out only near the queries it was taught on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MIN_NORM = 1e-6


def ramp(values: Tensor, bounds: Tensor) -> Tensor:
    """Rise linearly from 0 at the first bound to 1 at the second."""
    return ((values - bounds[0]) / (bounds[1] - bounds[0])).clamp(0.0, 1.0)


def resemblance(query: Tensor, keys: Tensor, bounds: Tensor) -> Tensor:
    """Say how much queries resemble the nearest of some known ones.

    Parameters
    ----------
    query
        Shape (B, m): direction codes.
    keys
        Shape (n, m), n at least 1: codes of known queries, unit length.
    bounds
        Shape (2,): the cosine up to which a query is unknown, and that from which it is fully known.

    Returns
    -------
    Tensor
        Shape (B, 1), in 0..1.
    """
    norms = torch.linalg.vector_norm(query, dim=-1, keepdim=True)
    return ramp((query @ keys.T / norms.clamp_min(_MIN_NORM)).amax(dim=-1, keepdim=True), bounds)


class Adapter(nn.Module):
    """Moves a query by ``g(z)·(z·A + b)``, where g tells how much it resembles the queries that A and b come from.

    Parameters
    ----------
    num_factors
        m.
    num_keys
        Number of queries that it was taught on, at least 1.
    """

    def __init__(self, num_factors: int, num_keys: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(num_factors, num_factors))
        self.shift = nn.Parameter(torch.zeros(num_factors))
        self.keys: Tensor
        self.similarities: Tensor
        self.register_buffer("keys", torch.zeros(num_keys, num_factors))
        self.register_buffer("similarities", torch.tensor([0.0, 1.0]))

    def forward(self, query: Tensor) -> Tensor:
        """Return what is added to the queries: shape (B, m), of direction codes (B, m)."""
        update: Tensor = query @ self.map + self.shift
        return resemblance(query, self.keys, self.similarities) * update

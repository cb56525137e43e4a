"""A linear update of the query that few labels can teach, carried out only near the queries it was taught on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MIN_NORM = 1e-6
LEAD = (0.0, 0.05)
"""By how much more a query must resemble an adapter's own queries than older ones: from where on, and for full effect.
A guess between nothing and the spread of such cosines, not tuned."""


def ramp(values: Tensor, bounds: Tensor | tuple[float, float]) -> Tensor:
    """Rise linearly from 0 at the first bound to 1 at the second."""
    return ((values - bounds[0]) / (bounds[1] - bounds[0])).clamp(0.0, 1.0)


def nearest_cosine(query: Tensor, keys: Tensor) -> Tensor:
    """Return the cosine of queries with the nearest of some known ones.

    Parameters
    ----------
    query
        Shape (B, m): direction codes.
    keys
        Shape (n, m), n at least 1: codes of known queries, unit length.

    Returns
    -------
    Tensor
        Shape (B, 1), in -1..1; 0 for a zero code.
    """
    norms = torch.linalg.vector_norm(query, dim=-1, keepdim=True)
    cosines: Tensor = (query @ keys.T / norms.clamp_min(_MIN_NORM)).amax(dim=-1, keepdim=True)
    return cosines


class Adapter(nn.Module):
    """Moves a query by ``g(z)·(z·A + b)``, where g tells how much it resembles the queries that A and b come from.

    A query that resembles older ones at least as much, which the model learned from before, stays where it is: so an
    update leaves alone what it was not taught about.

    Parameters
    ----------
    num_factors
        m.
    num_keys
        Number of queries that it was taught on, at least 1.
    """

    keys: Tensor
    similarities: Tensor

    def __init__(self, num_factors: int, num_keys: int) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(num_factors, num_factors))
        self.shift = nn.Parameter(torch.zeros(num_factors))
        self.register_buffer("keys", torch.zeros(num_keys, num_factors))
        self.register_buffer("similarities", torch.tensor([0.0, 1.0]))

    def forward(self, query: Tensor, older: Tensor) -> Tensor:
        """Return what is added to the queries.

        Parameters
        ----------
        query
            Shape (B, m): direction codes.
        older
            Shape (n, m), n possibly 0: unit codes of the queries that the model had learned from before.

        Returns
        -------
        Tensor
            Shape (B, m).
        """
        update: Tensor = query @ self.map + self.shift
        own = nearest_cosine(query, self.keys)
        trust = ramp(own, self.similarities)
        if len(older):
            trust = trust * ramp(own - nearest_cosine(query, older), LEAD)
        return trust * update

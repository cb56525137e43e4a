"""The label-free part of the recurrence: one step of feedback that knows when to hold back (DESIGN.md §4).

Pseudo-relevance feedback in the manner of Rocchio (1971), inside the factor space: the query moves towards the
candidates at the head of the list and away from the average candidate. Nothing in it is learned from labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imrnn_vdb.errors import InvalidInputError

HEAD = 10
"""Candidates whose margin decides how far a query follows them."""
_CAUTION = 2.0
"""How much further a score must stand out where no gate can judge what the prior does (docs/quality.md)."""


@dataclass(frozen=True, slots=True)
class FeedbackPrior:
    """Strength and limits of the feedback; scores are cosines, so the limits belong to one encoder.

    Attributes
    ----------
    strength
        a, at least 0; 0 switches the prior off and leaves every bit as it was.
    sharpness
        β, above 0: the weights of the candidates are softmax(β·s).
    low, high
        The margin of the first candidate over the mean of the next nine up to which the query stays where it is, and
        from which it moves with full strength; in between the strength rises linearly. Where the scores at the head
        lie close together, the first candidates say little about what was meant.
    """

    strength: float = 0.0
    sharpness: float = 50.0
    low: float = 0.05
    high: float = 0.12

    def __post_init__(self) -> None:
        if not (0 <= self.strength < float("inf") and 0 < self.sharpness < float("inf")):
            raise InvalidInputError("a prior's strength must be at least 0 and its sharpness above 0, both finite")
        if not -2 <= self.low < self.high <= 2:
            raise InvalidInputError("a prior's margins must satisfy -2 <= low < high <= 2")

    def gated(self) -> FeedbackPrior:
        """Return the bolder prior that serves under a whole model, where a gate has judged both together.

        Strength 1, and a unit of the cosine half as large: limits are halved, the sharpness doubled. A prior that is
        off stays so.
        """
        if not self.strength:
            return self
        return FeedbackPrior(1.0, self.sharpness * _CAUTION, self.low / _CAUTION, self.high / _CAUTION)

    def shift(self, candidates: Tensor, cosines: Tensor, mask: Tensor) -> Tensor:
        """Return what is added to the queries: ``a·g·(Σ softmax(β·s)_i z_i − mean z)``.

        Parameters
        ----------
        candidates
            Shape (B, k, m): direction codes, any finite value where padded.
        cosines
            Shape (B, k): base cosines, any finite value where padded.
        mask
            Shape (B, k), bool: True for real candidates with a usable code.

        Returns
        -------
        Tensor
            Shape (B, m); 0 for a query with fewer than two usable candidates.
        """
        real = mask.to(candidates.dtype)
        mean = real / real.sum(-1, keepdim=True).clamp_min(1.0)
        weights = torch.softmax((self.sharpness * cosines).masked_fill(~mask, -1e9), -1) * real
        contrast = torch.einsum("bk,bkm->bm", weights - mean, candidates)
        return self.strength * self.trust(cosines, mask) * contrast

    def trust(self, cosines: Tensor, mask: Tensor) -> Tensor:
        """Return g, how far each query may follow its candidates: shape (B, 1), in 0..1.

        Parameters
        ----------
        cosines, mask
            As in :meth:`shift`.
        """
        if cosines.shape[-1] < 2:
            return cosines.new_zeros(cosines.shape[0], 1)
        head = cosines.masked_fill(~mask, -torch.inf).topk(min(HEAD, cosines.shape[-1]), dim=-1).values
        first, others = head[:, :1], head[:, 1:]
        found = torch.isfinite(others)
        mean = others.masked_fill(~found, 0.0).sum(-1, keepdim=True) / found.sum(-1, keepdim=True).clamp_min(1)
        margin = torch.where(found[:, :1], first - mean, torch.full_like(first, -torch.inf))
        return ((margin - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

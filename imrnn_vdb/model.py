"""The recurrent modulator: refines a query and its candidates together, in the factor space (DESIGN.md §4).

The method is IMRNN (Findings of EACL 2026, arXiv 2601.20084): ``q_t = q_{t−1} + RNN(q_{t−1}, F)`` and the same for
every document, with one set of factors F that the query's topical hint picks from a learnable pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imrnn_vdb.adapter import Adapter, nearest_cosine, ramp
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.scoring import cosine_of_refined


@dataclass(frozen=True, slots=True)
class ModulatorConfig:
    """Shape and fixed settings of a :class:`Modulator`.

    Attributes
    ----------
    num_factors
        m, the number of factors of the space.
    hidden
        Width of the recurrent state.
    num_steps
        T, the number of refinements; 0 leaves only the linear maps.
    pool_size
        Number of learnable factors that the topical hint chooses from.
    two_cells
        One recurrent cell for queries and one for documents, or one for both as in the paper.
    feedback
        Whether the query sees its candidates.
    linear
        Whether a learned linear map of the code comes before the first step.
    dropout
        Applied to the inputs of the maps and cells during training, in 0..1.
    shrinkage
        λ in 0..1, ``score = (1 − λ)·base + λ·refined``; chosen on validation data.
    prior
        Feedback that needs no labels, carried out before all that is learned; off by default.
    num_familiar
        Number of training queries that new queries are compared with, see :meth:`Modulator.familiarity`.
    adapters
        For each linear update of the query that is added to all else, the number of queries that it was taught on; see
        :class:`imrnn_vdb.adapter.Adapter`.
    """

    num_factors: int
    hidden: int = 64
    num_steps: int = 2
    pool_size: int = 16
    two_cells: bool = True
    feedback: bool = True
    linear: bool = True
    dropout: float = 0.3
    shrinkage: float = 1.0
    prior: FeedbackPrior = field(default_factory=FeedbackPrior)
    num_familiar: int = 0
    adapters: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.num_factors, self.hidden, self.pool_size) < 1 or min(self.num_steps, self.num_familiar) < 0:
            raise InvalidInputError(
                "num_factors, hidden and pool_size must be at least 1, num_steps and num_familiar at least 0"
            )
        if any(keys < 1 for keys in self.adapters):
            raise InvalidInputError("an adapter needs at least one query that it was taught on")
        if not (0 <= self.dropout < 1 and 0 <= self.shrinkage <= 1):
            raise InvalidInputError("dropout must be in 0..1 (1 excluded) and shrinkage in 0..1")


class Modulated(NamedTuple):
    """Codes after modulation.

    Attributes
    ----------
    query
        Shape (B, m).
    candidates
        Shape (B, k, m).
    """

    query: Tensor
    candidates: Tensor


class _Cell(nn.Module):
    """A GRU cell over [own code, the other side's, their product, factors, hidden], and its update of the code."""

    def __init__(self, config: ModulatorConfig) -> None:
        super().__init__()
        m, h = config.num_factors, config.hidden
        self.own = nn.Linear(m, 3 * h)
        self.product = nn.Linear(m, 3 * h, bias=False)
        self.other = nn.Linear(m, 3 * h, bias=False)
        self.factors = nn.Linear(m, 3 * h, bias=False)
        self.hidden = nn.Linear(h, 3 * h)
        self.out = nn.Linear(h, m)
        bound = (4 * m) ** -0.5  # of one concatenated input of 4m, as torch.nn.GRUCell initialises by its width
        for part in (self.own, self.product, self.other, self.factors):
            nn.init.uniform_(part.weight, -bound, bound)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, own: Tensor, product: Tensor, shared: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state; ``shared`` is what all rows have in common, computed once by `common`."""
        reset_x, update_x, new_x = (self.own(own) + self.product(product) + shared).chunk(3, -1)
        reset_h, update_h, new_h = self.hidden(hidden).chunk(3, -1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return new + update * (hidden - new)

    def common(self, other: Tensor, factors: Tensor) -> Tensor:
        """Return the gates' part that depends on the query alone."""
        shared: Tensor = self.other(other) + self.factors(factors)
        return shared


class Modulator(nn.Module):
    """Refines direction codes for T steps. Untrained and without a prior, it returns them unchanged to the last bit.

    Parameters
    ----------
    config
        Shape and settings.
    """

    def __init__(self, config: ModulatorConfig) -> None:
        super().__init__()
        self.config = config
        m = config.num_factors
        self.scale = m**0.5  # a unit vector's m coordinates are of the order of 1/√m
        self.pool = nn.Parameter(torch.randn(config.pool_size, m) * 0.02)
        self.hint = nn.Linear(m, config.pool_size)
        self.log_beta = nn.Parameter(torch.tensor(3.0))
        self.query_cell = _Cell(config)
        self.document_cell = _Cell(config) if config.two_cells else self.query_cell
        self.query_map = nn.Parameter(torch.zeros(m, m)) if config.linear else None
        self.document_map = nn.Parameter(torch.zeros(m, m)) if config.linear else None
        self.adapters = nn.ModuleList(Adapter(m, keys) for keys in config.adapters)
        self.drop = nn.Dropout(config.dropout)
        self.familiar_queries: Tensor
        self.familiar_similarities: Tensor
        self.familiar_norms: Tensor
        self.register_buffer("familiar_queries", torch.zeros(config.num_familiar, m))
        # Ranges below any similarity and any norm: until training sets them, every query is familiar.
        self.register_buffer("familiar_similarities", torch.tensor([-3.0, -2.0]))
        self.register_buffer("familiar_norms", torch.tensor([-2.0, -1.0]))

    @property
    def moving_steps(self) -> int:
        """How many steps can move a code: none where no cell was trained."""
        cells = (self.query_cell, self.document_cell)
        moving = any(bool(part.detach().any()) for cell in cells for part in (cell.out.weight, cell.out.bias))
        return self.config.num_steps if moving else 0

    @property
    def trained(self) -> bool:
        """Whether anything learned moves a code; False for a modulator that is new, or has a prior and no more."""
        parts = [part for part in (self.query_map, self.document_map, *self.adapters.parameters()) if part is not None]
        return self.moving_steps > 0 or any(bool(part.detach().any()) for part in parts)

    @property
    def selective(self) -> bool:
        """Whether training set what queries are familiar; until then, every query is."""
        return bool(self.config.num_familiar) or float(self.familiar_norms[1]) >= 0

    def familiarity(self, query: Tensor) -> Tensor:
        """Say how much each query resembles those that the model was trained on.

        Two signs, each rising linearly from 0 to 1 in a range that is set after training, are multiplied. The factor
        space is spanned by what the training collection is about, so the length of a unit vector's code tells how much
        of it lies there. And the largest cosine with the code of a training query tells whether its topic was labelled.

        Parameters
        ----------
        query
            Shape (B, m): direction codes.

        Returns
        -------
        Tensor
            Shape (B, 1), in 0..1: how far the modulation is carried out, prior included, adapters apart, which have
            their own measure. 1 everywhere for an untrained model.
        """
        norms = torch.linalg.vector_norm(query, dim=-1, keepdim=True)
        trust = ramp(norms, self.familiar_norms)
        if self.config.num_familiar:
            trust = trust * ramp(nearest_cosine(query, self.familiar_queries), self.familiar_similarities)
        return trust

    def forward(
        self, query: Tensor, candidates: Tensor, cosines: Tensor, mask: Tensor, selective: bool | None = None
    ) -> Modulated:
        """Refine a batch of queries with their candidates.

        Parameters
        ----------
        query
            Shape (B, m): direction codes.
        candidates
            Shape (B, k, m): direction codes, padded to the longest candidate set.
        cosines
            Shape (B, k): base cosines, any value where padded.
        mask
            Shape (B, k), bool: True for real candidates with a usable code. The others are not seen by the query.
        selective
            What :attr:`selective` says, where it is known; None to look, which waits for a GPU.

        Returns
        -------
        Modulated
            Codes after T steps, of the shapes that came in.
        """
        prior = self.config.prior
        start = query + prior.shift(candidates, cosines, mask) if prior.strength > 0 else query
        trust = self.familiarity(query) if (self.selective if selective is None else selective) else None
        z_q, z_d = self.recur(start, query, candidates, cosines, mask)
        if trust is not None:
            z_q, z_d = query + trust * (z_q - query), candidates + trust.unsqueeze(1) * (z_d - candidates)
        older = self.familiar_queries
        for adapter in self.adapters:
            z_q = z_q + adapter(query, older)
            older = torch.cat((older, adapter.get_buffer("keys")))
        return Modulated(z_q, z_d)

    def recur(
        self, start: Tensor, query: Tensor, candidates: Tensor, cosines: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Carry out the linear maps, then T steps of both cells.

        Parameters
        ----------
        start
            Shape (B, m): the queries' codes after the prior.
        query, candidates, cosines, mask
            As in :meth:`forward`.

        Returns
        -------
        tuple of Tensor
            Codes of queries, shape (B, m), and of candidates, shape (B, k, m).
        """
        z_q, z_d = start, candidates
        if self.query_map is not None and self.document_map is not None:
            z_q = z_q + self.drop(query) @ self.query_map
            z_d = z_d + self.drop(candidates) @ self.document_map
        scale = self.scale
        factors = self.drop(torch.softmax(self.hint(self.drop(query * scale)), -1) @ self.pool * scale)
        h_q = query.new_zeros(query.shape[0], self.config.hidden)
        h_d = query.new_zeros(*candidates.shape[:2], self.config.hidden)
        scores = cosines
        for step in range(self.config.num_steps):
            seen = self._feedback(scores, z_d, mask)
            shared = self.query_cell.common(self.drop(seen * scale), factors)
            h_q = self.query_cell(self.drop(z_q * scale), self.drop(z_q * seen * scale**2), shared, h_q)
            shared = self.document_cell.common(self.drop(z_q * scale), factors).unsqueeze(1)
            product = z_d * z_q.unsqueeze(1) * scale**2
            h_d = self.document_cell(self.drop(z_d * scale), self.drop(product), shared, h_d)
            z_q = z_q + self.query_cell.out(h_q)
            z_d = z_d + self.document_cell.out(h_d)
            if step + 1 < self.config.num_steps:
                scores = cosine_of_refined(cosines, query.unsqueeze(1), candidates, z_q.unsqueeze(1), z_d)
        return z_q, z_d

    def _feedback(self, scores: Tensor, candidates: Tensor, mask: Tensor) -> Tensor:
        """Return what the query receives: ``c = Σ softmax(β·s)_i · z_i`` over its candidates, shape (B, m)."""
        if not self.config.feedback:
            return torch.zeros_like(candidates[:, 0])
        logits = (self.log_beta.exp() * scores).masked_fill(~mask, -1e9)
        weights = torch.softmax(logits, -1) * mask
        return torch.einsum("bk,bkm->bm", weights, candidates)

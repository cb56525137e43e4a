"""What is trained: the latent columns of the basis, and the modulator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.model import Modulator
from imrnn_vdb.scoring import cosine_of_refined
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.examples import Examples, batches


class LearnedBasis(nn.Module):
    """An orthonormal basis whose first columns stay fixed while the rest is learned in their complement.

    Parameters
    ----------
    basis
        Shape (d, m), orthonormal: where learning starts.
    num_named
        Columns that stay as they are.
    trainable
        False for a basis that does not move at all.
    """

    def __init__(self, basis: Tensor, num_named: int, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable and num_named < basis.shape[1]
        self.named: Tensor
        self.register_buffer("named", basis[:, :num_named].clone())
        self.latent = nn.Parameter(basis[:, num_named:].clone(), requires_grad=self.trainable)

    def forward(self) -> Tensor:
        """Return the basis U, shape (d, m)."""
        if not self.trainable:
            return torch.cat([self.named, self.latent], 1)
        rest = self.latent - self.named @ (self.named.T @ self.latent)
        q, r = torch.linalg.qr(rest)
        return torch.cat([self.named, q * torch.sign(torch.diagonal(r))], 1)


class Network(nn.Module):
    """A basis and a modulator, scoring candidates from full vectors.

    Parameters
    ----------
    basis
        The factor space.
    modulator
        What refines codes in it.
    """

    def __init__(self, basis: LearnedBasis, modulator: Modulator) -> None:
        super().__init__()
        if basis.named.shape[1] + basis.latent.shape[1] != modulator.config.num_factors:
            raise InvalidInputError("basis and modulator differ in their number of factors")
        self.basis = basis
        self.modulator = modulator

    @classmethod
    def of(cls, space: FactorSpace, modulator: Modulator, *, trainable: bool = False) -> Network:
        """Return the network of a modulator in a space, whose latent columns move only if they are trainable."""
        return cls(LearnedBasis(torch.from_numpy(space.basis.copy()), len(space.names), trainable), modulator)

    def score(self, queries: Tensor, documents: Tensor, cosines: Tensor) -> Tensor:
        """Return the refined cosines, not shrunk.

        Parameters
        ----------
        queries
            Shape (B, m): codes of unit vectors.
        documents
            Shape (B, k, m): codes of unit vectors.
        cosines
            Shape (B, k): base cosines.

        Returns
        -------
        Tensor
            Shape (B, k).
        """
        seen = torch.ones_like(cosines, dtype=torch.bool)
        moved = self.modulator(queries, documents, cosines, seen)
        query = moved.query.unsqueeze(1)
        return cosine_of_refined(cosines, queries.unsqueeze(1), documents, query, moved.candidates)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, examples: Examples, rows: Tensor) -> Tensor:
        """Return the refined cosines of the first stage's candidates of some queries, shape (len(rows), k)."""
        self.eval()
        basis = self.basis()
        codes = examples.documents @ basis
        scores = torch.empty(len(rows), examples.candidates.shape[1])
        for part in batches(len(rows)):
            batch = rows[part]
            queries = examples.queries[batch] @ basis
            scores[part] = self.score(queries, codes[examples.candidates[batch]], examples.cosines[batch])
        return scores

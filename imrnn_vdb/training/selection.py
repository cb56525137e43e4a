"""Choosing epochs and shrinkage by cross-validation, and the gate that only a better model passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imrnn_vdb.evaluation import PairedTest, paired_test
from imrnn_vdb.training.examples import Examples

SHRINKAGES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
SIGNIFICANCE = 0.05
MIN_QUERIES = 10

FloatTable = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation chose, and what it is worth.

    Attributes
    ----------
    epochs
        Passes over the training queries; 0 for none.
    shrinkage
        λ in 0..1.
    base, modulated
        nDCG@10 of held-out queries.
    test
        Paired test of the two.
    better
        The gate: better on average, and not by chance.
    """

    epochs: int
    shrinkage: float
    base: float
    modulated: float
    test: PairedTest
    better: bool


def fold_of(queries: int, folds: int, seed: int) -> Tensor:
    """Deal queries into folds at random, shape (queries,), values 0 … folds − 1."""
    order = torch.randperm(queries, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(queries, dtype=torch.long)
    fold[order] = torch.arange(queries) % folds
    return fold


def shrunk_ndcg(examples: Examples, scores: Tensor, rows: Tensor, shrinkages: tuple[float, ...]) -> FloatTable:
    """Return nDCG@10 for each shrinkage, shape (len(shrinkages), len(rows)), of refined cosines (len(rows), k)."""
    base = examples.cosines[rows]
    tables = [examples.ndcg(base + shrinkage * (scores - base), rows) for shrinkage in shrinkages]
    return np.asarray(torch.stack(tables).double().numpy())


def choose(table: FloatTable, fold: npt.NDArray[np.int64], shrinkages: tuple[float, ...] = SHRINKAGES) -> Choice:
    """Choose epochs and shrinkage, and put the choice to the test.

    The setting that is kept is chosen on all folds. What the test sees is fairer: each fold's queries under the setting
    that the *other* folds would choose, so that the gain from choosing among many settings is not counted as a gain.

    Parameters
    ----------
    table
        Shape (epochs, len(shrinkages), n): held-out nDCG@10 after each epoch. The first shrinkage is 0,
        the base ranking.
    fold
        Shape (n,): fold of each query.
    shrinkages
        The values of the second dimension.

    Returns
    -------
    Choice
        Epochs counted from 1.
    """
    base = table[0, 0]
    honest = np.zeros_like(base)
    for part in np.unique(fold):
        held = fold == part
        epoch, shrinkage = _best(table[:, :, ~held])
        honest[held] = table[epoch, shrinkage][held]
    epoch, shrinkage = _best(table)
    test = paired_test(honest - base)
    better = len(base) >= MIN_QUERIES and shrinkage > 0 and test.difference > 0 and test.p_value < SIGNIFICANCE
    return Choice(epoch + 1, shrinkages[shrinkage], float(base.mean()), float(honest.mean()), test, better)


def _best(table: FloatTable) -> tuple[int, int]:
    """Return epoch and shrinkage of the best mean, smoothed over neighbouring epochs; ties go to the smaller change."""
    means = table.mean(axis=2)
    padded = np.concatenate([means[:1], means, means[-1:]])
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    epoch, shrinkage = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return int(epoch), int(shrinkage)

"""Choosing epochs and shrinkage by cross-validation, and the gate that only a better model passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import PairedTest, paired_test
from imrnn_vdb.training.examples import Examples, batches
from imrnn_vdb.training.network import Network

SHRINKAGES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
THRESHOLDS = (-1.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
SIGNIFICANCE = 0.05
LEANING = 0.5  # of a two-sided test: what is not proven, and still the better guess
_MIN_QUERIES = 10

FloatTable = npt.NDArray[np.float64]
IntTable = npt.NDArray[np.int64]
_CLUSTER_ROUNDS = 10
_CAUTION = 100
_TOLERATED_LOSS = 0.005  # of nDCG@10, on new topics


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation chose, and what it is worth.

    Attributes
    ----------
    epochs
        Passes over the training queries; 0 for an adapter, which has none.
    shrinkage
        λ in 0..1.
    threshold
        Cosine with the nearest training query's code from which a query is modulated; −1 for every query, or for
        an adapter, which has its own measure.
    base
        Mean nDCG@10 of held-out queries, before.
    ndcg
        Shape (n,): nDCG@10 of each held-out query, after.
    new_topic_difference
        Modulated minus base, for held-out queries whose whole topic was held out; None where topics were not.
    test
        Paired test of base and modulated.
    joint_p_value
        Of the test that an adapter's gate goes by, of nDCG@10 and the likelihood of the relevant candidates together,
        two-sided; None for a whole model, whose gate goes by ``test``.
    better
        The gate: better on average, and not by chance.
    """

    epochs: int
    shrinkage: float
    threshold: float
    base: float
    ndcg: FloatTable = field(repr=False, compare=False)
    new_topic_difference: float | None
    test: PairedTest
    joint_p_value: float | None
    better: bool

    @property
    def modulated(self) -> float:
        """Mean nDCG@10 of held-out queries, after."""
        return float(self.ndcg.mean())


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What cross-validation measured, for n queries.

    Attributes
    ----------
    ndcg
        Shape (epochs, shrinkages, n): nDCG@10 after each epoch. The first shrinkage is 0, the base ranking.
    similarity
        Shape (epochs, n): cosine of each query's code with the nearest one of its training part.
    """

    ndcg: FloatTable
    similarity: FloatTable


@dataclass(frozen=True, eq=False)
class Folds:
    """How queries are held out.

    Attributes
    ----------
    of
        Shape (n,): fold of each query, 0 … count − 1.
    new_topic
        Shape (n,), bool: True where the query is held out together with all others about its topic.
    """

    of: IntTable
    new_topic: npt.NDArray[np.bool_]


def check_enough(queries: int, folds: int) -> None:
    """Raise `InvalidInputError` if there are too few labelled queries for a cross-validation, or for the gate."""
    least = max(folds, _MIN_QUERIES)
    if queries < least:
        raise InvalidInputError(f"training needs at least {least} different labelled queries, there are {queries}")


def make_folds(examples: Examples, count: int, seed: int) -> Folds:
    """Deal queries into folds: half the topics query by query, the other half topic by topic.

    Dealt query by query, most held-out queries have others about the same documents in the training part, and what a
    model learned by heart looks like skill. Dealt topic by topic, none has. Future queries will be of both kinds.

    Parameters
    ----------
    examples
        Topics are clusters of the relevant documents.
    count
        Number of folds.
    seed
        Of clusters and deal.
    """
    rng = np.random.default_rng(seed)
    queries, relevant = len(examples), examples.gains > 0
    weights = relevant / relevant.sum(1, keepdim=True).clamp_min(1)
    centres = torch.empty(queries, examples.documents.shape[1])
    for part in batches(queries):
        centres[part] = torch.einsum("nk,nkd->nd", weights[part], examples.documents[examples.mined[part]])
    topic = _cluster(centres.numpy(), max(2 * count, round(queries**0.5)), rng)
    whole = rng.permutation(topic.max() + 1)[::2]
    new_topic = np.isin(topic, whole)
    fold = np.full(queries, -1)
    for label in whole:  # to the smallest fold so far
        fold[topic == label] = np.bincount(fold[fold >= 0], minlength=count).argmin()
    for row in rng.permutation(np.flatnonzero(~new_topic)):
        fold[row] = np.bincount(fold[fold >= 0], minlength=count).argmin()
    return Folds(fold, new_topic)


def _cluster(points: npt.NDArray[np.float32], count: int, rng: np.random.Generator) -> IntTable:
    """Spherical k-means, shape (n,): labels 0 … at most count − 1."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True).clip(1e-9)
    centres = unit[rng.choice(len(unit), min(count, len(unit)), replace=False)]
    for _ in range(_CLUSTER_ROUNDS):
        label = (unit @ centres.T).argmax(axis=1)
        sums = np.stack([unit[label == i].sum(axis=0) for i in range(len(centres))])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / norms.clip(1e-9), centres)
    return np.asarray(np.unique(label, return_inverse=True)[1], np.int64)


def fold_rows(fold: IntTable, part: int) -> tuple[Tensor, Tensor]:
    """Return the rows to train on and the rows held out, shapes (n − n',) and (n',), where ``fold`` is each row's."""
    held_out = torch.from_numpy(fold == part)
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def shrunk_ndcg(examples: Examples, scores: Tensor, rows: Tensor, shrinkages: tuple[float, ...]) -> FloatTable:
    """Return nDCG@10 for each shrinkage, shape (len(shrinkages), len(rows)), of refined cosines (len(rows), k)."""
    base = examples.cosines[rows]
    tables = [examples.ndcg(base + shrinkage * (scores - base), rows) for shrinkage in shrinkages]
    return np.asarray(torch.stack(tables).double().numpy())


def served_scores(network: Network, examples: Examples, rows: Tensor | None = None) -> Tensor:
    """Return candidates' scores as a network serves them, with shrinkage: shape (len(rows), k), of all if None."""
    chosen = torch.arange(len(examples)) if rows is None else rows
    base = examples.cosines[chosen]
    return base + network.modulator.config.shrinkage * (network.predict(examples, chosen) - base)


def choose(
    held: HeldOut,
    folds: Folds,
    shrinkages: tuple[float, ...] = SHRINKAGES,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Choice:
    """Choose epochs, shrinkage and threshold, and put the choice to the test.

    The setting that is kept is chosen on all folds: the largest gain over all queries, among those that cost new topics
    at most 0.005. With n labels, shrinkages above n / (n + 100) are not considered: the fewer labels, the less a large
    change is believed. What the test sees is fairer: each fold's queries under the setting that the *other* folds would
    choose, so that the gain from choosing among many settings is not counted as a gain.

    Parameters
    ----------
    held
        What was measured.
    folds
        How the n queries were held out.
    shrinkages, thresholds
        The values tried; the first shrinkage is 0.
    """
    base = held.ndcg[0, 0]
    limit = max(len(base) / (len(base) + _CAUTION), shrinkages[min(1, len(shrinkages) - 1)])
    shrinkages = tuple(value for value in shrinkages if value <= limit)
    held = HeldOut(held.ndcg[:, : len(shrinkages)], held.similarity)
    honest = np.zeros_like(base)
    for part in np.unique(folds.of):
        rows = folds.of == part
        setting = _best(held, folds.new_topic, ~rows, thresholds)
        honest[rows] = _under(held, setting, thresholds)[rows]
    epoch, shrinkage, threshold = _best(held, folds.new_topic, np.ones(len(base), bool), thresholds)
    test = paired_test(honest - base)
    better = shrinkage > 0 and rises(test, SIGNIFICANCE)
    new = (honest - base)[folds.new_topic]
    return Choice(
        epochs=epoch + 1,
        shrinkage=shrinkages[shrinkage],
        threshold=thresholds[threshold],
        base=float(base.mean()),
        ndcg=honest,
        new_topic_difference=float(new.mean()) if len(new) else None,
        test=test,
        joint_p_value=None,
        better=better,
    )


def rises(test: PairedTest, level: float) -> bool:
    """Whether a mean difference is above 0, with a two-sided p below a level."""
    return test.difference > 0 and test.p_value < level


def _under(held: HeldOut, setting: tuple[int, int, int], thresholds: tuple[float, ...]) -> FloatTable:
    """Return each query's nDCG@10 under one setting, shape (n,)."""
    epoch, shrinkage, threshold = setting
    familiar = held.similarity[epoch] >= thresholds[threshold]
    return np.asarray(np.where(familiar, held.ndcg[epoch, shrinkage], held.ndcg[0, 0]))


def _best(
    held: HeldOut, new_topic: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_], thresholds: tuple[float, ...]
) -> tuple[int, int, int]:
    """Return the indices of the best setting on some queries; ties go to the smaller change."""
    gain = held.ndcg[:, :, rows] - held.ndcg[0, 0, rows]
    new = new_topic[rows]
    best, where = 0.0, (0, 0, 0)
    for index, threshold in enumerate(thresholds):
        served = gain * (held.similarity[:, None, rows] >= threshold)
        value = _smooth(served.mean(axis=2))
        if new.any():
            value = np.where(_smooth(served[:, :, new].mean(axis=2)) < -_TOLERATED_LOSS, 0.0, value)
        epoch, shrinkage = np.unravel_index(int(value.argmax()), value.shape)
        if value[epoch, shrinkage] > best:
            best, where = float(value[epoch, shrinkage]), (int(epoch), int(shrinkage), index)
    return where


def _smooth(means: FloatTable) -> FloatTable:
    """Average each epoch with its neighbours, shape (epochs, shrinkages)."""
    padded = np.concatenate([means[:1], means, means[-1:]])
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3)

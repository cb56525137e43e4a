"""Training an adapter: a linear update of the query, for few labels and for updates of a trained model.

Nothing is chosen on the labels: with few of them, a choice costs more than it gains, and what cross-validation measures
is then what the gate may believe.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.evaluation import paired_test
from imrnn_vdb.model import Modulator
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.space import FactorSpace, complete_basis
from imrnn_vdb.training.examples import Examples
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.selection import (
    LEANING,
    Choice,
    FloatTable,
    IntTable,
    check_enough,
    fold_rows,
    rises,
    served_scores,
)
from imrnn_vdb.training.settings import Progress, Reporter, TrainingSettings
from imrnn_vdb.training.starting import eigenvectors
from imrnn_vdb.training.update import fit_update, plain_modulator, see, with_adapter

_TINY = np.finfo(np.float64).tiny
_SIGNIFICANCE = 0.1  # of the two-sided test, and better: 5 % one-sided; nothing was selected on these queries


class Adapting(Protocol):
    """A way to adapt to some of the labelled queries."""

    def adapt(self, rows: Tensor) -> tuple[FactorSpace, Modulator]:
        """Return a space and the modulator adapted in it, given rows of queries, shape (n',)."""


class KeptSpace:
    """Adapts a modulator in a space that stays as it is, so that stored codes stay valid.

    Parameters
    ----------
    examples
        Labelled queries with their candidates.
    space
        Where codes lie.
    origin
        What is adapted: :func:`plain_modulator`, or that of a trained model which is switched on.
    penalty
        Above 0; divided by the number of queries.
    """

    def __init__(self, examples: Examples, space: FactorSpace, origin: Modulator, penalty: float) -> None:
        self._space = space
        self._origin = origin.eval()
        self._penalty = penalty
        self._lists = see(Network.of(space, self._origin), examples)

    def adapt(self, rows: Tensor) -> tuple[FactorSpace, Modulator]:
        """Return the space and the modulator with one adapter more."""
        lists = self._lists.among(rows)
        return self._space, with_adapter(self._origin, fit_update(lists, self._penalty / len(lists)), lists.queries)


class LearnedSpace:
    """Finds the latent columns that the labels speak of, then adapts in them.

    The update of few labels has a low rank, so that few columns hold nearly all of it: it is fitted in a space as wide
    as the vectors, and the leading singular directions of both its sides take the place of the latent columns.

    Parameters
    ----------
    examples
        Labelled queries with their candidates.
    widest
        Where the update is fitted first. Its named columns are kept.
    num_factors
        Of the space that is found.
    penalty
        As for :class:`KeptSpace`, of both fits.
    """

    def __init__(self, examples: Examples, widest: FactorSpace, num_factors: int, penalty: float) -> None:
        self._examples = examples
        self._widest = widest
        self._num_factors = num_factors
        self._penalty = penalty
        self._lists = see(Network.of(widest, plain_modulator(widest.num_factors, FeedbackPrior())), examples)

    def adapt(self, rows: Tensor) -> tuple[FactorSpace, Modulator]:
        """Return the space that was found and the modulator of an adapter in it, with no label-free prior.

        A prior beside what few labels taught lost 0.004 of nDCG@10 on the mean of nine collections.
        """
        lists = self._lists.among(rows)
        update = fit_update(lists, self._penalty / len(lists))
        moved = torch.cat([update.map, update.shift.unsqueeze(0)]).double()
        both_sides = moved.T @ moved + update.map.double() @ update.map.double().T
        directions = self._widest.basis @ eigenvectors(both_sides)
        basis = complete_basis(self._widest.named_axes, directions, self._num_factors)
        space = FactorSpace(basis, self._widest.names, self._widest.quantiles)
        plain = plain_modulator(self._num_factors, FeedbackPrior())
        return KeptSpace(self._examples, space, plain, self._penalty).adapt(rows)


class AdapterTrainer:
    """Measures a way of adapting by cross-validation, then adapts to all labelled queries.

    Parameters
    ----------
    examples
        Labelled queries with their candidates.
    settings
        Filled in; of these ``seed`` and ``folds`` matter here. Kept as the attribute of that name.
    way
        How to adapt.
    rival
        Shape (n, k): scores that the gate compares with: the database's, or those of the model to update.
    report
        Called after each fold.
    """

    def __init__(
        self,
        examples: Examples,
        settings: TrainingSettings,
        way: Adapting,
        rival: Tensor,
        *,
        report: Reporter | None = None,
    ) -> None:
        self._examples = examples
        self.settings = settings
        self._way = way
        self._rival = rival
        self._report = report

    def run(self) -> tuple[FactorSpace, Modulator, Choice]:
        """Return the space, the adapted modulator and what cross-validation found.

        Raises
        ------
        InvalidInputError
            If there are too few labelled queries.
        """
        n, count = len(self._examples), self.settings.folds or 0
        check_enough(n, count)
        after = self._held_out(np.random.default_rng(self.settings.seed).permutation(n) % count)
        space, modulator = self._way.adapt(torch.arange(n))
        return space, modulator, self._choice(after, modulator)

    def held_out_ndcg(self, folds: IntTable) -> FloatTable:
        """Return each query's nDCG@10, shape (n,), held out in the folds of another cross-validation, shape (n,)."""
        ndcg = self._examples.ndcg(self._held_out(folds), torch.arange(len(folds)))
        return np.asarray(ndcg.double().numpy())

    def _held_out(self, folds: IntTable) -> Tensor:
        """Return scores, shape (n, k), of each fold's queries as adapted to the other folds."""
        count = int(folds.max()) + 1
        after = torch.zeros_like(self._rival)
        for part in range(count):
            train, test = fold_rows(folds, part)
            after[test] = served_scores(Network.of(*self._way.adapt(train)), self._examples, test)
            if self._report is not None:
                found = float(self._examples.ndcg(after[test], test).mean())
                self._report(Progress(f"fold {part + 1}/{count}", part + 1, count, None, found))
        return after

    def _choice(self, after: Tensor, modulator: Modulator) -> Choice:
        """Put held-out scores to the test: nDCG@10 must rise, and not by chance if the likelihood is heard as well.

        Few queries say little by nDCG@10 alone: most of their relevant documents stay within or outside of the top 10.
        """
        rows = torch.arange(len(after))
        ndcg, likelihood = (
            [measure(scores, rows).double().numpy() for scores in (self._rival, after)]
            for measure in (self._examples.ndcg, self._examples.log_likelihood)
        )
        test = paired_test(ndcg[1] - ndcg[0])
        joint = paired_test(_standardised(ndcg[1] - ndcg[0]) + _standardised(likelihood[1] - likelihood[0]))
        return Choice(
            epochs=0,
            shrinkage=modulator.config.shrinkage,
            threshold=-1.0,
            base=float(ndcg[0].mean()),
            ndcg=ndcg[1],
            new_topic_difference=None,
            test=test,
            joint_p_value=joint.p_value,
            better=rises(test, LEANING) and rises(joint, _SIGNIFICANCE),
        )


def _standardised(differences: FloatTable) -> FloatTable:
    """Divide by the root mean square; all zero stays zero."""
    return np.asarray(differences / max(float(np.sqrt((differences**2).mean())), _TINY))

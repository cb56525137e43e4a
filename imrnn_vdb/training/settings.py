"""Everything that can be set about training, with the defaults that were measured (README, "Training")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from imrnn_vdb.errors import InvalidInputError

_MANY_QUERIES = 300
_ADAPTER_FOLDS = 10


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Settings of one training; the defaults were chosen on folds of training queries.

    Attributes
    ----------
    seed
        Of initial weights, folds, batches and dropout. The same seed and data give the same model.
    coarse_k
        Candidates per query that are mined from the first stage.
    num_factors
        m, cut to d; None for 64 latent columns beside the named ones. A basis that is not trained keeps its own.
    train_basis
        Whether the latent columns of U are learned; None for learned, unless a model is updated. Named columns never
        move. With a given space and False, every stored code stays valid.
    adapter
        Whether nothing but a linear update of the query is learned, and the columns that it needs: convex problems,
        with one solution each. None for below 300 labelled queries, and where the whole model turns out not to be
        better than the base ranking, and than an adapter on the same held-out queries. A trained model is always
        updated in this way. An adapter learns from at most 5,000 of the labelled queries, evenly spaced. Of the other
        settings only ``seed``, ``coarse_k``, ``num_factors``, ``train_basis``, ``folds`` and ``penalty`` matter then.
    penalty
        Of an adapter: weight of its squared norm beside the mean loss, divided by the number of labelled queries. None
        for 60 where the basis is learned, and 20 where it is kept.
    epochs
        Most passes over the training queries; the number used is chosen by cross-validation.
    folds
        Parts of the cross-validation; None for 10 with an adapter, else for 3 with at least 300 labelled queries
        and 5 below.
    learning_rate
        Of the linear maps and the basis (AdamW).
    cell_rate
        Learning rate of everything else, as a multiple of ``learning_rate``: the recurrent cells overfit sooner.
    weight_decay
        Decoupled, for all weights.
    temperature
        τ of the listwise softmax over cosines.
    batch_size
        Queries a step.
    kept, sampled
        Candidates a query is trained on in an epoch: the best ``kept``, all relevant ones, and random others up to
        ``sampled``.
    hidden, num_steps, pool_size, two_cells, feedback, linear, dropout
        Of the modulator, see :class:`imrnn_vdb.model.ModulatorConfig`.
    """

    seed: int = 0
    coarse_k: int = 100
    num_factors: int | None = None
    train_basis: bool | None = None
    adapter: bool | None = None
    penalty: float | None = None
    epochs: int = 28
    folds: int | None = None
    learning_rate: float = 1e-3
    cell_rate: float = 0.1
    weight_decay: float = 0.1
    temperature: float = 0.03
    batch_size: int = 16
    kept: int = 24
    sampled: int = 48
    hidden: int = 16
    num_steps: int = 2
    pool_size: int = 16
    two_cells: bool = True
    feedback: bool = True
    linear: bool = True
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if min(self.coarse_k, self.epochs, self.batch_size, self.kept) < 1 or self.sampled < self.kept:
            raise InvalidInputError("coarse_k, epochs, batch_size and kept must be at least 1, sampled at least kept")
        positive = (self.learning_rate, self.temperature, 1.0 if self.penalty is None else self.penalty)
        if min(positive) <= 0 or min(self.cell_rate, self.weight_decay) < 0:
            raise InvalidInputError("rates, temperature and penalty must be positive, weight_decay not negative")
        if self.num_factors is not None and self.num_factors < 1:
            raise InvalidInputError(f"num_factors must be at least 1, got {self.num_factors}")
        if self.folds is not None and self.folds < 2:
            raise InvalidInputError("a cross-validation needs at least 2 folds")

    def for_queries(self, queries: int) -> TrainingSettings:
        """Return these settings with what depends on the number of labelled queries filled in."""
        adapter = queries < _MANY_QUERIES if self.adapter is None else self.adapter
        learned = True if self.train_basis is None else self.train_basis
        default_folds = _ADAPTER_FOLDS if adapter else (3 if queries >= _MANY_QUERIES else 5)
        return replace(self, train_basis=learned, adapter=adapter, folds=self.folds or default_folds)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes
    ----------
    phase
        ``"fold 1/3"`` … or ``"final"``.
    done, total
        Epochs, or solutions of the convex problem, over all phases.
    loss
        Mean training loss of the last epoch; None where there are no epochs.
    ndcg
        nDCG@10 on the held-out fold, unshrunk, in 0..1; None in the final phase, which holds nothing out.
    """

    phase: str
    done: int
    total: int
    loss: float | None
    ndcg: float | None


Reporter = Callable[[Progress], None]

"""Cross-validation, then one training on all labelled queries with what it chose."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.model import Modulator
from imrnn_vdb.training.examples import Examples, join_examples
from imrnn_vdb.training.loop import Weights, make_optimizer, run_epochs, weights_of
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.resume import Journal, pack, unpack
from imrnn_vdb.training.selection import (
    MIN_QUERIES,
    SHRINKAGES,
    THRESHOLDS,
    Choice,
    FloatTable,
    HeldOut,
    choose,
    make_folds,
    shrunk_ndcg,
)
from imrnn_vdb.training.settings import Progress, Reporter, TrainingSettings
from imrnn_vdb.training.starting import (
    build_network,
    familiar_codes,
    finished_modulator,
    start_threshold,
    starting_space,
)

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.space import FactorSpace

_SEEDS_PER_TRAINING = 100
_TOLERATED_LOSS = 0.01


@dataclass(frozen=True, eq=False)
class Trained:
    """The outcome of a training.

    Attributes
    ----------
    network
        Trained on all labelled queries; where nothing was gained, the weights that it started from.
    choice
        Epochs, shrinkage and the gate. When a trained model is updated, its *base* is that model, not the database.
    replayed
        nDCG@10 of the replayed queries before and after; None without any. An update that costs them more than 0.01 is
        refused.
    """

    network: Network
    choice: Choice
    replayed: tuple[float, float] | None = None


class Trainer:
    """One training.

    Parameters
    ----------
    examples
        Labelled queries with their candidates.
    settings
        See :class:`TrainingSettings`.
    space
        Its named columns stay fixed; its latent ones are where learning starts. None: principal components, no names.
    start
        A model to go on from: its space is kept, so that every stored code stays valid, and the weights are held near
        its own. One that is switched on is replaced only by a better one.
    replay
        Labelled queries that ``start`` was trained on, to be trained on again beside the new ones.
    journal
        A folder for the state of an interrupted training; None for none.
    report
        Called after every epoch.
    """

    def __init__(
        self,
        examples: Examples,
        settings: TrainingSettings,
        *,
        space: FactorSpace | None = None,
        start: IMRNNModel | None = None,
        replay: Examples | None = None,
        journal: Path | None = None,
        report: Reporter | None = None,
    ) -> None:
        filled = settings.for_queries(len(examples))
        self._settings = filled if start is None else replace(filled, train_basis=False)
        self._space = start.space if start is not None else starting_space(examples, self._settings, space)
        self._start = start
        self._updating = start is not None and start.active and start.modulator.trained  # a prior is no training
        self._new = len(examples)
        self._examples = examples if replay is None else join_examples(examples, replay)
        self._folds = self._settings.folds or 0
        self._report = report
        self._journal = Journal(journal, self._identity())
        self._before = self._served_ndcg() if self._updating else None

    @property
    def space(self) -> FactorSpace:
        """The space that training starts in."""
        return self._space

    def run(self) -> Trained:
        """Cross-validate, choose, and train on everything.

        Raises
        ------
        InvalidInputError
            If there are too few labelled queries.
        """
        least = max(self._folds, MIN_QUERIES)
        if self._new < least:
            raise InvalidInputError(f"training needs at least {least} labelled queries, there are {self._new}")
        settings = self._settings
        folds = make_folds(self._examples, self._new, self._folds, settings.seed)
        fold = torch.from_numpy(folds.of)
        left = self._journal.load()
        table = np.zeros((settings.epochs, len(self._shrinkages()), self._new))
        held = HeldOut(table, np.zeros((settings.epochs, self._new)))
        if left is not None:
            held = HeldOut(*(left[1][name].numpy().copy() for name in ("ndcg", "similarity")))
        first = left[0]["phase"] if left is not None else 0
        replayed = torch.arange(self._new, len(self._examples))
        for phase in range(first, self._folds):
            rows = torch.cat([torch.nonzero(fold != phase).flatten(), replayed])
            self._phase(phase, rows, settings.epochs, held, torch.nonzero(fold == phase).flatten())
        choice = choose(held, folds, self._shrinkages(), self._thresholds(), cautious=not self._updating)
        network = self._final(choice, held)
        trained = Trained(network, choice, self._replay_report(network, choice, replayed))
        self._journal.clear()
        if trained.replayed is not None and trained.replayed[1] < trained.replayed[0] - _TOLERATED_LOSS:
            return replace(trained, network=self._network(self._folds), choice=replace(choice, better=False))
        return trained

    def finish(self, network: Network, choice: Choice) -> Modulator:
        """Return a network's modulator as it is served, under a choice."""
        queries = self._examples.queries[: self._new]
        return finished_modulator(network, queries, choice.shrinkage, choice.threshold, self._start)

    def _final(self, choice: Choice, held: HeldOut) -> Network:
        if self._updating and not choice.better:
            return self._network(self._folds)
        return self._phase(self._folds, torch.arange(len(self._examples)), choice.epochs, held, None)

    def _phase(self, phase: int, rows: Tensor, epochs: int, held: HeldOut, test: Tensor | None) -> Network:
        """Train on some rows; with ``test`` given, measure those rows after every epoch."""
        network = self._network(phase)
        anchor: Weights | None = weights_of(network) if self._start is not None else None
        optimizer = make_optimizer(network, self._settings)
        left, done = self._journal.load(), 0
        if left is not None and left[0]["phase"] == phase:
            unpack(left[1], network, optimizer)
            done = left[0]["epoch"] + 1

        def on_epoch(epoch: int, loss: float) -> None:
            ndcg = None
            if test is not None:
                values = self._held_ndcg(network, test)
                held.ndcg[epoch][:, test.numpy()] = values
                held.similarity[epoch][test.numpy()] = self._similarity(network, test, rows)
                ndcg = float(values[-1].mean())
            measured = {"ndcg": torch.from_numpy(held.ndcg), "similarity": torch.from_numpy(held.similarity)}
            self._journal.save(phase, epoch, {**pack(network, optimizer), **measured})
            self._tell(phase, epoch, epochs, loss, ndcg)

        seed = self._seed(phase)
        run_epochs(
            network, optimizer, self._examples, rows, self._settings, range(done, epochs), seed, on_epoch, anchor
        )
        return network.eval()

    def _shrinkages(self) -> tuple[float, ...]:
        """λ that are tried. An update keeps the model's own, because old queries depend on it; 0 is the old model."""
        if self._updating and self._start is not None:
            return (0.0, self._start.modulator.config.shrinkage)
        return SHRINKAGES

    def _thresholds(self) -> tuple[float, ...]:
        """Similarities that are tried; an update keeps the model's own."""
        if self._updating and self._start is not None:
            return (start_threshold(self._start),)
        return THRESHOLDS

    @torch.no_grad()
    def _similarity(self, network: Network, test: Tensor, rows: Tensor) -> FloatTable:
        """Return each test query's cosine with the nearest query trained on, of their codes; shape (len(test),)."""
        basis = network.basis()
        keys = familiar_codes(self._examples.queries[rows], basis, self._start if self._updating else None)
        codes = torch.nn.functional.normalize(self._examples.queries[test] @ basis, dim=1)
        return np.asarray((codes @ keys.T).amax(dim=1).double().numpy())

    def _held_ndcg(self, network: Network, rows: Tensor) -> FloatTable:
        scores = network.predict(self._examples, rows)
        if self._before is None:
            return shrunk_ndcg(self._examples, scores, rows, SHRINKAGES)
        after = shrunk_ndcg(self._examples, scores, rows, self._shrinkages()[1:])
        return np.asarray(np.concatenate([self._before[None, rows.numpy()], after]))

    def _served_ndcg(self) -> FloatTable:
        """Return nDCG@10 of every query as the model to go on from serves it, familiarity included; shape (n,)."""
        network = self._network(0)
        if self._start is not None:
            network.modulator = self._start.modulator
        rows = torch.arange(len(self._examples))
        scores = network.predict(self._examples, rows)
        return np.asarray(shrunk_ndcg(self._examples, scores, rows, self._shrinkages()[1:])[0])

    def _replay_report(self, network: Network, choice: Choice, rows: Tensor) -> tuple[float, float] | None:
        if not len(rows) or self._before is None:
            return None
        before = float(self._before[rows.numpy()].mean())
        if not choice.better:  # the old weights are kept
            return before, before
        served = Network(network.basis, self.finish(network, choice))
        after = shrunk_ndcg(self._examples, served.predict(self._examples, rows), rows, (choice.shrinkage,))
        return before, float(after.mean())

    def _network(self, phase: int) -> Network:
        return build_network(self._space, self._settings, self._start, self._seed(phase))

    def _seed(self, phase: int) -> int:
        return self._settings.seed * _SEEDS_PER_TRAINING + phase

    def _tell(self, phase: int, epoch: int, epochs: int, loss: float, ndcg: float | None) -> None:
        if self._report is not None:
            final = phase == self._folds
            name = "final" if final else f"fold {phase + 1}/{self._folds}"
            longest = self._settings.epochs * self._folds
            total = longest + (epochs if final else self._settings.epochs)
            self._report(Progress(name, phase * self._settings.epochs + epoch + 1, total, loss, ndcg))

    def _identity(self) -> str:
        start = self._start.model_id if self._start is not None else None
        parts = [self._settings.to_dict(), self._examples.fingerprint(), self._space.space_id, start]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

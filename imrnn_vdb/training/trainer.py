"""Cross-validation, then one training on all labelled queries with what it chose."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.model import Modulator
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.training.examples import Examples
from imrnn_vdb.training.loop import make_optimizer, run_epochs
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.resume import Journal, pack, unpack
from imrnn_vdb.training.selection import (
    SHRINKAGES,
    Choice,
    FloatTable,
    Folds,
    HeldOut,
    check_enough,
    choose,
    fold_rows,
    make_folds,
    shrunk_ndcg,
)
from imrnn_vdb.training.settings import Progress, Reporter, TrainingSettings
from imrnn_vdb.training.starting import (
    build_network,
    familiar_codes,
    finished_modulator,
    starting_space,
)

if TYPE_CHECKING:
    from imrnn_vdb.space import FactorSpace

_SEEDS_PER_TRAINING = 100


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
    prior
        Label-free feedback that all that is learned builds on.
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
        prior: FeedbackPrior | None = None,
        journal: Path | None = None,
        report: Reporter | None = None,
    ) -> None:
        self._settings = settings.for_queries(len(examples))
        self._space = starting_space(examples, self._settings, space)
        self._prior = prior if prior is not None else FeedbackPrior()
        self._examples = examples
        self._folds = self._settings.folds or 0
        self._report = report
        self._journal = Journal(journal, self._identity())

    @property
    def space(self) -> FactorSpace:
        """The space that training starts in."""
        return self._space

    @cached_property
    def folds(self) -> Folds:
        """How labelled queries are held out."""
        return make_folds(self._examples, self._folds, self._settings.seed)

    def run(self) -> tuple[Network, Choice]:
        """Cross-validate, choose, and train on everything; return the trained network and the choice.

        Raises
        ------
        InvalidInputError
            If there are too few labelled queries.
        """
        n, settings = len(self._examples), self._settings
        check_enough(n, self._folds)
        left = self._journal.load()
        held = HeldOut(np.zeros((settings.epochs, len(SHRINKAGES), n)), np.zeros((settings.epochs, n)))
        if left is not None:
            held = HeldOut(*(left[1][name].numpy().copy() for name in ("ndcg", "similarity")))
        first = left[0]["phase"] if left is not None else 0
        for phase in range(first, self._folds):
            train, test = fold_rows(self.folds.of, phase)
            self._phase(phase, train, settings.epochs, held, test)
        choice = choose(held, self.folds)
        return self._phase(self._folds, torch.arange(n), choice.epochs, held, None), choice

    def forget(self) -> None:
        """Remove the journal: nothing of this training is left to do."""
        self._journal.clear()

    def finish(self, network: Network, choice: Choice) -> Modulator:
        """Return a network's modulator as it is served, under a choice."""
        return finished_modulator(network, self._examples.queries, choice.shrinkage, choice.threshold)

    def _phase(self, phase: int, rows: Tensor, epochs: int, held: HeldOut, test: Tensor | None) -> Network:
        """Train on some rows; with ``test`` given, measure those rows after every epoch."""
        network = self._network(phase)
        optimizer = make_optimizer(network, self._settings)
        left, done = self._journal.load(), 0
        if left is not None and left[0]["phase"] == phase:
            unpack(left[1], network, optimizer)
            done = left[0]["epoch"] + 1

        def on_epoch(epoch: int, loss: float) -> None:
            ndcg = None
            if test is not None:
                values = shrunk_ndcg(self._examples, network.predict(self._examples, test), test, SHRINKAGES)
                held.ndcg[epoch][:, test.numpy()] = values
                held.similarity[epoch][test.numpy()] = self._similarity(network, test, rows)
                ndcg = float(values[-1].mean())
            measured = {"ndcg": torch.from_numpy(held.ndcg), "similarity": torch.from_numpy(held.similarity)}
            self._journal.save(phase, epoch, {**pack(network, optimizer), **measured})
            self._tell(phase, epoch, epochs, loss, ndcg)

        seed = self._seed(phase)
        run_epochs(network, optimizer, self._examples, rows, self._settings, range(done, epochs), seed, on_epoch)
        return network.eval()

    @torch.no_grad()
    def _similarity(self, network: Network, test: Tensor, rows: Tensor) -> FloatTable:
        """Return each test query's cosine with the nearest query trained on, of their codes; shape (len(test),)."""
        basis = network.basis()
        keys = familiar_codes(self._examples.queries[rows], basis)
        codes = torch.nn.functional.normalize(self._examples.queries[test] @ basis, dim=1)
        return np.asarray((codes @ keys.T).amax(dim=1).double().numpy())

    def _network(self, phase: int) -> Network:
        return build_network(self._space, self._settings, self._prior, self._seed(phase))

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
        data = (self._examples.fingerprint(), self._space.space_id)
        parts = [self._settings.to_dict(), asdict(self._prior), *data]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

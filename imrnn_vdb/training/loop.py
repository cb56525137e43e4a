"""One training run: listwise softmax over the relevant documents and hard negatives, AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from imrnn_vdb.training.examples import Examples, listwise_likelihood
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.settings import TrainingSettings

_CLIP = 1.0
_STRIDE = 1_000_003
OnEpoch = Callable[[int, float], None]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: these matrices are too small to share, and results depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_optimizer(network: Network, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW with the full rate for the basis and the linear maps, and the lower one for the rest."""
    fast: list[nn.Parameter] = []
    slow: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (fast if name.startswith("basis.") or name.endswith("_map") else slow).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": slow, "lr": settings.learning_rate * settings.cell_rate},
        {"params": fast, "lr": settings.learning_rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=settings.weight_decay)


def run_epochs(
    network: Network,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    rows: Tensor,
    settings: TrainingSettings,
    epochs: range,
    seed: int,
    on_epoch: OnEpoch,
) -> None:
    """Train for some epochs.

    The random numbers of an epoch depend on the seed and the epoch alone, so that a training that was interrupted
    between two epochs goes on as if it had not been.

    Parameters
    ----------
    network, optimizer
        Changed in place.
    examples, rows
        Labelled queries, and those of them to train on.
    settings
        Batch size, temperature and the like.
    epochs
        Numbers of the epochs to run.
    seed
        Of this run.
    on_epoch
        Called after each epoch with its number and mean loss.
    """
    for epoch in epochs:
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * _STRIDE + epoch)
            network.train()
            fixed = None if network.basis.trainable else network.basis()
            for batch in rows[torch.randperm(len(rows))].split(settings.batch_size):  # type: ignore[no-untyped-call]
                loss = listwise_loss(network, examples, batch, settings, fixed)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
                optimizer.step()
                losses.append(float(loss.detach()))
        on_epoch(epoch, sum(losses) / len(losses))


def listwise_loss(
    network: Network, examples: Examples, batch: Tensor, settings: TrainingSettings, basis: Tensor | None = None
) -> Tensor:
    """Cross-entropy between the relevant documents, by gain, and the softmax of the refined cosines.

    Parameters
    ----------
    network
        In training mode, for dropout.
    examples, batch
        Labelled queries and the rows to use, shape (B,).
    settings
        ``kept``, ``sampled`` and ``temperature``.
    basis
        U where it is fixed; None computes it.

    Returns
    -------
    Tensor
        A scalar, at least 0.
    """
    chosen = _sample(examples.gains[batch], settings.kept, settings.sampled)
    candidates = torch.gather(examples.mined[batch], 1, chosen)
    cosines = torch.gather(examples.mined_cosines[batch], 1, chosen)
    gains = torch.gather(examples.gains[batch], 1, chosen)
    u = network.basis() if basis is None else basis
    scores = network.score(examples.queries[batch] @ u, examples.documents[candidates] @ u, cosines)
    return -listwise_likelihood(scores, gains, settings.temperature).mean()


def _sample(gains: Tensor, kept: int, sampled: int) -> Tensor:
    """Choose places of candidates: all relevant ones, then the best ``kept``, then random ones."""
    priority = torch.rand(gains.shape) + 2 * (gains > 0)
    priority[:, :kept] += 1
    return priority.topk(min(sampled, gains.shape[1]), 1).indices

"""An adapter as a convex problem: the linear update of a query that few labels can pay for.

The refined score is linear in the update, so that a listwise loss with a ridge penalty is convex: there is one
solution, no matter the seed. By the representer theorem a query is moved only as far as it resembles labelled queries,
towards what was relevant to those, plus one shift that all have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from imrnn_vdb.exact import nearest
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.scoring import products_of, refined_cosines, refined_lengths
from imrnn_vdb.training.examples import Examples, batches, listwise_likelihood
from imrnn_vdb.training.network import Network
from imrnn_vdb.training.starting import thinned

_TEMPERATURE = 0.06
_SHIFT_SCALE = 0.316
_ITERATIONS = 40
_RAMP_QUANTILES = (0.02, 0.1)
_STRICTEST, _MIN_RAMP = 0.7, 0.02
_MAX_TAUGHT = 5000  # queries: in a space of 512 factors, a list of 100 candidates takes 0.2 MB


@dataclass(frozen=True, eq=False)
class Update:
    """What an adapter adds to a query z: ``z·A + b``.

    Attributes
    ----------
    map
        A, shape (m, m).
    shift
        b, shape (m,).
    """

    map: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Lists:
    """n queries with their candidates, as the model to be adapted sees them.

    Attributes
    ----------
    rows
        Shape (n,): which labelled queries they are.
    queries
        Shape (n, m): codes, as the adapter reads them.
    scores
        Shape (n, k): refined scores before the update.
    directions
        Shape (n, k, m): what the scores grow by along each coordinate of the update.
    gains
        Shape (n, k), at least 0.
    """

    rows: Tensor
    queries: Tensor
    scores: Tensor
    directions: Tensor
    gains: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def among(self, rows: Tensor) -> Lists:
        """Return the queries that are among some labelled ones."""
        kept = torch.isin(self.rows, rows)
        return Lists(*(getattr(self, field.name)[kept] for field in fields(self)))


def plain_modulator(num_factors: int, prior: FeedbackPrior) -> Modulator:
    """Return a modulator with a prior and nothing learned: what few labels start from."""
    config = ModulatorConfig(num_factors, hidden=1, num_steps=0, pool_size=1, linear=False, prior=prior)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Modulator(config).eval()


@torch.no_grad()
def see(network: Network, examples: Examples) -> Lists:
    """Look at the mined candidates of at most 5,000 labelled queries, evenly spaced, through a network.

    Parameters
    ----------
    network
        In evaluation mode; its shrinkage counts.
    examples
        Labelled queries.
    """
    basis, modulator = network.basis(), network.modulator
    shrinkage = modulator.config.shrinkage
    rows = thinned(torch.arange(len(examples)), _MAX_TAUGHT)
    queries = examples.queries[rows] @ basis
    scores = torch.empty(len(rows), examples.mined.shape[1])
    directions = torch.empty(*scores.shape, basis.shape[1])
    for part in batches(len(rows)):
        batch, start = rows[part], queries[part]
        candidates, cosines = examples.documents[examples.mined[batch]] @ basis, examples.mined_cosines[batch]
        moved = modulator(start, candidates, cosines, torch.ones_like(cosines, dtype=torch.bool))
        before = products_of(start.unsqueeze(1), candidates)
        after = products_of(moved.query.unsqueeze(1), moved.candidates)
        scores[part] = cosines + shrinkage * (refined_cosines(cosines, before, after) - cosines)
        directions[part] = shrinkage * moved.candidates / refined_lengths(before, after).unsqueeze(-1)
    return Lists(rows, queries, scores, directions, examples.gains[rows])


def fit_update(lists: Lists, penalty: float) -> Update:
    """Minimise the listwise loss of the updated scores plus ``penalty·(‖A‖² + ‖b/c‖²)``, c a constant.

    Parameters
    ----------
    lists
        Queries with their candidates.
    penalty
        Above 0.
    """
    m = lists.queries.shape[1]
    weights = torch.zeros(m + 1, m, requires_grad=True)
    inputs = torch.nn.functional.pad(lists.queries, (0, 1), value=_SHIFT_SCALE)
    solver = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        scores = lists.scores + torch.einsum("nkm,nm->nk", lists.directions, inputs @ weights)
        fit = -listwise_likelihood(scores, lists.gains, _TEMPERATURE).mean()
        total: Tensor = fit + penalty * (weights**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    solution = weights.detach()
    return Update(solution[:-1].clone(), _SHIFT_SCALE * solution[-1])


def with_adapter(origin: Modulator, update: Update, queries: Tensor) -> Modulator:
    """Return a modulator with one adapter more.

    Parameters
    ----------
    origin
        Unchanged.
    update
        What the adapter does.
    queries
        Shape (n, m): codes of the queries it was taught on. How much they resemble each other tells from when on a new
        query counts as one of them.
    """
    keys = thinned(torch.nn.functional.normalize(queries, dim=1))
    place = len(origin.config.adapters)
    modulator = Modulator(replace(origin.config, adapters=(*origin.config.adapters, len(keys))))
    added = {"map": update.map, "shift": update.shift, "keys": keys, "similarities": _bounds(keys)}
    state = {f"adapters.{place}.{name}": value for name, value in added.items()}
    modulator.load_state_dict({**origin.state_dict(), **state})
    return modulator.eval()


def _bounds(keys: Tensor) -> Tensor:
    """Return the cosines between which a query becomes familiar: low quantiles of the keys' own nearest neighbours."""
    _, cosines = nearest(keys.numpy(), keys.numpy(), 2)  # each key finds itself first
    low, high = np.quantile(cosines[:, -1], _RAMP_QUANTILES).clip(-1.0, _STRICTEST)
    return torch.tensor([low, max(high, low + _MIN_RAMP)], dtype=torch.float32)

"""A :class:`imrnn_vdb.model.Modulator` as a search calls it: numpy arrays in, numpy arrays out.

The module defines what is computed. On a CPU a copy in numpy computes the same in a fraction of the time, which for a
hundred candidates is mostly the overhead of single operations; tests hold the two together to 1e-6. On any other device
the module itself runs (:mod:`imrnn_vdb.on_device`), once for all requests that meet there (:mod:`imrnn_vdb.joined`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import numpy as np

from imrnn_vdb.adapter import LEAD, Adapter
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.joined import Joined
from imrnn_vdb.model import Modulator
from imrnn_vdb.modulation import Mask, Modulate, Precision
from imrnn_vdb.on_device import OnDevice
from imrnn_vdb.prior import HEAD, FeedbackPrior
from imrnn_vdb.recurrence import FusedRecurrence, as_array, softmax

_MIN_NORM = 1e-6


def served(modulator: Modulator, precision: Precision = "float32") -> Modulate:
    """Return what computes a modulator on the device where it lies; safe to share between threads.

    Parameters
    ----------
    modulator
        In evaluation mode; on a CPU its weights are copied.
    precision
        On other devices: ``"half"`` for half precision where that keeps the ranks.
    """
    if modulator.pool.device.type == "cpu":
        return FusedModulator(modulator)
    return Joined(OnDevice(modulator, precision))


class FusedModulator:
    """A modulator's own computation in numpy: prior, familiarity, recurrence and adapters.

    Parameters
    ----------
    modulator
        In evaluation mode, on the CPU; its weights are copied.
    """

    def __init__(self, modulator: Modulator) -> None:
        prior = modulator.config.prior
        self._prior = prior if prior.strength > 0 else None
        self._familiarity = _Familiarity.of(modulator) if modulator.selective else None
        self._recurrence = FusedRecurrence(modulator)
        known = as_array(modulator.familiar_queries)
        self._adapters = []
        for adapter in cast(Iterable[Adapter], modulator.adapters):
            self._adapters.append(_Update.of(adapter, known))
            known = np.concatenate([known, as_array(adapter.get_buffer("keys"))])

    def __call__(
        self, query: FloatArray, candidates: FloatArray, cosines: FloatArray, mask: Mask
    ) -> tuple[FloatArray, FloatArray]:
        """Refine a batch; see :data:`~imrnn_vdb.modulation.Modulate`."""
        trust = None if self._familiarity is None else self._familiarity.trust(query)
        if trust is not None and not trust.any():
            z_q, z_d = query, candidates
        else:
            start = query if self._prior is None else query + shift(self._prior, candidates, cosines, mask)
            z_q, z_d = self._recurrence(start, query, candidates, cosines, mask)
            if trust is not None:
                z_q, z_d = query + trust * (z_q - query), candidates + trust[:, None] * (z_d - candidates)
        for adapter in self._adapters:
            z_q = z_q + adapter.update(query)
        return z_q, z_d


def shift(prior: FeedbackPrior, candidates: FloatArray, cosines: FloatArray, mask: Mask) -> FloatArray:
    """Return what a prior adds to the queries, shape (B, m), as :meth:`FeedbackPrior.shift` defines it."""
    real = mask.astype(np.float32)
    weights = softmax(np.where(mask, np.float32(prior.sharpness) * cosines, np.float32(-1e9))) * real
    weights -= real / real.sum(-1, keepdims=True).clip(1)
    contrast = np.einsum("bk,bkm->bm", weights, candidates)
    moved: FloatArray = np.float32(prior.strength) * _trust_in_head(prior, cosines, mask) * contrast
    return moved


def _trust_in_head(prior: FeedbackPrior, cosines: FloatArray, mask: Mask) -> FloatArray:
    """Return how far each query may follow its candidates, shape (B, 1): :meth:`FeedbackPrior.trust`."""
    if cosines.shape[1] < 2:
        return np.zeros((len(cosines), 1), np.float32)
    head = -np.sort(np.where(mask, -cosines, np.float32(np.inf)), axis=1)[:, :HEAD]
    first, others = head[:, :1], head[:, 1:]
    found = np.isfinite(others)
    mean = np.where(found, others, 0).sum(1, keepdims=True) / found.sum(1, keepdims=True).clip(1)
    margin = np.where(found[:, :1], first - mean, -np.inf)
    trust: FloatArray = ((margin - prior.low) / (prior.high - prior.low)).clip(0, 1).astype(np.float32)
    return trust


class _Familiarity(NamedTuple):
    """What :meth:`Modulator.familiarity` compares queries with: ranges of norms and similarities, and known codes."""

    norms: FloatArray
    similarities: FloatArray
    queries: FloatArray

    @classmethod
    def of(cls, modulator: Modulator) -> _Familiarity:
        norms, similarities = modulator.familiar_norms, modulator.familiar_similarities
        return cls(as_array(norms), as_array(similarities), as_array(modulator.familiar_queries))

    def trust(self, query: FloatArray) -> FloatArray:
        lengths = np.linalg.norm(query, axis=1, keepdims=True)
        trust = _ramp(lengths, self.norms)
        if len(self.queries):
            trust = trust * _ramp(_nearest(query, lengths, self.queries), self.similarities)
        return trust


class _Update(NamedTuple):
    """One :class:`Adapter`, and the queries that the model had learned from before."""

    map: FloatArray
    shift: FloatArray
    keys: FloatArray
    similarities: FloatArray
    older: FloatArray

    @classmethod
    def of(cls, adapter: Adapter, older: FloatArray) -> _Update:
        taught = as_array(adapter.keys), as_array(adapter.similarities)
        return cls(as_array(adapter.map), as_array(adapter.shift), *taught, older)

    def update(self, query: FloatArray) -> FloatArray:
        lengths = np.linalg.norm(query, axis=1, keepdims=True)
        own = _nearest(query, lengths, self.keys)
        trust = _ramp(own, self.similarities)
        if len(self.older):
            trust = trust * _ramp(own - _nearest(query, lengths, self.older), LEAD)
        update: FloatArray = trust * (query @ self.map + self.shift)
        return update


def _ramp(values: FloatArray, bounds: FloatArray | tuple[float, float]) -> FloatArray:
    rise: FloatArray = ((values - bounds[0]) / (bounds[1] - bounds[0])).clip(0, 1)
    return rise


def _nearest(query: FloatArray, lengths: FloatArray, keys: FloatArray) -> FloatArray:
    cosines: FloatArray = (query @ keys.T / lengths.clip(_MIN_NORM)).max(1, keepdims=True)
    return cosines

"""How far the factors of what is found have moved from the corpus that the space was calibrated on.

A calibrated score is uniform in 0..1 on that corpus, so a histogram of scores that is not flat tells of drift. It is
measured by the population stability index against the uniform distribution,

    PSI = Σ_b (p_b − 1/B)·ln(p_b·B),

over B equal bins, where p_b is the share of scores in bin b. By a rule of thumb below 0.1 means none, above 0.25 much.
Older scores count less and less: each bin is halved every ``HALF_LIFE`` results.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BINS = 10
HALF_LIFE = 10_000
_PRIOR = 10.0
"""Scores that are taken to have been seen before, evenly: a few results are no drift."""


@dataclass(slots=True)
class FactorDrift:
    """Counts the factor scores of results.

    Attributes
    ----------
    names
        p named factors.
    """

    names: tuple[str, ...]
    _counts: npt.NDArray[np.float64] = field(init=False)
    _sums: npt.NDArray[np.float64] = field(init=False)
    _seen: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._counts = np.full((len(self.names), BINS), _PRIOR / BINS)
        self._sums = np.zeros(len(self.names))

    def add(self, scores: npt.NDArray[np.floating]) -> None:
        """Count the scores of n results, shape (n, p), each in 0..1."""
        if not len(scores):
            return
        keep = 0.5 ** (len(scores) / HALF_LIFE)
        bins = np.minimum((scores * BINS).astype(np.intp), BINS - 1) + np.arange(len(self.names)) * BINS
        found = np.bincount(bins.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        self._counts = self._counts * keep + found
        self._sums = self._sums * keep + scores.sum(axis=0)
        self._seen = self._seen * keep + len(scores)

    def index(self) -> dict[str, float]:
        """Return the population stability index of each factor, 0 or above."""
        share = (self._counts + 1e-6) / (self._counts + 1e-6).sum(axis=1, keepdims=True)
        values = ((share - 1 / BINS) * np.log(share * BINS)).sum(axis=1)
        return dict(zip(self.names, values.tolist(), strict=True))

    def means(self) -> dict[str, float]:
        """Return the mean score of each factor among results, 0.5 on the reference corpus; 0.5 where none was seen."""
        means = self._sums / self._seen if self._seen else np.full(len(self.names), 0.5)
        return dict(zip(self.names, means.tolist(), strict=True))

"""Linear probes that look for what a factor has in common in several sources, and symmetric orthogonalisation.

A probe is Fisher's discriminant with a ridge: ``(Σ + λI) v = Σ_s w_s (μ⁺_s − μ⁻_s)``, where s runs over the sources, Σ
is the mean of the sources' covariances, and μ± are the means of a source's texts that carry the factor and that do not.
Differences are taken inside each source, so that a factor is never merely its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.fitting.auc import carries, roc_auc

Floats = npt.NDArray[np.float64]

MIN_TEXTS = 25
"""A source tells something of a factor if at least this many of its texts carry it, and as many do not."""
CONSISTENT_AUC = 0.6
"""A source is left out of a factor's fit if the other sources' probe orders it worse than this."""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridges tried, in units of the mean variance of a dimension."""


@dataclass(frozen=True)
class Source:
    """The vectors of one source.

    Attributes
    ----------
    name
        Its name.
    vectors
        Shape (n, d), unit length.
    covariance
        Shape (d, d), around the source's own mean.
    """

    name: str
    vectors: npt.NDArray[np.float32]
    covariance: Floats = field(repr=False)

    @classmethod
    def of(cls, name: str, vectors: npt.NDArray[np.float32]) -> Source:
        """Compute the covariance of a source's vectors."""
        centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
        return cls(name, vectors, centred.T @ centred / len(vectors))


class RidgeSolver:
    """Solves ``(Σ + λI) v = b`` for many λ and b with one eigendecomposition of Σ."""

    def __init__(self, sources: Sequence[Source]) -> None:
        covariance = np.mean([source.covariance for source in sources], axis=0)
        self._values, self._vectors = np.linalg.eigh(covariance)
        self._unit = float(self._values.mean())

    def solve(self, difference: Floats, ridge: float) -> Floats:
        """Return the unit vector v for a difference of means of shape (d,)."""
        rotated = self._vectors.T @ difference
        solution = self._vectors @ (rotated / (np.maximum(self._values, 0) + ridge * self._unit))
        return np.asarray(solution / np.linalg.norm(solution), np.float64)


@dataclass(frozen=True)
class Probe:
    """A factor's direction and how it was found.

    Attributes
    ----------
    direction
        Shape (d,), unit length; higher coordinates mean more of the factor.
    ridge
        The ridge chosen, in units of the mean variance of a dimension.
    cross_validated
        By source of the fit: AUC there of the probe fitted on the other sources.
    left_out
        Sources whose labels the other sources contradict; they had no part in the fit.
    """

    direction: Floats
    ridge: float
    cross_validated: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def quality(self) -> float:
        """Mean of the cross-validated AUCs; NaN with a single source."""
        return float(np.mean(list(self.cross_validated.values()))) if self.cross_validated else float("nan")


class ProbeFitter:
    """Fits one probe after another on the same sources.

    Parameters
    ----------
    sources
        At least one; with two or more, ridge and sources are chosen by leaving each out in turn.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = {source.name: source for source in sources}
        self._all = RidgeSolver(sources)
        names = list(self._sources) if len(sources) > 1 else []
        self._without = {name: RidgeSolver([item for item in sources if item.name != name]) for name in names}

    def fit(self, labels: Mapping[str, Floats]) -> Probe | None:
        """Fit a probe.

        Parameters
        ----------
        labels
            By source, shape (n,) of that source: labels of the factor; NaN where unknown.

        Returns
        -------
        Probe or None
            None if no source has enough texts that carry the factor.
        """
        gaps = {name: gap for name in self._sources if (gap := self._gap(name, labels[name])) is not None}
        if not gaps:
            return None
        quality = {ridge: self._leave_one_out(gaps, labels, ridge) for ridge in RIDGES}
        middle = quality[RIDGES[len(RIDGES) // 2]]
        kept = {name: gap for name, gap in gaps.items() if middle.get(name, 1.0) >= CONSISTENT_AUC}
        left_out = tuple(sorted(set(gaps) - set(kept))) if len(kept) >= 2 else ()
        if left_out:
            gaps = kept
            quality = {ridge: self._leave_one_out(gaps, labels, ridge) for ridge in RIDGES}
        best = max(RIDGES, key=lambda ridge: float(np.mean(list(quality[ridge].values()) or [0.5])))
        return Probe(self._all.solve(_combine(gaps.values()), best), best, quality[best], left_out)

    def _leave_one_out(self, gaps: Mapping[str, _Gap], labels: Mapping[str, Floats], ridge: float) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in gaps if len(gaps) > 1 else ():
            direction = self._without[name].solve(_combine(gap for other, gap in gaps.items() if other != name), ridge)
            known = np.isfinite(labels[name])
            found[name] = roc_auc(carries(labels[name][known]), self._sources[name].vectors[known] @ direction)
        return found

    def _gap(self, name: str, labels: Floats) -> _Gap | None:
        known = np.isfinite(labels)
        if known.sum() < 2 * MIN_TEXTS:
            return None
        positive = carries(labels[known])
        count = int(positive.sum())
        if min(count, len(positive) - count) < MIN_TEXTS:
            return None
        vectors = self._sources[name].vectors[known].astype(np.float64)
        difference = vectors[positive].mean(axis=0) - vectors[~positive].mean(axis=0)
        return _Gap(difference, (1 / count + 1 / (len(positive) - count)) ** -0.5)


@dataclass(frozen=True)
class _Gap:
    """Difference of the two means in one source, and its weight: the inverse of its standard error."""

    difference: Floats
    weight: float


def _combine(gaps: Iterable[_Gap]) -> Floats:
    items = list(gaps)
    return np.average([item.difference for item in items], axis=0, weights=[item.weight for item in items])


def orthogonalise(directions: Floats) -> Floats:
    """Return the orthonormal set closest to the given directions (symmetric, Löwdin, 1950).

    ``V (VᵀV)^(−1/2)``, computed from the singular value decomposition. Every direction moves as little as possible, and
    none is preferred.

    Parameters
    ----------
    directions
        Shape (d, p), unit columns, linearly independent.

    Returns
    -------
    numpy.ndarray
        Shape (d, p), orthonormal columns in the same order.

    Raises
    ------
    InvalidInputError
        If a direction is a combination of the others.
    """
    left, values, right = np.linalg.svd(directions, full_matrices=False)
    if directions.shape[1] > directions.shape[0] or (len(values) and values[-1] < 1e-6 * values[0]):
        raise InvalidInputError("the factors' directions depend on one another; leave out factors that mean the same")
    return np.asarray(left @ right, np.float64)

"""From texts and their vectors to a factor space with named axes, and to what is known about each (DESIGN.md §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.fitting.auc import carries, lacks, roc_auc
from imrnn_vdb.fitting.labels import Labeller, default_labellers, label_texts
from imrnn_vdb.fitting.probes import MIN_TEXTS, Floats, Probe, ProbeFitter, Source, orthogonalise
from imrnn_vdb.space import FactorSpace, complete_basis, oriented

_NUM_QUANTILES = 33
_PER_SOURCE = 2000  # texts a source lends to the calibration, at most: none shall outweigh the others
_PARTS = 4  # a single source is cut into this many, so that something is held out


@dataclass(frozen=True)
class SourceAUC:
    """How well an axis orders the texts of one source that had no part in the fit.

    Attributes
    ----------
    auc
        Top third by label against the rest, 0..1.
    extremes
        Top third against the bottom third.
    positives, texts
        How many texts carry the factor, of how many.
    judged_by
        ``"people"``, or ``"words"`` for the weak label.
    """

    auc: float
    extremes: float
    positives: int
    texts: int
    judged_by: str


@dataclass(frozen=True)
class FactorReport:
    """What is known about one named axis.

    Attributes
    ----------
    name
        The factor.
    auc
        Mean over the held-out sources; NaN where none could be measured.
    held_out
        By source that had no part in the fit: the shipped axis, after orthogonalisation.
    checked
        The same for sources that are far from those of the fit; not part of ``auc``.
    cross_validated
        By source of the fit: the probe fitted on the other sources.
    cosine
        Of the shipped axis with its probe, in 0..1.
    ridge
        Chosen by leaving each source of the fit out in turn.
    texts
        Number of texts in the fit.
    left_out
        Sources that the others contradict on this factor; not fitted on.
    """

    name: str
    auc: float
    held_out: dict[str, SourceAUC]
    checked: dict[str, SourceAUC]
    cross_validated: dict[str, float]
    cosine: float
    ridge: float
    texts: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FittedSpace:
    """A factor space and the evidence for its named axes.

    Attributes
    ----------
    space
        The space, ready for a checkpoint.
    reports
        One per named axis, in the order of the columns.
    rejected
        By factor: why it was left out.
    fit_sources
        Number of texts by source of the fit.
    """

    space: FactorSpace
    reports: tuple[FactorReport, ...]
    rejected: dict[str, str]
    fit_sources: dict[str, int]

    def evidence(self) -> dict[str, Any]:
        """Return everything but the space as JSON-like values, rounded; no text is among them."""
        factors = [_rounded({**asdict(report), "left_out": list(report.left_out)}) for report in self.reports]
        means = [report.auc for report in self.reports if np.isfinite(report.auc)]
        return {
            "fit_sources": self.fit_sources,
            "factors": {factor.pop("name"): factor for factor in factors},
            "mean_auc": round(float(np.mean(means)), 4) if means else None,
            "rejected": self.rejected,
        }


def fit_space(
    texts: Sequence[str],
    vectors: npt.ArrayLike,
    sources: Sequence[str] | None = None,
    *,
    held_out: Sequence[str] = (),
    checked: Sequence[str] = (),
    labels: Mapping[str, npt.ArrayLike] | None = None,
    labellers: Mapping[str, Labeller] | None = None,
    num_factors: int = 64,
    min_auc: float = 0.7,
    seed: int = 0,
) -> FittedSpace:
    """Fit named factors to any encoder's vectors, and complete them to a basis.

    Parameters
    ----------
    texts
        n texts.
    vectors
        Shape (n, d): their vectors, of any norm but zero.
    sources
        n names of where the texts come from; without them the texts are cut into parts at random, which shows less.
    held_out
        Sources that only test the axes.
    checked
        Sources that only test the axes and do not count in the mean, for example of a genre that the fit lacks.
    labels
        By factor, shape (n,): people's labels, NaN where there is none. In a source that has at least 50 of them, they
        take the place of the weak labels.
    labellers
        Weak labels by factor; `default_labellers` of the fitted texts if not given.
    num_factors
        m, cut to d: named axes first, then principal directions of what they leave.
    min_auc
        A factor whose mean cross-validated AUC on the fitted sources is below this is left out.
    seed
        For the sample that calibrates, and for cutting a single source.

    Returns
    -------
    FittedSpace
        The space and its evidence.

    Raises
    ------
    InvalidInputError
        If the lengths differ, a vector is zero or not finite, a source is unknown, or no factor could be fitted.
    """
    table = _unit_rows(texts, vectors)
    rng = np.random.default_rng(seed)
    names = np.array([f"part{i}" for i in rng.integers(0, _PARTS, len(table))] if sources is None else list(sources))
    fitted, tested = _split(names, table, [*held_out, *checked])
    inside = np.isin(names, [source.name for source in fitted])
    rules = (
        default_labellers([text for text, use in zip(texts, inside, strict=True) if use])
        if labellers is None
        else labellers
    )
    wanted = _Labels(names, label_texts(texts, rules), list(rules), labels or {})
    probes, rejected = _fit_probes(ProbeFitter(fitted), [source.name for source in fitted], wanted, min_auc)
    if not probes:
        raise InvalidInputError(f"no factor could be fitted: {'; '.join(f'{k}: {v}' for k, v in rejected.items())}")
    if num_factors < len(probes):
        raise InvalidInputError(f"num_factors is {num_factors}, but {len(probes)} named factors were fitted")
    directions = np.stack([probe.direction for probe in probes.values()], axis=1)
    axes = orthogonalise(directions)
    basis = complete_basis(axes, _principal_directions(fitted, axes), min(num_factors, table.shape[1]))
    sample = np.concatenate([_sample(source.vectors, rng) for source in fitted])
    levels = np.linspace(0, 1, _NUM_QUANTILES)
    quantiles = np.quantile(sample @ basis[:, : len(probes)], levels, axis=0).T
    counts = {source.name: len(source.vectors) for source in fitted}
    reports = []
    for j, (name, probe) in enumerate(probes.items()):
        held, far = (
            _measure(name, basis[:, j], [item for item in tested if item.name in group], wanted)
            for group in (held_out, checked)
        )
        used = sum(count for source, count in counts.items() if source not in probe.left_out)
        reports.append(_report(name, probe, basis[:, j], held, far, used))
    return FittedSpace(
        FactorSpace(basis, tuple(probes), quantiles.astype(np.float32)), tuple(reports), rejected, counts
    )


def measure_factors(
    space: FactorSpace,
    texts: Sequence[str],
    vectors: npt.ArrayLike,
    sources: Sequence[str],
    labels: Mapping[str, npt.ArrayLike] | None = None,
) -> dict[str, dict[str, SourceAUC]]:
    """Measure a space's named axes on texts that had no part in its fit.

    Parameters
    ----------
    space
        The space; of its factors, those are measured that a word list or ``labels`` can tell.
    texts, vectors, sources
        n texts, shape (n, d), and n names: each source is measured by itself.
    labels
        By factor, shape (n,): people's labels, NaN for none; they go before word lists where a source has enough.

    Returns
    -------
    dict
        By factor and source; sources with too few texts that carry a factor, or lack it, are left out.

    Raises
    ------
    InvalidInputError
        If the lengths differ, or a vector is zero or not finite.
    """
    table, names = _unit_rows(texts, vectors), np.asarray(sources, np.str_)
    labellers = default_labellers(texts)
    judged = _Labels(names, label_texts(texts, labellers), list(labellers), labels or {})
    if len(names) != len(table):
        raise InvalidInputError(f"{len(names)} sources for {len(table)} texts")
    tested = [Source.of(name, table[names == name]) for name in sorted(set(sources))]
    return {
        name: _measure(name, space.named_axes[:, space.index(name)], tested, judged)
        for name in space.names
        if name in labellers or name in (labels or {})
    }


def factor_labels(
    texts: Sequence[str], sources: Sequence[str], labels: Mapping[str, npt.ArrayLike] | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Label texts for each factor that a word list can tell, as a fit does.

    Parameters
    ----------
    texts, sources
        n texts, and n names of where they come from.
    labels
        By factor, shape (n,): people's labels, NaN for none; they go before word lists where a source has enough.

    Returns
    -------
    dict
        By factor, shape (n,).
    """
    names, labellers = np.asarray(sources, np.str_), default_labellers(texts)
    judged = _Labels(names, label_texts(texts, labellers), list(labellers), labels or {})
    found = {name: np.full(len(names), np.nan) for name in labellers}
    for name, column in found.items():
        for source in sorted(set(sources)):
            column[names == source] = judged.of(name, source)[0]
    return found


class _Labels:
    """Labels by factor and source: people's where there are enough, weak ones elsewhere."""

    def __init__(
        self,
        sources: npt.NDArray[np.str_],
        weak: npt.NDArray[np.float32],
        names: list[str],
        people: Mapping[str, npt.ArrayLike],
    ) -> None:
        self.names = names
        self._sources = sources
        self._weak = weak
        self._people = {name: np.asarray(values, np.float64) for name, values in people.items()}
        for name, values in self._people.items():
            if values.shape != sources.shape:
                raise InvalidInputError(f"labels for {name!r} have the shape {values.shape}, not {sources.shape}")

    def of(self, factor: str, source: str) -> tuple[Floats, str]:
        """Return the labels of a source's texts, NaN where unknown, and who gave them."""
        rows = self._sources == source
        people = self._people.get(factor)
        if people is not None and (factor not in self.names or np.isfinite(people[rows]).sum() >= 2 * MIN_TEXTS):
            return people[rows], "people"
        return self._weak[rows, self.names.index(factor)].astype(np.float64), "words"


def _unit_rows(texts: Sequence[str], vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    table = np.asarray(vectors, np.float32)
    if table.ndim != 2 or len(table) != len(texts):
        raise InvalidInputError(f"{len(texts)} texts need vectors of shape ({len(texts)}, d), got {table.shape}")
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise InvalidInputError("a vector is zero, or holds NaN or infinity; leave such texts out")
    return np.asarray(table / norms, np.float32)


def _split(
    names: npt.NDArray[np.str_], table: npt.NDArray[np.float32], held_out: Sequence[str]
) -> tuple[list[Source], list[Source]]:
    if len(names) != len(table):
        raise InvalidInputError(f"{len(names)} sources for {len(table)} texts")
    known = sorted(set(names.tolist()))
    unknown = sorted(set(held_out) - set(known))
    if unknown:
        raise InvalidInputError(f"no text is of the source {unknown[0]!r}; there are: {', '.join(known)}")
    fitted = [name for name in known if name not in held_out]
    if not fitted:
        raise InvalidInputError("every source is held out; nothing is left to fit on")
    return (
        [Source.of(name, table[names == name]) for name in fitted],
        [Source.of(name, table[names == name]) for name in known if name in held_out],
    )


def _fit_probes(
    fitter: ProbeFitter, sources: list[str], labels: _Labels, min_auc: float
) -> tuple[dict[str, Probe], dict[str, str]]:
    probes: dict[str, Probe] = {}
    rejected: dict[str, str] = {}
    for factor in labels.names:
        probe = fitter.fit({source: labels.of(factor, source)[0] for source in sources})
        if probe is None:
            rejected[factor] = f"fewer than {MIN_TEXTS} texts of any source carry it"
        elif probe.quality < min_auc:
            rejected[factor] = f"cross-validated AUC {probe.quality:.3f} is below {min_auc}"
        else:
            probes[factor] = probe
    return probes, rejected


def _principal_directions(sources: Sequence[Source], axes: Floats) -> Floats:
    """Directions of most variance inside the sources, in the orthogonal complement of the axes, shape (d, d - p)."""
    covariance = np.mean([source.covariance for source in sources], axis=0)
    outside = np.eye(len(axes)) - axes @ axes.T
    _, vectors = np.linalg.eigh(outside @ covariance @ outside)
    return oriented(vectors[:, ::-1][:, : len(axes) - axes.shape[1]])


def _sample(vectors: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return vectors[rng.permutation(len(vectors))[:_PER_SOURCE]]


def _report(
    name: str,
    probe: Probe,
    axis: npt.NDArray[np.float32],
    held_out: dict[str, SourceAUC],
    checked: dict[str, SourceAUC],
    texts: int,
) -> FactorReport:
    mean = float(np.mean([item.auc for item in held_out.values()])) if held_out else float("nan")
    cosine = float(axis @ probe.direction)
    return FactorReport(
        name, mean, held_out, checked, probe.cross_validated, cosine, probe.ridge, texts, probe.left_out
    )


def _measure(
    name: str, axis: npt.NDArray[np.float32], tested: Sequence[Source], labels: _Labels
) -> dict[str, SourceAUC]:
    found: dict[str, SourceAUC] = {}
    for source in tested:
        values, judge = labels.of(name, source.name)
        known = np.isfinite(values)
        if known.sum() < 2 * MIN_TEXTS:
            continue
        positive = carries(values[known])
        if not MIN_TEXTS <= positive.sum() <= len(positive) - MIN_TEXTS:
            continue
        scores = source.vectors[known] @ axis
        clear = positive | lacks(values[known])
        found[source.name] = SourceAUC(
            roc_auc(positive, scores),
            roc_auc(positive[clear], scores[clear]),
            int(positive.sum()),
            len(positive),
            judge,
        )
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value

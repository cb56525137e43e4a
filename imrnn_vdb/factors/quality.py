"""How good named factors are: AUC, correlation, stability, faithfulness of explanations, agreement with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.exact import nearest
from imrnn_vdb.fitting.probes import MIN_TEXTS, ProbeFitter, Source, orthogonalise
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import Refined, refine
from imrnn_vdb.results import SearchResult, build_results

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.pydocs.reasons import JudgedReason
    from imrnn_vdb.space import FactorSpace

TOP = 3
"""Factors that a person is shown as the reasons for a match."""
WEAK_AUC = 0.75
"""An axis that orders texts of other sources worse than this is called weak where factors are listed."""
_CANDIDATES, _SHOWN = 50, 10


@dataclass(frozen=True, slots=True)
class Share:
    """A share of cases, and of how many."""

    value: float
    cases: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often a judged reason is among the three factors shown for a relevant document.

    Attributes
    ----------
    reasons
        By part of the triples and for ``"all"``: by :meth:`Explanation.reasons`, the order that is shown.
    contributions
        The same by :meth:`Explanation.top`: the largest contributions as they are.
    by_factor
        By factor: the share of the triples that name it in which it is among the three.
    always_commonest, chance
        What naming the three commonest reasons every time, and three factors at random, would reach.
    """

    reasons: dict[str, Share]
    contributions: dict[str, Share]
    by_factor: dict[str, Share]
    always_commonest: float
    chance: float


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Whether explanations say what the scores do.

    Attributes
    ----------
    largest_error
        Largest difference between a score's change when its three largest contributors are removed from the full
        vectors, and the sum of what the explanation says of them.
    ranks_as_predicted
        Share of results whose rank, with the three contributors of a query's first result removed from every vector, is
        the one that the explanations predict.
    moved
        Share of results whose rank that removal changes.
    results
        Number of results.
    """

    largest_error: float
    ranks_as_predicted: float
    moved: float
    results: int


def stored_auc(model: IMRNNModel) -> dict[str, dict[str, Any]]:
    """Return what the checkpoint's evidence says of each named factor: AUC by source that had no part in the fit."""
    evidence = model.evidence
    factors = {**dict(evidence.get("fit", {})).get("factors", {}), **evidence.get("own", {})}
    return {name: dict(factors[name]) for name in model.space.names if name in factors}


def correlations(space: FactorSpace, directions: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the correlation of each two named factors over codes of shape (n, m): shape (P, P), in −1..1."""
    table = space.coordinates(directions).astype(np.float64)
    if len(table) < 2:
        raise InvalidInputError("a correlation needs at least two codes")
    return np.asarray(np.corrcoef(table, rowvar=False).reshape(len(space.names), -1))


def strongest(names: Sequence[str], table: npt.NDArray[np.float64]) -> dict[str, tuple[str, float]]:
    """Return, by factor, the other factor that it goes with most, and their correlation."""
    rest = table - np.diag(np.diag(table))
    others = np.abs(rest).argmax(axis=1)
    return {
        name: (names[other], float(rest[j, other])) for j, (name, other) in enumerate(zip(names, others, strict=True))
    }


def stability(
    space: FactorSpace,
    vectors: FloatArray,
    sources: Sequence[str],
    labels: Mapping[str, npt.NDArray[np.float64]],
    seeds: int = 5,
) -> dict[str, float]:
    """Refit the named axes on resamples of the texts, and say how much of each axis comes back.

    Parameters
    ----------
    space
        Its named columns are compared with the refitted axes.
    vectors
        Shape (n, d), unit length: of the texts of the fit.
    sources
        n names of their sources.
    labels
        By factor, shape (n,); NaN where unknown.
    seeds
        Number of resamples: each source with replacement.

    Returns
    -------
    dict
        By factor: mean cosine of shipped and refitted axis, −1..1.
    """
    names = [name for name in space.names[: space.num_columns] if name in labels]
    if not names or seeds < 1:
        raise InvalidInputError("stability needs labels for a named factor of the space, and at least one resample")
    parts = {source: np.flatnonzero(np.asarray(sources) == source) for source in sorted(set(sources))}
    cosines = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        drawn = {source: rng.choice(rows, len(rows)) for source, rows in parts.items()}
        fitter = ProbeFitter([Source.of(source, vectors[rows]) for source, rows in drawn.items()])
        probes = [fitter.fit({source: labels[name][rows] for source, rows in drawn.items()}) for name in names]
        few = [name for name, probe in zip(names, probes, strict=True) if probe is None]
        if few:
            raise InvalidInputError(
                f"a resample holds too few texts that carry {', '.join(few)}: a refit needs {MIN_TEXTS} of one source"
            )
        axes = orthogonalise(np.stack([probe.direction for probe in probes if probe is not None], axis=1))
        cosines.append([float(axes[:, j] @ space.basis[:, space.index(name)]) for j, name in enumerate(names)])
    return dict(zip(names, np.mean(cosines, axis=0).tolist(), strict=True))


def agreement(
    model: IMRNNModel,
    triples: Sequence[JudgedReason],
    queries: FloatArray,
    ids: Sequence[str],
    documents: FloatArray,
    coarse_k: int = 100,
) -> Agreement:
    """Compare the factors shown for relevant documents with the reasons that people gave.

    Each document is explained as the product does it: among the query's candidates, after modulation.

    Parameters
    ----------
    model
        The model; it is used as it is switched, on or off.
    triples
        n judged reasons; those that the space has no factor for are left out.
    queries
        Shape (n, d), unit vectors of their queries.
    ids, documents
        k ids and vectors (k, d) of the collection. A judged document that the window lacks takes its last place.
    """
    known = set(model.space.names)
    asked = [(i, triple) for i, triple in enumerate(triples) if known & set(triple.reasons)]
    if not asked:
        raise InvalidInputError("none of the judged reasons is a factor of this model")
    place = {entry: row for row, entry in enumerate(ids)}
    codes = model.space.encode(documents)
    found, _ = nearest(queries, documents, coarse_k)
    shown: list[tuple[JudgedReason, set[str], set[str]]] = []
    for i, triple in asked:
        rows = found[i] if place[triple.entry] in found[i] else np.append(found[i][:-1], place[triple.entry])
        scores = (documents[rows] @ queries[i]).astype(np.float64)
        candidates = Candidates([ids[row] for row in rows], scores, codes.take(rows), [{} for _ in rows])
        refined = refine(model, Metric.COSINE, queries[i : i + 1], [candidates], model.active)[0]
        result = _explained(model.space, candidates, refined, triple.entry)
        told = result.explanation
        if told is None:
            raise InvalidInputError(f"the document {triple.entry!r} was not explained: {result.reason}")
        shown.append((triple, {name for name, _ in told.reasons(TOP)}, {name for name, _ in told.top(TOP)}))
    return _summary(shown, len(model.space.names))


def faithfulness(model: IMRNNModel, queries: FloatArray, documents: FloatArray) -> Faithfulness:
    """Remove contributors from the full vectors, and compare with what explanations say.

    The check shares nothing with the explanation but the modulator: vectors are refined in all d dimensions, the three
    factors are taken out of them, and inner products are formed anew.

    Parameters
    ----------
    model
        The modulator runs even if it is not switched on.
    queries, documents
        Shapes (n, d) and (k, d), unit vectors. Of each query's 50 candidates, the first 10 results are looked at.
    """
    space = model.space
    axes = space.named_axes.astype(np.float64)
    codes = space.encode(documents)
    found, _ = nearest(queries, documents, _CANDIDATES)
    errors, predicted, moved = [0.0], [], []
    for query, rows in zip(queries, found, strict=True):
        base = (documents[rows] @ query).astype(np.float64)
        candidates = Candidates([int(row) for row in rows], base, codes.take(rows), [{} for _ in rows])
        refined = refine(model, Metric.COSINE, query[None], [candidates], active=True)[0]
        scores, parts = refined.scored.scores, refined.scored.contributions[:, : axes.shape[1]]
        full = _Full.of(model, query, documents[rows], base)
        order = np.argsort(-scores, kind="stable")[:_SHOWN]
        for row in order:
            top = np.argsort(-parts[row], kind="stable")[:TOP]
            change = full.scores(None)[row] - full.scores(axes[:, top])[row]
            errors.append(abs(float(change - parts[row, top].sum())))
        top = np.argsort(-parts[order[0]], kind="stable")[:TOP]
        expected = _ranks(scores[order] - parts[order][:, top].sum(axis=1))
        seen = _ranks(full.scores(axes[:, top])[order])
        predicted += (expected == seen).tolist()
        moved += (seen != np.arange(len(order))).tolist()
    return Faithfulness(max(errors), float(np.mean(predicted)), float(np.mean(moved)), len(predicted))


@dataclass(frozen=True, slots=True)
class _Full:
    """A query and its candidates before and after modulation, as vectors of all d dimensions."""

    before: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    after: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    shrinkage: float

    @classmethod
    def of(cls, model: IMRNNModel, query: FloatArray, documents: FloatArray, base: npt.NDArray[np.float64]) -> _Full:
        import torch

        basis = model.space.basis.astype(np.float64)
        z_q, z_d = model.space.encode(query[None]).directions, model.space.encode(documents).directions
        with torch.inference_mode():
            moved = model.modulator(
                torch.from_numpy(z_q),
                torch.from_numpy(z_d)[None],
                torch.from_numpy(base.astype(np.float32))[None],
                torch.ones(1, len(base), dtype=torch.bool),
            )
        q, d = query.astype(np.float64), documents.astype(np.float64)
        q_t = q + basis @ (moved.query[0].double().numpy() - z_q[0])
        d_t = d + (moved.candidates[0].double().numpy() - z_d) @ basis.T
        return cls((q, d), (q_t, d_t), model.modulator.config.shrinkage)

    def scores(self, without: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        """Score, divided by the whole vectors' lengths, with the given directions (d, r) taken out of all vectors."""

        def rest(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return vectors if without is None else vectors - (vectors @ without) @ without.T

        (q, d), (q_t, d_t) = self.before, self.after
        lengths = np.linalg.norm(q_t) * np.linalg.norm(d_t, axis=1)
        refined = rest(d_t) @ rest(q_t) / lengths
        return np.asarray((1 - self.shrinkage) * (rest(d) @ rest(q)) + self.shrinkage * refined)


def _explained(space: FactorSpace, candidates: Candidates, refined: Refined, entry: str) -> SearchResult:
    request = SearchRequest(limit=len(candidates), coarse_k=len(candidates), explain=True)
    return next(result for result in build_results(space, candidates, refined, request) if result.id == entry)


def _summary(shown: Sequence[tuple[JudgedReason, set[str], set[str]]], num_factors: int) -> Agreement:
    def shares(which: int) -> dict[str, Share]:
        hits: dict[str, list[bool]] = {"dev": [], "test": [], "all": []}
        for triple, *told in shown:
            agreed = bool(told[which] & set(triple.reasons))
            hits[triple.part].append(agreed)
            hits["all"].append(agreed)
        return {part: Share(float(np.mean(found)), len(found)) for part, found in hits.items() if found}

    named = [reason for triple, _, _ in shown for reason in triple.reasons]
    commonest = set(sorted(set(named), key=lambda name: (-named.count(name), name))[:TOP])
    by_factor = {}
    for name in sorted(set(named)):
        hits = [name in told for triple, told, _ in shown if name in triple.reasons]
        by_factor[name] = Share(float(np.mean(hits)), len(hits))
    missed = [
        np.prod([(num_factors - len(triple.reasons) - i) / (num_factors - i) for i in range(TOP)])
        for triple, _, _ in shown
    ]
    always = float(np.mean([bool(commonest & set(triple.reasons)) for triple, _, _ in shown]))
    return Agreement(shares(0), shares(1), by_factor, always, 1 - float(np.mean(missed)))


def _ranks(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable")

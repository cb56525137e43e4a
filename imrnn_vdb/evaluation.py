"""Base ranking against modulated ranking, on the same candidates: measures, a paired test, wins and losses.

Measures come from `ir-measures`, which runs trec_eval's own code (``pytrec_eval``): nDCG with linear gains, as BEIR
reports it. Ranks, not scores, are handed over, because trec_eval compares scores in single precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.datasets import Qrels, Run, check_grades, what_is_asked
from imrnn_vdb.errors import InvalidInputError, MissingExtraError
from imrnn_vdb.exact import nearest, rankings

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.training.embeddings import EmbeddedDataset

MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "RR@10", "recall@10": "R@10", "recall@100": "R@100", "map": "AP"}
"""Our names of the measures, and those of `ir-measures`."""
MAIN_MEASURE = "ndcg@10"
_RESAMPLES = 10_000
_TIE = 1e-9
_BLOCK = 256

PerQuery = dict[str, dict[str, float]]
"""Value by query id, by measure."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired comparison over queries.

    Attributes
    ----------
    difference
        Mean of modulated minus base.
    ci_low, ci_high
        95 % confidence interval of the mean: bootstrap over queries, percentiles.
    p_value
        Two-sided, of the paired randomisation test (signs flipped at random), in 0..1.
    wins, losses, ties
        Queries for which the modulated ranking is better, worse, equal.

    Queries that ask the same are resampled together: a log that repeats its queries is no more evidence for it.
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True, slots=True)
class Change:
    """One query's main measure before and after."""

    query_id: str
    text: str
    base: float
    modulated: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model does to a data set's ranking.

    Attributes
    ----------
    base, modulated
        Mean of each measure.
    test
        Paired test of nDCG@10.
    most_improved, most_harmed
        Up to five queries each, the largest change first.
    runs
        The two rankings, as ``"base"`` and ``"modulated"``.
    settings
        What was measured: data set, split, window, passes, mean number of candidates, model id, whether the model is
        switched on.
    """

    base: dict[str, float]
    modulated: dict[str, float]
    test: PairedTest
    most_improved: list[Change]
    most_harmed: list[Change]
    runs: dict[str, Run] = field(repr=False)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def queries(self) -> int:
        """Number of queries."""
        return self.test.wins + self.test.losses + self.test.ties

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the runs, ready for JSON."""
        test = asdict(self.test)
        return {
            "queries": self.queries,
            "base": self.base,
            "modulated": self.modulated,
            "p_value": test.pop("p_value"),
            **test,
            "most_improved": [asdict(change) for change in self.most_improved],
            "most_harmed": [asdict(change) for change in self.most_harmed],
            **self.settings,
        }


def evaluate(
    model: IMRNNModel,
    embedded: EmbeddedDataset,
    split: str = "test",
    coarse_k: int = 100,
    passes: int = 1,
    batch_size: int = 64,
) -> Evaluation:
    """Measure a model on one split, through the code path that serves searches.

    The modulator runs even if the model is not switched on: the question is what it would do.

    Parameters
    ----------
    model
        Space and modulator.
    embedded
        Data with unit vectors; the first stage is an exact search by cosine.
    split
        Which judgements.
    coarse_k
        Candidates per query, at least 1.
    passes
        1, or 2: the refined query is searched for as well, and its ``coarse_k`` candidates join the first ones.
    batch_size
        Queries modulated at once.

    Raises
    ------
    InvalidInputError
        If the split is not there, ``coarse_k`` is below 1, or ``passes`` is neither 1 nor 2.
    SpaceMismatchError
        If the vectors do not have the model's dimension.
    MissingExtraError
        If `ir-measures` is not installed.
    """
    if coarse_k < 1:
        raise InvalidInputError(f"coarse_k must be at least 1, got {coarse_k}")
    if passes not in (1, 2):
        raise InvalidInputError(f"passes must be 1 or 2, got {passes}")
    qrels = embedded.data.split(split)
    rows = [i for i, query in enumerate(embedded.query_ids) if query in qrels]
    query_ids = [embedded.query_ids[i] for i in rows]
    base, modulated = rankings(model, embedded, np.array(rows), coarse_k, passes, batch_size)
    runs: dict[str, Run] = {"base": dict(zip(query_ids, base, strict=True))}
    runs["modulated"] = dict(zip(query_ids, modulated, strict=True))
    settings = {
        "data": embedded.data.name,
        "split": split,
        "coarse_k": coarse_k,
        "passes": passes,
        "candidates": float(np.mean([len(ranking) for ranking in modulated])),
        "model_id": model.model_id,
        "active": model.active,
    }
    asked = {
        query: embedded.data.queries[query] or embedded.query_vectors[i]
        for query, i in zip(query_ids, rows, strict=True)
    }
    return compare_runs(qrels, runs["base"], runs["modulated"], asked, settings)


def rank_base(embedded: EmbeddedDataset, split: str, coarse_k: int) -> Run:
    """Return the base ranking of a split: exact search by cosine.

    Raises
    ------
    InvalidInputError
        If the split is not there.
    """
    qrels = embedded.data.split(split)
    rows = [i for i, query in enumerate(embedded.query_ids) if query in qrels]
    found, scores = nearest(embedded.query_vectors[rows], embedded.document_vectors, coarse_k)
    return {
        embedded.query_ids[row]: {embedded.document_ids[i]: float(score) for i, score in zip(*pair, strict=True)}
        for row, pair in zip(rows, zip(found, scores, strict=True), strict=True)
    }


def compare_runs(
    qrels: Qrels,
    base: Run,
    modulated: Run,
    queries: Mapping[str, str | FloatArray],
    settings: dict[str, Any] | None = None,
) -> Evaluation:
    """Compare two runs over the same queries; means are over all of them, those that ask the same among them.

    Parameters
    ----------
    qrels
        Judgements; their queries are what is averaged over.
    base, modulated
        Scores by document, by query.
    queries
        What is asked, a text or a vector, by query id: equal ones count once in the test. An id that is not there is
        one of its own.
    settings
        Passed on to the result.
    """
    before, after = measure(qrels, base), measure(qrels, modulated)
    order = sorted(before[MAIN_MEASURE])
    values = [np.array([table[MAIN_MEASURE][query] for query in order]) for table in (before, after)]
    kinds: dict[str | bytes, int] = {}
    groups = [kinds.setdefault(what_is_asked(queries.get(query, query)), len(kinds)) for query in order]
    changes: dict[tuple[int, float, float], Change] = {}
    for query, group, old, new in zip(order, groups, *values, strict=True):
        text = queries.get(query, "")
        change = Change(query, text if isinstance(text, str) else "", float(old), float(new))
        changes.setdefault((group, change.base, change.modulated), change)
    by_change = sorted(changes.values(), key=lambda change: change.modulated - change.base)
    return Evaluation(
        base=_means(before),
        modulated=_means(after),
        test=paired_test(values[1] - values[0], groups=groups),
        most_improved=[change for change in by_change[::-1][:5] if change.modulated - change.base > _TIE],
        most_harmed=[change for change in by_change[:5] if change.base - change.modulated > _TIE],
        runs={"base": base, "modulated": modulated},
        settings={"different_queries": len(kinds), **(settings or {})},
    )


def load_measures() -> Any:
    """Import ``ir_measures``; called first where encoding comes before measuring.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import ir_measures
    except ImportError as exc:
        raise MissingExtraError("ir-measures", "train") from exc
    return ir_measures


def measure(qrels: Qrels, run: Run) -> PerQuery:
    """Compute all measures for each query; a query that the run lacks gets 0.

    Raises
    ------
    MissingExtraError
        If `ir-measures` is not installed.
    InvalidInputError
        If a grade is not a whole number from -100 to 100.
    """
    ir_measures = load_measures()
    check_grades(qrels)
    # Ranks as scores: trec_eval keeps scores in single precision and would break near-ties by document id.
    ranked = {
        query: {
            document: float(len(scores) - rank)
            for rank, (document, _) in enumerate(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0])))
        }
        for query, scores in run.items()
    }
    judged = {query: {document: int(grade) for document, grade in grades.items()} for query, grades in qrels.items()}
    parsed = {ir_measures.parse_measure(theirs): ours for ours, theirs in MEASURES.items()}
    values: PerQuery = {ours: dict.fromkeys(judged, 0.0) for ours in MEASURES}
    for found in ir_measures.iter_calc(list(parsed), judged, ranked):
        values[parsed[found.measure]][found.query_id] = float(found.value)
    return values


def paired_test(differences: npt.ArrayLike, seed: int = 0, groups: Sequence[int] | None = None) -> PairedTest:
    """Test whether the mean of paired differences is other than 0.

    Parameters
    ----------
    differences
        Shape (n,): modulated minus base, one number a query, n at least 1.
    seed
        Of the resampling.
    groups
        Shape (n,), 0 or above: which queries ask the same, and are resampled together. None: none do.

    Raises
    ------
    InvalidInputError
        If there is no difference to test, or one is NaN or infinite.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values):
        raise InvalidInputError("a paired test needs at least one query")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InvalidInputError(f"a paired test needs finite differences, that of query {row} is {values[row]}")
    rng = np.random.default_rng(seed)
    mean = float(values.mean())
    members = np.arange(len(values)) if groups is None else np.asarray(groups, np.intp)
    sums, sizes = np.bincount(members, values), np.bincount(members)
    extreme, means = 0, []
    for start in range(0, _RESAMPLES, _BLOCK):  # in blocks, so that memory stays small with many queries
        block = min(_BLOCK, _RESAMPLES - start)
        flipped = (sums * rng.choice((-1.0, 1.0), (block, len(sums)))).sum(axis=1) / len(values)
        extreme += int((np.abs(flipped) >= abs(mean) - 1e-12).sum())
        drawn = rng.integers(0, len(sums), (block, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    wins, losses = int((values > _TIE).sum()), int((values < -_TIE).sum())
    p_value = (extreme + 1) / (_RESAMPLES + 1)
    return PairedTest(mean, float(low), float(high), p_value, wins, losses, len(values) - wins - losses)


def _means(values: PerQuery) -> dict[str, float]:
    return {name: float(np.mean(list(by_query.values()))) for name, by_query in values.items()}

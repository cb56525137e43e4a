"""What a search returns: frozen results whose scores are exact sums of named parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import CodeStatus, FloatArray
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import QueryPlan, WindowGrowth
from imrnn_vdb.points import Candidates, Payload, PointId
from imrnn_vdb.refine import Refined
from imrnn_vdb.scoring import base_ranks, ranking
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.trace import StepTrace

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.factors.topics import TopicMatch

STATUS_REASONS = {
    CodeStatus.MISSING: "this point has no factor code yet",
    CodeStatus.OTHER_SPACE: "this point's factor code belongs to another factor space",
    CodeStatus.MALFORMED: "this point's factor code is damaged",
    CodeStatus.STALE: "this point's factor code is older than its vector",
    CodeStatus.ZERO: "this point's vector is zero",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One score, taken apart: ``score == residual + sum(contributions)``, to rounding.

    Attributes
    ----------
    residual
        The part outside the factor space.
    contributions
        m signed parts, in the order of the factors; named ones first.
    names
        Names of the first factors.
    prominence
        By named factor: how much of it query and document share beyond what is usual, 0 or above; see
        :meth:`FactorSpace.prominence`. Empty where there is no usable code.
    topics
        Topics of the collection that the document belongs to, a coarse one and a finer one under it; empty where none
        was asked for, or where it is far from all of them.
    topic_names
        Names that are those of topics: factors that were made of one, see
        :func:`imrnn_vdb.factors.topics.topic_factor`.
    """

    residual: float
    contributions: tuple[float, ...]
    names: tuple[str, ...]
    prominence: tuple[float, ...] = ()
    topics: tuple[TopicMatch, ...] = ()
    topic_names: frozenset[str] = frozenset()

    @property
    def named(self) -> dict[str, float]:
        """Contribution of each named factor."""
        return dict(zip(self.names, self.contributions, strict=False))

    @property
    def of_topics(self) -> dict[str, float]:
        """Contribution of each named factor that was made of a topic."""
        return {name: value for name, value in self.named.items() if name in self.topic_names}

    @property
    def latent(self) -> float:
        """Sum of the contributions of all factors without a name."""
        return float(sum(self.contributions[len(self.names) :]))

    @property
    def score(self) -> float:
        """The sum of all parts."""
        return self.residual + float(sum(self.contributions))

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the named factors with the largest contributions, largest first; the last may be below 0."""
        return sorted(self.named.items(), key=lambda item: -item[1])[:count]

    def reasons(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the named factors that speak most for this match, with their contributions, all above 0.

        A factor that raises the score of everything is a large part of a score and no reason for a match. So the order
        is by `prominence`, and where that is 0 or not known, by contribution.
        """
        weights = self.prominence or (0.0,) * len(self.names)
        raising = (j for j in range(len(self.names)) if self.contributions[j] > 0)
        order = sorted(raising, key=lambda j: (-weights[j], -self.contributions[j]))
        return [(self.names[j], self.contributions[j]) for j in order[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Return residual, named contributions, the latent sum and, where they are known, the rest, ready for JSON.

        ``of_topics`` repeats those of ``named`` that belong to topics.
        """
        told = dict(zip(self.names, self.prominence, strict=True)) if self.prominence else None
        return {
            "residual": self.residual,
            "named": self.named,
            "latent": self.latent,
            "prominence": told,
            "topics": {match.name: match.similarity for match in self.topics},
            "of_topics": self.of_topics,
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One point that was found.

    Attributes
    ----------
    id
        Point id, as it was stored.
    rank, score
        Final, after modulation, filters and ties; rank is 1-based, a score is oriented (higher is better) and in the
        unit of the base score.
    base_rank, base_score
        The database's own.
    modulated
        Whether the model scored this point. If not, ``reason`` says why, and ``score == base_score`` unless steering
        scaled its parts.
    reason
        Why the point was not modulated; None where it was.
    payload
        The stored payload, without the fields of this layer.
    factors
        Score in 0..1 of each named factor of the document; empty where it has no usable code.
    explanation
        The score's parts, where they were asked for.
    """

    id: PointId
    rank: int
    score: float
    base_rank: int
    base_score: float
    modulated: bool
    reason: str | None
    payload: Payload
    factors: Mapping[str, float]
    explanation: Explanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON if the payload is."""
        return {
            "rank": self.rank,
            "id": self.id,
            "score": self.score,
            "base_rank": self.base_rank,
            "base_score": self.base_score,
            "modulated": self.modulated,
            "reason": self.reason,
            "payload": dict(self.payload),
            "factors": dict(self.factors),
            "explanation": self.explanation.to_dict() if self.explanation else None,
        }


@dataclass(frozen=True, slots=True)
class SearchResponse(Sequence[SearchResult]):
    """The results of one query, and what was done to get them. A sequence of its results.

    Attributes
    ----------
    results
        By rank.
    modulated
        Whether the model ran for this query.
    reason
        Why it did not; None where it did.
    coarse_k
        Candidates asked of the database, in the last window where it grew.
    candidates
        Candidates it returned.
    space_id, model_id
        Fingerprints of what scored.
    unusable
        How many candidates have no usable code, by why: ``missing``, ``other_space``, ``malformed``, ``stale``,
        ``zero``.
    timings
        Milliseconds for ``encode``, ``database``, ``modulate`` and, where there was one, ``second pass``, each for the
        whole request.
    steer
        The steering weights that were applied.
    growth
        How far the window grew for a filter that ran here, and why no further; None without such a filter. Also says
        where the database's search for a factor filter ended at its own bound.
    plan
        What ran where, if it was asked for.
    trace
        How each step moved the results, if it was asked for.
    topics
        Topics that the query belongs to, if they were asked for, as :attr:`Explanation.topics`.
    """

    results: tuple[SearchResult, ...]
    modulated: bool
    reason: str | None
    coarse_k: int
    candidates: int
    space_id: str
    model_id: str
    unusable: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict, compare=False)
    steer: Mapping[str, float] = field(default_factory=dict)
    growth: WindowGrowth | None = None
    plan: QueryPlan | None = None
    trace: StepTrace | None = None
    topics: tuple[TopicMatch, ...] = ()

    @overload
    def __getitem__(self, index: int) -> SearchResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[SearchResult, ...]: ...
    def __getitem__(self, index: int | slice) -> SearchResult | tuple[SearchResult, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[SearchResult]:
        return iter(self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON if the payloads are."""
        return {
            "results": [result.to_dict() for result in self.results],
            "modulated": self.modulated,
            "reason": self.reason,
            "coarse_k": self.coarse_k,
            "candidates": self.candidates,
            "space_id": self.space_id,
            "model_id": self.model_id,
            "unusable": dict(self.unusable),
            "timings": dict(self.timings),
            "steer": dict(self.steer),
            "growth": self.growth.to_dict() if self.growth else None,
            "plan": self.plan.to_dict() if self.plan else None,
            "trace": self.trace.to_dict() if self.trace else None,
            "topics": {match.name: match.similarity for match in self.topics},
        }


def make_response(
    model: IMRNNModel,
    request: SearchRequest,
    candidates: Candidates,
    refined: Refined,
    page: tuple[SearchResult, ...],
    timings: Mapping[str, float],
    coarse_k: int | None = None,
    growth: WindowGrowth | None = None,
    plan: QueryPlan | None = None,
    trace: StepTrace | None = None,
) -> SearchResponse:
    """Say what was done for one query, beside its results; without a ``coarse_k``, all candidates were given."""
    return SearchResponse(
        results=page,
        modulated=refined.failure is None,
        reason=refined.failure,
        coarse_k=len(candidates) if coarse_k is None else coarse_k,
        candidates=len(candidates),
        space_id=model.space.space_id,
        model_id=model.model_id,
        unusable=_unusable(refined.status) if refined.status.any() else {},
        timings=timings,
        steer=dict(request.steer or {}),
        topics=request.told_topics.matches(refined.asked[None])[0] if request.told_topics else (),
        growth=growth,
        plan=plan,
        trace=trace,
    )


def _unusable(status: npt.NDArray[np.uint8]) -> dict[str, int]:
    kinds, counts = np.unique(status[status != CodeStatus.CURRENT], return_counts=True)
    return {CodeStatus(int(kind)).name.lower(): int(n) for kind, n in zip(kinds, counts, strict=True)}


class _PageFactors:
    """Factor scores of the documents of one page, computed together when the first of them is looked at."""

    def __init__(self, space: FactorSpace, directions: FloatArray) -> None:
        self.names = space.names
        self._space, self._directions = space, directions

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        table = self._space.factor_scores(self._directions).tolist()
        return [dict(zip(self.names, row, strict=True)) for row in table]


class FactorScores(Mapping[str, float]):
    """Score in 0..1 of each named factor of one document, by name."""

    __slots__ = ("_page", "_row")

    def __init__(self, page: _PageFactors, row: int) -> None:
        self._page, self._row = page, row

    def __getitem__(self, name: str) -> float:
        return self._page.rows[self._row][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._page.names)

    def __len__(self) -> int:
        return len(self._page.names)

    def values(self) -> ValuesView[float]:
        """Return the scores, in the order of the names, without a look-up for each."""
        return self._page.rows[self._row].values()

    def __repr__(self) -> str:
        return repr(dict(self))


def page_of(
    base_scores: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    request: SearchRequest,
    keep: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.intp]:
    """Return the rows that a request returns, by final rank.

    Ties break by score, then base rank; the database's own order decides between equal base scores.

    Parameters
    ----------
    base_scores, scores
        Shape (k,): the database's scores, in its order, and the final ones.
    request
        Says which page, and from which score on.
    keep
        Shape (k,), bool: which candidates pass the filter; None for all.
    """
    order = ranking(base_ranks(base_scores), scores)
    if keep is not None:
        order = order[keep[order]]
    if request.threshold is not None:
        order = order[scores[order] >= request.threshold]
    return order[request.offset : request.offset + request.limit]


def build_results(
    space: FactorSpace,
    candidates: Candidates,
    refined: Refined,
    request: SearchRequest,
    page: npt.NDArray[np.intp] | None = None,
) -> tuple[SearchResult, ...]:
    """Make the results of some rows, as :func:`page_of` gives them; None for those that no filter has thinned out."""
    scores = refined.scored.scores
    ranks = base_ranks(candidates.base_scores)
    if page is None:
        page = page_of(candidates.base_scores, scores, request)
    factors = _PageFactors(space, candidates.codes.directions[page])
    explanations = _explanations(space, candidates, refined, request, page) if request.explain else repeat(None)
    columns = scores, ranks, candidates.base_scores, refined.modulated, refined.status
    rows = zip(page.tolist(), *(column[page].tolist() for column in columns), explanations, strict=False)
    return tuple(
        SearchResult(
            id=candidates.ids[row],
            rank=request.offset + i + 1,
            score=score,
            base_rank=base_rank,
            base_score=base_score,
            modulated=modulated,
            reason=None if modulated else STATUS_REASONS.get(CodeStatus(status), refined.failure),
            payload=candidates.payloads[row],
            factors={} if status else FactorScores(factors, i),
            explanation=explanation,
        )
        for i, (row, score, base_rank, base_score, modulated, status, explanation) in enumerate(rows)
    )


def _explanations(
    space: FactorSpace,
    candidates: Candidates,
    refined: Refined,
    request: SearchRequest,
    page: npt.NDArray[np.intp],
) -> list[Explanation]:
    codes, topics = candidates.codes.directions[page], request.told_topics
    told = space.prominence(refined.asked, codes).tolist()
    near = topics.matches(codes) if topics else [()] * len(page)
    added = space.names[space.num_columns :]
    names = frozenset(topic.name for topic in topics.topics if topic.name in added) if topics else frozenset()
    parts = refined.scored.residuals[page].tolist(), refined.scored.part(page).tolist()
    return [
        Explanation(
            residual,
            tuple(contributions),
            space.names,
            () if status else tuple(prominence),
            () if status else found,
            names,
        )
        for residual, contributions, prominence, found, status in zip(
            *parts, told, near, refined.status[page].tolist(), strict=True
        )
    ]

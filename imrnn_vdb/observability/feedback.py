"""What people make of results, as a measure: where the relevant ones stood, with and without modulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imrnn_vdb.errors import InvalidInputError

if TYPE_CHECKING:
    from imrnn_vdb.points import PointId
    from imrnn_vdb.results import SearchResponse

CUT = 10
"""Ranks that nDCG looks at."""
MAX_GAIN = 1e6
"""Of one result; larger ones would be nothing but an overflow."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A result that was clicked or judged relevant.

    Attributes
    ----------
    rank, base_rank
        As the response gave them, 1-based.
    gain
        How relevant, above 0 and at most ``MAX_GAIN``; 1 for a click.
    """

    rank: int
    base_rank: int
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.base_rank < 1 or not 0 < self.gain <= MAX_GAIN:
            raise InvalidInputError(f"a judgement has ranks from 1 on and a gain above 0 and up to {MAX_GAIN:g}")


@dataclass(frozen=True, slots=True)
class Quality:
    """Reciprocal rank of the best placed relevant result, and nDCG@10, both in 0..1, among the judged results."""

    reciprocal_rank: float
    ndcg: float


def judgements(response: SearchResponse, gains: Mapping[PointId, float]) -> list[Judgement]:
    """Turn gains by point id into judgements.

    Raises
    ------
    InvalidInputError
        If an id is not among the results.
    """
    found = {result.id: result for result in response}
    missing = sorted(set(gains) - set(found), key=str)
    if missing:
        raise InvalidInputError(f"not among the results: {', '.join(map(repr, missing))}")
    return [Judgement(found[key].rank, found[key].base_rank, gain) for key, gain in gains.items()]


def quality(ranks: Sequence[int], gains: Sequence[float]) -> Quality:
    """Measure a ranking by the ranks of its relevant results.

    The ideal that nDCG compares with is the same results in the best order: what was not shown was not judged.

    Parameters
    ----------
    ranks
        n ranks, 1-based, at least one.
    gains
        n gains above 0.
    """
    found = sum(gain / math.log2(rank + 1) for rank, gain in zip(ranks, gains, strict=True) if rank <= CUT)
    best = sum(gain / math.log2(place + 1) for place, gain in enumerate(sorted(gains, reverse=True)[:CUT], 1))
    return Quality(1 / min(ranks), found / best)

"""Why one result ranks above another: the exact differences of their parts, and the few that decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.space import LATENT_PREFIX

if TYPE_CHECKING:
    from imrnn_vdb.points import PointId
    from imrnn_vdb.results import Explanation, SearchResult

RESIDUAL = "outside the factor space"


@dataclass(frozen=True, slots=True)
class RankComparison:
    """Two results of one query, part by part.

    Attributes
    ----------
    above, below
        Ids of the one that ranks higher, and of the other.
    gap
        By how much the scores differ, 0 or above.
    differences
        Name and difference (above − below) of every part that differs, the largest in size first; they sum up to the
        gap, to rounding. Factors without a name are called ``latent_<coordinate>``.
    deciding
        The fewest of them whose removal would close the gap: without them, the other would stand level or above. Empty
        where the scores are equal: then the database's order decides.
    """

    above: PointId
    below: PointId
    gap: float
    differences: tuple[tuple[str, float], ...]
    deciding: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        if not self.deciding:
            return f"{self.above!r} and {self.below!r} score the same: the database's order decides"
        parts = ", ".join(f"{name} {value:+.4f}" for name, value in self.deciding)
        return f"{self.above!r} ranks above {self.below!r} by {self.gap:.4f}; what decides: {parts}"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return {
            "above": self.above,
            "below": self.below,
            "gap": self.gap,
            "differences": dict(self.differences),
            "deciding": dict(self.deciding),
        }


def compare(a: SearchResult, b: SearchResult) -> RankComparison:
    """Say why one of two results of the same response ranks above the other.

    Raises
    ------
    InvalidInputError
        If one of them has no explanation.
    """
    above, below = (a, b) if a.rank <= b.rank else (b, a)
    if above.explanation is None or below.explanation is None:
        raise InvalidInputError("these results have no explanations: search again with explain=True")
    first, second = all_parts(above.explanation), all_parts(below.explanation)
    differences = [(name, first[name] - second[name]) for name in first if first[name] != second[name]]
    differences.sort(key=lambda item: -abs(item[1]))
    gap = above.score - below.score
    return RankComparison(above.id, below.id, gap, tuple(differences), _deciding(differences, gap))


def all_parts(explanation: Explanation) -> dict[str, float]:
    """Return every part of a score by name, the residual first; they sum up to the score."""
    names = coordinate_names(explanation.names, len(explanation.contributions))
    return {RESIDUAL: explanation.residual, **dict(zip(names, explanation.contributions, strict=True))}


def coordinate_names(names: Sequence[str], count: int) -> list[str]:
    """Return a name for each of m coordinates: those of the factors that have one, ``latent_<coordinate>`` else."""
    return [*names, *(f"{LATENT_PREFIX}{j}" for j in range(len(names), count))]


def _deciding(differences: list[tuple[str, float]], gap: float) -> tuple[tuple[str, float], ...]:
    """Take the largest differences in favour of the winner until, without them, nothing of the gap is left."""
    if gap <= 0:
        return ()
    found = []
    for name, value in differences:  # by size, so those in favour come largest first
        if value > 0:
            found.append((name, value))
            gap -= value
        if gap <= 0:
            break
    return tuple(found)

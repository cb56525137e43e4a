"""Which part of a factor filter runs in the database and which runs here, and how far a window may grow for it.

Pure. What the database can evaluate narrows the coarse top-k; everything else is evaluated on the candidates. Of a
condition that mixes both, the database gets what it implies about documents alone: of
``(factor("a") >= 0.9) & match("b").in_top(3) | (factor("c") >= 0.8)`` it gets ``(a >= 0.9) | (c >= 0.8)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filter_text import format_filter
from imrnn_vdb.filters import (
    And,
    Comparison,
    FactorFilter,
    Not,
    Or,
    about_documents,
    document_names,
    factor_names,
    matches,
)

if TYPE_CHECKING:
    from imrnn_vdb.metric import Metric
    from imrnn_vdb.options import SearchRequest
    from imrnn_vdb.points import Candidates
    from imrnn_vdb.refine import Refined
    from imrnn_vdb.space import FactorSpace

GROWTH = 2
"""Sizes of windows are those of the first one, doubled as often as needed."""
MARGIN = 1.5
"""How many more candidates a window asks for than the share that passed in the one before calls for."""
SEARCH_COST = 500
"""What a search costs whatever it returns, as the number of candidates that cost as much: 3 ms on a Milvus server."""
RECENT = 8
"""How many searches of a kind are remembered, to know how large their windows became."""
GROWTH_STEPS = 3
"""How often a window grows where the request does not say how far: to eight times its first size."""


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """What of a search runs where.

    Attributes
    ----------
    database
        The factor filter that the database evaluates, so that its coarse top-k holds only such points; None for none.
    here
        The factor filter that is evaluated on the candidates; None for none.
    payload_filter
        Whether a payload filter of the caller goes to the database, too.
    window, largest_window
        Candidates fetched at first, and at most: windows grow only for a filter that runs here.
    """

    database: FactorFilter | None
    here: FactorFilter | None
    payload_filter: bool
    window: int
    largest_window: int

    def to_dict(self) -> dict[str, Any]:
        """Return the plan ready for JSON, filters as text."""
        return {
            "database": format_filter(self.database) if self.database is not None else None,
            "here": format_filter(self.here) if self.here is not None else None,
            "payload_filter": self.payload_filter,
            "window": self.window,
            "largest_window": self.largest_window,
        }

    def __str__(self) -> str:
        database = [format_filter(self.database)] if self.database is not None else []
        database += ["the payload filter"] if self.payload_filter else []
        here = format_filter(self.here) if self.here is not None else "no filter"
        growth = f", growing to at most {self.largest_window}" if self.largest_window > self.window else ""
        return f"in the database: {' and '.join(database) or 'no filter'}; here: {here}; window {self.window}{growth}"


@dataclass(frozen=True, slots=True)
class WindowGrowth:
    """How far a search went to find enough candidates that pass the filter evaluated here.

    Attributes
    ----------
    windows
        Candidates asked of the database, first to last. Scores are those of the last window.
    kept
        Candidates of the last window that pass the filter.
    reason
        Why it went no further.
    """

    windows: tuple[int, ...]
    kept: int
    reason: str

    def __str__(self) -> str:
        return f"{' → '.join(map(str, self.windows))}, of which {self.kept} pass; {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return {"windows": list(self.windows), "kept": self.kept, "reason": self.reason}


def checked_condition(space: FactorSpace, metric: Metric, request: SearchRequest) -> FactorFilter | None:
    """Return the factor filter of a request, once its names, steering and topics are known to be right.

    Raises
    ------
    InvalidInputError
        For a name that is no factor's, and for what the metric cannot answer.
    SpaceMismatchError
        For topics of another space.
    """
    condition = request.condition
    if request.told_topics is not None:
        request.told_topics.checked(space)
    if condition is None and not request.steer:
        return None
    for name in sorted({*(factor_names(condition) if condition is not None else ()), *(request.steer or ())}):
        space.index(name)
    on_matches = condition is not None and not about_documents(condition)
    if not metric.factorable and (request.steer or on_matches):
        raise InvalidInputError(
            f"a {metric} distance does not split into factors: steering and match(...) need cosine, dot or euclid"
        )
    return condition


def split_filter(tree: FactorFilter | None, database_filters: bool) -> tuple[FactorFilter | None, FactorFilter | None]:
    """Split a filter into what the database evaluates and what is evaluated here; both together are the filter.

    Parameters
    ----------
    tree
        The filter; None gives None twice.
    database_filters
        Whether the store can evaluate conditions on document factor scores.

    Returns
    -------
    tuple
        ``(database, here)``: a point passes the filter if and only if it passes both.
    """
    if tree is None or not database_filters:
        return None, tree
    if about_documents(tree):
        return tree, None
    database, here = [], []
    for conjunct in _conjuncts(_pushed_in(tree)):
        implied = _implied(conjunct)
        database += [implied] if implied is not None else []
        here += [] if about_documents(conjunct) else [conjunct]
    return _all_of(database), _all_of(here)


def next_window(size: int, kept: int, wanted: int, largest: int) -> int:
    """Return the size of the window after one of ``size``, of which ``kept`` candidates passed the filter.

    It should hold ``wanted`` that pass, if as large a share of it does, with some to spare: each window is a search of
    its own, so one large step costs less than several small ones. Where none passed, it is the largest.
    """
    needed = MARGIN * wanted * size / kept if kept else largest
    size *= GROWTH
    while size < min(needed, largest):
        size *= GROWTH
    return min(size, largest)


def first_reach(first: int, recent: Sequence[int]) -> int:
    """Return how many candidates to fetch for a window of ``first``, given how large such windows became of late.

    That of these sizes which would have been cheapest: whatever is not fetched at first takes another search.
    """

    def cost(reach: int) -> int:
        again = sum(SEARCH_COST + size for size in recent if size > reach)
        return len(recent) * (SEARCH_COST + reach) + again

    return min(sorted({first, *recent}), key=cost)


def largest_window(first: int, wanted: int | None, limit: int) -> int:
    """Return how large a window may become.

    Parameters
    ----------
    first
        Its first size.
    wanted
        The request's own bound; None for eight times the first size.
    limit
        Candidates that the store returns at most.
    """
    if wanted is not None and wanted < first:
        raise InvalidInputError(f"max_coarse_k is {wanted}, below the window of {first} that is fetched at first")
    return max(first, min(first * GROWTH**GROWTH_STEPS if wanted is None else wanted, limit))


def passing(tree: FactorFilter, space: FactorSpace, candidates: Candidates, refined: Refined) -> npt.NDArray[np.bool_]:
    """Evaluate a filter on candidates after modulation.

    Returns
    -------
    numpy.ndarray
        Shape (k,), bool. A candidate without a usable code never passes.
    """
    names = sorted(document_names(tree))
    scores = dict(zip(names, space.factor_scores(candidates.codes.directions, names).T, strict=True))
    parts = None
    if not about_documents(tree):
        parts = dict(zip(space.names, refined.scored.part(count=len(space.names)).T, strict=True))
    return np.asarray(matches(tree, scores, parts) & refined.usable)


def _pushed_in(tree: FactorFilter, negated: bool = False) -> FactorFilter:
    """Move every negation to the conditions themselves (De Morgan)."""
    if isinstance(tree, Not):
        return _pushed_in(tree.inner, not negated)
    if isinstance(tree, And | Or):
        left, right = _pushed_in(tree.left, negated), _pushed_in(tree.right, negated)
        return And(left, right) if isinstance(tree, And) is not negated else Or(left, right)
    return Not(tree) if negated else tree


def _conjuncts(tree: FactorFilter) -> list[FactorFilter]:
    return [*_conjuncts(tree.left), *_conjuncts(tree.right)] if isinstance(tree, And) else [tree]


def _implied(tree: FactorFilter) -> FactorFilter | None:
    """Return what a tree, negations at its leaves, implies about documents alone; None for nothing."""
    if isinstance(tree, And):
        return _all_of([side for side in (_implied(tree.left), _implied(tree.right)) if side is not None])
    if isinstance(tree, Or):
        left, right = _implied(tree.left), _implied(tree.right)
        return None if left is None or right is None else Or(left, right)
    condition = tree.inner if isinstance(tree, Not) else tree
    return tree if isinstance(condition, Comparison) else None


def _all_of(trees: list[FactorFilter]) -> FactorFilter | None:
    whole = trees[0] if trees else None
    for tree in trees[1:]:
        whole = And(whole, tree) if whole is not None else tree
    return whole

"""Conditions on named factors, combined with ``&``, ``|`` and ``~``.

``factor("entity") >= 0.6`` is about a document: its calibrated score. A store translates such conditions into its own
payload filter, so that the coarse top-k holds only points that match. ``match("entity") >= 0.05`` and
``match("entity").in_top(3)`` are about a match of query and document: what the factor contributed to its score. They
are evaluated here, by :func:`matches`, which evaluates every tree. A point without a usable code matches no factor
filter, not even a negated one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError

Operator = Literal[">=", ">", "<=", "<"]
Column = npt.NDArray[np.floating[Any]]

FOCUS_SCORE, FOCUS_TOP = 0.5, 3
MAX_PARTS = 400
"""Conditions and what combines them; a tree of that depth is still safe to walk."""


class FactorFilter:
    """Base of the tree; build one with :func:`factor` and :func:`match`."""

    __slots__ = ()

    def __and__(self, other: FactorFilter) -> FactorFilter:
        """Require both conditions."""
        return And(self, other)

    def __or__(self, other: FactorFilter) -> FactorFilter:
        """Require at least one condition."""
        return Or(self, other)

    def __invert__(self) -> FactorFilter:
        """Require that the condition does not hold."""
        return Not(self)

    def __bool__(self) -> bool:
        raise InvalidInputError("combine factor conditions with & | ~, not with and/or/not or a chained comparison")


@dataclass(frozen=True, slots=True)
class Comparison(FactorFilter):
    """A named factor's score compared with a number in 0..1."""

    name: str
    operator: Operator
    value: float


@dataclass(frozen=True, slots=True)
class MatchComparison(FactorFilter):
    """A named factor's contribution to a match's score compared with a number, in the unit of the score."""

    name: str
    operator: Operator
    value: float


@dataclass(frozen=True, slots=True)
class AmongTop(FactorFilter):
    """A named factor raised a match's score, and is among the ``count`` named factors that raised it most."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class And(FactorFilter):
    """Both sides hold."""

    left: FactorFilter
    right: FactorFilter


@dataclass(frozen=True, slots=True)
class Or(FactorFilter):
    """At least one side holds."""

    left: FactorFilter
    right: FactorFilter


@dataclass(frozen=True, slots=True)
class Not(FactorFilter):
    """The inner condition does not hold."""

    inner: FactorFilter


class _Comparable:
    """What can be compared with a number to make a condition."""

    __slots__ = ()

    def __ge__(self, value: float) -> FactorFilter:
        """At least ``value``."""
        return self.compare(">=", value)

    def __gt__(self, value: float) -> FactorFilter:
        """Above ``value``."""
        return self.compare(">", value)

    def __le__(self, value: float) -> FactorFilter:
        """At most ``value``."""
        return self.compare("<=", value)

    def __lt__(self, value: float) -> FactorFilter:
        """Below ``value``."""
        return self.compare("<", value)

    def compare(self, operator: Operator, value: float) -> FactorFilter:
        """Compare by an operator that is given as text."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Factor(_Comparable):
    """A named factor's score of a document, to compare; see :func:`factor`."""

    name: str

    def compare(self, operator: Operator, value: float) -> FactorFilter:
        """Compare by an operator that is given as text; `InvalidInputError` for a value that no such number has."""
        number = _number(value)
        if not math.isfinite(number) or not 0 <= number <= 1:
            raise InvalidInputError(f"a factor score lies in 0..1, so {self.name} {operator} {value!r} makes no sense")
        return Comparison(self.name, operator, number)


@dataclass(frozen=True, slots=True)
class Match(_Comparable):
    """A named factor's contribution to the score of a match, to compare; see :func:`match`."""

    name: str

    def in_top(self, count: int) -> AmongTop:
        """Require that the factor raised the score, and is among the ``count`` named factors that raised it most.

        Of equal contributions, the factor that comes first in the space counts as the larger.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInputError(f"in_top takes a number of factors, 1 or more, got {count!r}")
        return AmongTop(self.name, count)

    def compare(self, operator: Operator, value: float) -> FactorFilter:
        """Compare by an operator that is given as text; `InvalidInputError` for a value that no such number has."""
        number = _number(value)
        if not math.isfinite(number):
            raise InvalidInputError(f"a contribution is finite, so match({self.name}) {operator} {value!r} is no use")
        return MatchComparison(self.name, operator, number)


def _number(value: object) -> float:
    """Return a number; NaN for what is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def factor(name: str) -> Factor:
    """Name a factor to compare a document's score on it, in 0..1: ``factor("entity") >= 0.6``."""
    return Factor(name)


def match(name: str) -> Match:
    """Name a factor to compare what it contributes to a match's score after modulation.

    ``match("entity") >= 0.05`` is in the unit of the score; ``match("entity").in_top(3)`` compares it with the other
    named factors of the same match.
    """
    return Match(name)


def focused_on(name: str) -> FactorFilter:
    """Return what ``only=name`` means: a document in the upper half of the factor that matched because of it.

    ``(factor(name) >= 0.5) & match(name).in_top(3)``: the first half runs in the database, the second here.
    """
    return (factor(name) >= FOCUS_SCORE) & match(name).in_top(FOCUS_TOP)


def factor_names(tree: FactorFilter) -> set[str]:
    """Return the names that a filter mentions."""
    names = set()
    for condition in _conditions(tree):
        if not isinstance(condition, Comparison | MatchComparison | AmongTop):
            raise _foreign(condition)
        names.add(condition.name)
    return names


def about_documents(tree: FactorFilter) -> bool:
    """Say whether a filter is about documents alone, so that a database that stores factor scores can evaluate it."""
    return all(isinstance(condition, Comparison) for condition in _conditions(tree))


def document_names(tree: FactorFilter) -> set[str]:
    """Return the names of the factors whose scores of a document a filter asks for."""
    return {condition.name for condition in _conditions(tree) if isinstance(condition, Comparison)}


def checked_filter(tree: object) -> FactorFilter:
    """Return a filter that somebody built.

    Raises
    ------
    InvalidInputError
        If it is none, or has more than :data:`MAX_PARTS` parts.
    """
    for count, part in enumerate(_parts(tree), start=1):
        if not isinstance(part, FactorFilter):
            raise _foreign(part)
        if count > MAX_PARTS:
            raise InvalidInputError(f"a factor filter has at most {MAX_PARTS} conditions, and, or and not together")
    return tree  # type: ignore[return-value]


def _conditions(tree: FactorFilter) -> Iterator[Any]:
    """Yield what a filter combines: comparisons, and what is no filter at all."""
    return (part for part in _parts(tree) if not isinstance(part, And | Or | Not))


def _parts(tree: object) -> Iterator[object]:
    """Yield a filter and all that it is made of, left before right."""
    left = [tree]
    while left:
        part = left.pop()
        yield part
        if isinstance(part, And | Or):
            left += [part.right, part.left]
        elif isinstance(part, Not):
            left.append(part.inner)


def matches(
    tree: FactorFilter, scores: Mapping[str, FloatArray], contributions: Mapping[str, Column] | None = None
) -> npt.NDArray[np.bool_]:
    """Evaluate a filter on factor scores and contributions.

    Parameters
    ----------
    tree
        The filter.
    scores
        For each name whose score the filter mentions, shape (n,) scores in 0..1.
    contributions
        For every named factor, in the order of the space, shape (n,) contributions; None where the filter is about
        documents alone.

    Returns
    -------
    numpy.ndarray
        Shape (n,), bool.
    """
    parts = contributions or {}
    if isinstance(tree, Comparison):
        return _compared(scores[tree.name], tree.operator, np.float32(tree.value))
    if isinstance(tree, MatchComparison):
        return _compared(parts[tree.name], tree.operator, tree.value)
    if isinstance(tree, AmongTop):
        return _among_top(tree, parts)
    if isinstance(tree, And):
        return matches(tree.left, scores, parts) & matches(tree.right, scores, parts)
    if isinstance(tree, Or):
        return matches(tree.left, scores, parts) | matches(tree.right, scores, parts)
    if isinstance(tree, Not):
        return ~matches(tree.inner, scores, parts)
    raise _foreign(tree)


def _compared(column: Column, operator: Operator, value: Any) -> npt.NDArray[np.bool_]:
    compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}[operator]
    return np.asarray(compare(column, value), bool)


def _among_top(tree: AmongTop, parts: Mapping[str, Column]) -> npt.NDArray[np.bool_]:
    own, place, table = parts[tree.name], list(parts).index(tree.name), np.stack([*parts.values()])
    larger = (table > own).sum(0) + (table[:place] == own).sum(0)
    return np.asarray((own > 0) & (larger < tree.count))


def _foreign(tree: object) -> InvalidInputError:
    return InvalidInputError(f"a factor filter is built from factor(name) and match(name), got {tree!r}")

"""Conditions on named factors: ``factor("entity") >= 0.6``, combined with ``&``, ``|`` and ``~``.

A factor filter is a small tree over calibrated factor scores. A store translates it into its own payload filter, so
that the coarse top-k holds only points that match; :func:`matches` evaluates the same tree here, on an array of scores.
A point without factor scores matches no factor filter, not even a negated one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError

Operator = Literal[">=", ">", "<=", "<"]


class FactorFilter:
    """Base of the tree; build one with :func:`factor`."""

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


@dataclass(frozen=True, slots=True)
class Factor:
    """A named factor to compare; see :func:`factor`."""

    name: str

    def __ge__(self, value: float) -> Comparison:
        """Score at least ``value``."""
        return self._compare(">=", value)

    def __gt__(self, value: float) -> Comparison:
        """Score above ``value``."""
        return self._compare(">", value)

    def __le__(self, value: float) -> Comparison:
        """Score at most ``value``."""
        return self._compare("<=", value)

    def __lt__(self, value: float) -> Comparison:
        """Score below ``value``."""
        return self._compare("<", value)

    def _compare(self, operator: Operator, value: float) -> Comparison:
        number = float(value)
        if not math.isfinite(number) or not 0 <= number <= 1:
            raise InvalidInputError(f"a factor score lies in 0..1, so {self.name} {operator} {value!r} makes no sense")
        return Comparison(self.name, operator, number)


def factor(name: str) -> Factor:
    """Name a factor to compare its score: ``factor("entity") >= 0.6``."""
    return Factor(name)


def factor_names(tree: FactorFilter) -> set[str]:
    """Return the names that a filter mentions."""
    if isinstance(tree, Comparison):
        return {tree.name}
    if isinstance(tree, And | Or):
        return factor_names(tree.left) | factor_names(tree.right)
    if isinstance(tree, Not):
        return factor_names(tree.inner)
    raise InvalidInputError(f"a factor filter is built from factor(name), got {tree!r}")


def matches(tree: FactorFilter, scores: Mapping[str, FloatArray]) -> npt.NDArray[np.bool_]:
    """Evaluate a filter on factor scores.

    Parameters
    ----------
    tree
        The filter.
    scores
        For each name that the filter mentions, shape (n,) scores in 0..1.

    Returns
    -------
    numpy.ndarray
        Shape (n,), bool.
    """
    if isinstance(tree, Comparison):
        column, value = scores[tree.name], np.float32(tree.value)
        compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}[tree.operator]
        return np.asarray(compare(column, value), bool)
    if isinstance(tree, And):
        return matches(tree.left, scores) & matches(tree.right, scores)
    if isinstance(tree, Or):
        return matches(tree.left, scores) | matches(tree.right, scores)
    if isinstance(tree, Not):
        return ~matches(tree.inner, scores)
    raise InvalidInputError(f"a factor filter is built from factor(name), got {tree!r}")

"""Factor filters in Qdrant's filter language.

qdrant-client and Qdrant Edge name the parts of a filter alike, so one translation serves both: a :class:`Vocabulary`
says whose classes to build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NewType

import numpy as np

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import And, Comparison, FactorFilter, Not, Operator, Or, factor_names
from imrnn_vdb.guard import Guard
from imrnn_vdb.layout import Layout
from imrnn_vdb.payloads import valid_text

_BOUNDS: dict[Operator, str] = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes that a vendor's filters are built from.

    Attributes
    ----------
    group
        ``Filter(must=, should=, must_not=)``.
    field
        ``FieldCondition(key, range)``.
    interval
        ``Range(gte=, gt=, lte=, lt=)`` over floats.
    equals
        The match of one value.
    has_id
        The condition that a point has one of some ids.
    has_vector
        The condition that a point has the vector of a name.
    """

    group: Callable[..., Any]
    field: Callable[..., Any]
    interval: Callable[..., Any]
    equals: Callable[[Any], Any]
    has_id: Callable[[list[int | str]], Any]
    has_vector: Callable[[str], Any]


Condition = NewType("Condition", object)
"""A filter, or None, that holds the guard: what requests are built from, and only :func:`guarded` makes one."""


def guarded(words: Vocabulary, guard: Guard, *conditions: Any) -> Condition:
    """Return one filter that requires the guard and all conditions; None where there is neither.

    Parameters
    ----------
    words
        The vendor's classes.
    guard
        The vendor's own filter, a mapping of payload keys to values, or None.
    conditions
        The vendor's filters and conditions; None is left out. Each lies in its own place under ``must``, so that none
        can reach another.
    """
    required = [condition for condition in conditions if condition is not None]
    if isinstance(guard, Mapping):
        fields = (words.field(key=payload_path(key), match=words.equals(value)) for key, value in guard.items())
        required = [*fields, *required]
    elif guard is not None:
        required = [guard, *required]
    if len(required) == 1 and isinstance(required[0], words.group):  # type: ignore[arg-type]  # a class of the vendor's
        return Condition(required[0])
    return Condition(words.group(must=required) if required else None)


def combine(words: Vocabulary, layout: Layout, payload_filter: Any, factor_filter: FactorFilter | None) -> Any:
    """Return one filter that requires both conditions; None where there is neither.

    Parameters
    ----------
    words
        The vendor's classes.
    layout
        Says under which keys the factor scores lie.
    payload_filter
        The vendor's own filter; used as it is, or placed untouched under ``must``.
    factor_filter
        Translated. Each name it mentions must have a score, so that points without one never match, not even a
        negated condition.
    """
    if factor_filter is None:
        return payload_filter
    present = [_field(words, layout, name, "gte", 0.0) for name in sorted(factor_names(factor_filter))]
    required = [*present, _condition(words, layout, factor_filter)]
    return words.group(must=required if payload_filter is None else [payload_filter, *required])


def payload_path(key: str) -> str:
    """Return the path that addresses a top-level payload key: quoted where the key is more than a plain word.

    Raises
    ------
    InvalidInputError
        For a key that no path reaches: with a quotation mark or a backslash in it, or no valid Unicode.
    """
    if _PLAIN_KEY.fullmatch(key):
        return key
    if '"' in key or "\\" in key:
        raise InvalidInputError(f"Qdrant cannot address the payload key {key!r}: rename it without quotes or backslash")
    return f'"{valid_text(key)}"'


def _condition(words: Vocabulary, layout: Layout, tree: FactorFilter) -> Any:
    if isinstance(tree, Comparison):
        return _field(words, layout, tree.name, _BOUNDS[tree.operator], tree.value)
    if isinstance(tree, Not):
        return words.group(must_not=[_condition(words, layout, tree.inner)])
    if isinstance(tree, And | Or):
        sides = [_condition(words, layout, tree.left), _condition(words, layout, tree.right)]
        return words.group(must=sides) if isinstance(tree, And) else words.group(should=sides)
    raise InvalidInputError(f"a factor filter is built from factor(name), got {tree!r}")


def _field(words: Vocabulary, layout: Layout, name: str, bound: str, value: float) -> Any:
    interval = words.interval(**{bound: _between(bound, value)})
    return words.field(key=payload_path(layout.factor_field(name)), range=interval)


def _between(bound: str, value: float) -> float:
    """Return a bound between two single precision numbers that parts stored scores as the given one does.

    Stored scores are single precision, so the bound is rounded alike: a score of 0.1 satisfies ">= 0.1". And Qdrant's
    engine keeps some of them as a neighbour in double precision (seen on Edge 0.9: 4 of 40), so that "> x" held for x
    itself; half-way to the next single precision number nothing of that kind can happen.
    """
    single = np.float32(value)
    outwards = np.float32(-np.inf if bound in {"gte", "lt"} else np.inf)
    return (float(single) + float(np.nextafter(single, outwards))) / 2

"""Qdrant's JSON filters as objects of Qdrant Edge, which has no text form of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from imrnn_vdb.errors import InvalidInputError

_EXAMPLE = '{"must": [{"key": "year", "match": {"value": 2020}}]}'
_CLAUSES = ("must", "should", "must_not")


class EdgeFilterReader:
    """Builds ``qdrant_edge.Filter`` objects.

    Parameters
    ----------
    edge
        The module ``qdrant_edge``.
    """

    def __init__(self, edge: Any) -> None:
        self._edge = edge
        self._matches: dict[str, Callable[[Any], Any]] = {
            "value": edge.MatchValue,
            "any": edge.MatchAny,
            "except": edge.MatchExcept,
            "text": edge.MatchText,
            "phrase": edge.MatchPhrase,
        }

    def read(self, text: str) -> Any:
        """Read the JSON of a filter, as a Qdrant server takes it.

        Raises
        ------
        InvalidInputError
            If it is none, or has a condition other than match, range, is_empty, is_null, has_id and nested filters.
        """
        try:
            return self._group(json.loads(text))
        except (ValueError, TypeError, RecursionError) as exc:
            raise InvalidInputError(f"no Qdrant filter in JSON, such as {_EXAMPLE}: {exc}") from exc

    def _group(self, tree: Any) -> Any:
        _check(tree, {*_CLAUSES})
        given = {
            name: tree[name] if isinstance(tree[name], list) else [tree[name]] for name in _CLAUSES if name in tree
        }
        return self._edge.Filter(**{name: [self._condition(item) for item in items] for name, items in given.items()})

    def _condition(self, tree: Any) -> Any:
        edge = self._edge
        if not isinstance(tree, Mapping):
            raise ValueError(f"{tree!r} is no condition")
        if "key" in tree:
            return self._field(tree)
        if "has_id" in tree:
            _check(tree, {"has_id"})
            return edge.HasIdCondition(set(tree["has_id"]))
        for name, make in (("is_empty", edge.IsEmptyCondition), ("is_null", edge.IsNullCondition)):
            if name in tree:
                _check(tree, {name})
                _check(tree[name], {"key"})
                return make(tree[name]["key"])
        if "nested" in tree:
            _check(tree, {"nested"})
            _check(tree["nested"], {"key", "filter"})
            return edge.NestedCondition(tree["nested"]["key"], self._group(tree["nested"]["filter"]))
        return self._group(tree)

    def _field(self, tree: Mapping[str, Any]) -> Any:
        _check(tree, {"key", "match", "range"})
        if ("match" in tree) == ("range" in tree):
            raise ValueError(f"the condition on {tree['key']!r} needs either match or range")
        if "match" in tree:
            _check(tree["match"], set(self._matches))
            [(name, value)] = tree["match"].items()
            if any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):  # read as 0, 1
                raise ValueError("Qdrant Edge 0.9 cannot match a boolean; match the other fields, and filter the rest")
            return self._edge.FieldCondition(tree["key"], match=self._matches[name](value))
        _check(tree["range"], {"gt", "gte", "lt", "lte"})
        dates = any(isinstance(bound, str) for bound in tree["range"].values())
        make = self._edge.RangeDateTime if dates else self._edge.RangeFloat
        return self._edge.FieldCondition(tree["key"], range=make(**tree["range"]))


def _check(tree: Any, known: set[str]) -> None:
    if not isinstance(tree, Mapping) or not tree or set(tree) - known:
        raise ValueError(f"{tree!r} is not a mapping with some of {', '.join(sorted(known))}")

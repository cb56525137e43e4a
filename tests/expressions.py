"""Random factor filters, and what they mean, point by point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from imrnn_vdb.filters import AmongTop, And, Comparison, FactorFilter, MatchComparison, Not, Operator, Or

NAMES = ("entity", "numeric", "temporal")
_OPERATORS: list[Operator] = [">=", ">", "<=", "<"]


unit = st.floats(0, 1, width=32)
signed = st.sampled_from([-0.5, -0.05, 0.0, 0.02, 0.05, 0.3])  # few values, so that ties occur
rows = st.lists(st.tuples(unit, unit, unit, signed, signed, signed), min_size=1, max_size=5)


def columns(table: Sequence[Sequence[float]]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores and contributions by name, of drawn rows."""
    scores = {name: np.array([row[i] for row in table], np.float32) for i, name in enumerate(NAMES)}
    return scores, {name: np.array([row[i + 3] for row in table]) for i, name in enumerate(NAMES)}


def document_conditions(names: Sequence[str]) -> st.SearchStrategy[FactorFilter]:
    return st.builds(Comparison, st.sampled_from(names), st.sampled_from(_OPERATORS), st.floats(0, 1, width=32))


def match_conditions(names: Sequence[str]) -> st.SearchStrategy[FactorFilter]:
    values = st.floats(-0.1, 0.1)
    compared = st.builds(MatchComparison, st.sampled_from(names), st.sampled_from(_OPERATORS), values)
    return compared | st.builds(AmongTop, st.sampled_from(names), st.integers(1, len(names)))


def combined(conditions: st.SearchStrategy[FactorFilter]) -> st.SearchStrategy[FactorFilter]:
    return st.recursive(
        conditions, lambda inner: st.builds(And, inner, inner) | st.builds(Or, inner, inner) | st.builds(Not, inner)
    )


def trees(names: Sequence[str]) -> st.SearchStrategy[FactorFilter]:
    """Trees of both kinds of conditions, and of conditions on documents alone."""
    return combined(document_conditions(names) | match_conditions(names)) | combined(document_conditions(names))


def naive(tree: FactorFilter, scores: Mapping[str, float], parts: Mapping[str, float]) -> bool:
    """Say whether one point passes."""
    if isinstance(tree, Comparison):
        return compared(np.float32(scores[tree.name]), tree.operator, np.float32(tree.value))
    if isinstance(tree, MatchComparison):
        return compared(parts[tree.name], tree.operator, tree.value)
    if isinstance(tree, AmongTop):
        top = sorted(parts, key=lambda name: -parts[name])[: tree.count]  # stable: the earlier of equals comes first
        return parts[tree.name] > 0 and tree.name in top
    if isinstance(tree, Not):
        return not naive(tree.inner, scores, parts)
    left, right = naive(tree.left, scores, parts), naive(tree.right, scores, parts)
    return (left and right) if isinstance(tree, And) else (left or right)


def compared(left: float, operator: Operator, right: float) -> bool:
    return bool({">=": left >= right, ">": left > right, "<=": left <= right, "<": left < right}[operator])

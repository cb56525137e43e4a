from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imrnn_vdb import factor
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import And, Comparison, FactorFilter, Not, Or, factor_names, matches

NAMES = ["entity", "numeric"]
comparisons = st.builds(
    Comparison, st.sampled_from(NAMES), st.sampled_from([">=", ">", "<=", "<"]), st.floats(0, 1, width=32)
)
trees: st.SearchStrategy[FactorFilter] = st.recursive(
    comparisons, lambda inner: st.builds(And, inner, inner) | st.builds(Or, inner, inner) | st.builds(Not, inner)
)


def naive(tree: FactorFilter, scores: dict[str, float]) -> bool:
    if isinstance(tree, Comparison):
        value = scores[tree.name]
        return {">=": value >= tree.value, ">": value > tree.value, "<=": value <= tree.value, "<": value < tree.value}[
            tree.operator
        ]
    if isinstance(tree, Not):
        return not naive(tree.inner, scores)
    left, right = naive(tree.left, scores), naive(tree.right, scores)
    return (left and right) if isinstance(tree, And) else (left or right)


@given(trees, st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=5))
def test_a_tree_means_what_it_says(tree, rows):
    table = {name: np.array([row[i] for row in rows], np.float32) for i, name in enumerate(NAMES)}
    assert matches(tree, table).tolist() == [naive(tree, dict(zip(NAMES, row, strict=True))) for row in rows]


def test_operators_build_the_tree():
    tree = (factor("entity") >= 0.6) & ~(factor("numeric") < 0.2) | (factor("entity") > 0.9)
    assert tree == Or(
        And(Comparison("entity", ">=", 0.6), Not(Comparison("numeric", "<", 0.2))), Comparison("entity", ">", 0.9)
    )
    assert factor_names(tree) == {"entity", "numeric"}


def test_python_words_that_would_lose_a_condition_are_refused():
    with pytest.raises(InvalidInputError, match="combine factor conditions with"):
        _ = (factor("entity") >= 0.6) and (factor("numeric") >= 0.6)
    with pytest.raises(InvalidInputError, match="combine factor conditions with"):
        _ = 0.2 <= factor("entity") <= 0.6


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_bound_outside_the_range_of_scores_is_refused(value):
    with pytest.raises(InvalidInputError, match=r"lies in 0\.\.1"):
        _ = factor("entity") >= value

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from expressions import NAMES, columns, naive, rows, trees
from imrnn_vdb import factor, match
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import (
    AmongTop,
    And,
    Comparison,
    MatchComparison,
    Not,
    Or,
    about_documents,
    factor_names,
    focused_on,
    matches,
)


@given(trees(NAMES), rows)
def test_a_tree_means_what_it_says(tree, table):
    expected = [naive(tree, dict(zip(NAMES, row[:3])), dict(zip(NAMES, row[3:]))) for row in table]  # noqa: B905
    assert matches(tree, *columns(table)).tolist() == expected


def test_conditions_on_matches():
    tree = (match("entity") >= 0.05) & match("numeric").in_top(3)
    assert tree == And(MatchComparison("entity", ">=", 0.05), AmongTop("numeric", 3))
    assert factor_names(tree) == {"entity", "numeric"}
    assert not about_documents(tree)
    assert not about_documents(tree | (factor("entity") >= 0.1))
    assert about_documents(~(factor("entity") >= 0.1))
    for count in (0, -1, 1.5, True):
        with pytest.raises(InvalidInputError, match="number of factors"):
            match("entity").in_top(count)
    for compared in (factor("entity"), match("entity")):
        with pytest.raises(InvalidInputError, match="entity"):
            _ = compared >= "much"
    with pytest.raises(InvalidInputError, match="a contribution is finite"):
        _ = match("entity") > float("nan")


def test_a_factor_that_did_not_raise_the_score_is_never_among_the_top():
    parts = {"entity": np.array([0.0, -0.1, 0.1]), "numeric": np.array([-0.2, -0.2, -0.2])}
    assert matches(match("entity").in_top(1), {}, parts).tolist() == [False, False, True]


def test_only_means_the_upper_half_and_the_top_three():
    assert focused_on("entity") == (factor("entity") >= 0.5) & match("entity").in_top(3)


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

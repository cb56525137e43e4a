from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from expressions import NAMES, columns, rows, trees
from imrnn_vdb import factor, match
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import about_documents, matches
from imrnn_vdb.planning import QueryPlan, first_reach, largest_window, next_window, split_filter

ENTITY, MONEY = factor("entity") >= 0.6, match("numeric") >= 0.05


@given(trees(NAMES), rows)
def test_both_parts_together_are_the_filter(tree, table):
    database, here = split_filter(tree, True)
    everything = np.ones(len(table), bool)
    both = [matches(part, *columns(table)) if part is not None else everything for part in (database, here)]
    assert (both[0] & both[1]).tolist() == matches(tree, *columns(table)).tolist()
    assert database is None or about_documents(database)
    if about_documents(tree):
        assert (database, here) == (tree, None)
    assert split_filter(tree, False) == (None, tree)


@pytest.mark.parametrize(
    ("tree", "database", "here"),
    [
        (ENTITY & MONEY, ENTITY, MONEY),
        (ENTITY | MONEY, None, ENTITY | MONEY),
        (~(ENTITY | MONEY), ~ENTITY, ~MONEY),
        ((ENTITY & MONEY) | ENTITY, ENTITY | ENTITY, (ENTITY & MONEY) | ENTITY),
        (MONEY, None, MONEY),
    ],
)
def test_the_database_gets_what_a_condition_implies_about_documents(tree, database, here):
    assert split_filter(tree, True) == (database, here)


def test_windows_grow_with_the_share_that_passed_up_to_a_bound():
    assert next_window(100, 9, 10, 800) == 200  # at least twice
    assert next_window(100, 4, 10, 800) == 400  # half as many again as 10 / 0.04, and doubled sizes only
    assert next_window(100, 4, 10, 300) == 300
    assert next_window(100, 1, 10, 800) == 800
    assert next_window(100, 0, 10, 800) == 800
    assert largest_window(100, None, 10**9) == 800
    assert largest_window(100, None, 500) == 500
    assert largest_window(100, 150, 10**9) == 150
    assert largest_window(100, None, 50) == 100  # the store itself refuses what it cannot do
    with pytest.raises(InvalidInputError, match="below the window"):
        largest_window(100, 99, 10**9)


def test_a_plan_says_what_runs_where():
    plan = QueryPlan(ENTITY, MONEY, True, 100, 800)
    assert str(plan) == (
        "in the database: entity >= 0.6 and the payload filter; here: match(numeric) >= 0.05; "
        "window 100, growing to at most 800"
    )
    assert plan.to_dict()["here"] == "match(numeric) >= 0.05"
    assert str(QueryPlan(None, None, False, 10, 10)) == "in the database: no filter; here: no filter; window 10"


def test_what_is_fetched_at_first_is_what_was_cheapest_of_late():
    assert first_reach(100, ()) == 100
    assert first_reach(100, (800,) * 8) == 800
    assert first_reach(100, (100,) * 7 + (800,)) == 100
    assert first_reach(100, (200,) * 8) == 200
    assert first_reach(100, (1600,) * 3 + (100,) * 5) == 100

"""Factor filters in the database and here agree, on every engine, over random expressions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from test_collection import COUNT, data, make  # noqa: F401  (the fixture)

from expressions import naive, trees
from factory import NAMES, make_model
from imrnn_vdb import factor, match
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filter_text import format_filter
from imrnn_vdb.filters import about_documents

# shrinking would search a database a thousand times over; the seed is fixed, so that every run asks the same questions
quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def filled(make: Any, rng: np.random.Generator, **model: Any) -> tuple[Any, Any, np.ndarray]:  # noqa: F811
    made = make_model(**model)
    collection = make(made)
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    return collection, made, rng.normal(size=32).astype(np.float32)


def rows_of(collection: Any, query: np.ndarray) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """Id, factor scores and contributions of every point."""
    whole = collection.call("search", query, limit=COUNT, explain=True)
    return [(result.id, dict(result.factors), result.explanation.named) for result in whole]


def test_random_filters_agree_with_brute_force(make, rng):  # noqa: F811
    collection, _, query = filled(make, rng, trained=False)  # contributions do not depend on the window then
    rows = rows_of(collection, query)
    assert len(rows) == COUNT
    store = collection.inner._core.store

    @quick
    @given(trees(NAMES))
    def agrees(tree: Any) -> None:
        expected = {point_id for point_id, scores, parts in rows if naive(tree, scores, parts)}
        for store.filters_factors in (True, False):  # what it can in the database, then everything here
            found = collection.call("search", query, limit=COUNT, factor_filter=tree, plan=True)
            assert {result.id for result in found} == expected
            assert (found.plan.here is None) == (store.filters_factors and about_documents(tree))
        store.filters_factors = True
        if about_documents(tree):
            assert collection.call("count", factor_filter=tree) == len(expected)
            assert collection.call("count", factor_filter=format_filter(tree)) == len(expected)

    agrees()


def test_a_bound_that_is_a_points_own_score_is_exact(make, rng):  # noqa: F811
    """Stored scores, and those computed here from stored codes, are the same numbers to the last bit."""
    collection, _, query = filled(make, rng, trained=False)
    scores = {point_id: np.float32(found["entity"]) for point_id, found, _ in rows_of(collection, query)}
    inside = [value for value in scores.values() if 0 < value < 1]
    for bound in inside[::8]:
        for operator, tree in (
            (np.greater_equal, factor("entity") >= float(bound)),
            (np.greater, factor("entity") > float(bound)),
            (np.less_equal, factor("entity") <= float(bound)),
            (np.less, factor("entity") < float(bound)),
        ):
            expected = {point_id for point_id, value in scores.items() if operator(value, bound)}
            found = collection.call("search", query, limit=COUNT, factor_filter=tree)
            assert {result.id for result in found} == expected


def test_conditions_on_matches_see_the_scores_that_are_returned(make, rng):  # noqa: F811
    """With a model that moves codes, and steering: what passes is what the explanation shows."""
    collection, _, query = filled(make, rng)
    options = {"limit": COUNT, "explain": True, "steer": {"entity": 2.0, "numeric": 0.5}}
    rows = collection.call("search", query, **options)
    assert len(rows) == COUNT
    tree = match("entity").in_top(1) | (match("numeric") < -0.01)
    expected = [r.id for r in rows if naive(tree, r.factors, r.explanation.named)]
    found = collection.call("search", query, factor_filter=tree, **options)
    assert [result.id for result in found] == expected
    assert 0 < len(expected) < COUNT
    for result in found:
        assert result.explanation.score == pytest.approx(result.score, abs=1e-9)
    only = collection.call("search", query, only="entity", **options)
    assert all(result.factors["entity"] >= 0.5 for result in only)
    assert all(naive(match("entity").in_top(3), result.factors, result.explanation.named) for result in only)


def test_a_window_grows_in_bounded_steps_and_says_so(make, rng):  # noqa: F811
    collection, _, query = filled(make, rng)
    tree = match("entity").in_top(1)
    grown = collection.call("search", query, limit=20, coarse_k=20, factor_filter=tree, explain=True)
    sizes = grown.growth.windows
    assert sizes[0] == 20
    assert len(sizes) > 1
    assert all(2 * size <= larger <= 160 for size, larger in pairwise(sizes))
    assert grown.coarse_k == grown.growth.windows[-1]
    assert grown.growth.kept >= len(grown)
    if len(grown) < 20:
        assert grown.growth.reason == "the database returned no more candidates"
    # the scores are those of the last window
    whole = collection.call("search", query, limit=COUNT, coarse_k=max(COUNT, grown.coarse_k), explain=True)
    if grown.coarse_k >= COUNT:
        assert {r.id: r.score for r in grown} == {r.id: r.score for r in whole if r.id in {g.id for g in grown}}

    still = collection.call("search", query, limit=20, coarse_k=20, max_coarse_k=20, factor_filter=tree)
    assert still.growth.windows == (20,)
    assert "largest size, 20: pass a larger coarse_k or max_coarse_k" in still.growth.reason
    plain = collection.call("search", query, limit=20, coarse_k=20, factor_filter=factor("entity") >= 0.9)
    assert plain.growth is None
    assert plain.plan is None


def test_each_query_of_a_batch_grows_by_itself(make, rng):  # noqa: F811
    collection, _, query = filled(make, rng)
    queries = np.stack([query, *rng.normal(size=(3, 32)).astype(np.float32)])
    options = {"limit": 8, "coarse_k": 8, "factor_filter": match("numeric").in_top(1)}
    together = collection.call("search_batch", queries, **options)
    alone = [collection.call("search", one, **options) for one in queries]
    assert [[r.id for r in response] for response in together] == [[r.id for r in response] for response in alone]
    assert [response.growth for response in together] == [response.growth for response in alone]


def test_what_cannot_be_answered_is_refused(make, rng):  # noqa: F811
    collection, _, query = filled(make, rng)
    with pytest.raises(InvalidInputError, match="conditions on a match need a query"):
        collection.call("count", factor_filter=match("entity") >= 0.1)
    with pytest.raises(InvalidInputError, match="no factor is named 'nonesuch'"):
        collection.call("search", query, factor_filter="match(nonesuch) >= 0.1")
    with pytest.raises(InvalidInputError, match="no factor is named 'nonesuch'"):
        collection.call("search", query, steer={"nonesuch": 2.0})
    with pytest.raises(InvalidInputError, match="below the window of 100"):
        collection.call("search", query, factor_filter=match("entity") >= 0.1, max_coarse_k=50)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import DIM, make_model
from imrnn_vdb import IMRNNCollection, compare, factor
from imrnn_vdb.comparison import RESIDUAL, all_parts
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.results import Explanation, SearchResult

NAMES = ("entity", "numeric")
parts = st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5)


def result(rank: int, values: list[float]) -> SearchResult:
    explanation = Explanation(values[0], tuple(values[1:]), NAMES)
    return SearchResult(rank, rank, explanation.score, rank, 0.0, True, None, {}, {}, explanation)


@given(parts, parts)
def test_the_differences_add_up_and_those_that_decide_are_the_fewest(a, b):
    above, below = sorted([result(1, a), result(2, b)], key=lambda r: -r.score)
    above, below = replace(above, rank=1), replace(below, rank=2)
    found = compare(below, above)  # either order
    assert (found.above, found.below) == (above.id, below.id)
    assert found.gap == above.score - below.score >= 0
    assert sum(value for _, value in found.differences) == pytest.approx(found.gap, abs=1e-9)
    assert set(found.deciding) <= set(found.differences)
    taken = sorted((value for _, value in found.differences), reverse=True)
    if found.gap > 1e-9:
        size = len(found.deciding)
        assert sum(taken[:size]) >= found.gap - 1e-9
        assert sum(taken[: size - 1]) < found.gap + 1e-9  # no smaller set can close the gap
    elif found.gap == 0:
        assert found.deciding == ()
        assert "the database's order decides" in str(found)


def test_parts_have_names_and_the_sentence_tells_what_decides():
    found = compare(result(1, [0.1, 0.5, 0.0, 0.2, 0.0]), result(2, [0.2, 0.1, 0.0, 0.1, 0.0]))
    assert [name for name, _ in found.differences] == ["entity", RESIDUAL, "latent_2"]
    assert [name for name, _ in found.deciding] == ["entity"]
    assert str(found) == "1 ranks above 2 by 0.4000; what decides: entity +0.4000"
    assert found.to_dict()["deciding"] == {"entity": pytest.approx(0.4)}


def test_results_without_explanations_are_refused():
    with pytest.raises(InvalidInputError, match="explain=True"):
        compare(result(1, [0.0] * 5), replace(result(2, [0.0] * 5), explanation=None))


def test_two_points_of_a_collection_are_compared_in_one_window(rng):
    vectors = rng.normal(size=(30, DIM)).astype(np.float32)
    with IMRNNCollection.create("qdrant+local::memory:/c", make_model()) as collection:
        collection.upsert(range(30), vectors=vectors)
        first, *_, last = collection.search(vectors[3], limit=30, explain=True)
        found = collection.compare(vectors[3], last.id, first.id)
        assert (found.above, found.below) == (first.id, last.id)
        assert found.gap == pytest.approx(first.score - last.score, abs=1e-12)
        assert sum(all_parts(first.explanation).values()) == pytest.approx(first.score, abs=1e-9)
        with pytest.raises(InvalidInputError, match="not among the 30 candidates"):
            collection.compare(vectors[3], first.id, 999)
        with pytest.raises(InvalidInputError, match="leave the filter out"):
            collection.explain(vectors[3], first.id, factor_filter=factor("entity") > first.factors["entity"])

"""Ids, filters and rows: the pure parts of the Qdrant stores."""

from __future__ import annotations

import subprocess
import sys
import uuid
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from imrnn_vdb.codec import Codes
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import Comparison, FactorFilter, factor, matches
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb_qdrant.convert import MAX_BATCH_BYTES, MAX_BATCH_POINTS, Row, batches, code_rows, oriented, rows_of
from imrnn_vdb_qdrant.filters import Vocabulary, combine, payload_path
from imrnn_vdb_qdrant.ids import id_fields, native_id, native_ids, original_id

WORDS = Vocabulary(
    models.Filter,
    models.FieldCondition,
    models.Range,
    lambda value: models.MatchValue(value=value),
    lambda ids: models.HasIdCondition(has_id=ids),
    lambda name: models.HasVectorCondition(has_vector=name),
)
LAYOUT = Layout("0a1b2c3d", 4, ("a", "b"))

integers = st.integers(0, 2**64 - 1)
texts = st.text(min_size=1)
uuids = st.uuids().map(str)


@given(st.one_of(integers, texts, uuids))
def test_every_id_comes_back(value: int | str) -> None:
    native = native_id(value)
    assert isinstance(native, int) or str(uuid.UUID(native)) == native
    assert original_id(native, id_fields(value)) == value
    assert native_id(value) == native


def test_an_integer_below_zero_is_no_id() -> None:
    with pytest.raises(InvalidInputError, match="integers from 0 on"):
        native_id(-1)
    assert native_ids([-1, 3]) == [3]


@given(uuids)
def test_uuids_and_integers_are_stored_as_they_are(value: str) -> None:
    assert native_id(value) == value
    assert id_fields(value) == {}
    assert id_fields(7) == {}
    assert original_id(uuid.UUID(value), {}) == value


def test_the_namespace_is_fixed() -> None:
    """Other ids would lead to other points: a change here would orphan what users have stored."""
    assert native_id("doc-1") == "85eeea43-518c-5534-bb66-74fe426f62f3"


@given(st.lists(texts, unique=True, min_size=2))
def test_different_ids_are_different_points(values: list[str]) -> None:
    assert len({native_id(value) for value in values}) == len(values)


comparisons = st.builds(
    Comparison, st.sampled_from("ab"), st.sampled_from([">=", ">", "<=", "<"]), st.floats(0, 1, width=32)
)
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda x, y: x & y, inner, inner),
        st.builds(lambda x, y: x | y, inner, inner),
        inner.map(lambda x: ~x),
    ),
)


@given(trees, st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_translated_filters_mean_the_same(tree: FactorFilter, a: float, b: float) -> None:
    scores = {"a": np.float32([a]), "b": np.float32([b])}
    found = _holds(combine(WORDS, LAYOUT, None, tree), {"imrnn_factor_0a1b2c3d_a": a, "imrnn_factor_0a1b2c3d_b": b})
    assert found == bool(matches(tree, scores)[0])
    assert not _holds(combine(WORDS, LAYOUT, None, tree), {})  # a point without scores matches nothing


def _holds(condition: Any, payload: dict[str, float]) -> bool:
    """Qdrant's meaning of a filter, on one payload of numbers."""
    if isinstance(condition, models.FieldCondition):
        value, bounds = payload.get(condition.key), condition.range
        if value is None:
            return False
        checks = ((bounds.gte, value.__ge__), (bounds.gt, value.__gt__))
        checks += ((bounds.lte, value.__le__), (bounds.lt, value.__lt__))
        return all(check(bound) for bound, check in checks if bound is not None)
    should = condition.should or []
    return (
        all(_holds(inner, payload) for inner in condition.must or [])
        and (not should or any(_holds(inner, payload) for inner in should))
        and not any(_holds(inner, payload) for inner in condition.must_not or [])
    )


def test_the_payload_filter_passes_untouched() -> None:
    own = models.Filter(must=[models.FieldCondition(key="lang", match=models.MatchValue(value="en"))])
    before = own.model_copy(deep=True)
    assert combine(WORDS, LAYOUT, own, None) is own
    assert combine(WORDS, LAYOUT, own, factor("a") >= 0.5).must[0] is own
    assert own == before
    assert combine(WORDS, LAYOUT, None, None) is None


def test_keys_that_are_no_plain_word_are_quoted() -> None:
    assert payload_path("imrnn_factor_a-1") == "imrnn_factor_a-1"
    assert payload_path("imrnn_factor_a b.c[0]") == '"imrnn_factor_a b.c[0]"'
    with pytest.raises(InvalidInputError, match="rename"):
        payload_path('imrnn_factor_"')


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric.COSINE, [2.0, 0.0]),
        (Metric.DOT, [2.0, 0.0]),
        (Metric.EUCLID, [-4.0, 0.0]),
        (Metric.MANHATTAN, [-2.0, 0.0]),
    ],
)
def test_scores_are_oriented(metric: Metric, expected: list[float]) -> None:
    found = oriented([2.0, 0.0], metric)
    assert found.tolist() == expected
    assert not np.signbit(found[1])
    assert oriented([], metric).shape == (0,)


@given(st.lists(st.integers(1, 2 * MAX_BATCH_BYTES), max_size=40))
def test_batches_keep_order_and_stay_small(sizes: list[int]) -> None:
    rows = [Row(number, [], {}, None, size) for number, size in enumerate(sizes)]
    parts = list(batches(rows))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert len(part) == 1 or sum(row.size for row in part) <= MAX_BATCH_BYTES


def test_batches_are_bounded_in_count() -> None:
    rows = [Row(number, [], {}, None, 1) for number in range(2 * MAX_BATCH_POINTS + 1)]
    assert [len(part) for part in batches(rows)] == [MAX_BATCH_POINTS, MAX_BATCH_POINTS, 1]


def test_rows_copy_the_payload_and_leave_out_codes_that_are_not_current() -> None:
    payload = {"text": "a"}
    codes = Codes(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.array([0, 1], np.uint8))
    points = Points(["x", 2], np.ones((2, 3), np.float32), [payload, payload], codes, np.ones((2, 2), np.float32))
    first, second = rows_of(points, LAYOUT)
    assert payload == {"text": "a"}
    assert set(first.payload) == {
        "text",
        "imrnn_id",
        "imrnn_code_0a1b2c3d",
        "imrnn_factor_0a1b2c3d_a",
        "imrnn_factor_0a1b2c3d_b",
    }
    assert second.payload == {"text": "a"}


@pytest.mark.parametrize(
    "payload",
    [{"x": object()}, {"x": {1, 2}}, {1: "x"}, {"x": b"bytes"}, {"x": "\ud800"}, {"imrnn_": 1}],
    ids=["object", "set", "integer key", "bytes", "lone surrogate", "own prefix"],
)
def test_payloads_that_are_not_json_are_refused_by_point(payload: Any) -> None:
    with pytest.raises(InvalidInputError, match="'doc'"):
        rows_of(Points(["doc"], np.ones((1, 3), np.float32), [payload]), LAYOUT)


def test_wrong_shapes_of_factor_scores_are_refused() -> None:
    codes = Codes(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.uint8))
    points = Points([1], np.ones((1, 3), np.float32), [{}], codes, np.ones((1, 3), np.float32))
    with pytest.raises(InvalidInputError, match="factor scores"):
        rows_of(points, LAYOUT)


def test_a_nested_record_vector_is_found_by_name() -> None:
    from imrnn_vdb_qdrant.convert import vector_of

    assert vector_of(SimpleNamespace(vector=[1.0]), "") == [1.0]
    assert vector_of(SimpleNamespace(vector=[1.0]), "text") is None
    assert vector_of(SimpleNamespace(vector={"": [1.0], "text": [2.0]}), "text") == [2.0]
    assert vector_of(SimpleNamespace(vector={"": [1.0]}), "") == [1.0]
    assert vector_of(SimpleNamespace(vector=None), "") is None


def test_importing_the_package_imports_no_vendor() -> None:
    code = "import sys, imrnn_vdb_qdrant; print([m for m in sys.modules if m.startswith(('qdrant_', 'grpc', 'torch'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("code_storage", ["payload", "vector"])
def test_a_new_factor_is_one_number_per_point(code_storage: Any) -> None:
    layout = Layout("abcdef01", 4, ("old", "new"), code_storage=code_storage)
    codes = Codes(np.eye(2, 4, dtype=np.float32), np.ones(2, np.float32), np.zeros(2, np.uint8))
    lacking = np.array([[False, False, True], [True, True, True]])
    first, second = code_rows([1, 2], codes, np.array([[0.1, 0.25], [0.3, 0.5]], np.float32), layout, lacking)
    assert (first.payload, first.code) == ({layout.factor_field("new"): 0.25}, None)
    assert len(second.payload) + (second.code is not None) == 3

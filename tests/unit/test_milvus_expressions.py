from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import FactorFilter, factor, matches
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb_milvus.clients import LiteClient
from imrnn_vdb_milvus.expressions import (
    dynamic_key,
    every,
    factor_expression,
    identifier,
    is_one_of,
    literal,
    user_filter,
)
from imrnn_vdb_milvus.schema import Server, new_indexes, new_schema

HOSTILE = [
    "",
    " ",
    '"',
    "'",
    "\\",
    '\\"',
    "\\\\",
    '" or id != "',
    "' or '1'=='1",
    "x] or id in [",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x1f\x7f\x85",
    "\\u6f22",
    "\\x41",
    "\\n",
    "漢",
    '漢\\"',
    "🙂",
    "{v}",
    "%",
    "_",
    "$meta",
    "\u2028",
    "\ufeff",
    "true",
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=24) | st.text(
    st.sampled_from("ab\"'\\\n\r\t漢{}[]$%"), max_size=12
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", '"plain"'),
        ('a"b\\c\n\r\t', '"a\\"b\\\\c\\n\\r\\t"'),
        (True, "true"),
        (-7, "-7"),
        (0.5, "0.5"),
        ([1, "a", [False]], '[1, "a", [false]]'),
        ((), "[]"),
    ],
)
def test_literals(value: object, expected: str) -> None:
    assert literal(value) == expected


@pytest.mark.parametrize(
    "value", [None, float("nan"), float("inf"), 2**63, -(2**63), b"x", {"a": 1}, ["\ud800"], "\udfff", object()]
)
def test_what_is_no_literal_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError):
        literal(value)


@given(TEXT)
def test_a_text_literal_ends_where_it_says(text: str) -> None:
    body = literal(text)[1:-1]
    assert re.fullmatch(r'(?:[^"\\\n\r]|\\["\\nrt])*', body, re.DOTALL)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a.b", "é", "a;drop", 'a"', "a\n"])
def test_field_names_are_identifiers(name: str) -> None:
    with pytest.raises(InvalidInputError):
        identifier(name)
    assert identifier("_Ok_9") == "_Ok_9"


def test_conditions_do_not_reach_each_other() -> None:
    assert every() == every(None, "") == ""
    assert every("a == 1", None) == "a == 1"
    assert every("a == 1 or b == 2", "c > 3") == "(a == 1 or b == 2) and (c > 3)"


def test_the_callers_filter_passes_untouched() -> None:
    assert user_filter("year > 2020 or  tag == 'x'") == "year > 2020 or  tag == 'x'"
    assert user_filter(None) is user_filter("  ") is None
    with pytest.raises(InvalidInputError, match="expression"):
        user_filter({"year": 2020})


def test_factor_filters_demand_a_score_for_every_name() -> None:
    tree = ~((factor("a") >= 0.5) | (factor("b") < 0.25))
    assert factor_expression(tree, "f_{}".format) == (
        "(f_a >= 0.0) and (f_b >= 0.0) and (not ((f_a >= 0.5) or (f_b < 0.25)))"
    )
    assert factor_expression(None, str) is None


def test_factor_bounds_are_single_precision() -> None:
    assert factor_expression(factor("a") > 0.2, "f_{}".format) == "(f_a >= 0.0) and (f_a > 0.20000000298023224)"


def addressable(key: str) -> bool:
    return "][" not in key and not any(char < " " or char == "\x7f" for char in key)


@given(TEXT)
def test_dynamic_keys_that_milvus_cannot_address_are_refused(text: str) -> None:
    if addressable(text):
        assert dynamic_key(text) == f"$meta[{literal(text)}]"
    else:
        with pytest.raises(InvalidInputError, match="rename"):
            dynamic_key(text)


class Lite:
    """A collection in a Milvus Lite file, for expressions only."""

    def __init__(self, path: str) -> None:
        self.client = LiteClient(path)
        self.keys = itertools.count()
        layout = Layout("01234567", 2, ("entity",))
        self.call("create_collection", schema=new_schema(2, "str", layout))
        self.call(
            "create_index", index_params=new_indexes(Metric.DOT, layout, Server((3, 2, 0), lite=True)), sync=False
        )
        self.call("load_collection")

    def call(self, method: str, **arguments: object) -> object:
        return getattr(self.client, method)(collection_name="c", timeout=20.0, **arguments)

    def write(self, *rows: dict[str, object]) -> None:
        empty = {"vector": [1.0, 0.0], "imrnn_code_01234567": "", "imrnn_factor_01234567_entity": -1.0}
        self.call("insert", data=[{**empty, **row} for row in rows])

    def ids(self, expression: str) -> list[str]:
        reply = self.call("query", filter=expression, output_fields=["id"])
        return sorted(row["id"] for row in reply)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    made = Lite(str(tmp_path_factory.mktemp("lite") / "expressions.db"))
    with contextlib.closing(made.client):
        made.write({"id": "bystander", "value": "bystander"})
        yield made


@pytest.mark.parametrize("text", HOSTILE)
def test_milvus_lite_reads_hostile_text_as_a_value(lite: Lite, text: str) -> None:
    assert_found(lite, text)


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_milvus_lite_reads_any_text_as_a_value(lite: Lite, text: str) -> None:
    assert_found(lite, text)


def assert_found(lite: Lite, text: str) -> None:
    key = f"k{next(lite.keys)}{text}"
    lite.write({"id": key, "value": text, f"key {text}": 1})
    try:
        assert lite.ids(is_one_of("id", [key, "nobody"])) == [key]
        assert key in lite.ids(f"value == {literal(text)}")
        assert "bystander" not in lite.ids(f"value == {literal(text)}")
        if addressable(text):
            assert key in lite.ids(f"{dynamic_key(f'key {text}')} == 1")
        assert lite.ids(every(f"id > {literal(key)}", f"id < {literal(key)}")) == []
    finally:
        lite.call("delete", filter=is_one_of("id", [key]))
    assert lite.ids(is_one_of("id", [key])) == []


def trees() -> st.SearchStrategy[FactorFilter]:
    values = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0])
    leaf = st.builds(
        lambda value, operator: getattr(factor("entity"), operator)(value),
        values,
        st.sampled_from(["__ge__", "__gt__", "__le__", "__lt__"]),
    )
    return st.recursive(
        leaf,
        lambda inner: (
            st.builds(lambda a, b: a & b, inner, inner)
            | st.builds(lambda a, b: a | b, inner, inner)
            | st.builds(lambda a: ~a, inner)
        ),
        max_leaves=6,
    )


@settings(max_examples=80, deadline=None)
@given(tree=trees())
def test_milvus_lite_evaluates_factor_filters_as_we_do(lite: Lite, tree: FactorFilter) -> None:
    scores = np.asarray([0.0, 0.1, 0.2, 0.5, 0.7, 1.0], np.float32)
    if not lite.ids('id == "f0"'):
        lite.write(
            *({"id": f"f{row}", "imrnn_factor_01234567_entity": float(score)} for row, score in enumerate(scores))
        )
    expected = [f"f{row}" for row in np.flatnonzero(matches(tree, {"entity": scores}))]
    assert lite.ids(factor_expression(tree, "imrnn_factor_01234567_{}".format) or "") == expected

from __future__ import annotations

import pytest
from hypothesis import given

from expressions import trees
from imrnn_vdb import factor, format_filter, match, parse_filter
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filter_text import MAX_CHARS


def test_a_text_is_the_tree_it_describes():
    text = "entity >= 0.6 and not (sentiment < 0.2 or match(money) >= 0.05) and top(entity, 3)"
    tree = (factor("entity") >= 0.6) & ~((factor("sentiment") < 0.2) | (match("money") >= 0.05))
    assert parse_filter(text) == tree & match("entity").in_top(3)
    assert parse_filter("a >= .5 or b < 1 and c > 0") == parse_filter("(a>=0.5) | ((b<1) & (c>0))")
    assert parse_filter("~a >= 0.5") == parse_filter("NOT a >= 5e-1")
    assert parse_filter("match(a) < -0.02") == (match("a") < -0.02)


@pytest.mark.parametrize("name", ["and", "Top", "match", "not", "my topic.2", 'a"b', "é", "a\\b"])
def test_a_name_that_is_a_word_of_the_language_is_quoted(name):
    tree = (factor(name) >= 0.5) & (match(name) >= 0.1) & match(name).in_top(1)
    assert parse_filter(format_filter(tree)) == tree


def test_a_name_may_begin_with_a_word_of_the_language():
    assert parse_filter("not notable >= 0.5 and orderly >= 0.5") == (
        ~(factor("notable") >= 0.5) & (factor("orderly") >= 0.5)
    )


def test_a_text_that_is_too_long_is_not_read_at_all():
    condition = "a >= 0.5"
    assert parse_filter(condition.ljust(MAX_CHARS)) == (factor("a") >= 0.5)
    for text in (condition.ljust(MAX_CHARS + 1), "(" * 400_000):
        with pytest.raises(InvalidInputError, match=f"at most {MAX_CHARS} characters, got {len(text)}"):
            parse_filter(text)


@given(trees(("entity", "and", "my topic.2")))
def test_what_is_written_is_read_back(tree):
    assert parse_filter(format_filter(tree)) == tree


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("entity >= high", 1, 11, "'high' does not fit here; expected a number"),
        ("entity >=", 1, 10, "the filter ends here; expected a number"),
        ("", 1, 1, "the filter ends here; expected a factor's name"),
        ("entity 0.5", 1, 8, "'0.5' does not fit here; expected one of >= > <= <"),
        ("(entity >= 0.5", 1, 15, "the filter ends here; expected ')'"),
        ("entity >= 0.5 numeric < 0.2", 1, 15, "'numeric' does not fit here; expected 'and' or 'or'"),
        ("entity >= 1.5", 1, 11, "a factor score lies in 0..1"),
        ("top(entity, 0)", 1, 13, "in_top takes a number of factors"),
        ("top(entity, 1.5)", 1, 13, "in_top takes a number of factors, 1 or more, got 1.5"),
        (f"top(entity, {'1' * 5000})", 1, 13, "Exceeds the limit"),
        ("match(entity) >= 1e999", 1, 18, "a contribution is finite"),
        ("entity >= 0.5\n  and $", 2, 7, "'$' has no meaning here"),
        ('"a\\q" >= 0.2', 1, 1, "a quoted name is written as in JSON"),
    ],
)
def test_an_error_points_at_the_place(text, line, column, reason):
    with pytest.raises(InvalidInputError) as caught:
        parse_filter(text)
    head, shown, caret = str(caught.value).split("\n")
    assert f"line {line}, column {column}: {reason}" in head
    assert caret == " " * (column + 1) + "^"
    assert shown == "  " + (text.splitlines() or [""])[line - 1]


def test_an_endless_text_needs_no_stack():
    with pytest.raises(InvalidInputError, match="at most 400 conditions"):
        parse_filter("not " * 2000 + "a >= 0.1")
    assert parse_filter("(" * 4000 + "a >= 0.1" + ")" * 4000) == (factor("a") >= 0.1)

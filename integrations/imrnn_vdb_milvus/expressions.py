"""Milvus filter expressions, from our values: pure.

Milvus takes filters as text. Templates (``{name}`` with parameters) are unknown to Milvus 2.3 and to Milvus Lite, so
every value of ours goes through :func:`literal`, the one place where text becomes part of an expression.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import And, Comparison, FactorFilter, Not, Or, factor_names
from imrnn_vdb.payloads import valid_text

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TOKEN = re.compile(r""""(?:[^"\\\r\n]|\\[^\r\n])*"|'(?:[^'\\\r\n]|\\[^\r\n])*'|["'()\[\]{}]""")
"""A text in either quotation mark, a bracket, or a quotation mark that begins no text."""
_CLOSING = {")": "(", "]": "[", "}": "{"}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""The escapes that Milvus's grammar and Milvus Lite's tokenizer both know; every other character stands for itself."""

LEAST = -(2**63)
"""The one 64-bit integer without a literal: Milvus's grammar reads its digits before it minds the sign."""


def literal(value: object) -> str:
    """Return a value as a literal of Milvus's filter language.

    Parameters
    ----------
    value
        A string, a boolean, an integer of 64 bits, a finite float, or a list of these.

    Raises
    ------
    InvalidInputError
        For anything else, and for text that is not valid Unicode.
    """
    if isinstance(value, str):
        return f'"{valid_text(value).translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and LEAST < value < 2**63:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(literal(item) for item in value)}]"
    raise InvalidInputError(
        f"a Milvus filter holds text, booleans, 64-bit integers, finite floats and lists of these, not {value!r}"
    )


def is_identifier(name: str) -> bool:
    """Whether a name can be a Milvus field name."""
    return _IDENTIFIER.fullmatch(name) is not None


def identifier(name: str) -> str:
    """Return a field name, if it can stand in an expression as it is.

    Raises
    ------
    InvalidInputError
        If it holds anything but ASCII letters, digits and underscores.
    """
    if not is_identifier(name):
        raise InvalidInputError(
            f"{name!r} is no Milvus field name: it starts with a letter or an underscore and goes on with letters, "
            "digits and underscores"
        )
    return name


def dynamic_key(name: str) -> str:
    """Return the expression that addresses a key of the dynamic field.

    Raises
    ------
    InvalidInputError
        For names that Milvus 2.3 cannot address: it splits them at ``][``, and finds nothing under a key that holds
        control characters.
    """
    if "][" in name or _CONTROL.search(name):
        raise InvalidInputError(f"Milvus cannot filter on {name!r}: rename it without control characters and ']['")
    return f"$meta[{literal(name)}]"


def is_one_of(field: str, values: Iterable[str | int]) -> str:
    """Return the condition that a field has one of some values."""
    listed = list(values)
    if LEAST not in listed:
        return f"{field} in {literal(listed)}"
    others = [value for value in listed if value != LEAST]
    return f"({field} < {literal(LEAST + 1)}) or ({field} in {literal(others)})"


def is_above(field: str, value: str | int) -> str:
    """Return the condition that a field comes after a value."""
    return f"{field} >= {literal(LEAST + 1)}" if value == LEAST else f"{field} > {literal(value)}"


def every(*conditions: str | None) -> str:
    """Return the expression that requires all conditions; "" where there is none.

    Each stands in its own parentheses, so an ``or`` inside one does not reach the others.
    """
    given = [condition for condition in conditions if condition]
    return given[0] if len(given) == 1 else " and ".join(f"({condition})" for condition in given)


def user_filter(payload_filter: object) -> str | None:
    """Return the caller's expression untouched; None where there is none.

    Raises
    ------
    InvalidInputError
        If it is not text, or not whole: with a bracket or a quotation mark left open it would reach the conditions
        beside it, the guard among them.
    """
    if payload_filter is None or (isinstance(payload_filter, str) and not payload_filter.strip()):
        return None
    if isinstance(payload_filter, str):
        return _whole(payload_filter)
    raise InvalidInputError(
        f"a payload filter for Milvus is an expression such as 'year > 2020', got {type(payload_filter).__name__}"
    )


def _whole(expression: str) -> str:
    """Return an expression whose brackets and texts all close inside it."""
    open_brackets: list[str] = []
    for token in _TOKEN.findall(expression):
        if token in _CLOSING.values():
            open_brackets.append(token)
        elif token in _CLOSING:
            if not open_brackets or open_brackets.pop() != _CLOSING[token]:
                raise InvalidInputError(f"{token!r} closes nothing in the payload filter {expression!r}")
        elif token in {'"', "'"}:  # a text would have matched whole
            raise InvalidInputError(
                f"a text is not closed in the payload filter {expression!r}; a line break inside one is written \\n"
            )
    if open_brackets:
        raise InvalidInputError(f"{open_brackets[-1]!r} is not closed in the payload filter {expression!r}")
    return expression


def factor_expression(tree: FactorFilter | None, address: Callable[[str], str]) -> str | None:
    """Translate a factor filter.

    Besides the tree, every name it mentions must have a score of at least 0: absent scores are -1 in a column and
    missing in the dynamic field, and a point without scores matches no factor filter, not even a negated one.

    Parameters
    ----------
    tree
        The filter; None gives None.
    address
        Returns the expression that addresses the score of a named factor.
    """
    if tree is None:
        return None
    present = [f"{address(name)} >= 0.0" for name in sorted(factor_names(tree))]
    return every(*present, _condition(tree, address))


def _condition(tree: FactorFilter, address: Callable[[str], str]) -> str:
    if isinstance(tree, Comparison):
        # stored scores are single precision: rounded alike, a score of 0.2 equals the bound 0.2
        return f"{address(tree.name)} {tree.operator} {literal(float(np.float32(tree.value)))}"
    if isinstance(tree, And):
        return every(_condition(tree.left, address), _condition(tree.right, address))
    if isinstance(tree, Or):
        return f"({_condition(tree.left, address)}) or ({_condition(tree.right, address)})"
    if isinstance(tree, Not):
        return f"not ({_condition(tree.inner, address)})"
    raise InvalidInputError(f"a factor filter is built from factor(name), got {tree!r}")

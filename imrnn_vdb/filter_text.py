"""Factor filters as text, for the command line and for configuration: reading, with errors that point, and writing.

``entity >= 0.6 and not (sentiment < 0.2 or match(money) >= 0.05) and top(entity, 3)`` means in Python
``(factor("entity") >= 0.6) & ~((factor("sentiment") < 0.2) | (match("money") >= 0.05)) & match("entity").in_top(3)``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filters import (
    AmongTop,
    And,
    Comparison,
    FactorFilter,
    MatchComparison,
    Not,
    Or,
    checked_filter,
    factor,
    match,
)

if TYPE_CHECKING:
    from lark import Lark, Token

    from imrnn_vdb.filters import Operator

MAX_CHARS = 8_192
"""Longer filters are not read at all: reading takes time that grows with the length."""
_WORDS = frozenset({"and", "or", "not", "match", "top"})
_PLAIN = re.compile(r"[^\W\d]\w*")
_GRAMMAR = r"""
?start: disjunction
?disjunction: conjunction | disjunction _OR conjunction -> either
?conjunction: negation | conjunction _AND negation -> both
?negation: condition | _NOT negation -> negated
?condition: name OPERATOR NUMBER -> compared
    | _MATCH "(" name ")" OPERATOR NUMBER -> contributed
    | _TOP "(" name "," NUMBER ")" -> among_top
    | "(" disjunction ")"
name: NAME | QUOTED

_OR.2: /or\b/i | "|"
_AND.2: /and\b/i | "&"
_NOT.2: /not\b/i | "~"
_MATCH.2: /match\b/i
_TOP.2: /top\b/i
OPERATOR: ">=" | ">" | "<=" | "<"
NUMBER: /[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
NAME: /[^\W\d]\w*/
QUOTED: /"([^"\\\n]|\\.)*"/
%ignore /\s+/
"""
_EXPECTED = {
    "NUMBER": "a number",
    "OPERATOR": "one of >= > <= <",
    "NAME": "a factor's name",
    "LPAR": "'('",
    "RPAR": "')'",
    "COMMA": "a comma",
    "_AND": "'and'",
    "_OR": "'or'",
    "$END": "the end",
}


def parse_filter(text: str) -> FactorFilter:
    """Read a factor filter.

    Parameters
    ----------
    text
        Conditions ``NAME >= NUMBER`` (a document's score), ``match(NAME) >= NUMBER`` (a contribution) and
        ``top(NAME, COUNT)`` (among the top contributors), with ``>=``, ``>``, ``<=`` or ``<``, combined with ``and``,
        ``or``, ``not`` (or ``&``, ``|``, ``~``) and parentheses. ``not`` binds closest, then ``and``, then ``or``.
        A name that is one of these words stands in double quotes.

    Raises
    ------
    InvalidInputError
        If the text is no filter; the message shows the place. If it is too long.
    """
    from lark import UnexpectedEOF, UnexpectedInput

    if len(text) > MAX_CHARS:
        raise InvalidInputError(f"a factor filter has at most {MAX_CHARS} characters, got {len(text)}")
    try:
        tree: Any = _parser().parse(text)
    except UnexpectedInput as exc:
        at_end = isinstance(exc, UnexpectedEOF) or getattr(getattr(exc, "token", None), "type", "") == "$END"
        place = len(text.rstrip()) if at_end else exc.pos_in_stream
        raise _error(text, place or 0, _complaint(exc, at_end)) from None
    except _BadValueError as exc:
        raise _error(text, exc.place, str(exc.args[0])) from None
    return checked_filter(tree)


def as_filter(given: FactorFilter | str | None) -> FactorFilter | None:
    """Return a filter that was given as a tree or as text, checked; None for none."""
    if given is None:
        return None
    return parse_filter(given) if isinstance(given, str) else checked_filter(given)


def format_filter(tree: FactorFilter) -> str:
    """Write a factor filter as text that :func:`parse_filter` reads back as the same tree."""
    if isinstance(tree, Comparison):
        return f"{_name(tree.name)} {tree.operator} {tree.value!r}"
    if isinstance(tree, MatchComparison):
        return f"match({_name(tree.name)}) {tree.operator} {tree.value!r}"
    if isinstance(tree, AmongTop):
        return f"top({_name(tree.name)}, {tree.count})"
    if isinstance(tree, Not):
        return f"not {_grouped(tree.inner, And | Or)}"
    if isinstance(tree, And):
        return f"{_grouped(tree.left, Or)} and {_grouped(tree.right, And | Or)}"
    if isinstance(tree, Or):
        return f"{format_filter(tree.left)} or {_grouped(tree.right, Or)}"
    raise InvalidInputError(f"a factor filter is built from factor(name) and match(name), got {tree!r}")


class _BadValueError(Exception):
    """A value that reads well and makes no sense, with its place in the text."""

    def __init__(self, reason: str, place: int) -> None:
        super().__init__(reason)
        self.place = place


class _Builder:
    """Builds the tree while the text is read, so that no depth of it needs a stack here."""

    def name(self, children: list[Token]) -> str:
        token = children[0]
        try:
            return str(json.loads(token)) if token.type == "QUOTED" else str(token)
        except json.JSONDecodeError:
            raise _BadValueError("a quoted name is written as in JSON", token.start_pos or 0) from None

    def compared(self, children: list[Any]) -> FactorFilter:
        name, operator, number = children
        return _valued(number, lambda: factor(name).compare(cast("Operator", str(operator)), float(number)))

    def contributed(self, children: list[Any]) -> FactorFilter:
        name, operator, number = children
        return _valued(number, lambda: match(name).compare(cast("Operator", str(operator)), float(number)))

    def among_top(self, children: list[Any]) -> FactorFilter:
        name, number = children
        count: Any = int if number.isdigit() else float  # a float is refused, as it was written
        return _valued(number, lambda: match(name).in_top(count(number)))

    def negated(self, children: list[FactorFilter]) -> FactorFilter:
        return Not(children[0])

    def both(self, children: list[FactorFilter]) -> FactorFilter:
        return And(*children)

    def either(self, children: list[FactorFilter]) -> FactorFilter:
        return Or(*children)


def _valued(number: Token, build: Callable[[], FactorFilter]) -> FactorFilter:
    try:
        return build()
    except ValueError as exc:  # ours, and Python's for thousands of digits
        raise _BadValueError(str(exc), number.start_pos or 0) from None


@cache
def _parser() -> Lark:
    from lark import Lark, Transformer

    class Builder(_Builder, Transformer):  # type: ignore[type-arg]
        pass

    return Lark(_GRAMMAR, parser="lalr", transformer=Builder())


def _complaint(exc: Any, at_end: bool) -> str:
    from lark import UnexpectedCharacters

    wanted = set(getattr(exc, "accepts", None) or getattr(exc, "expected", None) or getattr(exc, "allowed", None) or ())
    words = [word for name, word in _EXPECTED.items() if name in wanted]
    if at_end:
        found = "the filter ends here"
    elif isinstance(exc, UnexpectedCharacters):
        found = f"{exc.char!r} has no meaning here"
    else:
        found = f"{str(exc.token)!r} does not fit here"
    return f"{found}; expected {' or '.join(words)}" if words else found


def _error(text: str, place: int, reason: str) -> InvalidInputError:
    before = text[:place]
    line, column = before.count("\n") + 1, place - before.rfind("\n")
    shown = (text.splitlines() or [""])[line - 1] if text else ""
    return InvalidInputError(
        f"factor filter, line {line}, column {column}: {reason}\n  {shown}\n  {' ' * (column - 1)}^"
    )


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _WORDS else json.dumps(name, ensure_ascii=False)


def _grouped(tree: FactorFilter, kinds: Any) -> str:
    text = format_filter(tree)
    return f"({text})" if isinstance(tree, kinds) else text

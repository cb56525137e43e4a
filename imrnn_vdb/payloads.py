"""What a payload may hold: JSON that every engine stores and gives back, and how it reads as a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from imrnn_vdb.errors import InvalidInputError, one_line

_HEADLINE_CHARS = 90
_CONTROL = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_OBEYED = {code: None for code in _CONTROL if not chr(code).isspace()}
"""What a terminal obeys instead of showing it: control characters, and those that turn the direction of a text. Those
that are white space separate words."""


def check_json(value: object) -> None:
    """Raise `InvalidInputError` for what an engine would refuse or silently change.

    Allowed are None, booleans, signed 64-bit integers, finite floats, valid Unicode text, lists, tuples, and mappings
    with text keys, to any depth that Python can follow.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(f"the key {key!r} is no text")
            valid_text(key)
            check_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            check_json(item)
    else:
        _check_scalar(value)


def finite(value: Any) -> Any:
    """Return what is ready for JSON, with None for NaN and infinity: a database's column may hold them, JSON cannot."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def keys_of(payloads: Iterable[Mapping[str, Any]]) -> str:
    """Name the keys that payloads have, for a message."""
    return ", ".join(sorted({key for payload in payloads for key in payload})) or "none"


def valid_text(text: str) -> str:
    """Return the text, if it is one that can be encoded as UTF-8 (a lone surrogate cannot)."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{text!r} is no text")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"{text!r} is no valid Unicode text ({exc.reason})") from exc
    return text


def headline_of(payload: Mapping[str, object], point_id: object, text_field: str = "text") -> str:
    """Return one line that says what a point is: its title, its name, the beginning of its text, or its id.

    It is safe to print: a terminal finds nothing in it to obey.
    """
    for name in ("title", "name", text_field):
        value = payload.get(name)
        line = printable(value) if isinstance(value, str) else ""
        if line:
            return one_line(line, _HEADLINE_CHARS)
    return printable(str(point_id))


def printable(text: str) -> str:
    """Return text as one line, without what a terminal would obey."""
    return " ".join(text.translate(_OBEYED).split())


def text_of(payload: Mapping[str, object], text_field: str = "text") -> str:
    """Return a point's title and text, one after the other, as far as there are any."""
    return "\n".join(str(payload[key]) for key in ("title", text_field) if payload.get(key))


def _check_scalar(value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        valid_text(value)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidInputError(f"the integer {value} needs more than 64 bits, sign included: store it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} is no finite number: store None, or leave the key out")
    else:
        raise InvalidInputError(
            f"a {type(value).__name__} is not JSON: use text, numbers, booleans, lists, mappings with text keys, None"
        )

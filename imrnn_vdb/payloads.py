"""What a payload may hold: JSON that every engine stores and gives back as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping

from imrnn_vdb.errors import InvalidInputError


def check_json(value: object) -> None:
    """Raise `InvalidInputError` for what an engine would refuse or silently change.

    Allowed are None, booleans, 64-bit integers, finite floats, valid Unicode text, lists, tuples, and mappings with
    text keys, to any depth that Python can follow.
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


def valid_text(text: str) -> str:
    """Return the text, if it can be encoded as UTF-8 (a lone surrogate cannot)."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"{text!r} is no valid Unicode text ({exc.reason})") from exc
    return text


def _check_scalar(value: object) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        valid_text(value)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidInputError(f"the integer {value} needs more than 64 bits: store it as text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} is no finite number: store None, or leave the key out")
    else:
        raise InvalidInputError(
            f"a {type(value).__name__} is not JSON: use text, numbers, booleans, lists, mappings with text keys, None"
        )

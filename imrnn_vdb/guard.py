"""The tenant guard: a condition that is part of every read and deletion of a collection, whoever asks.

Tenancy in a vector database is a filter, not a wall, and a filter can be forgotten. So a guard belongs to the *store*:
it is given when a collection is opened, each store adds it in the one place through which all its requests go, and no
method takes a parameter that could lift it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from imrnn_vdb.errors import InvalidInputError, UnsupportedError
from imrnn_vdb.payloads import check_json

Guard = Any
"""A store's own filter, or a mapping of payload keys to the values they must have (text, integers or booleans)."""


def checked_guard(guard: Guard) -> Guard:
    """Return a guard that its giver can no longer change.

    Raises
    ------
    InvalidInputError
        If it would guard nothing (an empty mapping, a blank text), or is a mapping of anything but text keys to text,
        integers or booleans.
    """
    if guard is None:
        return None
    if isinstance(guard, str):
        if not guard.strip():
            raise InvalidInputError("the guard is a blank text, which guards nothing: name the tenant, or pass None")
        return guard
    if isinstance(guard, Mapping):
        return MappingProxyType(_checked_values(guard))
    try:
        return copy.deepcopy(guard)
    except TypeError:  # a filter of Qdrant Edge: made once, and never changed
        return guard


def admit(guard: Guard, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Refuse points that a guarded collection could not read again.

    Raises
    ------
    UnsupportedError
        If the guard is a store's own filter, which cannot be evaluated here.
    InvalidInputError
        If a payload does not carry the guard's values; nothing was written.
    """
    if guard is None:
        return
    if not isinstance(guard, Mapping):
        raise UnsupportedError(
            "whether a new point lies inside this guard cannot be told from a filter: give the guard as a mapping such "
            "as {'tenant': 'a'}, or write through a collection without a guard"
        )
    for row, payload in enumerate(payloads):
        for key, value in guard.items():
            found = payload.get(key)
            if type(found) is not type(value) or found != value:
                raise InvalidInputError(
                    f"point {row} does not have the guard's value under {key!r}, so it would belong to someone else; "
                    "nothing was written"
                )


def _checked_values(guard: Mapping[Any, Any]) -> dict[str, Any]:
    if not guard:
        raise InvalidInputError("the guard is empty, which guards nothing: name the tenant, or pass None")
    check_json(guard)
    for key, value in guard.items():
        if not key or not isinstance(value, str | int):
            raise InvalidInputError(
                f"a guard maps payload keys to text, integers or booleans; {key!r} has a {type(value).__name__}"
            )
        if isinstance(value, int) and not -(2**63) < value < 2**63:
            raise InvalidInputError(f"no database compares with the integer {value} under {key!r}: store it as text")
    return dict(guard)

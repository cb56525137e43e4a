"""Point ids: Qdrant's own keys are integers and UUIDs; every other string is kept beside the point."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.layout import ID_FIELD
from imrnn_vdb.payloads import valid_text
from imrnn_vdb.points import PointId

_NAMESPACE = uuid.UUID("6f0e7f4c-4c43-5b0e-9d2a-7a1d5f4b8c31")
"""Fixed for ever: the same string must lead to the same point from every client."""


def native_id(value: PointId) -> int | str:
    """Return the key under which Qdrant stores a point.

    Parameters
    ----------
    value
        An integer, the canonical text of a UUID (both are kept), or another string (becomes a UUIDv5).

    Raises
    ------
    InvalidInputError
        For an integer below 0, and for a string that is no valid Unicode.
    """
    if isinstance(value, int) and value < 0:
        raise InvalidInputError(f"Qdrant's ids are integers from 0 on, UUIDs and other text, got {value}")
    if isinstance(value, int) or _is_canonical_uuid(value):
        return value
    return str(uuid.uuid5(_NAMESPACE, valid_text(value)))


def native_ids(values: Iterable[PointId]) -> list[int | str]:
    """Return the keys of points that are read or deleted; integers below 0 are left out, since no point has them."""
    return [native_id(value) for value in values if not isinstance(value, int) or value >= 0]


def id_fields(value: PointId) -> dict[str, str]:
    """Return the payload fields that give an id back: empty for ids that Qdrant holds itself."""
    if isinstance(value, int) or _is_canonical_uuid(value):
        return {}
    return {ID_FIELD: value}


def original_id(native: object, payload: Mapping[str, Any]) -> PointId:
    """Return the caller's id of a point that was read (Edge gives ``uuid.UUID``, the client gives text)."""
    original = payload.get(ID_FIELD)
    return original if isinstance(original, str) else key_of(native)


def key_of(native: object) -> int | str:
    """Return a point's key as it was read, in the form in which it travels."""
    return native if isinstance(native, int) else str(native)


def _is_canonical_uuid(value: str) -> bool:
    if len(value) != 36:
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False

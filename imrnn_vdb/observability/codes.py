"""How a search or a request ended, as the name of a gRPC status: the one scheme, in a process as in the service."""

from __future__ import annotations

import asyncio

from imrnn_vdb import errors

OK, OVERLOADED = "OK", "RESOURCE_EXHAUSTED"
_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (  # the first that fits
    ((errors.InvalidInputError, errors.SpaceMismatchError), "INVALID_ARGUMENT"),
    (errors.CollectionNotFoundError, "NOT_FOUND"),
    (errors.UnsupportedError, "UNIMPLEMENTED"),
    ((errors.StoreTimeoutError, asyncio.TimeoutError), "DEADLINE_EXCEEDED"),
    (errors.StoreUnavailableError, "UNAVAILABLE"),
    ((asyncio.CancelledError, GeneratorExit), "CANCELLED"),
)
CODES = (OK, *(code for _, code in _CODES), OVERLOADED, "INTERNAL")
"""All there are, so that the values of the label are few."""


def code_of(error: BaseException | None) -> str:
    """Return one of ``CODES``: ``"OK"`` for None, ``"INTERNAL"`` for what has no status of its own."""
    if error is None:
        return OK
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), "INTERNAL")

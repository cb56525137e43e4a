"""Errors as gRPC statuses, and back: a client raises the class that a collection in its own process would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imrnn_vdb import errors
from imrnn_vdb.errors import IMRNNError, StoreError

if TYPE_CHECKING:
    import grpc

ERROR_KEY = "imrnn-error"
"""Trailing metadata that names the error's class."""
REQUEST_ID_KEY = "x-request-id"

_CODES: tuple[tuple[type[IMRNNError], str], ...] = (  # the first that fits
    (errors.InvalidInputError, "INVALID_ARGUMENT"),
    (errors.SpaceMismatchError, "INVALID_ARGUMENT"),
    (errors.CollectionNotFoundError, "NOT_FOUND"),
    (errors.UnsupportedError, "UNIMPLEMENTED"),
    (errors.StoreTimeoutError, "DEADLINE_EXCEEDED"),
    (errors.StoreUnavailableError, "UNAVAILABLE"),
    (IMRNNError, "INTERNAL"),
)
_OTHER_ERRORS: dict[str, type[StoreError]] = {  # of statuses that no error of a collection led to
    "RESOURCE_EXHAUSTED": errors.StoreUnavailableError,
    "UNAVAILABLE": errors.StoreUnavailableError,
    "DEADLINE_EXCEEDED": errors.StoreTimeoutError,
}


def status_of(error: IMRNNError) -> grpc.StatusCode:
    """Return the status that stands for an error."""
    import grpc

    name = next(code for kind, code in _CODES if isinstance(error, kind))
    return grpc.StatusCode[name]


def error_of(status: grpc.StatusCode, details: str, name: str | None) -> IMRNNError:
    """Return the error that a status stands for.

    Parameters
    ----------
    status
        As it was received.
    details
        Its message.
    name
        What the trailing metadata says of the error's class; None where it says nothing.
    """
    kind = getattr(errors, name or "", None)
    if isinstance(kind, type) and issubclass(kind, IMRNNError) and kind is not errors.MissingExtraError:
        return kind(details)
    return _OTHER_ERRORS.get(status.name, StoreError)(f"the service answered {status.name}: {details}")

"""Errors as gRPC statuses, and back: a client raises the class that a collection in its own process would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imrnn_vdb import errors
from imrnn_vdb.errors import IMRNNError, InvalidInputError, StoreError, StoreTimeoutError, StoreUnavailableError
from imrnn_vdb.observability.codes import code_of

if TYPE_CHECKING:
    import grpc

ERROR_KEY = "imrnn-error"
"""Trailing metadata that names the error's class."""
REQUEST_ID_KEY = "x-request-id"
_TOLD_CHARS, _TOLD_BYTES = 1_000, 2_000
"""Of an error's text. gRPC sends it as metadata, up to three characters a byte, and drops what nears 8 KiB."""

_OTHER_ERRORS: dict[str, type[IMRNNError]] = {  # of statuses that are gRPC's own
    "RESOURCE_EXHAUSTED": InvalidInputError,  # a message that is too large
    "UNAVAILABLE": StoreUnavailableError,
    "DEADLINE_EXCEEDED": StoreTimeoutError,
}


def check_header(what: str, value: str) -> None:
    """Raise `InvalidInputError` for a value that no header carries; it may be a secret, and is not repeated."""
    if not (value.isascii() and value.isprintable()):
        raise InvalidInputError(f"{what} is printable ASCII; it holds something else, perhaps a line break at its end")


def status_of(error: IMRNNError) -> grpc.StatusCode:
    """Return the status that stands for an error."""
    import grpc

    return grpc.StatusCode[code_of(error)]


def details_of(error: IMRNNError) -> str:
    """Return what a client is told of an error: its text, no longer than what surely arrives, and no path from here."""
    if isinstance(error, errors.AuditError):
        return "the search could not be recorded, and without a record it is not answered"
    return str(error)[:_TOLD_CHARS].encode(errors="replace")[:_TOLD_BYTES].decode(errors="ignore")


def name_of(error: IMRNNError) -> str:
    """Return the name of an error's class, or of the nearest above it that a client knows."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)


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

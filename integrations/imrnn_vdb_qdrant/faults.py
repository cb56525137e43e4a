"""Vendor exceptions, translated into ours."""

from __future__ import annotations

import asyncio
import re

from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
    one_line,
)

_NO_COLLECTION = re.compile(r"collection .+ (not found|doesn't exist)", re.IGNORECASE)
_EXISTS = re.compile(r"collection .+ already exists", re.IGNORECASE)
_NO_VECTOR = re.compile(r"not existing vector|vector .+ is not found", re.IGNORECASE)
"""That of codes, perhaps, after an undo somewhere else."""
_NO_POINT = re.compile(r"no point with id", re.IGNORECASE)

_UNAVAILABLE = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "429", "502", "503", "504"}
_TIMED_OUT = {"DEADLINE_EXCEEDED", "408"}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "401", "403"}
_WRONG = {"INVALID_ARGUMENT", "400", "422"}
_NOT_THERE = {"UNIMPLEMENTED", "501", "405"}


class PointVanishedError(StoreError):
    """A point was deleted between the look for it and the write; the write is done again without it."""


class RefusedArgumentError(StoreError):
    """Qdrant finds an argument wrong: a filter, perhaps, or a limit."""


def translate_client(exc: Exception) -> StoreError:
    """Translate what qdrant-client raises: over gRPC, over REST, and in local mode."""
    from grpc import RpcError
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(exc, ResourceExhaustedResponse):
        return _from_status("RESOURCE_EXHAUSTED", exc.message, float(exc.retry_after_s))
    if isinstance(exc, RpcError):
        code = exc.code().name if hasattr(exc, "code") else "UNKNOWN"
        return _from_status(code, (exc.details() if hasattr(exc, "details") else None) or "no details")
    if isinstance(exc, UnexpectedResponse):
        return _from_status(str(exc.status_code), _rest_text(exc.content), _retry_after(exc.headers))
    if isinstance(exc, ResponseHandlingException):
        if "timeout" in type(exc.source).__name__.lower():
            return StoreTimeoutError("Qdrant did not answer in time; allow more with timeout=")
        return StoreUnavailableError(f"Qdrant cannot be reached ({_short(exc.source)}): is it running at this address?")
    if isinstance(exc, KeyError):  # local mode, on a write to a point that is not there
        return PointVanishedError(f"there is no point {exc}")
    return _from_text(exc, refused=isinstance(exc, ValueError))  # of local mode


def translate_edge(exc: Exception) -> StoreError:
    """Translate what Qdrant Edge raises: bare exceptions, told apart by their text."""
    return _from_text(exc)


def _from_status(code: str, text: str, retry_after: float | None = None) -> StoreError:
    text = _short(text)
    if code in _UNAVAILABLE:
        where = "is it running at this address, is the port its gRPC port, and is tls= right?"
        hint = where if code == "UNAVAILABLE" else "try later"
        return StoreUnavailableError(f"Qdrant is unavailable or overloaded ({text}): {hint}", retry_after=retry_after)
    if code in _TIMED_OUT:
        return StoreTimeoutError(f"Qdrant did not answer in time ({text}); allow more with timeout=")
    if code in _REFUSED:
        return StoreError(f"Qdrant refuses access ({text}): check api_key= or IMRNN_API_KEY")
    if code in _NOT_THERE:
        return UnsupportedError(
            f"the server does not know the request ({text}): no Qdrant is at this port, or an older one"
        )
    return _from_text(text, refused=code in _WRONG)


def _from_text(error: Exception | str, *, refused: bool = False) -> StoreError:
    text = _short(error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return StoreTimeoutError("Qdrant did not answer in time; allow more with timeout=")
    if isinstance(error, OSError):
        return StoreUnavailableError(f"Qdrant cannot be reached ({text})")
    if _NO_POINT.search(text):
        return PointVanishedError(text)
    if _EXISTS.search(text):
        return CollectionExistsError(f"it exists already ({text}): choose another name, or drop it first")
    if _NO_COLLECTION.search(text) or "Shard is not initialized" in text:
        return CollectionNotFoundError(f"there is no such collection ({text}): check the name, or create it")
    kind = RefusedArgumentError if refused and not _NO_VECTOR.search(text) else StoreError
    return kind(f"Qdrant could not do this: {text}")


def _rest_text(content: bytes) -> str:
    found = re.search(rb'"error"\s*:\s*"((?:[^"\\]|\\.)*)"', content)
    return (found.group(1) if found else content).decode("utf-8", "replace")


def _retry_after(headers: object) -> float | None:
    value = getattr(headers, "get", lambda _: None)("Retry-After")
    try:
        return float(value) if value is not None else None
    except ValueError:  # the header may hold a date
        return None


def _short(error: object) -> str:
    return one_line(error) or type(error).__name__

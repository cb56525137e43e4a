"""What pymilvus and gRPC raise, translated into our errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
    one_line,
)

_CONNECT_FAILED, _RATE_LIMIT, _NOT_FOUND, _NOT_LOADED = 2, 8, 100, 101
_LEGACY_NOT_FOUND, _LEGACY_RATE_LIMIT = 4, 49
_BUSY = frozenset({4, _RATE_LIMIT, 11, 103, 106, 400, 401, 500, 501, 503, 601, 602, 901, 902, 903})
"""Overload, and what a server answers while it loads, recovers or moves a collection between its nodes."""
_DUPLICATE = ("create duplicate collection", "already exist")
_LITE_ILLEGAL = 6
"""Both codes of a condition that Milvus Lite does not take, and of a schema; a server's 6 is another cluster's call."""
_CONDITION = ("cannot parse expression", "predicate is not a boolean expression", "maximum recursion depth")
"""The last is Milvus Lite's, of one nested too deep."""


class NotLoadedError(StoreError):
    """A collection is there, and not loaded: it takes writes, but answers no reads."""


class DeniedError(StoreError):
    """The role of this user lacks a privilege."""


class RefusedConditionError(StoreError):
    """Milvus does not understand a condition, or in Milvus Lite a schema."""


def translate(exc: Exception) -> StoreError:
    """Translate an exception of a call to Milvus.

    pymilvus raises a ``MilvusException`` with the server's code, with a gRPC status in place of the code, or with
    neither but a gRPC error as its cause; a frozen server ends in a bare ``grpc.RpcError``.
    """
    status = _grpc_status(exc)
    if status is not None:
        return _of_status(status, exc)
    if any(isinstance(cause, TimeoutError | asyncio.TimeoutError) for cause in _causes(exc)):
        return _timed_out()
    code = getattr(exc, "code", None)
    text = _text(exc)
    if isinstance(code, int):
        return _of_code(code, getattr(exc, "compatible_code", None), bool(getattr(exc, "retriable", False)), text)
    if isinstance(exc, OSError):
        return _unavailable(text)
    return StoreError(f"Milvus could not answer: {text}")


def _of_code(code: int, legacy: object, retriable: bool, text: str) -> StoreError:
    if code == _NOT_FOUND or (legacy == _LEGACY_NOT_FOUND and code <= 1):
        return CollectionNotFoundError(f"{text}: check the name, or create the collection")
    if code == _NOT_LOADED:
        return NotLoadedError(f"{text}: load it, for example by MilvusClient.load_collection")
    if code == _CONNECT_FAILED:
        return _unavailable(text)
    if code in _BUSY or legacy == _LEGACY_RATE_LIMIT or retriable:
        return StoreUnavailableError(f"Milvus is overloaded or busy ({text}): try later")
    if "Retry timeout" in text:  # pymilvus gave up at the deadline that we passed
        return _timed_out()
    if code == legacy == _LITE_ILLEGAL or any(words in text for words in _CONDITION):
        return RefusedConditionError(f"Milvus refused: {text}")
    if any(words in text for words in _DUPLICATE):
        return CollectionExistsError(f"{text}: choose another name, or drop it first")
    return StoreError(f"Milvus refused: {text}")


def _of_status(status: str, exc: Exception) -> StoreError:
    if status == "DEADLINE_EXCEEDED":
        return _timed_out()
    if status in ("UNAVAILABLE", "CANCELLED", "ABORTED"):
        return _unavailable("no connection")
    if status == "UNAUTHENTICATED":
        return StoreError("Milvus refused access: check api_key= or IMRNN_API_KEY, as a token or as user:password")
    if status == "PERMISSION_DENIED":
        details: Any = getattr(exc, "details", None)
        text = one_line(details()) if callable(details) else _text(exc)
        return DeniedError(f"Milvus knows this user and denies the request ({text}): grant the privilege to its role")
    if status == "UNIMPLEMENTED":
        return UnsupportedError("the server does not know the request: no Milvus is at this port, or an older one")
    if status == "RESOURCE_EXHAUSTED":
        return StoreError("the request or its reply is larger than Milvus allows: ask for fewer points at once")
    return StoreError(f"the call to Milvus failed with {status}: {_text(exc)}")


def _grpc_status(exc: Exception) -> str | None:
    """Return the name of the gRPC status behind an exception; None where there is none."""
    for cause in _causes(exc):
        code: Any = getattr(cause, "code", None)
        if callable(code):  # grpc.RpcError: code() gives a StatusCode
            code = code()
        name = getattr(code, "name", None)
        if name is not None and type(code).__name__ == "StatusCode":
            return str(name)
    return None


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its causes; pymilvus makes exceptions their own cause."""
    seen: set[int] = set()
    found: BaseException | None = exc
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__


def _timed_out() -> StoreTimeoutError:
    return StoreTimeoutError("Milvus did not answer in time: is it running there? If so, allow more with timeout=")


def _unavailable(text: str) -> StoreUnavailableError:
    hint = "is it running, is the port its gRPC port, and is tls= right?"
    return StoreUnavailableError(f"Milvus cannot be reached ({text}): {hint}")


def _text(exc: Exception) -> str:
    return one_line(getattr(exc, "message", None) or exc) or type(exc).__name__

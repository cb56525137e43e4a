"""The token: every call must carry it, but for health checks."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

_OPEN = "/grpc.health.v1.Health/"


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Answers UNAUTHENTICATED to calls without the token; compares in constant time.

    Parameters
    ----------
    token
        What ``authorization: Bearer TOKEN`` must hold.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Let a call through, or answer in place of its method."""
        if details.method.startswith(_OPEN):
            return await continuation(details)
        given = next((value for key, value in details.invocation_metadata or () if key == "authorization"), "")
        raw = given if isinstance(given, bytes) else given.encode()
        return await continuation(details) if hmac.compare_digest(raw, self._expected) else self._refusal


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this service wants a token: authorization: Bearer TOKEN")

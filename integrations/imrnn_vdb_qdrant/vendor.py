"""The vendor's packages, loaded on first use, and the few things that need care when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from imrnn_vdb.errors import MissingExtraError


def load_client() -> Any:
    """Import ``qdrant_client``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import qdrant_client
    except ImportError as exc:
        raise MissingExtraError("qdrant-client", "qdrant") from exc
    return qdrant_client


def load_edge() -> Any:
    """Import ``qdrant_edge``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import qdrant_edge
    except ImportError as exc:
        raise MissingExtraError("qdrant-edge-py", "qdrant-edge") from exc
    return qdrant_edge


def then(reply: Any, step: Callable[[Any], Any]) -> Any:
    """Apply a step to a reply, or to what an awaitable reply will be: one call serves sync and async clients."""
    if not inspect.isawaitable(reply):
        return step(reply)

    async def later() -> Any:
        return step(await reply)

    return later()

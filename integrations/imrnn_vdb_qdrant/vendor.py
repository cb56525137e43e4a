"""The vendor's packages, loaded on first use, and the few things that need care when they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from imrnn_vdb.errors import MissingExtraError


def load_client() -> Any:
    """Import ``qdrant_client``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    return _load("qdrant_client", "qdrant-client", "qdrant")


def load_edge() -> Any:
    """Import ``qdrant_edge``.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    return _load("qdrant_edge", "qdrant-edge-py", "qdrant-edge")


def _load(module: str, package: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as exc:
        raise MissingExtraError(package, extra) from exc


def then(reply: Any, step: Callable[[Any], Any]) -> Any:
    """Apply a step to a reply, or to what an awaitable reply will be: one call serves sync and async clients."""
    if not inspect.isawaitable(reply):
        return step(reply)

    async def later() -> Any:
        return step(await reply)

    return later()

"""The gRPC service, and its client: one process that many clients in any language share (``docs/service.md``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imrnn_vdb.serving.client import AsyncServiceClient, ServiceClient
    from imrnn_vdb.serving.config import ServiceConfig, load_config
    from imrnn_vdb.serving.server import serve

_HOMES = {
    "AsyncServiceClient": "client",
    "ServiceClient": "client",
    "ServiceConfig": "config",
    "load_config": "config",
    "serve": "server",
}

__all__ = ["AsyncServiceClient", "ServiceClient", "ServiceConfig", "load_config", "serve"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

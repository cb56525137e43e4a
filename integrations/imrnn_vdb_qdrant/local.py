"""qdrant-client's local mode: numpy in this process, made safe to share between threads."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from imrnn_vdb.backend import IN_MEMORY

_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()


class LocalClient:
    """A ``QdrantClient`` in local mode whose calls run one at a time.

    Local mode is not thread-safe: readers beside a writer see arrays of different lengths. All wrappers of one client
    share its lock.

    Parameters
    ----------
    client
        The client, opened with ``path=`` or ``":memory:"``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = _locks.setdefault(client, threading.RLock())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def locked(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return method(*args, **kwargs)

        return locked


def is_local(client: object) -> bool:
    """Whether a client, sync or async, works in this process instead of calling a server."""
    if isinstance(client, LocalClient):
        return True
    options = getattr(client, "init_options", {})
    return options.get("location") == IN_MEMORY or options.get("path") is not None

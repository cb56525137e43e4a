"""Qdrant Edge as a small embedded server: a folder of collections, each one shard of Qdrant's engine in this process.

A shard's folder can be open once only, so every open shard of this process stands in one registry, and each
:class:`EdgeEngine` that uses it counts; the last one to close it closes the shard.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
    UnsupportedError,
)
from imrnn_vdb_qdrant.schema import Schema, schema_from_config
from imrnn_vdb_qdrant.vendor import load_edge

_CONFIG = "edge_config.json"
_CALL_S = 0.001
"""Seconds after which a call that was going on may be done."""


class Engine(Protocol):
    """What an Edge store asks of its connection's client."""

    optimizes: bool

    def shard(self, name: str) -> Any:
        """Return the open ``qdrant_edge.EdgeShard`` of a collection."""

    def schema(self, name: str, code_field: str) -> Schema:
        """Return the vectors of a collection; ``code_field`` is the name that one for codes would have."""

    def create(self, name: str, config: Any) -> Any:
        """Create a collection and return its open shard."""

    def drop(self, name: str) -> None:
        """Delete a collection, if there is one."""

    def close(self) -> None:
        """Release what this engine opened."""


@dataclass(slots=True)
class _Open:
    """A shard that is open in this process, the engines that use it, and the process itself."""

    shard: Any
    users: weakref.WeakSet[EdgeEngine] = field(default_factory=weakref.WeakSet)
    pid: int = field(default_factory=os.getpid)


_registry: dict[Path, _Open] = {}
_lock = threading.RLock()


class EdgeEngine:
    """The collections under one folder; opens them on first use. Safe to share between threads.

    Parameters
    ----------
    root
        Folder that holds one folder for each collection; made by the first ``create``.
    """

    optimizes = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def __repr__(self) -> str:
        return f"EdgeEngine({str(self.root)!r})"

    def shard(self, name: str) -> Any:
        """Return the open shard of a collection.

        Raises
        ------
        CollectionNotFoundError
            If there is no such collection.
        StoreError
            If another process has it open, or it was opened before this process forked.
        """
        folder = self._folder(name)
        with _lock:
            found = _registry.get(folder)
            if found is None:
                if not (folder / _CONFIG).is_file():
                    raise CollectionNotFoundError(f"there is no collection {name!r} in {self.root}: create it first")
                found = self._register(folder, lambda edge: edge.EdgeShard.load(str(folder)))
            if found.pid != os.getpid():  # the engine's threads did not come along: a query would hang for ever
                raise StoreError(f"collection {name!r} was opened before this process forked: start workers by 'spawn'")
            found.users.add(self)
            return found.shard

    def schema(self, name: str, code_field: str) -> Schema:  # noqa: ARG002
        """Return the vectors of a collection, as its configuration file has them."""
        self.shard(name)
        return schema_from_config(json.loads((self._folder(name) / _CONFIG).read_text("utf-8")))

    def create(self, name: str, config: Any) -> Any:
        """Create a collection and return its open shard.

        Raises
        ------
        CollectionExistsError
            If the folder holds anything already.
        """
        folder = self._folder(name)
        with _lock:
            if folder.exists() and any(folder.iterdir()):
                raise CollectionExistsError(f"{folder} is not empty: choose another name, or drop the collection first")
            folder.mkdir(parents=True, exist_ok=True)
            found = self._register(folder, lambda edge: edge.EdgeShard.create(str(folder), config))
            found.users.add(self)
            return found.shard

    def drop(self, name: str) -> None:
        """Delete a collection and its folder, whoever in this process has it open; nothing if there is none."""
        folder = self._folder(name)
        with _lock:
            if not (folder / _CONFIG).is_file():
                return
            _close(self.shard(name))  # also proves that no other process has it open
            del _registry[folder]
            shutil.rmtree(folder)

    def close(self) -> None:
        """Write everything to disk; close the shards that no other engine of this process uses."""
        with _lock:
            for folder, found in list(_registry.items()):
                if self not in found.users or found.pid != os.getpid():
                    continue
                found.users.discard(self)
                found.shard.flush()
                if not found.users:
                    del _registry[folder]
                    _close(found.shard)

    def _folder(self, name: str) -> Path:
        if name in {"", ".", ".."} or set(name) & set("/\\\0"):
            raise InvalidInputError(f"{name!r} cannot name a collection: it becomes a folder's name")
        return self.root / name

    def _register(self, folder: Path, opening: Callable[[Any], Any]) -> _Open:
        try:
            shard = opening(load_edge())
        except Exception as exc:  # Edge raises bare exceptions
            if "WouldBlock" in str(exc):
                raise StoreError(
                    f"{folder} is open elsewhere: close it in the other process (or the EdgeShard of yours), "
                    "or use a Qdrant server for several processes"
                ) from exc
            raise
        _registry[folder] = _Open(shard)
        return _registry[folder]


def _close(shard: Any) -> None:
    """Close a shard when the calls of other threads are done."""
    while True:
        try:
            shard.close()
        except RuntimeError as exc:
            if "borrowed" not in str(exc):  # by such a call
                raise
            time.sleep(_CALL_S)
        else:
            return


class SingleShard:
    """A shard that the caller opened: one collection, under whatever name it is called.

    Parameters
    ----------
    shard
        A ``qdrant_edge.EdgeShard``; never closed, dropped or optimised here.
    inspect
        Finds out the shard's vectors, which a shard does not tell.
    """

    optimizes = False

    def __init__(self, shard: Any, inspect: Callable[[Any, str], Schema]) -> None:
        self._shard = shard
        self._inspect = inspect

    def shard(self, name: str) -> Any:  # noqa: ARG002
        """Return the caller's shard."""
        return self._shard

    def schema(self, name: str, code_field: str) -> Schema:  # noqa: ARG002
        """Return the shard's vectors, found by looking at its points."""
        return self._inspect(self._shard, code_field)

    def create(self, name: str, config: Any) -> Any:  # noqa: ARG002
        """Refuse: the shard exists."""
        raise CollectionExistsError("a shard of yours is a collection already: open it instead of creating it")

    def drop(self, name: str) -> None:  # noqa: ARG002
        """Refuse: the shard is the caller's."""
        raise UnsupportedError("this shard is yours: close it and delete its folder yourself")

    def close(self) -> None:
        """Leave the shard open: it is the caller's."""

"""pymilvus's clients: imported late, connected late, and one for each Milvus Lite file."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imrnn_vdb.errors import InvalidInputError, MissingExtraError, StoreError, StoreTimeoutError
from imrnn_vdb_milvus import quiet
from imrnn_vdb_milvus.direct import method_of

_import_lock = threading.Lock()


def pymilvus() -> Any:
    """Import pymilvus, without what it does to its host process.

    Importing it loads a ``.env`` file into the environment, which is kept away unless the host imported pymilvus
    before, and sets up logging: see :mod:`imrnn_vdb_milvus.quiet`.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    with _import_lock:
        module = sys.modules.get("pymilvus")
        if module is None:
            try:
                module = _import_without_dotenv()
            except ModuleNotFoundError as exc:
                raise MissingExtraError("pymilvus", "milvus") from exc
        quiet.install()
        return module


def _import_without_dotenv() -> Any:
    try:
        import dotenv
    except ModuleNotFoundError:  # a pymilvus that does not need it
        return importlib.import_module("pymilvus")
    load = dotenv.load_dotenv
    dotenv.load_dotenv = lambda *_args, **_kwargs: False
    try:
        return importlib.import_module("pymilvus")
    finally:
        dotenv.load_dotenv = load


class ServerClient:
    """A ``MilvusClient`` that connects at its first call, within that call's timeout.

    The vendor's constructor connects, so a server that is down would fail before any operation's deadline applies.
    """

    def __init__(self, uri: str, token: str) -> None:
        self._uri, self._token = uri, token
        self._client: Any = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*, timeout: float, **arguments: Any) -> Any:
            start = time.monotonic()
            client = self._connected(timeout)
            left = timeout - (time.monotonic() - start)
            return method_of(client, name)(timeout=max(left, 0.001), **arguments)

        return method

    def _connected(self, seconds: float) -> Any:
        if not self._lock.acquire(timeout=seconds):
            raise StoreTimeoutError("another thread is still connecting to Milvus; allow more with timeout=")
        try:
            if self._client is None:  # dedicated: a channel shared with other clients would outlive close()
                self._client = pymilvus().MilvusClient(
                    uri=self._uri, token=self._token, timeout=seconds, dedicated=True
                )
            return self._client
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()


class AsyncServerClient:
    """An ``AsyncMilvusClient`` that connects once, also when its first calls come together."""

    def __init__(self, uri: str, token: str, seconds: float) -> None:
        self._client = pymilvus().AsyncMilvusClient(uri=uri, token=token, timeout=seconds, dedicated=True)
        self._lock = asyncio.Lock()
        self._ready = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        async def method(**arguments: Any) -> Any:
            async with self._lock:
                if not self._ready:
                    await self._client.__aenter__()
                    self._ready = True
            return await method_of(self._client, name)(**arguments)

        return method

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


class LiteClient:
    """A Milvus Lite file, opened at the first call and released when its last user closes it.

    The engine locks its file, and a process has one engine for each; so all connections to a file share one client.
    Writes to it take turns: the engine allows one writer beside any number of readers.
    """

    _WRITES = frozenset(
        {
            "insert",
            "upsert",
            "delete",
            "create_collection",
            "drop_collection",
            "create_index",
            "load_collection",
            "flush",
            "alter_collection_properties",
        }
    )
    _open_lock = threading.Lock()

    def __init__(self, path: str) -> None:
        if not path.endswith(".db"):
            raise InvalidInputError(f"a Milvus Lite file ends in .db, got {path!r}")
        self._path = str(Path(path).resolve())
        self._file: _LiteFile | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def method(*, timeout: float, **arguments: Any) -> Any:
            file = self._opened()
            with file.opening(arguments.get("collection_name"), timeout):
                if name not in self._WRITES:
                    return method_of(file.client, name)(timeout=timeout, **arguments)
                if not file.writing.acquire(timeout=timeout):
                    raise StoreTimeoutError(f"another write to {self._path} is not done yet; allow more with timeout=")
                try:
                    return method_of(file.client, name)(timeout=timeout, **arguments)
                finally:
                    file.writing.release()

        return method

    def _opened(self) -> _LiteFile:
        with self._open_lock:
            if self._file is None:
                file = _OPEN_FILES.get(self._path) or _LiteFile(self._path)
                _OPEN_FILES[self._path] = file
                file.users += 1
                self._file = file
            return self._file

    def close(self) -> None:
        """Let go of the file; the last user releases its lock."""
        with self._open_lock:
            file, self._file = self._file, None
            if file is None:
                return
            file.users -= 1
            if file.users == 0:
                del _OPEN_FILES[self._path]
                file.close()


class _LiteFile:
    """The one engine of a file in this process."""

    def __init__(self, path: str) -> None:
        self._engines = _server_manager()  # first: where both packages are missing, its extra brings both
        milvus = pymilvus()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path, self.users, self.writing = path, 0, threading.Lock()
        self._known, self._opening = set[str](), threading.Lock()
        try:
            with quiet.quiet():
                self.client = milvus.MilvusClient(path, dedicated=True)
        except milvus.MilvusException as exc:
            raise StoreError(
                f"Milvus Lite cannot open {path}: another process may hold it, it may not be written, or it is no "
                "Milvus Lite file"
            ) from exc

    @contextmanager
    def opening(self, collection: str | None, seconds: float) -> Iterator[None]:
        """Let no other call come between where the first one about a collection opens it.

        milvus-lite 3.2 opens a collection in the first call about it, without a lock: two threads would open it twice,
        each with a log of its own, and what is written to the one that is not kept is lost if the process is killed.
        """
        if collection is None or collection in self._known:
            yield
            return
        if not self._opening.acquire(timeout=seconds):
            raise StoreTimeoutError(f"a collection in {self.path} is still being opened; allow more with timeout=")
        try:
            yield
            self._known.add(collection)
        finally:
            self._opening.release()

    def close(self) -> None:
        self.client.close()
        self._engines.release_server(self.path)


_OPEN_FILES: dict[str, _LiteFile] = {}


def _server_manager() -> Any:
    """Return what keeps the engines of Milvus Lite, imported here, where an error still says what is wrong."""
    try:
        return importlib.import_module("milvus_lite.server_manager").server_manager_instance
    except ModuleNotFoundError as exc:
        raise MissingExtraError(exc.name or "milvus-lite", "milvus-lite") from exc
    except ImportError as exc:
        raise StoreError(f"Milvus Lite cannot be imported: {exc}") from exc

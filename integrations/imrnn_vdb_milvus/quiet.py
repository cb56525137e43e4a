"""pymilvus logs a stack trace for every failed call; in calls of ours the failure is raised as our error instead."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_our_call: ContextVar[bool] = ContextVar("imrnn_vdb_milvus_call", default=False)


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - it depends on the call, not on the record
        return not _our_call.get()


_FILTER = _NotOurs()


def install() -> None:
    """Keep pymilvus's and Milvus Lite's loggers silent during our calls; the caller's own use of them logs as before.

    A filter works on the logger it is attached to, not on its children, so every module's logger gets it.
    """
    for name in list(logging.Logger.manager.loggerDict):
        if name.partition(".")[0] in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).addFilter(_FILTER)  # adding it twice does nothing
    lite = logging.getLogger("milvus_lite")
    if not lite.handlers:  # else Python prints its errors, with stack traces, as a last resort
        lite.addHandler(logging.NullHandler())


@contextmanager
def quiet() -> Iterator[None]:
    """Mark what runs inside as a call of ours."""
    token = _our_call.set(True)
    try:
        yield
    finally:
        _our_call.reset(token)


async def quietly(reply: Awaitable[Any]) -> Any:
    """Wait for an asynchronous reply as a call of ours."""
    with quiet():
        return await reply

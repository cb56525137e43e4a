"""A service in this process, for tests."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

from imrnn_vdb.serving.config import ServiceConfig
from imrnn_vdb.serving.server import Server


@contextmanager
def running(config: ServiceConfig):
    """A server on a loop of its own; yields it, and a function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    try:
        server = run(Server.start(config))
        try:
            yield server, run
        finally:
            run(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

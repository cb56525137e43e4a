"""An observer that works behind the searches it observes, so that they do not wait for it."""

from __future__ import annotations

import logging
import queue
import threading
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from imrnn_vdb.observability.observer import tell, tell_lost

if TYPE_CHECKING:
    from imrnn_vdb.observability.observer import Observation, Observer

_log = logging.getLogger("imrnn_vdb.observability")
_PAUSE_S = 0.1


class Background:
    """Hands observations to another observer in a thread, many at a time, because one by one they cost twice as much.

    Parameters
    ----------
    observer
        Who is told, in the context in which the search ran, so that spans find their parents.
    capacity
        Observations that wait at most; what comes beside them is dropped and counted, and ``observer.lost()`` called
        where there is such a method.
    """

    def __init__(self, observer: Observer, capacity: int = 1_000) -> None:
        self._observer = observer
        self._waiting: queue.Queue[tuple[Context, Observation] | None] = queue.Queue(capacity)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="imrnn-observer", daemon=True)
        self._counting = threading.Lock()
        self.dropped = 0
        self._thread.start()

    def searched(self, observation: Observation) -> None:
        """Take note of a search, later."""
        try:
            self._waiting.put_nowait((copy_context(), observation))
        except queue.Full:
            with self._counting:
                self.dropped += 1
                first = self.dropped == 1
            if first:
                _log.warning("observations come faster than they can be taken note of: some are dropped")
            tell_lost(self._observer)

    def close(self) -> None:
        """Take note of what waits, and end the thread. What comes later stays where it is."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        item = self._waiting.get()
        while item is not None:
            context, observation = item
            context.run(tell, self._observer, observation)
            if self._waiting.empty():
                self._closing.wait(_PAUSE_S)
            item = self._waiting.get()

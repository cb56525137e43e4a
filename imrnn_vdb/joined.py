"""Concurrent modulations carried out as one: what comes while one runs is padded to one batch, which runs next.

On a GPU a modulation costs about the same for one query as for many, so requests that meet there share it. Nothing
waits where nothing runs. It differs from :mod:`imrnn_vdb.serving.batching`, which joins whole searches, round trip
included, that ask for the same in one event loop: here requests of threads and of event loops meet, whatever they ask
for and wherever they search, as long as the model is the same.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.modulation import Inputs, Mask, Modulate, side_by_side, taken_apart

LARGEST = 64
"""Queries of one batch, at most, unless a single request has more."""
_MOST_CANDIDATES = 1 << 17
"""Candidates of one batch, padding included, at most, unless a single request has more: 32 MB of codes at m = 64."""
_LINGER_S = 5.0
"""Seconds after which the thread that computes ends, if nothing came: it holds the model."""

Answer = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    inputs: Inputs
    answer: Future[Answer] = field(default_factory=Future)


class Joined:
    """A modulation that concurrent callers share; safe to share between threads and event loops.

    Parameters
    ----------
    modulate
        What is computed, always in one thread at a time.
    largest
        Queries of one batch, at most.
    """

    def __init__(self, modulate: Modulate, largest: int = LARGEST) -> None:
        self.modulate = modulate
        self._largest = largest
        self._waiting: deque[_Waiting] = deque()
        self._came = threading.Condition()
        self._thread: threading.Thread | None = None

    def __call__(self, query: FloatArray, candidates: FloatArray, cosines: FloatArray, mask: Mask) -> Answer:
        """Refine a batch and wait for it; see :data:`~imrnn_vdb.modulation.Modulate`."""
        return self.submit(Inputs(query, candidates, cosines, mask)).result()

    def submit(self, inputs: Inputs) -> Future[Answer]:
        """Refine a batch beside whatever else is asked for; a future that is cancelled in time is left out."""
        entry = _Waiting(inputs)
        with self._came:
            self._waiting.append(entry)
            if self._thread is None or not self._thread.is_alive():  # a fork leaves it behind
                self._thread = threading.Thread(target=self._serve, name="imrnn_vdb-modulate", daemon=True)
                self._thread.start()
            self._came.notify()
        return entry.answer

    def _serve(self) -> None:
        while entries := self._next():
            self._answer([entry for entry in entries if entry.answer.set_running_or_notify_cancel()])
            del entries  # what was answered is not kept while nothing comes

    def _next(self) -> list[_Waiting]:
        """Wait for requests, and return as many as fit one batch; none when nothing came for a while."""
        with self._came:
            if not self._came.wait_for(lambda: self._waiting, _LINGER_S):
                self._thread = None
                return []
            entries = [self._waiting.popleft()]
            number, k = entries[0].inputs.shape
            while self._waiting:
                more, longer = self._waiting[0].inputs.shape
                number, k = number + more, max(k, longer)
                if number > self._largest or number * k > _MOST_CANDIDATES:
                    break
                entries.append(self._waiting.popleft())
            return entries

    def _answer(self, entries: list[_Waiting]) -> None:
        parts = [entry.inputs for entry in entries]
        if not parts:
            return
        try:
            answers = taken_apart(parts, self.modulate(*side_by_side(parts)))
        except BaseException as exc:  # noqa: BLE001 - carried to whoever waits
            if len(entries) == 1:
                entries[0].answer.set_exception(exc)
                return
            for entry in entries:  # one of them is wrong, or all together are too many
                self._answer([entry])
            return
        for entry, answer in zip(entries, answers, strict=True):
            entry.answer.set_result(answer)

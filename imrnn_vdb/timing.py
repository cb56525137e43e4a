"""A stopwatch for the stages of a request."""

from __future__ import annotations

import time


class Stopwatch:
    """Notes how long each stage took; ``laps`` holds milliseconds by name."""

    __slots__ = ("_last", "laps")

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now

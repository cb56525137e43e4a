"""How many requests are taken on at once: as many as can be answered without becoming slow.

A request is accepted or refused when it comes; none waits in a queue that grows. The limit follows what it does to
latency: it rises by one with each round of requests that are about as fast as they are when alone, and shrinks by a
fifth where their median takes more than ``slowdown`` times as long (additive increase, multiplicative decrease, as TCP
does); after that it waits for some good rounds before it rises again, so that most rounds are good.
What a request takes alone is learned from those that were alone while nobody was refused. A database that becomes
slower for good lowers the limit until requests are alone; they then raise what is known by at most 0.6 % a second,
because refusing others costs time, too.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_START = 8
_ROUND = 8
_KINDS = 256
_LEARN = 0.1
_RISE = 0.006
_SHRINK = 0.8
_PATIENCE = 4


class OverloadedError(Exception):
    """The service is at its limit."""


@dataclass(slots=True)
class Admission:
    """Counts requests in and out.

    Attributes
    ----------
    most
        Accepted requests at once, whatever their latency.
    slowdown
        Times its unloaded latency that the median request may take; 0 for no bound.
    clock
        Seconds; replaced in tests.
    running, accepted, refused
        Requests now, and so far.
    limit
        How many are accepted at once now.
    """

    most: int
    slowdown: float = 0.0
    clock: Callable[[], float] = time.perf_counter
    running: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    limit: int = field(default=0, init=False)
    _alone: OrderedDict[Hashable, float] = field(default_factory=OrderedDict, init=False)
    _ratios: list[float] = field(default_factory=list, init=False)
    _last_ratio: float = field(default=1.0, init=False)
    _pressed: bool = field(default=False, init=False)
    _patience: int = field(default=0, init=False)
    _raised: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.limit = min(_START, self.most) if self.slowdown else self.most

    @contextmanager
    def enter(self, kind: Hashable = None) -> Iterator[None]:
        """Hold a place while a request is answered.

        Parameters
        ----------
        kind
            What makes requests comparable; None for those whose latency says nothing.

        Raises
        ------
        OverloadedError
            If there is no place.
        """
        if self.running >= self.limit:
            self._pressed = True
            self.refused += 1
            raise OverloadedError
        self.accepted += 1
        self.running += 1
        began, among = self.clock(), self.accepted if self.running == 1 else -1
        try:
            yield
        except asyncio.CancelledError:  # its deadline has passed, perhaps for want of speed
            if self.clock() - began > self._alone.get(kind, math.inf):
                self._learn(kind, self.clock() - began, alone=False)
            raise
        else:
            if kind is not None:
                self._learn(kind, self.clock() - began, alone=self.running == 1 and among == self.accepted)
        finally:
            self.running -= 1

    def _learn(self, kind: Hashable, seconds: float, alone: bool) -> None:
        if not self.slowdown:
            return
        known = self._alone.get(kind)
        if known is None:
            known = seconds if alone else seconds / max(1.0, self._last_ratio)
        elif alone and (seconds < known or not self._pressed):
            known += _LEARN * (seconds - known)
        elif alone:
            now = self.clock()
            known *= 1 + min(seconds / known - 1, _RISE * min(1.0, now - self._raised))
            self._raised = now
        self._alone[kind] = known
        self._alone.move_to_end(kind)
        if len(self._alone) > _KINDS:
            self._alone.popitem(last=False)
        if alone and self.limit >= 2:  # says what is unloaded, not what load does
            return
        self._ratios.append(seconds / max(known, 1e-9))
        if len(self._ratios) >= max(_ROUND, self.limit):
            self._adapt()

    def _adapt(self) -> None:
        """End a round of requests: move the limit by their median."""
        self._last_ratio = statistics.median(self._ratios)
        if self._last_ratio > self.slowdown:
            self.limit = max(1, int(self.limit * _SHRINK))
            self._patience = _PATIENCE
        elif self._pressed:
            self._patience -= 1
            if self._patience <= 0:
                self.limit = min(self.most, self.limit + 1)
        self._ratios.clear()
        self._pressed = False

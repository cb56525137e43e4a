"""What earlier searches found out and later ones may use to choose the cheaper way; no result depends on it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Hints(Generic[K, V]):
    """A bounded mapping that forgets what was not used for longest; threads may share it.

    Parameters
    ----------
    size
        Entries kept at most.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._held: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return what was noted last under a key; None for nothing."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key]

    def note(self, key: K, value: V) -> None:
        """Note a value in place of an earlier one."""
        with self._lock:
            self._held[key] = value
            self._held.move_to_end(key)
            while len(self._held) > self._size:
                self._held.popitem(last=False)

    def __len__(self) -> int:
        return len(self._held)

"""The few shapes that modulations of any size are padded to where each shape costs something: a graph on a GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

QUERIES = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_MOST = 1 << 17
"""Candidates of the largest shape, all queries together; beyond, computing takes longer than launching."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def bucket(number: int, k: int) -> tuple[int, int] | None:
    """Return the smallest shape that holds a batch; None where there is none, or nothing to compute.

    Parameters
    ----------
    number, k
        Queries B and candidates k of the batch.
    """
    if not number or not k:
        return None
    queries = next((size for size in QUERIES if size >= number), 0)
    candidates = next((size for size in CANDIDATES if size >= k), 0)
    return (queries, candidates) if 0 < queries * candidates <= _MOST else None


class Recent(Generic[Key, Value]):
    """Keeps what was used last, up to a bound. Not safe to share between threads.

    Parameters
    ----------
    bound
        Values kept, at least 1.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, make: Callable[[Key], Value]) -> Value:
        """Return the value of a key, made where it is not kept; the one unused for longest goes before."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while len(self._kept) >= self._bound:
            self._kept.popitem(last=False)
        self._kept[key] = value = make(key)
        return value

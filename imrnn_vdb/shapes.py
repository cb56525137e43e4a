"""The few shapes that modulations of any size are padded to where each shape costs something: a graph on a GPU."""

from __future__ import annotations

QUERIES = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_MOST = 1 << 17
"""Candidates of the largest shape, all queries together; beyond, computing takes longer than launching."""


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

"""How much a benchmark measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imrnn_vdb.errors import InvalidInputError

LIMIT = 10
"""Results of every search."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is measured.

    Attributes
    ----------
    coarse_k
        Candidates of the end-to-end figures.
    rounds, calls
        Turns that each rival gets, and calls in each.
    sweep_coarse_k, sweep_factors, sweep_batch
        Values of the sweeps over candidates, factors and queries of a batch; empty to leave one out.
    sizes
        Points of the synthetic collections; the first one serves the end-to-end figures.
    """

    coarse_k: int = 100
    rounds: int = 7
    calls: int = 30
    sweep_coarse_k: Sequence[int] = (50, 100, 200, 500, 1000, 2000)
    sweep_factors: Sequence[int] = (16, 32, 64, 128, 256, 384)
    sweep_batch: Sequence[int] = (1, 4, 16, 64, 256)
    sizes: Sequence[int] = (20_000,)

    def __post_init__(self) -> None:
        candidates = [self.coarse_k, *self.sweep_coarse_k]
        counts = [self.rounds, self.calls, *self.sweep_factors, *self.sweep_batch, *self.sizes]
        if min(counts) < 1 or min(candidates) < LIMIT:
            raise InvalidInputError(f"all numbers of a benchmark are at least 1, coarse_k at least {LIMIT}")

    @property
    def fewer(self) -> tuple[int, int]:
        """Rounds and calls of one point of a sweep."""
        return max(3, self.rounds // 2), max(3, self.calls // 3)

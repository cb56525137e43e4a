"""The metrics a collection can have, and how their scores relate to the cosine (DESIGN.md §2).

Everywhere in this package a score is *oriented*: higher is better. Stores translate their engine's number once, at the
boundary:

========== ===================================== ====================
metric     oriented base score                   range
========== ===================================== ====================
cosine     ``⟨q, d⟩ / (‖q‖ ‖d‖)``                −1 … 1
dot        ``⟨q, d⟩``                            unbounded
euclid     ``−‖q − d‖²`` (squared, negated)      −∞ … 0
manhattan  ``−Σ |q − d|``                        −∞ … 0
========== ===================================== ====================
"""

from __future__ import annotations

from enum import Enum


class Metric(str, Enum):
    """Metric of a collection's base vector."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"
    MANHATTAN = "manhattan"

    def __str__(self) -> str:
        return self.value

    @property
    def factorable(self) -> bool:
        """Whether the score splits exactly into factors; a Manhattan distance does not."""
        return self is not Metric.MANHATTAN

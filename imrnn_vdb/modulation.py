"""Modulations as arrays: what one takes and returns, how precisely, and how several are put side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray

Precision = Literal["float32", "half"]
"""``"half"``: half precision where that keeps the ranks (:mod:`imrnn_vdb.precision`), single precision where not."""

Mask = npt.NDArray[np.bool_]
Modulate = Callable[[FloatArray, FloatArray, FloatArray, Mask], tuple[FloatArray, FloatArray]]
"""Takes queries (B, m), candidates (B, k, m), cosines (B, k) and mask (B, k), as :meth:`Modulator.forward` does, and
returns the refined queries and candidates."""


class Inputs(NamedTuple):
    """The arguments of one modulation.

    Attributes
    ----------
    query
        Shape (B, m).
    candidates
        Shape (B, k, m).
    cosines, mask
        Shape (B, k).
    """

    query: FloatArray
    candidates: FloatArray
    cosines: FloatArray
    mask: Mask

    @classmethod
    def zeros(cls, number: int, k: int, m: int) -> Inputs:
        """Return room for queries that have no candidates yet."""
        codes = np.zeros((number, m), np.float32), np.zeros((number, k, m), np.float32)
        return cls(*codes, np.zeros((number, k), np.float32), np.zeros((number, k), bool))

    @property
    def shape(self) -> tuple[int, int]:
        """B and k."""
        number, k = self.mask.shape
        return number, k

    def put(self, parts: Sequence[Inputs]) -> None:
        """Write parts one below the other, from the first row on; all that is left over becomes padding: zeros.

        Parameters
        ----------
        parts
            Of no more queries together than there are rows, each with no more candidates than there are columns.
        """
        first = 0
        for part in parts:
            number, k = part.shape
            rows = slice(first, first + number)
            self.query[rows] = part.query
            for room, given in zip(self[1:], part[1:], strict=True):
                room[rows, :k] = given
                room[rows, k:] = 0
            first += number
        for room in self:
            room[first:] = 0


def side_by_side(parts: Sequence[Inputs]) -> Inputs:
    """Return the arguments of one modulation of all parts, padded to the longest candidate set.

    Parameters
    ----------
    parts
        At least one, all of one model.
    """
    if len(parts) == 1:
        return parts[0]
    shapes = [part.shape for part in parts]
    room = Inputs.zeros(sum(number for number, _ in shapes), max(k for _, k in shapes), parts[0].query.shape[1])
    room.put(parts)
    return room


def taken_apart(parts: Sequence[Inputs], refined: tuple[FloatArray, FloatArray]) -> list[tuple[FloatArray, FloatArray]]:
    """Return each part's refined queries and candidates, of the shapes that came in: the inverse of `side_by_side`."""
    found, first = [], 0
    for number, k in (part.shape for part in parts):
        rows = slice(first, first + number)
        found.append((refined[0][rows], refined[1][rows, :k]))
        first += number
    return found

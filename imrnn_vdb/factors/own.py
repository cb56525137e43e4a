"""Factors of one's own: from examples to a direction that stored codes can be read for, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.fitting.auc import roc_auc
from imrnn_vdb.fitting.probes import RIDGES, Floats, RidgeSolver, Source
from imrnn_vdb.space import FactorSpace

MIN_EXAMPLES = 5
"""Of each kind, at least: one in each part that is held out in turn."""
_FOLDS = 5
_DIGITS = 3
_SAME = 1e-6  # a difference between mean codes that is nothing but rounding

Rule = Callable[[str], float]
"""A weak label: a number for a text, NaN or None where the rule has no opinion."""


@dataclass(frozen=True, slots=True)
class OwnFactor:
    """A factor that was fitted on examples, and its evidence.

    Attributes
    ----------
    space
        The space with the factor; codes stored under it stay valid, and so does its space id.
    name
        The factor.
    auc
        Held-out AUC of the axis as it was added, in 0..1: five parts, each ordered by the axis fitted on the others.
    kept
        Share of the probe's length that the named factors leave: near 1 for something new, small for a mixture of them.
    positives, negatives
        Number of different examples.
    """

    space: FactorSpace
    name: str
    auc: float
    kept: float
    positives: int
    negatives: int

    def evidence(self) -> dict[str, Any]:
        """Return all but the space, ready for JSON."""
        return {name: getattr(self, name) for name in ("auc", "kept", "positives", "negatives")}


def add_factor(
    space: FactorSpace,
    name: str,
    positive: npt.ArrayLike,
    negative: npt.ArrayLike,
    reference: npt.ArrayLike | None = None,
    seed: int = 0,
) -> OwnFactor:
    """Fit a factor on codes of examples and add it to a space.

    The direction lies inside the code space, orthogonal to all named factors: named axes, stored codes and the space id
    stay as they are, scores stay exact sums, and the new factor's part is taken out of the latent sum.

    Parameters
    ----------
    space
        A space; it is not changed.
    name
        An identifier that is new there.
    positive, negative
        Shapes (n, m) and (k, m): directions of the codes of examples, at least five of each; those that repeat, as in
        a log, count once, or they would be held out beside themselves.
    reference
        Shape (r, m): directions of the codes that calibrate the score in 0..1, for example a sample of the collection.
        The examples if None.
    seed
        For cutting the examples into parts.

    Raises
    ------
    InvalidInputError
        If there are too few examples, nothing tells them apart, the name is taken, or the direction is a mixture of
        named factors.
    """
    yes, no = (_different(_checked(codes, space.num_factors)) for codes in (positive, negative))
    if min(len(yes), len(no)) < MIN_EXAMPLES:
        raise InvalidInputError(
            f"factor {name!r} needs at least {MIN_EXAMPLES} different positive and as many negative examples, "
            f"got {len(yes)} and {len(no)}"
        )
    codes = np.concatenate([yes, no])
    carries = np.arange(len(codes)) < len(yes)
    ridge, auc = _cross_validate(space, codes, carries, seed)
    direction = _probe(codes, carries, ridge)
    axis = space.added_axis(direction)
    pool = codes if reference is None else _checked(reference, space.num_factors)
    quantiles = np.quantile(pool @ axis, np.linspace(0, 1, space.quantiles.shape[1]))
    return OwnFactor(
        space.with_factor(name, direction, quantiles), name, auc, float(axis @ direction), len(yes), len(no)
    )


def split_by_field(payloads: Sequence[dict[str, Any]], field: str, value: str) -> npt.NDArray[np.int8]:
    """Label points by a payload field: 1 where it holds the value, 0 where another, −1 where the field is missing.

    A list holds the value if one of its items is it. Values are compared as text; a boolean also as JSON writes it.
    """

    def label(payload: dict[str, Any]) -> int:
        found = payload.get(field)
        if found is None:
            return -1
        items = found if isinstance(found, list | tuple) else [found]
        same = {str(item) for item in items} | {str(item).lower() for item in items if isinstance(item, bool)}
        return int(value in same)

    return np.array([label(payload) for payload in payloads], np.int8)


def split_by_rule(texts: Sequence[str], rule: Rule) -> npt.NDArray[np.int8]:
    """Label texts by a weak rule: 1 for the third with the highest values, 0 for the lowest third, −1 between.

    Fewer where values are equal: a rule that says yes and no gives 1 and 0.
    """
    from imrnn_vdb.fitting.auc import carries, lacks

    values = np.array([np.nan if (value := rule(text)) is None else value for text in texts], np.float64)
    labels = np.full(len(values), -1, np.int8)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) and values[known].min() < values[known].max():
        labels[known[lacks(values[known])]] = 0
        labels[known[carries(values[known])]] = 1
    return labels


def _cross_validate(
    space: FactorSpace, codes: FloatArray, carries: npt.NDArray[np.bool_], seed: int
) -> tuple[float, float]:
    """Choose the ridge, and measure by parts that had no say in direction or ridge."""
    rng = np.random.default_rng(seed)
    parts = np.empty(len(codes), np.intp)
    for kind in (carries, ~carries):  # each part gets its share of both kinds
        parts[kind] = rng.permutation(np.arange(int(kind.sum())) % _FOLDS)
    held_out = []
    for part in range(_FOLDS):
        inside, rest = parts != part, parts == part
        ridge = _best_ridge(space, codes[inside], carries[inside], parts[inside])
        axis = space.added_axis(_probe(codes[inside], carries[inside], ridge))
        held_out.append(roc_auc(carries[rest], codes[rest] @ axis))
    return _best_ridge(space, codes, carries, parts), float(np.mean(held_out))


def _best_ridge(
    space: FactorSpace, codes: FloatArray, carries: npt.NDArray[np.bool_], parts: npt.NDArray[np.intp]
) -> float:
    def quality(ridge: float) -> float:
        found = []
        for part in np.unique(parts):
            inside, rest = parts != part, parts == part
            axis = space.added_axis(_probe(codes[inside], carries[inside], ridge))
            found.append(roc_auc(carries[rest], codes[rest] @ axis))
        return float(np.mean(found))

    return max(RIDGES, key=quality)


def _probe(codes: FloatArray, carries: npt.NDArray[np.bool_], ridge: float) -> Floats:
    """Fisher's discriminant with a ridge, as the shipped factors are fitted (see :mod:`imrnn_vdb.fitting.probes`)."""
    gap = codes[carries].mean(axis=0, dtype=np.float64) - codes[~carries].mean(axis=0, dtype=np.float64)
    if np.abs(gap).max() < _SAME:
        raise InvalidInputError("nothing tells the two kinds of examples apart: their codes are the same on average")
    return RidgeSolver([Source.of("examples", codes)]).solve(gap, ridge)


def _checked(codes: npt.ArrayLike, num_factors: int) -> FloatArray:
    table = np.asarray(codes, np.float32)
    if table.ndim != 2 or table.shape[1] != num_factors or not np.isfinite(table).all():
        raise InvalidInputError(
            f"codes of examples have the shape (n, {num_factors}) and are finite, got {table.shape}"
        )
    return table


def _different(codes: FloatArray) -> FloatArray:
    """Return each code once, in order; the same text, encoded in another batch, differs in the last digits."""
    first = np.unique(codes.round(_DIGITS), axis=0, return_index=True)[1]
    return codes[np.sort(first)]

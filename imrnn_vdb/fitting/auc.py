"""Area under the ROC curve, and which texts count as carrying a factor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TOP_SHARE = 1 / 3
"""Share of a source's texts that count as carrying a factor, at most: those with the highest labels."""


def roc_auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> float:
    """Return the probability that a positive scores higher than a negative; ties count half.

    Parameters
    ----------
    positive
        Shape (n,): which rows are positive.
    scores
        Shape (n,): higher means more likely positive.

    Returns
    -------
    float
        In 0..1, 0.5 for chance; NaN if either class is empty.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    wins = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def carries(labels: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Say which texts of one source carry a factor: the top third by label.

    Fewer where most labels are equal; more where more than a third share the highest label, as with yes and no.

    Parameters
    ----------
    labels
        Shape (n,), finite.
    """
    above = labels > np.quantile(labels, 1 - TOP_SHARE)
    return np.asarray(above if above.any() else labels == labels.max())


def lacks(labels: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Say which texts of one source clearly lack a factor: the bottom third by label, ties included."""
    return np.asarray(labels <= np.quantile(labels, TOP_SHARE)) & ~carries(labels)

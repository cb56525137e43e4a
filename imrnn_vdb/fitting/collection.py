"""A factor space for vectors of any encoder, from a sample of a collection: stored vectors and texts, no encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.connection import Connection
from imrnn_vdb.datasets import what_is_asked
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.fitting.fit import FittedSpace, fit_space
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.scripts import draw_script, run_script
from imrnn_vdb.space import measurable
from imrnn_vdb.store import Store

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel

SAMPLE = 20_000
_PAGE, _FETCHED = 5_000, 250
_QUERIES, _NEIGHBOURS, _SAME = 1_000, 10, 0.999
_HELD_OUT, _HELD_OUT_SHARE, _PARTS = "held out", 0.2, 4
_QUANTILES = (0.5, 0.9)
_REFERENCE = FeedbackPrior(strength=0.4)


def sample_points(
    connection: Connection,
    store: Store,
    text_field: str,
    count: int = SAMPLE,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[str], FloatArray]:
    """Draw points uniformly: scroll over all ids, keep each with the same chance, then read those that were drawn.

    Parameters
    ----------
    connection, store
        Of the collection; its guard holds here too.
    text_field
        Payload key of the text; points without a text, or with a vector that is zero or not finite, are
        left out.
    count
        Points to draw, at least 1.
    seed
        Of the draw.
    progress
        Called with the number of points read since the last call.

    Returns
    -------
    tuple
        n texts, and their vectors of shape (n, d).
    """
    if count < 1:
        raise InvalidInputError(f"a sample has at least one point, got {count}")
    pages = partial(store.scroll, _PAGE, with_payloads=False)
    drawn = run_script(connection, draw_script(pages, lambda points: points.ids, count, seed))
    texts: list[str] = []
    tables: list[FloatArray] = []
    for start in range(0, len(drawn), _FETCHED):
        points = connection.run(store.fetch(drawn[start : start + _FETCHED], with_vectors=True))
        if points.vectors is not None and len(points):
            found = [payload.get(text_field) for payload in points.payloads]
            whole = measurable(points.vectors) & points.vectors.any(axis=1)
            usable = [row for row, text in enumerate(found) if isinstance(text, str) and whole[row]]
            texts += [str(found[row]) for row in usable]
            tables.append(points.vectors[usable])
        if progress is not None:
            progress(len(points))
    if not texts:
        raise InvalidInputError(
            f"none of {len(drawn)} sampled points has a text under {text_field!r} and a vector: name another field"
        )
    return texts, np.concatenate(tables)


def fit_sample(texts: list[str], vectors: FloatArray, *, num_factors: int = 64) -> tuple[IMRNNModel, FittedSpace]:
    """Fit a model to a sample: named factors, calibration, and the feedback prior with limits of this encoder.

    A fifth of the sample is held out and only tests the axes; copies of one text are held out together. It comes from
    the same collection, so these figures are higher than they would be on texts of another kind.

    Parameters
    ----------
    texts, vectors
        n texts, and their vectors of shape (n, d).
    num_factors
        As for :func:`imrnn_vdb.fitting.fit_space`.

    Returns
    -------
    tuple
        The model, switched on for its prior and with no encoder, and what was measured.
    """
    import torch

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.model import Modulator, ModulatorConfig

    rng = np.random.default_rng(0)
    parts = [f"part{number}" for number in rng.integers(0, _PARTS, len(texts))]
    for row in np.flatnonzero(rng.random(len(texts)) < _HELD_OUT_SHARE):
        parts[row] = _HELD_OUT
    first: dict[str | bytes, str] = {}
    parts = [first.setdefault(what_is_asked(text), part) for text, part in zip(texts, parts, strict=True)]
    fitted = fit_space(texts, vectors, parts, held_out=[_HELD_OUT], num_factors=num_factors)
    prior = prior_of(vectors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modulator = Modulator(ModulatorConfig(fitted.space.num_factors, hidden=24, prior=prior)).eval()
    evidence = {"fit": fitted.evidence(), "sample": len(texts)}
    return IMRNNModel(fitted.space, modulator, None, evidence, active=True), fitted


def prior_of(vectors: FloatArray) -> FeedbackPrior:
    """Return the feedback prior with the limits of one encoder.

    The limits are margins between cosines, and every encoder spreads its cosines differently. So points of the sample
    serve as queries against the others, copies of themselves left out, and the margin of the first over the mean of
    the next nine is computed for each as a search does. Below its median the query stays where it is; from its 90th
    percentile on it moves with full strength. The sharpness is that of the default prior, divided by how much wider
    this ramp is than the default's: the prior sees cosines by their differences only, so this makes it the same
    function in the encoder's own unit. Points resemble points more than questions do; the limits are a starting place
    where there are no queries, and the quantiles were set, not tuned.

    Parameters
    ----------
    vectors
        Shape (n, d), no row zero.
    """
    rng = np.random.default_rng(0)
    table = vectors[rng.permutation(len(vectors))[:SAMPLE]].astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    if len(table) < 2 * _NEIGHBOURS:
        raise InvalidInputError(f"{len(table)} points are too few to tell how this encoder's scores spread")
    cosines = table[:_QUERIES] @ table.T
    cosines[cosines > _SAME] = -1.0
    head = -np.sort(-cosines, axis=1)[:, :_NEIGHBOURS]
    low, high = (float(value) for value in np.quantile(head[:, 0] - head[:, 1:].mean(axis=1), _QUANTILES))
    high = max(high, low + 1e-3)
    sharpness = _REFERENCE.sharpness * (_REFERENCE.high - _REFERENCE.low) / (high - low)
    return FeedbackPrior(_REFERENCE.strength, sharpness, low, high)

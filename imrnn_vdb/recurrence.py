"""The recurrence of :class:`imrnn_vdb.model.Modulator` as it is served on a CPU: numpy, with fused weights.

Same formula, fewer and smaller operations. The module stays the definition: this is derived from its weights, and tests
hold the two together to 1e-6. What is different:

- The query is fixed while its k documents move, so ``W_own z + W_product (z ⊙ q)`` is one product with the matrix
  ``W_own + W_product diag(q)``, made once per step.
- All that the documents of a query have in common (other side, factors, biases) is one vector.
- ``σ(x) = (1 + tanh(x/2)) / 2``, with the halves inside the weights: two calls of tanh a step and no division.
- The query is the first row beside its documents wherever a step treats both alike: one call for all.
- The first step starts from a hidden state of zeros and needs no product with it; parts without an effect are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from imrnn_vdb.model import Modulator

_ROWS_AT_ONCE = 512
"""Documents that are refined together: their gates (3·64 floats each) stay in a core's cache."""
_SMALL_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS stays on one thread. Its threads wait for each other by spinning: on two cores
that others use as well, 1,000 candidates took 58 ms with them and 1.9 ms without. So documents lie in blocks."""
_SMALLEST_BLOCK = 16
"""Rows below which the overhead of a block costs more than its threads."""
_MIN_SQUARE = 1e-6


@dataclass(frozen=True, slots=True)
class _Weights:
    """One cell, transposed for row vectors, with all constants folded in; h is the hidden width.

    The first axis of what belongs to gates is: reset, update, new. So each gate of many rows lies in one piece.

    Attributes
    ----------
    own, product, other
        Shape (3, m, h).
    factors
        Shape (3, pool_size, h): what each learnable factor adds to the gates.
    joined
        Shape (3m, 3h): the first three of them below one another, for a query beside its feedback.
    bias
        Shape (3, 1, h): of inputs and hidden state, without the hidden part of the new gate.
    hidden, hidden_new
        Shapes (3, h, h) and (h,): the hidden part of the gates, and the bias of the new gate's.
    out, out_bias
        Shapes (h, m) and (m,): the update of the code.
    """

    own: FloatArray
    product: FloatArray
    other: FloatArray
    factors: FloatArray
    joined: FloatArray
    bias: FloatArray
    hidden: FloatArray
    hidden_new: FloatArray
    out: FloatArray
    out_bias: FloatArray


class FusedRecurrence:
    """The learned steps of one modulator, for many calls; safe to share between threads.

    Parameters
    ----------
    modulator
        In evaluation mode, on the CPU; its weights are copied.
    """

    def __init__(self, modulator: Modulator) -> None:
        config = modulator.config
        self._feedback = config.feedback
        self._beta = np.float32(np.exp(float(modulator.log_beta.detach())))
        self._maps = _maps(modulator)
        cells = (modulator.query_cell, modulator.document_cell)
        moving = any(bool(part.detach().any()) for cell in cells for part in (cell.out.weight, cell.out.bias))
        self._num_steps = config.num_steps if moving else 0
        pool = as_array(modulator.pool)
        self._query_cell, self._document_cell = (_weights(cell, modulator.scale, pool) for cell in cells)
        self._hint = as_array(modulator.hint.weight).T * np.float32(modulator.scale), as_array(modulator.hint.bias)

    def __call__(
        self,
        start: FloatArray,
        trust: FloatArray | None,
        query: FloatArray,
        candidates: FloatArray,
        cosines: FloatArray,
        mask: npt.NDArray[np.bool_],
    ) -> tuple[FloatArray, FloatArray]:
        """Carry out the steps: the arguments and results of :meth:`Modulator.recur`, as arrays."""
        if (self._maps is None and not self._num_steps) or (trust is not None and not trust.any()):
            return start, candidates
        batch = _Batch(start, query, candidates, cosines, mask)
        number, k, _ = candidates.shape
        at_once = max(1, _ROWS_AT_ONCE // max(1, k))
        if number <= at_once:
            z_q, z_d = self._refined(batch)
        else:
            z_q, z_d = np.empty_like(start), np.empty_like(candidates)
            for first in range(0, number, at_once):
                rows = slice(first, first + at_once)
                z_q[rows], z_d[rows] = self._refined(batch.take(rows))
        if trust is not None:
            z_q = start + trust * (z_q - start)
            z_d = candidates + trust[:, None] * (z_d - candidates)
        return z_q, z_d

    def _refined(self, batch: _Batch) -> tuple[FloatArray, FloatArray]:
        """Carry out maps and steps for a few queries, documents in blocks of shape (B, blocks, rows, m)."""
        k = batch.candidates.shape[1]
        batch = batch.padded(self._document_cell.out.shape)
        z_q, z_d = batch.start, batch.blocks
        if self._maps is not None:
            z_q = z_q + batch.query @ self._maps[0]
            z_d = z_d + z_d @ self._maps[1]
        if self._num_steps:
            z_q, z_d = self._stepped(batch, z_q, z_d)
        return z_q, z_d.reshape(batch.candidates.shape)[:, :k]

    def _stepped(self, batch: _Batch, z_q: FloatArray, z_d: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Carry out the steps, query and documents side by side."""
        on_query, on_documents = cells = self._query_cell, self._document_cell
        chosen = softmax(batch.query @ self._hint[0] + self._hint[1])
        query_bias, document_bias = (chosen @ cell.factors + cell.bias for cell in cells)
        feedback = _Feedback(batch, self._beta, self._num_steps > 1) if self._feedback else None
        hidden_new = _beside((*z_q.shape[:1], 1 + batch.cosines.shape[1], on_query.out.shape[0]), *cells)
        hidden: FloatArray | None = None
        for step in range(self._num_steps):
            gates = np.empty((3, *hidden_new.shape), np.float32)
            query_gates, document_gates = _sides(gates, z_d.shape)
            query_gates[:] = 0  # filled last: adding to all rows at once is faster than to the documents' alone
            own = on_documents.product[:, None] * z_q[:, :, None]
            own += on_documents.own[:, None]
            np.matmul(z_d, own[:, :, None], out=document_gates)
            gates += (z_q @ on_documents.other + document_bias)[:, :, None]
            if feedback is None:
                np.add(z_q @ on_query.own, query_bias, out=query_gates)
            else:
                seen = feedback.seen(z_q, z_d, moved=step > 0)
                asked = np.concatenate([z_q, z_q * seen, seen], axis=1) @ on_query.joined
                np.add(asked.reshape(len(asked), 3, -1).swapaxes(0, 1), query_bias, out=query_gates)
            hidden = _gru(gates, hidden, hidden_new, z_d.shape, cells)
            h_q, h_d = _sides(hidden, z_d.shape)
            z_q = z_q + (h_q @ on_query.out + on_query.out_bias)
            z_d = z_d + on_documents.out_bias
            z_d += h_d @ on_documents.out
        return z_q, z_d


@dataclass(frozen=True, slots=True)
class _Batch:
    """The arguments of :meth:`Modulator.recur`, but for the trust; ``rows`` documents lie in one block (0: all)."""

    start: FloatArray
    query: FloatArray
    candidates: FloatArray
    cosines: FloatArray
    mask: npt.NDArray[np.bool_]
    rows: int = 0

    def take(self, rows: slice) -> _Batch:
        return _Batch(self.start[rows], self.query[rows], self.candidates[rows], self.cosines[rows], self.mask[rows])

    def padded(self, matrix: tuple[int, ...]) -> _Batch:
        """Cut the documents into blocks whose product with a matrix of this shape, or (m, m), is small."""
        _, k, m = self.candidates.shape
        most = _SMALL_PRODUCT // (m * max(matrix))
        blocks = -(-k // most) if most >= _SMALLEST_BLOCK else 1
        rows = -(-k // max(1, blocks))
        missing = blocks * rows - k
        if not missing:
            return replace(self, rows=rows)
        sides = [(0, 0), (0, missing)]
        candidates = np.pad(self.candidates, [*sides, (0, 0)])
        return _Batch(self.start, self.query, candidates, np.pad(self.cosines, sides), np.pad(self.mask, sides), rows)

    @property
    def blocks(self) -> FloatArray:
        """The candidates, shape (B, blocks, rows, m)."""
        number, k, m = self.candidates.shape
        return self.candidates.reshape(number, k // max(1, self.rows), self.rows, m)


class _Feedback:
    """What each query receives from its candidates: ``c = Σ softmax(β·s)_i · z_i``.

    The scores after a step are cosines of refined vectors (:func:`imrnn_vdb.scoring.cosine_of_refined`): ``base`` is
    s0 − q0·d0, ``query`` and ``documents`` are 1 − ‖z_0‖² of each side.
    """

    def __init__(self, batch: _Batch, beta: np.float32, moves: bool) -> None:
        self._cosines, self._beta = batch.cosines, beta
        self._mask = None if batch.mask.all() else batch.mask
        self._unseen = None if self._mask is None else np.where(self._mask, np.float32(0), np.float32(-1e9))
        if moves:
            self._base = batch.cosines - _inner(batch.query, batch.blocks)
            self._query = (1 - _square(batch.query))[:, None]
            self._documents = 1 - _square(batch.candidates)

    def seen(self, z_q: FloatArray, z_d: FloatArray, *, moved: bool) -> FloatArray:
        """Return c, shape (B, m)."""
        logits = self._beta * (self._scores_after(z_q, z_d) if moved else self._cosines)
        if self._unseen is not None:
            logits += self._unseen
        weights = softmax(logits)
        if self._mask is not None:
            weights *= self._mask
        seen: FloatArray = (weights.reshape(*z_d.shape[:2], 1, z_d.shape[2]) @ z_d).sum((1, 2))
        return seen

    def _scores_after(self, z_q: FloatArray, z_d: FloatArray) -> FloatArray:
        squares = (self._documents + _square(z_d).reshape(self._documents.shape)).clip(_MIN_SQUARE)
        squares *= (self._query + _square(z_q)[:, None]).clip(_MIN_SQUARE)
        scores: FloatArray = (self._base + _inner(z_q, z_d)) / np.sqrt(squares)
        return scores


def _sides(rows: FloatArray, documents: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """View rows (…, B, 1 + k, h) as the query's (…, B, h), and the documents' in blocks (…, B, blocks, rows, h)."""
    *more, _, width = rows.shape
    return rows[..., 0, :], rows[..., 1:, :].reshape(*more, *documents[1:3], width)


def _beside(shape: tuple[int, ...], on_query: _Weights, on_documents: _Weights) -> FloatArray:
    """Return the new gate's hidden bias for a query and its documents, shape (B, 1 + k, h)."""
    rows = np.empty(shape, np.float32)
    rows[:, 0] = on_query.hidden_new
    rows[:, 1:] = on_documents.hidden_new
    return rows


def _gru(
    gates: FloatArray,
    hidden: FloatArray | None,
    hidden_new: FloatArray,
    documents: tuple[int, ...],
    cells: tuple[_Weights, _Weights],
) -> FloatArray:
    """Return the next hidden state (B, 1 + k, h) from the inputs' part of the gates, which is overwritten.

    A hidden state of None stands for zeros.
    """
    if hidden is not None:
        known = np.empty_like(gates)
        sides = zip(_sides(known, documents), _sides(hidden, documents), cells, strict=True)
        for out, rows, cell in sides:
            np.matmul(rows, cell.hidden if rows.ndim == 2 else cell.hidden[:, None, None], out=out)
        gates[:2] += known[:2]
        hidden_new = known[2] + hidden_new
    both, (reset, update, new) = gates[:2], gates
    np.tanh(both, out=both)
    both += 1  # twice the sigmoid
    reset *= hidden_new
    new += reset
    np.tanh(new, out=new)
    state: FloatArray = -new if hidden is None else hidden - new
    update *= np.float32(0.5)
    state *= update
    state += new
    return state


def _weights(cell: object, scale: float, pool: FloatArray) -> _Weights:
    parts = {
        name: {key: as_array(value) for key, value in getattr(cell, name).named_parameters()}
        for name in ("own", "product", "other", "factors", "hidden", "out")
    }
    halves = np.array([0.5, 0.5, 1.0], np.float32)[:, None, None]  # σ(x) = (1 + tanh(x/2)) / 2

    def gates(name: str, factor: npt.ArrayLike) -> FloatArray:
        weight = parts[name]["weight"]
        split = weight.reshape(3, -1, weight.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(split * np.asarray(factor, np.float32))

    bias, recurrent_bias = (parts[name]["bias"].reshape(3, 1, -1) for name in ("own", "hidden"))
    known = bias + recurrent_bias * np.array([1, 1, 0], np.float32)[:, None, None]
    own, product, other = (
        gates("own", halves * scale),
        gates("product", halves * scale**2),
        gates("other", halves * scale),
    )
    return _Weights(
        own=own,
        product=product,
        other=other,
        joined=np.concatenate([np.concatenate(part, axis=1) for part in (own, product, other)]),
        factors=pool @ gates("factors", halves * scale),
        bias=known * halves,
        hidden=gates("hidden", 0.5),  # of the new gate too: it is multiplied by 1 + tanh, which is 2σ
        hidden_new=recurrent_bias[2, 0] * np.float32(0.5),
        out=np.ascontiguousarray(parts["out"]["weight"].T),
        out_bias=parts["out"]["bias"],
    )


def _maps(modulator: Modulator) -> tuple[FloatArray, FloatArray] | None:
    if modulator.query_map is None or modulator.document_map is None:
        return None
    maps = as_array(modulator.query_map), as_array(modulator.document_map)
    return maps if maps[0].any() or maps[1].any() else None


def as_array(tensor: Tensor) -> FloatArray:
    """Copy a tensor."""
    return np.array(tensor.detach().numpy(), np.float32)


def softmax(logits: FloatArray) -> FloatArray:
    """Return weights that sum to 1 along the last axis."""
    weights: FloatArray = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return weights


def _inner(query: FloatArray, blocks: FloatArray) -> FloatArray:
    """Return query·document, shape (B, k), for documents in blocks."""
    products: FloatArray = (blocks @ query[:, None, :, None]).reshape(len(query), -1)
    return products


def _square(codes: FloatArray) -> FloatArray:
    squares: FloatArray = np.einsum("...j,...j->...", codes, codes)
    return squares

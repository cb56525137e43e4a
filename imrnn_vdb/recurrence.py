"""The recurrence of :class:`imrnn_vdb.model.Modulator` as it is served on a CPU: numpy, with fused weights.

Same formula, fewer and smaller operations. The module stays the definition: this is derived from its weights, and tests
hold the two together to 1e-6. What is different:

- The query is fixed while its k documents move, so ``W_own z + W_product (z ⊙ q)`` is one product with the matrix
  ``W_own + W_product diag(q)``, made once per step.
- All that the documents of a query have in common (other side, factors, biases) is one vector.
- ``σ(x) = (1 + tanh(x/2)) / 2``, with the halves inside the weights: two calls of tanh a step and no division.
- The first step starts from a hidden state of zeros and needs no product with it; parts without an effect are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
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
that others use as well, 1,000 candidates took 58 ms with them and 1.9 ms without."""
_MIN_SQUARE = 1e-6


@dataclass(frozen=True, slots=True)
class _Weights:
    """One cell, transposed for row vectors, with all constants folded in; h is the hidden width.

    The first axis of what belongs to gates is: reset, update, new. So each gate of many rows lies in one piece.

    Attributes
    ----------
    own, product, other, factors
        Shape (3, m, h).
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
        self._query_cell, self._document_cell = (_weights(cell, modulator.scale) for cell in cells)
        self._hint = _array(modulator.hint.weight).T * np.float32(modulator.scale), _array(modulator.hint.bias)
        self._pool = _array(modulator.pool)

    def __call__(
        self, start: Tensor, trust: Tensor | None, query: Tensor, candidates: Tensor, cosines: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the place of :meth:`Modulator.recur`: the same arguments and results."""
        import torch

        batch = _Batch(*(tensor.numpy() for tensor in (start, query, candidates, cosines, mask)))
        z_q, z_d = self._run(batch, None if trust is None else trust.numpy())
        return torch.from_numpy(z_q), torch.from_numpy(z_d)

    def _run(self, batch: _Batch, trust: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        if (self._maps is None and not self._num_steps) or (trust is not None and not trust.any()):
            return batch.start, batch.candidates
        z_q, z_d = np.empty_like(batch.start), np.empty_like(batch.candidates)
        at_once = max(1, _ROWS_AT_ONCE // max(1, z_d.shape[1]))
        for first in range(0, len(z_q), at_once):
            rows = slice(first, first + at_once)
            z_q[rows], z_d[rows] = self._refined(batch.take(rows))
        if trust is not None:
            z_q = batch.start + trust * (z_q - batch.start)
            z_d -= batch.candidates
            z_d *= trust[:, None]
            z_d += batch.candidates
        return z_q, z_d

    def _refined(self, batch: _Batch) -> tuple[FloatArray, FloatArray]:
        """Carry out maps and steps for a few queries."""
        z_q, z_d = batch.start, batch.candidates
        if self._maps is not None:
            z_q = z_q + batch.query @ self._maps[0]
            z_d = z_d + _product(z_d, self._maps[1])
        if not self._num_steps:
            return z_q, z_d
        on_query, on_documents = self._query_cell, self._document_cell
        factors: FloatArray = _softmax(batch.query @ self._hint[0] + self._hint[1]) @ self._pool
        query_bias: FloatArray = factors @ on_query.factors + on_query.bias
        document_bias: FloatArray = factors @ on_documents.factors + on_documents.bias
        before = _Unmoved.of(batch) if self._feedback and self._num_steps > 1 else None
        h_q = h_d = None
        for step in range(self._num_steps):
            gates: FloatArray = z_q @ on_query.own + query_bias
            if self._feedback:
                scores = before.scores_after(z_q, z_d) if step and before is not None else batch.cosines
                seen = self._seen(scores, z_d, batch.mask)
                gates += (z_q * seen) @ on_query.product + seen @ on_query.other
            h_q = _gru(gates, h_q, on_query)
            h_d = _gru(_document_gates(z_q, z_d, on_documents, document_bias), h_d, on_documents)
            z_q = z_q + (h_q @ on_query.out + on_query.out_bias)
            update = _product(h_d, on_documents.out).reshape(z_d.shape)
            update += on_documents.out_bias
            update += z_d
            z_d = update
        return z_q, z_d

    def _seen(self, scores: FloatArray, candidates: FloatArray, mask: npt.NDArray[np.bool_]) -> FloatArray:
        """Return what the query receives: ``c = Σ softmax(β·s)_i · z_i``, shape (B, m)."""
        weights = _softmax(np.where(mask, self._beta * scores, np.float32(-1e9))) * mask
        seen: FloatArray = np.einsum("bk,bkm->bm", weights, candidates)
        return seen


@dataclass(frozen=True, slots=True)
class _Batch:
    """The arguments of :meth:`Modulator.recur`, but for the trust."""

    start: FloatArray
    query: FloatArray
    candidates: FloatArray
    cosines: FloatArray
    mask: npt.NDArray[np.bool_]

    def take(self, rows: slice) -> _Batch:
        return _Batch(self.start[rows], self.query[rows], self.candidates[rows], self.cosines[rows], self.mask[rows])


@dataclass(frozen=True, slots=True)
class _Unmoved:
    """What the cosine of refined vectors needs of the codes as they came (:func:`imrnn_vdb.scoring.cosine_of_refined`).

    ``base`` is s0 − q0·d0, ``query`` and ``documents`` are 1 − ‖z_0‖² of each side.
    """

    base: FloatArray
    query: FloatArray
    documents: FloatArray

    @classmethod
    def of(cls, batch: _Batch) -> _Unmoved:
        base = batch.cosines - _inner(batch.query, batch.candidates)
        return cls(base, 1 - _square(batch.query), 1 - _square(batch.candidates))

    def scores_after(self, z_q: FloatArray, z_d: FloatArray) -> FloatArray:
        """Return the cosines after a step, shape (B, k)."""
        squares = (self.query + _square(z_q)).clip(_MIN_SQUARE)[:, None] * (self.documents + _square(z_d)).clip(
            _MIN_SQUARE
        )
        scores: FloatArray = (self.base + _inner(z_q, z_d)) / np.sqrt(squares)
        return scores


def _document_gates(z_q: FloatArray, z_d: FloatArray, cell: _Weights, bias: FloatArray) -> FloatArray:
    """Return the inputs' part of the documents' gates, shape (3, B·k, h)."""
    width = cell.out.shape[0]
    gates = np.empty((3, *z_d.shape[:2], width), np.float32)
    shared = z_q @ cell.other + bias
    for i, (query, documents) in enumerate(zip(z_q, z_d, strict=True)):
        own = cell.product * query[:, None]
        own += cell.own
        for gate in range(3):
            _fill(documents, own[gate], gates[gate, i])
            gates[gate, i] += shared[gate, i]
    return gates.reshape(3, -1, width)


def _gru(gates: FloatArray, hidden: FloatArray | None, cell: _Weights) -> FloatArray:
    """Return the next hidden state (n, h) from the inputs' part of the gates (3, n, h), which is overwritten.

    A hidden state of None stands for zeros.
    """
    if hidden is None:
        new_hidden: FloatArray = cell.hidden_new
    else:
        gates[0] += _product(hidden, cell.hidden[0])
        gates[1] += _product(hidden, cell.hidden[1])
        new_hidden = _product(hidden, cell.hidden[2])
        new_hidden += cell.hidden_new
    both, (reset, update, new) = gates[:2], gates
    np.tanh(both, out=both)
    both += 1  # twice the sigmoid
    reset *= new_hidden
    new += reset
    np.tanh(new, out=new)
    state: FloatArray = -new if hidden is None else hidden - new
    update *= np.float32(0.5)
    state *= update
    state += new
    return state


def _weights(cell: object, scale: float) -> _Weights:
    parts = {
        name: {key: _array(value) for key, value in getattr(cell, name).named_parameters()}
        for name in ("own", "product", "other", "factors", "hidden", "out")
    }
    halves = np.array([0.5, 0.5, 1.0], np.float32)[:, None, None]  # σ(x) = (1 + tanh(x/2)) / 2

    def gates(name: str, factor: npt.ArrayLike) -> FloatArray:
        weight = parts[name]["weight"]
        split = weight.reshape(3, -1, weight.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(split * np.asarray(factor, np.float32))

    bias, recurrent_bias = (parts[name]["bias"].reshape(3, 1, -1) for name in ("own", "hidden"))
    known = bias + recurrent_bias * np.array([1, 1, 0], np.float32)[:, None, None]
    return _Weights(
        own=gates("own", halves * scale),
        product=gates("product", halves * scale**2),
        other=gates("other", halves * scale),
        factors=gates("factors", halves * scale),
        bias=known * halves,
        hidden=gates("hidden", 0.5),  # of the new gate too: it is multiplied by 1 + tanh, which is 2σ
        hidden_new=recurrent_bias[2, 0] * np.float32(0.5),
        out=np.ascontiguousarray(parts["out"]["weight"].T),
        out_bias=parts["out"]["bias"],
    )


def _maps(modulator: Modulator) -> tuple[FloatArray, FloatArray] | None:
    if modulator.query_map is None or modulator.document_map is None:
        return None
    maps = _array(modulator.query_map), _array(modulator.document_map)
    return maps if maps[0].any() or maps[1].any() else None


def _array(tensor: Tensor) -> FloatArray:
    return np.array(tensor.detach().numpy(), np.float32)


def _product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """Return ``rows @ matrix`` of shapes (…, a) and (a, b), in blocks that BLAS does not spread over threads."""
    flat = rows.reshape(-1, matrix.shape[0])
    out = np.empty((len(flat), matrix.shape[1]), np.float32)
    _fill(flat, matrix, out)
    return out.reshape(*rows.shape[:-1], matrix.shape[1])


def _fill(rows: FloatArray, matrix: FloatArray, out: FloatArray) -> None:
    block = _SMALL_PRODUCT // matrix.size
    block = (
        block - block % 16 if block >= 16 else len(rows)
    )  # below 16 rows, copying the matrix costs more than it saves
    for first in range(0, len(rows), max(1, block)):
        np.matmul(rows[first : first + block], matrix, out=out[first : first + block])


def _softmax(logits: FloatArray) -> FloatArray:
    weights: FloatArray = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return weights


def _inner(query: FloatArray, candidates: FloatArray) -> FloatArray:
    products: FloatArray = np.einsum("bkm,bm->bk", candidates, query)
    return products


def _square(codes: FloatArray) -> FloatArray:
    squares: FloatArray = np.einsum("...j,...j->...", codes, codes)
    return squares

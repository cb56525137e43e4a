"""The recurrence of :class:`imrnn_vdb.model.Modulator` as it is served on a CPU: numpy, with fused weights.

Same formula, fewer and smaller operations. The module stays the definition: this is derived from its weights, and tests
hold the two together to 1e-6. What is different:

- The query is fixed while its k documents move, so ``W_own z + W_product (z ⊙ q)`` is one product with the matrix
  ``W_own + diag(q) W_product``, made once per step.
- All that the documents of a query have in common (other side, factors, biases) is one vector.
- ``σ(x) = (1 + tanh(x/2)) / 2``, with the halves inside the weights: two calls of tanh a step and no division.
- The query's row lies below those of its documents wherever a step treats both alike: one call for all.
- The first step starts from a hidden state of zeros and needs no product with it; parts without an effect are skipped.

Between two searches a core's caches fill with other things, so that the number of different operations costs a search
as much as their size: there are few of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.scoring import Products, refined_cosines

if TYPE_CHECKING:
    from torch import Tensor

    from imrnn_vdb.model import Modulator

_ROWS_AT_ONCE = 512
"""Documents that are refined together: their gates (3·64 floats each) stay in a core's cache."""
_SMALL_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS stays on one thread. Its threads wait for each other by spinning: on two cores
that others use as well, 1,000 candidates took 58 ms with them and 1.9 ms without. So products are made in blocks."""
_SMALLEST_BLOCK = 16
"""Rows below which the overhead of a block costs more than its threads."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell, transposed for row vectors, with all constants folded in; h is the hidden width.

    The first axis of what belongs to gates is: reset, take, new. So each gate of many rows lies in one piece. Take is
    one minus the module's update gate: the hidden state becomes ``h + take (new − h)``.

    Attributes
    ----------
    own, product
        Shape (3, m, h).
    other
        Shape (m, 3h).
    joined
        Shape (3m, 3h): own, product and other below one another, for a query beside its feedback.
    factors
        Shape (pool_size, 3h): what each learnable factor adds to the gates, and all biases but the next.
    hidden, hidden_new
        Shapes (3, h, h) and (h,): the hidden part of the gates, and the bias of the new gate's.
    out, out_bias
        Shapes (h, m) and (m,): the update of the code.
    """

    own: FloatArray
    product: FloatArray
    other: FloatArray
    joined: FloatArray
    factors: FloatArray
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
        self._beta = np.float32(np.exp(float(modulator.log_beta.detach()))) if config.feedback else None
        self._maps = _maps(modulator)
        cells = (modulator.query_cell, modulator.document_cell)
        self._num_steps = modulator.moving_steps
        pool = as_array(modulator.pool)
        self._cells = [_cell(cell, modulator.scale, pool) for cell in cells]
        self._factors = np.concatenate([cell.factors for cell in self._cells], axis=1)
        self._hint = as_array(modulator.hint.weight).T * np.float32(modulator.scale), as_array(modulator.hint.bias)

    def __call__(
        self,
        start: FloatArray,
        query: FloatArray,
        candidates: FloatArray,
        cosines: FloatArray,
        mask: Mask,
    ) -> tuple[FloatArray, FloatArray]:
        """Carry out the steps: the arguments and results of :meth:`Modulator.recur`, as arrays."""
        still = self._maps is None and not self._num_steps
        if still or not len(query):
            return start, candidates
        at_once = max(1, _ROWS_AT_ONCE // max(1, candidates.shape[1]))
        parts = [slice(first, first + at_once) for first in range(0, len(query), at_once)]
        moved = [self._refine(start[p], query[p], candidates[p], cosines[p], mask[p]) for p in parts]
        z_q, z_d = moved[0] if len(moved) == 1 else map(np.concatenate, zip(*moved, strict=True))
        return z_q, z_d

    def _refine(
        self, z_q: FloatArray, query: FloatArray, candidates: FloatArray, cosines: FloatArray, mask: Mask
    ) -> tuple[FloatArray, FloatArray]:
        """Carry out maps and steps for a few queries; a step sees the documents as blocks (B, b, r, m)."""
        number, k, m = candidates.shape
        on_query, on_documents = self._cells
        blocks = _in_blocks(candidates, on_documents.out.shape)
        if self._maps is not None:
            z_q = z_q + query @ self._maps[0]
            blocks = blocks @ self._maps[1]
        z_d = blocks.reshape(number, -1, m)[:, :k]
        if not self._num_steps:
            return z_q, z_d
        biases = self._biases(query)
        feedback = _Feedback(self._beta, query, candidates, cosines, mask) if self._beta is not None else None
        hidden = None
        for step in range(self._num_steps):
            seen = feedback.seen(z_q, z_d, moved=step > 0) if feedback else None
            gates = self._inputs(z_q, blocks, seen, biases)
            hidden = self._gru(gates, hidden)
            z_q = z_q + hidden[:, -1, -1] @ on_query.out
            z_q += on_query.out_bias
            blocks += hidden @ on_documents.out
            blocks += on_documents.out_bias
        return z_q, z_d

    def _biases(self, query: FloatArray) -> FloatArray:
        """Return what the factors that each query chooses add to the gates of both cells, shape (2, 3, B, h)."""
        chosen = softmax(query @ self._hint[0] + self._hint[1])
        biases: FloatArray = (chosen @ self._factors).reshape(len(query), 2, 3, -1).transpose(1, 2, 0, 3)
        return biases

    def _inputs(self, z_q: FloatArray, blocks: FloatArray, seen: FloatArray | None, biases: FloatArray) -> FloatArray:
        """Return the inputs' part of the gates, shape (3, B, blocks, rows, h); the last row is the query's."""
        on_query, on_documents = self._cells
        matrices = on_documents.product[:, None] * z_q[:, :, None]
        matrices += on_documents.own[:, None]
        gates: FloatArray = blocks @ matrices[:, :, None]
        gates += (_by_gate(z_q @ on_documents.other) + biases[1])[:, :, None, None]
        asked = z_q if seen is None else np.concatenate([z_q, z_q * seen, seen], axis=1)
        np.add(_by_gate(asked @ on_query.joined[: asked.shape[1]]), biases[0], out=gates[:, :, -1, -1])
        return gates

    def _gru(self, gates: FloatArray, hidden: FloatArray | None) -> FloatArray:
        """Return the next hidden state, shape (B, blocks, rows, h), from the inputs' part of the gates, overwritten.

        A hidden state of None stands for zeros.
        """
        known = self._hidden_part(gates, hidden)
        both, (reset, take, new) = gates[:2], gates
        np.tanh(both, out=both)
        both += 1  # twice the sigmoid
        reset *= known
        new += reset
        np.tanh(new, out=new)
        take *= np.float32(0.5)
        if hidden is not None:
            new -= hidden
        new *= take
        if hidden is not None:
            new += hidden
        state: FloatArray = new
        return state

    def _hidden_part(self, gates: FloatArray, hidden: FloatArray | None) -> FloatArray:
        """Add the hidden state's part to the gates reset and take; return that of the new gate."""
        on_query, on_documents = self._cells
        if hidden is None:
            biases: FloatArray = np.empty_like(gates[2])
            biases[:] = on_documents.hidden_new
            biases[:, -1, -1] = on_query.hidden_new
            return biases
        parts: FloatArray = hidden @ on_documents.hidden[:, None, None]
        parts[2] += on_documents.hidden_new
        parts[:, :, -1, -1] = hidden[:, -1, -1] @ on_query.hidden
        parts[2, :, -1, -1] += on_query.hidden_new
        gates[:2] += parts[:2]
        known: FloatArray = parts[2]
        return known


class _Feedback:
    """What queries receive from their candidates, ``c = Σ softmax(β·s)_i · z_i``: arguments as for a call, and β."""

    def __init__(
        self, beta: np.float32, query: FloatArray, candidates: FloatArray, cosines: FloatArray, mask: Mask
    ) -> None:
        self._beta, self._query, self._candidates, self._cosines = beta, query, candidates, cosines
        self._mask = None if mask.all() else mask
        self._before: Products | None = None

    def seen(self, z_q: FloatArray, z_d: FloatArray, *, moved: bool) -> FloatArray:
        """Return c, shape (B, m), for codes as they are now; ``moved`` says whether a step came before."""
        scores = self._scores(z_q, z_d) if moved else self._cosines
        logits = self._beta * scores
        if self._mask is not None:
            logits = np.where(self._mask, logits, np.float32(-1e9))
        weights = softmax(logits)
        if self._mask is not None:
            weights *= self._mask
        seen: FloatArray = (weights[:, None] @ z_d)[:, 0]
        return seen

    def _scores(self, z_q: FloatArray, z_d: FloatArray) -> FloatArray:
        if self._before is None:
            self._before = _products(self._query, self._candidates)
        scores: FloatArray = refined_cosines(self._cosines, self._before, _products(z_q, z_d))
        return scores


def _products(query: FloatArray, documents: FloatArray) -> Products:
    """Return the inner products of codes of shapes (B, m) and (B, k, m), in single precision."""
    dots = (documents @ query[:, :, None])[..., 0]
    squares, own = np.einsum("bkj,bkj->bk", documents, documents), np.einsum("bj,bj->b", query, query)
    return Products(dots, squares, own[:, None])


def _by_gate(rows: FloatArray) -> FloatArray:
    """View rows (B, 3h) as (3, B, h)."""
    by_gate: FloatArray = rows.reshape(len(rows), 3, -1).swapaxes(0, 1)
    return by_gate


def _in_blocks(candidates: FloatArray, matrix: tuple[int, ...]) -> FloatArray:
    """Copy candidates (B, k, m) to blocks (B, b, r, m) whose products with such a matrix are small.

    They hold k + 1 rows or more, those after the first k zero.
    """
    number, k, m = candidates.shape
    most = _SMALL_PRODUCT // (m * max(matrix))
    count = -(-(k + 1) // most) if most >= _SMALLEST_BLOCK else 1
    blocks = np.zeros((number, count, -(-(k + 1) // count), m), np.float32)
    blocks.reshape(number, -1, m)[:, :k] = candidates
    return blocks


def _cell(cell: object, scale: float, pool: FloatArray) -> _Cell:
    parts = {
        name: {key: as_array(value) for key, value in getattr(cell, name).named_parameters()}
        for name in ("own", "product", "other", "factors", "hidden", "out")
    }
    # σ(x) = (1 + tanh(x/2)) / 2, and 1 − σ(x) = σ(−x)
    halves = np.array([0.5, -0.5, 1.0], np.float32)[:, None, None]

    def gates(name: str, factor: npt.ArrayLike) -> FloatArray:
        weight = parts[name]["weight"]
        split = weight.reshape(3, -1, weight.shape[1]).transpose(0, 2, 1)
        return np.ascontiguousarray(split * np.asarray(factor, np.float32))

    def beside(table: npt.NDArray[np.floating]) -> FloatArray:
        return np.concatenate(list(table), axis=1, dtype=np.float32)

    bias, recurrent_bias = (parts[name]["bias"].reshape(3, 1, -1) for name in ("own", "hidden"))
    known = bias + recurrent_bias * np.array([1, 1, 0], np.float32)[:, None, None]
    own, product, other = (
        gates("own", halves * scale),
        gates("product", halves * scale**2),
        gates("other", halves * scale),
    )
    return _Cell(
        own=own,
        product=product,
        other=beside(other),
        joined=np.concatenate([beside(own), beside(product), beside(other)]),
        factors=beside(pool @ gates("factors", halves * scale) + known * halves),  # the weights of a choice sum to 1
        # of the new gate too: it is multiplied by 1 + tanh, which is 2σ
        hidden=gates("hidden", np.array([0.5, -0.5, 0.5], np.float32)[:, None, None]),
        hidden_new=recurrent_bias[2, 0] * np.float32(0.5),
        out=np.ascontiguousarray(parts["out"]["weight"].T),
        out_bias=parts["out"]["bias"],
    )


def _maps(modulator: Modulator) -> tuple[FloatArray, FloatArray] | None:
    if modulator.query_map is None or modulator.document_map is None:
        return None
    query, documents = as_array(modulator.query_map), as_array(modulator.document_map)
    return (query, documents + np.eye(len(documents), dtype=np.float32)) if query.any() or documents.any() else None


def as_array(tensor: Tensor) -> FloatArray:
    """Copy a tensor."""
    return np.array(tensor.detach().numpy(), np.float32)


def softmax(logits: FloatArray) -> FloatArray:
    """Return weights that sum to 1 along the last axis."""
    weights: FloatArray = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return weights

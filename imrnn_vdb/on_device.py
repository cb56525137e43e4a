"""A :class:`imrnn_vdb.model.Modulator` on a GPU: the module itself, launched as one graph where its shape allows.

Some sixty small kernels make up a modulation, and launching them costs more than computing them. A CUDA graph launches
all at once, but for one shape and fixed addresses; so batches are padded to a few shapes (:mod:`imrnn_vdb.shapes`), in
buffers that stay. A capture takes as long as many launches: a shape is captured when it has come a few times, once, and
kept. What is rare or too large, or cannot be captured, runs eagerly.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.model import Modulated, Modulator
from imrnn_vdb.modulation import Inputs, Mask, Precision
from imrnn_vdb.precision import half_keeps_ranks, half_type, moving_queries
from imrnn_vdb.shapes import bucket

OFTEN = 4
"""The batch of a shape that captures it; those before run eagerly."""
_WARM_UP = 3
_TOLERANCE = {False: 1e-4, True: 1e-2}
"""By how much a graph's codes may differ from the module's, in half precision or not: padding changes sums' order."""
_capturing = threading.Lock()
"""One capture at a time in a process: a limit of CUDA's."""

_log = logging.getLogger("imrnn_vdb")


class OnDevice:
    """The module on its device; safe to share between threads, which take turns.

    Parameters
    ----------
    modulator
        In evaluation mode, on its device; it must not change afterwards.
    precision
        ``"half"`` for half precision where it keeps the ranks, which is measured here.
    graphs
        Whether batches of usual shapes are launched as CUDA graphs; without effect on other devices.
    """

    def __init__(self, modulator: Modulator, precision: Precision = "float32", graphs: bool = True) -> None:
        self._modulator = modulator
        self._device = modulator.pool.device
        self._selective = modulator.selective  # asks the device, which a graph cannot
        self._lock = threading.Lock()
        self._half = precision == "half" and half_keeps_ranks(
            modulator, partial(self._eager, half=False), partial(self._eager, half=True)
        )
        self._seen: Counter[tuple[int, int]] = Counter()
        self._graphs: dict[tuple[int, int], _Graph | None] | None = None
        """By shape, all that there are at most; None for one that did not fit the memory."""
        if graphs and self._device.type == "cuda":
            self._graphs = {}

    @property
    def half(self) -> bool:
        """Whether half precision is used."""
        return self._half

    def __call__(
        self, query: FloatArray, candidates: FloatArray, cosines: FloatArray, mask: Mask
    ) -> tuple[FloatArray, FloatArray]:
        """Refine a batch; see :data:`~imrnn_vdb.modulation.Modulate`."""
        inputs = Inputs(query, candidates, cosines, mask)
        shape = bucket(*inputs.shape)
        with self._lock:
            if self._graphs is not None and shape is not None:
                try:
                    if (graph := self._graph(self._graphs, shape)) is not None:
                        return graph.replay(inputs)
                except torch.cuda.OutOfMemoryError as exc:
                    self._graphs[shape] = None
                    _log.warning("%d queries of %d candidates are computed without a CUDA graph: %s", *shape, str(exc))
                except RuntimeError as exc:  # of CUDA, or of a graph that computes something else
                    self._graphs = None
                    _log.warning("CUDA graphs are not used: %s", exc, exc_info=True)
            return self._eager(inputs, self._half)  # when what a failed capture held is free again

    def eager(self, modulator: Modulator) -> OnDevice:
        """Return what computes another modulator as precisely, for a few runs: nothing is captured or measured."""
        other = OnDevice(modulator, graphs=False)
        other._half = self._half
        return other

    def _eager(self, inputs: Inputs, half: bool) -> tuple[FloatArray, FloatArray]:
        """Compute without a graph: pinned inputs, which travel while the host goes on, and one wait at the end."""
        with torch.inference_mode():
            refined = self._refined([self._sent(array) for array in inputs], half)
            return refined.query.cpu().numpy(), refined.candidates.cpu().numpy()

    def _refined(self, inputs: Sequence[Tensor], half: bool) -> Modulated:
        with torch.autocast(self._device.type, half_type(self._device), half, cache_enabled=False):
            moved = self._modulator(*inputs, self._selective)
        return Modulated(moved.query.float(), moved.candidates.float())

    def _sent(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _graph(self, graphs: dict[tuple[int, int], _Graph | None], shape: tuple[int, int]) -> _Graph | None:
        """Return the graph of a shape, captured when it has come often enough; None for one that runs eagerly."""
        if shape not in graphs:
            self._seen[shape] += 1
            if self._seen[shape] < OFTEN:
                return None
            beside = next((graph for graph in graphs.values() if graph is not None), None)
            graphs[shape] = self._capture(shape, beside)
        return graphs[shape]

    def _capture(self, shape: tuple[int, int], beside: _Graph | None) -> _Graph:
        """Capture one shape, and believe it only if it computes what the module does."""
        m, compute = self._modulator.config.num_factors, partial(self._refined, half=self._half)
        made, trial = _Graph(compute, shape, m, self._device, beside), _trial(shape, self._modulator)
        for found, wanted in zip(made.replay(trial), self._eager(trial, self._half), strict=True):
            far = float(np.abs(found - wanted).max())
            if not far <= _TOLERANCE[self._half]:  # nor where it is not a number
                raise RuntimeError(f"a graph of {shape} queries and candidates differs from the module by {far:g}")
        return made


def _trial(shape: tuple[int, int], modulator: Modulator) -> Inputs:
    """Return queries that the model moves, with random candidates that leave some of a shape's empty."""
    rng, m, (number, k) = np.random.default_rng(0), modulator.config.num_factors, shape
    k -= k // 4
    query = np.resize(moving_queries(modulator, rng)[:, :m], (number, m)).astype(np.float32)
    codes = (rng.normal(size=(number, k, m)) / (2 * m**0.5)).astype(np.float32)
    return Inputs(query, codes, rng.random((number, k), np.float32), rng.random((number, k)) > 0.1)


class _Graph:
    """One shape, captured: buffers on both sides that stay where they are, and the graph between them.

    Graphs of one model share the memory for what is computed in between, results included, which PyTorch allows where
    no two run at once and none needs what another left there: `replay` waits and returns copies. Sharing takes the same
    stream, and a graph that lives: a pool that no graph holds any more cannot be captured into.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Tensor]], Modulated],
        shape: tuple[int, int],
        m: int,
        device: torch.device,
        beside: _Graph | None,
    ) -> None:
        self._device = device
        with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
            self._given = [torch.from_numpy(array).pin_memory() for array in Inputs.zeros(*shape, m)]
            self._room = Inputs(*(tensor.numpy() for tensor in self._given))
            self._inputs = [tensor.to(device) for tensor in self._given]
            sizes = (shape[0], m), (*shape, m)
            self._taken = [torch.empty(size, dtype=torch.float32, pin_memory=True) for size in sizes]
            self._stream: torch.cuda.Stream
            self._stream = beside._stream if beside else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):  # kernels are chosen and work spaces made before anything is captured
                for _ in range(_WARM_UP):
                    compute(self._inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            self._graph = torch.cuda.CUDAGraph()
            pool = beside._graph.pool() if beside else None
            with _capturing, torch.cuda.graph(self._graph, pool, self._stream, "thread_local"):
                self._refined = compute(self._inputs)

    def replay(self, inputs: Inputs) -> tuple[FloatArray, FloatArray]:
        """Refine a batch that is no larger than the shape; one at a time."""
        number, k = inputs.shape
        self._room.put([inputs])
        with torch.inference_mode(), torch.cuda.device(self._device):
            for there, here in zip(self._inputs, self._given, strict=True):
                there.copy_(here, non_blocking=True)
            self._graph.replay()
            for here, there in zip(self._taken, self._refined, strict=True):
                here.copy_(there, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        query, candidates = (tensor.numpy() for tensor in self._taken)
        return query[:number].copy(), candidates[:number, :k].copy()

"""The module on its device. What needs a GPU skips without one; choices that do not are tested in test_shapes.py and
test_precision.py."""

from __future__ import annotations

import inspect
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from test_modulation import M, request
from torch.utils._python_dispatch import TorchDispatchMode

import imrnn_vdb.on_device
from factory import make_model, make_modulator
from imrnn_vdb.joined import Joined
from imrnn_vdb.modulation import Inputs
from imrnn_vdb.on_device import OFTEN, OnDevice, _Graph
from imrnn_vdb.precision import agreement, final_scores, sample
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.served import FusedModulator, served
from imrnn_vdb.shapes import CANDIDATES, QUERIES

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = [{}, {"prior": FeedbackPrior(strength=0.4)}, {"adapters": (3, 2)}, {"num_familiar": 3}, {"two_cells": False}]
SHAPES = [(1, 1), (1, 100), (3, 20), (5, 17), (2, 1500), (64, 30), (70, 5), (1, 3000)]


def close(found, wanted, tolerance: float) -> None:
    for array, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(array, expected, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), *SHAPES], ids=str)
def test_any_shape_on_a_device_without_graphs(shape):
    modulator = make_modulator(M, prior=FeedbackPrior(strength=0.4))
    with torch.inference_mode():
        expected = modulator(*map(torch.from_numpy, request(*shape)))
    close(OnDevice(modulator)(*request(*shape)), expected, 1e-6)


def test_half_precision_is_measured_before_it_is_used(caplog):
    modulator = make_modulator(M)
    with caplog.at_level("INFO", "imrnn_vdb"):
        device = OnDevice(modulator, "half")
    assert "half precision orders" in caplog.text
    tolerance = 1e-2 if device.half else 1e-6
    close(device(*request(2, 20)), FusedModulator(modulator)(*request(2, 20)), tolerance)


def test_half_precision_that_is_used_computes_in_half(monkeypatch):
    monkeypatch.setattr(imrnn_vdb.on_device, "half_keeps_ranks", lambda *_: True)
    modulator = make_modulator(M)
    found, exact = OnDevice(modulator, "half")(*request(2, 20)), FusedModulator(modulator)(*request(2, 20))
    assert found[1].dtype == np.float32
    close(found, exact, 1e-2)
    assert np.abs(found[1] - exact[1]).max() > 1e-6


@pytest.mark.parametrize("half", [False, True])
def test_another_modulator_is_computed_as_precisely_without_a_measurement(half, monkeypatch):
    measured: list[object] = []
    monkeypatch.setattr(imrnn_vdb.on_device, "half_keeps_ranks", lambda *parts: bool(measured.append(parts)) or half)
    device = OnDevice(make_modulator(M), "half")
    other = make_modulator(M, seed=5)
    found, exact = device.eager(other)(*request(2, 20)), FusedModulator(other)(*request(2, 20))
    assert len(measured) == 1
    close(found, exact, 1e-2 if half else 1e-6)
    assert (np.abs(found[1] - exact[1]).max() > 1e-6) == half


class Standing:
    """Stands for a captured graph: counts, and pads as a graph does."""

    made: list[tuple[int, int]]
    shared: list[Standing | None]

    def __init__(self, compute, shape, m, device, beside) -> None:
        self.made.append(shape)
        self.shared.append(beside)
        self._compute, self._room = compute, Inputs.zeros(*shape, m)

    def replay(self, inputs):
        self._room.put([inputs])
        with torch.inference_mode():
            query, candidates = self._compute([torch.from_numpy(array) for array in self._room])
        number, k = inputs.shape
        return query.numpy()[:number], candidates.numpy()[:number, :k]


class Wrong(Standing):
    """A graph that computes something else."""

    def replay(self, inputs):
        query, candidates = super().replay(inputs)
        return query, candidates + 0.01


class Refused(Standing):
    """A shape that cannot be captured."""

    def __init__(self, *_) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")


class Full(Standing):
    """A shape that does not fit the memory, if it is the one of 3 queries and 20 candidates."""

    held: weakref.ref[np.ndarray] | None = None

    def __init__(self, compute, shape, *rest) -> None:
        super().__init__(compute, shape, *rest)
        if shape == (4, 32):
            Full.held = weakref.ref(self._room.candidates)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")


class Idle(Standing):
    """A graph that computes nothing."""

    def replay(self, inputs):
        return inputs.query, inputs.candidates


def with_graphs(monkeypatch, kind: type[Standing]) -> tuple[OnDevice, FusedModulator]:
    kind.made, kind.shared = [], []
    monkeypatch.setattr(imrnn_vdb.on_device, "_Graph", kind)
    modulator = make_modulator(M, prior=FeedbackPrior(strength=0.4))
    device = OnDevice(modulator)
    device._graphs = {}  # as on a GPU
    return device, FusedModulator(modulator)


def test_a_shape_that_came_often_is_captured_once_and_padding_changes_nothing(monkeypatch):
    device, fused = with_graphs(monkeypatch, Standing)
    captured = [(1, 16), (1, 128), (4, 32), (8, 32), (2, 2048), (64, 32)]
    for batches in range(1, OFTEN + 3):
        for number, k in SHAPES:
            close(device(*request(number, k)), fused(*request(number, k)), 1e-5)
        assert Standing.made == (captured if batches >= OFTEN else [])


def test_all_shapes_that_there_are_stay(monkeypatch):
    device, _ = with_graphs(monkeypatch, Idle)
    monkeypatch.setattr(device, "_eager", lambda inputs, half: (inputs.query, inputs.candidates))
    shapes = list(product(QUERIES, CANDIDATES))
    for number, k in shapes * (OFTEN + 2):
        device(*Inputs.zeros(number, k, M))
    assert Idle.made == shapes


def test_memory_is_shared_with_a_graph_that_is_kept(monkeypatch):
    device, _ = with_graphs(monkeypatch, Full)
    for number, k in [(3, 20), (1, 1), (1, 100), (8, 30)]:
        for _ in range(OFTEN):
            device(*request(number, k))
    first = device._graphs[1, 16]
    assert Full.shared == [None, None, first, first]


def test_a_shape_that_does_not_fit_the_memory_runs_eagerly_and_no_other(monkeypatch, caplog):
    device, fused = with_graphs(monkeypatch, Full)
    eager, left = device._eager, []

    def noted(inputs, half):
        left.append(Full.held is not None and Full.held() is not None)
        return eager(inputs, half)

    monkeypatch.setattr(device, "_eager", noted)
    for number, k in [(1, 100), (3, 20), (5, 17)] * (OFTEN + 2):
        close(device(*request(number, k)), fused(*request(number, k)), 1e-5)
    assert Full.made == [(1, 128), (4, 32), (8, 32)], "none twice"
    assert caplog.text.count("4 queries of 32 candidates are computed without a CUDA graph: CUDA out of memory") == 1
    assert "not used" not in caplog.text
    assert Full.held is not None
    assert not any(left), "what the capture held is free before anything else is computed"


@pytest.mark.parametrize("kind", [Wrong, Refused])
def test_without_graphs_that_hold_it_computes_without_any(monkeypatch, kind, caplog):
    device, fused = with_graphs(monkeypatch, kind)
    for _ in range(OFTEN + 2):
        close(device(*request(3, 20)), fused(*request(3, 20)), 1e-5)
    assert caplog.text.count("CUDA graphs are not used") == 1


def test_a_graph_is_tried_with_queries_that_the_model_moves(monkeypatch, caplog):
    device, _ = with_graphs(monkeypatch, Idle)
    device._modulator.familiar_norms.copy_(torch.tensor([0.9, 0.95]))
    device._selective = True
    for _ in range(OFTEN):
        device(*request(3, 20))
    assert caplog.text.count("CUDA graphs are not used") == 1


class Simulated:
    """A stream, and a graph that computes once more when it is replayed."""

    def __init__(self, *_) -> None:
        self.again = lambda: None

    def wait_stream(self, _) -> None: ...

    def synchronize(self) -> None: ...

    def pool(self) -> int:
        return id(self)

    def replay(self) -> None:
        self.again()


@pytest.fixture
def captures(monkeypatch):
    """What each capture on a simulated device was given."""
    given, signature, empty = [], inspect.signature(torch.cuda.graph), torch.empty

    @contextmanager
    def graph(*arguments, **named):
        given.append(signature.bind(*arguments, **named).arguments)
        yield

    monkeypatch.setattr(torch.cuda, "graph", graph)
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Simulated)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **how: empty(*size, **how))
    return given


def test_graphs_share_stream_and_memory_and_return_copies(captures):
    modulator = make_modulator(M)
    compute, fused = partial(OnDevice(modulator)._refined, half=False), FusedModulator(modulator)
    first = _Graph(compute, (4, 32), M, torch.device("cpu"), None)
    second = _Graph(compute, (1, 16), M, torch.device("cpu"), first)
    assert [given["pool"] for given in captures] == [None, first._graph.pool()]
    assert [given["cuda_graph"] for given in captures] == [first._graph, second._graph]
    assert captures[0]["stream"] is captures[1]["stream"]
    assert {given["capture_error_mode"] for given in captures} == {"thread_local"}

    def again() -> None:
        for there, computed in zip(first._refined, compute(first._inputs), strict=True):
            there.copy_(computed)

    first._graph.again = again
    batches = [request(3, 20), request(4, 32, 1), request(1, 7, 2)]
    answers = [first.replay(batch) for batch in batches]
    for batch, answer in zip(batches, answers, strict=True):
        close(answer, fused(*batch), 1e-5)


class Called(TorchDispatchMode):
    """Notes the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


NOT_IN_A_GRAPH = {"_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "index", "index_put_", "unique"}
"""Operations that wait for a device, or send it what the host has: a capture refuses them."""


def called_by(compute, *arguments) -> set[str]:
    with torch.no_grad(), Called() as called:
        compute(*arguments)
    return called.names


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_nothing_in_the_module_asks_a_device_or_sends_to_it(settings):
    modulator = make_modulator(M, **settings)
    names = called_by(modulator, *map(torch.from_numpy, request(2, 20)), modulator.selective)
    assert not names & NOT_IN_A_GRAPH
    assert {"mm", "tanh"} < names


def test_such_operations_would_be_noticed():
    assert "_local_scalar_dense" in called_by(make_modulator(M), *map(torch.from_numpy, request(2, 20)))
    assert "lift_fresh" in called_by(torch.zeros(1).new_tensor, [0.0])


@needs_gpu
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_gpu_computes_what_a_cpu_does(settings, graphs):
    modulator = make_modulator(M, **settings)
    expected = [FusedModulator(modulator)(*request(*shape)) for shape in SHAPES]
    device = OnDevice(modulator.cuda(), graphs=graphs)
    for _ in range(OFTEN + 1):  # eagerly, captured, then replayed
        for shape, wanted in zip(SHAPES, expected, strict=True):
            close(device(*request(*shape)), wanted, 1e-4)
    assert (device._graphs is not None) == graphs, "a capture failed: the log says why"


@needs_gpu
def test_a_replay_computes_what_the_module_does_eagerly():
    modulator = make_modulator(M).cuda()
    graphs, eager = OnDevice(modulator), OnDevice(modulator, graphs=False)
    for seed in range(OFTEN + 4):
        inputs = request(3, 50 + seed, seed)
        close(graphs(*inputs), eager(*inputs), 1e-5)
    assert list(graphs._graphs or ()) == [(4, 64)]


@needs_gpu
def test_threads_replay_one_at_a_time():
    modulator = make_modulator(M)
    fused = FusedModulator(make_modulator(M))
    requests = [request(1 + seed % 4, 1 + seed, seed) for seed in range(200)]
    for shared in (OnDevice(modulator.cuda()), Joined(OnDevice(modulator.cuda()))):
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda inputs, shared=shared: shared(*inputs), requests))
        for inputs, answer in zip(requests, found, strict=True):
            close(answer, fused(*inputs), 1e-4)


@needs_gpu
def test_graphs_that_share_memory_replay_in_any_order():
    modulator = make_modulator(M)
    fused, device = FusedModulator(make_modulator(M)), OnDevice(modulator.cuda())
    shapes = list(product((1, 2, 4, 8, 16, 32, 64), (10, 20, 100)))
    for turn in range(OFTEN + 4):
        for number, k in shapes[:: -1 if turn % 2 else 1]:
            close(device(*request(number, k, turn)), fused(*request(number, k, turn)), 1e-4)
    assert len(device._graphs or ()) == len(shapes)
    pools = {graph._graph.pool() for graph in device._graphs.values()}
    assert len(pools) == 1


@needs_gpu
def test_half_precision_agrees_as_far_as_was_measured():
    modulator = make_modulator(M)
    exact = FusedModulator(make_modulator(M))
    device = OnDevice(modulator.cuda(), "half")
    inputs = sample(modulator, seed=5)
    scores = [final_scores(modulator, inputs, compute(*inputs)) for compute in (exact, device)]
    assert agreement(*scores) >= (0.998 if device.half else 0.9999)


@needs_gpu
def test_a_model_on_a_gpu_is_served_by_it():
    assert isinstance(served(make_modulator(M).cuda()), Joined)


def test_a_model_on_a_cpu_is_served_in_numpy():
    assert isinstance(make_model().modulate, FusedModulator)

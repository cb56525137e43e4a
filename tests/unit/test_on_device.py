"""The module on its device. What needs a GPU skips without one; choices that do not are tested in test_shapes.py and
test_precision.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_modulation import M, request
from torch.utils._python_dispatch import TorchDispatchMode

import imrnn_vdb.on_device
from factory import make_model, make_modulator
from imrnn_vdb.joined import Joined
from imrnn_vdb.modulation import Inputs
from imrnn_vdb.on_device import GRAPHS, OnDevice
from imrnn_vdb.precision import agreement, final_scores, sample
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.served import FusedModulator, served

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


class Standing:
    """Stands for a captured graph: counts, and pads as a graph does."""

    made: list[tuple[int, int]]

    def __init__(self, compute, shape, m, device) -> None:
        self.made.append(shape)
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


def with_graphs(monkeypatch, kind: type[Standing]) -> tuple[OnDevice, FusedModulator]:
    kind.made = []
    monkeypatch.setattr(imrnn_vdb.on_device, "_Graph", kind)
    modulator = make_modulator(M, prior=FeedbackPrior(strength=0.4))
    device = OnDevice(modulator)
    device._graphs = imrnn_vdb.on_device.Recent(GRAPHS)  # as on a GPU
    return device, FusedModulator(modulator)


def test_a_shape_is_captured_once_and_padding_changes_nothing(monkeypatch):
    device, fused = with_graphs(monkeypatch, Standing)
    for number, k in [*SHAPES, *SHAPES]:
        close(device(*request(number, k)), fused(*request(number, k)), 1e-5)
    assert Standing.made == [(1, 16), (1, 128), (4, 32), (8, 32), (2, 2048), (64, 32)]


@pytest.mark.parametrize("kind", [Wrong, Refused])
def test_without_graphs_that_hold_it_computes_without_any(monkeypatch, kind, caplog):
    device, fused = with_graphs(monkeypatch, kind)
    for _ in range(2):
        close(device(*request(3, 20)), fused(*request(3, 20)), 1e-5)
    assert caplog.text.count("CUDA graphs are not used") == 1


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
    for _ in range(2):  # captured, then replayed
        for shape, wanted in zip(SHAPES, expected, strict=True):
            close(device(*request(*shape)), wanted, 1e-4)
    assert (device._graphs is not None) == graphs, "a capture failed: the log says why"


@needs_gpu
def test_a_replay_computes_what_the_module_does_eagerly():
    modulator = make_modulator(M).cuda()
    graphs, eager = OnDevice(modulator), OnDevice(modulator, graphs=False)
    for seed in range(5):
        inputs = request(3, 50 + seed, seed)
        close(graphs(*inputs), eager(*inputs), 1e-5)


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
def test_more_shapes_than_are_kept():
    modulator = make_modulator(M)
    fused, device = FusedModulator(make_modulator(M)), OnDevice(modulator.cuda())
    for number in (1, 2, 4, 8, 16, 32, 64, 1):
        for k in (10, 20, 100):
            close(device(*request(number, k)), fused(*request(number, k)), 1e-4)
    assert len(device._graphs or ()) == GRAPHS


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

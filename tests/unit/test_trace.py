"""The trace of a search: each stage is what a model with fewer steps gives, and the last one is the result."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import imrnn_vdb.joined
import imrnn_vdb.on_device
import imrnn_vdb.served
from factory import DIM, make_model
from imrnn_vdb import IMRNNCollection, match
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.joined import Joined
from imrnn_vdb.model import Modulator
from imrnn_vdb.on_device import OnDevice

COUNT = 60


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(COUNT, DIM)).astype(np.float32)


def opened(model, vectors, name="t"):
    collection = IMRNNCollection.create(f"qdrant+local::memory:/{name}", model)
    collection.upsert(range(len(vectors)), vectors=vectors)
    return collection


def with_steps(model: IMRNNModel, count: int) -> IMRNNModel:
    """A model of its own with so many steps and the same weights."""
    modulator = Modulator(replace(model.modulator.config, num_steps=count))
    modulator.load_state_dict(model.modulator.state_dict())
    return IMRNNModel(model.space, modulator.eval(), active=True)


@pytest.mark.parametrize("steps", [1, 3])
def test_each_stage_is_a_model_with_fewer_steps(vectors, rng, steps):
    model, query = make_model(num_steps=steps), rng.normal(size=DIM).astype(np.float32)
    found = opened(model, vectors).search(query, limit=20, trace=True)
    assert found.trace.stages == ("database", "start", *(f"step {t}" for t in range(1, steps + 1)))
    assert found.trace.ids == tuple(result.id for result in found)
    assert found.trace.scores[0] == tuple(result.base_score for result in found)
    assert found.trace.ranks[0] == tuple(result.base_rank for result in found)
    for count, scores, ranks in zip(range(steps + 1), found.trace.scores[1:], found.trace.ranks[1:], strict=True):
        alone = opened(with_steps(model, count), vectors).search(query, limit=COUNT)
        expected = {result.id: (result.score, result.rank) for result in alone}
        assert scores == pytest.approx([expected[i][0] for i in found.trace.ids], abs=1e-6)
        assert ranks == tuple(expected[i][1] for i in found.trace.ids)
    assert found.trace.scores[-1] == tuple(result.score for result in found)
    assert found.trace.ranks[-1] == tuple(result.rank for result in found)
    assert len(set(found.trace.ranks)) > 1, "nothing moved: the test shows nothing"


def test_steering_and_filters_are_in_the_last_stage(vectors, rng):
    collection = opened(make_model(), vectors)
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    options = {"limit": 8, "steer": {"entity": 3.0}, "factor_filter": match("entity").in_top(2), "trace": True}
    for response in collection.search_batch(queries, **options):
        assert response.trace.stages[-1] == "steering"
        assert response.trace.scores[-1] == tuple(result.score for result in response)
        assert response.trace.ranks[-1] == tuple(range(1, len(response) + 1))
        assert len(response) > 1
        assert len(response.to_dict()["trace"]["stages"]) == len(response.trace.stages)


def test_a_second_pass_is_traced_over_all_candidates(vectors, rng):
    collection = opened(make_model(), vectors)
    query = rng.normal(size=DIM).astype(np.float32)
    found = collection.search(query, limit=10, coarse_k=20, passes=2, trace=True)
    assert found.trace.scores[-1] == tuple(result.score for result in found)
    assert found.trace.ranks[-1] == tuple(range(1, 11))


def test_what_cannot_move_has_no_stage(vectors, rng):
    query = rng.normal(size=DIM).astype(np.float32)
    untrained = opened(make_model(trained=False), vectors)
    assert untrained.search(query, trace=True).trace.stages == ("database",)  # not switched on
    assert untrained.search(query, trace=True, modulate=True).trace.stages == ("database", "start")
    assert untrained.search(query).trace is None


def test_the_model_is_left_as_it_was(vectors, rng):
    model = make_model(num_steps=3)
    before = model.model_id
    opened(model, vectors).search(rng.normal(size=DIM).astype(np.float32), trace=True)
    assert IMRNNModel(model.space, model.modulator).model_id == before
    assert model.modulator.config.num_steps == 3


def by_id(trace) -> np.ndarray:
    """Scores of a trace's stages, by rising id."""
    return np.array(trace.scores)[:, np.argsort(trace.ids)]


@pytest.mark.parametrize("half", [False, True])
def test_on_a_gpu_traces_start_no_thread_and_measure_nothing(vectors, rng, half, monkeypatch):
    model, query = make_model(num_steps=3), rng.normal(size=DIM).astype(np.float32)
    options = {"limit": COUNT, "coarse_k": COUNT, "trace": True}
    exact = by_id(opened(model, vectors).search(query, **options).trace)
    measured, started, start = [], [], threading.Thread.start

    def noted(thread):
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    monkeypatch.setattr(imrnn_vdb.joined, "_LINGER_S", 60.0)
    monkeypatch.setattr(imrnn_vdb.on_device, "half_keeps_ranks", lambda *parts: bool(measured.append(parts)) or half)
    monkeypatch.setattr(imrnn_vdb.served, "served", lambda *parts: Joined(OnDevice(*parts)))  # as for a GPU
    collection = opened(replace(model, precision="half"), vectors, "gpu")
    found = [collection.search(query, steer=steer, **options) for steer in (None, None, {"entity": 3.0})]
    assert len(measured) == 1
    assert started.count("imrnn_vdb-modulate") == 1
    for response in found:
        far = np.abs(by_id(response.trace)[: len(exact)] - exact).max(axis=1)
        assert (far < (1e-2 if half else 1e-6)).all()
        assert ((far[1:] > 1e-6) == half).all(), "each stage is as precise as the model"

"""Factor filters on a sidecar, on Milvus Lite and a server: every way of finding matches agrees with brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pymilvus import DataType, MilvusClient

from expressions import combined, document_conditions, naive
from factory import DIM, NAMES, make_model
from imrnn_vdb import IMRNNCollection, factor
from imrnn_vdb_milvus import filtered

COUNT = 150
_numbers = itertools.count()
few_questions = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", params=["lite", pytest.param("server", marks=pytest.mark.integration)])
def collection(request, tmp_path_factory) -> Iterator[IMRNNCollection]:
    """A collection as a team has it, with its codes in a sidecar."""
    if request.param == "server":
        uri = request.getfixturevalue("milvus_server_url").replace("milvus://", "http://")
    else:
        uri = str(tmp_path_factory.mktemp("filtered") / "milvus.db")
    client, name = MilvusClient(uri), f"filtered_{request.param}_{next(_numbers)}"
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = client.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="COSINE")
    if client.has_collection(name):
        client.drop_collection(name)
    client.create_collection(name, schema=schema, index_params=indexes)
    vectors = np.random.default_rng(7).normal(size=(COUNT, DIM)).astype(np.float32)
    client.upsert(name, [{"id": i, "vector": v.tolist(), "n": i, "part": i % 2} for i, v in enumerate(vectors)])
    client.load_collection(name)
    opened = IMRNNCollection.from_client(client, name, make_model(trained=False), timeout=60.0)
    opened.backfill()
    assert client.has_collection(f"{name}_imrnn_{opened.model.space.space_id}")
    yield opened
    opened.drop()
    client.close()


WAYS = {
    "listed": lambda _matching, _window: "listed",
    "asked": lambda _matching, _window: "asked",
    "asked, then listed": lambda _matching, window: "asked" if window <= 10 else "listed",
    "read": lambda _matching, _window: "read",
    "read, then asked": lambda _matching, window: "read" if window <= 10 else "asked",
}


@pytest.fixture(params=[*WAYS, "asked, payload last", "read, payload last"])
def way(request, monkeypatch) -> str:
    """Each way of finding matches, at sizes at which it is taken here."""
    name, _, last = request.param.partition(", payload ")
    monkeypatch.setattr(filtered, "cheapest_way", WAYS[name])
    monkeypatch.setattr(filtered.FilteredSteps, "_first_window", _small_window)
    if last:
        monkeypatch.setattr(filtered, "_WITH_PAYLOAD", 0)
    return str(request.param)


def _small_window(self, limit, matching):
    yield from ()
    return limit


def test_random_filters_agree_with_brute_force(collection, way):
    query = np.random.default_rng(3).normal(size=DIM).astype(np.float32)
    everything = collection.search(query, limit=COUNT, coarse_k=COUNT)
    assert len(everything) == COUNT

    @few_questions
    @given(combined(document_conditions(NAMES)))
    def agrees(tree):
        expected = [(r.id, r.payload) for r in everything if naive(tree, r.factors, {})]
        found = collection.search(query, limit=10, coarse_k=10, factor_filter=tree)
        assert [(r.id, r.payload) for r in found] == expected[:10]
        assert all(result.modulated is False for result in found)
        part = collection.search(query, limit=10, coarse_k=10, factor_filter=tree, payload_filter="part == 1")
        assert [(r.id, r.payload) for r in part] == [(i, p) for i, p in expected if p["part"] == 1][:10]

    agrees()


def test_a_batch_is_answered_query_by_query(collection, way):
    queries = np.random.default_rng(4).normal(size=(4, DIM)).astype(np.float32)
    options = {"limit": 7, "coarse_k": 7, "factor_filter": factor("entity") >= 0.7}
    together = collection.search_batch(queries, **options)
    assert [[r.id for r in response] for response in together] == [
        [r.id for r in collection.search(query, **options)] for query in queries
    ]
    assert all(len(response) == 7 for response in together)


def test_the_cheapest_way_depends_on_how_many_match():
    sizes = {(19_674, 133): "asked", (8_858, 294): "asked", (3_755, 693): "read", (1_952, 1_332): "read"}
    sizes |= {(395, 6_583): "listed", (50, 16_384): "listed", (20_000, 6_500): "asked"}
    assert {size: filtered.cheapest_way(*size) for size in sizes} == sizes


@pytest.mark.parametrize("first", ["listed", "read", "asked", None])
@pytest.mark.parametrize("wrong", [0, 5, COUNT, 10_000])
def test_a_wrong_hint_costs_time_and_changes_nothing(collection, wrong, first, monkeypatch):
    if first is not None:
        monkeypatch.setattr(filtered, "cheapest_way", WAYS[first])
    monkeypatch.setattr(filtered, "_SPARE", 3)
    query, tree = np.random.default_rng(5).normal(size=DIM).astype(np.float32), factor("entity") >= 0.4
    store = collection._core.store
    right = collection.count(factor_filter=tree)
    expected = [r.id for r in collection.search(query, limit=right, coarse_k=right, factor_filter=tree)]
    for everything in (0, 1, COUNT, 10**6):
        for condition in list(store._counts._held):
            store._counts.note(condition, wrong)
        store._counts.note("", everything)
        found = collection.search(query, limit=right, coarse_k=right, factor_filter=tree)
        assert [r.id for r in found] == expected
        assert len(found) == right > 5
        assert found.growth is None

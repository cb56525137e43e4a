"""Each branch of the failure policy (DESIGN.md §6), on every engine, sync and async, in single and batch searches."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_collection import Collection, data, make  # noqa: F401  (the fixture)

from factory import SlowModulator, make_model
from imrnn_vdb import factor
from imrnn_vdb.errors import StoreError, StoreUnavailableError

COUNT = 24


@pytest.fixture
def collection(make, rng, caplog: pytest.LogCaptureFixture) -> Collection:  # noqa: F811
    """A collection whose model moves everything, and its log."""
    caplog.set_level(logging.INFO, logger="imrnn_vdb")
    made = make(make_model(factors=24), modulation_timeout=30.0)
    ids, vectors, payloads = data(rng, COUNT)
    made.call("upsert", ids, vectors=vectors, payloads=payloads)
    return made


def searched(collection: Collection, query: np.ndarray) -> Iterator[Any]:
    """The responses of a single search, of the same query in a batch, and of reranking all points."""
    yield collection.call("search", query, limit=2 * COUNT)
    yield from collection.call("search_batch", np.stack([query, query]), limit=2 * COUNT)
    yield collection.call("rerank", query, [*(f"doc-{i}" for i in range(COUNT)), "bare", "foreign", "stale"])


def test_candidates_without_a_usable_code_keep_their_base_score_and_are_marked(collection, rng, caplog) -> None:
    core, connection = collection.inner._core, collection.inner._connection
    store = core.store
    vectors = data(rng, 3)[1]
    points = core.points(["bare", "foreign", "stale"], None, vectors, None)
    other = make_model(factors=24, seed=9).space
    there = replace(store.layout, space_id=other.space_id, code_storage="payload")
    codes = points.codes
    codes.directions[2] *= -1
    for row, layout, changes in (
        (0, store.layout, {"codes": None, "factor_scores": None}),
        (1, there, {"codes": other.encode(vectors[1:2])}),
        (2, store.layout, {"codes": codes.take(np.array([2])), "factor_scores": points.factor_scores[2:]}),
    ):
        part = {"factor_scores": points.factor_scores[row : row + 1], **changes}
        one = replace(points, ids=[points.ids[row]], vectors=vectors[row : row + 1], payloads=[{}], **part)
        writing = type(store)(store.collection, layout).upsert(one)
        collection.loop.run_until_complete(connection.arun(writing)) if collection.loop else connection.run(writing)
    query = 3 * vectors[2] + 0.1 * rng.normal(size=32)  # so near that the stale code cannot be true
    for response in searched(collection, query):
        assert response.modulated
        found = {result.id: result for result in response}
        unknown = "another factor space" if store.layout.code_storage == "payload" else "no factor code"
        for name, reason in (("bare", "no factor code"), ("foreign", unknown), ("stale", "older than its vector")):
            assert not found[name].modulated
            assert reason in found[name].reason
            assert found[name].score == found[name].base_score
        assert sum(result.modulated for result in response) == COUNT
    # the database knows the stale code's scores; a point without a usable code matches no factor filter all the same
    matching = collection.call("search", query, limit=COUNT + 3, factor_filter=factor("entity") >= 0)
    assert {result.id for result in matching} == {f"doc-{i}" for i in range(COUNT)}
    assert "candidates have no usable factor code" in caplog.text


def test_a_modulation_that_fails_or_takes_too_long_returns_the_databases_order(
    collection, rng, caplog, monkeypatch
) -> None:
    core, model = collection.inner._core, collection.inner.model
    model.modulator.pool.data.fill_(float("nan"))
    check_base_order(collection, rng, "modulation failed (ArithmeticError)", caplog)
    slow = SlowModulator()
    monkeypatch.setitem(vars(model), "modulate", slow)
    core.limit = replace(core.limit, seconds=0.05)
    check_base_order(collection, rng, "modulation was not waited for (it took longer than 0.05 s)", caplog)
    for _ in range(5):  # three are overdue already
        collection.call("search", rng.normal(size=32))
    check_base_order(collection, rng, "8 earlier ones are still running", caplog)
    slow.go_on.set()


def check_base_order(collection: Collection, rng: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    query = rng.normal(size=32)
    base = [result.id for result in collection.call("search", query, limit=COUNT, modulate=False)]
    for response in searched(collection, query):
        assert not response.modulated
        assert reason in response.reason
        assert [result.id for result in response] == base
        assert all(result.score == result.base_score and not result.modulated for result in response)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 3  # one for the single search, one for the batch, one for the reranking
    assert all("the database's order is returned" in record.getMessage() for record in warned)


def test_a_database_error_is_ours_after_bounded_retries(collection, rng, caplog, monkeypatch) -> None:
    connection, query = collection.inner._connection, rng.normal(size=32)
    genuine, left = connection.client, [StoreUnavailableError("away for now")] * 2

    class Away:
        def __getattr__(self, name: str) -> Any:
            if left:
                raise left.pop()
            return getattr(genuine, name)

    monkeypatch.setattr(connection, "client", Away())
    assert len(collection.call("search", query, limit=COUNT)) == COUNT
    assert caplog.text.count("trying again") == 2
    for method, question in (("search", query), ("search_batch", query[None])):
        left[:] = [StoreUnavailableError("away for now")] * 9
        with pytest.raises(StoreError, match="away for now"):
            collection.call(method, question)
        assert len(left) == 9 - connection.attempts
    assert caplog.text.count("gave up after 4 attempts") == 2
    monkeypatch.undo()

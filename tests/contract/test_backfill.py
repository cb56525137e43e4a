"""Codes for points that are there already: on every engine, sync and async."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_collection import COUNT, Collection, data, finish, make  # noqa: F401

from factory import make_model
from imrnn_vdb import add_factor
from imrnn_vdb.codec import CodeStatus
from imrnn_vdb.filters import factor
from imrnn_vdb.layout import is_own_field
from imrnn_vdb.points import Points

_counter = itertools.count()


@pytest.fixture
def filled(make: Any, rng: np.random.Generator) -> tuple[Collection, str, np.ndarray, list[dict[str, Any]]]:  # noqa: F811
    """A collection of another model's, with that model's codes, opened with a model whose codes it lacks."""
    name = f"backfill_{next(_counter)}"
    first = make(make_model(seed=0), name)
    ids, vectors, payloads = data(rng)
    first.call("upsert", ids, vectors=vectors, payloads=payloads)
    first.call("close")
    return make(make_model(seed=1), name, opening="open"), name, vectors, payloads


def contents(collection: Collection) -> tuple[list[Any], np.ndarray, list[dict[str, Any]]]:
    found: Points = collection.call("fetch", [f"doc-{i}" for i in range(COUNT)], with_vectors=True)
    assert found.vectors is not None
    return found.ids, found.vectors, found.payloads


def test_a_pass_is_bounded_counted_and_repeatable(filled: Any, driver: Any) -> None:
    collection, *_ = filled
    before = contents(collection)
    dry = collection.call("backfill", dry_run=True)
    assert (dry.seen, dry.written, dry.current) == (COUNT, COUNT, 0)
    assert collection.call("verify", None).differing in ({"missing": COUNT}, {"other_space": COUNT})
    assert collection.call("backfill", limit=25, batch_size=10).written == 25
    part = collection.call("backfill", payload_filter=driver.engine.equals("part", 1))
    assert (part.seen, part.current + part.written) == (COUNT // 2, COUNT // 2)
    rest = collection.call("backfill", batch_size=7, rate=1e6)
    assert rest.written == COUNT - 25 - part.written
    assert collection.call("backfill").written == 0
    assert collection.call("verify", 10).checked == 10
    report = collection.call("verify", None)
    assert (report.checked, report.intact) == (COUNT, True)
    assert collection.call("count", factor_filter=factor("entity") >= 0.0) == COUNT
    for one, other in zip(before, contents(collection), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_space_is_filled_beside_the_first_which_then_goes(
    filled: Any,
    make: Any,  # noqa: F811
    rng: np.random.Generator,
    driver: Any,
) -> None:
    second, name, *_ = filled
    before, query = contents(second), rng.normal(size=32)
    second.call("backfill")
    second.call("close")

    def opened(seed: int) -> Collection:  # one at a time: local mode locks its folder
        return make(make_model(seed=seed), name, opening="open")

    def serves(seed: int) -> bool:
        collection = opened(seed)
        modulated = [result.modulated for result in collection.call("search", query, limit=COUNT)]
        filtered = collection.call("count", factor_filter=factor("entity") >= 0.0)
        intact = collection.call("verify", None).intact
        collection.call("close")
        assert (len(set(modulated)), filtered, intact) == (1, COUNT * modulated[0], modulated[0])
        return modulated[0]

    third = opened(2)
    third.call("backfill")
    third.call("close")
    assert serves(0)
    assert serves(1)
    assert serves(2)  # whichever is opened serves
    third = opened(2)
    third.call("undo", make_model(seed=1).space.space_id)
    third.call("close")
    assert serves(0)
    assert not serves(1)
    assert serves(2)
    third = opened(2)
    third.call("undo", make_model(seed=0).space.space_id, in_place=driver.engine.rewrites_rows)
    ids, stored, payloads = contents(third)
    assert (ids, payloads) == (before[0], before[2])
    np.testing.assert_allclose(stored, before[1], rtol=1e-6)  # local mode normalises again when it opens its folder
    third.call("close")
    assert not serves(0)
    assert serves(2)


def test_stale_codes_are_found_and_written_again(filled: Any, rng: np.random.Generator) -> None:
    collection, *_ = filled

    def run(operation: Any) -> Any:
        connection = collection.inner._connection
        return (
            connection.run(operation)
            if collection.loop is None
            else finish(collection.loop, connection.arun(operation))
        )

    collection.call("backfill")
    store = collection.inner._core.store
    bare = Points(["doc-3", "doc-4"], rng.normal(size=(2, 32)).astype(np.float32), [{"n": 3}, {"n": 4}])
    old = run(store.fetch(bare.ids))
    run(store.upsert(bare))
    run(store.write_codes(bare.ids, old.codes, old.factor_scores))  # as a writer who keeps our keys leaves them
    found = collection.call("verify", None)
    assert (found.differing, set(found.ids)) == ({"stale": 2}, {"doc-3", "doc-4"})
    assert collection.call("backfill").written == 2
    assert collection.call("verify", None).intact


def test_a_new_factor_is_written_beside_codes_that_stay(
    filled: Any,
    make: Any,  # noqa: F811
    rng: np.random.Generator,
) -> None:
    collection, name, *_ = filled
    collection.call("backfill")
    before = collection.call("fetch", [f"doc-{i}" for i in range(COUNT)])
    model = collection.inner.model
    collection.call("close")
    examples = rng.normal(size=(60, model.space.num_factors)) + np.repeat([[1.0], [0.0]], 30, axis=0)
    own = add_factor(model.space, "cricket", examples[:30], examples[30:])
    wider = make(replace(model, space=own.space), name, opening="open")
    assert wider.call("verify", None).differing == {"without_score": COUNT}
    assert (wider.call("backfill").written, wider.call("backfill").written) == (COUNT, 0)
    after = wider.call("fetch", [f"doc-{i}" for i in range(COUNT)])
    np.testing.assert_array_equal(after.codes.directions, before.codes.directions)
    np.testing.assert_array_equal(after.factor_scores[:, :-1], before.factor_scores)
    assert wider.call("count", factor_filter=factor("cricket") >= 0.0) == COUNT
    wider.call("undo")
    assert wider.call("count", factor_filter=factor("cricket") >= 0.0) == 0


def test_points_that_come_and_go_are_followed(filled: Any, rng: np.random.Generator) -> None:
    collection, *_ = filled
    collection.call("backfill")
    collection.call("upsert", ["new"], vectors=rng.normal(size=(1, 32)))
    assert collection.call("fetch", ["new"]).codes.current.all()  # a point that is written here has its code at once
    collection.call("delete", ["new", "doc-0"])
    report = collection.call("backfill")
    assert (report.seen, report.written, report.orphans) == (COUNT - 1, 0, 0)
    assert collection.call("count", factor_filter=factor("entity") >= 0.0) == COUNT - 1
    assert collection.call("fetch", ["new", "doc-0"]).ids == []


def test_factor_filters_and_limits_hold_with_codes_of_a_backfill(filled: Any, rng: np.random.Generator) -> None:
    collection, *_ = filled
    collection.call("backfill")
    scores = collection.call("fetch", [f"doc-{i}" for i in range(COUNT)]).factor_scores[:, 0]
    level = float(np.sort(scores)[-5])
    found = collection.call("search", rng.normal(size=32), limit=COUNT, factor_filter=factor("entity") >= level)
    assert {result.id for result in found} == {f"doc-{i}" for i in np.flatnonzero(scores >= np.float32(level))}
    assert len(collection.call("search", rng.normal(size=32), limit=3, factor_filter=factor("entity") >= 0.0)) == 3


def test_writers_of_their_own_can_compute_the_payload(filled: Any, rng: np.random.Generator) -> None:
    collection, *_ = filled
    vectors = rng.normal(size=(2, 32)).astype(np.float32)
    first, second = collection.call("payload_for", vectors)
    layout = collection.inner._core.store.layout
    assert first.keys() == second.keys() == {layout.code_field, *map(layout.factor_field, layout.factor_names)}
    assert all(is_own_field(key) for key in first)
    collection.call("upsert", ["x"], vectors=vectors[:1])
    stored = collection.call("fetch", ["x"])
    assert stored.codes.status.tolist() == [CodeStatus.CURRENT]
    names = collection.inner.model.space.names
    np.testing.assert_allclose([first[layout.factor_field(name)] for name in names], stored.factor_scores[0], atol=1e-6)

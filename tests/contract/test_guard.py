"""A guarded store: to it, points outside the guard do not exist, on every engine, sync and async."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drivers import Driver
from test_store import DIM, make_codes, make_points, read_all

from imrnn_vdb.errors import InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.filters import factor
from imrnn_vdb.points import Points
from imrnn_vdb.store import Store

MINE, THEIRS = 'a"b\\c', "other"
KEYS = [f"doc-{number}" for number in range(20)]
ESCAPES = [
    'tenant != ""',
    'id != "" or id != "nobody"',
    'id != "") or (id != ""',
    'tenant == "other") or (tenant == "other"',
    'tenant == "other") or (tenant == "x" or tenant == "',
    "tenant == 'other') or ('' == '",
    ") or (tenant == 'other'",
    'tenant != "a\\")" or (id != ")"',
]


def tenants(driver: Driver, rng: np.random.Generator) -> tuple[Store, Store, Points]:
    """Return an open store, a guarded one of the same collection, and its points: even rows are the guard's."""
    store = driver.create(DIM)
    points = make_points(rng, driver, list(KEYS))
    for row, payload in enumerate(points.payloads):
        payload["tenant"] = THEIRS if row % 2 else MINE
    driver.call(store.upsert(points))
    return store, guarded(driver, store), points


def guarded(driver: Driver, store: Store, guard: Any = None) -> Store:
    return driver.backend.store(
        driver.connection, store.collection, store.layout, {"tenant": MINE} if guard is None else guard
    )


def test_no_read_returns_a_point_outside_the_guard(driver: Driver, rng: np.random.Generator) -> None:
    _, store, points = tenants(driver, rng)
    mine = set(KEYS[::2])
    assert driver.call(store.count()) == driver.call(store.info()).count == len(mine)
    assert driver.call(store.count(driver.engine.equals("tenant", THEIRS))) == 0
    assert driver.call(store.count(factor_filter=factor("entity") >= 0.0)) == len(mine)
    assert driver.call(store.fetch(KEYS, with_vectors=True)).ids == KEYS[::2]
    assert driver.call(store.fetch(KEYS[1::2])).ids == []
    assert set(read_all(driver, store, 3)) == set(read_all(driver, store, 3, with_vectors=True)) == mine
    assert read_all(driver, store, 3, payload_filter=driver.engine.equals("tenant", THEIRS)) == []
    for filters in (
        {},
        {"factor_filter": ~(factor("entity") > 1.0)},
        {"payload_filter": driver.engine.equals("part", 1)},
        {"payload_filter": driver.engine.equals("tenant", THEIRS)},
    ):
        found = driver.call(store.search(points.vectors[:3], len(KEYS), **filters))
        assert all(set(candidates.ids) <= mine for candidates in found)
    assert [set(candidates.ids) for candidates in driver.call(store.search(points.vectors[:2], 50))] == [mine, mine]


def test_no_expression_of_a_caller_lifts_the_guard(driver: Driver, rng: np.random.Generator) -> None:
    if not isinstance(driver.engine.equals("tenant", MINE), str):
        pytest.skip("a filter object lies in its own place; only expressions are text")
    _, store, points = tenants(driver, rng)
    for expression in ESCAPES:
        try:
            [found] = driver.call(store.search(points.vectors[:1], len(KEYS), expression))
            seen = [*found.ids, *read_all(driver, store, 50, payload_filter=expression)]
            assert driver.call(store.count(expression)) <= len(KEYS) // 2
        except (InvalidInputError, StoreError):
            continue
        assert set(seen) <= set(KEYS[::2]), expression


def test_writes_and_deletions_stay_inside_the_guard(driver: Driver, rng: np.random.Generator) -> None:
    whole, store, _ = tenants(driver, rng)
    before = driver.call(whole.fetch(KEYS[1::2], with_vectors=True))
    codes, scores = make_codes(len(KEYS), rng), np.full((len(KEYS), len(driver.engine.names)), 0.5, np.float32)
    driver.call(store.write_codes(KEYS, codes, scores))
    driver.call(store.delete(KEYS[:4]))
    after = driver.call(whole.fetch(KEYS[1::2], with_vectors=True))
    assert after.ids == before.ids
    assert after.payloads == before.payloads
    np.testing.assert_array_equal(after.codes.directions, before.codes.directions)
    assert driver.call(whole.fetch(KEYS)).ids == [key for row, key in enumerate(KEYS) if row % 2 or row >= 4]
    with pytest.raises(UnsupportedError, match="guard"):
        driver.call(store.drop())


def test_an_upsert_neither_replaces_nor_adds_a_point_outside_the_guard(
    driver: Driver, rng: np.random.Generator
) -> None:
    whole, store, _ = tenants(driver, rng)
    vector = rng.normal(size=(1, DIM)).astype(np.float32)
    for key, payload, message in (
        (KEYS[1], {"tenant": MINE}, "taken by points outside the guard"),
        ("new", {"tenant": THEIRS}, "guard's value under 'tenant'"),
        ("new", {}, "guard's value under 'tenant'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            driver.call(store.upsert(Points([key], vector, [payload])))
    assert driver.call(whole.count()) == len(KEYS)
    assert driver.call(whole.fetch([KEYS[1]])).payloads[0]["tenant"] == THEIRS
    driver.call(store.upsert(Points(["new", KEYS[0]], np.repeat(vector, 2, 0), [{"tenant": MINE}] * 2)))
    assert driver.call(store.count()) == len(KEYS) // 2 + 1


def test_codes_are_not_undone_behind_a_guard(driver: Driver, rng: np.random.Generator) -> None:
    everyone, store, _ = tenants(driver, rng)
    with pytest.raises(UnsupportedError, match="open it without one"):
        driver.call(store.strip_codes(store.layout.space_id, 100))
    codes = driver.call(everyone.fetch(KEYS)).codes
    assert codes is not None
    assert codes.current.all()


def test_a_guard_may_be_the_databases_own_filter(driver: Driver, rng: np.random.Generator) -> None:
    whole, _, points = tenants(driver, rng)
    own = guarded(driver, whole, driver.engine.equals("part", 1))
    expected = [key for key, payload in zip(KEYS, points.payloads, strict=True) if payload["part"] == 1]
    assert driver.call(own.count()) == len(expected)
    assert driver.call(own.fetch(KEYS)).ids == expected
    [found] = driver.call(own.search(points.vectors[:1], len(KEYS), driver.engine.equals("tenant", MINE)))
    assert set(found.ids) == set(expected) & set(KEYS[::2])
    with pytest.raises(UnsupportedError, match="mapping"):
        driver.call(own.upsert(Points(["x"], points.vectors[:1], [{"part": 1}])))


def test_a_guard_that_guards_nothing_is_refused(driver: Driver) -> None:
    layout = driver.layout()
    for guard in ({}, "  ", {"tenant": None}, {"tenant": [1]}, {"": "a"}, {1: "a"}, 7):
        with pytest.raises(InvalidInputError):
            driver.backend.store(driver.connection, "any", layout, guard)


def test_a_guard_cannot_be_changed_by_its_giver(driver: Driver, rng: np.random.Generator) -> None:
    whole, _, _ = tenants(driver, rng)
    guard = {"tenant": MINE}
    store = guarded(driver, whole, guard)
    guard["tenant"] = THEIRS
    assert driver.call(store.fetch(KEYS)).ids == KEYS[::2]

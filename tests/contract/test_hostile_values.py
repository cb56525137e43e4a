"""Hostile values on every engine: no value changes what a query means, and nothing but our errors is raised.

What a query must return is computed in Python over the same points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from drivers import Driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store import DIM, make_codes, make_points, read_all

import hostile
from imrnn_vdb.errors import IMRNNError, InvalidInputError
from imrnn_vdb.filters import factor
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb.store import Store

MODES = ("sync",)  # what is sent is the same
COUNT = 30
OURS = "imrnn_"


def tried(driver: Driver, examples: int) -> Callable[[Any], Any]:
    """Settings for examples that share one collection; fewer on a server, whose answers take milliseconds."""
    number = examples // 4 if driver.engine.server else examples
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def only_our_errors() -> Iterator[None]:
    """Let our errors pass for an answer, and nothing else."""
    with suppress(IMRNNError):
        yield


def same(left: Any, right: Any) -> bool:
    """Equality of JSON; Qdrant Edge reads some floats back one bit off."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-15, abs_tol=0)
    return type(left) is type(right) and bool(left == right)


def storable(driver: Driver, texts: list[str]) -> list[str]:
    """Keep the texts that this engine's ids can be."""
    return [text for text in texts if text and hostile.is_text(text) and len(text.encode()) <= driver.engine.longest_id]


def all_of(driver: Driver, store: Store) -> set[str]:
    """Ids by count, search, scroll and fetch, which must agree."""
    total = driver.call(store.count())
    [found] = driver.call(store.search(np.ones((1, DIM), np.float32), 3 * COUNT))
    scrolled = read_all(driver, store, 7)
    assert len(scrolled) == len(set(scrolled)) == total
    assert set(found.ids) == set(scrolled)
    return set(scrolled)


def test_ids_are_found_read_and_deleted_as_they_are(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    ids = storable(driver, hostile.TEXTS)
    driver.call(store.upsert(make_points(rng, driver, ids)))
    assert all_of(driver, store) == set(ids)

    @tried(driver, 80)
    @given(st.lists(hostile.texts, max_size=4))
    def reads(asked: list[str]) -> None:
        if all(map(hostile.is_text, asked)):
            assert driver.call(store.fetch(asked)).ids == [value for value in asked if value in ids]
        else:
            with pytest.raises(InvalidInputError):
                driver.call(store.fetch(asked))
            with pytest.raises(InvalidInputError):
                driver.call(store.delete(asked))

    reads()
    gone = ids[::2]
    driver.call(store.delete([*gone, '" or id != "', "no such id"]))
    assert all_of(driver, store) == set(ids) - set(gone) - {'" or id != "'}


def test_a_filter_that_the_database_does_not_take_is_its_callers_fault(
    driver: Driver, rng: np.random.Generator
) -> None:
    store = driver.create(DIM)
    driver.call(store.upsert(make_points(rng, driver, ["a"])))
    milvus = driver.engine.name.startswith("milvus")
    text = 'n > or n == "already exist"' if milvus else '{"must": [{"key": "a[b", "match": {"value": 1}}]}'
    with pytest.raises(InvalidInputError):
        driver.call(store.count(store.parse_filter(text)))
    with pytest.raises(InvalidInputError):
        driver.call(store.search(np.ones((1, DIM), np.float32), 3, store.parse_filter(text)))
    with pytest.raises(InvalidInputError):
        driver.call(store.scroll(3, None, store.parse_filter(text)))
    if driver.engine.name.startswith("milvus-lite"):
        with pytest.raises(InvalidInputError, match="recursion"):
            driver.call(store.count("(" * 2000 + "n > 1" + ")" * 2000))
    assert driver.call(store.count()) == 1


def test_a_guards_keys_and_values_are_compared_as_they_are(driver: Driver, rng: np.random.Generator) -> None:
    """A guard is the one filter that is built here from the caller's keys and values."""
    store = driver.create(DIM)
    values: list[Any] = [text for text in hostile.TEXTS if hostile.is_text(text)]
    values += [0, 1, -1, 2**53 + 1, 2**63 - 1, True, False]
    keys = ["tenant", "with space", "quo'te", "漢字", "a-b"]
    points = make_points(rng, driver, [f"p{row}" for row in range(len(values))])
    for row, value in enumerate(values):
        points.payloads[row] = {"tenant": value, keys[row % len(keys)]: value, "n": row}
    driver.call(store.upsert(points))

    lite = driver.engine.name.startswith("milvus-lite")  # to which 1 and true are equal: it refuses guards of booleans

    @tried(driver, 120)
    @given(st.sampled_from(keys) | hostile.texts, st.sampled_from(values) | hostile.scalars)
    def guards(key: str, value: Any) -> None:
        expected = {
            points.ids[row]
            for row, payload in enumerate(points.payloads)
            if key in payload and payload[key] == value and (lite or type(payload[key]) is type(value))
        }
        plain = key in keys[:2] and value in values and type(value) in (str, int)
        with nullcontext() if plain else only_our_errors():
            guarded = driver.backend.store(driver.connection, store.collection, store.layout, {key: value})
            found = driver.call(guarded.count())
            assert found == len(expected), (key, value)
            [hits] = driver.call(guarded.search(np.ones((1, DIM), np.float32), 3 * COUNT))
            assert set(hits.ids) == expected, (key, value)
            assert set(driver.call(guarded.fetch(points.ids)).ids) == expected, (key, value)
        if plain:  # the same as a payload filter of the caller's own
            mine = driver.engine.equals(key, value)
            assert driver.call(store.count(mine)) == len(expected), (key, value)
            assert set(read_all(driver, store, 7, payload_filter=mine)) == expected, (key, value)
            assert driver.call(guarded.count(driver.engine.equals("n", -1))) == 0

    guards()


def test_payloads_come_back_as_they_were_or_are_refused(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    driver.call(store.upsert(make_points(rng, driver, ["kept"], coded=False)))
    kept = driver.call(store.fetch(["kept"])).payloads

    @tried(driver, 80)
    @given(st.dictionaries(hostile.texts, hostile.values, max_size=3))
    def writes(payload: dict[str, Any]) -> None:
        vector = np.ones((1, DIM), np.float32)
        try:
            driver.call(store.upsert(Points(["odd"], vector, [payload])))
        except IMRNNError:
            return
        assert all(not key.startswith(OURS) for key in payload)
        assert same(driver.call(store.fetch(["odd"])).payloads, [payload])
        assert driver.call(store.fetch(["kept"])).payloads == kept
        assert driver.call(store.count()) == 2

    writes()


def test_factors_of_any_name_are_filtered_on_by_their_own_scores(driver: Driver, rng: np.random.Generator) -> None:
    """Spaces take identifiers only; a store takes whatever names a layout has, or refuses them."""
    usable = [name for name in hostile.TEXTS if hostile.is_text(name) and 0 < len(name) < 40]
    for name in usable[5::20] if driver.engine.server else usable:
        names = ("plain", name)
        scores = np.stack([np.linspace(0, 1, COUNT), np.linspace(1, 0, COUNT)], axis=1).astype(np.float32)
        given_points = Points(
            [f"p{row}" for row in range(COUNT)],
            rng.normal(size=(COUNT, DIM)).astype(np.float32),
            [{} for _ in range(COUNT)],
            make_codes(COUNT, rng),
            scores,
        )
        store = None
        with only_our_errors():
            store = driver.store(factor_names=names)
            driver.call(store.create(DIM, Metric.COSINE))
            driver.call(store.upsert(given_points))
            expected = {given_points.ids[row] for row in range(COUNT) if scores[row, 1] >= np.float32(0.7)}
            assert driver.call(store.count(factor_filter=factor(name) >= 0.7)) == len(expected), name
            [found] = driver.call(
                store.search(np.ones((1, DIM), np.float32), COUNT, factor_filter=~(factor(name) < 0.7))
            )
            assert set(found.ids) == expected, name


def test_a_number_that_is_none_is_refused_before_anything_is_sent(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    driver.call(store.upsert(make_points(rng, driver, count=COUNT)))

    @tried(driver, 40)
    @given(st.floats())
    def compares(value: float) -> None:
        if math.isfinite(value) and 0 <= value <= 1:
            assert 0 <= driver.call(store.count(factor_filter=factor("entity") >= value)) <= COUNT
        else:
            with pytest.raises(InvalidInputError):
                factor("entity") >= value  # noqa: B015

    compares()
    for value in (math.nan, math.inf, -math.inf):
        query = np.ones((1, DIM), np.float32)
        query[0, 1] = value
        with pytest.raises(InvalidInputError):
            driver.call(store.search(query, 3))
        with pytest.raises(InvalidInputError):
            driver.call(store.upsert(Points(["odd"], query, [{}])))


def test_names_of_collections_and_vectors_lead_nowhere_else(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    driver.call(store.upsert(make_points(rng, driver, count=COUNT)))
    before = all_of(driver, store)

    @tried(driver, 60)
    @given(hostile.texts | hostile.texts.map(lambda text: store.collection + text))
    def opens(name: str) -> None:
        if name == store.collection:
            return
        there = driver.backend.store(driver.connection, name, store.layout)
        with only_our_errors():
            found = driver.call(there.count())
            pytest.fail(f"there is a collection {name!r} of {found} points")
        with only_our_errors():
            driver.call(there.drop())
        there = driver.backend.store(driver.connection, store.collection, driver.layout(vector_name=name or "x"))
        with only_our_errors():
            driver.call(there.search(np.ones((1, DIM), np.float32), 3))
            pytest.fail(f"there is a vector {name!r}")

    opens()
    assert all_of(driver, store) == before


def test_a_filter_given_as_text_is_one_or_is_refused(driver: Driver, rng: np.random.Generator) -> None:
    """Beside a guard, whatever the text says: no point outside it is ever found."""
    store = driver.create(DIM)
    points = make_points(rng, driver, count=COUNT)
    for row, payload in enumerate(points.payloads):
        payload["tenant"] = "ab"[row % 2]
    driver.call(store.upsert(points))
    guarded = driver.backend.store(driver.connection, store.collection, store.layout, {"tenant": "a"})
    mine = set(points.ids[::2])
    words = 'tenant id part n "b" \'b\' == != > in or and not || && like "%" true $meta -- /*'
    parts = st.sampled_from([*"()[]{}\"'\\,;#\n1", *words.split()])

    @tried(driver, 120)
    @given(st.lists(parts, max_size=9).map(" ".join) | hostile.texts)
    def filters(text: str) -> None:
        with only_our_errors():
            payload_filter = guarded.parse_filter(text)
            [found] = driver.call(guarded.search(np.ones((1, DIM), np.float32), 2 * COUNT, payload_filter))
            assert set(found.ids) <= mine, text
            assert driver.call(guarded.count(payload_filter)) <= len(mine), text

    filters()

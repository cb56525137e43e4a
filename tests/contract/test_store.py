"""What every store promises, on every engine, sync and async."""

from __future__ import annotations

import copy
import hashlib
import uuid
from typing import Any

import numpy as np
import pytest
from drivers import FACTORS, Driver

from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
)
from imrnn_vdb.filters import FactorFilter, factor, factor_names, matches
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Candidates, Points
from imrnn_vdb.store import Store

DIM, COUNT = 12, 40


def make_codes(count: int, rng: np.random.Generator, factors: int = FACTORS) -> Codes:
    directions = rng.normal(size=(count, factors)).astype(np.float32) / 4
    return Codes(directions, rng.uniform(0.5, 2, count).astype(np.float32), np.zeros(count, np.uint8))


def make_points(
    rng: np.random.Generator, driver: Driver, ids: list[Any] | None = None, count: int = COUNT, coded: bool = True
) -> Points:
    keys = [f"doc-{number}" for number in range(count)] if ids is None else ids
    vectors = rng.normal(size=(len(keys), DIM)).astype(np.float32)
    payloads = [{"text": f"text {number}", "part": number % 3} for number in range(len(keys))]
    codes = make_codes(len(keys), rng) if coded else None
    scores = rng.random((len(keys), len(driver.engine.names))).astype(np.float32) if coded else None
    return Points(list(keys), vectors, payloads, codes, scores)


def filled(driver: Driver, rng: np.random.Generator, metric: Metric = Metric.COSINE, **options: Any) -> Any:
    store = driver.create(DIM, metric)
    points = make_points(rng, driver, **options)
    driver.call(store.upsert(points))
    return store, points


def read_all(driver: Driver, store: Store, page_size: int = 7, **options: Any) -> list[Any]:
    ids: list[Any] = []
    cursor = None
    while True:
        page = driver.call(store.scroll(page_size, cursor, **options))
        ids += page.points.ids
        cursor = page.cursor
        if cursor is None:
            return ids


def brute_force(queries: np.ndarray, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric is Metric.DOT:
        return q @ x.T
    if metric is Metric.COSINE:
        return (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    gaps = q[:, None] - x[None]
    return -(gaps**2).sum(2) if metric is Metric.EUCLID else -np.abs(gaps).sum(2)


def checksum(points: Points) -> str:
    assert points.vectors is not None
    digest = hashlib.sha256(np.ascontiguousarray(points.vectors).tobytes())
    digest.update(repr([sorted(payload.items()) for payload in points.payloads]).encode())
    return digest.hexdigest()


def assert_codes(found: Codes, expected: Codes) -> None:
    """Half floats hold a direction to 1 part in 2,048."""
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.directions, expected.directions, rtol=5e-4, atol=1e-6)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-6)


# collections


def test_create_describes_itself_and_drops(driver: Driver) -> None:
    store = driver.create(DIM)
    info = driver.call(store.info())
    base = [vector for name, vector in info.vectors.items() if not name.startswith("imrnn_code_")]
    assert [(vector.dim, vector.metric, vector.quantized) for vector in base] == [(DIM, Metric.COSINE, False)]
    assert (store.layout.code_field in info.vectors) == (driver.engine.code_storage == "vector")
    assert info.count == 0
    assert any(char.isdigit() for char in info.server)
    assert {item.status for item in info.capabilities} <= {"works", "fallback", "no"}
    driver.call(store.drop())
    with pytest.raises(CollectionNotFoundError, match=store.collection):
        driver.call(store.info())
    driver.call(store.drop())  # dropping what is gone is no error


def test_create_refuses_an_existing_collection(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    with pytest.raises(CollectionExistsError, match=store.collection):
        driver.call(store.create(DIM, Metric.COSINE))
    assert driver.call(store.count()) == len(points)


@pytest.mark.parametrize("operation", ["search", "upsert", "fetch", "scroll", "count", "delete", "write_codes"])
def test_unknown_collection_is_named(driver: Driver, rng: np.random.Generator, operation: str) -> None:
    store, points = driver.store("no_such_collection"), make_points(rng, driver, count=2)
    operations = {
        "search": lambda: store.search(points.vectors, 3),
        "upsert": lambda: store.upsert(points),
        "fetch": lambda: store.fetch(points.ids),
        "scroll": lambda: store.scroll(3),
        "count": lambda: store.count(),
        "delete": lambda: store.delete(points.ids),
        "write_codes": lambda: store.write_codes(points.ids, points.codes, points.factor_scores),
    }
    with pytest.raises(CollectionNotFoundError, match="no_such_collection"):
        driver.call(operations[operation]())


def test_empty_collection(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    found = driver.call(store.search(rng.normal(size=(2, DIM)).astype(np.float32), 5))
    assert [len(candidates) for candidates in found] == [0, 0]
    assert driver.call(store.count()) == 0
    page = driver.call(store.scroll(5, with_vectors=True))
    assert (len(page.points), page.cursor) == (0, None)
    assert len(driver.call(store.fetch(["a"], with_vectors=True))) == 0


def test_wrong_dimension_is_refused(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    with pytest.raises(StoreError):
        driver.call(store.search(np.ones((1, DIM + 1), np.float32), 3))
    wide = Points(["wide"], np.ones((1, DIM + 1), np.float32), [{}])
    with pytest.raises(StoreError):
        driver.call(store.upsert(wide))
    assert driver.call(store.count()) == len(points)


def test_nothing_to_do_sends_nothing(driver: Driver) -> None:
    store = driver.store("no_such_collection")  # a call would raise
    assert driver.call(store.search(np.zeros((0, DIM), np.float32), 5)) == []
    assert len(driver.call(store.fetch([], with_vectors=True))) == 0
    driver.call(store.upsert(Points([], np.zeros((0, DIM), np.float32), [])))
    driver.call(store.delete([]))
    driver.call(store.write_codes([], make_codes(0, np.random.default_rng(0)), np.zeros((0, 2), np.float32)))


# writing and reading points


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("int", [0, 1, 7, 2**40, 2**62]),
        ("str", ["doc-1", "ü/ö 漢字 😀", "1", 'a "quoted" \\ id', "{x}", "A" * 300]),
        ("str", [str(uuid.UUID(int=number)) for number in (1, 2**64, 2**127)] + [str(uuid.UUID(int=5)).upper()]),
    ],
    ids=["integers", "strings", "uuids"],
)
def test_ids_come_back_as_they_were(driver: Driver, rng: np.random.Generator, id_type: Any, ids: list[Any]) -> None:
    store = driver.create(DIM, id_type=id_type)
    points = make_points(rng, driver, ids)
    driver.call(store.upsert(points))
    driver.call(store.upsert(points))  # replaces, and makes no second point
    assert driver.call(store.count()) == len(ids)
    assert driver.call(store.fetch(ids[::-1])).ids == ids[::-1]
    assert sorted(read_all(driver, store, 2)) == sorted(ids)
    [found] = driver.call(store.search(points.vectors[1:2], len(ids)))
    assert found.ids[0] == ids[1]
    assert set(found.ids) == set(ids)
    driver.call(store.delete(ids[:2]))
    assert driver.call(store.fetch(ids)).ids == ids[2:]


def test_fetch_keeps_order_and_leaves_out_what_is_not_there(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, metric=Metric.DOT)
    order = [7, 3, 11]
    wanted = ["missing", *(points.ids[row] for row in order), "gone"]
    found = driver.call(store.fetch(wanted, with_vectors=True))
    assert found.ids == wanted[1:-1]
    np.testing.assert_array_equal(found.vectors, points.vectors[order])
    assert found.payloads == [points.payloads[row] for row in order]
    assert_codes(found.codes, points.codes.take(np.array(order)))
    np.testing.assert_allclose(found.factor_scores, points.factor_scores[order], rtol=1e-6)
    assert driver.call(store.fetch(wanted)).vectors is None


PAYLOADS: list[dict[str, Any]] = [
    {"text": "naïve café — 漢字, עברית, 😀, \u0000-free \t\n\"quoted\" \\ 'single'"},
    {"ключ": "значение", "ß": 1},
    {"number": -3, "real": 0.1, "flag": True, "off": False, "zero": 0},
    {"list": ["a", "b"], "numbers": [1, 2, 3], "empty_list": [], "nested": {"a": {"b": [1, {"c": "ü"}]}}},
    {"text": ""},
    {},
]


def test_payloads_come_back_as_they_were(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    given = copy.deepcopy(PAYLOADS)
    ids = [f"p{number}" for number in range(len(given))]
    points = Points(ids, rng.normal(size=(len(ids), DIM)).astype(np.float32), given, make_codes(len(ids), rng), None)
    driver.call(store.upsert(points))
    assert given == PAYLOADS  # the caller's payloads are never changed
    assert driver.call(store.fetch(ids)).payloads == PAYLOADS
    [found] = driver.call(store.search(points.vectors[:1], 10))
    assert dict(zip(found.ids, found.payloads, strict=True)) == dict(zip(ids, PAYLOADS, strict=True))


REFUSED: list[dict[str, Any]] = [
    {"imrnn_code_0a1b2c3d": "a key of this layer"},
    {"imrnn_other": "its prefix"},
    {"real": float("nan")},
    {"deep": [{"a": float("inf")}]},
]


def test_payloads_that_cannot_be_held_are_refused(driver: Driver) -> None:
    store = driver.create(DIM)
    for payload in REFUSED:
        with pytest.raises(InvalidInputError):
            driver.call(store.upsert(Points(["a"], np.ones((1, DIM), np.float32), [payload])))
    assert driver.call(store.count()) == 0


def test_upsert_replaces_the_whole_point(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, metric=Metric.DOT)
    vector = np.full((1, DIM), 0.5, np.float32)
    driver.call(store.upsert(Points([points.ids[4]], vector, [{"new": 1}])))
    found = driver.call(store.fetch([points.ids[4]], with_vectors=True))
    np.testing.assert_array_equal(found.vectors, vector)
    assert found.payloads == [{"new": 1}]
    assert found.codes.status.tolist() == [CodeStatus.MISSING]
    assert np.isnan(found.factor_scores).all()
    assert driver.call(store.count()) == len(points)


def test_scroll_sees_every_point_once(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    for page_size in (1 if not driver.engine.server else 3, 7, COUNT, COUNT + 1):
        seen = read_all(driver, store, page_size)
        assert sorted(seen) == sorted(points.ids)
    part = read_all(driver, store, 4, payload_filter=driver.engine.equals("part", 1))
    assert sorted(part) == sorted(points.ids[1::3])


def test_scroll_survives_deletions_of_what_was_seen(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    first = driver.call(store.scroll(10))
    driver.call(store.delete(first.points.ids))
    rest, cursor = [], first.cursor
    while cursor is not None:
        page = driver.call(store.scroll(10, cursor, with_vectors=True))
        rest += page.points.ids
        cursor = page.cursor
    assert sorted(first.points.ids + rest) == sorted(points.ids)


def test_delete_ignores_what_is_not_there(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    driver.call(store.delete([points.ids[0], "missing", points.ids[1]]))
    driver.call(store.delete(["missing"]))
    assert driver.call(store.count()) == len(points) - 2


def test_a_batch_of_2000_points(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, count=2000)
    assert driver.call(store.count()) == 2000
    [found] = driver.call(store.search(points.vectors[1234:1235], 1))
    assert found.ids == [points.ids[1234]]
    codes = make_codes(2000, rng)
    driver.call(store.write_codes(points.ids, codes, points.factor_scores))
    assert_codes(driver.call(store.fetch(points.ids[1990:])).codes, codes.take(np.arange(1990, 2000)))


# search


@pytest.mark.parametrize("metric", list(Metric), ids=str)
def test_search_agrees_with_brute_force(driver: Driver, rng: np.random.Generator, metric: Metric) -> None:
    store, points = filled(driver, rng, metric)
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    expected = brute_force(queries, points.vectors, metric)
    found = driver.call(store.search(queries, 10))
    assert len(found) == 3
    for candidates, row in zip(found, expected, strict=True):
        order = np.argsort(-row)[:10]
        assert candidates.ids == [points.ids[index] for index in order]
        assert candidates.base_scores.dtype == np.float64
        np.testing.assert_allclose(candidates.base_scores, row[order], rtol=2e-5, atol=2e-5)
        assert (np.diff(candidates.base_scores) <= 0).all()
        assert list(candidates.payloads) == [points.payloads[index] for index in order]
        assert_codes(candidates.codes, points.codes.take(order))


def test_limit_above_the_size(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    [found] = driver.call(store.search(points.vectors[:1], 1000))
    assert sorted(found.ids) == sorted(points.ids)


def test_a_batch_of_queries_equals_single_searches(driver: Driver, rng: np.random.Generator) -> None:
    store, _points = filled(driver, rng)
    queries = rng.normal(size=(16, DIM)).astype(np.float32)
    together = driver.call(store.search(queries, 5))
    for query, batched in zip(queries, together, strict=True):
        [alone] = driver.call(store.search(query[None], 5))
        assert alone.ids == batched.ids
        np.testing.assert_allclose(alone.base_scores, batched.base_scores, rtol=1e-6)


def test_zero_vectors(driver: Driver, rng: np.random.Generator) -> None:
    """A zero vector has no direction: no error, a finite score, and it can be read back."""
    store, points = filled(driver, rng)
    driver.call(store.upsert(Points(["zero"], np.zeros((1, DIM), np.float32), [{}])))
    found = driver.call(store.search(np.stack([points.vectors[0], np.zeros(DIM, np.float32)]), COUNT + 1))
    assert all(np.isfinite(candidates.base_scores).all() for candidates in found)
    if driver.engine.finds_zero:
        assert found[0].base_scores[found[0].ids.index("zero")] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(driver.call(store.fetch(["zero"], with_vectors=True)).vectors, np.zeros((1, DIM)))


def test_payload_filter(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    condition = driver.engine.equals("part", 2)
    [found] = driver.call(store.search(points.vectors[:1], COUNT, payload_filter=condition))
    assert sorted(found.ids) == sorted(points.ids[2::3])
    assert driver.call(store.count(condition)) == len(points.ids[2::3])
    assert driver.call(store.count(driver.engine.equals("text", "text 5"))) == 1


ENTITY, TOPIC = factor("entity"), factor("my größe.2")
FACTOR_FILTERS: dict[str, FactorFilter] = {
    "at least": ENTITY >= 0.5,
    "above": ENTITY > 0.5,
    "at most": TOPIC <= 0.25,
    "below": TOPIC < 0.25,
    "not": ~(ENTITY >= 0.5),
    "not not": ~~(ENTITY >= 0.5),
    "and": (ENTITY >= 0.3) & (TOPIC < 0.7),
    "or": (ENTITY >= 0.9) | (TOPIC < 0.1),
    "not and": ~((ENTITY >= 0.3) & (TOPIC < 0.7)),
    "not or": ~((ENTITY >= 0.9) | (TOPIC < 0.1)),
    "deep": (ENTITY >= 0.2) & (~(TOPIC > 0.8) | ((ENTITY < 0.4) & ~(TOPIC <= 0.9))),
    "everything": ENTITY >= 0.0,
    "nothing": (ENTITY > 0.6) & (ENTITY < 0.4),
}


def test_factor_filters_agree_with_brute_force(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    extra = make_points(rng, driver, ids=["bare-1", "bare-2"], coded=False)  # without scores: matches no factor filter
    driver.call(store.upsert(extra))
    scores = dict(zip(driver.engine.names, points.factor_scores.T, strict=True))
    for name, tree in FACTOR_FILTERS.items():  # in one collection: creating one is the slow part
        if not factor_names(tree) <= scores.keys():
            continue
        expected = [key for key, hit in zip(points.ids, matches(tree, scores), strict=True) if hit]
        [found] = driver.call(store.search(points.vectors[:1], 100, factor_filter=tree))
        assert sorted(found.ids) == sorted(expected), name
        assert driver.call(store.count(factor_filter=tree)) == len(expected), name
        both = driver.call(store.search(points.vectors[:1], 100, driver.engine.equals("part", 0), tree))[0]
        assert sorted(both.ids) == sorted(set(expected) & set(points.ids[::3])), name


def test_factor_filter_bounds_are_those_of_the_stored_precision(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.create(DIM)
    scores = np.full((1, len(driver.engine.names)), 0.1, np.float32)
    vector = rng.normal(size=(1, DIM)).astype(np.float32)
    driver.call(store.upsert(Points(["a"], vector, [{}], make_codes(1, rng), scores)))
    assert driver.call(store.count(factor_filter=ENTITY >= 0.1)) == 1
    assert driver.call(store.count(factor_filter=ENTITY > 0.1)) == 0
    assert driver.call(store.count(factor_filter=ENTITY <= 0.1)) == 1


# codes


def test_write_codes_touches_nothing_else(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, metric=Metric.DOT, coded=False)
    before = driver.call(store.fetch(points.ids, with_vectors=True))
    assert set(before.codes.status) == {CodeStatus.MISSING}
    codes, scores = make_codes(COUNT, rng), rng.random((COUNT, len(driver.engine.names))).astype(np.float32)
    for _ in range(2):  # the second time over its own codes
        driver.call(store.write_codes(points.ids, codes, scores))
        after = driver.call(store.fetch(points.ids, with_vectors=True))
        assert checksum(after) == checksum(before) == checksum(points)
        assert_codes(after.codes, codes)
        np.testing.assert_allclose(after.factor_scores, scores, rtol=1e-6)
    [found] = driver.call(store.search(points.vectors[:1], COUNT))
    assert found.codes.current.all()


def test_write_codes_leaves_out_missing_points(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, coded=False)
    ids = [points.ids[0], "missing", points.ids[1]]
    codes = make_codes(3, rng)
    driver.call(store.write_codes(ids, codes, np.full((3, len(driver.engine.names)), 0.5, np.float32)))
    driver.call(store.write_codes(["missing"], codes.take(np.array([1])), np.full((1, 2), 0.5, np.float32)))
    assert driver.call(store.count()) == COUNT
    assert_codes(driver.call(store.fetch(ids)).codes, codes.take(np.array([0, 2])))


def test_points_without_code_are_marked(driver: Driver, rng: np.random.Generator) -> None:
    store, _points = filled(driver, rng)
    bare = make_points(rng, driver, ids=["bare"], coded=False)
    driver.call(store.upsert(bare))
    [found] = driver.call(store.search(bare.vectors, COUNT + 1))
    assert found.ids[0] == "bare"
    assert found.codes.status[0] == CodeStatus.MISSING
    assert not found.codes.directions[0].any()
    assert found.codes.current[1:].all()


def test_codes_of_two_spaces_lie_side_by_side(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    other = driver.store(store.collection, space_id="ffffffff", code_storage="payload")
    codes = make_codes(COUNT, rng)
    driver.call(other.write_codes(points.ids, codes, np.full((COUNT, 2), 0.25, np.float32)))
    assert_codes(driver.call(store.fetch(points.ids)).codes, points.codes)
    found = driver.call(other.fetch(points.ids))
    assert_codes(found.codes, codes)
    np.testing.assert_allclose(found.factor_scores, 0.25)
    assert found.payloads == points.payloads


def test_codes_of_another_space_are_marked(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng, coded=False)
    other = driver.store(store.collection, space_id="ffffffff", code_storage="payload")
    driver.call(other.write_codes(points.ids[:1], make_codes(1, rng), np.zeros((1, 2), np.float32)))
    if driver.engine.code_storage == "vector":
        store = driver.store(store.collection, code_storage="payload", space_id="eeeeeeee")
    [found] = driver.call(store.search(points.vectors[:1], COUNT))
    assert found.codes.status[found.ids.index(points.ids[0])] == CodeStatus.OTHER_SPACE
    assert not found.codes.current.any()


def test_malformed_codes_are_marked(driver: Driver, rng: np.random.Generator) -> None:
    if driver.engine.code_storage == "vector":
        pytest.skip("the engine itself refuses a code vector of another size")
    store, points = filled(driver, rng)
    other = driver.store(store.collection, num_factors=FACTORS - 3)
    driver.call(other.write_codes(points.ids[:1], make_codes(1, rng, FACTORS - 3), np.zeros((1, 2), np.float32)))
    [found] = driver.call(store.search(points.vectors[:1], COUNT))
    assert found.codes.status[found.ids.index(points.ids[0])] == CodeStatus.MALFORMED
    assert int(found.codes.current.sum()) == COUNT - 1


def test_only_current_codes_can_be_written(driver: Driver, rng: np.random.Generator) -> None:
    store, points = filled(driver, rng)
    codes = make_codes(1, rng)
    codes.status[0] = CodeStatus.MISSING
    with pytest.raises(InvalidInputError):
        driver.call(store.write_codes(points.ids[:1], codes, np.zeros((1, 2), np.float32)))


def test_single_precision_codes(driver: Driver, rng: np.random.Generator) -> None:
    store = driver.store(code_dtype="float32")
    driver.call(store.create(DIM, Metric.COSINE))
    points = make_points(rng, driver)
    driver.call(store.upsert(points))
    found: Candidates = driver.call(store.search(points.vectors[:1], 1))[0]
    np.testing.assert_array_equal(found.codes.directions[0], points.codes.directions[0])

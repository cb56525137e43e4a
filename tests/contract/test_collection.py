"""What `IMRNNCollection` promises, on every engine, sync and async: the same results for the same data."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drivers import Driver

from factory import make_model
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, factor
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidInputError,
    SpaceMismatchError,
    StoreError,
)
from imrnn_vdb.metric import Metric

COUNT = 60
_counter = itertools.count()


def embed(texts: list[str]) -> np.ndarray:
    """A stand-in for an encoder: a fixed random vector for each text."""
    return np.stack([np.random.default_rng(abs(hash(text)) % 2**32).normal(size=32) for text in texts])


class Collection:
    """A collection on one engine; ``call`` runs a method the same way for sync and async."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self.inner = inner
        self.loop = loop
        self.closed = False

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.closed |= method == "close"
        return finish(self.loop, getattr(self.inner, method)(*args, **kwargs))


def finish(loop: asyncio.AbstractEventLoop | None, value: Any) -> Any:
    return value if loop is None else loop.run_until_complete(value)


@pytest.fixture
def make(driver: Driver, tmp_path: Path) -> Iterator[Callable[..., Collection]]:
    """Return a function that creates or opens a collection on the driver's engine; all are dropped at the end."""
    kind = IMRNNCollection if driver.loop is None else AsyncIMRNNCollection
    base_url = driver.base_url.replace(":memory:", str(tmp_path))
    made: list[Collection] = []

    def create(model: IMRNNModel, name: str | None = None, opening: str = "create", **options: Any) -> Collection:
        if opening == "create":
            options.setdefault("code_storage", driver.engine.code_storage)
            if Metric(options.get("metric", "cosine")) not in driver.engine.metrics:
                pytest.skip(f"{driver.engine.name} has no {options['metric']} distance")
        url = f"{base_url}/{name or f'facade_{next(_counter)}'}"
        options.setdefault("encoder", embed)
        opened = getattr(kind, opening)(url, model, timeout=60.0, **options)
        made.append(Collection(finish(driver.loop, opened), driver.loop))
        return made[-1]

    yield create
    for collection in made:
        if not collection.closed:
            collection.call("drop")
            collection.call("close")


def data(rng: np.random.Generator, count: int = COUNT) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    vectors = rng.normal(size=(count, 32)).astype(np.float32)
    return (
        [f"doc-{i}" for i in range(count)],
        vectors,
        [{"n": i, "part": i % 2, "tëxt": "naïve 東京 🙂"} for i in range(count)],
    )


def expected_order(model: IMRNNModel, metric: Metric, query: np.ndarray, vectors: np.ndarray) -> list[float]:
    """The final scores by brute force, over full vectors and in one window that holds everything."""
    from imrnn_vdb.points import Candidates
    from imrnn_vdb.refine import refine

    q, d = query.astype(np.float64), vectors.astype(np.float64)
    if metric is Metric.COSINE:
        base = d @ q / np.linalg.norm(q) / np.linalg.norm(d, axis=1)
    else:
        base = d @ q if metric is Metric.DOT else -((d - q) ** 2).sum(1)
    candidates = Candidates([f"doc-{i}" for i in range(len(d))], base, model.space.encode(vectors), [{}] * len(d))
    (refined,) = refine(model, metric, query[None], [candidates], True)
    return list(refined.scored.scores)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT, Metric.EUCLID], ids=str)
def test_every_engine_gives_the_scores_of_brute_force(make, rng, metric):
    model = make_model()
    collection = make(model, metric=metric, code_dtype="float32")
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32).astype(np.float32)
    response = collection.call("search", query, limit=COUNT, explain=True)
    assert len(response) == COUNT
    assert response.modulated
    truth = expected_order(model, metric, query, vectors)
    for result in response:
        number = int(str(result.id).removeprefix("doc-"))
        assert result.modulated
        assert result.score == pytest.approx(truth[number], rel=1e-5, abs=1e-4 if metric is not Metric.COSINE else 1e-5)
        assert result.explanation.score == pytest.approx(result.score, abs=1e-6)
        assert result.payload == payloads[number]
    assert [result.rank for result in response] == list(range(1, COUNT + 1))
    scores = [result.score for result in response]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT, Metric.EUCLID], ids=str)
def test_reranking_a_window_by_its_ids_gives_what_the_search_gave(make, rng, metric):
    collection = make(make_model(), metric=metric)
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32).astype(np.float32)
    options = {"steer": {"entity": 1.5}, "explain": True}
    wanted = collection.call("search", query, limit=12, coarse_k=COUNT, **options)
    found = collection.call("rerank", query, [*ids[::-1], "nonesuch", ids[0]], limit=12, **options)
    assert found.candidates == COUNT
    assert [(r.rank, r.id, r.base_rank, r.payload) for r in found] == [
        (r.rank, r.id, r.base_rank, r.payload) for r in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)  # base scores: float64 here, float32 there
        assert one.base_score == pytest.approx(other.base_score, rel=1e-5, abs=1e-5)
        assert one.explanation.score == pytest.approx(one.score, abs=1e-6)
    assert len(collection.call("rerank", query, ids)) == len(collection.call("rerank", query, ids, limit=None)) == COUNT
    with pytest.raises(InvalidInputError, match="rerank takes no payload_filter"):
        collection.call("rerank", query, ids, payload_filter="anything")
    with pytest.raises(InvalidInputError, match="limit is a whole number, got 'ten'"):
        collection.call("rerank", query, ids, limit="ten")
    assert list(collection.call("rerank", query, ["nonesuch"])) == []


def test_two_passes_are_explained_and_compared(make, rng):
    collection = make(make_model())
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32).astype(np.float32)
    found = collection.call("search", query, passes=2)
    explained = collection.call("explain", query, found[0].id, passes=2)
    assert (explained.rank, explained.score) == (1, pytest.approx(found[0].score, abs=1e-6))
    assert collection.call("compare", query, found[0].id, found[1].id, passes=2).above == found[0].id


def test_one_id_in_place_of_a_list_is_refused_and_touches_nothing(make, rng):
    collection = make(make_model())
    ids, query = ["a", "b", "c"], rng.normal(size=32)
    collection.call("upsert", ids, vectors=rng.normal(size=(3, 32)))
    for method, arguments in (("delete", ["abc"]), ("fetch", ["abc"]), ("rerank", [query, "abc"])):
        with pytest.raises(InvalidInputError, match="point ids come as a list"):
            collection.call(method, *arguments)
    for given in ({"texts": "abc"}, {"texts": [None] * 3}, {"payloads": [None] * 3}):
        with pytest.raises(InvalidInputError):
            collection.call("upsert", ids, vectors=rng.normal(size=(3, 32)), **given)
    assert collection.call("count") == 3
    assert collection.call("fetch", ids).payloads == [{}, {}, {}]
    key = collection.inner.key_of("a")  # the same point, by its other name where it has one
    assert sorted(r.id for r in collection.call("rerank", query, ["a", key, "b"])) == ["a", "b"]


def test_what_comes_after_closing_is_refused(make, rng):
    collection = make(make_model())
    collection.call("upsert", ["a"], vectors=rng.normal(size=(1, 32)))
    collection.call("drop")
    collection.call("close")
    with pytest.raises(StoreError, match="was closed"):
        collection.call("search", rng.normal(size=32))


def test_an_untrained_model_returns_the_databases_own_order(make, rng):
    collection = make(make_model(trained=False))
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    response = collection.call("search", rng.normal(size=32), limit=COUNT, modulate=True)
    assert [result.rank for result in response] == [result.base_rank for result in response]
    assert [result.score for result in response] == [result.base_score for result in response]


def test_a_batch_equals_single_searches(make, rng):
    collection = make(make_model())
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    queries = rng.normal(size=(5, 32)).astype(np.float32)
    together = collection.call("search_batch", queries, limit=7)
    for query, response in zip(queries, together, strict=True):
        alone = collection.call("search", query, limit=7)
        assert [r.id for r in response] == [r.id for r in alone]
        np.testing.assert_allclose([r.score for r in response], [r.score for r in alone], atol=1e-5)
    assert collection.call("search_batch", np.zeros((0, 32))) == []


def test_texts_are_encoded_and_stored(make):
    collection = make(make_model(), text_field="body")
    texts = ["first text", "", "third text 東京"]
    collection.call("upsert", ["a", "b", "c"], texts=texts, payloads=[{"n": i} for i in range(3)])
    (found,) = collection.call("search", "third text 東京", limit=1, modulate=False)
    assert found.id == "c"
    assert found.payload == {"n": 2, "body": "third text 東京"}
    assert found.base_score == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [("int", [0, 7, 2**53]), ("str", ["a", "ключ", "x y/z"]), ("str", [uuid.UUID(int=i) for i in range(3)])],
    ids=["integers", "strings", "uuids"],
)
def test_ids_keep_their_kind(make, rng, id_type, ids):
    collection = make(make_model(), id_type=id_type)
    collection.call("upsert", ids, vectors=rng.normal(size=(3, 32)))
    response = collection.call("search", rng.normal(size=32))
    plain = [str(value) if isinstance(value, uuid.UUID) else value for value in ids]
    assert sorted(map(repr, (result.id for result in response))) == sorted(map(repr, plain))
    assert collection.call("fetch", [ids[1]]).ids == [plain[1]]


def test_backfill_writes_what_is_missing_and_only_that(make, rng, driver):
    first, second = make_model(seed=0), make_model(seed=1)
    name = f"facade_{next(_counter)}"
    collection = make(first, name)
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    assert collection.call("backfill").written == 0
    collection.call("close")

    query = rng.normal(size=32)
    other = make(second, name, opening="open")
    before = other.call("search", query, limit=COUNT)
    assert not any(result.modulated for result in before)  # codes of another space: base scores, marked
    seen = "has no factor code yet" if driver.engine.code_storage == "vector" else "belongs to another factor space"
    assert all(seen in result.reason for result in before)
    assert [result.score for result in before] == [result.base_score for result in before]

    seen: list[int] = []
    report = other.call("backfill", batch_size=25, progress=seen.append)
    assert (report.seen, report.written, report.current) == (COUNT, COUNT, 0)
    assert sum(seen) == COUNT
    after = other.call("search", query, limit=COUNT)
    assert all(result.modulated for result in after)
    stored = other.call("fetch", ids, with_vectors=True)
    assert stored.payloads == payloads
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    np.testing.assert_allclose(stored.vectors / np.linalg.norm(stored.vectors, axis=1)[:, None], unit, atol=1e-6)
    assert other.call("backfill").written == 0


def test_factor_scores_of_another_space_never_match(make, rng):
    """A filter is about the space that the collection was opened with, whatever another one left behind."""
    first, second = make_model(seed=0), make_model(seed=1)
    name = f"facade_{next(_counter)}"
    collection = make(first, name)
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    collection.call("close")
    other = make(second, name, opening="open")
    condition = factor("entity") >= 0.0
    assert other.call("count", factor_filter=condition) == 0
    assert len(other.call("search", rng.normal(size=32), factor_filter=condition)) == 0
    other.call("backfill")
    assert other.call("count", factor_filter=condition) == COUNT
    with pytest.raises(InvalidInputError, match="no factor is named 'entitty'"):
        other.call("count", factor_filter=factor("entitty") >= 0.0)


def test_filters_pages_and_thresholds(make, driver, rng):
    model = make_model()
    collection = make(model)
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32)
    whole = collection.call("search", query, limit=COUNT)
    pages = [collection.call("search", query, limit=20, offset=offset) for offset in (0, 20, 40)]
    assert [r.id for page in pages for r in page] == [r.id for r in whole]
    assert collection.call("search", query, limit=COUNT, threshold=whole[9].score).results == whole[:10]

    odd = collection.call("search", query, limit=COUNT, payload_filter=driver.engine.equals("part", 1))
    assert {result.payload["part"] for result in odd} == {1}
    assert len(odd) == COUNT // 2

    condition = (factor("entity") >= 0.5) & ~(factor("numeric") > 0.8)
    scores = model.space.factor_scores(model.space.encode(vectors).directions)
    matching = {f"doc-{i}" for i in np.flatnonzero((scores[:, 0] >= 0.5) & ~(scores[:, 1] > 0.8))}
    filtered = collection.call("search", query, limit=COUNT, factor_filter=condition)
    assert {result.id for result in filtered} == matching
    assert collection.call("count", factor_filter=condition) == len(matching)
    with pytest.raises(InvalidInputError, match="no factor is named 'nonesuch'"):
        collection.call("search", query, factor_filter=factor("nonesuch") > 0.5)


def test_one_point_is_explained_within_its_window(make, rng):
    collection = make(make_model())
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32)
    whole = collection.call("search", query, limit=COUNT)
    explained = collection.call("explain", query, whole[30].id)
    assert (explained.rank, explained.score) == (31, whole[30].score)
    assert explained.explanation.score == pytest.approx(explained.score, abs=1e-6)
    with pytest.raises(InvalidInputError, match="not among the 60 candidates"):
        collection.call("explain", query, "nonesuch")


def test_an_empty_collection_and_a_limit_above_its_size(make, rng):
    collection = make(make_model())
    assert collection.call("search", rng.normal(size=32)).results == ()
    assert collection.call("count") == 0
    assert collection.call("backfill").seen == 0
    collection.call("upsert", ["only"], vectors=rng.normal(size=(1, 32)))
    assert len(collection.call("search", rng.normal(size=32), limit=1000)) == 1
    collection.call("delete", ["only", "never there"])
    assert collection.call("count") == 0


def test_bad_input_is_refused_before_anything_is_sent(make, rng):
    collection = make(make_model())
    for query, error, message in (
        ("", InvalidInputError, "query 0 is empty"),
        ("  \n", InvalidInputError, "query 0 is empty"),
        (np.full(32, np.nan), InvalidInputError, "NaN"),
        (np.zeros(32), InvalidInputError, "zero vector has no cosine"),
        (np.ones(31), SpaceMismatchError, "31 dimensions"),
        (np.ones((2, 32)), InvalidInputError, r"shape \(d,\)"),
    ):
        with pytest.raises(error, match=message):
            collection.call("search", query)
    vector = rng.normal(size=(1, 32))
    for arguments, error in (
        ({"ids": ["a"], "vectors": np.full((1, 32), np.inf)}, InvalidInputError),
        ({"ids": ["a"], "vectors": np.ones((1, 5))}, SpaceMismatchError),
        ({"ids": ["a", "b"], "vectors": vector}, InvalidInputError),
        ({"ids": ["a"], "vectors": vector, "payloads": []}, InvalidInputError),
        ({"ids": ["a"]}, InvalidInputError),
        ({"ids": [""], "vectors": vector}, InvalidInputError),
        ({"ids": [True], "vectors": vector}, InvalidInputError),
        ({"ids": [-1], "vectors": vector}, InvalidInputError),
    ):
        with pytest.raises(error):
            collection.call("upsert", **arguments)
    for queries, message in (
        (["x", None], "all texts or all vectors"),
        ("text", "takes a list"),
        ([None], "vectors must"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            collection.call("search_batch", queries)
    assert collection.call("search_batch", []) == []
    with pytest.raises(InvalidInputError, match="the key 1 is no text"):
        collection.call("upsert", ["a"], vectors=vector, payloads=[{"a": {1: 2}}])
    with pytest.raises(InvalidInputError, match="64 bits"):
        collection.call("upsert", ["a"], vectors=vector, payloads=[{"a": [2**70]}])
    for options in ({"limit": 0}, {"offset": -1}, {"limit": 50, "coarse_k": 20}, {"limit": 60, "offset": 60}):
        with pytest.raises(InvalidInputError):
            collection.call("search", np.ones(32), **options)
    with pytest.raises(TypeError, match="nonesuch"):
        collection.call("search", np.ones(32), nonesuch=1)
    assert collection.call("count") == 0


def test_a_zero_vector_keeps_its_base_score(make, rng):
    collection = make(make_model(), metric="dot")
    vectors = rng.normal(size=(3, 32))
    vectors[1] = 0
    collection.call("upsert", ["a", "b", "c"], vectors=vectors)
    zero = next(r for r in collection.call("search", rng.normal(size=32)) if r.id == "b")
    assert (zero.score, zero.base_score, zero.modulated) == (0.0, 0.0, False)


def test_the_callers_data_is_never_changed(make, rng):
    collection = make(make_model())
    ids, vectors, payloads = data(rng, 5)
    before = (list(ids), vectors.copy(), copy.deepcopy(payloads))
    collection.call("upsert", ids, vectors=vectors, texts=["t"] * 5, payloads=payloads)
    assert (ids, payloads) == (before[0], before[2])
    np.testing.assert_array_equal(vectors, before[1])


def test_existing_and_missing_collections_are_said(make, driver):
    model = make_model()
    name = f"facade_{next(_counter)}"
    make(model, name).call("close")
    with pytest.raises(CollectionExistsError):
        make(model, name)
    with pytest.raises(CollectionNotFoundError, match="nonesuch"):
        make(model, "nonesuch", opening="open")
    with pytest.raises(SpaceMismatchError, match="16 dimensions"):
        make(make_model(dim=16), name, opening="open")
    make(model, name, opening="open")


def test_a_repr_names_the_collection_and_no_secret(make):
    collection = make(make_model(), api_key=None)
    assert "facade_" in repr(collection.inner)
    assert "cosine" in repr(collection.inner)


def test_a_manhattan_collection_keeps_the_databases_order(make, rng):
    collection = make(make_model(), metric="manhattan")
    ids, vectors, payloads = data(rng)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    response = collection.call("search", rng.normal(size=32), limit=COUNT)
    assert not response.modulated
    assert "does not split" in response.reason
    assert [r.rank for r in response] == [r.base_rank for r in response]


def test_a_lost_factor_score_is_written_again(tmp_path: Path, rng):
    import qdrant_edge

    model = make_model()
    config = qdrant_edge.EdgeConfig(vectors=qdrant_edge.EdgeVectorParams(size=32, distance=qdrant_edge.Distance.Cosine))
    shard = qdrant_edge.EdgeShard.create(str(tmp_path), config)
    shard.update(qdrant_edge.UpdateOperation.upsert_points([qdrant_edge.Point(1, rng.normal(size=32).tolist(), {})]))
    collection = IMRNNCollection.from_client(shard, "team", model)
    assert collection.backfill().written == 1
    (lost,) = [key for key in shard.retrieve([1], True, False)[0].payload if key.endswith("_entity")]
    shard.update(qdrant_edge.UpdateOperation.delete_payload([1], [lost]))
    assert collection.backfill().written == 1
    assert collection.count(factor_filter=factor("entity") >= 0.0) == 1
    shard.close()


@pytest.mark.parametrize("url", ["qdrant+edge:{}/no/c", "qdrant+local:{}/no/c", "milvus+lite:{}/no.db/c"])
def test_a_mistyped_path_leaves_nothing_behind(url: str, tmp_path: Path):
    with pytest.raises(CollectionNotFoundError, match="does not exist"):
        IMRNNCollection.open(url.format(tmp_path), make_model())
    assert list(tmp_path.iterdir()) == []


def test_first_searches_of_many_threads_build_one_encoder(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    url = f"qdrant+edge:{tmp_path}/c"
    with IMRNNCollection.create(url, "minilm") as collection:
        collection.upsert([1], texts=["a cat"])
    with IMRNNCollection.open(url, "minilm") as collection, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: collection.search("cats"), range(16)))
    assert {response[0].id for response in found} == {1}


def test_files_stay_in_their_folder(tmp_path: Path):
    """An embedded collection is closed, opened again, and still there."""
    model = make_model()
    url = f"qdrant+edge:{tmp_path}/kept"
    with IMRNNCollection.create(url, model) as collection:
        collection.upsert([1, 2], vectors=np.eye(32)[:2])
    with IMRNNCollection.open(url, model) as collection:
        assert collection.count() == 2
        assert all(result.modulated for result in collection.search(np.eye(32)[0]))

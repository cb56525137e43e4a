"""Qdrant Edge in this process: folders, locks, adopted shards, existing collections."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from qdrant_client import QdrantClient, models

from factory import FACTORS, make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.connection import Connection
from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidInputError,
    StoreError,
    UnsupportedError,
)
from imrnn_vdb.filters import factor
from imrnn_vdb.fitting.collection import sample_points
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import Points
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url
from imrnn_vdb_qdrant import QdrantBackend, engine

LAYOUT = Layout("0a1b2c3d", 4, ("entity", "numeric"))
DIM, COUNT = 6, 30


def connect(folder: Path, scheme: str = "qdrant+edge") -> Connection:
    return QdrantBackend().connect(parse_url(f"{scheme}:{folder}/x"), ConnectionOptions(), asynchronous=False)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    made = connect(tmp_path)
    yield made
    made.close()


def store_of(connection: Connection, name: str = "articles", layout: Layout = LAYOUT) -> Store:
    return QdrantBackend().store(connection, name, layout)


def codes(count: int) -> Codes:
    return Codes(np.full((count, 4), 0.5, np.float32), np.ones(count, np.float32), np.zeros(count, np.uint8))


def plain(rng: np.random.Generator, count: int = COUNT) -> Points:
    vectors = rng.normal(size=(count, DIM)).astype(np.float32)
    return Points(list(range(count)), vectors, [{"text": f"text {number}"} for number in range(count)])


def team_shard(folder: Path, points: Points, metric: str = "Dot", vectors: Any = None) -> qdrant_edge.EdgeShard:
    """A shard as somebody else would have made it."""
    folder.mkdir(parents=True)
    distance = getattr(qdrant_edge.Distance, metric)
    params = vectors or qdrant_edge.EdgeVectorParams(size=DIM, distance=distance)
    shard = qdrant_edge.EdgeShard.create(str(folder), qdrant_edge.EdgeConfig(vectors=params))
    name = next(iter(vectors)) if isinstance(vectors, dict) else None
    rows = [
        qdrant_edge.Point(key, {name: vector} if name else vector, payload)
        for key, vector, payload in zip(points.ids, points.vectors.tolist(), points.payloads, strict=True)
    ]
    shard.update(qdrant_edge.UpdateOperation.upsert_points(rows))
    return shard


def test_two_connections_of_one_process_share_the_shard(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = connect(tmp_path), connect(tmp_path)
    writer, reader = store_of(first), store_of(second)
    first.run(writer.create(DIM, Metric.COSINE))
    first.run(writer.upsert(plain(rng)))
    assert second.run(reader.count()) == COUNT
    first.close()
    assert second.run(reader.count()) == COUNT  # still open for the other
    second.close()
    third = connect(tmp_path)
    assert third.run(store_of(third).count()) == COUNT
    third.close()


def test_another_process_is_told_who_holds_the_folder(
    tmp_path: Path, connection: Connection, rng: np.random.Generator
) -> None:
    store = store_of(connection)
    connection.run(store.create(DIM, Metric.COSINE))
    code = (
        "import sys; from imrnn_vdb.backend import ConnectionOptions; from imrnn_vdb.layout import Layout\n"
        "from imrnn_vdb.urls import parse_url\n"
        "from imrnn_vdb_qdrant import QdrantBackend\n"
        "backend = QdrantBackend()\n"
        "url = parse_url(sys.argv[1])\n"
        "connection = backend.connect(url, ConnectionOptions(), asynchronous=False)\n"
        "connection.run(backend.store(connection, url.collection, Layout('0a1b2c3d', 4)).count())\n"
    )
    url = f"qdrant+edge:{tmp_path}/articles"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "is open elsewhere" in done.stderr.splitlines()[-1]
    connection.close()
    subprocess.run([sys.executable, "-c", code, url], check=True, timeout=120)


def _count_in_child(store: Store, connection: Connection, replies: Any) -> None:
    try:
        replies.put(connection.run(store.count()))
    except StoreError as exc:
        replies.put(str(exc))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forking beside threads
def test_a_forked_child_gets_an_error_instead_of_hanging(connection: Connection) -> None:
    store = store_of(connection)
    connection.run(store.create(DIM, Metric.COSINE))
    forking = multiprocessing.get_context("fork")
    replies = forking.SimpleQueue()
    child = forking.Process(target=_count_in_child, args=(store, connection, replies))
    child.start()
    child.join(30)
    assert not child.is_alive()
    assert "forked" in replies.get()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\\b"])
def test_names_cannot_leave_the_folder(connection: Connection, name: str) -> None:
    store = store_of(connection, name)
    with pytest.raises((InvalidInputError, StoreError), match="folder"):
        connection.run(store.create(DIM, Metric.COSINE))


def test_foreign_files_are_neither_overwritten_nor_dropped(tmp_path: Path, connection: Connection) -> None:
    (tmp_path / "articles").mkdir()
    note = tmp_path / "articles" / "note.txt"
    note.write_text("mine")
    store = store_of(connection)
    with pytest.raises(CollectionExistsError, match="articles"):
        connection.run(store.create(DIM, Metric.COSINE))
    connection.run(store.drop())
    assert note.read_text() == "mine"
    with pytest.raises(CollectionNotFoundError):
        connection.run(store.count())


def test_dropping_removes_the_folder(tmp_path: Path, connection: Connection) -> None:
    store = store_of(connection)
    connection.run(store.create(DIM, Metric.COSINE))
    assert (tmp_path / "articles").is_dir()
    connection.run(store.drop())
    assert not (tmp_path / "articles").exists()
    connection.run(store.create(DIM, Metric.DOT))


@pytest.mark.parametrize("storage", ["payload", "vector"])
def test_codes_are_added_to_a_collection_of_somebody_else(
    tmp_path: Path, rng: np.random.Generator, storage: Any
) -> None:
    points = plain(rng)
    team_shard(tmp_path / "articles", points).close()
    connection = connect(tmp_path)
    store = store_of(connection, layout=Layout("0a1b2c3d", 4, ("entity",), code_storage=storage))
    [before] = connection.run(store.search(points.vectors[:1], COUNT))
    assert set(before.codes.status) == {CodeStatus.MISSING}
    connection.run(store.write_codes(points.ids, codes(COUNT), np.full((COUNT, 1), 0.5, np.float32)))
    [after] = connection.run(store.search(points.vectors[:1], COUNT))
    assert after.codes.current.all()
    assert after.ids == before.ids
    np.testing.assert_array_equal(after.base_scores, before.base_scores)
    found = connection.run(store.fetch(points.ids, with_vectors=True))
    np.testing.assert_array_equal(found.vectors, points.vectors)
    assert found.payloads == points.payloads
    assert connection.run(store.count(factor_filter=factor("entity") >= 0.5)) == COUNT
    assert ("imrnn_code_0a1b2c3d" in connection.run(store.info()).vectors) == (storage == "vector")
    connection.close()


@pytest.mark.parametrize("metric", ["Cosine", "Dot", "Euclid", "Manhattan"])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_a_shard_of_the_caller_shows_its_metric(
    tmp_path: Path, rng: np.random.Generator, metric: str, named: bool
) -> None:
    points = plain(rng)
    params = qdrant_edge.EdgeVectorParams(size=DIM, distance=getattr(qdrant_edge.Distance, metric))
    shard = team_shard(tmp_path / "s", points, vectors={"text": params} if named else params)
    connection = QdrantBackend().adopt(shard, ConnectionOptions())
    assert connection is not None
    assert not connection.owned
    store = store_of(connection, "whatever")
    [(name, field)] = connection.run(store.info()).vectors.items()
    assert (name, field.dim, field.metric) == ("text" if named else "", DIM, Metric(metric.lower()))
    [found] = connection.run(store.search(points.vectors[3:4], 1))
    assert metric == "Dot" or found.ids == [3]
    connection.run(store.write_codes(points.ids, codes(COUNT), np.full((COUNT, 2), 0.5, np.float32)))
    assert connection.run(store.fetch(points.ids)).codes.current.all()
    with pytest.raises(UnsupportedError, match="yours"):
        connection.run(store.drop())
    connection.close()
    assert shard.count(qdrant_edge.CountRequest()) == COUNT  # still open
    shard.close()


def test_a_shard_of_the_caller_takes_codes_as_vectors(tmp_path: Path, rng: np.random.Generator) -> None:
    points = plain(rng, 100)
    shard = team_shard(tmp_path / "s", points)
    layout = Layout("0a1b2c3d", 4, (), code_storage="vector")
    for _ in range(2):  # a second store finds the vector, although the first points have no code
        connection = QdrantBackend().adopt(shard, ConnectionOptions())
        assert connection is not None
        store = store_of(connection, layout=layout)
        connection.run(store.write_codes([90, 91], codes(2), np.zeros((2, 0), np.float32)))
        [found] = connection.run(store.search(points.vectors[:1], 100))
        assert sorted(key for key, current in zip(found.ids, found.codes.current, strict=True) if current) == [90, 91]
    assert connection.run(store.info()).vectors["imrnn_code_0a1b2c3d"].dim == 3
    shard.close()


def test_an_empty_shard_of_the_caller_cannot_show_its_metric(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    params = qdrant_edge.EdgeVectorParams(size=DIM, distance=qdrant_edge.Distance.Dot)
    shard = qdrant_edge.EdgeShard.create(str(folder), qdrant_edge.EdgeConfig(vectors=params))
    connection = QdrantBackend().adopt(shard, ConnectionOptions())
    assert connection is not None
    with pytest.raises(UnsupportedError, match="empty EdgeShard"):
        connection.run(store_of(connection).info())
    shard.close()


def test_several_vectors_need_a_choice(tmp_path: Path, rng: np.random.Generator) -> None:
    params = qdrant_edge.EdgeVectorParams(size=DIM, distance=qdrant_edge.Distance.Dot)
    points = plain(rng)
    team_shard(tmp_path / "articles", points, vectors={"text": params, "title": params}).close()
    connection = connect(tmp_path)
    with pytest.raises(InvalidInputError, match=r"text, title|title, text"):
        connection.run(store_of(connection).search(points.vectors[:1], 3))
    wrong = store_of(connection, layout=Layout("0a1b2c3d", 4, vector_name="body"))
    with pytest.raises(InvalidInputError, match="no vector 'body'"):
        connection.run(wrong.search(points.vectors[:1], 3))
    chosen = store_of(connection, layout=Layout("0a1b2c3d", 4, vector_name="text"))
    assert len(connection.run(chosen.search(points.vectors[:1], 3))[0]) == 3
    other = store_of(connection, layout=Layout("0a1b2c3d", 4, vector_name="title"))
    assert len(connection.run(other.search(points.vectors[:1], 3))[0]) == 0
    assert connection.run(other.scroll(100, with_vectors=True)).points.ids == []  # none has that vector
    assert len(connection.run(other.scroll(100)).points) == COUNT
    connection.close()


def test_a_large_upsert_builds_the_index_and_small_ones_do_not(
    tmp_path: Path, connection: Connection, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imrnn_vdb_qdrant.edge._INDEX_FROM_POINTS", 20_000 // DIM // 40)  # the threshold is whole kB
    store = store_of(connection, layout=Layout("0a1b2c3d", 4))
    connection.run(store.create(DIM, Metric.COSINE))
    shard = connection.client.shard("articles")
    connection.run(store.upsert(plain(rng, 10)))
    assert shard.info().indexed_vectors_count == 0
    many = plain(rng, 400)
    connection.run(store.upsert(many))
    assert shard.info().indexed_vectors_count >= 390
    [found] = connection.run(store.search(many.vectors[7:8], 1))
    assert found.ids == [7]
    store.exact = True
    assert connection.run(store.search(many.vectors[7:8], 1))[0].ids == [7]


def test_readers_beside_a_writer(connection: Connection, rng: np.random.Generator) -> None:
    store = store_of(connection)
    connection.run(store.create(DIM, Metric.COSINE))
    points = plain(rng)
    connection.run(store.upsert(points))
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                [found] = connection.run(store.search(points.vectors[:1], 5, factor_filter=None))
                assert len(found) == 5
        except BaseException as exc:
            errors.append(exc)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        connection.run(store.upsert(points))
        connection.run(store.write_codes(points.ids, codes(COUNT), np.full((COUNT, 2), 0.5, np.float32)))
    for reader in readers:
        reader.join()
    assert errors == []


def test_readers_beside_a_writer_in_local_mode(rng: np.random.Generator) -> None:
    client = QdrantClient(":memory:")
    first, second = (QdrantBackend().adopt(client, ConnectionOptions()) for _ in range(2))  # they share one lock
    assert first is not None
    assert second is not None
    store = store_of(first)
    first.run(store.create(DIM, Metric.COSINE))
    points = plain(rng, 300)
    errors: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                second.run(store.search(points.vectors[:1], 5))
        except BaseException as exc:
            errors.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    for start in range(0, 300, 10):
        part = slice(start, start + 10)
        first.run(store.upsert(Points(points.ids[part], points.vectors[part], points.payloads[part])))
    stop.set()
    reader.join()
    client.close()
    assert errors == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # qdrant-client drops its lock file open
def test_a_local_folder_in_use_is_named(tmp_path: Path) -> None:
    holder = connect(tmp_path / "local", "qdrant+local")
    with pytest.raises(StoreError, match="is open elsewhere"):
        connect(tmp_path / "local", "qdrant+local")
    holder.close()
    connect(tmp_path / "local", "qdrant+local").close()


def test_local_mode_refuses_a_code_vector_beside_an_unnamed_one(rng: np.random.Generator) -> None:
    client = QdrantClient(":memory:")
    params = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
    client.create_collection("articles", vectors_config=params)
    connection = QdrantBackend().adopt(client, ConnectionOptions())
    assert connection is not None
    store = store_of(connection, layout=Layout("0a1b2c3d", 4, (), code_storage="vector"))
    points = plain(rng)
    connection.run(store.upsert(points))
    with pytest.raises(UnsupportedError, match="payload"):
        connection.run(store.write_codes(points.ids, codes(COUNT), np.zeros((COUNT, 0), np.float32)))
    client.close()


def test_a_filter_of_another_vendor_is_refused(connection: Connection, rng: np.random.Generator) -> None:
    store = store_of(connection)
    connection.run(store.create(DIM, Metric.COSINE))
    for wrong in (models.Filter(must=[]), "part == 1", {"must": []}):
        with pytest.raises(InvalidInputError, match=r"is a qdrant_edge\.Filter, got"):
            connection.run(store.search(np.ones((1, DIM), np.float32), 3, payload_filter=wrong))


def named(rng: np.random.Generator, count: int = COUNT) -> Points:
    """Points of two tenants, with codes, and ids that are no keys of the engine."""
    points = replace(plain(rng, count), codes=codes(count), factor_scores=np.full((count, 2), 0.5, np.float32))
    payloads = [{"text": f"text {row}", "tenant": "ab"[row % 2]} for row in range(count)]
    return replace(points, ids=[f"doc-{row}" for row in range(count)], payloads=payloads)


def test_a_sample_leaves_out_vectors_that_are_no_numbers(rng: np.random.Generator, tmp_path: Path) -> None:
    """Edge stores them; a space is fitted, and topics and ends are found, without them."""
    points = plain(rng)
    points.vectors[[3, 7], 1] = np.nan, np.inf
    points.vectors[9] = 0
    adopted = team_shard(tmp_path / "theirs", points)
    with IMRNNCollection.from_client(adopted, "articles", make_model(DIM, 4)) as collection:
        found = collection.sample(COUNT)
    assert set(found.ids) == set(range(COUNT)) - {3, 7}
    assert found.vectors is not None
    assert [payload["text"] for payload in found.payloads] == [f"text {number}" for number in found.ids]
    for value, vector in zip(found.ids, found.vectors, strict=True):
        np.testing.assert_array_equal(vector, points.vectors[value])
    adopted.close()
    with closing(connect(tmp_path)) as reopened:
        texts, vectors = sample_points(reopened, store_of(reopened, "theirs"), "text")
    assert set(texts) == {f"text {number}" for number in set(range(COUNT)) - {3, 7, 9}}
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("storage", ["payload", "vector"])
def test_payloads_are_read_later_where_codes_lie_in_a_vector(
    connection: Connection, rng: np.random.Generator, storage: Any
) -> None:
    points = named(rng)
    store = store_of(connection, layout=replace(LAYOUT, code_storage=storage))
    connection.run(store.create(DIM, Metric.DOT))
    connection.run(store.upsert(points))
    whole = connection.run(store.search(points.vectors[:2], 9))
    partly = connection.run(store.search_partly(points.vectors[:2], 9))
    assert [one.partial for one in partly] == [storage == "vector"] * 2
    for one, other in zip(whole, partly, strict=True):
        np.testing.assert_array_equal(one.base_scores, other.base_scores)
        np.testing.assert_array_equal(one.codes.directions, other.codes.directions)
        assert other.codes.current.all()
    if storage == "payload":
        return
    assert list(partly[0].ids) == [store.key_of(point_id) for point_id in whole[0].ids]
    with pytest.raises(LookupError, match="was not read"):
        _ = partly[0].payloads[0]
    rows = [np.array([7, 2]), np.array([0])]
    for one, (candidates, gone), of in zip(whole, connection.run(store.complete(partly, rows)), rows, strict=True):
        assert not candidates.partial
        assert not len(gone)
        for row in of.tolist():
            assert (candidates.ids[row], candidates.payloads[row]) == (one.ids[row], one.payloads[row])
        with pytest.raises(LookupError, match="candidate 1 was not read"):
            _ = candidates.payloads[1]


def test_points_that_are_gone_by_the_second_call_are_told(connection: Connection, rng: np.random.Generator) -> None:
    points, layout = named(rng), replace(LAYOUT, code_storage="vector")
    store = store_of(connection, layout=layout)
    connection.run(store.create(DIM, Metric.DOT))
    connection.run(store.upsert(points))
    guarded = QdrantBackend().store(connection, "articles", layout, {"tenant": "a"})
    found, mine = (connection.run(one.search_partly(points.vectors[:1], 9)) for one in (store, guarded))
    ids = connection.run(store.search(points.vectors[:1], 9))[0].ids
    moved = connection.run(guarded.search(points.vectors[:1], 9))[0].ids[1]
    connection.run(store.delete([ids[4]]))
    row = points.ids.index(moved)
    taken = replace(plain(rng, 1), ids=[moved], vectors=points.vectors[row : row + 1], payloads=[{"tenant": "b"}])
    connection.run(store.upsert(taken))
    [(candidates, gone)] = connection.run(store.complete(found, [np.array([3, 4, 5])]))
    assert gone.tolist() == [4]
    assert [candidates.ids[row] for row in (3, 5)] == [ids[3], ids[5]]
    [(candidates, gone)] = connection.run(guarded.complete(mine, [np.arange(3)]))
    assert gone.tolist() == [1]  # it is another tenant's by now
    assert {candidates.payloads[row]["tenant"] for row in (0, 2)} == {"a"}


def test_a_point_deleted_during_a_search_makes_way_for_the_next(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors, query = rng.normal(size=(40, 32)).astype(np.float32), rng.normal(size=32).astype(np.float32)
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", make_model()) as collection:
        collection.upsert([f"doc-{row}" for row in range(40)], vectors=vectors, payloads=[{"n": n} for n in range(40)])
        before = collection.search(query, limit=6, coarse_k=20)
        store = collection._core.store
        complete = store.complete

        def after_a_deletion(*asked: Any) -> Any:
            yield from store.delete([before[0].id, before[2].id])
            return (yield from complete(*asked))

        store.complete = after_a_deletion  # type: ignore[method-assign]
        found = collection.search(query, limit=4, coarse_k=20)
    assert [result.id for result in found] == [before[row].id for row in (1, 3, 4, 5)]
    assert [result.rank for result in found] == [1, 2, 3, 4]
    assert [result.score for result in found] == [before[row].score for row in (1, 3, 4, 5)]
    assert all(result.id == f"doc-{result.payload['n']}" for result in found)


def test_closing_in_the_middle_of_a_search_lets_go_of_the_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    model = make_model()
    collection = IMRNNCollection.create(f"qdrant+edge:{tmp_path}/x", model)
    table = rng.normal(size=(20, 32)).astype(np.float32)
    collection.upsert(range(20), vectors=table)
    modulate = model.modulate

    def closing_first(*arguments: Any) -> Any:  # payloads are read afterwards, in a second call
        collection.close()
        return modulate(*arguments)

    vars(model)["modulate"] = closing_first
    with pytest.raises(StoreError, match="was closed"):
        collection.search(table[0], modulate=True)
    qdrant_edge.EdgeShard.load(str(tmp_path / "x")).close()


def test_closing_waits_for_the_calls_of_other_threads(tmp_path: Path) -> None:
    class Borrowed:
        """A shard in the calls of other threads, in which the engine itself is met too seldom for a test."""

        def __init__(self, shard: qdrant_edge.EdgeShard) -> None:
            self.shard, self.calls = shard, 3

        def flush(self) -> None:
            self.shard.flush()

        def close(self) -> None:
            self.calls -= 1
            if self.calls:
                raise RuntimeError("Already borrowed")
            self.shard.close()

    connection = connect(tmp_path)
    connection.run(store_of(connection).create(DIM, Metric.DOT))
    shard = engine._registry[(tmp_path / "articles").resolve()]
    shard.shard = Borrowed(shard.shard)
    connection.close()
    qdrant_edge.EdgeShard.load(str(tmp_path / "articles")).close()


def test_a_collection_whose_codes_somebody_else_removes_is_looked_at_anew(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    url, table = f"qdrant+edge:{tmp_path}/x", rng.normal(size=(20, 32)).astype(np.float32)
    with IMRNNCollection.create(url, make_model()) as collection, IMRNNCollection.open(url, make_model()) as other:
        collection.upsert(range(20), vectors=table)
        assert other.undo() == 20
        with pytest.raises(StoreError, match="Not existing vector"):
            collection.search(table[0])
        assert collection.search(table[0]).unusable == {"missing": 20}


def test_a_new_collection_keeps_codes_in_a_vector_that_is_never_searched(tmp_path: Path) -> None:
    model = make_model()
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", model) as collection:
        field = f"imrnn_code_{model.space.space_id}"
        assert collection.info().vectors[field].dim == FACTORS // 2 + 1
        assert collection.vector_name == "base"
    config = json.loads((tmp_path / "c" / "edge_config.json").read_text("utf-8"))
    assert config["vectors"][field]["hnsw_config"]["m"] == 0
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/d", model, code_storage="payload") as collection:
        assert list(collection.info().vectors) == [""]
    with IMRNNCollection.create("qdrant+local::memory:/c", model) as collection:
        assert list(collection.info().vectors) == [""]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (16, None), (None, 1)])
def test_few_cores_search_a_new_collection_by_one_thread(
    tmp_path: Path, cores: int | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", make_model()).close()
    config = json.loads((tmp_path / "c" / "edge_config.json").read_text("utf-8"))
    assert config.get("max_search_threads") == threads

"""Backfills that are killed at random moments beside a writer: at the end everything is as it has to be.

``IMRNN_TEST_POINTS`` sets the number of points (Milvus Lite, whose queries read every row, gets a twentieth).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backfill_worker import DIM, Journal, State, make_writer, open_filler, payload_of, save_space, vector_of, write
from factory import make_space
from imrnn_vdb.backfill import backfill_script
from imrnn_vdb.backfill_plan import fresh_codes
from imrnn_vdb.codec import decode_texts
from imrnn_vdb.layout import CODE_PREFIX
from imrnn_vdb.metric import Metric
from imrnn_vdb.scripts import run_script
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.verify import verify_script

POINTS = int(os.environ.get("IMRNN_TEST_POINTS", "10000"))
LITE_POINTS = max(POINTS // 20, 500)
KILLS, SEED = 20, 11
WINDOW = max(0.8, POINTS / 20_000)
"""Seconds, from the beginning of the work, within which a process is killed."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def space() -> FactorSpace:
    return make_space(DIM, 8, seed=3, names=("entity", "numeric"))


def checksum(points: dict[int, tuple[np.ndarray, dict[str, Any]]]) -> str:
    digest = hashlib.sha256()
    for key in sorted(points):
        vector, payload = points[key]
        digest.update(json.dumps([key, sorted(payload.items())]).encode())
        digest.update(np.ascontiguousarray(vector, np.float32).tobytes())
    return digest.hexdigest()


def expected(state: State) -> dict[int, tuple[np.ndarray, dict[str, Any]]]:
    return {key: (vector_of(key, v), payload_of(key, p)) for key, (v, p) in state.items()}


@contextmanager
def worker(role: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start a process of the test, wait until it works, and kill it at the end."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parents[1] / "backfill_worker.py"), role]
    process = subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
        assert process.poll() is None, "it was to run until it is killed"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def kill_often(role: str, points: int, window: float, *arguments: object) -> None:
    """Start, and kill within so many seconds of the beginning of the work, again and again."""
    rng = np.random.default_rng(SEED)
    for number in range(KILLS):
        with worker(role, *arguments, points, SEED + number):
            time.sleep(float(rng.uniform(0, window)))


def settle(url: str, space: FactorSpace, state: State) -> None:
    """One more pass while nobody writes, and then every code is what its vector gives."""
    connection, filler = open_filler(url, space, batch_size=500)
    try:
        report = run_script(connection, backfill_script(filler, lambda _count: None))
        assert (report.seen, report.failed, report.unsettled) == (len(state), 0, 0)
        checked = run_script(connection, verify_script(filler, None, lambda _count: None))
        assert (checked.checked, checked.differing) == (len(state), {})
        again = run_script(connection, backfill_script(filler, lambda _count: None))
        assert (again.written, again.orphans) == (0, 0)
    finally:
        connection.close()


def assert_codes(texts: list[object], vectors: np.ndarray, space: FactorSpace) -> None:
    """Half floats hold a direction to 1 part in 2,048."""
    stored, fresh = decode_texts(texts, space.space_id, space.num_factors), fresh_codes(space, Metric.DOT, vectors)
    assert stored.current.all()
    np.testing.assert_allclose(stored.directions, fresh.directions, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(stored.norms, fresh.norms, rtol=1e-6)


def test_edge(space: FactorSpace, tmp_path: Path) -> None:
    import qdrant_edge as edge

    folder = tmp_path / "edge" / "team"
    folder.mkdir(parents=True)
    shard = edge.EdgeShard.create(
        str(folder), edge.EdgeConfig(vectors={"": edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Dot)})
    )
    for start in range(0, POINTS, 1000):
        keys = range(start, min(start + 1000, POINTS))
        new = [edge.Point(key, vector_of(key, 0).tolist(), payload_of(key, 0)) for key in keys]
        shard.update(edge.UpdateOperation.upsert_points(new))
    shard.close()
    url, journal = f"qdrant+edge:{tmp_path}/edge/team", tmp_path / "journal"
    save_space(tmp_path / "space.npz", space)
    kill_often("both", POINTS, WINDOW, url, tmp_path / "space.npz", journal)
    state = finish_embedded(url, space, journal, POINTS)
    shard = edge.EdgeShard.load(str(folder))
    records: list[Any] = []
    cursor = None
    while True:
        page, cursor = shard.scroll(edge.ScrollRequest(offset=cursor, limit=1000, with_payload=True, with_vector=True))
        records += page
        if cursor is None:
            break
    own = {record.id: {k: v for k, v in record.payload.items() if k.startswith(CODE_PREFIX)} for record in records}
    assert {len(keys) for keys in own.values()} == {1}
    found = {
        record.id: (
            np.asarray(record.vector, np.float32),
            {key: value for key, value in record.payload.items() if not key.startswith("imrnn_")},
        )
        for record in records
    }
    shard.close()
    assert len(records) == len(found) == len(state)
    assert checksum(found) == checksum(expected(state))
    vectors = np.stack([found[key][0] for key in found])
    assert_codes([next(iter(own[key].values())) for key in found], vectors, space)


def finish_embedded(url: str, space: FactorSpace, journal: Path, points: int) -> State:
    """Make the writer's last change again, as it does itself after a kill, and fill in the rest."""
    connection, _ = open_filler(url, space)
    log, stop = Journal(journal), threading.Event()
    stop.set()
    write(make_writer(url, connection), log, points, SEED, stop, threading.Event())
    assert len(log.changes) >= KILLS
    state = log.state(points)
    log.close()
    connection.close()
    settle(url, space, state)
    return state


def make_team_collection(client: Any, name: str, points: int) -> None:
    """A collection as a team has it: an integer key, a vector, a title, and the rest in the dynamic field."""
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    schema.add_field("title", DataType.VARCHAR, max_length=64)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=indexes)
    for start in range(0, points, 2000):
        keys = range(start, min(start + 2000, points))
        client.insert(name, [{"key": key, "vector": vector_of(key, 0), **payload_of(key, 0)} for key in keys])
    client.flush(name)


def read_milvus(query: Callable[..., Any], name: str, keys: list[int], fields: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for start in range(0, len(keys), 1000):
        part = keys[start : start + 1000]
        rows += query(collection_name=name, filter=f"key in {part}".replace("key", fields[0], 1), output_fields=fields)
    return rows


def await_count(query: Callable[..., Any], collection: str, wanted: int) -> int:
    """Count rows, until it is as wanted: Milvus 2.3.5 counts some twice while it compacts a segment."""
    deadline = time.monotonic() + 120
    while True:
        [counted] = query(collection_name=collection, filter="", output_fields=["count(*)"])
        if counted["count(*)"] == wanted or time.monotonic() > deadline:
            return int(counted["count(*)"])
        time.sleep(1)


def check_milvus(query: Callable[..., Any], name: str, state: State, space: FactorSpace) -> None:
    sidecar, keys = f"{name}_imrnn_{space.space_id}", sorted(state)
    for collection in (name, sidecar):
        assert await_count(query, collection, len(keys)) == len(keys), collection
    rows = read_milvus(query, name, keys, ["key", "vector", "title", "n"])
    found = {row["key"]: (np.asarray(row["vector"], np.float32), {k: row[k] for k in ("title", "n")}) for row in rows}
    assert len(rows) == len(found) == len(keys)
    assert checksum(found) == checksum(expected(state))
    codes = read_milvus(query, sidecar, keys, ["id", f"{CODE_PREFIX}{space.space_id}"])
    assert sorted(row["id"] for row in codes) == keys  # one for each point, and none twice
    vectors = np.stack([found[row["id"]][0] for row in codes])
    assert_codes([row[f"{CODE_PREFIX}{space.space_id}"] for row in codes], vectors, space)


@pytest.mark.integration
def test_milvus_server(space: FactorSpace, tmp_path: Path, milvus_server_url: str) -> None:
    from pymilvus import MilvusClient

    name, journal = f"killed_{os.getpid()}", tmp_path / "journal"
    client = MilvusClient(milvus_server_url.replace("milvus://", "http://"))
    make_team_collection(client, name, POINTS)
    url = f"{milvus_server_url}/{name}"
    save_space(tmp_path / "space.npz", space)
    try:
        with worker("write", url, tmp_path / "space.npz", journal, POINTS, SEED):
            kill_often("fill", POINTS, WINDOW, url, tmp_path / "space.npz", journal)
        log = Journal(journal)
        assert len(log.changes) > KILLS
        state = log.state(POINTS)
        point, versions = log.changes[-1]
        make_writer(url, None).apply(point, versions, None)  # the one that the kill may have cut short
        log.close()
        settle(url, space, state)

        def query(**arguments: Any) -> Any:
            return client.query(**arguments, consistency_level="Strong")

        check_milvus(query, name, state, space)
    finally:
        client.drop_collection(f"{name}_imrnn_{space.space_id}")
        client.drop_collection(name)
        client.close()


def test_milvus_lite(space: FactorSpace, tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    from imrnn_vdb_milvus.clients import LiteClient

    name, journal, url = "killed", tmp_path / "journal", f"milvus+lite:{tmp_path}/team.db/killed"
    held = LiteClient(str(tmp_path / "team.db"))
    client: MilvusClient = held._opened().client
    make_team_collection(client, name, LITE_POINTS)
    held.close()
    save_space(tmp_path / "space.npz", space)
    kill_often("both", LITE_POINTS, max(0.8, LITE_POINTS / 2_000), url, tmp_path / "space.npz", journal)
    state = finish_embedded(url, space, journal, LITE_POINTS)
    held = LiteClient(str(tmp_path / "team.db"))
    client = held._opened().client
    client.load_collection(name)
    client.load_collection(f"{name}_imrnn_{space.space_id}")
    check_milvus(client.query, name, state, space)
    held.close()

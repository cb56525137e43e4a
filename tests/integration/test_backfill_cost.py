"""What a backfill costs beside the bare client that writes the same, and what memory it takes.

``IMRNN_TEST_POINTS`` sets the number of points (for figures to report: 100,000, on a quiet machine, with ``-s``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from backfill_worker import save_space
from factory import make_space
from imrnn_vdb.backend import ConnectionOptions, adopt_client, connect
from imrnn_vdb.backfill import BackfillOptions, Filler, backfill_script
from imrnn_vdb.backfill_plan import fresh_codes
from imrnn_vdb.connection import Connection
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.scripts import run_script
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url

POINTS = int(os.environ.get("IMRNN_TEST_POINTS", "5000"))
MILVUS_POINTS = max(POINTS, 20_000)
"""Making and loading a sidecar takes two seconds, however few the points: fewer would measure nothing else."""
DIM, FACTORS, NAMES = 384, 64, tuple(f"factor{i}" for i in range(26))
"""As in the model that is shipped."""
REPEATS, BATCH = 2, 500
MEMORY = 300 * 2**20
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

if not Path("/proc/self/status").exists():
    pytest.skip("memory is read from /proc, which this system does not have", allow_module_level=True)


def vectors_from(start: int, count: int = 1000) -> np.ndarray:
    return np.random.default_rng(start).normal(size=(count, DIM)).astype(np.float32)


def parts(points: int) -> Iterator[tuple[range, np.ndarray]]:
    for start in range(0, points, 1000):
        keys = range(start, min(start + 1000, points))
        yield keys, vectors_from(start, len(keys))


def layout_of(space: FactorSpace) -> Layout:
    return Layout(space.space_id, space.num_factors, space.names)


def fill(connection: Connection, store: Store, space: FactorSpace, points: int) -> float:
    filler = Filler(store, space, Metric.DOT, BackfillOptions(batch_size=BATCH))
    start = time.perf_counter()
    report = run_script(connection, backfill_script(filler, lambda _count: None))
    seconds = time.perf_counter() - start
    assert (report.written, report.failed, report.unsettled, report.orphans) == (points, 0, 0, 0)
    return seconds


def assert_cheap(name: str, points: int, times: list[tuple[float, float]], limit: float) -> None:
    """Compare the medians of runs in turn; the limit is generous, as a test cannot have the machine to itself."""
    bare, ours = (median(column) for column in zip(*times, strict=True))
    print(f"\n{name}, {points} points: bare client {bare:.2f} s, backfill {ours:.2f} s, ratio {ours / bare:.2f}")
    assert ours / bare < limit


def make_edge(folder: Path, points: int) -> Any:
    import qdrant_edge as edge

    folder.mkdir(parents=True)
    vectors = {"": edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Dot)}
    shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors))
    for keys, table in parts(points):
        new = [edge.Point(key, row.tolist(), {"title": f"title {key}"}) for key, row in zip(keys, table, strict=True)]
        shard.update(edge.UpdateOperation.upsert_points(new))
    return shard


def test_edge_costs_little_more_than_the_bare_engine(tmp_path: Path) -> None:
    """Each turn has a space of its own, so that both write keys that are not there yet."""
    import qdrant_edge as edge

    from imrnn_vdb_qdrant.convert import code_rows

    theirs, mine = make_edge(tmp_path / "theirs", POINTS), make_edge(tmp_path / "mine", POINTS)
    times = []
    for seed in range(REPEATS):
        space = make_space(DIM, FACTORS, seed=seed, names=NAMES)
        rows = []
        for keys, table in parts(POINTS):
            codes = fresh_codes(space, Metric.DOT, table)
            rows += code_rows(list(keys), codes, space.factor_scores(codes.directions), layout_of(space))
        start = time.perf_counter()
        for row in rows:
            theirs.update(edge.UpdateOperation.set_payload([row.id], row.payload))
        bare = time.perf_counter() - start
        backend, connection = adopt_client(mine, ConnectionOptions(timeout=60.0))
        times.append((bare, fill(connection, backend.store(connection, "mine", layout_of(space)), space, POINTS)))
    theirs.close()
    mine.close()
    assert_cheap("Qdrant Edge", POINTS, times, 2.5)


def make_milvus(client: Any, name: str, points: int) -> None:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=indexes)
    for keys, table in parts(points):
        client.insert(name, [{"key": key, "vector": row} for key, row in zip(keys, table, strict=True)])
    client.flush(name)


@pytest.fixture
def milvus(milvus_server_url: str) -> Iterator[tuple[Any, str, Callable[[str], None]]]:
    """A client, a collection's name, and a function that notes collections to drop."""
    from pymilvus import MilvusClient

    client, name = MilvusClient(milvus_server_url.replace("milvus://", "http://")), f"cost_{os.getpid()}"
    made = [name]
    yield client, name, made.append
    for collection in made:
        client.drop_collection(collection)
    client.close()


@pytest.mark.integration
def test_milvus_costs_little_more_than_the_bare_client(
    milvus: tuple[Any, str, Callable[[str], None]], milvus_server_url: str
) -> None:
    """The bare client writes the rows of the sidecar to a collection like it, which is there and loaded already."""
    from imrnn_vdb_milvus.schema import Schema, Server
    from imrnn_vdb_milvus.sidecar import sidecar_indexes, sidecar_name, sidecar_rows, sidecar_schema

    client, name, drop_later = milvus
    make_milvus(client, name, MILVUS_POINTS)
    base = Schema.parse(client.describe_collection(name), [client.describe_index(name, "vector")])
    url, times = parse_url(f"{milvus_server_url}/{name}"), []
    backend, connection = connect(url, ConnectionOptions(timeout=60.0), asynchronous=False)
    for seed in range(REPEATS):
        space = make_space(DIM, FACTORS, seed=seed, names=NAMES)
        layout, theirs = layout_of(space), f"{name}_{seed}"
        drop_later(theirs)
        drop_later(sidecar_name(name, space.space_id))
        client.create_collection(
            theirs,
            schema=sidecar_schema(base, layout),
            index_params=sidecar_indexes(layout, Server.parse("2.3.5")),
            consistency_level="Session",
        )
        schema = Schema.parse(client.describe_collection(theirs), [])
        rows: list[dict[str, Any]] = []
        for keys, table in parts(MILVUS_POINTS):
            codes = fresh_codes(space, Metric.DOT, table)
            rows += sidecar_rows(list(keys), codes, space.factor_scores(codes.directions), schema, layout)
        start = time.perf_counter()
        for first in range(0, MILVUS_POINTS, BATCH):
            client.upsert(theirs, rows[first : first + BATCH])
        bare = time.perf_counter() - start
        times.append((bare, fill(connection, backend.store(connection, name, layout), space, MILVUS_POINTS)))
    connection.close()
    assert_cheap("Milvus", MILVUS_POINTS, times, 4.0)


def grown(url: str, space: Path) -> dict[str, int]:
    worker = Path(__file__).parents[1] / "memory_worker.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(worker), url, str(space)], capture_output=True, text=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout)["growth"]
    return found


def assert_flat(name: str, small: dict[str, int], large: dict[str, int]) -> None:
    """Four times the points: no more memory of our own, and in all less than 300 MB above the start."""
    print(f"\n{name}, MB above the start at {POINTS} and {4 * POINTS} points:", end=" ")
    print({kind: (small[kind] >> 20, large[kind] >> 20) for kind in small})
    assert large["own"] < MEMORY
    assert large["own"] - small["own"] < 64 * 2**20


def test_memory_is_flat_on_edge(tmp_path: Path) -> None:
    save_space(tmp_path / "space.npz", make_space(DIM, FACTORS, names=NAMES))
    growth = []
    for points in (POINTS, 4 * POINTS):
        make_edge(tmp_path / str(points) / "team", points).close()
        growth.append(grown(f"qdrant+edge:{tmp_path}/{points}/team", tmp_path / "space.npz"))
    assert_flat("Qdrant Edge", *growth)


@pytest.mark.integration
def test_memory_is_flat_on_milvus(
    milvus: tuple[Any, str, Callable[[str], None]], milvus_server_url: str, tmp_path: Path
) -> None:
    from imrnn_vdb_milvus.sidecar import sidecar_name

    space = make_space(DIM, FACTORS, names=NAMES)
    save_space(tmp_path / "space.npz", space)
    client, name, drop_later = milvus
    growth = []
    for points in (POINTS, 4 * POINTS):
        collection = f"{name}_{points}"
        drop_later(collection)
        drop_later(sidecar_name(collection, space.space_id))
        make_milvus(client, collection, points)
        growth.append(grown(f"{milvus_server_url}/{collection}", tmp_path / "space.npz"))
    assert_flat("Milvus", *growth)

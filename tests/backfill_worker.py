"""A process of a kill test: a backfill, a writer, or both where one process alone can open the collection.

``python backfill_worker.py fill|write|both URL SPACE JOURNAL POINTS SEED``; it runs until it is killed, and says
``open`` when its work begins, which for a writer is after its first change. The writer journals each change before it
makes it, so that the journal tells what the collection has to hold; after a kill it makes the last change again, which
may or may not have been made.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from imrnn_vdb.backend import ConnectionOptions, connect
from imrnn_vdb.backfill import BackfillOptions, Filler, backfill_script
from imrnn_vdb.connection import Connection
from imrnn_vdb.layout import Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.scripts import run_script
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.urls import parse_url

DIM = 16
State = dict[int, tuple[int, int]]
"""Of each living point: the versions of its vector and of its payload."""


def vector_of(point: int, version: int) -> np.ndarray:
    return np.random.default_rng([point, version]).normal(size=DIM).astype(np.float32)


def payload_of(point: int, version: int) -> dict[str, Any]:
    return {"title": f"title {point}.{version}", "n": version}


def save_space(path: Path, space: FactorSpace) -> None:
    np.savez(path, basis=space.basis, names=np.array(space.names), quantiles=space.quantiles)


def load_space(path: Path) -> FactorSpace:
    with np.load(path) as held:
        return FactorSpace(held["basis"], tuple(map(str, held["names"])), held["quantiles"])


def open_filler(url: str, space: FactorSpace, batch_size: int = 200) -> tuple[Connection, Filler]:
    where = parse_url(url)
    backend, connection = connect(where, ConnectionOptions(timeout=60.0), asynchronous=False)
    layout = Layout(space.space_id, space.num_factors, space.names)
    store = backend.store(connection, where.collection, layout)
    return connection, Filler(store, space, Metric.DOT, BackfillOptions(batch_size=batch_size))


class Journal:
    """What the writer did, one change a line: the point, and its versions, or None where it was deleted."""

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self.changes: list[tuple[int, tuple[int, int] | None]] = []
        for line in lines:
            if line.endswith(b"\n"):  # else the writer died before it began this change
                point, versions = json.loads(line)
                self.changes.append((point, None if versions is None else (versions[0], versions[1])))
        whole = sum(len(line) for line in lines if line.endswith(b"\n"))
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)

    def append(self, point: int, versions: tuple[int, int] | None) -> None:
        os.write(self._file, (json.dumps([point, versions]) + "\n").encode())

    def state(self, points: int) -> State:
        """Return what is alive, if ``points`` were there at first."""
        alive: State = dict.fromkeys(range(points), (0, 0))
        for point, versions in self.changes:
            if versions is None:
                alive.pop(point, None)
            else:
                alive[point] = versions
        return alive

    def close(self) -> None:
        os.close(self._file)


class Writer(ABC):
    """Changes points through the vendor's own client."""

    @abstractmethod
    def put(self, point: int, versions: tuple[int, int], before: tuple[int, int] | None) -> None: ...

    @abstractmethod
    def delete(self, point: int) -> None: ...

    def apply(self, point: int, versions: tuple[int, int] | None, before: tuple[int, int] | None) -> None:
        if versions is None:
            self.delete(point)
        else:
            self.put(point, versions, before)


class MilvusWriter(Writer):
    """Rows are written whole, as Milvus has it; Milvus Lite's insert replaces."""

    def __init__(self, client: Any, collection: str, lite: bool = False) -> None:
        self.client, self.collection, self.write = client, collection, "insert" if lite else "upsert"

    def put(self, point: int, versions: tuple[int, int], before: tuple[int, int] | None) -> None:
        row = {"key": point, "vector": vector_of(point, versions[0]), **payload_of(point, versions[1])}
        getattr(self.client, self.write)(collection_name=self.collection, data=[row], timeout=60.0)

    def delete(self, point: int) -> None:
        self.client.delete(collection_name=self.collection, filter=f"key == {point}", timeout=60.0)


class EdgeWriter(Writer):
    """Vectors and keys are changed on their own, so our stale codes stay where they are."""

    def __init__(self, shard: Any) -> None:
        import qdrant_edge

        self.shard, self.edge = shard, qdrant_edge

    def put(self, point: int, versions: tuple[int, int], before: tuple[int, int] | None) -> None:
        operation, vector = self.edge.UpdateOperation, vector_of(point, versions[0]).tolist()
        if before is None:
            new = self.edge.Point(point, vector, payload_of(point, versions[1]))
            self.shard.update(operation.upsert_points([new]))
            return
        if versions[0] != before[0]:
            self.shard.update(operation.update_vectors([self.edge.PointVectors(point, vector)]))
        if versions[1] != before[1]:
            self.shard.update(operation.set_payload([point], payload_of(point, versions[1])))

    def delete(self, point: int) -> None:
        self.shard.update(self.edge.UpdateOperation.delete_points([point]))


def make_writer(url: str, connection: Connection | None) -> Writer:
    where = parse_url(url)
    if where.scheme == "qdrant+edge":
        assert connection is not None
        return EdgeWriter(connection.client.shard(where.collection))
    if where.scheme == "milvus+lite":
        assert connection is not None
        return MilvusWriter(connection.client, where.collection, lite=True)
    from pymilvus import MilvusClient

    return MilvusWriter(MilvusClient(f"http://{where.host}:{where.port}"), where.collection)


def write(
    writer: Writer, journal: Journal, points: int, seed: int, stop: threading.Event, changed: threading.Event
) -> None:
    """Insert, update and delete at random, evenly, until told to stop; ``changed`` is set by the first change."""
    rng, state = np.random.default_rng(seed), journal.state(points)
    if journal.changes:  # it may have been made, or not, or half
        point, versions = journal.changes[-1]
        writer.apply(point, versions, None)
    newest = max([points, *(point + 1 for point, _ in journal.changes)])
    version = len(journal.changes) + 1
    while not stop.is_set():
        kind, point = int(rng.integers(4)), int(rng.integers(newest))
        before = state.get(point)
        after: tuple[int, int] | None
        if before is None or kind == 0:
            point, before = (newest, None) if before is not None else (point, None)
            newest, after = max(newest, point + 1), (version, version)
        elif kind == 1:
            after = None
        else:
            after = (version, before[1]) if kind == 2 else (before[0], version)
        journal.append(point, after)
        writer.apply(point, after, before)
        changed.set()
        version += 1
        if after is None:
            del state[point]
        else:
            state[point] = after
        time.sleep(0.001)


def fill(connection: Connection, filler: Filler) -> None:
    while True:
        run_script(connection, backfill_script(filler, lambda _count: None))


def main() -> None:
    role, url, space, journal, points, seed = sys.argv[1:]
    connection, filler = open_filler(url, load_space(Path(space))) if role != "write" else (None, None)
    if role in {"write", "both"}:
        stop, changed = threading.Event(), threading.Event()
        arguments = (make_writer(url, connection), Journal(Path(journal)), int(points), int(seed), stop, changed)
        threading.Thread(target=write, args=arguments, daemon=role == "both").start()
        if not changed.wait(60):
            sys.exit("the writer has changed nothing in a minute")
    print("open", flush=True)
    if connection is not None and filler is not None:
        fill(connection, filler)


if __name__ == "__main__":
    main()

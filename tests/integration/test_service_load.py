"""The service as a process under load: what it refuses, how slow it becomes, and that its end loses nothing."""

from __future__ import annotations

import asyncio
import collections
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from imrnn_vdb import IMRNNCollection
from imrnn_vdb.bench.synthetic import random_model, random_vectors
from imrnn_vdb.serving.convert import query_message
from imrnn_vdb.serving.proto import imrnn_vdb_pb2 as pb
from imrnn_vdb.serving.proto.imrnn_vdb_pb2_grpc import RetrievalStub

CLIENTS, POINTS = 64, 3000
SECONDS = float(os.environ.get("IMRNN_TEST_LOAD_SECONDS", "8"))
PAUSE_S = 0.25
"""What a client waits after it was refused, on average."""
QUERIES = random_vectors(200, seed=5)
REQUESTS = [pb.SearchRequest(collection="articles", query=query_message(query)) for query in QUERIES]


@pytest.fixture(scope="module")
def collection_url(tmp_path_factory, milvus_server_url) -> str:
    folder = tmp_path_factory.mktemp("load")
    model = random_model()
    model.save_pretrained(folder / "model")
    url = f"{milvus_server_url}/service_load_{os.getpid()}"
    with IMRNNCollection.create(url, model, timeout=60.0) as made:
        vectors = random_vectors(POINTS)
        for first in range(0, POINTS, 1000):
            rows = range(first, first + 1000)
            made.upsert(map(str, rows), vectors=vectors[first : first + 1000], payloads=[{"row": row} for row in rows])
        yield url, folder
        made.drop()


@contextmanager
def service(folder: Path, url: str, limits: str = ""):
    """The service as a process of its own; yields it, its port and its log."""
    config, log = folder / "service.toml", folder / "service.log"
    table = f'[collections.articles]\nurl = "{url}"\nmodel = "{folder}/model"\n'
    config.write_text(f'listen = "127.0.0.1:0"\n[limits]\n{limits}\n{table}')
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "imrnn_vdb", "serve", "--config", str(config)], stderr=output)
    try:
        while not (found := re.search(r"listening on 127.0.0.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield process, int(found[1]), log
    finally:
        process.kill()
        process.wait()


def memory_mib(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


class Load:
    """Clients over a few connections, and what came of their requests."""

    def __init__(self, port: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(8)]
        self.stubs = [RetrievalStub(channel) for channel in self.channels]
        self.statuses = collections.Counter()
        self.seconds: list[float] = []

    async def ask(self, i: int) -> str:
        began = time.perf_counter()
        try:
            await self.stubs[i % len(self.stubs)].Search(REQUESTS[i % len(REQUESTS)], timeout=5)
            status = "OK"
            self.seconds.append(time.perf_counter() - began)
        except grpc.RpcError as exc:
            status = exc.code().name
        self.statuses[status] += 1
        return status

    async def client(self, number: int, ended: asyncio.Event) -> None:
        rng = np.random.default_rng(number)
        await asyncio.sleep(rng.random() * PAUSE_S)
        i = number
        while not ended.is_set():
            status = await self.ask(i)
            i += CLIENTS
            if status == "RESOURCE_EXHAUSTED":
                await asyncio.sleep(PAUSE_S * (0.5 + rng.random()))
            elif status != "OK" and ended.is_set():
                break

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


@pytest.mark.integration
@pytest.mark.slow
def test_overload_is_refused_and_those_who_are_served_hardly_notice(collection_url):
    url, folder = collection_url

    async def run(process, port):
        load = Load(port)
        for i in range(250):
            await load.ask(i)
        unloaded = statistics.median(load.seconds[50:])
        load.seconds.clear()
        load.statuses.clear()
        ended, memory = asyncio.Event(), [memory_mib(process)]
        clients = [asyncio.create_task(load.client(number, ended)) for number in range(CLIENTS)]
        for _ in range(int(SECONDS)):
            await asyncio.sleep(1)
            memory.append(memory_mib(process))
        ended.set()
        await asyncio.gather(*clients)
        await load.close()
        return unloaded, load, memory

    with service(folder, url) as (process, port, log):
        unloaded, load, memory = asyncio.run(run(process, port))
        assert process.poll() is None, log.read_text()
    median = statistics.median(load.seconds[len(load.seconds) // 10 :])
    print(
        f"unloaded {unloaded * 1e3:.2f} ms, loaded {median * 1e3:.2f} ms ({median / unloaded:.2f}x), "
        f"{len(load.seconds) / SECONDS:.0f} served a second, {dict(load.statuses)}, memory {memory[0]:.0f} to "
        f"{memory[-1]:.0f} MiB"
    )
    assert set(load.statuses) <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert load.statuses["RESOURCE_EXHAUSTED"] > 0, "the load was no overload"
    assert memory[-1] - memory[1] < 30
    assert median < 6 * unloaded, "2 alone on a machine; here other work runs beside it"


@pytest.mark.integration
@pytest.mark.slow
def test_a_reload_and_sigterm_under_load_lose_no_accepted_request(collection_url):
    url, folder = collection_url

    async def run(process, port, log):
        load, ended = Load(port), asyncio.Event()
        clients = [asyncio.create_task(load.client(number, ended)) for number in range(CLIENTS)]
        await asyncio.sleep(1)
        process.send_signal(signal.SIGHUP)
        while "reloaded articles" not in log.read_text():
            await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        ended.set()
        await asyncio.gather(*clients)
        await load.close()
        return load

    with service(folder, url, "slowdown = 0.0\nin_flight = 32") as (process, port, log):
        load = asyncio.run(run(process, port, log))
        assert process.wait(40) == 0, log.read_text()
        accepted = int(re.search(r"stopped: (\d+) requests accepted", log.read_text())[1])
    assert load.statuses["OK"] == accepted > 100, load.statuses
    assert set(load.statuses) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}, "refused, or never accepted"

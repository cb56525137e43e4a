"""What reaches a user's terminal and files: one line of ours, no vendor's stack trace, and never a key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from factory import make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.cli import main
from qdrant_wire import Fault, WireServer

KEY = "planted-secret-91c2"
FAILING = """
import asyncio, logging, sys
import numpy as np
if "--debug" in sys.argv:
    logging.basicConfig(level=logging.DEBUG)
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.errors import IMRNNError
url, model = sys.argv[1:3]
options = {"timeout": 3.0, "tls": False}

def tried(work):
    try:
        work()
    except IMRNNError as exc:
        seen = exc
        while seen is not None:
            print(repr(seen), seen)
            seen = seen.__cause__ if seen.__cause__ is not seen else None

async def asynchronously(where):
    async with await AsyncIMRNNCollection.open(where, model, **options) as found:
        print(repr(found), repr(found._connection))
        await found.search(np.ones(32), payload_filter="nope ==")

tried(lambda: IMRNNCollection.open(url + "_none", model, **options))
tried(lambda: asyncio.run(asynchronously(url + "_none")))
tried(lambda: asyncio.run(asynchronously(url)))
with IMRNNCollection.open(url, model, **options) as found:
    print(repr(found), repr(found._connection))
    tried(lambda: found.search(np.ones(32), payload_filter="nope =="))
    tried(lambda: found.search(np.ones(32)))
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "IMRNN_API_KEY": KEY},
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def fill(url: str) -> None:
    with IMRNNCollection.create(url, make_model(), timeout=60.0, id_type="int") as collection:
        vectors = np.random.default_rng(0).normal(size=(5, 32))
        collection.upsert(range(5), vectors=vectors, payloads=[{"text": "x"}] * 5)


def check_commands(url: str, model: Path, folder: Path) -> None:
    """Look, attach and fill with a key in the environment; then find it nowhere."""
    out = folder / "attached.json"
    for command in (
        ["attach", url, "--model", str(model), "--out", str(out), "--in-collection"],
        ["doctor", str(out), "--json"],
        ["backfill", str(out), "--dry-run", "--json"],
    ):
        done = CliRunner().invoke(main, command, env={"IMRNN_API_KEY": KEY})
        assert done.exit_code == 0, done.output
        assert KEY not in done.output, command
    assert json.loads(out.read_text("utf-8"))["model"] == str(model)
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    failed = run("-m", "imrnn_vdb", "doctor", f"{url}_none", "--model", model)
    assert failed.returncode == 3
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert KEY not in failed.stdout + failed.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_milvus_stays_quiet_and_keeps_the_key(milvus_server_url: str, model: Path, tmp_path: Path) -> None:
    name = f"doctor_noise_{os.getpid()}"
    url = f"{milvus_server_url}/{name}"
    fill(url)
    try:
        failing = run("-c", FAILING, url, model)
        assert failing.returncode == 0, failing.stderr
        assert failing.stderr == ""
        assert f"there is no collection '{name}_none'" in failing.stdout
        assert failing.stdout.count("Milvus refused") >= 2
        loud = run("-c", FAILING, url, model, "--debug")
        assert "DEBUG" in loud.stderr  # what anyone logs at all
        assert "Traceback" not in loud.stderr
        assert KEY not in failing.stdout + loud.stdout + loud.stderr
        check_commands(url, model, tmp_path)
    finally:
        with IMRNNCollection.open(url, make_model(), timeout=60.0) as collection:
            collection.drop()


@pytest.mark.slow
def test_qdrant_keeps_the_key_through_retries(model: Path, tmp_path: Path) -> None:
    wire = WireServer()
    try:
        url = f"{wire.url}/articles"
        fill(url)
        wire.faults["QueryBatch"] = [Fault(grpc.StatusCode.UNAVAILABLE, "away for now")] * 9
        loud = run("-c", FAILING, url, model, "--debug")
        assert loud.returncode == 0, loud.stderr
        assert loud.stderr.count("trying again") >= 3
        assert "gave up after" in loud.stderr
        assert KEY not in loud.stdout + loud.stderr
        wire.faults.clear()
        check_commands(url, model, tmp_path)
        metadata = wire.local.get_collection("articles").config.metadata
        assert KEY not in repr(metadata)
        assert any(sent.get("api-key") == KEY for sent in wire.metadata)  # where it belongs
    finally:
        wire.close()


@pytest.mark.parametrize("scheme", ["qdrant", "milvus"])
def test_a_key_in_a_url_is_refused_and_not_repeated(scheme: str, model: Path) -> None:
    for url in (f"{scheme}://me:{KEY}@localhost/c", f"{scheme}://{KEY}@localhost:1/c"):
        done = run("-m", "imrnn_vdb", "doctor", url, "--model", model)
        assert done.returncode == 2
        assert "no user name or key" in done.stderr
        assert KEY not in done.stdout + done.stderr

"""The audit log: what a line holds, what is left out, who can read it, and what happens when it cannot be written."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest

from factory import DIM, make_model
from imrnn_vdb import AsyncIMRNNCollection, AuditError, AuditLog, IMRNNCollection, InvalidInputError, factor
from imrnn_vdb.audit import REDACTABLE
from imrnn_vdb.connection import Connection

COUNT = 40


def embed(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=DIM) for text in texts])


@pytest.fixture
def collection(rng, tmp_path):
    with IMRNNCollection.create("qdrant+local::memory:/audited", make_model(), encoder=embed) as opened:
        opened.upsert(range(COUNT), vectors=rng.normal(size=(COUNT, DIM)).astype(np.float32))
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_holds_what_a_search_was_made_of(collection, path):
    options = {"factor_filter": factor("entity") >= 0.2, "steer": {"entity": 2.0}, "limit": 5}
    found = collection.search("a ship", audit=path, explain=True, **options)
    (line,) = lines(path)
    assert (line["collection"], line["space_id"], line["model_id"]) == ("audited", found.space_id, found.model_id)
    assert line["query"] == {"hash": hashlib.sha256(b"a ship").hexdigest()}
    assert "a ship" not in path.read_text()
    assert line["request"]["factor_filter"] == "entity >= 0.2"
    assert line["request"]["steer"] == {"entity": 2.0}
    assert len(line["candidates"]["ids"]) == found.candidates
    assert [result["id"] for result in line["results"]] == [result.id for result in found]
    for logged, result in zip(line["results"], found, strict=True):
        assert logged["score"] == result.score
        assert logged["contributions"] == list(result.explanation.contributions)
        assert logged["residual"] + sum(logged["contributions"]) == pytest.approx(result.score, abs=1e-9)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    collection.search("another", audit=path)
    assert len(lines(path)) == 2


def test_text_vector_and_key(collection, path, rng):
    vector = rng.normal(size=DIM).astype(np.float32)
    collection.search("naïve 東京\n", audit=AuditLog(path, query="text"))
    collection.search(vector, audit=AuditLog(path, query="text"))
    collection.search("x", audit=AuditLog(path, key=b"secret"))
    text, of_vector, keyed = (line["query"] for line in lines(path))
    assert text == {"text": "naïve 東京\n"}
    assert of_vector == {"hash": hashlib.sha256(vector.tobytes()).hexdigest()}
    assert keyed == {"hash": hmac.new(b"secret", b"x", "sha256").hexdigest()}
    assert "secret" not in repr(AuditLog(path, key=b"secret"))


def test_a_collection_records_every_search(rng, path):
    vectors = rng.normal(size=(5, DIM)).astype(np.float32)
    with IMRNNCollection.create("qdrant+local::memory:/own", make_model(), encoder=embed, audit=path) as collection:
        collection.upsert(range(5), vectors=vectors)
        collection.search_batch(["one", "two"])
        collection.explain("three", 1)
        collection.rerank("four", [3, 1, 2], limit=2, factor_filter=factor("entity") >= 0.0)
        assert len(lines(path)) == 4
        assert collection.search_batch([]) == []
        assert len(lines(path)) == 4
        assert [line["kind"] for line in lines(path)] == ["search", "search", "search", "rerank"]
        assert lines(path)[3]["candidates"]["ids"] == [3, 1, 2]
        assert collection.verify_audit(path).holds


@pytest.mark.parametrize("kind", ["search", "rerank"])
@pytest.mark.parametrize("name", REDACTABLE)
def test_fields_can_be_left_out(collection, path, name, kind):
    given = () if kind == "search" else ([3, 1, 2],)
    getattr(collection, kind)("a ship", *given, audit=AuditLog(path, query="text", redact=[name]))
    (line,) = lines(path)
    assert line["redacted"] == [name]
    if name == "ids":
        assert line["candidates"]["ids"] is None
        assert {result["id"] for result in line["results"]} == {None}
    else:
        assert line[name] is None
    (verdict,) = collection.verify_audit(path).verdicts
    assert verdict.status == ("holds" if name in {"query", "results"} else "unknown")
    assert verdict.status == "holds" or f"{name} redacted" in verdict.reason


def test_what_cannot_be_meant_is_refused(path):
    with pytest.raises(InvalidInputError, match="not passwords"):
        AuditLog(path, redact=["passwords"])
    with pytest.raises(InvalidInputError, match="'text' or 'hash'"):
        AuditLog(path, query="both")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_file_that_others_can_open_is_refused(collection, path, mode):
    path.touch()
    path.chmod(mode)
    with pytest.raises(AuditError, match="chmod 600"):
        collection.search("x", audit=path)
    assert path.read_bytes() == b""


def test_a_link_or_a_folder_is_refused(collection, path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    for wrong in (path, tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(AuditError, match="could not be written"):
            collection.search("x", audit=wrong)
    assert not (tmp_path / "elsewhere").exists()


def test_without_duty_a_search_answers_and_says_so(collection, tmp_path, caplog):
    found = collection.search("x", audit=AuditLog(tmp_path, required=False))
    assert len(found) == 10
    assert "the search is answered without a record" in caplog.text
    assert "ERROR" in caplog.text


def test_a_line_that_is_cut_short_is_taken_back(collection, path, monkeypatch):
    collection.search("x", audit=path)
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:100]))
    with pytest.raises(AuditError, match="only 100 of"):
        collection.search("x", audit=path)
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_line_that_a_crash_of_the_machine_cut_short_spoils_no_other(collection, path):
    for _ in range(2):
        collection.search("x", audit=path)
    path.write_bytes(path.read_bytes()[:-40])
    collection.search("x", audit=path)
    assert [verdict.status for verdict in collection.verify_audit(path).verdicts] == ["holds", "unknown", "holds"]


ENTRY = {"text": "x", "vector": np.zeros(3), "candidates": {"ids": []}, "results": [], "filler": "y" * 50_000}


def _append_many(path, count):
    for _ in range(count):
        AuditLog(path).append([ENTRY, ENTRY])


def test_threads_and_processes_share_a_file(path):
    with get_context("spawn").Pool(2) as pool, ThreadPoolExecutor(4) as threads:
        running = pool.starmap_async(_append_many, [(path, 20)] * 2)
        list(threads.map(lambda _: _append_many(path, 10), range(4)))
        running.get(timeout=60)
    found = lines(path)
    assert len(found) == (2 * 20 + 4 * 10) * 2
    assert all(line["filler"] == ENTRY["filler"] for line in found)


def test_verification_finds_what_has_changed(collection, path, rng):
    log = AuditLog(path)
    first = collection.search("a ship", audit=log, steer={"entity": 2.0})
    collection.search("a ship", audit=log, passes=2, coarse_k=20)
    collection.search("a ship", audit=log, modulate=False)
    collection.search("a ship", audit=log, factor_filter=factor("entity") >= 0.5)
    collection.search("a ship", audit=log, only="numeric", coarse_k=12, limit=4, offset=2)
    collection.search("a ship", audit=log, threshold=first[4].score, steer={"entity": 2.0})
    report = collection.verify_audit(path)
    assert report.holds
    assert report.counts == {"holds": 6, "changed": 0, "unknown": 0}
    assert all(verdict.difference == 0 for verdict in report.verdicts)

    collection.upsert([first[0].id], vectors=rng.normal(size=(1, DIM)).astype(np.float32))
    changed = collection.verify_audit(path)
    assert changed.verdicts[0].status == "changed"
    assert "scores come out otherwise" in changed.verdicts[0].reason
    assert not changed.holds
    collection.delete([first[1].id])
    assert "1 of the points are gone" in collection.verify_audit(path).verdicts[0].reason
    assert json.dumps(collection.verify_audit(path).to_dict())


def test_verification_finds_lines_that_were_altered(collection, path):
    collection.search("a ship", audit=path)
    (line,) = lines(path)
    altered = [json.loads(json.dumps(line)) for _ in range(5)]
    altered[0]["candidates"]["scores"][3] += 0.01
    altered[1]["results"][0]["contributions"][2] += 0.01
    altered[2]["results"][0]["score"] += 0.01
    altered[3]["candidates"]["base_scores"] = "none"
    altered[4]["model_id"] = "0" * 16
    rows = [*map(json.dumps, altered), "{ no json", '{"version": 99}', "[]"]
    path.write_text("\n".join(rows) + "\n")
    verdicts = collection.verify_audit(path).verdicts
    assert [verdict.status for verdict in verdicts] == ["changed"] * 3 + ["unknown"] * 5
    assert "1 of 40 scores" in verdicts[0].reason
    assert "the parts of 1 results" in verdicts[1].reason
    assert "the parts of 1 results" in verdicts[2].reason
    assert "damaged" in verdicts[3].reason
    assert "model_id" in verdicts[4].reason
    assert all("no entry of this version" in verdict.reason for verdict in verdicts[5:])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        collection.verify_audit(path.parent / "nonesuch")


@pytest.mark.parametrize("asked", [{}, {"only": "numeric", "coarse_k": 12}])
def test_verification_finds_results_that_were_taken_out_or_moved(collection, path, asked):
    collection.search("a ship", audit=path, limit=5, **asked)
    (line,) = lines(path)
    altered = [json.loads(json.dumps(line)) for _ in range(4)]
    altered[0]["results"].pop()
    altered[1]["results"].reverse()
    altered[2]["results"][1]["rank"] = 1
    altered[3]["results"] = []
    path.write_text("\n".join(map(json.dumps, [line, *altered])) + "\n")
    verdicts = collection.verify_audit(path).verdicts
    assert [verdict.status for verdict in verdicts] == ["holds", *["changed"] * 4]
    assert {verdict.reason for verdict in verdicts[1:]} == {"other results come out, or other ranks"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["scores", "base_scores"])
def test_a_number_that_is_not_finite_never_holds(collection, path, place, number):
    collection.search("a ship", audit=path)
    (line,) = lines(path)
    line["candidates"][place][3] = "PLANTED"
    path.write_text(json.dumps(line).replace('"PLANTED"', number) + "\n")
    assert [verdict.status for verdict in collection.verify_audit(path).verdicts] == ["unknown"]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_scores_that_come_out_as_no_number_do_not_hold(collection, path):
    collection.search("a ship", audit=path)
    (line,) = lines(path)
    line["query_code"]["direction"] = [1e300] * len(line["query_code"]["direction"])  # infinite as float32
    path.write_text(json.dumps(line) + "\n")
    assert [verdict.status for verdict in collection.verify_audit(path).verdicts] == ["changed"]


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("candidates", "ids"), [["a"]]),
        (("candidates", "ids"), [{}]),
        (("candidates", "base_scores"), [10**400] * COUNT),
        (("candidates",), []),
        (("request", "steer"), ["entity"]),
        (("results",), ["none"]),
        (("redacted",), True),
    ],
)
def test_a_damaged_line_does_not_keep_the_others_from_being_checked(collection, path, keys, value):
    collection.search("a ship", audit=path)
    (line,) = lines(path)
    damaged = json.loads(json.dumps(line))
    *outer, last = keys
    place = damaged[outer[0]] if outer else damaged
    place[last] = value
    path.write_text(f"{json.dumps(damaged)}\n{'[' * 100_000}\n{json.dumps(line)}\n")
    assert [verdict.status for verdict in collection.verify_audit(path).verdicts] == ["unknown", "unknown", "holds"]


@pytest.fixture
def slow_calls(collection, monkeypatch):
    """Let each call take a quarter of the deadline, as far as the connection's clock can tell."""
    clock = [0.0]
    attempt = Connection._attempt

    def slower(self, call, deadline):
        reply = attempt(self, call, deadline)
        clock[0] += self.timeout / 4
        return reply

    monkeypatch.setattr(Connection, "_attempt", slower)
    monkeypatch.setattr("imrnn_vdb.connection.time", SimpleNamespace(monotonic=lambda: clock[0]))


def test_each_line_of_a_log_and_each_page_of_a_sample_has_its_own_deadline(collection, path, slow_calls, monkeypatch):
    for _ in range(8):
        collection.search("a ship", audit=path)
    assert collection.verify_audit(path).counts["holds"] == 8
    monkeypatch.setattr("imrnn_vdb.core._SAMPLE_PAGE", 5)
    assert sorted(collection.sample(COUNT).ids) == list(range(COUNT))


async def test_deadlines_are_the_same_awaited(rng, path, monkeypatch):
    opened = await AsyncIMRNNCollection.create("qdrant+local::memory:/awaited", make_model(), encoder=embed)
    await opened.upsert(range(COUNT), vectors=rng.normal(size=(COUNT, DIM)).astype(np.float32))
    for _ in range(8):
        await opened.search("a ship", audit=path)
    clock = [0.0]
    attempt = Connection._aattempt

    async def slower(self, call, deadline):
        reply = await attempt(self, call, deadline)
        clock[0] += self.timeout / 4
        return reply

    monkeypatch.setattr(Connection, "_aattempt", slower)
    monkeypatch.setattr("imrnn_vdb.connection.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("imrnn_vdb.core._SAMPLE_PAGE", 5)
    assert (await opened.verify_audit(path)).counts["holds"] == 8
    assert len(await opened.sample(COUNT)) == COUNT
    await opened.close()

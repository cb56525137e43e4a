"""Files that the command line reads and writes: what cannot be used is said in a line, before any work is done."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from factory import make_model
from imrnn_vdb.bench import BenchReport
from imrnn_vdb.bench.run import Figure
from imrnn_vdb.cli import main
from imrnn_vdb.cli.common import OutFile, OutFolder, exit_codes, save_model
from imrnn_vdb.collection import IMRNNCollection

NOWHERE = "qdrant+edge:/nonexistent/nothing"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", NOWHERE, "q", "--html", "{}/no/x.html"],
        ["evaluate", "--data", "d", "--model", "minilm", "--run", "{}/no/run.txt"],
        ["evaluate", "--data", "d", "--model", "minilm", "--cache", "/proc/nope"],
        ["ablate", "--data", "d", "--cache", "/proc/nope"],
        ["train", "--data", "d", "--out", "/proc/nope"],
        ["train", "--data", "d", "--out", "{}/m", "--cache", "{}/file/cache"],
        ["factors", "topics", NOWHERE, "--out", "{}/no/t.json"],
        ["factors", "add", NOWHERE, "name", "--out", "{}/file/model"],
        ["fit", "--text", "{}", "--out", "/proc/nope/deeper"],
        ["pydocs", "--out", "/proc/nope"],
        ["bench", "--plot", "{}/no/x.png"],
        ["demo", "--report", "{}/no/x.html"],
        ["attach", NOWHERE, "--out", "{}/no/a.json"],
        ["attach", NOWHERE, "--fit", "{}/file/model"],
    ],
    ids=lambda arguments: " ".join(arguments[::2]),
)
def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file").write_text("")
    done = run(*(argument.format(tmp_path) for argument in arguments))
    assert done.exit_code == 2, done.output
    assert "cannot be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", "d", "--out", "{}"],
        ["factors", "add", NOWHERE, "name", "--out", "{}"],
        ["fit", "--text", "{}", "--out", "{}"],
        ["attach", NOWHERE, "--fit", "{}"],
    ],
    ids=lambda arguments: " ".join(arguments[::2]),
)
def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    done = run(*(argument.format(tmp_path) for argument in arguments))
    assert (done.exit_code, "config.json belongs to no checkpoint" in done.stderr) == (2, True), done.output


def test_a_model_that_is_replaced_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    former, other = make_model(), make_model(seed=5)
    for model in (former, former, other):
        assert capsys.readouterr().err == ""
        save_model(model, tmp_path)
    assert former.model_id in capsys.readouterr().err


def converted(kind: click.ParamType, path: Path) -> str:
    """Return what is wrong with a path; "" if it is taken."""
    try:
        assert kind.convert(str(path), None, None) == path
    except click.BadParameter as exc:
        return exc.message
    return ""


def test_what_can_be_written_is_taken_and_not_touched(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    for path in (file, tmp_path / "new", Path(os.devnull)):
        assert converted(OutFile(), path) == ""
    assert converted(OutFolder(), folder) == converted(OutFolder(), folder / "a" / "b") == ""
    assert "is a directory" in converted(OutFile(), folder)
    assert sorted(tmp_path.rglob("*")) == [file, folder]
    assert file.read_text() == "old"


def test_a_cache_that_is_there_may_be_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    assert converted(OutFolder(cache=True), tmp_path) == ""
    for path in (tmp_path / "new", tmp_path):
        assert "Read-only file system" in converted(OutFolder(cache=path != tmp_path), path)
    assert "Read-only file system" in converted(OutFile(), tmp_path / "new")


def test_a_file_that_is_read_only_is_not_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != file)  # root may write anything
    assert "read-only" in converted(OutFile(), file)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "error: a.txt: No such file\n"),
        (PermissionError(errno.EACCES, "Denied", "a.part", None, "a.txt"), "error: a.txt: Denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: [Errno 28] No space left on device\n"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"), "error: 'utf-8' codec can't decode byte 0xe9 "),
    ],
    ids=str,
)
def test_errors_of_files_are_one_line(error: Exception, told: str) -> None:
    @click.command()
    @exit_codes
    def command() -> None:
        raise error

    done = CliRunner().invoke(command)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(told)


def test_a_reader_that_has_read_enough_ends_it_without_a_word() -> None:
    @click.command()
    @exit_codes
    def command() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    done = CliRunner().invoke(command)
    assert (done.exit_code, done.output) == (1, "")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").mkdir()
    done = run("evaluate", "--data", tmp_path, "--model", "minilm")
    assert (done.exit_code, done.stderr[: done.stderr.index(" is missing")]) == (
        2,
        f"error: {tmp_path / 'corpus.jsonl'}",
    )


def test_texts_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"text": "caf\xe9"}'.encode("latin-1"))
    done = run("fit", "--text", file, "--no-stdlib")
    assert (done.exit_code, done.stderr.startswith(f"error: {file}, line 1: not UTF-8")) == (2, True), done.output


def test_a_text_may_hold_a_line_separator(tmp_path: Path) -> None:
    from imrnn_vdb.fitting import read_texts

    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\u2028two"}, ensure_ascii=False), encoding="utf-8")
    assert read_texts(tmp_path, []).texts == ["one\u2028two"]


@pytest.fixture
def found(tmp_path: Path, rng: np.random.Generator) -> tuple[str, Path]:
    url, model = f"qdrant+edge:{tmp_path}/articles", tmp_path / "model"
    make_model().save_pretrained(model)
    with IMRNNCollection.create(url, make_model()) as collection:
        vectors = rng.normal(size=(30, 32))
        collection.upsert(range(30), vectors=vectors, payloads=[{"text": f"text {i}"} for i in range(30)])
    return url, model


def test_examples_that_are_not_utf8_are_named(found: tuple[str, Path], tmp_path: Path) -> None:
    url, model = found
    file = tmp_path / "latin.txt"
    file.write_bytes("caf\xe9".encode("latin-1"))
    options = ("--model", model, "--positive", file, "--negative", file, "--out", tmp_path / "own")
    done = run("factors", "add", url, "mine", *options)
    assert (done.exit_code, done.stderr.startswith(f"error: {file}, line 1: not UTF-8")) == (2, True), done.output


def test_a_collection_without_the_text_field_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    url, model, out = f"qdrant+edge:{tmp_path}/articles", tmp_path / "model", tmp_path / "own"
    make_model().save_pretrained(model)
    with IMRNNCollection.create(url, make_model(), text_field="body") as collection:
        payloads = [{"body": f"cats and dogs {i}"} for i in range(30)]
        collection.upsert(range(30), vectors=rng.normal(size=(30, 32)), payloads=payloads)
    told = "none of 30 points has a text under 'text'; they have: body"
    done = run("factors", "topics", url, "--model", model, "--coarse", 2)
    assert (done.exit_code, told in done.stderr) == (0, True), done.output
    done = run("factors", "add", url, "mine", "--model", model, "--words", "cats", "--out", out)
    assert (done.exit_code, told in done.stderr) == (2, True), done.output
    done = run("attach", url, "--model", model, "--text-field", "body", "--out", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    assert run("factors", "topics", tmp_path / "a.json", "--coarse", 2).stderr == ""


def test_topics_are_told_even_if_they_cannot_be_saved(
    found: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("imrnn_vdb.factors.topics.replace_file", full)
    url, model = found
    options = ("--coarse", 2, "--fine", 0, "--out", tmp_path / "t.json", "--json")
    done = run("factors", "topics", url, "--model", model, *options)
    assert (done.exit_code, done.stderr) == (2, f"error: {tmp_path / 't.json'}: No space left on device\n")
    assert len(json.loads(done.stdout)) == 2


def test_topics_are_saved_even_if_nobody_reads_them_to_their_end(
    found: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("imrnn_vdb.cli.factors._print_topics", closed)
    url, model = found
    options = ("--coarse", 2, "--fine", 0, "--out", tmp_path / "t.json")
    assert run("factors", "topics", url, "--model", model, *options).exit_code == 1
    assert len(json.loads((tmp_path / "t.json").read_text())["topics"]) == 2


@pytest.mark.parametrize("value", [-1, 2**31])
def test_a_seed_that_cannot_be_is_refused(value: int) -> None:
    done = run("train", "--data", "d", "--out", "m", "--seed", value)
    assert (done.exit_code, "'--seed'" in done.stderr) == (2, True)


def test_a_device_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    done = run("fit", "--text", tmp_path, "--device", "cuda:99")
    assert (done.exit_code, "'cuda:99' cannot be used here" in done.stderr) == (2, True), done.output


def test_a_plot_without_sweeps_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for sizes in ((), ("--size", 100, "--size", 100), ("--url", NOWHERE)):
        done = run("bench", "--no-sweep", "--plot", tmp_path / "x.png", *sizes)
        assert (done.exit_code, "--plot draws sweeps" in done.stderr) == (2, True), done.output


def test_figures_are_printed_even_if_they_cannot_be_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    report = BenchReport({"points": 3}, [Figure("coarse_k", "ours", 1, 1, 1, k) for k in (50, 500)])
    monkeypatch.setattr("imrnn_vdb.bench.bench_synthetic", lambda *_: report)
    for as_json in ((), ("--json",)):
        done = run("bench", "--plot", tmp_path / "x.nonesuch", *as_json)
        assert (done.exit_code, "x.nonesuch" in done.stderr) == (2, True), done.output
        assert "points" in done.stdout


def test_a_path_that_cannot_be_looked_at_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(path: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    for kind in (OutFile(), OutFolder()):
        assert "Permission denied" in converted(kind, tmp_path / "new")

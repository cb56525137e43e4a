"""``imrnn-vdb backfill`` on a real engine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from factory import make_model
from imrnn_vdb.attach import Attachment
from imrnn_vdb.cli import main
from imrnn_vdb.collection import IMRNNCollection

COUNT = 30


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["backfill", *map(str, arguments)])


@pytest.fixture
def where(tmp_path: Path, rng: np.random.Generator) -> tuple[str, Path]:
    """A collection with the codes of another model, and a model."""
    url, model = f"qdrant+edge:{tmp_path}/articles", tmp_path / "model"
    make_model(seed=1).save_pretrained(model)
    with IMRNNCollection.create(url, make_model(seed=0)) as collection:
        collection.upsert(range(COUNT), vectors=rng.normal(size=(COUNT, 32)))
    return url, model


def test_codes_are_counted_written_compared_and_removed(where: tuple[str, Path]) -> None:
    url, model = where
    dry = run(url, "--model", model, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert f"would write {COUNT} of {COUNT} codes; 0 were current" in dry.output
    differ, told = (run(url, "--model", model, "--verify", *more) for more in (["--json"], []))
    assert json.loads(differ.stdout)["differing"] == {"missing": COUNT}
    assert told.output.endswith(f"\n... and {COUNT - 20} more\n")
    assert (differ.exit_code, told.exit_code) == (1, 1)
    part = json.loads(run(url, "--model", model, "--limit", 10, "--json").stdout)
    assert (part["seen"], part["written"], part["failures"]) == (10, 10, [])
    assert f"wrote {COUNT - 10} of {COUNT} codes; 10 were current" in run(url, "--model", model).output
    intact = run(url, "--model", model, "--verify")
    assert (intact.exit_code, f"compared {COUNT} codes: none differs" in intact.output) == (0, True)
    gone = run(url, "--model", model, "--undo")
    assert f"{COUNT} points held codes" in gone.output
    with IMRNNCollection.open(url, make_model(seed=0)) as first:
        assert first.verify(None).intact  # the codes of the other model are still there


@pytest.mark.parametrize(
    "options",
    [
        ("--undo", "--verify"),
        ("--space", "0a1b2c3d"),
        ("--sample", 3),
        ("--where", "{}"),
        ("--where", "year > 3"),
        ("--follow", "nan"),
        ("--follow", "inf"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(where: tuple[str, Path], options: tuple[object, ...]) -> None:
    url, model = where
    done = run(url, "--model", model, *options)
    assert done.exit_code in {2, 3}
    assert done.output.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--undo", "--dry-run"), "--dry-run"),
        (("--undo", "--where", '{"must": [{"has_id": [1]}]}', "--limit", 3), "leave --where, --limit out"),
        (("--undo", "--rate", 5), "--rate"),
        (("--undo", "--batch-size", 500), "--batch-size"),
        (("--undo", "--code-vector"), "--code-vector"),
        (("--undo", "--sample", 3), "--sample"),
        (("--verify", "--sample", 3, "--limit", 2), "--limit"),
        (("--verify", "--rate", 5), "--rate"),
        (("--verify", "--code-vector"), "--code-vector"),
    ],
    ids=str,
)
def test_options_that_would_be_ignored_are_refused(
    where: tuple[str, Path], options: tuple[object, ...], named: str
) -> None:
    url, model = where
    assert run(url, "--model", model).exit_code == 0
    done = run(url, "--model", model, *options)
    assert done.exit_code == 2, done.output
    assert named in done.stderr
    with IMRNNCollection.open(url, str(model)) as collection:
        assert collection.verify(None).intact


def test_a_comparison_can_be_bounded(where: tuple[str, Path]) -> None:
    url, model = where
    assert json.loads(run(url, "--model", model, "--verify", "--limit", 4, "--json").stdout)["checked"] == 4
    assert json.loads(run(url, "--model", model, "--verify", "--sample", 3, "--json").stdout)["checked"] == 3


def test_points_that_come_and_change_are_followed(
    where: tuple[str, Path], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pause between passes, another client of this process writes; the third pause is interrupted."""
    url, model = where
    changed = rng.normal(size=(2, 32)).astype(np.float32)
    other, pauses = make_model(seed=0), []

    def pause(seconds: float) -> None:
        if seconds != 7.0:  # those of the passes themselves
            return
        pauses.append(seconds)
        with IMRNNCollection.open(url, other) as theirs:
            if len(pauses) == 1:
                theirs.upsert(["new"], vectors=changed[:1])
            elif len(pauses) == 2:
                theirs.upsert([0], vectors=changed[1:])
            else:
                raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    done = run(url, "--model", model, "--follow", 7, "--json")
    monkeypatch.undo()
    assert done.exit_code == 130, done.output
    decoder, text, reports = json.JSONDecoder(), done.stdout.lstrip(), []
    while text:
        report, end = decoder.raw_decode(text)
        reports.append((report["seen"], report["written"]))
        text = text[end:].lstrip()
    assert reports == [(COUNT, COUNT), (COUNT + 1, 1), (COUNT + 1, 1)]
    with IMRNNCollection.open(url, str(model)) as mine:
        assert mine.verify(None).intact


def test_a_filter_in_json_bounds_a_pass(where: tuple[str, Path]) -> None:
    url, model = where
    some = json.dumps({"must": [{"has_id": [1, 2, 3]}]})
    assert json.loads(run(url, "--model", model, "--where", some, "--json").stdout)["written"] == 3


def test_a_model_that_is_not_the_attached_one_is_refused(where: tuple[str, Path], tmp_path: Path) -> None:
    url, model = where
    space = make_model(seed=1).space
    Attachment(url, str(model), space.space_id).save(tmp_path / "attached.json")
    assert run(tmp_path / "attached.json").exit_code == 0
    make_model(seed=2).save_pretrained(model)
    done = run(tmp_path / "attached.json")
    assert done.exit_code == 2
    assert space.space_id in done.output

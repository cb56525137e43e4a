"""``imrnn-vdb backfill`` on a real engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from factory import make_model
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
    assert json.loads(run(url, "--model", model, "--verify", "--json").stdout)["differing"] == {"missing": COUNT}
    part = json.loads(run(url, "--model", model, "--limit", 10, "--json").stdout)
    assert (part["seen"], part["written"], part["failures"]) == (10, 10, [])
    assert f"wrote {COUNT - 10} of {COUNT} codes; 10 were current" in run(url, "--model", model).output
    assert f"compared {COUNT} codes: none differs" in run(url, "--model", model, "--verify").output
    gone = run(url, "--model", model, "--undo")
    assert f"{COUNT} points held codes" in gone.output
    with IMRNNCollection.open(url, make_model(seed=0)) as first:
        assert first.verify(None).intact  # the codes of the other model are still there


@pytest.mark.parametrize(
    "options", [("--undo", "--verify"), ("--space", "0a1b2c3d"), ("--sample", 3), ("--where", "{}")], ids=str
)
def test_options_that_contradict_each_other_are_refused(where: tuple[str, Path], options: tuple[object, ...]) -> None:
    url, model = where
    done = run(url, "--model", model, *options)
    assert done.exit_code in {2, 3}
    assert done.output.startswith("error: ")

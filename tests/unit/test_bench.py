"""The benchmark: its figures, and bounds that modulation must keep on any machine."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from factory import make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.attach import Attachment
from imrnn_vdb.bench import BenchOptions, BenchReport, bench_collection, bench_synthetic
from imrnn_vdb.bench.filling import fill
from imrnn_vdb.bench.measure import interleaved
from imrnn_vdb.bench.report import STAGES, Figure, figures
from imrnn_vdb.bench.stages import stage_tasks
from imrnn_vdb.bench.synthetic import random_model, random_vectors
from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError, MissingExtraError

SMALL = BenchOptions(
    coarse_k=20, rounds=2, calls=2, sweep_coarse_k=(20, 40), sweep_factors=(16,), sweep_batch=(2,), sizes=(200,)
)


def test_rivals_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []
    taken = interleaved({name: lambda i, name=name: order.append(f"{name}{i}") for name in "ab"}, rounds=2, calls=2)
    assert order == ["a0", "a1", "b0", "b1", "a0", "a1", "b0", "b1", "a2", "a3", "b2", "b3"]
    assert taken["a"].shape == (2, 2)


def test_ratios_compare_with_the_first():
    plain, ours = figures("g", {"plain": np.full((2, 3), 2.0), "ours": np.full((2, 3), 3.0)}, relative=True)
    assert (plain.ratio, ours.ratio, ours.ratio_p95, ours.best) == (1.0, 1.5, 1.5, 3.0)


def test_what_could_not_be_measured_is_none_in_json():
    report = BenchReport({"cores": 2}, [Figure.missing("search", "rival", "not installed")])
    [row] = json.loads(json.dumps(report.to_dict(), allow_nan=False))["figures"]
    assert (row["median"], row["note"]) == (None, "not installed")


def test_a_synthetic_run_measures_every_group_and_leaves_nothing(tmp_path):
    report = bench_synthetic(SMALL, f"qdrant+edge:{tmp_path}")
    groups = {figure.group for figure in report.figures}
    assert groups == {
        *("search", "stages of a search", "64 searches", "stages without a database"),
        *("search over coarse_k", "search over batch", "search over points"),
        *("modulation over coarse_k", "modulation over m", "modulation over batch"),
    }
    assert report.setting["device"] == "cpu"
    assert all(figure.median > 0 or figure.note for figure in report.figures)
    assert not list(tmp_path.iterdir())


def test_a_collection_of_yours_is_only_read(tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/yours", random_model()) as collection:
        fill(collection, 30)
        before = collection.peek(100)
        told: list[str] = []
        report = bench_collection(collection, SMALL, progress=told.append)
        after = collection.peek(100)
    assert before.payloads == after.payloads
    np.testing.assert_array_equal(before.vectors, after.vectors)
    assert report.setting["queries"] == "stored vectors"
    assert told == ["searching among 30 points", "stages and sweeps without a database"]
    [text] = [figure for figure in report.figures if figure.name == "encode a text"]
    assert "no encoder" in text.note
    assert {figure.at for figure in report.figures if figure.group == "search over coarse_k"} == {20}, "of 20 and 40"


def test_a_collection_is_measured_as_its_attachment_says(tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    url, model = f"qdrant+edge:{tmp_path}/yours", make_model()
    model.save_pretrained(tmp_path / "model")
    with IMRNNCollection.create(url, model) as collection:
        collection.upsert(list(range(30)), vectors=random_vectors(30, model.space.dim))
    Attachment(url, str(tmp_path / "model"), model.space.space_id).save(tmp_path / "yours.json")
    few = ["--coarse-k", "10", "--rounds", "1", "--calls", "1", "--no-sweep", "--json"]
    result = CliRunner().invoke(main, ["bench", "--url", str(tmp_path / "yours.json"), "--timeout", "20", *few])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["setting"]["model"] == model.model_id
    alone = CliRunner().invoke(main, ["bench", "--timeout", "20", *few])
    assert (alone.exit_code, "--timeout" in alone.stderr) == (2, True)


def test_synthetic_points_can_be_measured_with_a_checkpoint(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    few = ["--size", "100", "--coarse-k", "10", "--rounds", "1", "--calls", "1", "--no-sweep", "--json"]
    result = CliRunner().invoke(main, ["bench", "--model", str(tmp_path / "model"), *few])
    assert result.exit_code == 0, result.output
    setting = json.loads(result.stdout)["setting"]
    assert (setting["model"], setting["dim"]) == (model.model_id, model.space.dim)


def test_a_device_that_is_not_here_is_named():
    result = CliRunner().invoke(main, ["bench", "--device", "cuda:99"])
    assert result.exit_code == 2
    assert "cuda:99" in result.output


def test_a_plot_has_log_axes(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    sweep = [Figure("coarse_k", "ours", k / 100, k / 90, k / 110, k) for k in (50, 500)]
    stage = Figure(STAGES, "decode", 1, 1, 1, 100)
    BenchReport({}, [*sweep, stage]).plot(tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").read_text().startswith("<?xml")
    with pytest.raises(InvalidInputError, match="no sweep"):
        BenchReport({}, [stage, Figure("points", "ours", 1, 1, 1, 100)]).plot(tmp_path / "none.svg")


def test_a_plot_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"imrnn-vdb\[bench\]"):
        BenchReport({}, [Figure("coarse_k", "ours", 1, 1, 1, k) for k in (50, 500)]).plot(tmp_path / "x.svg")


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InvalidInputError):
        BenchOptions(rounds=0)


def test_every_sweep_can_be_left_out():
    options = BenchOptions(sweep_coarse_k=(), sweep_factors=(), sweep_batch=())
    assert options.sizes == BenchOptions().sizes


def test_url_and_synthetic_sizes_exclude_each_other():
    result = CliRunner().invoke(main, ["bench", "--url", "qdrant+edge:./x/y", "--size", "1000"])
    assert result.exit_code == 2
    assert "--url" in result.output


def test_vectors_are_unit_and_repeatable():
    vectors = random_vectors(50, 16, seed=9)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, random_vectors(50, 16, seed=9))


@pytest.mark.slow
def test_modulation_stays_cheap():
    """Generous bounds, for machines that are shared: several times those of docs/benchmark.md, minimum of medians."""
    name = "modulate, score, results, explained"
    for k, milliseconds in ((100, 6.0), (1000, 30.0)):
        [figure] = figures("stage", interleaved({name: stage_tasks(random_model(), k)[name]}, rounds=5, calls=10))
        assert figure.best < milliseconds

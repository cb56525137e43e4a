"""Vectors of another encoder are told by how they spread along a model's latent factors, wherever that matters."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from factory import make_model, make_space
from imrnn_vdb import IMRNNCollection, IMRNNModel
from imrnn_vdb.cli import main
from imrnn_vdb.encoder_check import latent_spread, misfit
from imrnn_vdb.space import FactorSpace

DIM, FACTORS = 96, 24


def own(space: FactorSpace, rng: np.random.Generator, count: int = 120) -> np.ndarray:
    """Vectors that vary along the latent factors twice as much as elsewhere: four times the variance."""
    noise = rng.normal(size=(count, space.dim))
    latent = space.basis[:, space.num_columns :]
    return (noise + (noise @ latent) @ latent.T).astype(np.float32)


def foreign(space: FactorSpace, rng: np.random.Generator, count: int = 120) -> np.ndarray:
    """The same of another space: a turned encoder."""
    return own(make_space(space.dim, space.num_factors, seed=9), rng, count)


def test_the_spread_of_a_turned_encoder_is_that_of_chance(rng: np.random.Generator) -> None:
    space = make_space(DIM, FACTORS)
    assert latent_spread(space, own(space, rng, 2_000)) == pytest.approx(4 * 96 / (96 + 3 * 21), rel=0.05)
    assert latent_spread(space, foreign(space, rng, 2_000)) == pytest.approx(1.0, abs=0.15)
    assert misfit(latent_spread(space, own(space, rng))) is None
    assert "look like another encoder's" in (misfit(latent_spread(space, foreign(space, rng))) or "")


def test_vectors_may_spread_little_along_latent_factors_that_labels_chose(rng: np.random.Generator) -> None:
    space = make_space(DIM, FACTORS)
    noise, latent = rng.normal(size=(20_000, DIM)), space.basis[:, space.num_columns :]
    vectors = (noise + 0.12 * (noise @ latent) @ latent.T).astype(np.float32)
    assert latent_spread(space, vectors) == pytest.approx(1.19, abs=0.01)
    assert misfit(latent_spread(space, vectors)) is None


def test_neither_lengths_nor_what_all_vectors_share_count(rng: np.random.Generator) -> None:
    space = make_space(DIM, FACTORS)
    vectors = foreign(space, rng)
    before = latent_spread(space, vectors)
    assert before is not None
    lengths = rng.uniform(0.1, 9, size=(120, 1)).astype(np.float32)
    assert latent_spread(space, vectors * lengths) == pytest.approx(before)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    together = units + 3 * space.basis[:, -1]  # a strong common direction, among the latent ones
    assert misfit(latent_spread(space, together.astype(np.float32))) is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda space, vectors: (space, vectors[:99]),
        lambda space, vectors: (space, None),
        lambda space, vectors: (space, np.repeat(vectors[:1], 120, axis=0)),
        lambda space, vectors: (space, np.concatenate([vectors[:99], np.zeros_like(vectors[:9])])),
        lambda space, vectors: (space, np.concatenate([vectors[:99], np.full_like(vectors[:9], np.nan)])),
        lambda space, vectors: (make_space(DIM, 18), vectors),  # 15 latent factors
        lambda space, vectors: (make_space(DIM, 49), vectors),  # more than half of the dimensions
    ],
    ids=["few", "none", "alike", "zero", "nan", "few factors", "many factors"],
)
def test_what_tells_nothing_raises_no_doubt(spoil, rng: np.random.Generator) -> None:
    space = make_space(DIM, FACTORS)
    space, vectors = spoil(space, foreign(space, rng))
    assert latent_spread(space, vectors) is None
    assert misfit(latent_spread(space, vectors)) is None


@pytest.fixture(params=["payload", "vector"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator):
    """Make a collection of one vector and 120 points without codes, in the space of the given maker of vectors."""

    def make(vectors_of) -> tuple[str, IMRNNModel]:
        model = make_model(DIM, FACTORS)
        model.save_pretrained(tmp_path / "model")
        url = f"qdrant+edge:{tmp_path}/{vectors_of.__name__}"
        IMRNNCollection.create(url, model, code_storage=request.param).close()
        with IMRNNCollection.open(url, make_model(DIM, FACTORS, seed=5)) as writer:  # codes of another space
            payloads = [{"text": f"text {row}"} for row in range(120)]
            writer.upsert(range(120), vectors=vectors_of(model.space, rng), payloads=payloads)
        return url, model

    return make


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if "another encoder's" in record.getMessage()]
    caplog.clear()
    return found


def test_a_backfill_warns_of_points_of_another_encoder_once(opened, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "imrnn_vdb")
    url, model = opened(foreign)
    with IMRNNCollection.open(url, model) as collection:
        assert collection.backfill(dry_run=True, batch_size=110).written == 120
        assert len(warned(caplog)) == 1
        assert collection.backfill(batch_size=110).written == 120
        (message,) = warned(caplog)
        assert message.startswith("collection 'foreign': the vectors vary along the model's latent factors ")
        assert collection.backfill().current == 120
        assert not warned(caplog)  # nothing was left to write
    url, model = opened(own)
    with IMRNNCollection.open(url, model) as collection:
        assert collection.backfill().written == 120
    assert not warned(caplog)


def test_attach_warns_and_doctor_says_no(opened, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "imrnn_vdb")
    for maker, status in ((foreign, "no"), (own, "works")):
        url, _ = opened(maker)
        out, model = tmp_path / f"{status}.json", str(tmp_path / "model")
        done = CliRunner().invoke(main, ["attach", url, "--model", model, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert out.exists()
        assert len(warned(caplog)) == (status == "no")
        done = CliRunner().invoke(main, ["doctor", url, "--model", model, "--json"])
        found = {capability["name"]: capability for capability in json.loads(done.stdout)["capabilities"]}
        assert found["encoder"]["status"] == status
        assert found["model fits"]["status"] == "works"


def test_doctor_says_where_it_cannot_tell(tmp_path: Path, rng: np.random.Generator) -> None:
    model = make_model(DIM, FACTORS)
    model.save_pretrained(tmp_path / "model")
    url = f"qdrant+edge:{tmp_path}/few"
    with IMRNNCollection.create(url, model) as collection:
        collection.upsert(range(9), vectors=rng.normal(size=(9, DIM)), payloads=[{"text": "a"}] * 9)
    done = CliRunner().invoke(main, ["doctor", url, "--model", str(tmp_path / "model"), "--json"])
    found = {capability["name"]: capability for capability in json.loads(done.stdout)["capabilities"]}
    assert found["encoder"]["status"] == "fallback"
    assert "too few" in found["encoder"]["why"]

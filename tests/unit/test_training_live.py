from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.cli import main
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training.api import train_examples
from imrnn_vdb.training.embeddings import EmbeddedDataset
from imrnn_vdb.training.examples import make_examples
from imrnn_vdb.training.live import examples_from_collection, read_queries, read_triples
from imrnn_vdb.training.settings import TrainingSettings
from retrieval_data import DIM, synthetic

pytest.importorskip("qdrant_client", reason="Qdrant's local mode")

QUICK = TrainingSettings(coarse_k=30, epochs=3, folds=2, hidden=4, train_basis=False)


def base() -> IMRNNModel:
    space = FactorSpace(np.eye(DIM, 12, dtype=np.float32), (), np.zeros((0, 2), np.float32))
    return IMRNNModel(space, Modulator(ModulatorConfig(12, hidden=4)).eval())


@pytest.fixture
def data() -> EmbeddedDataset:
    return synthetic(20, documents=80)


@pytest.fixture
def collection(data: EmbeddedDataset, tmp_path: Path) -> Iterator[IMRNNCollection]:
    url = f"qdrant+local:{tmp_path / 'db'}/docs"
    with IMRNNCollection.create(url, base(), id_type="str") as made:
        made.upsert(data.document_ids, vectors=data.document_vectors)
        yield made


def query_vectors(data: EmbeddedDataset) -> dict[str, np.ndarray]:
    return dict(zip(data.query_ids, data.query_vectors, strict=True))


def test_a_live_collection_gives_the_examples_of_its_own_vectors(
    collection: IMRNNCollection, data: EmbeddedDataset
) -> None:
    qrels = data.data.qrels["train"]
    live = examples_from_collection(collection, query_vectors(data), qrels, coarse_k=30)
    known = make_examples(data, "train", 30)
    assert live.query_ids == known.query_ids
    np.testing.assert_allclose(live.cosines, known.cosines, atol=1e-5)
    np.testing.assert_array_equal(live.grades, known.grades)
    np.testing.assert_array_equal(live.gains, known.gains)
    model = train_examples(live, name="live", base=base(), settings=QUICK)
    assert model.space.space_id == base().space.space_id  # no stored code changes
    assert model.evidence["training"]["queries"] == 20


def test_points_that_do_not_exist_are_left_out(collection: IMRNNCollection, data: EmbeddedDataset) -> None:
    qrels = {"q0": {**data.data.qrels["train"]["q0"], "nowhere": 1.0}, "unknown": {"d1": 1.0}}
    live = examples_from_collection(collection, query_vectors(data), qrels, coarse_k=10)
    assert live.query_ids == ["q0"]
    assert int((live.gains > 0).sum()) == 1
    with pytest.raises(InvalidInputError, match="no query"):
        examples_from_collection(collection, query_vectors(data), {"unknown": {"d1": 1.0}}, coarse_k=10)


def test_training_from_a_url_on_the_command_line(
    collection: IMRNNCollection, data: EmbeddedDataset, tmp_path: Path
) -> None:
    collection.close()
    base().save_pretrained(tmp_path / "base")
    rows = [{"_id": key, "vector": vector.tolist()} for key, vector in query_vectors(data).items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [(query, key) for query, grades in data.data.qrels["train"].items() for key in grades]
    (tmp_path / "qrels.tsv").write_text("".join(f"{query}\t{key}\t1\n" for query, key in judged))
    options = ["--url", f"qdrant+local:{tmp_path / 'db'}/docs", "--queries", tmp_path / "queries.jsonl"]
    options += ["--qrels", tmp_path / "qrels.tsv", "--space", tmp_path / "base", "--fix-basis", "--epochs", 2]
    options += ["--out", tmp_path / "model", "--json"]
    result = CliRunner().invoke(main, ["train", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["queries"] == 20
    assert IMRNNModel.from_pretrained(tmp_path / "model").space.space_id == base().space.space_id


def test_query_and_triple_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"_id": 1, "text": "one"}\n\n{"_id": "b", "text": "two"}\n')
    assert read_queries(path) == {"1": "one", "b": "two"}
    path.write_text("q1\td1\td2\nq1\td3\td1\n")
    assert read_triples(path) == {"q1": {"d1": 1.0, "d2": 0.0, "d3": 1.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense\n", "line 1"),
        ('{"_id": 1}\n', "line 1"),
        ('{"_id": 1, "text": "a"}\n{"_id": 2, "vector": [1]}', "mixes"),
    ],
)
def test_malformed_query_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        read_queries(tmp_path / "file")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_triples(tmp_path / "missing")

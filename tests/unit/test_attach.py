"""Attaching: what is checked, what the file holds, and a space fitted to vectors of an encoder we know nothing of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from factory import make_model
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, explain_search, render_report
from imrnn_vdb.attach import Attachment
from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.fitting.collection import prior_of
from imrnn_vdb.metric import Metric
from imrnn_vdb.opening import choose_vector
from imrnn_vdb.store import CollectionInfo, VectorField


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, str]:
    """A collection of two tenants, with codes in the payload, and the folder of its model."""
    url, model = f"qdrant+edge:{tmp_path}/articles", str(tmp_path / "model")
    made = make_model()
    made.save_pretrained(model)
    with IMRNNCollection.create(url, made, code_storage="payload") as collection:
        payloads = [{"body": f"text {row}", "tenant": "ab"[row % 2]} for row in range(10)]
        collection.upsert(range(10), vectors=np.random.default_rng(0).normal(size=(10, 32)), payloads=payloads)
    return url, model


def run(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


async def test_what_was_attached_is_opened_as_it_was(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    out = tmp_path / "articles.json"
    run("attach", url, "--model", model, "--text-field", "body", "--guard", '{"tenant": "a"}', "--out", out)
    with IMRNNCollection.from_attachment(out) as collection:
        assert collection.count() == 5
        assert {result.payload["tenant"] for result in collection.search(np.ones(32), limit=10)} == {"a"}
    with pytest.raises(InvalidInputError, match="no caller can change"):
        IMRNNCollection.from_attachment(out, guard={"tenant": "b"})
    opened = await AsyncIMRNNCollection.from_attachment(out)
    assert await opened.count() == 5
    await opened.close()
    assert json.loads(run("doctor", out, "--json"))["count"] == 5


def test_what_does_not_fit_is_refused(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    taxi = f"qdrant+edge:{tmp_path}/taxi"
    with IMRNNCollection.create(taxi, make_model(), metric="manhattan"):
        pass
    out = tmp_path / "articles.json"
    for arguments, message in (
        (["--model", model], "they have: body, tenant"),
        (["--model", "minilm", "--text-field", "body"], "no vector of collection"),
        (["--model", model, "--text-field", "body", "--guard", "{"], "no JSON object"),
        (["--model", model, "manhattan"], "copy the points into a collection with cosine, dot or euclid"),
    ):
        where = taxi if "manhattan" in arguments else url
        arguments = [argument for argument in arguments if argument != "manhattan"]
        done = CliRunner().invoke(main, ["attach", where, *arguments, "--out", str(out)])
        assert done.exit_code == 2
        assert message in done.output
        assert not out.exists()


def test_another_vector_that_fits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from qdrant_client import QdrantClient, models

    make_model().save_pretrained(tmp_path / "model")
    client = QdrantClient(path=str(tmp_path / "store"))
    sizes = {"title": 32, "body": 32, "image": 16}
    vectors = {name: models.VectorParams(size=size, distance=models.Distance.COSINE) for name, size in sizes.items()}
    client.create_collection("articles", vectors_config=vectors)
    client.close()
    options = ["--model", tmp_path / "model", "--vector-name", "title", "--out", tmp_path / "a.json"]
    run("attach", f"qdrant+local:{tmp_path}/store/articles", *options)
    assert "also has 'body' of 32 dimensions" in caplog.text
    assert "'image'" not in caplog.text


def test_of_several_vectors_those_that_fit_are_named() -> None:
    dims = {"body": 32, "title": 32, "image": 16}
    info = CollectionInfo("any", {name: VectorField(dim, Metric.COSINE) for name, dim in dims.items()}, 0)
    with pytest.raises(InvalidInputError, match=r"several vectors of collection 'a' fit \(body, title\)"):
        choose_vector("a", info, 32, "")


async def test_what_is_recorded_in_the_collection_opens_it(tmp_path: Path) -> None:
    url, model = f"milvus+lite:{tmp_path}/a.db/articles", str(tmp_path / "model")
    made = make_model()
    made.save_pretrained(model)
    with IMRNNCollection.create(url, made, text_field="body") as collection:
        collection.upsert(["a", "b"], vectors=np.random.default_rng(0).normal(size=(2, 32)), texts=["one", "two"])
    with pytest.raises(InvalidInputError, match="nothing is recorded"):
        IMRNNCollection.from_attachment(url)
    settings = ["--model", model, "--text-field", "body"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = run("attach", url, *settings, "--in-collection")
        assert f"imrnn-vdb doctor {url} --attached" in done
        assert not (tmp_path / "imrnn.json").exists()
    with IMRNNCollection.from_attachment(url) as collection:
        assert collection.model.space.space_id == made.space.space_id
        assert collection.count() == 2
    opened = await AsyncIMRNNCollection.from_attachment(url)
    assert await opened.count() == 2
    await opened.close()
    told = json.loads(run("doctor", url, "--attached", "--json"))
    assert told["attached"]["text_field"] == "body"
    assert told["settings"]["dynamic field"] is True
    assert told["backfill"]["points"] == 0
    assert "attached with" in run("doctor", url, "--attached")
    refused = CliRunner().invoke(main, ["attach", url, *settings, "--in-collection", "--guard", '{"t": "a"}'])
    assert (refused.exit_code, "all its tenants" in refused.output) == (2, True)
    make_model(seed=5).save_pretrained(model)  # the model changes under the record
    with pytest.raises(SpaceMismatchError, match="attach again"):
        IMRNNCollection.from_attachment(url)
    recorded = {one["name"]: one for one in json.loads(run("doctor", url, "--attached", "--json"))["capabilities"]}
    assert recorded["recorded in the collection"]["status"] == "no"


def test_an_engine_without_metadata_says_so(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    arguments = ["attach", url, "--model", model, "--text-field", "body", "--in-collection"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "a.json")])
    assert (done.exit_code, "keeps no metadata" in done.output) == (3, True)
    assert not (tmp_path / "a.json").exists()


def test_codes_move_into_a_vector_from_the_command_line(place: tuple[str, str]) -> None:
    url, model = place
    assert "wrote 10 of 10" in run("backfill", url, "--model", model, "--code-vector")
    with IMRNNCollection.open(url, model) as collection:
        assert collection.model.space.space_id in next(name for name in collection.info().vectors if name)
        assert collection.verify(None).intact


def test_another_space_is_refused(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    Attachment(url, model, "0a1b2c3d").save(tmp_path / "a.json")
    with pytest.raises(SpaceMismatchError, match="attach again"):
        IMRNNCollection.from_attachment(tmp_path / "a.json")


def test_doctor_says_that_a_file_is_for_another_space(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    Attachment(url, model, "0a1b2c3d", text_field="body").save(tmp_path / "a.json")
    told = {one["name"]: one for one in json.loads(run("doctor", tmp_path / "a.json", "--json"))["capabilities"]}
    assert told["attachment"]["status"] == "no"
    assert "attached with factor space 0a1b2c3d" in told["attachment"]["why"]
    run("attach", tmp_path / "a.json", "--out", tmp_path / "a.json")
    assert "attachment" not in {
        one["name"] for one in json.loads(run("doctor", tmp_path / "a.json", "--json"))["capabilities"]
    }


def test_attaching_again_keeps_what_was_recorded(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    out, again = tmp_path / "a.json", tmp_path / "b.json"
    run("attach", url, "--model", model, "--text-field", "body", "--guard", '{"tenant": "a"}', "--out", out)
    run("attach", out, "--out", again)
    assert Attachment.load(again) == Attachment.load(out)
    run("attach", out, "--text-field", "tenant", "--out", again)
    assert Attachment.load(again).text_field == "tenant"


def test_the_recorded_text_field_gives_ends_topics_and_rules(tmp_path: Path) -> None:
    url, model, out = f"qdrant+edge:{tmp_path}/ships", str(tmp_path / "model"), tmp_path / "a.json"
    made = make_model()
    made.save_pretrained(model)
    vectors = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    texts = np.where(made.space.encode(vectors).directions[:, 4] > 0, "harbour vessel", "bread oven").tolist()
    with IMRNNCollection.create(
        url, made, text_field="body", encoder=lambda asked: vectors[: len(asked)]
    ) as collection:
        collection.upsert(range(60), vectors=vectors, texts=texts)
        section = explain_search(collection, "harbour", sample=60)
    page = render_report("Ships", [replace(section, ends=())])
    assert all(text in page for text in set(texts))  # as the results' headlines
    assert {document.headline for end in section.ends for document in end.high} <= set(texts)
    assert {term for end in section.ends for term in end.high_terms} & {"harbour", "vessel", "bread", "oven"}
    run("attach", url, "--model", model, "--text-field", "body", "--out", out)
    ends = json.loads(run("factors", "ends", out, "latent_4", "--json"))
    assert ends["high"][0]["headline"] == "harbour vessel"
    assert set(ends["high_terms"]) == {"harbour", "vessel"}
    topics = json.loads(run("factors", "topics", out, "--coarse", 2, "--fine", 0, "--json"))
    assert {term for topic in topics for term in topic["terms"]} == {"harbour", "vessel", "bread", "oven"}
    added = run("factors", "add", out, "seafaring", "--words", "harbour vessel", "--out", tmp_path / "m", "--json")
    assert json.loads(added)["name"] == "seafaring"


def test_the_file_holds_no_key_and_is_read_strictly(place: tuple[str, str], tmp_path: Path) -> None:
    url, model = place
    out = tmp_path / "a.json"
    run("attach", url, "--model", model, "--text-field", "body", "--api-key", "planted-secret", "--out", out)
    assert "planted-secret" not in out.read_text()
    with pytest.raises(InvalidInputError, match="no user name or key"):
        Attachment("qdrant://me:planted-secret@host/c", "minilm", "0a1b2c3d")
    values = json.loads(out.read_text())
    for changed in ({**values, "version": 2}, {**values, "more": 1}, {**values, "model": 3}, [], {}):
        out.write_text(json.dumps(changed))
        with pytest.raises(InvalidInputError):
            Attachment.load(out)


def test_the_priors_limits_are_in_the_encoders_own_unit() -> None:
    """An encoder whose cosines spread half as far gets half the limits and twice the sharpness."""
    rng = np.random.default_rng(3)
    core = rng.normal(size=(400, 6)).astype(np.float32)
    core /= np.linalg.norm(core, axis=1, keepdims=True)
    narrow = np.hstack([core, np.ones((400, 1), np.float32)])  # every cosine c becomes (c + 1) / 2
    wide, half = prior_of(core), prior_of(narrow)
    assert half.low == pytest.approx(wide.low / 2, rel=0.05)
    assert half.high == pytest.approx(wide.high / 2, rel=0.05)
    assert half.sharpness == pytest.approx(wide.sharpness * 2, rel=0.1)


FIT = """
import json, sys
sys.modules["transformers"] = None  # importing it fails
import numpy as np
from imrnn_vdb.cli import main
from imrnn_vdb.pydocs import read_stdlib
from imrnn_vdb.fitting.labels import tokens

url, folder = sys.argv[1:]
texts = [entry.title + "\\n" + entry.text for entry in read_stdlib()][:3000]
words = sorted({word for text in texts for word in tokens(text)})
place = {word: row for row, word in enumerate(words)}
projection = np.random.default_rng(1).normal(size=(len(words), 1536)).astype(np.float32)
vectors = np.stack([sum(projection[place[word]] for word in tokens(text)) for text in texts])
if url.startswith("milvus"):
    from pymilvus import DataType, MilvusClient
    where = url.replace("milvus://", "http://").rpartition("/")
    client = MilvusClient(where[0])
    schema = MilvusClient.create_schema(enable_dynamic_field=True)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=1536)
    indexes = MilvusClient.prepare_index_params()
    indexes.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    client.create_collection(where[2], schema=schema, index_params=indexes)
    for start in range(0, len(texts), 500):
        part = range(start, min(start + 500, len(texts)))
        client.insert(where[2], [{"key": row, "embedding": vectors[row], "text": texts[row][:5000]} for row in part])
    client.flush(where[2])
    client.close()
else:
    import qdrant_edge as edge
    from pathlib import Path
    Path(url.partition(":")[2]).mkdir()
    config = edge.EdgeConfig(vectors={"": edge.EdgeVectorParams(size=1536, distance=edge.Distance.Cosine)})
    shard = edge.EdgeShard.create(url.partition(":")[2], config)
    shard.update(edge.UpdateOperation.upsert_points(
        [edge.Point(row, vectors[row].tolist(), {"text": text}) for row, text in enumerate(texts)]))
    shard.close()
out = folder + "/attached.json"
main(["attach", url, "--fit", folder + "/model", "--sample", "2500", "--out", out, "--json"], standalone_mode=False)
main(["backfill", out], standalone_mode=False)
from imrnn_vdb import IMRNNCollection, factor
with IMRNNCollection.from_attachment(out, timeout=60.0) as collection:
    response = collection.search(vectors[17], limit=5, explain=True)
    assert response.modulated and response[0].id == 17, response.reason
    assert all(result.modulated for result in response)
    name = collection.model.space.names[0]
    assert 0 < collection.count(factor_filter=factor(name) >= 0.5) < len(texts)
with IMRNNCollection.from_attachment(out, encoder=lambda texts: vectors[:len(texts)]) as collection:
    assert collection.search("any text")[0].id == 0
"""


def fit_there(url: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIT, url, str(folder)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout[done.stdout.index("{") : done.stdout.index("\n}") + 2])
    aucs = [auc for auc in report["held_out_auc"].values() if auc is not None]
    assert len(aucs) >= 3
    assert np.mean(aucs) > 0.7, report


@pytest.mark.slow
def test_a_space_for_an_encoder_we_know_nothing_of_on_edge(tmp_path: Path) -> None:
    fit_there(f"qdrant+edge:{tmp_path}/theirs", tmp_path)


@pytest.mark.slow
@pytest.mark.integration
def test_a_space_for_an_encoder_we_know_nothing_of_on_milvus(milvus_server_url: str, tmp_path: Path) -> None:
    from pymilvus import MilvusClient

    name, client = f"theirs_{os.getpid()}", MilvusClient(milvus_server_url.replace("milvus://", "http://"))
    try:
        fit_there(f"{milvus_server_url}/{name}", tmp_path)
    finally:
        for made in client.list_collections():  # the sidecar's name holds the space that was fitted
            if made.startswith(name):
                client.drop_collection(made)
        client.close()

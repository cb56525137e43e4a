"""The command line on a real engine and the real encoder: what it prints, and how it ends."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from qdrant_client import QdrantClient, models

from factory import make_model
from imrnn_vdb import __version__, cli
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.cli import main
from imrnn_vdb.cli.common import typed_ids
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.factors.own import add_factor
from imrnn_vdb.serving.convert import result_message

CORPUS = [
    {"_id": "a", "title": "Cats", "text": "A cat is a small domesticated carnivore.", "year": 1999},
    {"_id": "b", "title": "", "text": "Photosynthesis turns light into chemical energy."},
    {"_id": "c", "text": "In 1969 Neil Armstrong walked on the Moon. <b>[bold]"},
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps(row) for row in CORPUS) + "\n\n", encoding="utf-8")
    url = f"qdrant+edge:{folder}/articles"
    done = run("index", url, "--input", corpus, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"written": 3, "count": 3}
    return url


def test_ctrl_c_while_a_command_is_imported_ends_as_at_any_other_moment(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    done = run("search", "qdrant+edge:nowhere/articles", "a query")
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_corpus_may_come_through_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b'{"_id": "a", "text": "cats"}\n{"_id": "b", "text": "dogs"}\n')
    os.close(writing)
    done = run("index", f"qdrant+edge:{tmp_path}/articles", "--input", f"/dev/fd/{reading}", "--json")
    os.close(reading)
    assert json.loads(done.stdout) == {"written": 2, "count": 2}, done.output


def test_search_prints_json_as_promised(url):
    done = run("search", url, "who was first on the moon?", "--limit", 2, "--coarse-k", 3, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["candidates"], found["coarse_k"], found["plan"], found["trace"]) == (3, 3, None, None)
    results = found["results"]
    assert results[0]["id"] == "c"
    assert len(results) == 2
    for result in results:
        assert {"rank", "id", "score", "base_rank", "base_score", "modulated"} <= set(result)
    assert results[0]["payload"] == {"text": CORPUS[2]["text"]}


def test_search_keeps_to_a_payload_filter_and_pages(url):
    old = json.dumps({"must": [{"key": "year", "match": {"value": 1999}}]})
    found = json.loads(run("search", url, "the moon", "--where", old, "--json").stdout)
    assert [result["id"] for result in found["results"]] == ["a"]
    whole = json.loads(run("search", url, "the moon", "--passes", 2, "--json").stdout)["results"]
    paged = json.loads(run("search", url, "the moon", "--passes", 2, "--offset", 1, "--json").stdout)["results"]
    assert [result["id"] for result in paged] == [result["id"] for result in whole[1:]]
    best = json.loads(run("search", url, "the moon", "--threshold", whole[0]["score"] - 1e-6, "--json").stdout)
    assert [result["id"] for result in best["results"]] == ["c"]
    wrong = run("search", url, "the moon", "--where", "year == 1999")
    assert (wrong.exit_code, wrong.stderr[:6]) == (2, "error:")
    unrecorded = run("search", url, "the moon", "--audit", "/nonexistent/log.jsonl")
    assert (unrecorded.exit_code, unrecorded.stdout) == (2, "")


def test_search_filters_steers_and_says_what_ran_where(url):
    name = "entity"
    done = run(
        "search", url, "small animals", "--modulate", "--factor-filter", f"{name} >= 0 and top({name}, 26)", "--plan"
    )
    assert done.exit_code == 0, done.output
    assert f"plan: in the database: {name} >= 0.0; here: top({name}, 26); window 100" in done.stdout
    assert "window: 100, of which 2 pass; the database returned no more candidates" in done.stdout
    plain, steered = (
        json.loads(run("search", url, "small animals", "--modulate", "--explain", "--json", *extra).stdout)["results"]
        for extra in ((), ("--steer", f"{name}=2"))
    )
    before = {found["id"]: found["explanation"]["named"][name] for found in plain}
    for found in steered:
        assert found["explanation"]["named"][name] == pytest.approx(2 * before[found["id"]])


def test_json_holds_all_that_a_table_shows(url):
    condition = ("--factor-filter", "entity >= 0 and top(entity, 26)", "--steer", "entity=2")
    done = run("search", url, "small animals", *condition, "--modulate", "--plan", "--trace", "--heatmap", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["plan"]["here"] == "top(entity, 26)"
    assert found["growth"]["kept"] == len(found["results"])
    assert found["steer"] == {"entity": 2.0}
    assert found["trace"]["stages"][0]["stage"] == "database"
    assert (found["modulated"], found["reason"]) == (True, None)
    assert found["heatmap"]["ids"] == [result["id"] for result in found["results"]]
    plain = json.loads(run("search", url, "small animals", "--no-modulate", "--json").stdout)
    assert plain["modulated"] is False
    assert plain["reason"] in run("search", url, "small animals", "--no-modulate").stdout
    assert "heatmap" not in plain


def test_numbers_that_json_does_not_have_are_null_for_scripts_and_clients(tmp_path):
    """A database gives back NaN and infinity from a column of numbers; `json.loads` alone would read them."""
    client = QdrantClient(path=str(tmp_path))
    client.create_collection("prices", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
    row = {"price": math.nan, "kept": 1.5, "list": [{"of": -math.inf}, "NaN"]}
    client.upsert("prices", [models.PointStruct(id=1, vector=[1.0] * 384, payload=row)])
    collection = IMRNNCollection.from_client(client, "prices")
    message = result_message(collection.search([1.0] * 384)[0])
    client.close()
    done = run("search", f"qdrant+local:{tmp_path}/prices", "how much is it?", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout, parse_constant=pytest.fail)["results"][0]["payload"]
    sent = json.loads(message.payload_json, parse_constant=pytest.fail)
    assert printed == sent == {"price": None, "kept": 1.5, "list": [{"of": None}, "NaN"]}


def test_points_without_codes_are_counted_and_the_way_to_codes_is_named(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps(row) for row in CORPUS), encoding="utf-8")
    url = f"qdrant+edge:{tmp_path}/articles"
    assert run("index", url, "--input", corpus).exit_code == 0
    assert "usable code" not in run("search", url, "small animals").stdout
    assert run("backfill", url, "--undo").exit_code == 0
    told = "not modulated: 3 of 3 candidates have no usable code (3 missing): imrnn-vdb backfill writes them"
    assert told in run("search", url, "small animals").stdout
    assert told in run("explain", url, "small animals", "a").stdout
    done = run("search", url, "small animals", "--factor-filter", "entity >= 0")
    assert done.exit_code == 0
    assert "points without a current code or the factor's score never do" in " ".join(done.stdout.split())


@pytest.mark.parametrize("charset", ["ascii", "cp1252"])
def test_output_that_is_not_utf_8_loses_bars_and_no_search(url, charset):
    asked = ("search", url, "small animals", "--explain")
    done = CliRunner(charset=charset).invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert "???" in done.stdout
    found = CliRunner(charset=charset).invoke(main, ("explain", url, "small animals", "a", "--json"))
    assert json.loads(found.stdout)["result"]["payload"]["title"] == "Cats"


def test_a_filter_that_cannot_be_read_points_at_the_place(url):
    done = run("search", url, "small animals", "--factor-filter", "entity >= ")
    assert done.exit_code == 2
    assert "^" in done.stderr
    assert "FACTOR=WEIGHT" in run("search", url, "q", "--steer", "entity").stderr


def test_search_prints_tables_for_people(url):
    done = run("search", url, "small animals", "--explain", "--modulate")
    assert done.exit_code == 0, done.output
    assert "Cats" in done.output
    assert "outside the factor space" in done.output
    assert "<b>[bold]" in done.output
    assert "\x1b[" not in done.output  # colours only on a terminal


def test_search_shows_heatmap_and_trace_and_writes_one_page(url, tmp_path):
    page = tmp_path / "found.html"
    done = run("search", url, "small animals", "--modulate", "--heatmap", "--trace", "--html", page, "--sample", 3)
    assert done.exit_code == 0, done.output
    assert "other named factors" in done.output
    assert "database" in done.output
    assert "█" in done.output
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    for told in ("Each score taken apart", "Rank and score after each step", "ranks above", "<mark", "latent_"):
        assert told in html, told


def test_results_are_told_even_if_their_page_cannot_be_written(url, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("imrnn_vdb.cli.search.replace_file", full)
    done = run("search", url, "small animals", "--html", tmp_path / "x.html", "--json")
    assert (done.exit_code, done.stderr) == (2, f"error: {tmp_path / 'x.html'}: No space left on device\n")
    assert len(json.loads(done.stdout)["results"]) == 3


def test_a_page_is_written_even_if_nobody_reads_the_results_to_their_end(url, tmp_path, monkeypatch):
    def closed(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("imrnn_vdb.cli.search._print", closed)
    assert run("search", url, "small animals", "--html", tmp_path / "x.html").exit_code == 1
    assert "small animals" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_explain_says_why_a_point_stands_where_it_stands(url):
    done = run("explain", url, "moon landing", "c", "--against", "b", "--words", "--modulate")
    assert done.exit_code == 0, done.output
    for told in ("outside the factor space", "'c' ranks above 'b'", "words of the query", "words of the text"):
        assert told in done.output, told
    found = json.loads(run("explain", url, "moon landing", "c", "--against", "b", "--words", "--json").stdout)
    assert found["result"]["id"] == found["comparison"]["above"] == "c"
    assert sum(found["comparison"]["differences"].values()) == pytest.approx(found["comparison"]["gap"], abs=1e-6)
    assert found["words"]["text"]
    assert run("explain", url, "moon landing", "nonesuch").exit_code == 2


def test_marked_results_steer_a_second_search(url):
    plain = json.loads(run("search", url, "small animals", "--modulate", "--json").stdout)["results"]
    last = plain[-1]
    done = run("search", url, "small animals", "--modulate", "--good", last["id"], "--bad", plain[0]["id"])
    assert done.exit_code == 0, done.output
    assert "steered: --steer " in done.output
    marked = run("search", url, "small animals", "--modulate", "--good", last["id"], "--json")
    gaps = [
        rows[0]["score"] - next(row["score"] for row in rows if row["id"] == last["id"])
        for rows in (plain, json.loads(marked.stdout)["results"])
    ]
    assert gaps[1] < gaps[0]
    assert run("search", url, "small animals", "--good", "nonesuch").exit_code == 2


def test_the_ends_of_a_factor_are_told(url):
    done = run("factors", "ends", url, "latent_30", "--count", 1)
    assert done.exit_code == 0, done.output
    assert "latent_30, in a sample of 3" in done.output
    assert len(json.loads(run("factors", "ends", url, "temporal", "--json").stdout)["high"]) == 1
    assert run("factors", "ends", url, "latent_3").exit_code == 2


def test_factors_are_listed_with_what_their_checkpoint_records(tmp_path):
    model = IMRNNModel.from_pretrained("minilm")
    done = run("factors", "list")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[: len(model.space.names)]] == list(model.space.names)
    found = json.loads(run("factors", "list", "--json").stdout)
    stored = model.evidence["fit"]["factors"]
    assert {name: row["auc"] for name, row in found["factors"].items()} == {n: row["auc"] for n, row in stored.items()}
    assert found["weak"] == [name for name, row in stored.items() if row["auc"] < 0.75]
    assert [line.split()[0] for line in lines if " weak " in line] == found["weak"]
    replace(model, evidence={}).save_pretrained(tmp_path / "bare")
    bare = run("factors", "list", "--model", tmp_path / "bare")
    assert bare.exit_code == 0, bare.output
    assert {line.split(maxsplit=1)[1] for line in bare.output.splitlines()} == {"AUC   -"}


def test_factors_are_measured_on_given_texts(tmp_path):
    kinds = ("My mother and her sister cooked for their children.", "The committee adjourned at noon.")
    rows = [{"text": f"{kinds[i % 2]} {i}"} for i in range(80)]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    done = run("factors", "report", "--text", file)
    assert done.exit_code == 0, done.output
    assert "AUC mine " in done.output
    assert "not measured, for no source has 25 texts that carry it" in done.output
    found = json.loads(run("factors", "report", "--text", file, "--json").stdout)["factors"]
    assert found["family"]["mine"]["auc"] > 0.9
    assert found["family"]["mine"]["judged_by"] == "words"
    few = run("factors", "report", "--text", file, "--seeds", 1)  # no text of this file is about film, law, ...
    assert few.exit_code == 2
    assert "too few texts" in few.stderr
    assert run("factors", "report", "--seeds", 1).exit_code == 2


def test_examples_can_be_points(url, tmp_path):
    done = run("factors", "add", url, "mine", "--field", "yaer", "--value", "1999", "--out", tmp_path / "m")
    assert done.exit_code == 2
    assert "none of 3 points has the payload field 'yaer'; they have: text, title, year" in done.stderr
    done = run("factors", "add", url, "mine", "--positive-id", "a", "--negative-id", "b", "--out", tmp_path / "m")
    assert done.exit_code == 2
    assert "at least 5" in done.stderr  # the two points were found, and are too few
    done = run("factors", "add", url, "mine", "--positive-id", "a", "--negative-id", "x", "--out", tmp_path / "m")
    assert "no point has the id x" in done.stderr


def test_an_id_that_reads_as_a_number_may_be_a_text_or_one(tmp_path, rng):
    """Of `index` all ids are texts; other writers have numbers, and Qdrant takes both in one collection."""
    url, model = f"qdrant+edge:{tmp_path}/things", tmp_path / "model"
    made = make_model()
    made.save_pretrained(model)
    vectors = rng.normal(size=(12, 32)).astype(np.float32)
    with IMRNNCollection.create(url, made) as collection:
        collection.upsert([*map(str, range(6)), *range(6, 11), 0], vectors=vectors)
    assert typed_ids([0, "0", 7], ["0", "7", "x"]) == typed_ids(["0", 7, 0], ["0", "7", "x"]) == ["0", 7, "x"]
    chosen = [f"--{side}-id={i}" for side, ids in (("positive", range(5)), ("negative", range(5, 11))) for i in ids]
    done = run("factors", "add", url, "mine", "--model", model, *chosen, "--out", tmp_path / "own", "--json")
    assert done.exit_code == 0, done.output
    assert [json.loads(done.stdout)[key] for key in ("positives", "negatives")] == [5, 6]
    codes = made.space.encode(vectors).directions
    expected = add_factor(made.space, "mine", codes[:5], codes[5:11], reference=codes).space
    own = IMRNNModel.from_pretrained(tmp_path / "own").space
    np.testing.assert_allclose(own.added, expected.added, atol=1e-2)
    for point_id in ("00", "9" * 30):
        done = run("factors", "add", url, "mine", "--model", model, *chosen, "--negative-id", point_id, "--out", model)
        assert (done.exit_code, f"no point has the id {point_id}" in done.stderr) == (2, True), done.output


def test_audit_says_whether_a_log_still_holds(url, tmp_path):
    log = tmp_path / "audit.jsonl"
    assert run("search", url, "small animals", "--audit", log).exit_code == 0
    done = run("audit", "verify", url, log)
    assert done.exit_code == 0, done.output
    assert "1 holds, 0 changed, 0 unknown" in done.output
    log.write_text(log.read_text() + "no entry\n")
    done = run("audit", "verify", url, log, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["counts"] == {"holds": 1, "changed": 0, "unknown": 1}


def test_index_again_replaces_and_keeps_other_fields(url, tmp_path):
    corpus = tmp_path / "more.jsonl"
    corpus.write_text(json.dumps({"_id": "a", "title": "Cats", "text": "Cats purr.", "tags": ["x"]}))
    done = run("index", url, "--input", corpus)
    assert "wrote 1 points; the collection holds 3" in done.output
    (found, *_) = json.loads(run("search", url, "cats purr", "--json").stdout)["results"]
    assert found["payload"] == {"title": "Cats", "text": "Cats purr.", "tags": ["x"]}


def test_doctor_says_what_works_and_changes_nothing(url):
    done = run("doctor", url, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["count"] == 3
    assert found["sampled_codes"] == {"current": 3}
    capabilities = {capability["name"]: capability["status"] for capability in found["capabilities"]}
    assert capabilities["model fits"] == "works"
    assert capabilities["exact scores"] == "works"
    assert set(capabilities.values()) <= {"works", "fallback", "no"}
    text = run("doctor", url).output
    assert "Qdrant Edge" in text
    assert "384 dimensions, cosine" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "qdrant+edge:/nonexistent/nothing", "q"], 3, "there is no collection 'nothing'"),
        (["search", "ftp://host/c", "q"], 2, "no store is registered"),
        (["search", "articles", "q"], 2, "starts with a scheme"),
        (["doctor", "nowhere/articles.json"], 2, "there is no file 'nowhere/articles.json'"),
        (["search", "qdrant+local::memory:/nothing", "q", "--model", "./nowhere"], 1, "there is no checkpoint"),
        (["doctor", "qdrant+edge:/nonexistent/nothing"], 3, "there is no collection"),
        (["search"], 2, "Missing argument"),
        (["nonesuch"], 2, "No such command"),
        (["search", "u", "q", "--limit", "0"], 2, "Invalid value"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(arguments, code, message):
    done = run(*arguments)
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output


def test_an_empty_query_is_refused(url):
    done = run("search", url, " ")
    assert (done.exit_code, "query 0 is empty" in done.output) == (2, True)


BAD_LINES = ["{", "[]", '{"text": "no id"}', '{"_id": "x"}', '{"_id": "x", "text": 3}']
BAD_LINES += [f'{{"_id": {value}, "text": "x"}}' for value in ('""', "null", "true", "[1]")]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_and_leaves_no_empty_collection(tmp_path, line):
    corpus, new = tmp_path / "bad.jsonl", f"qdrant+edge:{tmp_path}/new"
    corpus.write_text(line)
    done = run("index", new, "--input", corpus)
    assert done.exit_code == 2
    assert "bad.jsonl, line 1" in done.output
    assert list(tmp_path.iterdir()) == [corpus]


def test_an_id_may_be_zero(tmp_path):
    corpus, new = tmp_path / "corpus.jsonl", f"qdrant+edge:{tmp_path}/new"
    corpus.write_text('{"_id": 0, "text": "nought"}')
    assert json.loads(run("index", new, "--input", corpus, "--json").stdout) == {"written": 1, "count": 1}
    assert json.loads(run("explain", new, "nought", "0", "--json").stdout)["result"]["id"] == "0"


def test_later_lines_are_read_while_earlier_ones_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("imrnn_vdb.cli.index._BATCH", 2)
    corpus, new = tmp_path / "corpus.jsonl", f"qdrant+edge:{tmp_path}/new"
    rows = [json.dumps({"_id": f"{i}", "text": f"text {i}"}) for i in range(5)]
    corpus.write_text("\n".join(rows))
    assert json.loads(run("index", new, "--input", corpus, "--json").stdout) == {"written": 5, "count": 5}
    corpus.write_text("\n".join([*rows, "{"]))
    done = run("index", f"{new}er", "--input", corpus)
    assert (done.exit_code, "corpus.jsonl, line 6" in done.stderr) == (2, True), done.output
    assert json.loads(run("doctor", f"{new}er", "--json").stdout)["count"] == 4


def test_a_corpus_that_is_not_utf8_is_said(url, tmp_path):
    corpus = tmp_path / "latin.jsonl"
    corpus.write_bytes('{"_id": "x", "text": "caf\xe9"}'.encode("latin-1"))
    done = run("index", url, "--input", corpus)
    assert (done.exit_code, "not UTF-8" in done.output) == (2, True)


def test_a_server_that_is_down_ends_with_its_own_code():
    done = run("doctor", "qdrant://127.0.0.1:1/c", "--timeout", "2")
    assert done.exit_code == 3, done.output
    assert done.output.startswith("error: ")


def test_a_key_is_never_shown():
    done = run("doctor", "qdrant://127.0.0.1:1/c", "--timeout", "1", "--api-key", "s3cret-key")
    assert done.exit_code == 3
    assert "s3cret-key" not in done.output


def test_pydocs_is_exported(tmp_path):
    done = run("pydocs", "--out", tmp_path / "beir", "--json")
    counts = json.loads(done.stdout)
    assert counts["entries"] >= 2000
    assert counts["train"] + counts["test"] >= 300
    assert (tmp_path / "beir" / "qrels" / "test.tsv").is_file()


def test_help_and_version_are_quick_and_complete():
    assert run("--version").output.strip().endswith(__version__)
    listed = run("--help").output
    for name in ("demo", "doctor", "evaluate", "fit", "index", "pydocs", "search", "train"):
        assert name in listed
        assert run(name, "--help").exit_code == 0


@pytest.mark.parametrize("missing", ["transformers", "milvus_lite", "pymilvus", "ir_measures"])
def test_the_demo_names_all_it_needs_before_it_begins(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    result = run("demo", "--store", "milvus")
    assert result.exit_code == 1
    told = f"error: the package {missing!r} is needed here: pip install 'imrnn-vdb[encoders,milvus-lite,train]'\n"
    assert result.output == told


def test_the_script_is_installed():
    script = subprocess.run(
        [sys.executable, "-m", "imrnn_vdb", "--version"], capture_output=True, text=True, check=True
    )
    assert __version__ in script.stdout

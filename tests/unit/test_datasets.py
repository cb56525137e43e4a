from __future__ import annotations

import json
from pathlib import Path

import pytest

from imrnn_vdb.datasets import load_dataset, read_beir, read_qrels, read_run, write_run
from imrnn_vdb.errors import InvalidInputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    rows = [{"_id": "a", "title": "Äpfel", "text": "grün"}, {"_id": 7, "text": "no title", "year": 3}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    queries = [{"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two"}]
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps(row) for row in queries) + "\n\n", encoding="utf-8")
    header = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "train.tsv").write_text(header + "q1\ta\t2\nq1\tgone\t1\nnobody\ta\t1\nq2\t7\t0\n")
    return tmp_path


def test_a_beir_folder_is_read(folder: Path) -> None:
    data = read_beir(folder)
    assert data.documents == {"a": "Äpfel\ngrün", "7": "no title"}
    assert data.queries == {"q1": "one", "q2": "two"}
    assert data.qrels == {"train": {"q1": {"a": 2.0}, "q2": {"7": 0.0}}}  # unknown queries and documents are left out
    assert data.split("train") == {"q1": {"a": 2.0}}  # nothing relevant: not a labelled query


def test_an_unknown_split_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no split 'test'; it has: train"):
        read_beir(folder).split("test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{oops\n', "corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", '{"text": "x"}\n', "line 1: an object with '_id' and 'text'"),
        ("queries.jsonl", '{"_id": "q1"}\n', "queries.jsonl, line 1"),
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\ta\tmany\n", "train.tsv, line 2"),
    ],
)
def test_malformed_files_name_the_line(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        read_beir(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"corpus\.jsonl is missing"):
        read_beir(tmp_path)
    with pytest.raises(InvalidInputError, match="not a folder"):
        load_dataset(tmp_path / "nothing")


def test_qrels_are_read_with_and_without_header(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 3\n")
    assert read_qrels(path) == {"q1": {"d1": 1.0, "d2": 0.0}, "q2": {"d1": 3.0}}


def test_a_run_survives_a_round_trip(tmp_path: Path) -> None:
    run = {"q1": {"b": 0.25, "a": 0.75, "c": 0.25}, "q2": {"x": -1.5}}
    write_run(tmp_path / "run.txt", run, "tag")
    assert (tmp_path / "run.txt").read_text().splitlines()[:3] == [
        "q1 Q0 a 1 0.75 tag",
        "q1 Q0 b 2 0.25 tag",
        "q1 Q0 c 3 0.25 tag",
    ]
    assert read_run(tmp_path / "run.txt") == run


def test_a_malformed_run_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("q1 Q0 a 1\n")
    with pytest.raises(InvalidInputError, match="line 1"):
        read_run(tmp_path / "run.txt")

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from imrnn_vdb.datasets import Dataset, load_dataset, read_beir, read_lines, read_qrels, write_run
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
    judged = {"q1": {"a": 2.0, "gone": 1.0}, "q2": {"7": 0.0}}
    assert data.qrels == {"train": judged}  # a query that is not there cannot be asked
    assert data.split("train") == {"q1": {"a": 2.0, "gone": 1.0}}  # nothing relevant: not a labelled query


def test_judgements_of_what_is_not_there_are_counted_aloud(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = read_beir(folder)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "1 judgements name documents that are not there: they count as never found",
        "judgements of 1 queries that are not there are left out",
    ]
    with pytest.raises(InvalidInputError, match="use the same ids"):
        replace(data, documents={"other": "x"}).split("train")


@pytest.mark.parametrize("grade", ["0.5", "101", "-101", "inf", "nan"])
def test_grades_are_whole_numbers_in_range(folder: Path, grade: str) -> None:
    (folder / "qrels" / "train.tsv").write_text(f"q1\ta\t1\nq1\t7\t{grade}\n")
    with pytest.raises(InvalidInputError, match=rf"line 2: a grade is a whole number from -100 to 100, got {grade}"):
        read_beir(folder)
    data = Dataset("small", {"a": "x"}, {"q1": "y"}, {"train": {"q1": {"a": float(grade)}}})
    with pytest.raises(InvalidInputError, match="query 'q1', document 'a': a grade is"):
        data.split("train")


def test_a_byte_order_mark_is_no_part_of_an_id(folder: Path) -> None:
    path = folder / "qrels" / "train.tsv"
    path.write_text("q1\ta\t1\n", encoding="utf-8-sig")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / name).write_text((folder / name).read_text("utf-8"), encoding="utf-8-sig")
    assert read_beir(folder).qrels["train"] == {"q1": {"a": 1.0}}
    path.write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n", encoding="utf-8-sig")
    assert read_qrels(path) == {"q1": {"a": 1.0}}


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes("one\u2028still one\u0085\r\n\ntwo\n".encode())
    assert list(read_lines(path)) == [(1, "one\u2028still one\u0085"), (3, "two")]
    path.write_bytes(b"x\n" * 5000 + b"\xff\n")
    with pytest.raises(InvalidInputError, match="line 5001: not UTF-8"):
        list(read_lines(path))


def test_an_unknown_split_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="no split 'test'; it has: train"):
        read_beir(folder).split("test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{oops\n', "corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", '{"_id": "a", "text": "cut \\ud83d"}\n', "corpus.jsonl, line 1: .*surrogates not allowed"),
        ("corpus.jsonl", '{"text": "x"}\n', "line 1: an object with '_id' and 'text'"),
        ("queries.jsonl", '{"_id": "q1"}\n', "queries.jsonl, line 1"),
        (
            "queries.jsonl",
            '{"_id": 1, "text": "x"}\n\n{"_id": "1", "text": "y"}\n',
            "line 3: the _id '1' is that of line 1",
        ),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n' * 2, "corpus.jsonl, line 2: the _id 'a' is that of line 1"),
        ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\ta\tmany\n", "train.tsv, line 2"),
        ("qrels/train.tsv", "q1\ta\tmany\nq1\ta\t1\n", "train.tsv, line 1"),  # no header, and no judgement
        ("qrels/train.tsv", "q1\t7\n", "train.tsv, line 1"),
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
    judged = {"q1": {"d1": 1.0, "d2": 0.0}, "q2": {"d1": 3.0}}
    assert read_qrels(path) == judged
    path.write_text("query_id doc_id rel\nq1 d1 1\nq1 d2 0\nq2 d1 3\n")
    assert read_qrels(path) == judged


def test_a_run_is_written_best_first(tmp_path: Path) -> None:
    run = {"q1": {"b": 0.25, "a": 0.75, "c": 0.25}, "q2": {"x": -1.5}}
    write_run(tmp_path / "run.txt", run, "tag")
    assert (tmp_path / "run.txt").read_text().splitlines() == [
        "q1 Q0 a 1 0.75 tag",
        "q1 Q0 b 2 0.25 tag",
        "q1 Q0 c 3 0.25 tag",
        "q2 Q0 x 1 -1.5 tag",
    ]

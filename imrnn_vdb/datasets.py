"""Retrieval data sets: BEIR folders, relevance judgements (qrels), and run files in TREC format."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError

_log = logging.getLogger("imrnn_vdb")
_LARGEST_GRADE = 100
_HEADERS = frozenset({"queryid", "query", "qid", "topicid", "topic"})
"""What the first column of judgements may be called, without hyphens and underscores."""

Qrels = dict[str, dict[str, float]]
"""Grade by document id, by query id: a whole number from -100 to 100; 0 or less is judged and not relevant."""
Run = Mapping[str, Mapping[str, float]]
"""Score by document id, by query id; higher is better."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Documents, queries and judgements.

    Attributes
    ----------
    name
        How reports call it.
    documents
        Text by document id: title and text, joined by a newline, as BEIR's dense baselines encode them.
    queries
        Text by query id, of all splits.
    qrels
        Judgements by split (``"train"``, ``"test"`` …). Judged documents that are not there count as never found, as
        trec_eval has it.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, Qrels] = field(default_factory=dict)

    def split(self, name: str) -> Qrels:
        """Return the judgements of one split.

        Raises
        ------
        InvalidInputError
            If there is no such split, a grade is not a whole number from -100 to 100, nothing is judged relevant, or
            nothing of that is there.
        """
        if name not in self.qrels:
            known = ", ".join(sorted(self.qrels)) or "none"
            raise InvalidInputError(f"the data set {self.name!r} has no split {name!r}; it has: {known}")
        check_grades(self.qrels[name])
        judged = {query: grades for query, grades in self.qrels[name].items() if any(g > 0 for g in grades.values())}
        if not judged:
            raise InvalidInputError(f"the split {name!r} of {self.name!r} has no query with a relevant document")
        if not any(g > 0 and key in self.documents for grades in judged.values() for key, g in grades.items()):
            raise InvalidInputError(
                f"no relevant document of the split {name!r} is in {self.name!r}: do judgements and corpus use "
                "the same ids?"
            )
        return judged


def read_beir(folder: str | Path) -> Dataset:
    """Read a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``.

    Raises
    ------
    InvalidInputError
        If a file is missing or malformed, or gives an ``_id`` twice; the message names file and line.
    """
    path = Path(folder)
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (path / name).is_file():
            raise InvalidInputError(
                f"{path / name} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"
            )
    documents = {key: passage_text(row) for key, row in _read_rows(path / "corpus.jsonl")}
    queries = {key: str(row["text"]) for key, row in _read_rows(path / "queries.jsonl")}
    qrels = {}
    for file in sorted((path / "qrels").glob("*.tsv")):
        qrels[file.stem] = _of_known_queries(read_qrels(file), queries, documents, str(file))
    if not qrels:
        raise InvalidInputError(f"{path / 'qrels'} holds no .tsv file: judgements are needed, for example train.tsv")
    return Dataset(path.resolve().name, documents, queries, qrels)


def load_dataset(source: str | Path) -> Dataset:
    """Read a BEIR folder, or a data set known to ``ir_datasets`` by its name.

    Parameters
    ----------
    source
        A folder, or a name such as ``"beir/scifact"``, whose splits ``train``, ``dev`` and ``test`` are taken where
        there are any. A name needs the package `ir_datasets`, and the network the first time.

    Raises
    ------
    InvalidInputError
        If the source is neither, or a name is given and `ir_datasets` is not installed.
    """
    if Path(source).is_dir():
        return read_beir(source)
    if Path(source).exists() or str(source).startswith((".", "/", "~")):
        raise InvalidInputError(f"{source} is not a folder: give a BEIR folder or a name that ir_datasets knows")
    return _from_ir_datasets(str(source))


def read_qrels(path: Path) -> Qrels:
    """Read judgements: BEIR's three columns, with or without its header, or TREC's four.

    Raises
    ------
    InvalidInputError
        If the file is missing, a line is neither, or a grade is not a whole number from -100 to 100.
    """
    qrels: Qrels = {}
    for number, line in read_lines(path):
        parts = line.split("\t") if "\t" in line else line.split()
        try:
            query, document, grade = _judgement(parts)
        except ValueError as exc:
            if number == 1 and _is_header(parts):
                continue
            raise InvalidInputError(
                f"{path}, line {number}: 'query-id<TAB>corpus-id<TAB>grade' is expected, got {line[:80]!r}"
            ) from exc
        if not _is_grade(grade):
            raise InvalidInputError(f"{path}, line {number}: {_bad_grade(parts[-1])}")
        qrels.setdefault(query, {})[document] = grade
    return qrels


def what_is_asked(query: str | npt.NDArray[np.float32]) -> str | bytes:
    """Return what queries that ask the same have in common: their words, whatever case and spacing, or their vector."""
    return " ".join(query.casefold().split()) if isinstance(query, str) else np.asarray(query, np.float32).tobytes()


def check_grades(qrels: Mapping[str, Mapping[str, float]]) -> None:
    """Check that every grade is a whole number in range, for trec_eval knows no others.

    Raises
    ------
    InvalidInputError
        If one is not; the message names query and document.
    """
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if not _is_grade(grade):
                raise InvalidInputError(f"query {query!r}, document {document!r}: {_bad_grade(grade)}")


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run in TREC format: ``query Q0 document rank score tag``, best first; ties by document id."""
    with path.open("w", encoding="utf-8") as file:
        for query, scores in run.items():
            ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
            for rank, (document, score) in enumerate(ranked, start=1):
                file.write(f"{query} Q0 {document} {rank} {score:.9g} {tag}\n")


def passage_text(row: Mapping[str, Any]) -> str:
    """Return what is encoded of a BEIR entry: title and text, joined by a newline."""
    return "\n".join(str(part) for part in (row.get("title"), row.get("text")) if part)


def _judgement(parts: list[str]) -> tuple[str, str, float]:
    """Read the columns of one line; a ValueError tells that they are none."""
    if len(parts) not in (3, 4):
        raise ValueError(f"{len(parts)} columns")
    return parts[0], parts[-2], float(parts[-1])


def _is_grade(value: float) -> bool:
    return math.isfinite(value) and value == int(value) and abs(value) <= _LARGEST_GRADE


def _bad_grade(value: object) -> str:
    return f"a grade is a whole number from -{_LARGEST_GRADE} to {_LARGEST_GRADE}, got {value}"


def _is_header(parts: list[str]) -> bool:
    return parts[0].strip().lower().replace("-", "").replace("_", "") in _HEADERS


def _of_known_queries(qrels: Qrels, queries: Mapping[str, str], documents: Mapping[str, str], where: str) -> Qrels:
    """Leave out what cannot be asked, and say so; documents that cannot be found stay, and that is said as well."""
    known = {query: grades for query, grades in qrels.items() if query in queries}
    absent = sum(document not in documents for grades in known.values() for document in grades)
    if absent:
        _log.warning("%s: %d judgements name documents that are not there: they count as never found", where, absent)
    if len(known) < len(qrels):
        _log.warning("%s: judgements of %d queries that are not there are left out", where, len(qrels) - len(known))
    return known


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines: dict[str, int] = {}
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or "_id" not in row or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: an object with '_id' and 'text' is needed")
        key = str(row["_id"])
        check_new(key, number, lines, path)
        yield key, row


def check_new(key: str, number: int, lines: dict[str, int], path: Path) -> None:
    """Note an id's line; `InvalidInputError` if another line of the file has that id: one of the two would be lost."""
    if lines.setdefault(key, number) != number:
        raise InvalidInputError(f"{path}, line {number}: the _id {key!r} is that of line {lines[key]} already")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file that are not blank, with their numbers from 1; a byte order mark is no text.

    Raises
    ------
    InvalidInputError
        If the file cannot be read or is not UTF-8; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:  # it was met anywhere in a block of many lines
        raise InvalidInputError(f"{path}, line {_undecodable(path)}: not UTF-8 text ({exc.reason})") from exc


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield what the lines of a file hold, as :func:`read_lines`; `InvalidInputError` for one that is not JSON.

    A text that was cut in the middle of an escaped pair of surrogates is none, either: no encoder or database takes it.
    """
    for number, line in read_lines(path):
        try:
            value = json.loads(line)
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as exc:
            raise InvalidInputError(f"{path}, line {number}: not JSON ({exc})") from exc
        yield number, value


def _undecodable(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    lines = enumerate(path.read_bytes().splitlines(), start=1)
    return next((number for number, line in lines if line.decode(errors="ignore").encode() != line), 1)


def _from_ir_datasets(name: str) -> Dataset:
    try:
        ir_datasets = import_module("ir_datasets")  # not a dependency: most users bring their own data
    except ImportError as exc:
        raise InvalidInputError(
            f"{name!r} is not a folder here; to load a data set of that name, pip install ir_datasets"
        ) from exc
    found = {}
    for split in ("train", "dev", "test"):
        try:
            found[split] = ir_datasets.load(f"{name}/{split}")
        except KeyError:
            continue
    if not found:
        raise InvalidInputError(f"ir_datasets knows no {name!r} with a split train, dev or test")
    documents, queries, qrels = {}, {}, {}
    for doc in next(iter(found.values())).docs_iter():
        documents[doc.doc_id] = passage_text({"title": getattr(doc, "title", ""), "text": getattr(doc, "text", "")})
    for split, part in found.items():
        queries.update({query.query_id: getattr(query, "text", "") for query in part.queries_iter()})
        judged: Qrels = {}
        for row in part.qrels_iter():
            judged.setdefault(row.query_id, {})[row.doc_id] = float(row.relevance)
        qrels[split] = _of_known_queries(judged, queries, documents, f"{name}/{split}")
    return Dataset(name, documents, queries, qrels)

"""Retrieval data sets: BEIR folders, relevance judgements (qrels), and run files in TREC format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from imrnn_vdb.errors import InvalidInputError

Qrels = dict[str, dict[str, float]]
"""Grade by document id, by query id; 0 is judged and not relevant."""
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
        Judgements by split (``"train"``, ``"test"`` …). Only queries and documents that are there are judged.
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
            If there is no such split, or nothing in it is judged relevant.
        """
        if name not in self.qrels:
            known = ", ".join(sorted(self.qrels)) or "none"
            raise InvalidInputError(f"the data set {self.name!r} has no split {name!r}; it has: {known}")
        judged = {query: grades for query, grades in self.qrels[name].items() if any(g > 0 for g in grades.values())}
        if not judged:
            raise InvalidInputError(f"the split {name!r} of {self.name!r} has no query with a relevant document")
        return judged


def read_beir(folder: str | Path) -> Dataset:
    """Read a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``.

    Raises
    ------
    InvalidInputError
        If a file is missing or malformed; the message names file and line.
    """
    path = Path(folder)
    documents = {key: passage_text(row) for key, row in _read_rows(path / "corpus.jsonl")}
    queries = {key: str(row["text"]) for key, row in _read_rows(path / "queries.jsonl")}
    qrels = {}
    for file in sorted((path / "qrels").glob("*.tsv")):
        qrels[file.stem] = _known_only(read_qrels(file), queries, documents)
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
    """Read judgements: BEIR's three columns with a header, or TREC's four without.

    Raises
    ------
    InvalidInputError
        If the file is missing or a line is neither.
    """
    qrels: Qrels = {}
    for number, line in read_lines(path):
        parts = line.split("\t") if "\t" in line else line.split()
        try:
            query, document = (parts[0], parts[2]) if len(parts) == 4 else (parts[0], parts[1])
            grade = float(parts[-1])
        except (IndexError, ValueError) as exc:
            if number == 1:  # BEIR's header
                continue
            raise InvalidInputError(
                f"{path}, line {number}: 'query-id<TAB>corpus-id<TAB>grade' is expected, got {line[:80]!r}"
            ) from exc
        qrels.setdefault(query, {})[document] = grade
    return qrels


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run in TREC format: ``query Q0 document rank score tag``, best first; ties by document id."""
    with path.open("w", encoding="utf-8") as file:
        for query, scores in run.items():
            ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
            for rank, (document, score) in enumerate(ranked, start=1):
                file.write(f"{query} Q0 {document} {rank} {score:.9g} {tag}\n")


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """Read a run in TREC format.

    Raises
    ------
    InvalidInputError
        If the file is missing or a line does not have six columns.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in read_lines(path):
        parts = line.split()
        try:
            query, _, document, _, score, _ = parts
            run.setdefault(query, {})[document] = float(score)
        except ValueError as exc:
            raise InvalidInputError(
                f"{path}, line {number}: 'query Q0 document rank score tag' is expected, got {line[:80]!r}"
            ) from exc
    return run


def passage_text(row: Mapping[str, Any]) -> str:
    """Return what is encoded of a BEIR entry: title and text, joined by a newline."""
    return "\n".join(str(part) for part in (row.get("title"), row.get("text")) if part)


def _known_only(qrels: Qrels, queries: Mapping[str, str], documents: Mapping[str, str]) -> Qrels:
    known = {
        query: {document: grade for document, grade in grades.items() if document in documents}
        for query, grades in qrels.items()
        if query in queries
    }
    return {query: grades for query, grades in known.items() if grades}


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError as exc:
            raise InvalidInputError(f"{path}, line {number}: not JSON ({exc})") from exc
        if not isinstance(row, dict) or "_id" not in row or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{path}, line {number}: an object with '_id' and 'text' is needed")
        yield str(row["_id"]), row


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file that are not blank, with their numbers from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError as exc:
        raise InvalidInputError(
            f"{path} is missing: a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"
        ) from exc
    except UnicodeDecodeError as exc:
        raise InvalidInputError(f"{path} is not UTF-8 text: {exc}") from exc


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
        qrels[split] = _known_only(judged, queries, documents)
    return Dataset(name, documents, queries, qrels)

"""The labelled questions of `pydocs`, and their export as a BEIR folder for ``train`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from imrnn_vdb.pydocs.corpus import DocEntry, read_stdlib

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the entries that were judged to answer it.

    Attributes
    ----------
    id, text
        Of the question.
    judgements
        Grade by entry id: 2 answers the question, 1 helps or is closely related. What is not listed counts as 0.
    """

    id: str
    text: str
    judgements: Mapping[str, int]


def read_questions(split: Split, entries: Iterable[DocEntry] | None = None) -> list[Question]:
    """Read one part of the labelled set.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"``; their answers lie in different modules.
    entries
        The collection at hand: judgements of entries that this Python lacks are dropped, and questions that are left
        without an answer of grade 2. None keeps everything.
    """
    known = None if entries is None else {entry.id for entry in entries}
    questions = []
    for line in (files(__package__) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        judged = {key: grade for key, grade in row["judgements"].items() if known is None or key in known}
        if 2 in judged.values():
            questions.append(Question(row["_id"], row["text"], judged))
    return questions


def export_beir(folder: Path) -> dict[str, int]:
    """Write collection, questions and judgements as a BEIR folder.

    Parameters
    ----------
    folder
        Gets ``corpus.jsonl``, ``queries.jsonl``, ``qrels/train.tsv`` and ``qrels/test.tsv``; made if it is not there.

    Returns
    -------
    dict
        Number of ``"entries"``, and of ``"train"`` and ``"test"`` questions.
    """
    entries = read_stdlib()
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(
        folder / "corpus.jsonl",
        (
            {"_id": entry.id, "title": entry.title, "text": entry.text, "module": entry.module, "kind": entry.kind}
            for entry in entries
        ),
    )
    parts: dict[Split, list[Question]] = {
        "train": read_questions("train", entries),
        "test": read_questions("test", entries),
    }
    _write(folder / "queries.jsonl", ({"_id": q.id, "text": q.text} for part in parts.values() for q in part))
    for split, questions in parts.items():
        lines = [f"{q.id}\t{key}\t{grade}" for q in questions for key, grade in q.judgements.items()]
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return {"entries": len(entries), **{split: len(questions) for split, questions in parts.items()}}


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

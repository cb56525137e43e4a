"""Texts with their sources, and people's labels where there are some, read from JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.datasets import read_json_lines
from imrnn_vdb.errors import InvalidInputError

_PART_KEYS = ("source", "split")
_TEXT_KEYS = {"_id", "id", "title", "text", *_PART_KEYS}


@dataclass(frozen=True)
class LabelledTexts:
    """Texts to fit factors on.

    Attributes
    ----------
    texts
        n texts.
    sources
        n names: where each text comes from.
    labels
        By factor, shape (n,): people's labels, higher means more of the factor; NaN where there is none.
    """

    texts: list[str]
    sources: list[str]
    labels: dict[str, npt.NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.texts)


def read_texts(folder: str | Path, factors: Sequence[str]) -> LabelledTexts:
    """Read every ``*.jsonl`` file of a folder.

    A line is an object with ``text`` and perhaps ``title``. The source is the file's name, followed by the value of
    ``source`` or ``split`` where a line has one. A number under a factor's name is a person's label for it; so is the
    share ``entity_tokens / tokens`` for the factor ``entity``.

    Parameters
    ----------
    folder
        The folder, or a single file.
    factors
        Names of factors that a line may carry labels for.

    Raises
    ------
    InvalidInputError
        If there is no such file, no text, or a line that is not an object with a text; the message names file and line.
    """
    where = Path(folder)
    files = [where] if where.is_file() else sorted(where.glob("*.jsonl"))
    if not files:
        raise InvalidInputError(f"{where} holds no .jsonl file")
    rows = [row for path in files for row in _rows(path)]
    if not rows:
        raise InvalidInputError(f"{where} holds no text: give lines of JSON with a string under 'text'")
    labels = {name: np.array([_label(row, name) for row in rows], np.float64) for name in factors}
    return LabelledTexts(
        [_text(row) for row in rows],
        [_source(row) for row in rows],
        {name: values for name, values in labels.items() if np.isfinite(values).any()},
    )


def join(parts: Sequence[LabelledTexts]) -> LabelledTexts:
    """Put several sets of texts behind one another."""
    names = sorted({name for part in parts for name in part.labels})
    labels = {
        name: np.concatenate([part.labels.get(name, np.full(len(part), np.nan)) for part in parts]) for name in names
    }
    return LabelledTexts(
        [text for part in parts for text in part.texts],
        [source for part in parts for source in part.sources],
        labels,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a file: its fields, and where it stands for messages."""

    path: Path
    number: int
    fields: Mapping[str, Any]

    def wrong(self, what: str) -> InvalidInputError:
        return InvalidInputError(f"{self.path}, line {self.number}: {what}")


def _rows(path: Path) -> Iterator[_Row]:
    for number, fields in read_json_lines(path):
        row = _Row(path, number, fields)
        if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
            raise row.wrong("needs an object with a string under 'text'")
        if not isinstance(fields.get("title") or "", str):
            raise row.wrong(f"'title' is a string, got {fields['title']!r}")
        yield row


def _text(row: _Row) -> str:
    return "\n".join(part for part in (row.fields.get("title"), row.fields["text"]) if part)


def _source(row: _Row) -> str:
    part = next((str(row.fields[key]) for key in _PART_KEYS if row.fields.get(key)), "")
    return f"{row.path.stem}/{part}" if part else row.path.stem


def _label(row: _Row, name: str) -> float:
    if name == "entity" and row.fields.get("tokens") and "entity_tokens" in row.fields:
        return _share(row)
    value = row.fields.get(name)
    return float(value) if name not in _TEXT_KEYS and isinstance(value, int | float) else float("nan")


def _share(row: _Row) -> float:
    entities, tokens = row.fields["entity_tokens"], row.fields["tokens"]
    if not all(isinstance(value, int | float) for value in (entities, tokens)):
        raise row.wrong(f"'entity_tokens' and 'tokens' are numbers, got {entities!r} and {tokens!r}")
    return float(entities) / float(tokens)

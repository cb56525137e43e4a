"""People's reasons for matches over `pydocs`: what an explanation should name (see docs/factor-quality.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from imrnn_vdb.pydocs.corpus import DocEntry


@dataclass(frozen=True, slots=True)
class JudgedReason:
    """A query, an entry that answers it, and why a person would say that it does.

    Attributes
    ----------
    query
        The query's text.
    entry
        Id of the entry.
    reasons
        One to three names of factors of `minilm`, each of them a good reason.
    part
        ``"dev"`` for what may be tuned on, ``"test"`` for what may not.
    """

    query: str
    entry: str
    reasons: tuple[str, ...]
    part: Literal["dev", "test"]


def read_reasons(entries: Iterable[DocEntry] | None = None) -> list[JudgedReason]:
    """Read the judged reasons.

    Parameters
    ----------
    entries
        The collection at hand: reasons about entries that this Python lacks are dropped. None keeps everything.
    """
    known = None if entries is None else {entry.id for entry in entries}
    rows = map(json.loads, (files(__package__) / "reasons.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        JudgedReason(row["query"], row["entry"], tuple(row["reasons"]), row["part"])
        for row in rows
        if known is None or row["entry"] in known
    ]

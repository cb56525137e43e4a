"""The messages that docs/troubleshooting.md explains are messages of this package, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

import imrnn_vdb.errors
from documentation import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def literals() -> Iterator[str]:
    """Every text in our source, each constant part of an f-string for itself."""
    for folder in (ROOT / "imrnn_vdb", ROOT / "integrations"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def rows() -> list[tuple[list[str], str]]:
    """The messages of each row, and its second column."""
    lines = [line.split("|") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", cells[1]), cells[2].strip()) for cells in lines]


def test_each_message_is_one_of_ours():
    source = "\n".join(literals())
    told = [message for messages, kind in rows() for message in messages if not kind.endswith("(Haystack)")]
    assert len(told) > 30
    names = re.compile(r"[a-z_]+(=\w+)?|[a-z]+\.[a-z]+")  # code, not a message
    missing = [
        message
        for message in told
        for piece in message.split("…")
        if not names.fullmatch(piece.strip()) and piece.strip() not in source
    ]
    assert not missing


@pytest.mark.parametrize("kind", sorted({kind.strip("`") for _, kind in rows() if kind.endswith("Error`")}))
def test_each_class_is_one_of_ours(kind):
    assert issubclass(getattr(imrnn_vdb.errors, kind), imrnn_vdb.errors.IMRNNError)

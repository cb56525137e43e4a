from __future__ import annotations

import os
from pathlib import Path

import pytest

from imrnn_vdb.attach import Attachment
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.topics import Topics
from imrnn_vdb.files import replace_file


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes five bytes of each file."""

    def write(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write)
    monkeypatch.setattr(Path, "write_text", lambda path, text, *_, **__: write(path, text.encode()))


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    replace_file(file, b"first")
    replace_file(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [file]


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "a.txt", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o600)
    link.symlink_to(file)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_file(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.usefixtures("full_disk")
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with file.open("wb") as old:
        old.write(b"old content")
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new content")
    with pytest.raises(OSError, match="No space left"):
        Topics("00000000", (0.0,), 0.5, ()).save(file)
    with pytest.raises(InvalidInputError, match="No space left"):
        Attachment("qdrant+edge:/a/b", "minilm", "00000000").save(file)
    assert file.read_bytes() == b"old content"
    assert list(tmp_path.iterdir()) == [file]

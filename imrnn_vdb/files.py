"""Files that are replaced whole: under a name stands the old content or the new, never a part of either."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a crash or a full disk leaves the old one or the new one.

    Permissions stay, and a symbolic link goes on pointing to its file. What is there and no file, such as
    ``/dev/stdout``, is written to as it is.

    Raises
    ------
    OSError
        If it cannot be written; an old file is then as it was.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = path.resolve()
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.touch()
        if target.exists():
            shutil.copymode(target, part)
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)

"""The documentation site builds, with no broken link and no reference to what is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from documentation import ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'imrnn-vdb[docs]'")


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "reference.html").read_text("utf-8")
    for name in ("imrnn_vdb.collection.IMRNNCollection.search", "imrnn_vdb_haystack.ranker.IMRNNRanker"):
        assert f'id="{name}"' in reference
    assert ":meth:" not in reference
    assert ":class:" not in reference

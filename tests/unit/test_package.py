"""What importing costs, and what is public."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import imrnn_vdb
from documentation import ROOT

HEAVY = ("torch", "transformers", "qdrant_client", "qdrant_edge", "pymilvus", "grpc", "matplotlib", "sklearn")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "module", ["imrnn_vdb", "imrnn_vdb.cli", "imrnn_vdb.store", "imrnn_vdb_qdrant", "imrnn_vdb_milvus"]
)
def test_importing_loads_neither_torch_nor_a_client(module):
    found = run(f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert found == "[]"


@pytest.mark.parametrize(
    ("adapter", "framework", "extra"),
    [
        ("imrnn_vdb_langchain", "langchain_core", "langchain"),
        ("imrnn_vdb_llama_index", "llama_index", "llama-index"),
        ("imrnn_vdb_haystack", "haystack", "haystack"),
    ],
)
def test_an_adapter_without_its_framework_names_the_extra(adapter, framework, extra):
    code = f"""
import sys
sys.modules["{framework}"] = None
try:
    import {adapter}
except ImportError as exc:
    print(type(exc).__name__, exc)
"""
    assert run(code).startswith("MissingExtraError")
    assert f"pip install 'imrnn-vdb[{extra}]'" in run(code)


def test_every_package_is_shipped_and_type_checked():
    there = sorted({"imrnn_vdb", *(path.parent.name for path in ROOT.glob("integrations/*/__init__.py"))})
    lists = re.findall(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.S | re.M)
    assert [sorted(name.rpartition("/")[2] for name in re.findall('"(.+?)"', text)) for text in lists] == [there, there]


def test_importing_takes_less_than_0_3_seconds():
    code = "import time; t = time.perf_counter(); import imrnn_vdb; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_every_public_name_is_there_and_documented():
    for name in imrnn_vdb.__all__:
        value = getattr(imrnn_vdb, name)
        assert name == "__version__" or value.__doc__, name
    assert sorted(imrnn_vdb.__all__) == imrnn_vdb.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = imrnn_vdb.nonesuch


def test_the_public_names_are_exactly_those_with_a_home():
    assert set(imrnn_vdb.__all__) == set(imrnn_vdb._MODULES) | {"__version__"}

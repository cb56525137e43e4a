"""The protocol: its generated code is current, and what was released stays as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import imrnn_vdb
from imrnn_vdb.options import ServiceOptions
from imrnn_vdb.serving.convert import options_message, read_options
from imrnn_vdb.serving.proto import imrnn_vdb_pb2
from protocol import protocol_lines

ROOT = Path(imrnn_vdb.__file__).parent.parent
PROTO = "imrnn_vdb/serving/proto/imrnn_vdb.proto"
RELEASED = ROOT / "tests/released.txt"


def test_the_generated_code_is_current(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    flags = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *flags, PROTO], cwd=ROOT, check=True)
    for name in ("imrnn_vdb_pb2.py", "imrnn_vdb_pb2.pyi", "imrnn_vdb_pb2_grpc.py"):
        generated = (tmp_path / PROTO).with_name(name).read_text()
        assert (ROOT / PROTO).with_name(name).read_text() == generated, f"{name} is outdated: make proto"


def test_nothing_that_was_released_has_changed():
    """To add to the protocol, add its lines to released.txt; nothing there is ever taken away or altered."""
    released, now = RELEASED.read_text().splitlines(), protocol_lines(imrnn_vdb_pb2.DESCRIPTOR)
    assert [line for line in released if line not in now] == [], "removed, renumbered or retyped"
    assert [line for line in now if line not in released] == [], "new: record it"


def test_every_option_of_a_search_travels():
    given = {"limit": 3, "offset": 1, "coarse_k": 20, "max_coarse_k": 40, "threshold": 0.5, "passes": 2,
             "payload_filter": "n > 1", "factor_filter": "entity >= 0.5", "only": "entity", "steer": {"entity": 1.5},
             "modulate": False, "explain": True, "plan": True, "trace": True, "topics": True}  # fmt: skip
    assert given.keys() == ServiceOptions.__annotations__.keys()
    message = options_message(given)
    assert {**read_options(message), "topics": message.topics} == given


def test_every_message_field_and_call_is_documented():
    documented = False
    bare = []
    for line in (ROOT / PROTO).read_text().splitlines():
        text = line.strip()
        if text.startswith(("rpc ", "message ")) and not documented:
            bare.append(text)
        documented = text.startswith("//")
    assert set(bare) <= {f"message {name} {{" for name in OBVIOUS} | {"message FeedbackResponse {}"}


OBVIOUS = ("Vector", "Query", "Result", "SearchRequest", "SearchResponse", "SearchBatchRequest", "SearchBatchResponse",
           "ExplainRequest", "ExplainResponse", "RerankRequest", "FactorsRequest", "FactorsResponse", "Factor",
           "CollectionFactors", "FeedbackRequest")  # fmt: skip
"""Messages named by their call; their fields are documented."""

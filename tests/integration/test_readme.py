"""The README's Python examples, run as they stand but for the address of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from imrnn_vdb.encoders import MINILM, TransformerEncoder
from imrnn_vdb.urls import parse_url

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"
TEXTS = [
    "Alexander Fleming discovered penicillin in London in 1928.",
    "Photosynthesis turns light into chemical energy.",
    "The penicillin trials of 1941 began in Oxford.",
    "A cat is a small domesticated carnivore.",
]


def block_with(text: str) -> str:
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S) if text in block]
    assert len(found.strip().splitlines()) <= 15
    return found


def rows() -> list[dict[str, Any]]:
    vectors = TransformerEncoder(MINILM).encode_passages(TEXTS)
    return [
        {"id": number, "vector": vector.tolist(), "title": text[:20], "text": text}
        for number, (vector, text) in enumerate(zip(vectors, TEXTS, strict=True))
    ]


def run(code: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    exec(compile(code, str(README), "exec"), {})  # our own file: that is the point of this test
    return capsys.readouterr().out.splitlines()


def check(printed: list[str]) -> None:
    assert "written=4" in printed[0]
    assert len(printed) == 2 + len(TEXTS)
    assert printed[1].startswith("1 1 0 ")  # rank, base rank, id of the text about Fleming
    assert printed[-1].startswith("[")


def test_an_existing_milvus_collection(milvus_server_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pymilvus import MilvusClient

    where = parse_url(f"{milvus_server_url}/any")
    client = MilvusClient(f"http://{where.host}:{where.port}")
    client.create_collection("articles", dimension=384, metric_type="COSINE", consistency_level="Session")
    try:
        client.insert("articles", rows())
        code = block_with("milvus://").replace("milvus://localhost:19530", milvus_server_url)
        check(run(code.replace("timeout=10.0", "timeout=60.0"), capsys))
    finally:
        client.drop_collection("articles")
        client.close()


@pytest.mark.parametrize("server", ["qdrant_wire_url", "qdrant_server_url"])
def test_an_existing_qdrant_collection(
    server: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    from qdrant_client import QdrantClient, models

    where = parse_url(f"{request.getfixturevalue(server)}/any")
    arguments = f'"{where.host}", grpc_port={where.port}'
    client = QdrantClient(where.host, grpc_port=where.port, prefer_grpc=True, check_compatibility=False)
    client.create_collection("articles", models.VectorParams(size=384, distance=models.Distance.COSINE))
    try:
        points = [models.PointStruct(id=row.pop("id"), vector=row.pop("vector"), payload=row) for row in rows()]
        client.upsert("articles", points, wait=True)
        code = block_with("QdrantClient").replace('"localhost", grpc_port=6334', arguments)
        code = code.replace("prefer_grpc=True", "prefer_grpc=True, check_compatibility=False")
        check(run(code, capsys))
    finally:
        client.delete_collection("articles")
        client.close()

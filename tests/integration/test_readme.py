"""What the README's two longer Python examples print, on real servers."""

from __future__ import annotations

import pytest

from documentation import README_TEXTS, ROOT, Runner, blocks, milvus_articles, qdrant_articles, rows

pytestmark = pytest.mark.integration


def check(text: str, servers: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if block.language == "python" and text in block.text]
    assert len(block.text.strip().splitlines()) <= 15
    Runner(servers, {}).run(block)
    printed = capsys.readouterr().out.splitlines()
    assert "written=4" in printed[0]
    assert len(printed) == 2 + len(README_TEXTS)
    assert printed[1].startswith("1 1 0 ")  # rank, base rank, id of the text about Fleming
    assert printed[-1].startswith("[")


def test_an_existing_milvus_collection(milvus_server_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with milvus_articles(milvus_server_url, rows()[: len(README_TEXTS)]) as servers:
        check("milvus://", servers, capsys)


@pytest.mark.parametrize("server", ["qdrant_wire_url", "qdrant_server_url"])
def test_an_existing_qdrant_collection(
    server: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    with qdrant_articles(request.getfixturevalue(server), rows()[: len(README_TEXTS)]) as servers:
        check("QdrantClient", servers, capsys)

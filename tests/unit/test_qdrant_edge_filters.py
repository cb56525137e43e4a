"""Filters of Qdrant Edge, read from JSON: the same points as local mode's own reading of the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb_qdrant.edge_filters import EdgeFilterReader

PAYLOADS: list[dict[str, Any]] = [
    {"year": 2019, "lang": "en", "tags": ["a", "b"], "when": "2019-05-01T00:00:00Z"},
    {"year": 2020, "lang": "de", "tags": [], "when": "2020-05-01T00:00:00Z"},
    {"year": 2021, "lang": "en", "note": None, "authors": [{"name": "x", "age": 3}, {"name": "y", "age": 5}]},
    {"year": 2022, "lang": "fr", "open": True, "authors": [{"name": "x", "age": 5}]},
]
FILTERS: list[dict[str, Any]] = [
    {"must": [{"key": "year", "match": {"value": 2020}}]},
    {"must": {"key": "year", "match": {"value": 2022}}},
    {"must": [{"key": "lang", "match": {"any": ["en", "fr"]}}], "must_not": [{"key": "year", "range": {"lt": 2020}}]},
    {"should": [{"key": "lang", "match": {"except": ["en"]}}, {"has_id": [0]}]},
    {"must": [{"key": "year", "range": {"gte": 2020, "lte": 2021}}]},
    {"must": [{"key": "when", "range": {"gt": "2019-12-31T00:00:00Z"}}]},
    {"must": [{"is_empty": {"key": "tags"}}]},
    {"must": [{"is_null": {"key": "note"}}]},
    {"must": [{"nested": {"key": "authors", "filter": {"must": [
        {"key": "name", "match": {"value": "x"}}, {"key": "age", "match": {"value": 5}}
    ]}}}]},
    {"must": [{"should": [{"key": "year", "match": {"value": 2019}}, {"key": "year", "match": {"value": 2022}}]}]},
]  # fmt: skip


@pytest.mark.parametrize("tree", FILTERS, ids=json.dumps)
def test_text_means_what_it_means_to_a_server(tree: dict[str, Any], tmp_path: Path) -> None:
    config = edge.EdgeConfig(vectors={"": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)})
    shard = edge.EdgeShard.create(str(tmp_path), config)
    points = [edge.Point(key, [1.0], payload) for key, payload in enumerate(PAYLOADS)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    found, _ = shard.scroll(edge.ScrollRequest(filter=EdgeFilterReader(edge).read(json.dumps(tree)), limit=9))
    shard.close()
    client = QdrantClient(":memory:")
    client.create_collection("c", models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert("c", [models.PointStruct(id=k, vector=[1.0], payload=payload) for k, payload in enumerate(PAYLOADS)])
    expected, _ = client.scroll("c", models.Filter.model_validate(tree), limit=9)
    client.close()
    assert {record.id for record in found} == {record.id for record in expected}
    assert 0 < len(found) < len(PAYLOADS)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '"x"', "{", '{"must": [{}]}', '{"must": [3]}', '{"and": []}', '{"must": [{"key": "a"}]}',
        '{"must": [{"key": "a", "match": {"value": 1, "any": [1]}}]}',
        '{"must": [{"key": "a", "match": {"value": []}}]}',
        '{"must": [{"key": "a", "match": {"value": true}}]}',
        '{"must": [{"key": "a", "match": {"any": [1, true]}}]}',
        '{"must": [{"key": "a", "match": {"value": 1}, "range": {"gt": 1}}]}', '{"must": [{"geo": {}}]}',
        '{"must": [{"key": "a", "range": {"above": 1}}]}', '{"must": [{"has_id": [[]]}]}', '{"must": ' * 2000,
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no Qdrant filter in JSON"):
        EdgeFilterReader(edge).read(text)

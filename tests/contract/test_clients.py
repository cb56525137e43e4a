"""A caller's own client: recognised, used, and left open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factory import make_model
from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.errors import InvalidInputError, StoreError

DIM, COUNT = 32, 20
VECTORS = np.random.default_rng(3).normal(size=(COUNT, DIM)).astype(np.float32)


def check(collection: IMRNNCollection) -> None:
    """Attach to a team's collection: write codes, search modulated, close."""
    before = collection.search(VECTORS[0], limit=COUNT)
    assert not any(result.modulated for result in before)
    assert collection.backfill().written == COUNT
    after = collection.search(VECTORS[0], limit=COUNT)
    assert all(result.modulated for result in after)
    assert {result.payload["n"] for result in after} == set(range(COUNT))
    collection.close()


def qdrant_client(distance="Cosine", **options):
    from qdrant_client import QdrantClient

    client = QdrantClient(**options)
    fill(client, distance)
    return client


def fill(client, distance):
    from qdrant_client import models

    client.create_collection("team", models.VectorParams(size=DIM, distance=models.Distance(distance)))
    points = [models.PointStruct(id=i, vector=vector.tolist(), payload={"n": i}) for i, vector in enumerate(VECTORS)]
    client.upsert("team", points)


def test_a_qdrant_client():
    client = qdrant_client(location=":memory:")
    check(IMRNNCollection.from_client(client, "team", make_model()))
    assert client.count("team").count == COUNT
    client.close()


@pytest.mark.parametrize(("before", "after"), [("Cosine", "Euclid"), ("Euclid", "Dot")])
def test_a_collection_made_anew_that_ranks_the_other_way_round_is_noticed(before, after):
    client = qdrant_client(before, location=":memory:")
    collection = IMRNNCollection.from_client(client, "team", make_model())
    assert collection.search(VECTORS[0])[0].id == 0
    client.delete_collection("team")
    fill(client, after)
    with pytest.raises(StoreError, match="made anew with another one; open it again"):
        collection.search(VECTORS[0])
    assert len(IMRNNCollection.from_client(client, "team", make_model()).search(VECTORS[0])) == 10
    client.close()


async def test_an_async_qdrant_client():
    from qdrant_client import AsyncQdrantClient, models

    client = AsyncQdrantClient(location=":memory:")
    await client.create_collection("team", models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    points = [models.PointStruct(id=i, vector=vector.tolist(), payload={"n": i}) for i, vector in enumerate(VECTORS)]
    await client.upsert("team", points)
    async with await AsyncIMRNNCollection.from_client(client, "team", make_model()) as collection:
        assert (await collection.backfill()).written == COUNT
        assert all(result.modulated for result in await collection.search(VECTORS[0], limit=COUNT))
    assert (await client.count("team")).count == COUNT
    with pytest.raises(InvalidInputError, match=r"use AsyncIMRNNCollection\.from_client"):
        IMRNNCollection.from_client(client, "team", make_model())
    await client.close()


async def test_a_blocking_client_serves_an_event_loop():
    client = qdrant_client(location=":memory:")
    async with await AsyncIMRNNCollection.from_client(client, "team", make_model()) as collection:
        assert len(await collection.search(VECTORS[0], limit=COUNT)) == COUNT
    assert client.count("team").count == COUNT
    client.close()


def test_an_edge_shard(tmp_path: Path):
    import qdrant_edge as edge

    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=DIM, distance=edge.Distance.Cosine))
    shard = edge.EdgeShard.create(str(tmp_path), config)
    points = [edge.Point(i, vector.tolist(), {"n": i}) for i, vector in enumerate(VECTORS)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    check(IMRNNCollection.from_client(shard, "team", make_model()))
    assert shard.count(edge.CountRequest(exact=True)) == COUNT
    shard.close()


def team_in_milvus(client) -> None:
    client.create_collection("team", dimension=DIM, metric_type="COSINE", auto_id=False, consistency_level="Session")
    client.insert("team", [{"id": i, "vector": vector.tolist(), "n": i} for i, vector in enumerate(VECTORS)])


def test_a_milvus_client_on_a_file(tmp_path: Path):
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "team.db"))
    team_in_milvus(client)
    check(IMRNNCollection.from_client(client, "team", make_model(), timeout=60.0))
    assert client.has_collection("team")
    client.close()


@pytest.mark.integration
async def test_milvus_clients_on_a_server(milvus_server_url: str):
    from pymilvus import AsyncMilvusClient, MilvusClient

    uri = milvus_server_url.replace("milvus://", "http://")
    client = MilvusClient(uri)
    team_in_milvus(client)
    try:
        check(IMRNNCollection.from_client(client, "team", make_model(), timeout=60.0))
        asynchronous = AsyncMilvusClient(uri)
        collection = await AsyncIMRNNCollection.from_client(asynchronous, "team", make_model(), timeout=60.0)
        assert all(result.modulated for result in await collection.search(VECTORS[0], limit=COUNT))
        await collection.close()
        await asynchronous.close()
    finally:
        client.drop_collection("team")
        client.close()


@pytest.mark.parametrize("client", [object(), None, "qdrant"])
def test_a_client_of_another_kind_is_refused(client):
    with pytest.raises(InvalidInputError, match="no store knows a client of type"):
        IMRNNCollection.from_client(client, "team", make_model())

"""The Haystack adapter: the same documents as `IMRNNCollection.search` finds; pipelines survive being written down."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack", reason="haystack-ai is not installed: pip install 'imrnn-vdb[haystack]'")

from haystack import Document, Pipeline
from haystack.utils import Secret

from frames import QUERY, TEXTS, check_details, embed, filled, model, opened, payloads
from imrnn_vdb import CollectionNotFoundError, InvalidInputError
from imrnn_vdb.backend import connect
from imrnn_vdb_haystack import IMRNNRanker, IMRNNRetriever

EMBEDDING = embed([QUERY])[0].tolist()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A collection's URL, and the folder of the model."""
    folder = tmp_path_factory.mktemp("haystack")
    model().save_pretrained(folder / "model")
    return filled(folder), str(folder / "model")


@pytest.fixture
def wanted(place: tuple[str, str]) -> list[Any]:
    with opened(place[0]) as collection:
        return list(collection.search(QUERY, limit=30, explain=True))


def test_documents_are_the_results_of_the_search(place: tuple[str, str], wanted: list[Any]) -> None:
    retriever = IMRNNRetriever(*place, top_k=6)
    found = retriever.run(query_embedding=EMBEDDING)["documents"]
    retriever.close()
    assert [(document.id, document.score) for document in found] == [(str(r.id), r.score) for r in wanted[:6]]
    for document, result in zip(found, wanted, strict=False):
        check_details(document.meta["imrnn"], result)
        assert document.content == TEXTS[result.id]
        assert {key: value for key, value in document.meta.items() if key != "imrnn"} == payloads()[result.id]


def test_asynchronously_too_in_one_event_loop_after_another(place: tuple[str, str], wanted: list[Any]) -> None:
    retriever, ranker = IMRNNRetriever(*place, top_k=30), IMRNNRanker(*place, top_k=5)

    async def both() -> list[Document]:
        await retriever.warm_up_async()
        found = (await retriever.run_async(query_embedding=EMBEDDING))["documents"]
        await retriever.close_async()  # an embedded engine has one user at a time
        ranked = (await ranker.run_async(found[::-1], query_embedding=EMBEDDING))["documents"]
        await ranker.close_async()
        return ranked

    for _ in range(2):
        assert [document.meta["imrnn"]["id"] for document in asyncio.run(both())] == [r.id for r in wanted[:5]]


async def test_runs_that_begin_together_open_one_collection(place: tuple[str, str]) -> None:
    retriever = IMRNNRetriever(*place, top_k=3)
    runs = [retriever.run_async(query_embedding=EMBEDDING) for _ in range(5)]
    first, *others = [found["documents"] for found in await asyncio.gather(*runs)]  # Edge would refuse a second opening
    assert all([hit.id for hit in other] == [hit.id for hit in first] for other in others)
    await retriever.close_async()
    missing = IMRNNRetriever("qdrant+edge:/nonexistent/articles", place[1])
    for _ in range(2):
        with pytest.raises(CollectionNotFoundError):
            await missing.run_async(query_embedding=EMBEDDING)


def test_a_pipeline_is_written_down_and_read_back(place: tuple[str, str], wanted: list[Any]) -> None:
    pipeline = Pipeline()
    retriever = IMRNNRetriever(*place, top_k=7, open_kwargs={"timeout": 30.0}, search_kwargs={"only": "entity"})
    pipeline.add_component("retriever", retriever)
    written = pipeline.dumps()
    assert "IMRNN_API_KEY" in written
    again = Pipeline.loads(written, allowed_modules=["imrnn_vdb_haystack"])
    assert again.to_dict() == pipeline.to_dict()
    found = again.run({"retriever": {"query_embedding": EMBEDDING}})["retriever"]["documents"]
    assert all(document.meta["imrnn"]["factors"]["entity"] >= 0.5 for document in found)
    again.close()


def test_a_ranker_in_a_pipeline(place: tuple[str, str], wanted: list[Any]) -> None:
    pipeline = Pipeline()
    pipeline.add_component("ranker", IMRNNRanker(*place, top_k=8, rerank_kwargs={"steer": {"entity": 1.0}}))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["imrnn_vdb_haystack"])
    assert again.to_dict() == pipeline.to_dict()
    fetched = [Document(id=str(i), content=TEXTS[i], meta={"imrnn": {"id": i}}) for i in range(30)]
    fetched.append(Document(content="a stranger", meta={"imrnn": {"id": 999}}, score=0.9))
    found = again.run({"ranker": {"documents": fetched, "query_embedding": EMBEDDING, "top_k": 31}})["ranker"]
    again.close()
    assert [document.meta["imrnn"]["id"] for document in found["documents"]] == [*(r.id for r in wanted), 999]
    scores = [document.score for document in found["documents"]]
    assert scores[:-1] == pytest.approx([result.score for result in wanted], abs=1e-6)
    assert scores[-1] is None
    assert all(document.score is None for document in fetched[:-1])


def test_a_key_never_leaves_the_component(place: tuple[str, str]) -> None:
    retriever = IMRNNRetriever(*place, api_key=Secret.from_token("hush"))
    with pytest.raises(ValueError, match=r"[Tt]oken"):
        retriever.to_dict()
    named = IMRNNRetriever(*place, api_key=Secret.from_env_var("SOME_KEY"))
    assert IMRNNRetriever.from_dict(named.to_dict()).api_key == named.api_key
    assert IMRNNRetriever.from_dict(IMRNNRetriever(*place, api_key=None).to_dict()).api_key is None


def test_a_key_among_the_keywords_would_be_written_down(place: tuple[str, str]) -> None:
    for kind in (IMRNNRetriever, IMRNNRanker):
        with pytest.raises(InvalidInputError, match=r"api_key=Secret\.from_env_var") as refused:
            kind(*place, open_kwargs={"api_key": "hush"})
        assert "hush" not in str(refused.value)


async def test_without_a_key_the_key_of_another_database_is_not_sent(
    place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []

    def connecting(where: Any, options: Any, **more: Any) -> Any:
        sent.append(options.api_key)
        return connect(where, options, **more)

    monkeypatch.setattr("imrnn_vdb.collection.connect", connecting)
    monkeypatch.setattr("imrnn_vdb.async_collection.connect", connecting)
    monkeypatch.setenv("IMRNN_API_KEY", "of another database")
    monkeypatch.delenv("IMRNN_NOT_SET", raising=False)
    for key in (None, Secret.from_env_var("IMRNN_NOT_SET", strict=False), Secret.from_env_var("IMRNN_API_KEY")):
        retriever = IMRNNRetriever(*place, api_key=key)
        retriever.warm_up()
        retriever.close()
        await retriever.warm_up_async()
        await retriever.close_async()
    assert sent == [None, None, None, None, "of another database", "of another database"]


@pytest.mark.parametrize("own", [1, 5])
def test_what_one_run_wants_goes_before_the_components_keywords(place: tuple[str, str], own: int) -> None:
    retriever = IMRNNRetriever(*place, search_kwargs={"limit": own})
    fetched = retriever.run(query_embedding=EMBEDDING, top_k=3)["documents"]
    assert len(fetched) == 3
    assert len(retriever.run(query_embedding=EMBEDDING)["documents"]) == own
    retriever.close()
    ranker = IMRNNRanker(*place, rerank_kwargs={"limit": own})
    found = ranker.run(fetched, query_embedding=EMBEDDING, top_k=2)["documents"]
    assert [document.id for document in found] == [document.id for document in fetched[:2]]
    assert all(document.score is not None for document in found)
    assert len(ranker.run(fetched, query_embedding=EMBEDDING)["documents"]) == min(own, 3)
    ranker.close()


def test_documents_as_haystack_stores_them(tmp_path: Path, place: tuple[str, str]) -> None:
    """Haystack's `QdrantDocumentStore` keeps a document's fields as the payload, and derives the point id."""
    document = Document(content="a text", meta={"source": "there"})
    payload = document.to_dict(flatten=False)
    payload.pop("embedding")
    point = str(uuid.uuid5(uuid.UUID("3896d314-1e95-4a3a-b45a-945f9f0b541d"), document.id))
    url = filled(tmp_path)
    with opened(url) as collection:
        collection.upsert([point], vectors=embed([QUERY]), payloads=[payload])
    retriever = IMRNNRetriever(url, place[1], top_k=1)
    [found] = retriever.run(query_embedding=EMBEDDING)["documents"]
    retriever.close()
    ranker = IMRNNRanker(url, place[1], id_from="qdrant_document_store")
    [again] = ranker.run([document], query_embedding=EMBEDDING)["documents"]
    ranker.close()
    for hit in (found, again):
        assert (hit.id, hit.content, hit.meta["source"]) == (document.id, "a text", "there")
        assert hit.meta["imrnn"]["id"] == point


def test_a_filter_is_text_or_the_databases_own(tmp_path: Path, place: tuple[str, str]) -> None:
    from qdrant_client import models

    condition = models.FieldCondition(key="part", match=models.MatchValue(value=1))
    retriever = IMRNNRetriever(filled(tmp_path, "qdrant+local"), place[1], top_k=30)
    native = models.Filter(must=[condition])
    found = retriever.run(query_embedding=EMBEDDING, payload_filter=native)["documents"]
    assert len(found) == 15
    assert {document.meta["part"] for document in found} == {1}
    written = json.dumps({"must": [{"key": "part", "match": {"value": 1}}]})
    again = retriever.run(query_embedding=EMBEDDING, payload_filter=written)["documents"]
    assert [document.id for document in again] == [document.id for document in found]
    retriever.close()


def test_foreign_metadata_under_our_key_is_none_of_ours(place: tuple[str, str]) -> None:
    ranker = IMRNNRanker(*place)
    vector = embed([QUERY])[0].tolist()
    [found] = ranker.run([Document(id="a stranger", meta={"imrnn": "paid"})], query_embedding=vector)["documents"]
    ranker.close()
    assert found.meta["imrnn"]["id"] == "a stranger"


def test_what_cannot_be_asked(place: tuple[str, str]) -> None:
    retriever, ranker = IMRNNRetriever(*place), IMRNNRanker(*place)
    with pytest.raises(InvalidInputError, match="query_embedding"):
        retriever.run()
    retriever.close()
    with pytest.raises(InvalidInputError, match="query_embedding"):
        ranker.run([])
    assert ranker.run([], query=QUERY) == {"documents": []}
    with pytest.raises(InvalidInputError, match="id_from"):
        IMRNNRanker(*place, id_from="elsewhere")

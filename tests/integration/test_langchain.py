"""LangChain's own standard tests for retrievers, and the same documents as `IMRNNCollection.search` finds."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="langchain-core is not installed: pip install 'imrnn-vdb[langchain]'")

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from frames import QUERY, TEXTS, check_details, embed, filled, model, opened, payloads
from imrnn_vdb import AsyncIMRNNCollection, InvalidInputError
from imrnn_vdb_langchain import IMRNNRerank, IMRNNRetriever
from imrnn_vdb_qdrant.ids import native_id


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(tmp_path_factory.mktemp("langchain"))


@pytest.fixture(scope="module")
def collection(url: str) -> Any:
    with opened(url) as collection:
        yield collection


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _over(self, collection: Any) -> None:
        self.collection = collection

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return IMRNNRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"collection": self.collection}

    @property
    def retriever_query_example(self) -> str:
        return QUERY


def test_documents_are_the_results_of_the_search(collection: Any) -> None:
    options = {"steer": {"entity": 2.0}, "coarse_k": 20}
    wanted = collection.search(QUERY, limit=6, explain=True, **options)
    found = IMRNNRetriever(collection=collection, k=6, search_kwargs=options).invoke(QUERY)
    assert [document.id for document in found] == [str(result.id) for result in wanted]
    for document, result in zip(found, wanted, strict=True):
        check_details(document.metadata["imrnn"], result)
        assert document.page_content == TEXTS[result.id]
        assert {key: value for key, value in document.metadata.items() if key != "imrnn"} == payloads()[result.id]


def test_one_calls_keywords_go_before_those_of_the_retriever(collection: Any) -> None:
    retriever = IMRNNRetriever(collection=collection, k=6, search_kwargs={"factor_filter": "entity >= 0.9"})
    found = retriever.invoke(QUERY, factor_filter="entity < 0.5", k=4)
    assert [document.metadata["imrnn"]["id"] for document in found] == [
        result.id for result in collection.search(QUERY, limit=4, factor_filter="entity < 0.5")
    ]
    assert len(IMRNNRetriever(collection=collection, search_kwargs={"limit": 2}).invoke(QUERY, k=4)) == 4
    assert len(IMRNNRetriever(collection=collection, search_kwargs={"k": 2}).invoke(QUERY)) == 2  # LangChain's habit


async def test_an_asynchronous_collection_finds_the_same(tmp_path: Any) -> None:
    url = filled(tmp_path)
    with opened(url) as blocking:
        wanted = IMRNNRetriever(collection=blocking, k=5).invoke(QUERY)
        reranked = IMRNNRerank(collection=blocking, top_n=3).compress_documents(wanted, QUERY)
    async with await AsyncIMRNNCollection.open(url, model(), encoder=embed) as collection:
        retriever = IMRNNRetriever(async_collection=collection, k=5)
        assert await retriever.ainvoke(QUERY) == wanted
        compressor = IMRNNRerank(async_collection=collection, top_n=3)
        assert await compressor.acompress_documents(wanted, QUERY) == reranked
        with pytest.raises(InvalidInputError, match="async method"):
            retriever.invoke(QUERY)


def test_documents_as_langchain_qdrant_stores_them(tmp_path: Any) -> None:
    url = filled(tmp_path, text_field="page_content")
    with opened(url, text_field="page_content") as collection:
        stored = {"page_content": "a text", "metadata": {"source": "there"}}
        collection.upsert([900], vectors=embed([QUERY]), payloads=[stored])
        [found] = IMRNNRetriever(collection=collection, k=1, metadata_key="metadata").invoke(QUERY)
    assert found.page_content == "a text"
    assert set(found.metadata) == {"source", "imrnn"}


@pytest.mark.parametrize("place", ["_id", "pk", "key of mine", "id"])
def test_documents_of_another_retriever_are_ranked_as_the_search_does(collection: Any, place: str) -> None:
    window = collection.search(QUERY, limit=30, explain=True)
    fetched = [
        Document(page_content=TEXTS[i], metadata={"n": i} | ({} if place == "id" else {place: i}), id=str(i))
        for i in range(30)
    ]
    if place == "id":  # ids are text there, and these points have integers: what this package found remembers them
        fetched = IMRNNRetriever(collection=collection, k=30).invoke(QUERY)[::-1]
    compressor = IMRNNRerank(collection=collection, top_n=8, id_key="key of mine" if place == "key of mine" else None)
    before = [document.model_copy(deep=True) for document in fetched]
    found = compressor.compress_documents(fetched, QUERY)
    assert fetched == before
    assert [document.metadata["imrnn"]["id"] for document in found] == [result.id for result in window[:8]]
    for document, result in zip(found, window, strict=False):
        assert document.metadata["relevance_score"] == pytest.approx(result.score, abs=1e-6)
        assert document.metadata["imrnn"]["base_rank"] == result.base_rank
        assert document.page_content == TEXTS[result.id]


def test_documents_that_langchain_qdrant_names_by_the_databases_key_are_ranked(tmp_path: Any) -> None:
    names = [f"doc-{i}" for i in range(5)]
    with opened(filled(tmp_path, "qdrant+local")) as collection:
        collection.upsert(names, texts=TEXTS[:5])
        records = [collection.client.retrieve(collection.name, [native_id(name)])[0] for name in names]
        fetched = [Document(page_content=r.payload["text"], metadata={"_id": r.id}) for r in records]
        wanted = collection.rerank(QUERY, names)
        found = IMRNNRerank(collection=collection).compress_documents(fetched, QUERY)
    assert [document.metadata["imrnn"]["id"] for document in found] == [result.id for result in wanted]
    assert [document.page_content for document in found] == [TEXTS[names.index(str(r.id))] for r in wanted]


def test_foreign_metadata_under_our_key_is_none_of_ours(collection: Any) -> None:
    fetched = [Document(page_content=TEXTS[i], metadata={"_id": i, "imrnn": "paid"}) for i in range(3)]
    found = IMRNNRerank(collection=collection).compress_documents(fetched, QUERY)
    wanted = [result.id for result in collection.rerank(QUERY, range(3))]
    assert [document.metadata["imrnn"]["id"] for document in found] == wanted


@pytest.mark.parametrize("key", ["title", "part", "nonesuch"])
def test_a_payload_without_a_mapping_of_metadata_has_none(collection: Any, key: str) -> None:
    [found] = IMRNNRetriever(collection=collection, k=1, metadata_key=key).invoke(QUERY)
    assert set(found.metadata) == {"imrnn"}


def test_a_limit_among_the_keywords_of_the_reranking_makes_no_document_a_stranger(collection: Any) -> None:
    fetched = [Document(page_content=TEXTS[i], metadata={"_id": i}) for i in range(3)]
    best = collection.rerank(QUERY, range(3))[0].id
    [found] = IMRNNRerank(collection=collection, rerank_kwargs={"limit": 1}).compress_documents(fetched, QUERY)
    assert found.metadata["_id"] == found.metadata["imrnn"]["id"] == best


def test_what_cannot_be_ranked(collection: Any) -> None:
    compressor = IMRNNRerank(collection=collection)
    assert compressor.compress_documents([], QUERY) == []
    with pytest.raises(InvalidInputError, match="no point id"):
        compressor.compress_documents([Document(page_content="")], QUERY)
    stranger = Document(page_content="", metadata={"_id": 999})
    [found] = compressor.compress_documents([stranger], QUERY)
    assert found.metadata["imrnn"]["reason"] == "the collection has no point of this id"
    with pytest.raises(ValueError, match="give a collection"):
        IMRNNRerank()
    with pytest.raises(ValueError, match="give a collection"):
        IMRNNRetriever()

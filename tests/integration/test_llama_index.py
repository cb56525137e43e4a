"""The LlamaIndex adapter: the same nodes as `IMRNNCollection.search` finds, alone and in a query engine."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip(
    "llama_index.core", reason="llama-index-core is not installed: pip install 'imrnn-vdb[llama-index]'"
)

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import IndexNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from frames import QUERY, TEXTS, check_details, embed, filled, model, opened, payloads
from imrnn_vdb import AsyncIMRNNCollection, InvalidInputError
from imrnn_vdb.results import SearchResult
from imrnn_vdb_llama_index import IMRNNRerank, IMRNNRetriever
from imrnn_vdb_llama_index.nodes import node_of


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def collection(url: str) -> Any:
    with opened(url) as collection:
        yield collection


def test_nodes_are_the_results_of_the_search(collection: Any) -> None:
    options = {"steer": {"entity": 2.0}, "coarse_k": 20}
    wanted = collection.search(QUERY, limit=6, explain=True, **options)
    found = IMRNNRetriever(collection, similarity_top_k=6, search_kwargs=options).retrieve(QUERY)
    assert [(hit.node_id, hit.score) for hit in found] == [(str(result.id), result.score) for result in wanted]
    for hit, result in zip(found, wanted, strict=True):
        check_details(hit.metadata["imrnn"], result)
        assert hit.text == TEXTS[result.id]
        assert {key: value for key, value in hit.metadata.items() if key != "imrnn"} == payloads()[result.id]
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert "contributions" not in hit.node.get_content(mode)


def test_an_embedding_of_the_query_is_used(collection: Any) -> None:
    bundle = QueryBundle("something else", embedding=embed([QUERY])[0].tolist())
    found = IMRNNRetriever(collection).retrieve(bundle)
    assert [hit.metadata["imrnn"]["id"] for hit in found] == [result.id for result in collection.search(QUERY)]


async def test_an_asynchronous_collection_finds_the_same(tmp_path: Any) -> None:
    url = filled(tmp_path)
    with opened(url) as blocking:
        wanted = IMRNNRetriever(blocking, similarity_top_k=5).retrieve(QUERY)
        reranked = IMRNNRerank(collection=blocking, top_n=3).postprocess_nodes(wanted, query_str=QUERY)
    async with await AsyncIMRNNCollection.open(url, model(), encoder=embed) as collection:
        retriever = IMRNNRetriever(None, collection, similarity_top_k=5)
        assert [hit.score for hit in await retriever.aretrieve(QUERY)] == [hit.score for hit in wanted]
        rerank = IMRNNRerank(async_collection=collection, top_n=3)
        found = await rerank.apostprocess_nodes(wanted, query_str=QUERY)
        assert [(hit.node_id, hit.score) for hit in found] == [(hit.node_id, hit.score) for hit in reranked]
        with pytest.raises(InvalidInputError, match="async method"):
            retriever.retrieve(QUERY)


def test_nodes_as_llama_index_stores_them(tmp_path: Any) -> None:
    node = TextNode(text="a text", metadata={"source": "there"})
    with opened(filled(tmp_path)) as collection:
        collection.upsert([node.node_id], vectors=embed([QUERY]), payloads=[node_to_metadata_dict(node)])
        [found] = IMRNNRetriever(collection, similarity_top_k=1).retrieve(QUERY)
        [again] = IMRNNRerank(collection=collection).postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    for hit in (found, again):
        assert hit.node_id == node.node_id
        assert hit.text == "a text"
        assert hit.metadata["source"] == "there"
    assert again.score == pytest.approx(found.score, abs=1e-6)
    assert "imrnn" not in node.metadata


@pytest.mark.parametrize("kind", [TextNode, Node, IndexNode])
def test_nodes_whose_text_lies_beside_them(tmp_path: Any, kind: type[Any]) -> None:
    """As llama-index's Milvus store writes them: the text once, in a field of its own."""
    made: dict[str, Any] = {"metadata": {"source": "there"}, **({"index_id": "other"} if kind is IndexNode else {})}
    node = kind(**made)
    node.set_content("a text")
    stored = {**node_to_metadata_dict(node, remove_text=True), "text": node.get_content(MetadataMode.NONE)}
    assert "a text" not in stored["_node_content"]
    with opened(filled(tmp_path)) as collection:
        collection.upsert([node.node_id], vectors=embed([QUERY]), payloads=[stored])
        [found] = IMRNNRetriever(collection, similarity_top_k=1).retrieve(QUERY)
    assert type(found.node) is kind
    assert found.node.get_content(MetadataMode.NONE) == "a text"
    assert (found.node_id, found.metadata["source"]) == (node.node_id, "there")


def test_a_node_keeps_its_own_text_and_one_without_any_has_none() -> None:
    def read(node: TextNode, **beside: Any) -> str:
        payload = {**node_to_metadata_dict(node), **beside}
        result = SearchResult("a", 1, 0.5, 1, 0.5, False, None, payload, {}, None)
        return str(node_of(result, "body").node.get_content(MetadataMode.NONE))

    assert read(TextNode(text="its own"), body="another") == "its own"
    assert read(TextNode(text=""), body="beside it") == "beside it"
    assert read(TextNode(text=""), text="of another field") == ""
    assert read(TextNode(text=""), body=None) == ""


def test_a_query_engine_retrieves_and_ranks(collection: Any) -> None:
    retriever = IMRNNRetriever(collection, similarity_top_k=30)
    engine = RetrieverQueryEngine.from_args(
        retriever, llm=MockLLM(), node_postprocessors=[IMRNNRerank(collection=collection, top_n=4)]
    )
    response = engine.query(QUERY)
    wanted = collection.search(QUERY, limit=4)
    assert [hit.metadata["imrnn"]["id"] for hit in response.source_nodes] == [result.id for result in wanted]
    assert [hit.score for hit in response.source_nodes] == pytest.approx([r.score for r in wanted], abs=1e-6)
    assert TEXTS[wanted[0].id] in str(response)  # the mock repeats its prompt
    assert "residual" not in str(response)


def test_foreign_metadata_under_our_key_is_none_of_ours(collection: Any) -> None:
    node = TextNode(id_="a stranger", text="", metadata={"imrnn": "paid"})
    [found] = IMRNNRerank(collection=collection).postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    assert found.metadata["imrnn"]["id"] == "a stranger"


def test_a_limit_among_the_keywords_of_the_reranking_is_how_many_are_wanted(collection: Any) -> None:
    nodes = IMRNNRetriever(collection, similarity_top_k=5).retrieve(QUERY)
    [found] = IMRNNRerank(collection=collection, rerank_kwargs={"limit": 1}).postprocess_nodes(nodes, query_str=QUERY)
    assert found.node_id == nodes[0].node_id


def test_what_cannot_be_ranked(collection: Any) -> None:
    rerank = IMRNNRerank(collection=collection)
    assert rerank.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InvalidInputError, match="query_bundle"):
        rerank.postprocess_nodes([])
    [found] = rerank.postprocess_nodes([NodeWithScore(node=TextNode(text=""), score=0.7)], query_str=QUERY)
    assert found.score is None
    assert found.metadata["imrnn"]["reason"] == "the collection has no point of this id"
    with pytest.raises(ValueError, match="give a collection"):
        IMRNNRerank()
    with pytest.raises(InvalidInputError, match="give a collection"):
        IMRNNRetriever()
    assert rerank.class_name() == "IMRNNRerank"
    assert "collection" not in rerank.to_dict()

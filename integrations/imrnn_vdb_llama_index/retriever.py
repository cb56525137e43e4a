"""A LlamaIndex retriever whose nodes are the results of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.framework import Collections
from imrnn_vdb_llama_index.nodes import node_of, query_of


class IMRNNRetriever(BaseRetriever):
    """Finds nodes by :meth:`imrnn_vdb.IMRNNCollection.search`; each has the details of its result in its metadata.

    ``node.metadata["imrnn"]`` holds ``id``, ``rank``, ``score``, ``base_rank``, ``base_score``, ``modulated``,
    ``reason``, ``factors``, ``contributions``, ``residual`` and ``latent``; prompts and embeddings leave it out.

    Parameters
    ----------
    collection
        Answers ``retrieve``, and ``aretrieve`` from a worker thread where there is no ``async_collection``.
    async_collection
        Answers ``aretrieve``.
    similarity_top_k
        Nodes wanted.
    search_kwargs
        More keywords of ``search``: ``payload_filter``, ``factor_filter``, ``steer``, ``coarse_k`` …
    callback_manager
        As everywhere in LlamaIndex.

    Notes
    -----
    A query bundle's ``embedding`` is used where it has one; otherwise the collection's own encoder reads its text.
    """

    def __init__(
        self,
        collection: IMRNNCollection | None = None,
        async_collection: AsyncIMRNNCollection | None = None,
        *,
        similarity_top_k: int = 10,
        search_kwargs: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self._collections = Collections(collection, async_collection)
        self._options = {"limit": similarity_top_k, **(search_kwargs or {})}
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        response = self._collections.search(query_of(query_bundle), self._options)
        return [node_of(result, self._collections.text_field) for result in response]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        response = await self._collections.asearch(query_of(query_bundle), self._options)
        return [node_of(result, self._collections.text_field) for result in response]

"""A LlamaIndex node postprocessor that ranks nodes which another retriever fetched from the same collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field, model_validator
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from typing_extensions import Self

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, InvalidInputError
from imrnn_vdb.framework import Collections, in_new_order
from imrnn_vdb.points import PointId
from imrnn_vdb.results import SearchResponse
from imrnn_vdb_llama_index.nodes import point_id, query_of, with_details


class IMRNNRerank(BaseNodePostprocessor):
    """Ranks nodes by :meth:`imrnn_vdb.IMRNNCollection.rerank`.

    Vectors and codes are read from the collection by the nodes' ids, in one call; nodes need nothing else. A node that
    is not in the collection follows at the end, without a score.

    Attributes
    ----------
    collection
        Answers ``postprocess_nodes``, and ``apostprocess_nodes`` from a worker thread where there is no
        ``async_collection``.
    async_collection
        Answers ``apostprocess_nodes``.
    top_n
        Nodes wanted.
    rerank_kwargs
        More keywords of ``rerank``: ``factor_filter``, ``only``, ``steer``, ``threshold``, ``modulate``.
    """

    collection: IMRNNCollection | None = Field(default=None, exclude=True)
    async_collection: AsyncIMRNNCollection | None = Field(default=None, exclude=True)
    top_n: int = Field(default=10, ge=1)
    rerank_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_collections(self) -> Self:
        _ = self._collections
        return self

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into events."""
        return "IMRNNRerank"

    @property
    def _collections(self) -> Collections:
        return Collections(self.collection, self.async_collection)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = query_of(_needed(query_bundle))
        if not nodes:
            return []
        ids = [point_id(found.node) for found in nodes]
        return self._ordered(nodes, ids, self._collections.rerank(query, ids, self.rerank_kwargs))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = query_of(_needed(query_bundle))
        if not nodes:
            return []
        ids = [point_id(found.node) for found in nodes]
        return self._ordered(nodes, ids, await self._collections.arerank(query, ids, self.rerank_kwargs))

    def _ordered(
        self, nodes: Sequence[NodeWithScore], ids: Sequence[PointId], response: SearchResponse
    ) -> list[NodeWithScore]:
        options = {"limit": self.top_n, **self.rerank_kwargs}
        return [
            NodeWithScore(node=with_details(found.node, told), score=told.get("score"))
            for found, told in in_new_order(self._collections, nodes, ids, response, options)
        ]


def _needed(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise InvalidInputError("nodes are ranked for a query: pass query_bundle= or query_str=")
    return query_bundle

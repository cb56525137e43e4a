"""A Haystack ranker component for documents which another retriever fetched from the same collection."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from haystack import Document, component, default_to_dict
from haystack.utils import Secret

from imrnn_vdb import InvalidInputError
from imrnn_vdb.framework import METADATA_KEY, Collections, in_new_order, told_id
from imrnn_vdb.points import PointId
from imrnn_vdb.results import SearchResponse
from imrnn_vdb_haystack.opening import OpenedCollection, default_api_key, query_from

_QDRANT_STORE = uuid.UUID("3896d314-1e95-4a3a-b45a-945f9f0b541d")  # Haystack's QdrantDocumentStore derives ids in it


@component
class IMRNNRanker(OpenedCollection):
    """Ranks documents by :meth:`imrnn_vdb.IMRNNCollection.rerank`.

    Vectors and codes are read from the collection by the documents' ids, in one call; documents need nothing else. A
    document that is not in the collection follows at the end, without a score.

    Parameters
    ----------
    url, model, api_key, open_kwargs
        Which collection: see :class:`imrnn_vdb_haystack.opening.OpenedCollection`.
    top_k
        Documents wanted.
    rerank_kwargs
        More keywords of ``rerank``: ``factor_filter`` (as text), ``only``, ``steer``, ``threshold``, ``modulate``.
    id_from
        What a document's point id is, where its meta does not say: ``"document"``, its own id, or
        ``"qdrant_document_store"``, the UUID that Haystack's `QdrantDocumentStore` makes of it.

    Raises
    ------
    InvalidInputError
        If ``id_from`` is neither.
    """

    def __init__(
        self,
        url: str,
        model: str = "minilm",
        *,
        api_key: Secret | None = default_api_key(),  # noqa: B008 - as everywhere in Haystack; a Secret is frozen
        top_k: int = 10,
        open_kwargs: dict[str, Any] | None = None,
        rerank_kwargs: dict[str, Any] | None = None,
        id_from: Literal["document", "qdrant_document_store"] = "document",
    ) -> None:
        if id_from not in ("document", "qdrant_document_store"):
            raise InvalidInputError(f"id_from is 'document' or 'qdrant_document_store', got {id_from!r}")
        # not super(): the decorator makes the class anew
        OpenedCollection.__init__(self, url, model, api_key, open_kwargs)
        self.top_k = top_k
        self.rerank_kwargs = rerank_kwargs
        self.id_from = id_from

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dictionary, without an open connection and without a key."""
        own = {"top_k": self.top_k, "rerank_kwargs": self.rerank_kwargs, "id_from": self.id_from}
        return default_to_dict(self, **self.where(), **own)

    @component.output_types(documents=list[Document])
    def run(
        self,
        documents: list[Document],
        query: str | None = None,
        query_embedding: list[float] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents for a query.

        Parameters
        ----------
        documents
            Fetched from the same collection; they are not changed, copies are returned.
        query
            A text, for the collection's own encoder.
        query_embedding
            The query's vector, of an embedder of yours; goes before the text.
        top_k
            Documents wanted, for this run.
        """
        query_given = query_from(query, query_embedding)
        if not documents:
            return {"documents": []}
        ids = [self._point_id(document) for document in documents]
        collections = self._collections()
        response = collections.rerank(query_given, ids, self.rerank_kwargs or {})
        return self._output(collections, documents, ids, response, top_k)

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        documents: list[Document],
        query: str | None = None,
        query_embedding: list[float] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents for a query; see :meth:`run`."""
        query_given = query_from(query, query_embedding)
        if not documents:
            return {"documents": []}
        ids = [self._point_id(document) for document in documents]
        collections = await self._acollections()
        response = await collections.arerank(query_given, ids, self.rerank_kwargs or {})
        return self._output(collections, documents, ids, response, top_k)

    def _point_id(self, document: Document) -> PointId:
        found = told_id(document.meta)
        if found is not None:
            return found
        return document.id if self.id_from == "document" else str(uuid.uuid5(_QDRANT_STORE, document.id))

    def _output(
        self,
        collections: Collections,
        documents: Sequence[Document],
        ids: Sequence[PointId],
        response: SearchResponse,
        top_k: int | None,
    ) -> dict[str, list[Document]]:
        options = {"limit": self.top_k, **(self.rerank_kwargs or {}), **({} if top_k is None else {"limit": top_k})}
        ordered = in_new_order(collections, documents, ids, response, options)
        return {
            "documents": [
                replace(document, score=told.get("score"), meta={**document.meta, METADATA_KEY: told})
                for document, told in ordered
            ]
        }

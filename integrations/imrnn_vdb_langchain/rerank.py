"""A LangChain document compressor that ranks documents which another retriever fetched from the same collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, InvalidInputError
from imrnn_vdb.framework import METADATA_KEY, Collections, in_new_order, told_id
from imrnn_vdb.points import PointId
from imrnn_vdb.results import SearchResponse

_ID_KEYS = ("_id", "pk")  # where langchain-qdrant and langchain-milvus put the key of a point


class IMRNNRerank(BaseDocumentCompressor):
    """Ranks documents by :meth:`imrnn_vdb.IMRNNCollection.rerank`.

    Vectors and codes are read from the collection by the documents' ids, in one call; documents need nothing else. A
    document that is not in the collection follows at the end, and its metadata says so.

    Attributes
    ----------
    collection
        Answers ``compress_documents``, and ``acompress_documents`` from a worker thread where there is no
        ``async_collection``.
    async_collection
        Answers ``acompress_documents``.
    top_n
        Documents wanted.
    id_key
        Metadata key of the point id; None: this package's own, else ``_id`` (langchain-qdrant), else ``pk``
        (langchain-milvus), else ``document.id``.
    rerank_kwargs
        More keywords of ``rerank``: ``factor_filter``, ``only``, ``steer``, ``threshold``, ``modulate``.
    """

    collection: IMRNNCollection | None = None
    async_collection: AsyncIMRNNCollection | None = None
    top_n: int = Field(default=10, ge=1)
    id_key: str | None = None
    rerank_kwargs: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @model_validator(mode="after")
    def _check_collections(self) -> Self:
        _ = self._collections
        return self

    @property
    def _collections(self) -> Collections:
        return Collections(self.collection, self.async_collection)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents, ``metadata["relevance_score"]`` their score; see the class.

        Raises
        ------
        InvalidInputError
            If a document has no id, or the query is empty.
        """
        del callbacks
        if not documents:
            return []
        ids = [self._point_id(document) for document in documents]
        return self._ordered(documents, ids, self._collections.rerank(query, ids, self.rerank_kwargs))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents; see :meth:`compress_documents`."""
        del callbacks
        if not documents:
            return []
        ids = [self._point_id(document) for document in documents]
        return self._ordered(documents, ids, await self._collections.arerank(query, ids, self.rerank_kwargs))

    def _point_id(self, document: Document) -> PointId:
        metadata = document.metadata
        if self.id_key is not None:
            found = metadata.get(self.id_key)
        else:
            places = (told_id(metadata), *(metadata.get(key) for key in _ID_KEYS), document.id)
            found = next((value for value in places if value is not None), None)
        if found is None:
            where = f"metadata[{self.id_key!r}]" if self.id_key else "its id and its metadata"
            raise InvalidInputError(
                f"a document to rerank has no point id in {where}: name the metadata key that holds it by id_key="
            )
        return found  # type: ignore[no-any-return]

    def _ordered(
        self, documents: Sequence[Document], ids: Sequence[PointId], response: SearchResponse
    ) -> list[Document]:
        options = {"limit": self.top_n, **self.rerank_kwargs}
        return [
            document.model_copy(update={"metadata": {**document.metadata, **_score(told), METADATA_KEY: told}})
            for document, told in in_new_order(self._collections, documents, ids, response, options)
        ]


def _score(told: dict[str, Any]) -> dict[str, Any]:
    """Return the score under the key that LangChain's other compressors use."""
    return {"relevance_score": told["score"]} if "score" in told else {}

"""A LangChain retriever whose documents are the results of a search."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, model_validator
from typing_extensions import Self

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection
from imrnn_vdb.framework import METADATA_KEY, Collections, details
from imrnn_vdb.results import SearchResult


class IMRNNRetriever(BaseRetriever):
    """Finds documents by :meth:`imrnn_vdb.IMRNNCollection.search`; each has the details of its result in its metadata.

    ``document.metadata["imrnn"]`` holds ``id``, ``rank``, ``score``, ``base_rank``, ``base_score``, ``modulated``,
    ``reason``, ``factors``, ``contributions``, ``residual`` and ``latent``.

    Attributes
    ----------
    collection
        Answers ``invoke``, and ``ainvoke`` from a worker thread where there is no ``async_collection``.
    async_collection
        Answers ``ainvoke``.
    k
        Documents wanted.
    search_kwargs
        More keywords of ``search``: ``payload_filter``, ``factor_filter``, ``steer``, ``coarse_k`` …
    metadata_key
        Payload key that holds the metadata, where it holds a mapping; None: all of the payload but the text is
        metadata. In collections that `langchain-qdrant` filled it is ``"metadata"``, and the collection is opened with
        ``text_field="page_content"``.
    """

    collection: IMRNNCollection | None = None
    async_collection: AsyncIMRNNCollection | None = None
    k: int = Field(default=10, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    metadata_key: str | None = None

    @model_validator(mode="after")
    def _check_collections(self) -> Self:
        _ = self._collections
        return self

    @property
    def _collections(self) -> Collections:
        return Collections(self.collection, self.async_collection)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        del run_manager
        return [self._document(result) for result in self._collections.search(query, self._options(kwargs))]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        del run_manager
        return [self._document(result) for result in await self._collections.asearch(query, self._options(kwargs))]

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return keywords of ``search``; those of one call go before those of the retriever."""
        return {"limit": self.k, **_with_limit(self.search_kwargs), **_with_limit(given)}

    def _document(self, result: SearchResult) -> Document:
        payload = dict(result.payload)
        text = payload.pop(self._collections.text_field, None)
        metadata = payload if self.metadata_key is None else payload.get(self.metadata_key)
        return Document(
            id=str(result.id),
            page_content="" if text is None else str(text),
            metadata={**(metadata if isinstance(metadata, dict) else {}), METADATA_KEY: details(result)},
        )


def _with_limit(options: dict[str, Any]) -> dict[str, Any]:
    """Call ``k``, which is LangChain's word, what ``search`` calls it."""
    return {"limit" if name == "k" else name: value for name, value in options.items()}

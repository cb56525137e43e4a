"""A Haystack retriever component whose documents are the results of a search."""

from __future__ import annotations

from typing import Any

from haystack import Document, component, default_to_dict
from haystack.utils import Secret

from imrnn_vdb.framework import Collections
from imrnn_vdb.results import SearchResponse
from imrnn_vdb_haystack.opening import OpenedCollection, default_api_key, document_of, query_from


@component
class IMRNNRetriever(OpenedCollection):
    """Finds documents by :meth:`imrnn_vdb.IMRNNCollection.search`; each has the details of its result in its meta.

    ``document.meta["imrnn"]`` holds ``id``, ``rank``, ``score``, ``base_rank``, ``base_score``, ``modulated``,
    ``reason``, ``factors``, ``contributions``, ``residual`` and ``latent``.

    Parameters
    ----------
    url, model, api_key, open_kwargs
        Which collection: see :class:`imrnn_vdb_haystack.opening.OpenedCollection`.
    top_k
        Documents wanted.
    search_kwargs
        More keywords of ``search``. In pipelines that are written to YAML: plain values, factor filters as text.
    """

    def __init__(
        self,
        url: str,
        model: str = "minilm",
        *,
        api_key: Secret | None = default_api_key(),  # noqa: B008 - as everywhere in Haystack; a Secret is frozen
        top_k: int = 10,
        open_kwargs: dict[str, Any] | None = None,
        search_kwargs: dict[str, Any] | None = None,
    ) -> None:
        # not super(): the decorator makes the class anew
        OpenedCollection.__init__(self, url, model, api_key, open_kwargs)
        self.top_k = top_k
        self.search_kwargs = search_kwargs

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dictionary, without an open connection and without a key."""
        own = {"top_k": self.top_k, "search_kwargs": self.search_kwargs}
        return default_to_dict(self, **self.where(), **own)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str | None = None,
        query_embedding: list[float] | None = None,
        payload_filter: Any = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Search.

        Parameters
        ----------
        query
            A text, for the collection's own encoder.
        query_embedding
            The query's vector, of an embedder of yours; goes before the text.
        payload_filter
            The database's own filter, for this run; a text is read as on the command line.
        top_k
            Documents wanted, for this run.
        """
        collections = self._collections()
        options = self._options(collections, payload_filter, top_k)
        return _output(collections, collections.search(query_from(query, query_embedding), options))

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str | None = None,
        query_embedding: list[float] | None = None,
        payload_filter: Any = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Search; see :meth:`run`."""
        collections = await self._acollections()
        options = self._options(collections, payload_filter, top_k)
        return _output(collections, await collections.asearch(query_from(query, query_embedding), options))

    def _options(self, collections: Collections, payload_filter: Any, top_k: int | None) -> dict[str, Any]:
        options = {"limit": self.top_k, **(self.search_kwargs or {}), **({} if top_k is None else {"limit": top_k})}
        wanted = options.get("payload_filter") if payload_filter is None else payload_filter
        collection = collections.blocking or collections.asynchronous
        if isinstance(wanted, str) and collection is not None:
            wanted = collection.parse_filter(wanted)
        return {**options, "payload_filter": wanted}


def _output(collections: Collections, response: SearchResponse) -> dict[str, list[Document]]:
    return {"documents": [document_of(result, collections.text_field) for result in response]}

"""A collection that a component opens when it is first needed, so that pipelines can be written to YAML and back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from haystack import Document, default_from_dict
from haystack.utils import Secret, deserialize_secrets_inplace

from imrnn_vdb import AsyncIMRNNCollection, IMRNNCollection, InvalidInputError
from imrnn_vdb.framework import METADATA_KEY, Collections, details
from imrnn_vdb.options import API_KEY_VARIABLE
from imrnn_vdb.results import SearchResult

if TYPE_CHECKING:
    from typing_extensions import Self

    from imrnn_vdb.core import Query


def default_api_key() -> Secret:
    """Return the key's default: the environment variable that the rest of the package reads, which need not be set."""
    return Secret.from_env_var(API_KEY_VARIABLE, strict=False)


class OpenedCollection:
    """Base of both components: says which collection, opens it at ``warm_up`` or the first run, closes it at the end.

    Parameters
    ----------
    url, model
        As for :meth:`imrnn_vdb.IMRNNCollection.open`.
    api_key
        Secret for the server; only one from the environment can be written to YAML. None, or of a variable that is not
        set: no key.
    open_kwargs
        More keywords of ``open``: ``text_field``, ``vector_name``, ``guard``, ``timeout`` …

    Raises
    ------
    InvalidInputError
        If ``open_kwargs`` hold an ``api_key``, which would be written down.
    """

    def __init__(self, url: str, model: str, api_key: Secret | None, open_kwargs: dict[str, Any] | None) -> None:
        if "api_key" in (open_kwargs or {}):
            raise InvalidInputError(
                "open_kwargs are written down, so they take no api_key: give it as api_key=Secret.from_env_var(...)"
            )
        self.url = url
        self.model = model
        self.api_key = api_key
        self.open_kwargs = open_kwargs
        self._opening = threading.Lock()
        self._blocking: IMRNNCollection | None = None
        self._asynchronous: tuple[asyncio.AbstractEventLoop, asyncio.Task[AsyncIMRNNCollection]] | None = None

    def warm_up(self) -> None:
        """Open the collection for ``run``."""
        self._collections()

    async def warm_up_async(self) -> None:
        """Open the collection for ``run_async``."""
        await self._acollections()

    def close(self) -> None:
        """Close what ``run`` used."""
        if self._blocking is not None:
            self._blocking.close()
            self._blocking = None

    async def close_async(self) -> None:
        """Close what ``run_async`` used."""
        if self._asynchronous is not None:
            await (await self._asynchronous[1]).close()
            self._asynchronous = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make the component from a dictionary; nothing is opened yet."""
        deserialize_secrets_inplace(data["init_parameters"], keys=["api_key"])
        made: Self = default_from_dict(cls, data)
        return made

    def where(self) -> dict[str, Any]:
        """Return the parameters that say which collection, for ``to_dict``; a key that is no reference is refused."""
        return {
            "url": self.url,
            "model": self.model,
            "api_key": self.api_key.to_dict() if self.api_key else None,
            "open_kwargs": self.open_kwargs,
        }

    def _collections(self) -> Collections:
        with self._opening:
            if self._blocking is None:
                self._blocking = IMRNNCollection.open(self.url, self.model, **self._open_options())
            return Collections(self._blocking)

    async def _acollections(self) -> Collections:
        """Return the collection of the running event loop; asynchronous clients serve the loop that made them."""
        loop = asyncio.get_running_loop()
        if self._asynchronous is None or self._asynchronous[0] is not loop:
            opening = AsyncIMRNNCollection.open(self.url, self.model, **self._open_options())
            self._asynchronous = loop, loop.create_task(opening)
        try:  # runs that begin together wait for one opening, and none of them, given up, ends it for the others
            return Collections(None, await asyncio.shield(self._asynchronous[1]))
        except Exception:
            self._asynchronous = None
            raise

    def _open_options(self) -> dict[str, Any]:
        key = self.api_key.resolve_value() if self.api_key else None
        return {**(self.open_kwargs or {}), "api_key": key or ""}  # None would take the environment's


def query_from(query: str | None, query_embedding: list[float] | None) -> Query:
    """Return the embedding where there is one, else the text.

    Raises
    ------
    InvalidInputError
        If there is neither.
    """
    if query_embedding is not None:
        return query_embedding
    if query is None:
        raise InvalidInputError("give a query or a query_embedding")
    return query


def document_of(result: SearchResult, text_field: str) -> Document:
    """Return a result as a document: the very document, where one of Haystack's document stores wrote the payload."""
    payload = dict(result.payload)
    told = {METADATA_KEY: details(result)}
    if isinstance(payload.get("meta"), dict) and isinstance(payload.get("id"), str) and "content" in payload:
        stored: dict[str, Any] = {name: payload[name] for name in ("id", "content", "blob") if name in payload}
        return Document.from_dict({**stored, "meta": {**payload["meta"], **told}, "score": result.score})
    text = payload.pop(text_field, None)
    content = None if text is None else str(text)
    return Document(id=str(result.id), content=content, meta={**payload, **told}, score=result.score)

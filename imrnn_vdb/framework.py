"""What the adapters of retrieval frameworks share: which collection they ask, and what they tell of a result.

An adapter translates documents; what is found, and how it is scored, is :meth:`IMRNNCollection.search` and
:meth:`IMRNNCollection.rerank`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from imrnn_vdb.async_collection import AsyncIMRNNCollection
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.core import Query
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.points import PointId, normalize_id
from imrnn_vdb.results import SearchResponse, SearchResult

METADATA_KEY = "imrnn"
"""Under this key a document's metadata holds what :func:`details` tells, apart from the payload's own keys."""
_SELECTING = ("factor_filter", "only", "threshold")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Collections:
    """The collection that an adapter asks, blocking, asynchronous or both.

    Attributes
    ----------
    blocking
        Answers blocking calls, and asynchronous ones from a worker thread where there is no other.
    asynchronous
        Answers asynchronous calls.
    """

    blocking: IMRNNCollection | None = None
    asynchronous: AsyncIMRNNCollection | None = None

    def __post_init__(self) -> None:
        if self.blocking is None and self.asynchronous is None:
            raise InvalidInputError("give a collection: an IMRNNCollection, an AsyncIMRNNCollection or both")

    @property
    def text_field(self) -> str:
        """Payload key of the text."""
        collection = self.blocking or self.asynchronous
        return collection.text_field if collection is not None else ""

    def search(self, query: Query, options: Mapping[str, Any]) -> SearchResponse:
        """Search, with explanations."""
        return self._need_blocking().search(query, **{"explain": True, **options})

    async def asearch(self, query: Query, options: Mapping[str, Any]) -> SearchResponse:
        """Search, with explanations, without blocking the event loop."""
        if self.asynchronous is None:
            return await asyncio.to_thread(self.search, query, options)
        return await self.asynchronous.search(query, **{"explain": True, **options})

    def key_of(self, point_id: object) -> PointId:
        """Return the key under which the database keeps a point; other integrations may know no other id of it."""
        collection = self.blocking or self.asynchronous
        return collection.key_of(point_id) if collection is not None else normalize_id(point_id)

    def rerank(self, query: Query, ids: Sequence[PointId], options: Mapping[str, Any]) -> SearchResponse:
        """Rank all of these points, with explanations; a limit among the options is :func:`in_new_order`'s."""
        return self._need_blocking().rerank(query, map(self.key_of, ids), **_for_all(options))

    async def arerank(self, query: Query, ids: Sequence[PointId], options: Mapping[str, Any]) -> SearchResponse:
        """Rank all of these points, with explanations, without blocking the event loop."""
        if self.asynchronous is None:
            return await asyncio.to_thread(self.rerank, query, ids, options)
        return await self.asynchronous.rerank(query, map(self.key_of, ids), **_for_all(options))

    def _need_blocking(self) -> IMRNNCollection:
        if self.blocking is None:
            raise InvalidInputError("only an AsyncIMRNNCollection was given: call the async method, or give both")
        return self.blocking


def _for_all(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"explain": True, **{name: value for name, value in options.items() if name != "limit"}}


def details(result: SearchResult) -> dict[str, Any]:
    """Return what is known of a result beside its payload, ready for JSON: id, ranks, scores, factors, contributions.

    ``residual``, the named ``contributions`` and ``latent`` add up to ``score``.
    """
    told = {key: value for key, value in result.to_dict().items() if key not in ("payload", "explanation")}
    if result.explanation is not None:
        parts = result.explanation.to_dict()
        told |= {"contributions": parts["named"], "residual": parts["residual"], "latent": parts["latent"]}
    return told


def told_id(metadata: Mapping[str, Any]) -> PointId | None:
    """Return the point id that a document's metadata tells, as :func:`details` writes it; None where it tells none.

    What somebody else keeps under that key is no detail of ours.
    """
    told = metadata.get(METADATA_KEY)
    found = told.get("id") if isinstance(told, Mapping) else None
    return found if isinstance(found, int | str) else None


def in_new_order(
    collections: Collections,
    documents: Sequence[T],
    ids: Sequence[PointId],
    response: SearchResponse,
    options: Mapping[str, Any],
) -> list[tuple[T, dict[str, Any]]]:
    """Put documents that somebody fetched into the order of a response over their points.

    Parameters
    ----------
    collections
        What was asked.
    documents
        n documents.
    ids
        The point of each: its id, or the database's key of it.
    response
        All of these points, ranked.
    options
        Those of the reranking; ``limit`` is how many documents are wanted, None for all. Without a filter and a
        threshold among them, documents whose points the collection does not have follow at the end, in the order in
        which they came; otherwise they are left out.

    Returns
    -------
    list of tuple
        Documents with the details of their results.

    Raises
    ------
    InvalidInputError
        If the limit is below 1.
    """
    limit = options.get("limit")
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1, got {limit}")
    told = {collections.key_of(result.id): details(result) for result in response}
    groups: dict[PointId, list[T]] = {key: [] for key in told}
    unknown = []
    for document, value in zip(documents, ids, strict=True):
        key = collections.key_of(value)
        if key in groups:
            groups[key].append(document)
        else:
            reason = "the collection has no point of this id"
            unknown.append((document, {"id": normalize_id(value), "modulated": False, "reason": reason}))
    known = [(document, told[key]) for key, group in groups.items() for document in group]
    selecting = any(options.get(name) is not None for name in _SELECTING)
    return (known if selecting else known + unknown)[:limit]

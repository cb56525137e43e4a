"""A search straight through the connection of pymilvus's client, whose reply is read by column.

Beside the call itself, pymilvus's own ``search`` takes 0.3 to 0.4 ms: it builds each request anew, and one object for
each hit. Here a request is a copy of an earlier one with other vectors, and nothing is made for a hit. It is the
request that pymilvus would send: over its channel, with its credentials, its database, and what it knows of this
process's last write. What fails, and what is not as it is known here, is left to ``search``, with its retries and its
exceptions. Known are the clients of pymilvus 2.6.10 to 3.0.2.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imrnn_vdb_milvus.hits import Hits, hits_by_column, hits_of_vendor

SEARCH = "search_by_column"
"""Name of :func:`search_by_column` where it stands beside a client's own methods."""
_SESSION = "Session"
_NO_WRITE = 1
"""The timestamp that any state of a collection satisfies."""


def method_of(client: Any, name: str) -> Callable[..., Any]:
    """Return a method of a client by name; :data:`SEARCH` is one of every client."""
    if name == SEARCH and not hasattr(client, name):
        return functools.partial(search_by_column, client)
    method: Callable[..., Any] = getattr(client, name)
    return method


def search_by_column(client: Any, *, timeout: float, **question: Any) -> list[Hits] | Awaitable[list[Hits]]:
    """Search as ``client.search(timeout=timeout, **question)`` does; of an asynchronous client, an awaitable.

    Parameters
    ----------
    client
        A ``MilvusClient`` or an ``AsyncMilvusClient``; subclasses and others keep to their own ``search``.
    timeout
        Seconds until the answer must be there.
    question
        ``collection_name``, ``data`` (n float32 vectors), ``anns_field``, ``limit``, ``filter``, ``output_fields``,
        ``search_params`` and ``consistency_level="Session"``.

    Returns
    -------
    list of Hits
        One entry a query.
    """
    deadline = time.monotonic() + timeout
    call = _Call.prepare(client, question)
    if call is None:
        reply = client.search(timeout=timeout, **question)
        return _read_later(reply) if inspect.isawaitable(reply) else hits_of_vendor(reply)
    return (_asend if call.asynchronous else _send)(call, client, question, deadline)


def _send(call: _Call, client: Any, question: Mapping[str, Any], deadline: float) -> list[Hits]:
    try:
        reply = call.send(call.request, timeout=_left(deadline), metadata=call.metadata)
    except Exception:
        if time.monotonic() >= deadline:
            raise
        reply = None  # pymilvus knows what can be done
    hits = call.read(reply)
    return hits if hits is not None else hits_of_vendor(client.search(timeout=_left(deadline), **question))


async def _asend(call: _Call, client: Any, question: Mapping[str, Any], deadline: float) -> list[Hits]:
    try:
        reply = await call.send(call.request, timeout=_left(deadline), metadata=call.metadata)
    except Exception:
        if time.monotonic() >= deadline:
            raise
        reply = None  # pymilvus knows what can be done
    hits = call.read(reply)
    return hits if hits is not None else hits_of_vendor(await client.search(timeout=_left(deadline), **question))


async def _read_later(reply: Awaitable[Any]) -> list[Hits]:
    return hits_of_vendor(await reply)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


@dataclass(frozen=True, slots=True)
class _Vendor:
    """The parts of pymilvus that a call is made of; hashed by what they are."""

    client: type
    async_client: type
    request: Callable[[], Any]
    requests: Callable[..., Any]
    common: Any
    last_write: Callable[[str, str, str], int | None]
    results: Callable[[Any], Any]

    @classmethod
    def find(cls) -> _Vendor | None:
        """Find them in the pymilvus that is imported; None where they are others than those known here."""
        try:
            milvus, parts = sys.modules["pymilvus"], importlib.import_module
            found = cls(
                milvus.MilvusClient,
                milvus.AsyncMilvusClient,
                parts("pymilvus.grpc_gen.milvus_pb2").SearchRequest,
                parts("pymilvus.client.prepare").Prepare.search_requests_with_expr,
                parts("pymilvus.grpc_gen.common_pb2"),
                parts("pymilvus.client.ts_utils").get_collection_ts,
                parts("pymilvus.client.search_result").SearchResult,
            )
            known = (
                "use_default_consistency" in inspect.signature(found.requests).parameters
                and [*inspect.signature(found.last_write).parameters] == ["collection_name", "endpoint", "db_name"]
                and callable(found.client._generate_call_context)  # type: ignore[attr-defined]
            )
        except (ImportError, AttributeError):
            return None
        return found if known else None


_vendor = functools.cache(_Vendor.find)


@dataclass(frozen=True, slots=True)
class _Call:
    """What is sent, and by what."""

    vendor: _Vendor
    asynchronous: bool
    send: Callable[..., Any]
    request: Any
    metadata: Any

    @classmethod
    def prepare(cls, client: Any, question: Mapping[str, Any]) -> _Call | None:
        """Prepare a call; None where the client is not connected yet, or is not as it is known here."""
        vendor = _vendor() if "pymilvus" in sys.modules else None
        if vendor is None or type(client) not in (vendor.client, vendor.async_client):
            return None
        asynchronous = type(client) is vendor.async_client
        handler: Any = getattr(client, "_handler", None)
        stub: Any = getattr(handler, "_async_stub" if asynchronous else "_stub", None)
        cluster: object = getattr(client, "_cluster_id", None)  # of several, a request would have to name its own
        if stub is None or cluster or question["consistency_level"] != _SESSION:
            return None
        context = client._generate_call_context()
        since = vendor.last_write(question["collection_name"], handler.server_address, context.get_db_name())
        request = _request(vendor, question, since or _NO_WRITE)
        return cls(vendor, asynchronous, stub.Search, request, context.to_grpc_metadata())

    def read(self, reply: Any) -> list[Hits] | None:
        """Read a reply; None where there is none, or where it reports a failure."""
        if reply is None or reply.status.code or reply.status.error_code:
            return None
        hits = hits_by_column(reply.results)
        return hits if hits is not None else hits_of_vendor(self.vendor.results(reply.results))


def _request(vendor: _Vendor, question: Mapping[str, Any], since: int) -> Any:
    request = vendor.request()
    request.CopyFrom(
        _template(
            vendor,
            question["collection_name"],
            question["anns_field"],
            question["limit"],
            tuple(question["output_fields"]),
            json.dumps(question["search_params"]),
        )
    )
    request.dsl = question["filter"]
    request.guarantee_timestamp = since
    request.nq = len(question["data"])
    vectors = [np.asarray(vector, "<f4").tobytes() for vector in question["data"]]
    common = vendor.common
    group = common.PlaceholderValue(tag="$0", type=common.PlaceholderType.FloatVector, values=vectors)
    request.placeholder_group = common.PlaceholderGroup(placeholders=[group]).SerializeToString()
    return request


@functools.lru_cache(maxsize=256)
def _template(
    vendor: _Vendor, collection: str, field: str, limit: int, output_fields: tuple[str, ...], params: str
) -> Any:
    """Return pymilvus's request but for vectors, condition and timestamp; it is copied, never changed."""
    return vendor.requests(
        collection_name=collection,
        anns_field=field,
        param=json.loads(params),
        limit=limit,
        data=[np.zeros(1, np.float32)],
        output_fields=list(output_fields),
        use_default_consistency=False,
        consistency_level=vendor.common.ConsistencyLevel.Value(_SESSION),
    )

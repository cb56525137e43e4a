"""What works with a Milvus collection, and why: for ``imrnn-vdb doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imrnn_vdb.layout import FACTOR_PREFIX, Layout
from imrnn_vdb.store import Capability
from imrnn_vdb_milvus.schema import Schema, Server, misplaces, prolongs
from imrnn_vdb_milvus.sidecar import sidecar_name
from imrnn_vdb_milvus.steps import MAX_WINDOW

_FILTERS = "factor filters in the database"
_INTERIM = 5_000
"""Points that are not flushed from which on a server may search them through an index of its own, which looks into 16
of 128 cells: all of 7,000 were found on 2.3.5 (d = 384), of 8,000 and more an eighth, whatever `ef` was asked for."""


def capabilities_of(
    server: Server,
    schema: Schema,
    partitions: Sequence[str],
    layout: Layout,
    *,
    sidecar: bool = False,
    growing: int = 0,
) -> tuple[Capability, ...]:
    """Return what works here, for a collection as it is; ``growing`` of its points are in no index yet."""
    return (
        _sidecar(schema, layout) if sidecar else _codes(schema, layout),
        _code_vector(server, schema, layout),
        _update(server, schema, partitions, layout, sidecar=sidecar),
        _partial_upsert(server),
        _new_fields(server),
        _sidecar_filters() if sidecar else _pre_filters(server, schema),
        _recall(server, schema, growing),
        Capability("record in the collection", "works", "attach --in-collection sets a property of the collection"),
        Capability("own writes", "works", "session consistency: a read sees what this process wrote before"),
        Capability("async", "fallback", "Milvus Lite runs in this process: calls go to a worker thread")
        if server.lite
        else Capability("async", "works", "AsyncMilvusClient over gRPC"),
    )


def settings_of(schema: Schema, partitions: Sequence[str], sidecar: str | None) -> dict[str, Any]:
    """Return what is known of a collection beside its vectors."""
    return {
        "primary key": f"{schema.key}, {'VARCHAR' if schema.key_is_text else 'INT64'}",
        "autoID": schema.auto_id,
        "dynamic field": schema.dynamic,
        "partitions": len(partitions),
        "partition key": schema.partition_key,
        "indexes": dict(schema.index_types),
        "sidecar": sidecar or "none",
    }


def _codes(schema: Schema, layout: Layout) -> Capability:
    homes: dict[str | None, str] = {
        "vector": f"in the vector field {layout.code_field!r}",
        "column": f"as text in the field {layout.code_field!r}",
        "dynamic": "in a sidecar collection that a backfill makes, or, in place, as text in the dynamic field",
        None: "in a sidecar collection that a backfill makes: there is neither a field for them nor a dynamic field",
    }
    return Capability("codes", "works", homes[schema.code_home(layout)])


def _sidecar(schema: Schema, layout: Layout) -> Capability:
    name = sidecar_name(schema.collection, layout.space_id)
    return Capability("codes", "works", f"in the sidecar collection {name!r}: every search makes a second call, by key")


def _sidecar_filters() -> Capability:
    why = (
        "scores lie in the sidecar: a filter that few points match is sent as their ids; for others the window grows, "
        f"to {MAX_WINDOW} candidates at most, at more calls a step"
    )
    return Capability(_FILTERS, "fallback", why)


def _code_vector(server: Server, schema: Schema, layout: Layout) -> Capability:
    name = "code as second vector field"
    if schema.code_home(layout) == "vector":
        return Capability(name, "works", "the collection was created with it")
    if not server.at_least(2, 4):
        return Capability(name, "fallback", f"{server} allows one vector field; codes are stored as text")
    return Capability(name, "fallback", "only in collections created with code_storage='vector'; text is used here")


def _recall(server: Server, schema: Schema, growing: int) -> Capability:
    name = "every point can be found"
    if growing >= _INTERIM:
        why = (
            f"{growing} points are in no index yet, and a server may look at an eighth of those: filtered searches and "
            "large windows leave points out until they are flushed (flush() of your client) and indexed, seconds later"
        )
        return Capability(name, "fallback", why)
    partial = [field for field, kind in schema.index_types.items() if kind.startswith(("HNSW", "IVF"))]
    if server.lite and partial:  # 3.2 passes no parameters of a search on to its indexes
        why = (
            "Milvus Lite's HNSW leaves some points of small collections out, and its IVF looks into 10 cells, whatever "
            f"is asked for ({', '.join(partial)}): use FLAT there"
        )
        return Capability(name, "fallback", why)
    return Capability(name, "works", "as far as the index of the vector field is exact")


def _update(server: Server, schema: Schema, partitions: Sequence[str], layout: Layout, *, sidecar: bool) -> Capability:
    name = "writing codes of existing points"
    beside = "a backfill writes them into a sidecar collection, which is safe beside other writers"
    if sidecar:
        return Capability(name, "works", "into the sidecar collection, safe beside other writers; rows stay untouched")
    if schema.auto_id:
        return Capability(name, "fallback", f"autoID: a rewritten row would get a new key; {beside}")
    if misplaces(server, schema):
        why = f"{server} would put rewritten rows into wrong partitions, as the collection has a partition key"
        return Capability(name, "fallback", f"{why}; {beside}")
    if prolongs(server, schema):
        return Capability(name, "fallback", f"collection.ttl.seconds: a rewritten row would live longer; {beside}")
    if schema.foreign:
        return Capability(
            name, "fallback", f"rows cannot be rewritten unchanged ({', '.join(schema.foreign)}); {beside}"
        )
    if schema.code_home(layout) in {"dynamic", None}:
        return Capability(name, "works", beside)
    where = f", in each of {len(partitions)} partitions" if len(partitions) > 1 else ""
    return Capability(name, "works", f"whole rows are read and rewritten{where}: not beside other writers")


def _partial_upsert(server: Server) -> Capability:
    name = "partial upsert"
    if server.lite:
        return Capability(
            name, "fallback", "every upsert of Milvus Lite is partial; whole rows are written here instead"
        )
    if server.at_least(2, 6, 18):
        return Capability(name, "fallback", "the server has it; whole rows are rewritten here, as on every version")
    return Capability(name, "no", f"{server} ignores it or is not safe with it (2.6.18): whole rows are rewritten")


def _new_fields(server: Server) -> Capability:
    name = "adding fields"
    if server.lite or not server.at_least(2, 6):
        return Capability(name, "no", f"{server} cannot add fields to a collection")
    return Capability(name, "works", "scalar fields, which must be nullable; this package does not need it")


def _pre_filters(server: Server, schema: Schema) -> Capability:
    if any(column.startswith(FACTOR_PREFIX) for column in schema.columns):
        return Capability(_FILTERS, "works", "scores are scalar FLOAT fields")
    if not schema.dynamic:
        return _sidecar_filters()
    slow = " (slow in Milvus Lite: about 0.8 s at 20,000 points)" if server.lite else ""
    why = f"after a backfill, {_sidecar_filters().why}; after one in place, scores are keys of the dynamic field{slow}"
    return Capability(_FILTERS, "fallback", why)

"""What works with a Milvus collection, and why: for ``imrnn-vdb doctor``."""

from __future__ import annotations

from collections.abc import Sequence

from imrnn_vdb.store import FACTOR_PREFIX, Capability, Layout
from imrnn_vdb_milvus.schema import Schema, Server


def capabilities_of(
    server: Server, schema: Schema, partitions: Sequence[str], layout: Layout
) -> tuple[Capability, ...]:
    """Return what works here, for a collection as it is."""
    return (
        _codes(schema, layout),
        _code_vector(server, schema, layout),
        _update(schema, partitions, layout),
        _partial_upsert(server),
        _new_fields(server),
        _pre_filters(server, schema),
        _recall(server, schema),
        Capability("own writes", "works", "session consistency: a read sees what this process wrote before"),
        Capability("async", "fallback", "Milvus Lite runs in this process: calls go to a worker thread")
        if server.lite
        else Capability("async", "works", "AsyncMilvusClient over gRPC"),
    )


def _codes(schema: Schema, layout: Layout) -> Capability:
    homes = {
        "vector": ("works", f"in the vector field {layout.code_field!r}"),
        "column": ("works", f"as text in the field {layout.code_field!r}"),
        "dynamic": ("works", "as text in the dynamic field"),
        None: (
            "no",
            f"neither a field {layout.code_field!r} nor a dynamic field, which cannot be enabled later",
        ),
    }
    status, why = homes[schema.code_home(layout)]
    return Capability("codes", "works" if status == "works" else "no", why)


def _code_vector(server: Server, schema: Schema, layout: Layout) -> Capability:
    name = "code as second vector field"
    if schema.code_home(layout) == "vector":
        return Capability(name, "works", "the collection was created with it")
    if not server.at_least(2, 4):
        return Capability(name, "fallback", f"{server} allows one vector field; codes are stored as text")
    return Capability(name, "fallback", "only in collections created with code_storage='vector'; text is used here")


def _recall(server: Server, schema: Schema) -> Capability:
    name = "every point can be found"
    graphs = [field for field, kind in schema.index_types.items() if kind.startswith("HNSW")]
    if server.lite and graphs:
        why = f"Milvus Lite's HNSW leaves some points of small collections out ({', '.join(graphs)}): use FLAT there"
        return Capability(name, "fallback", why)
    return Capability(name, "works", "as far as the index of the vector field is exact")


def _update(schema: Schema, partitions: Sequence[str], layout: Layout) -> Capability:
    name = "writing codes of existing points"
    if schema.auto_id:
        return Capability(name, "no", "autoID: a rewritten row gets a new key")
    if schema.foreign:
        return Capability(name, "no", f"rows cannot be rewritten unchanged: fields {', '.join(schema.foreign)}")
    if schema.code_home(layout) is None:
        return Capability(name, "no", "there is no room for codes")
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
    name = "factor filters in the database"
    if any(column.startswith(FACTOR_PREFIX) for column in schema.columns):
        return Capability(name, "works", "scores are scalar FLOAT fields")
    if not schema.dynamic:
        return Capability(name, "no", "there is neither a field for scores nor a dynamic field")
    slow = " (slow in Milvus Lite: about 0.8 s at 20,000 points)" if server.lite else ""
    return Capability(name, "works", f"scores are keys of the dynamic field{slow}")

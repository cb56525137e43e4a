"""What works with a Qdrant collection, and why: for ``imrnn-vdb doctor``. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from imrnn_vdb.layout import Layout
from imrnn_vdb.options import DEFAULT_COARSE_K
from imrnn_vdb.store import Capability
from imrnn_vdb_qdrant.filters import payload_path
from imrnn_vdb_qdrant.schema import Schema

_METADATA_SINCE, _NAMED_VECTORS_SINCE = (1, 16), (1, 18)
_KEYS = Capability("code in payload", "works", "set key by key on any collection; other keys stay as they are")
_KEPT = {
    "max_timeout": ("deadlines", "s: longer ones are cut to that"),
    "search_max_batchsize": ("batches", "queries in one search_batch"),
    "upsert_max_batchsize": ("upserts", "points a request: more are sent in parts"),
}
"""Limits of strict mode that are kept, with the words for each."""
_RESCORED = "every search asks for rescoring of quantised vectors"


def server_capabilities(schema: Schema, version: str, layout: Layout, *, local: bool) -> tuple[Capability, ...]:
    """Return what works on a server of this version, or in local mode."""
    return (
        _KEYS,
        _named_vector(schema, version, layout, local=local),
        _server_filters(schema, layout, local=local),
        _base_scores(schema, local=local),
        _record(version, local=local),
        Capability("async", "fallback", "local mode runs in this process; calls go to worker threads")
        if local
        else Capability("async", "works", "AsyncQdrantClient over gRPC"),
        *_strict_mode(schema, layout, local=local),
    )


def edge_capabilities(schema: Schema, layout: Layout) -> tuple[Capability, ...]:
    """Return what works in Qdrant Edge."""
    indexed = not _unindexed(schema, layout)
    return (
        _KEYS,
        Capability("code as named vector", "works", "Edge adds a named vector to an existing collection"),
        Capability(
            "factor pre-filters",
            "works",
            "factor scores are indexed" if indexed else "each factor is indexed when it is first filtered on",
        ),
        Capability("exact base scores", "works", _RESCORED),
        Capability("record in the collection", "no", "Edge keeps no metadata of a collection: attach writes a file"),
        Capability("async", "fallback", "the engine runs in this process; calls go to worker threads"),
        Capability("several processes", "no", "one process at a time can open the folder; use a server for more"),
    )


def settings_of(schema: Schema, paths: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a collection beside its vectors; ``paths`` are those of factor scores."""
    status = {"status": schema.status} if schema.status else {}
    foreign = sorted(path for path in schema.indexed if path not in paths)
    missing = [path for path in paths if path not in schema.indexed]
    return {
        **status,
        "payload indexes": foreign,
        "factor scores without a payload index": f"{len(missing)} of {len(paths)}",
        "strict mode": dict(schema.limits) if schema.limits else "off",
    }


def _named_vector(schema: Schema, version: str, layout: Layout, *, local: bool) -> Capability:
    name = "code as named vector"
    if layout.code_field in schema.vectors:
        return Capability(name, "works", "the collection has the vector")
    if local:
        free = "" not in schema.vectors
        return Capability(name, "works" if free else "no", "local mode adds one beside named vectors only")
    if _release(version) >= _NAMED_VECTORS_SINCE:
        return Capability(name, "works", "servers from 1.18 on add a named vector to an existing collection")
    return Capability(name, "no", f"{version} cannot add a vector to an existing collection; the payload is used")


def _server_filters(schema: Schema, layout: Layout, *, local: bool) -> Capability:
    name, missing = "factor pre-filters", _unindexed(schema, layout)
    if local:
        return Capability(name, "fallback", "local mode has no payload index: every filter looks at all points")
    if not missing:
        return Capability(name, "works", "factor scores are indexed")
    strict = "; strict mode refuses filters without one" if schema.strict else ""
    return Capability(name, "works", f"{len(missing)} keys get an index with the first codes{strict}")


def _base_scores(schema: Schema, *, local: bool) -> Capability:
    name = "exact base scores"
    if local:
        return Capability(name, "works", "local mode compares with every vector")
    if any(field.quantized for field in schema.vectors.values()) and schema.limits.get("search_max_oversampling"):
        return Capability(name, "works", f"{_RESCORED}, without oversampling, which strict mode limits")
    return Capability(name, "works", _RESCORED)


def _record(version: str, *, local: bool) -> Capability:
    name = "record in the collection"
    if local or _release(version) >= _METADATA_SINCE:
        return Capability(name, "works", "attach --in-collection writes one key of the collection's metadata")
    return Capability(name, "no", f"{version} keeps no metadata of a collection (1.16 does): attach writes a file")


def _strict_mode(schema: Schema, layout: Layout, *, local: bool) -> Iterator[Capability]:
    """Say which limits of strict mode this package meets, and what to do about each."""
    limits = schema.limits
    if local:
        return
    if not limits:
        yield Capability("strict mode", "works", "it is off, so the server refuses no request for its size")
        return
    if window := limits.get("max_query_limit"):
        enough: Literal["works", "fallback"] = "works" if window >= DEFAULT_COARSE_K else "fallback"
        yield Capability("strict mode: candidates", enough, f"at most {window} a search: keep coarse_k within it")
    for limit, (name, why) in _KEPT.items():
        if most := limits.get(limit):
            yield Capability(f"strict mode: {name}", "works", f"at most {most} {why}")
    if limits.get("search_allow_exact") is False:
        why = "refused: counts are the server's estimates, and a backfill reads vectors again after it wrote"
        yield Capability("strict mode: exact requests", "fallback", why)
    new = len(_unindexed(schema, layout))
    if (room := limits.get("max_payload_index_count")) is not None and len(schema.indexed) + new > room:
        why = f"{new} more payload indexes are needed, {len(schema.indexed)} of {room} are there: raise the limit first"
        yield Capability("strict mode: indexes", "no", why)
    for name, verb in (("read_rate_limit", "reads"), ("write_rate_limit", "writes")):
        if rate := limits.get(name):
            how = "backfill with --rate, and a --batch-size below it"
            why = f"at most {rate} {verb} a minute; what is refused is tried again: {how}"
            yield Capability(f"strict mode: {verb}", "fallback", why)


def _unindexed(schema: Schema, layout: Layout) -> list[str]:
    paths = [payload_path(layout.factor_field(name)) for name in layout.factor_names]
    return [path for path in paths if path not in schema.indexed]


def _release(version: str) -> tuple[int, ...]:
    parts = version.lstrip("v").split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (0,)

"""What a collection looks like: its vectors, and which of them carries the base vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imrnn_vdb.errors import InvalidInputError, UnsupportedError
from imrnn_vdb.layout import CODE_PREFIX, Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.store import VectorField

BASE_NAME = "base"
"""Name of the base vector in collections that are created with a second, named vector for the code."""

_METRICS = {
    "cosine": Metric.COSINE,
    "dot": Metric.DOT,
    "euclid": Metric.EUCLID,
    "manhattan": Metric.MANHATTAN,
}


@dataclass(frozen=True, slots=True)
class Schema:
    """The dense vectors of a collection, and what its server restricts.

    Attributes
    ----------
    vectors
        Dense single vectors by name; "" is the unnamed one.
    indexed
        Payload keys with an index.
    strict
        Whether the server refuses filters on payload keys without an index.
    limits
        What strict mode allows, by the server's own names; empty where it is off.
    metadata
        The collection's own metadata.
    status
        Of the collection: ``"green"`` when nothing is being rebuilt; empty where the engine does not say.
    """

    vectors: Mapping[str, VectorField]
    indexed: frozenset[str] = field(default_factory=frozenset)
    strict: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""

    def base_name(self, layout: Layout, collection: str) -> str:
        """Return the name of the base vector: the layout's, else the only one beside the code.

        Raises
        ------
        InvalidInputError
            If the name does not exist, or if there are several and none was chosen.
        """
        names = [name for name in self.vectors if not name.startswith(CODE_PREFIX)]
        if layout.vector_name in names:
            return layout.vector_name
        listing = ", ".join(name or "(unnamed)" for name in names) or "none"
        if layout.vector_name:
            raise InvalidInputError(
                f"collection {collection!r} has no vector {layout.vector_name!r}; it has: {listing}"
            )
        if len(names) != 1:
            raise InvalidInputError(
                f"collection {collection!r} has the vectors {listing}: choose one with vector_name="
            )
        return names[0]


def metric_of(distance: object) -> Metric:
    """Return the metric of a vendor's distance: an enum member or its text, in any case."""
    name = str(getattr(distance, "value", distance)).rpartition(".")[2].lower()
    if name not in _METRICS:
        raise UnsupportedError(f"the distance {distance!r} is none of cosine, dot, euclid and manhattan")
    return _METRICS[name]


def new_base_name(layout: Layout) -> str:
    """Return the base vector's name in a collection that is about to be created."""
    return layout.vector_name or (BASE_NAME if layout.code_storage == "vector" else "")


def schema_from_client(info: Any) -> Schema:
    """Read a ``qdrant_client.models.CollectionInfo``."""
    params = info.config.params.vectors
    named = params if isinstance(params, Mapping) else {} if params is None else {"": params}
    everywhere = info.config.quantization_config is not None
    vectors = {
        name: VectorField(one.size, metric_of(one.distance), everywhere or one.quantization_config is not None)
        for name, one in named.items()
        if one.multivector_config is None
    }
    strict = info.config.strict_mode_config
    limits = strict.model_dump(exclude_none=True) if strict is not None and strict.enabled else {}
    return Schema(
        vectors,
        frozenset(info.payload_schema or {}),
        strict=limits.get("unindexed_filtering_retrieve") is False,
        limits={name: value for name, value in limits.items() if name != "enabled"},
        metadata=info.config.metadata or {},
        status=str(getattr(info.status, "value", info.status)),
    )


def schema_from_config(config: Mapping[str, Any]) -> Schema:
    """Read the ``edge_config.json`` of a Qdrant Edge shard."""
    everywhere = config.get("quantization_config") is not None
    vectors = {
        name: VectorField(
            int(one["size"]), metric_of(one["distance"]), everywhere or one.get("quantization_config") is not None
        )
        for name, one in config.get("vectors", {}).items()
        if one.get("multivector_config") is None
    }
    return Schema(vectors)

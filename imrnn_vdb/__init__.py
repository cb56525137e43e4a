"""Exact, explainable and trainable re-scoring of Qdrant and Milvus search results in a small factor space.

Open a collection with :class:`IMRNNCollection` and call its ``search``. Names load when they are first used, so
importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imrnn_vdb._version import __version__

if TYPE_CHECKING:
    from imrnn_vdb.attach import Attachment
    from imrnn_vdb.backfill import BackfillReport
    from imrnn_vdb.checkpoint import IMRNNModel, shipped_checkpoints
    from imrnn_vdb.collection import AsyncIMRNNCollection, IMRNNCollection
    from imrnn_vdb.encoders import CallableEncoder, EncoderConfig, TransformerEncoder
    from imrnn_vdb.errors import (
        CheckpointError,
        CollectionExistsError,
        CollectionNotFoundError,
        IMRNNError,
        InvalidInputError,
        MissingExtraError,
        SpaceMismatchError,
        StoreError,
        StoreTimeoutError,
        StoreUnavailableError,
        UnsupportedError,
    )
    from imrnn_vdb.filter_text import format_filter, parse_filter
    from imrnn_vdb.filters import factor, match
    from imrnn_vdb.metric import Metric
    from imrnn_vdb.planning import QueryPlan, WindowGrowth
    from imrnn_vdb.results import Explanation, SearchResponse, SearchResult
    from imrnn_vdb.space import FactorSpace
    from imrnn_vdb.steering import propose_steering
    from imrnn_vdb.verify import VerifyReport

_HOMES = {
    "attach": ("Attachment",),
    "backfill": ("BackfillReport",),
    "checkpoint": ("IMRNNModel", "shipped_checkpoints"),
    "collection": ("AsyncIMRNNCollection", "IMRNNCollection"),
    "encoders": ("CallableEncoder", "EncoderConfig", "TransformerEncoder"),
    "errors": (
        "CheckpointError",
        "CollectionExistsError",
        "CollectionNotFoundError",
        "IMRNNError",
        "InvalidInputError",
        "MissingExtraError",
        "SpaceMismatchError",
        "StoreError",
        "StoreTimeoutError",
        "StoreUnavailableError",
        "UnsupportedError",
    ),
    "filter_text": ("format_filter", "parse_filter"),
    "filters": ("factor", "match"),
    "metric": ("Metric",),
    "planning": ("QueryPlan", "WindowGrowth"),
    "results": ("Explanation", "SearchResponse", "SearchResult"),
    "space": ("FactorSpace",),
    "steering": ("propose_steering",),
    "verify": ("VerifyReport",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncIMRNNCollection",
    "Attachment",
    "BackfillReport",
    "CallableEncoder",
    "CheckpointError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "EncoderConfig",
    "Explanation",
    "FactorSpace",
    "IMRNNCollection",
    "IMRNNError",
    "IMRNNModel",
    "InvalidInputError",
    "Metric",
    "MissingExtraError",
    "QueryPlan",
    "SearchResponse",
    "SearchResult",
    "SpaceMismatchError",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "TransformerEncoder",
    "UnsupportedError",
    "VerifyReport",
    "WindowGrowth",
    "__version__",
    "factor",
    "format_filter",
    "match",
    "parse_filter",
    "propose_steering",
    "shipped_checkpoints",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)

"""Exact, explainable and trainable re-scoring of Qdrant and Milvus search results in a small factor space.

Open a collection with :class:`IMRNNCollection` and call its ``search``. Names load when they are first used, so
importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imrnn_vdb._version import __version__

if TYPE_CHECKING:
    from imrnn_vdb.async_collection import AsyncIMRNNCollection
    from imrnn_vdb.attach import Attachment
    from imrnn_vdb.audit import AuditLog
    from imrnn_vdb.backfill import BackfillReport
    from imrnn_vdb.checkpoint import IMRNNModel, shipped_checkpoints
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.comparison import RankComparison, compare
    from imrnn_vdb.encoders import CallableEncoder, EncoderConfig, TransformerEncoder
    from imrnn_vdb.errors import (
        AuditError,
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
    from imrnn_vdb.factors.ends import FactorEnds, factor_ends
    from imrnn_vdb.factors.own import OwnFactor, add_factor
    from imrnn_vdb.factors.tokens import TokenFactors
    from imrnn_vdb.factors.topics import TopicMatch, Topics, find_topics, topic_factor
    from imrnn_vdb.filter_text import format_filter, parse_filter
    from imrnn_vdb.filters import factor, match
    from imrnn_vdb.heatmaps import Heatmap, heatmap, heatmap_figure
    from imrnn_vdb.metric import Metric
    from imrnn_vdb.planning import QueryPlan, WindowGrowth
    from imrnn_vdb.recheck import AuditReport, AuditVerdict
    from imrnn_vdb.report import ReportSection, explain_search, render_report
    from imrnn_vdb.results import Explanation, SearchResponse, SearchResult
    from imrnn_vdb.space import FactorSpace
    from imrnn_vdb.steering import propose_steering
    from imrnn_vdb.trace import StepTrace
    from imrnn_vdb.verify import VerifyReport

_HOMES = {
    "async_collection": ("AsyncIMRNNCollection",),
    "attach": ("Attachment",),
    "audit": ("AuditLog",),
    "backfill": ("BackfillReport",),
    "checkpoint": ("IMRNNModel", "shipped_checkpoints"),
    "collection": ("IMRNNCollection",),
    "comparison": ("RankComparison", "compare"),
    "encoders": ("CallableEncoder", "EncoderConfig", "TransformerEncoder"),
    "errors": (
        "AuditError",
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
    "factors.ends": ("FactorEnds", "factor_ends"),
    "factors.own": ("OwnFactor", "add_factor"),
    "factors.tokens": ("TokenFactors",),
    "factors.topics": ("TopicMatch", "Topics", "find_topics", "topic_factor"),
    "filter_text": ("format_filter", "parse_filter"),
    "filters": ("factor", "match"),
    "heatmaps": ("Heatmap", "heatmap", "heatmap_figure"),
    "metric": ("Metric",),
    "planning": ("QueryPlan", "WindowGrowth"),
    "recheck": ("AuditReport", "AuditVerdict"),
    "report": ("ReportSection", "explain_search", "render_report"),
    "results": ("Explanation", "SearchResponse", "SearchResult"),
    "space": ("FactorSpace",),
    "steering": ("propose_steering",),
    "trace": ("StepTrace",),
    "verify": ("VerifyReport",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncIMRNNCollection",
    "Attachment",
    "AuditError",
    "AuditLog",
    "AuditReport",
    "AuditVerdict",
    "BackfillReport",
    "CallableEncoder",
    "CheckpointError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "EncoderConfig",
    "Explanation",
    "FactorEnds",
    "FactorSpace",
    "Heatmap",
    "IMRNNCollection",
    "IMRNNError",
    "IMRNNModel",
    "InvalidInputError",
    "Metric",
    "MissingExtraError",
    "OwnFactor",
    "QueryPlan",
    "RankComparison",
    "ReportSection",
    "SearchResponse",
    "SearchResult",
    "SpaceMismatchError",
    "StepTrace",
    "StoreError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "TokenFactors",
    "TopicMatch",
    "Topics",
    "TransformerEncoder",
    "UnsupportedError",
    "VerifyReport",
    "WindowGrowth",
    "__version__",
    "add_factor",
    "compare",
    "explain_search",
    "factor",
    "factor_ends",
    "find_topics",
    "format_filter",
    "heatmap",
    "heatmap_figure",
    "match",
    "parse_filter",
    "propose_steering",
    "render_report",
    "shipped_checkpoints",
    "topic_factor",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)

"""Traces, metrics and logs of searches: off, and without cost, unless an observer is given.

See ``docs/observability.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imrnn_vdb.observability.background import Background
from imrnn_vdb.observability.observer import Caller, Observation, Observer, Observers

if TYPE_CHECKING:
    from imrnn_vdb.observability.feedback import Judgement
    from imrnn_vdb.observability.metrics import PrometheusMetrics
    from imrnn_vdb.observability.tracing import OpenTelemetryTracing

_HOMES = {"Judgement": "feedback", "OpenTelemetryTracing": "tracing", "PrometheusMetrics": "metrics"}

__all__ = [
    "Background",
    "Caller",
    "Judgement",
    "Observation",
    "Observer",
    "Observers",
    "OpenTelemetryTracing",
    "PrometheusMetrics",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

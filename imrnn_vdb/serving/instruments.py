"""What watches the service: a span and a measurement a request, and the observer of its collections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imrnn_vdb.observability.background import Background
from imrnn_vdb.observability.codes import OVERLOADED, code_of
from imrnn_vdb.observability.observer import Caller, Observer, Observers
from imrnn_vdb.serving.admission import OverloadedError

if TYPE_CHECKING:
    from imrnn_vdb.observability.feedback import Judgement
    from imrnn_vdb.observability.metrics import PrometheusMetrics
    from imrnn_vdb.observability.tracing import OpenTelemetryTracing
    from imrnn_vdb.serving.config import Telemetry


_ROUNDED = 0.01
"""Share of a deadline by which gRPC's client may round it up before it tells the server."""
_ON_ITS_WAY_S = 0.005


class CallersDeadlineError(asyncio.CancelledError):
    """The deadline that a caller set has passed: gRPC cancels the call as it does one that was given up."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """Tracing and metrics, each where it is on.

    Attributes
    ----------
    tracing, metrics
        None where off.
    observer
        Who is told of each search; None where both are off.
    """

    tracing: OpenTelemetryTracing | None = None
    metrics: PrometheusMetrics | None = None
    observer: Background | None = None

    @classmethod
    def from_config(cls, config: Telemetry) -> Instruments:
        """Set up what a configuration names.

        Raises
        ------
        MissingExtraError
            If what it names is not installed.
        """
        tracing = metrics = None
        if config.traces:
            from imrnn_vdb.observability.tracing import OpenTelemetryTracing, otlp_provider

            provider = otlp_provider(config.traces, config.sample)
            tracing = OpenTelemetryTracing(provider, query_texts=config.query_texts)
        if config.metrics:
            from imrnn_vdb.observability.metrics import PrometheusMetrics

            metrics = PrometheusMetrics(process=True)
        members: tuple[Observer, ...] = tuple(member for member in (tracing, metrics) if member is not None)
        return cls(tracing, metrics, Background(Observers(members)) if members else None)

    @contextmanager
    def request(
        self, method: str, request_id: str, metadata: Mapping[str, Any], time_remaining: Callable[[], float | None]
    ) -> Iterator[Caller]:
        """Watch a request while it is answered; ``time_remaining`` tells the seconds that its caller will wait."""
        given = time_remaining()
        with ExitStack() as stack:
            if self.metrics is not None:
                stack.enter_context(self.metrics.request(method, _code_of))
            context = None
            if self.tracing is not None:
                context = stack.enter_context(self.tracing.request(method, request_id, metadata))
            try:
                yield Caller(request_id, context)
            except asyncio.CancelledError:
                if given is not None and (time_remaining() or 0.0) <= _ROUNDED * given + _ON_ITS_WAY_S:
                    raise CallersDeadlineError from None
                raise

    def feedback(self, collection: str, relevant: Sequence[Judgement]) -> None:
        """Take note of results that were clicked or judged."""
        if self.metrics is not None:
            self.metrics.feedback(collection, relevant)

    def close(self) -> None:
        """Take note of what waits, and send what was not sent yet."""
        if self.observer is not None:
            self.observer.close()
        if self.tracing is not None:
            self.tracing.close()


def _code_of(error: BaseException | None) -> str:
    if isinstance(error, CallersDeadlineError):
        return "DEADLINE_EXCEEDED"
    return OVERLOADED if isinstance(error, OverloadedError) else code_of(error)

"""Prometheus metrics of searches (``docs/observability.md`` lists them; ``docker/grafana`` shows them)."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from imrnn_vdb.errors import InvalidInputError, MissingExtraError
from imrnn_vdb.observability.codes import OK, code_of
from imrnn_vdb.observability.drift import FactorDrift
from imrnn_vdb.observability.feedback import Judgement, quality
from imrnn_vdb.results import SearchResponse

try:
    import prometheus_client as prometheus
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise MissingExtraError("prometheus-client", "metrics") from exc

if TYPE_CHECKING:
    from imrnn_vdb.observability.observer import Observation

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5, 1.0, 2.0, 5.0, 10.0)
_COUNTS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_RANKS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)
_SHARES = (0.1, 0.2, 0.25, 0.34, 0.5, 0.67, 0.8, 0.9, 1.0)
_FAILED = re.compile(r"^modulation failed \((\w+)\)")
_REASONS = {"not switched on": "not switched on", "does not split": "does not split", "not waited for": "timeout"}
"""Label of a fallback, by what its text holds."""


class PrometheusMetrics:
    """An observer that counts.

    One object serves all collections of a process.

    Parameters
    ----------
    registry
        Where the metrics are registered; None for a registry of their own, see :attr:`registry`.
    process
        Whether memory, CPU, open files, garbage collection and version of this process are registered there, too;
        Prometheus' own default registry has them already.
    """

    def __init__(self, registry: prometheus.CollectorRegistry | None = None, *, process: bool = False) -> None:
        self.registry = registry if registry is not None else prometheus.CollectorRegistry()
        self._lock = threading.Lock()
        self._drift: dict[str, FactorDrift] = {}
        self._children: dict[tuple[object, ...], Any] = {}
        make = _Maker(self.registry)
        self._searches = make.counter("imrnn_searches", "Queries", "collection", "kind", "outcome", "code")
        self._stages = make.histogram("imrnn_stage_seconds", "Time of a stage", _SECONDS, "collection", "stage")
        self._candidates = make.histogram("imrnn_candidates", "Candidates of a query", _COUNTS, "collection")
        self._by_code = make.counter(
            "imrnn_candidate_codes", "Candidates by the state of their code", "collection", "code"
        )
        self._fallbacks = make.counter(
            "imrnn_fallbacks", "Queries answered in the database's order", "collection", "reason"
        )
        self._moved = make.histogram("imrnn_rank_movement", "Ranks that a result moved", _RANKS, "collection")
        self._first = make.counter("imrnn_first_changed", "Queries whose first result changed", "collection")
        self._reciprocal = make.histogram(
            "imrnn_feedback_reciprocal_rank", "Of the best relevant result", _SHARES, "collection", "ranking"
        )
        self._ndcg = make.histogram(
            "imrnn_feedback_ndcg", "nDCG@10 of judged results", _SHARES, "collection", "ranking"
        )
        self._requests = make.histogram("imrnn_request_seconds", "Time of a request", _SECONDS, "method", "code")
        self._dropped = make.counter("imrnn_observations_dropped", "Searches that none of this tells of")
        self.registry.register(_DriftCollector(self._drift, self._lock))
        if process:
            for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector, prometheus.GCCollector):
                collector(registry=self.registry)

    def searched(self, observation: Observation) -> None:
        """Count a search that is over."""
        name = observation.collection
        if observation.error is not None:
            failed = self._of(self._searches, name, observation.kind, "error", code_of(observation.error))
            failed.inc(max(1, len(observation.queries)))
            return
        for stage, milliseconds in (observation.responses[0].timings if observation.responses else {}).items():
            self._of(self._stages, name, stage).observe(milliseconds / 1e3)
        self._of(self._stages, name, "total").observe(observation.seconds)
        for response in observation.responses:
            self._count(name, observation.kind, response)
        self._count_factors(observation)

    def lost(self) -> None:
        """Count an observation that was dropped."""
        self._dropped.inc()

    def _count(self, name: str, kind: str, response: SearchResponse) -> None:
        self._of(self._searches, name, kind, "modulated" if response.modulated else "fallback", OK).inc()
        if response.reason is not None:
            self._of(self._fallbacks, name, reason_label(response.reason)).inc()
        self._of(self._candidates, name).observe(response.candidates)
        self._of(self._by_code, name, "current").inc(response.candidates - sum(response.unusable.values()))
        for code, count in response.unusable.items():
            self._of(self._by_code, name, code).inc(count)
        moved = self._of(self._moved, name)
        for result in response.results:
            moved.observe(abs(result.base_rank - result.rank))
        if response.results and response.results[0].rank == 1 != response.results[0].base_rank:
            self._of(self._first, name).inc()

    def _count_factors(self, observation: Observation) -> None:
        names = observation.space.names
        rows = [list(r.factors.values()) for response in observation.responses for r in response.results if r.factors]
        if not rows or not names:
            return
        with self._lock:
            drift = self._drift.get(observation.collection)
            if drift is None or drift.names != names:
                drift = self._drift[observation.collection] = FactorDrift(names)
            drift.add(np.array(rows, np.float32))

    def feedback(self, collection: str, relevant: Sequence[Judgement]) -> None:
        """Take note of the results of one response that were clicked or judged relevant.

        Raises
        ------
        InvalidInputError
            If there is none, or two have one rank.
        """
        if not relevant:
            raise InvalidInputError("feedback names at least one relevant result")
        gains = [one.gain for one in relevant]
        rankings = {"final": [one.rank for one in relevant], "base": [one.base_rank for one in relevant]}
        if any(len(set(ranks)) < len(ranks) for ranks in rankings.values()):
            raise InvalidInputError("feedback names two results of one rank: they are not of one response")
        for ranking, ranks in rankings.items():
            found = quality(ranks, gains)
            self._of(self._reciprocal, collection, ranking).observe(found.reciprocal_rank)
            self._of(self._ndcg, collection, ranking).observe(found.ndcg)

    @contextmanager
    def request(self, method: str, code_of: Callable[[BaseException | None], str] = code_of) -> Iterator[None]:
        """Measure a request of the service; ``code_of`` says how it ended, in one of few words."""
        began, error = perf_counter(), None
        try:
            yield
        except BaseException as exc:
            error = exc
            raise
        finally:
            self._of(self._requests, method, code_of(error)).observe(perf_counter() - began)

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answer Prometheus on an address, in a thread; returns what ends it.

        Raises
        ------
        InvalidInputError
            If the address cannot be listened on.
        """
        try:
            server, thread = prometheus.start_http_server(port, host, self.registry)
        except OSError as exc:
            raise InvalidInputError(f"metrics cannot be served on {host}:{port}: {exc}") from exc

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close

    def _of(self, metric: Any, *labels: str) -> Any:
        """Return a metric's child; remembered, because the library looks it up under a lock each time."""
        key = (id(metric), *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


def reason_label(reason: str) -> str:
    """Return why a query was not modulated in few words, so that the values of the label are few."""
    if failed := _FAILED.match(reason):
        return f"failed: {failed[1]}"
    return next((label for text, label in _REASONS.items() if text in reason), "other")


class _Maker:
    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> prometheus.Histogram:
        return prometheus.Histogram(name, text, labels, buckets=buckets, registry=self._registry)


class _DriftCollector(Collector):
    """Computes drift when it is asked for, not with every search."""

    def __init__(self, drift: dict[str, FactorDrift], lock: threading.Lock) -> None:
        self._drift = drift
        self._lock = lock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return both gauges."""
        index = GaugeMetricFamily(
            "imrnn_factor_drift",
            "Population stability index of factor scores of results",
            labels=["collection", "factor"],
        )
        means = GaugeMetricFamily(
            "imrnn_factor_mean",
            "Mean factor score of results; 0.5 on the reference corpus",
            labels=["collection", "factor"],
        )
        with self._lock:
            for collection, drift in self._drift.items():
                for family, values in ((index, drift.index()), (means, drift.means())):
                    for factor, value in values.items():
                        family.add_metric([collection, factor], value)
        return [index, means]

"""The limit of requests follows latency: simulated servers, no real time."""

from __future__ import annotations

import heapq
import statistics
from contextlib import ExitStack

import pytest

from imrnn_vdb.serving.admission import Admission, OverloadedError


class Simulation:
    """Clients that ask again at once, and a server where n requests at a time take ``alone · n ** slope`` each."""

    def __init__(self, admission: Admission, alone: float, slope: float) -> None:
        self.now, self.alone, self.slope = 0.0, alone, slope
        self.admission = admission
        admission.clock = lambda: self.now
        self.latencies: list[float] = []
        self._ends: list[tuple[float, int, ExitStack, float]] = []
        self._count = 0

    def run(self, clients: int, requests: int) -> list[float]:
        first = len(self.latencies)
        while len(self.latencies) < first + requests:
            while len(self._ends) < clients:
                stack = ExitStack()
                try:
                    stack.enter_context(self.admission.enter("search"))
                except OverloadedError:
                    break
                takes = self.alone * self.admission.running**self.slope
                self._count += 1
                heapq.heappush(self._ends, (self.now + takes, self._count, stack, self.now))
            self.now, _, stack, began = heapq.heappop(self._ends)
            self.latencies.append(self.now - began)
            stack.close()
        return self.latencies[first:]


@pytest.mark.parametrize("slope", [0.3, 0.6, 1.0])
def test_the_median_stays_near_the_unloaded_latency(slope):
    admission = Admission(most=64, slowdown=1.5)
    simulation = Simulation(admission, alone=0.005, slope=slope)
    simulation.run(clients=1, requests=20)
    loaded = simulation.run(clients=64, requests=3000)[500:]
    assert statistics.median(loaded) <= 0.005 * 1.5 * 1.25
    assert admission.refused > 0
    assert admission.running < 64


def test_a_server_that_scales_is_used_to_the_full():
    admission = Admission(most=64, slowdown=1.5)
    simulation = Simulation(admission, alone=0.005, slope=0.0)
    simulation.run(clients=1, requests=20)
    simulation.run(clients=64, requests=3000)
    assert admission.limit == 64


def test_a_server_that_becomes_slower_for_good_is_learned():
    admission = Admission(most=64, slowdown=1.5)
    simulation = Simulation(admission, alone=0.005, slope=0.0)
    simulation.run(clients=1, requests=20)
    simulation.alone = 0.01
    simulation.run(clients=64, requests=200)
    assert admission.limit == 1
    simulation.run(clients=64, requests=30_000)
    assert admission.limit > 32


def test_without_a_bound_on_latency_only_the_number_counts():
    admission = Admission(most=3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.enter())
        with pytest.raises(OverloadedError):
            stack.enter_context(admission.enter())
    assert (admission.running, admission.accepted, admission.refused) == (0, 3, 1)


def test_a_request_that_fails_gives_its_place_back():
    admission = Admission(most=1, slowdown=2.0)
    for error in (ValueError, OverloadedError):
        with pytest.raises(error), admission.enter("kind"):
            raise error
    with admission.enter("kind"):
        assert admission.running == 1

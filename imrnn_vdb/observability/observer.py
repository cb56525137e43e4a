"""The one hook: whoever observes a collection is told of each search once it is over, and can never make it fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from imrnn_vdb.options import SearchRequest
    from imrnn_vdb.results import SearchResponse
    from imrnn_vdb.space import FactorSpace

_log = logging.getLogger("imrnn_vdb.observability")


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a query is answered.

    Attributes
    ----------
    request_id
        Names the request in logs; "" for none.
    context
        The caller's OpenTelemetry context, the parent of spans; None for the current one.
    """

    request_id: str = ""
    context: Any = None


CALLERS: ContextVar[tuple[Caller, ...]] = ContextVar("imrnn_callers", default=())
"""One caller a query, where several requests are answered by one search; empty where nothing was said."""


@dataclass(slots=True)
class Observation:
    """A search, or a scoring of given candidates, that is over.

    Attributes
    ----------
    kind
        What was asked for.
    collection
        Its name.
    space
        The factor space, whose names and calibration tell what factors mean.
    queries
        n texts, or anything of length n.
    request
        What was asked beside them.
    responses
        n responses; empty where it failed.
    error
        Why it failed; None where it did not.
    callers
        One a query, or none.
    began, ended
        Nanoseconds since the epoch; between them lies what a monotonic clock measured.
    """

    kind: Literal["search", "rerank"]
    collection: str
    space: FactorSpace
    queries: Sequence[Any]
    request: SearchRequest
    responses: Sequence[SearchResponse] = ()
    error: BaseException | None = None
    callers: tuple[Caller, ...] = ()
    began: int = field(default_factory=time.time_ns)
    ended: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began) / 1e9


class Observer(Protocol):
    """Is told of searches; pass one as ``observer=`` when a collection is opened.

    One that also has a method ``lost()`` is told by :class:`Background` of each observation that was dropped.
    """

    def searched(self, observation: Observation) -> None:
        """Take note of a search that is over. Called in its thread: be quick. What it raises is logged, and no more."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Several observers as one."""

    members: tuple[Observer, ...]

    def searched(self, observation: Observation) -> None:
        """Tell each of them."""
        for member in self.members:
            tell(member, observation)

    def lost(self) -> None:
        """Tell those that count it of an observation that was dropped."""
        for member in self.members:
            tell_lost(member)


@contextmanager
def observing(observer: Observer, observation: Observation) -> Iterator[Observation]:
    """Tell an observer of what happens inside; the caller fills in ``responses``."""
    began = time.perf_counter_ns()
    try:
        yield observation
    except BaseException as exc:
        observation.error = exc
        raise
    finally:
        observation.ended = observation.began + time.perf_counter_ns() - began
        observation.callers = CALLERS.get()
        tell(observer, observation)


def tell(observer: Observer, observation: Observation) -> None:
    """Tell an observer; its own failure is logged."""
    try:
        observer.searched(observation)
    except Exception as exc:  # noqa: BLE001 - who watches must never make a search fail
        _log.warning("an observer failed: %s", exc, exc_info=True)


def tell_lost(observer: Observer) -> None:
    """Tell an observer that an observation was dropped, if it has a method ``lost``; its own failure is logged."""
    lost = getattr(observer, "lost", None)
    if lost is None:
        return
    try:
        lost()
    except Exception as exc:  # noqa: BLE001 - as above
        _log.warning("an observer failed: %s", exc, exc_info=True)

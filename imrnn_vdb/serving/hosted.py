"""What the service serves: opened collections by name, which a reload replaces without a request noticing."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imrnn_vdb.audit import AuditLog
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import (
    AuditError,
    CollectionNotFoundError,
    IMRNNError,
    InvalidInputError,
    MissingExtraError,
    UnsupportedError,
)
from imrnn_vdb.filter_text import parse_filter
from imrnn_vdb.metric import Metric

if TYPE_CHECKING:
    from imrnn_vdb.factors.topics import Topics
    from imrnn_vdb.observability.observer import Observation, Observer
    from imrnn_vdb.serving.config import CollectionConfig

_log = logging.getLogger("imrnn_vdb.serving")
_MODEL = "minilm"
_WARM_UP = 3


@dataclass(slots=True, eq=False)
class Hosted:
    """One name of the configuration, opened.

    Attributes
    ----------
    name
        As requests give it.
    model, metric
        What scores.
    collection
        What is searched; None where only Rerank is served.
    audit
        What its searches are recorded in; None for nothing.
    topics
        What explanations tell of where a request wants it; None where the configuration names no topics.
    users
        Requests that use it now.
    retired
        Whether another one took its name, so that it is closed when its last user is done.
    """

    name: str
    model: IMRNNModel
    metric: Metric
    collection: IMRNNCollection | None = None
    audit: AuditLog | None = None
    topics: Topics | None = None
    users: int = field(default=0, init=False)
    retired: bool = field(default=False, init=False)

    def searched(self) -> IMRNNCollection:
        """Return the collection; `UnsupportedError` where there is none."""
        if self.collection is None:
            raise UnsupportedError(f"{self.name!r} has a model and no collection: it takes Rerank and Factors only")
        return self.collection

    def told_topics(self) -> Topics:
        """Return the topics; `InvalidInputError` where there are none."""
        if self.topics is None:
            raise InvalidInputError(f"{self.name!r} has no topics: name their file in the service's configuration")
        return self.topics

    def close(self) -> None:
        """Close the connection."""
        if self.collection is not None:
            self.collection.close()


@dataclass(slots=True)
class _Named:
    """Tells an observer of the searches of a collection, by the name that requests give, once it is warm."""

    observer: Observer
    name: str
    warm: bool = False

    def searched(self, observation: Observation) -> None:
        """Pass it on."""
        if self.warm:
            self.observer.searched(replace(observation, collection=self.name))


def open_hosted(name: str, config: CollectionConfig, observer: Observer | None) -> Hosted:
    """Open what one table of the configuration names, and run it once, so that the first request finds it warm.

    Raises
    ------
    IMRNNError
        If the model cannot be loaded, the database not reached, or both do not fit; if its searches could not be
        recorded.
    """
    parse_filter("factor >= 0")  # its parser is built when it first reads
    if not config.searchable:
        model = IMRNNModel.from_pretrained(config.model or _MODEL, config.device)
        return Hosted(name, model, Metric(config.metric), topics=_topics(config, model))
    named = _Named(observer, name) if observer is not None else None
    audit = open_audit(config)
    collection = _open(config, named)
    try:
        topics = _topics(config, collection.model)
        _warm_up(collection, config.encode)
    except BaseException:
        collection.close()
        raise
    if named is not None:
        named.warm = True
    return Hosted(name, collection.model, collection.metric, collection, audit, topics)


def open_audit(config: CollectionConfig) -> AuditLog | None:
    """Return the audit log, tried as each search will write it, and made where there is none.

    Raises
    ------
    InvalidInputError
        If it cannot be written.
    """
    if not config.audit:
        return None
    log = AuditLog(Path(config.audit), "text" if config.audit_texts else "hash")
    try:
        log.append([])
    except AuditError as exc:
        raise InvalidInputError(f"the audit log {log.path} cannot be written: {exc.__cause__}") from exc
    return log


def _open(config: CollectionConfig, observer: Observer | None) -> IMRNNCollection:
    options: Any = {
        "timeout": config.timeout,
        "attempts": config.attempts,
        "device": config.device,
        "tls": config.tls,
        "api_key": os.environ.get(config.api_key_variable, ""),  # "": none, whatever IMRNN_API_KEY says
        "modulation_timeout": config.modulation_timeout,
        "observer": observer,
    }
    if config.attachment:
        return IMRNNCollection.from_attachment(config.attachment, **options)
    return IMRNNCollection.open(config.url, **{"model": _MODEL, **options, **config.attached})


def _topics(config: CollectionConfig, model: IMRNNModel) -> Topics | None:
    if not config.topics:
        return None
    from imrnn_vdb.factors.topics import as_topics

    return as_topics(config.topics).checked(model.space)


def _warm_up(collection: IMRNNCollection, encode: bool) -> None:
    query = np.zeros(collection.model.space.dim, np.float32)
    query[0] = 1
    for _ in range(_WARM_UP):
        collection.search(query, limit=1)
    if encode and collection.model.encoder is not None:
        try:
            collection.encode_queries(["warm-up"])
        except MissingExtraError as exc:
            _log.warning("collection %s takes vectors only: %s", collection.name, exc)


@dataclass(slots=True)
class Registry:
    """The collections that are served, by name.

    Attributes
    ----------
    observer
        Told of every search; None for none.
    """

    observer: Observer | None = None
    _hosted: dict[str, Hosted] = field(default_factory=dict, init=False)
    _closing: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    @property
    def names(self) -> list[str]:
        """Names of the collections, sorted."""
        return sorted(self._hosted)

    async def load(self, configs: Mapping[str, CollectionConfig]) -> None:
        """Open everything anew, then put it in place of what was served; requests that run keep what they have.

        Raises
        ------
        IMRNNError
            If one cannot be opened; then everything stays as it was.
        """
        opened: dict[str, Hosted] = {}
        try:
            for name, config in configs.items():
                try:
                    opened[name] = await _opened(partial(open_hosted, name, config, self.observer))
                except IMRNNError as exc:
                    _log.error("[collections.%s] cannot be served: %s", name, exc)
                    raise
        except BaseException:
            for hosted in opened.values():
                await _closed(hosted)
            raise
        former, self._hosted = self._hosted, opened
        for hosted in former.values():
            hosted.retired = True
            self._close_if_idle(hosted)

    @contextmanager
    def use(self, name: str) -> Iterator[Hosted]:
        """Hold a collection open while a request uses it.

        Raises
        ------
        CollectionNotFoundError
            If there is none of that name.
        InvalidInputError
            If the name is empty.
        """
        if not name:
            raise InvalidInputError("the request names no collection")
        hosted = self._hosted.get(name)
        if hosted is None:
            raise CollectionNotFoundError(f"no collection {name!r} is served here")
        hosted.users += 1
        try:
            yield hosted
        finally:
            hosted.users -= 1
            self._close_if_idle(hosted)

    def _close_if_idle(self, hosted: Hosted) -> None:
        if hosted.retired and not hosted.users:
            task = asyncio.get_running_loop().create_task(_closed(hosted))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close everything."""
        former, self._hosted = self._hosted, {}
        for hosted in former.values():
            await _closed(hosted)
        await asyncio.gather(*self._closing)


async def _opened(open_one: Callable[[], Hosted]) -> Hosted:
    """Open in a thread that keeps no process from ending; what is open after nobody waits any more is closed."""
    opening: Future[Hosted] = Future()

    def work() -> None:
        try:
            hosted = open_one()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, who waits hears of it
            if opening.set_running_or_notify_cancel():
                opening.set_exception(exc)
            return
        if opening.set_running_or_notify_cancel():
            opening.set_result(hosted)
        else:
            hosted.close()

    threading.Thread(target=work, name="imrnn-open", daemon=True).start()
    return await asyncio.wrap_future(opening)


async def _closed(hosted: Hosted) -> None:
    try:
        await asyncio.to_thread(hosted.close)
    except Exception as exc:  # noqa: BLE001 - a client that does not close must not stop the service
        _log.warning("collection %s did not close: %s", hosted.name, exc)

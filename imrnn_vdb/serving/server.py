"""Starts the service, and ends it without losing a request that was accepted."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imrnn_vdb.errors import IMRNNError, MissingExtraError, StoreUnavailableError
from imrnn_vdb.observability.logs import log_to_stderr
from imrnn_vdb.serving.config import ServiceConfig, load_config, split_address
from imrnn_vdb.serving.instruments import Instruments
from imrnn_vdb.serving.tls import server_credentials

if TYPE_CHECKING:
    from imrnn_vdb.serving.hosted import Registry
    from imrnn_vdb.serving.service import Retrieval

_log = logging.getLogger("imrnn_vdb.serving")
_LAST_CALL_S = 0.25
_MARGIN_S = 60.0
"""So that gRPC does not itself come to the end of the grace, where it must not be interrupted."""
_SWITCH_S = 0.0005
"""How long a worker thread may keep the event loop from the interpreter; Python's own 5 ms are as long as a search."""


@dataclass(slots=True)
class Server:
    """A service that runs.

    Attributes
    ----------
    config
        As it was started.
    port
        Where it listens.
    """

    config: ServiceConfig
    port: int
    _grpc: Any
    _health: Any
    _registry: Registry
    _service: Retrieval
    _instruments: Instruments
    _close_metrics: Callable[[], None]
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @classmethod
    async def start(cls, config: ServiceConfig) -> Server:
        """Open the collections, listen, and report as healthy.

        Raises
        ------
        IMRNNError
            If a collection cannot be opened, or the address cannot be listened on.
        MissingExtraError
            Without the packages of the extra ``serve``.
        """
        try:
            import grpc
            from grpc_health.v1 import health, health_pb2, health_pb2_grpc

            from imrnn_vdb.serving.hosted import Registry
            from imrnn_vdb.serving.service import SERVICE_NAME, Retrieval
        except ImportError as exc:
            raise MissingExtraError(exc.name or "grpcio", "serve") from exc
        token = config.token()
        credentials = None if config.tls is None else server_credentials(config.tls)
        instruments = Instruments.from_config(config.telemetry)
        registry = Registry(instruments.observer)
        service = Retrieval(registry, config.limits, instruments)
        server = grpc.aio.server(interceptors=_interceptors(token), options=_options(config))
        checks = health.aio.HealthServicer()
        server.add_generic_rpc_handlers((service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        if config.reflection:
            _reflect(server)
        close_metrics: Callable[[], None] = _nothing
        try:
            await registry.load(config.collections)
            port = _listen(server, config.listen, credentials)
            close_metrics = _serve_metrics(config, instruments)
            await server.start()
        except BaseException:
            await server.stop(None)
            await service.close()
            await registry.close()
            close_metrics()
            instruments.close()
            raise
        for name in ("", SERVICE_NAME):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        return cls(config, port, server, checks, registry, service, instruments, close_metrics)

    async def reload(self, config: ServiceConfig) -> None:
        """Open the collections of a configuration anew and serve them; requests that run are not touched.

        Only ``collections`` is taken from it. Where it fails, what is served stays.

        Raises
        ------
        IMRNNError
            If a collection cannot be opened.
        """
        async with self._reloading:
            await self._registry.load(config.collections)
            self.config = config

    async def stop(self) -> None:
        """Take no new request, finish those that were accepted, at most ``grace_s`` long, and close everything."""
        await self._health.enter_graceful_shutdown()
        self._service.ending = True  # what is on its way now hears UNAVAILABLE; gRPC alone would cancel it
        await asyncio.sleep(min(_LAST_CALL_S, self.config.grace_s))
        await self._finish()
        await self._service.close()
        await self._registry.close()
        self._close_metrics()
        self._instruments.close()
        counts = self._service.admission
        _log.info("stopped: %d requests accepted, %d refused", counts.accepted, counts.refused)

    async def _finish(self) -> None:
        """Stop listening, and wait for the calls of our own; a health watch or a reflection stream has no end."""
        grace = self.config.grace_s
        closing = asyncio.ensure_future(self._grpc.stop(grace + _MARGIN_S))
        last = asyncio.ensure_future(self._service.left())
        await asyncio.wait({closing, last}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for task in (closing, last):
            task.cancel()
        await asyncio.wait({closing, last})
        await self._grpc.stop(min(_LAST_CALL_S, grace))  # for the last answers to be on their way
        await self._grpc.wait_for_termination()


async def serve(path: str | Path, ready: Callable[[Server], None] | None = None) -> None:
    """Run the service of a configuration file until SIGTERM or SIGINT; SIGHUP loads the collections anew.

    Whether it was ready by then or not, it returns.

    Parameters
    ----------
    path
        The file; read again at SIGHUP.
    ready
        Called once the service answers.

    Raises
    ------
    IMRNNError
        If it cannot be started.
    """
    config = load_config(path)
    log_to_stderr(config.telemetry.log, config.telemetry.log_level)
    sys.setswitchinterval(_SWITCH_S)
    loop, ended, tasks = asyncio.get_running_loop(), asyncio.Event(), set[asyncio.Task[None]]()
    for number in (signal.SIGTERM, signal.SIGINT):  # at once: as the first process of a container it would ignore them
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, _log.info, "not reloaded: it is still starting")
    _log.info("starting with %s", ", ".join(config.collections))
    server = await _started(config, ended)
    if server is None:
        _log.info("stopped before it was ready")
        return

    def reload() -> None:
        task = loop.create_task(_reload(server, path))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    _log.info("listening on %s with %s", _address(config, server.port), ", ".join(config.collections))
    if ready is not None:
        ready(server)
    await ended.wait()
    _log.info("stopping: finishing what was accepted")
    await server.stop()


async def _started(config: ServiceConfig, ended: asyncio.Event) -> Server | None:
    """Start the service; None if it is ended before it is ready."""
    starting, end = asyncio.ensure_future(Server.start(config)), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({starting, end}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        return None if starting.cancelled() else starting.result()
    finally:
        starting.cancel()
        end.cancel()


async def _reload(server: Server, path: str | Path) -> None:
    try:
        await server.reload(load_config(path))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the service goes on and its log says so
        unknown = exc if not isinstance(exc, IMRNNError) else None
        _log.error("not reloaded, what was served still is: %s", exc, exc_info=unknown)
    else:
        _log.info("reloaded %s", ", ".join(server.config.collections))


def _options(config: ServiceConfig) -> list[tuple[str, int]]:
    limits = config.limits
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 16 * limits.in_flight),
        ("grpc.so_reuseport", 0),  # a second service on the same port is an error, not a silent share
    ]


def _interceptors(token: str | None) -> list[Any]:
    from imrnn_vdb.serving.auth import TokenInterceptor

    if token is None:
        return []
    return [TokenInterceptor(token)]


def _listen(server: Any, address: str, credentials: Any) -> int:
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as exc:
        raise StoreUnavailableError(f"{address} cannot be listened on: {exc}") from exc
    return int(port)


def _reflect(server: Any) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError as exc:
        raise MissingExtraError("grpcio-reflection", "serve") from exc
    from imrnn_vdb.serving.service import SERVICE_NAME

    names = (SERVICE_NAME, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _nothing() -> None:
    pass


def _serve_metrics(config: ServiceConfig, instruments: Instruments) -> Callable[[], None]:
    if instruments.metrics is None:
        return _nothing
    host, port = split_address(config.telemetry.metrics)
    return instruments.metrics.serve(host.strip("[]"), port)


def _address(config: ServiceConfig, port: int) -> str:
    return f"{split_address(config.listen)[0]}:{port}{' (TLS)' if config.tls else ''}"

"""The service's configuration: one TOML file, checked strictly, without a secret in it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from imrnn_vdb.backend import registered
from imrnn_vdb.connection import check_policy
from imrnn_vdb.errors import InvalidInputError, MissingExtraError
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import DEFAULT_COARSE_K, Settings
from imrnn_vdb.serving.status import check_header
from imrnn_vdb.urls import is_this_machine, parse_url

TOKEN_VARIABLE = "IMRNN_SERVICE_TOKEN"  # noqa: S105 - the name of a variable, not its value
_MIB = 2**20
_ATTACHED = ("model", "vector_name", "text_field", "guard")
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}

Table = TypeVar("Table")


@dataclass(frozen=True, slots=True)
class TLS:
    """``[tls]``: PEM files.

    Attributes
    ----------
    certificate, key
        The server's certificate chain and its private key.
    client_ca
        Certificates that sign those of clients; "" for clients without certificates.
    """

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """``[limits]``: what the service takes on before it answers RESOURCE_EXHAUSTED.

    Attributes
    ----------
    in_flight
        Requests accepted and not yet answered, at most.
    slowdown
        How many times its unloaded latency the median request may take before fewer requests are accepted; 0 to accept
        up to ``in_flight`` however long they take.
    workers
        Threads that search.
    batch
        Searches that run as one, at most.
    batch_wait_ms
        How long a search waits for others while one runs; it does not wait when none runs.
    message_mb
        Largest request, in MiB.
    queries
        Queries of one SearchBatch, and judgements of one Feedback, at most.
    coarse_k
        Candidates of one query, at most: what ``limit``, ``coarse_k`` and ``max_coarse_k`` may ask for, and what a
        Rerank may bring. Where ``max_coarse_k`` is not given, a window grows no further.
    deadline_s
        Seconds for a request that has no deadline of its own, a whole SearchBatch included, and for a client that reads
        nothing of its stream.
    """

    in_flight: int = 64
    slowdown: float = 1.5
    workers: int = 8
    batch: int = 16
    batch_wait_ms: float = 2.0
    message_mb: float = 8.0
    queries: int = 10_000
    coarse_k: int = 10_000
    deadline_s: float = 30.0

    def __post_init__(self) -> None:
        if self.in_flight < 1 or self.workers < 1 or self.batch < 1 or self.queries < 1:
            raise InvalidInputError("in_flight, workers, batch and queries are at least 1")
        if self.coarse_k < DEFAULT_COARSE_K:
            raise InvalidInputError(f"coarse_k is at least {DEFAULT_COARSE_K}, the window of a plain search")
        if (self.slowdown and self.slowdown <= 1) or self.batch_wait_ms < 0:
            raise InvalidInputError("slowdown is above 1, or 0 for none; batch_wait_ms is at least 0")
        if not (self.message_mb > 0 and 0 < self.deadline_s < float("inf")):
            raise InvalidInputError("message_mb and deadline_s are above 0")

    @property
    def message_bytes(self) -> int:
        """Largest request in bytes."""
        return int(self.message_mb * _MIB)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """``[telemetry]``: all of it off unless named.

    Attributes
    ----------
    metrics
        Address of the Prometheus endpoint, such as ``"127.0.0.1:9464"``; "" for none.
    traces
        Address of an OTLP collector, such as ``"http://localhost:4317"``; "" for none.
    sample
        Share of requests that are traced, in 0..1, where the caller did not decide.
    query_texts
        Whether spans carry query texts.
    log
        ``"text"`` or ``"json"``.
    log_level
        ``"DEBUG"``, ``"INFO"``, ``"WARNING"`` or ``"ERROR"``.
    """

    metrics: str = ""
    traces: str = ""
    sample: float = 1.0
    query_texts: bool = False
    log: str = "text"
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        if self.log not in ("text", "json") or self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise InvalidInputError("log is text or json, log_level is DEBUG, INFO, WARNING or ERROR")
        if not 0 <= self.sample <= 1:
            raise InvalidInputError("sample lies in 0..1")
        if self.metrics:
            split_address(self.metrics)


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """``[collections.NAME]``: one collection, or a model alone for Rerank.

    Attributes
    ----------
    url
        Of the collection; "" where ``attachment`` names it, or where only Rerank is served.
    attachment
        A file made by ``imrnn-vdb attach``, in place of url, model, vector_name, text_field and guard.
    model
        A shipped name, a folder or a hub repo id; "minilm" unless told otherwise.
    metric
        Of base scores, for Rerank without a collection; a collection knows its own.
    vector_name, text_field, guard, timeout, attempts, device, tls, modulation_timeout
        As for ``IMRNNCollection.open``.
    api_key_variable
        Environment variable that holds the database's key; where it is not set, there is none.
    encode
        Whether texts are taken as queries, so that the encoder is loaded before the service is ready.
    audit
        File that every search is recorded in, explanations included; see :class:`imrnn_vdb.AuditLog`. "" for none.
        A search that cannot be recorded is not answered.
    audit_texts
        Whether query texts are recorded, and not only their hashes.
    topics
        File of topics, made by ``imrnn-vdb factors topics``, which requests may ask for; "" for none.
    """

    url: str = ""
    attachment: str = ""
    model: str | None = None
    metric: str = ""
    vector_name: str | None = None
    text_field: str | None = None
    timeout: float = 10.0
    attempts: int = 4
    device: str = "cpu"
    tls: bool | None = None
    guard: Any = None
    modulation_timeout: float | None = None
    api_key_variable: str = "IMRNN_API_KEY"
    encode: bool = True
    audit: str = ""
    audit_texts: bool = False
    topics: str = ""

    def __post_init__(self) -> None:
        if self.audit and not self.searchable:
            raise InvalidInputError("audit records searches, and a model without url or attachment has none")
        if self.url and self.attachment:
            raise InvalidInputError("a collection has a url or an attachment, not both")
        if self.attachment and (own := sorted(self.attached)):
            raise InvalidInputError(
                f"{', '.join(own)} beside attachment: give them in the attachment, or a url in its place"
            )
        if self.url:
            registered(parse_url(self.url).scheme)
        if self.searchable == bool(self.metric):
            raise InvalidInputError("metric is given for a model without url or attachment, and only there")
        self._check_settings()
        if self.metric and self.metric not in [str(metric) for metric in Metric]:
            raise InvalidInputError(f"metric is one of {', '.join(map(str, Metric))}; got {self.metric!r}")

    def _check_settings(self) -> None:
        """Refuse what could not be opened, before anything is."""
        if self.guard is not None and not isinstance(self.guard, str | dict):
            raise InvalidInputError(f"guard is a table of payload keys and values, or a text, got {self.guard!r}")
        check_policy(self.timeout, self.attempts)
        Settings(guard=self.guard, modulation_timeout=self.modulation_timeout)  # checks them

    @property
    def attached(self) -> dict[str, Any]:
        """What is given of that which an attachment would tell, by keyword of ``IMRNNCollection.open``."""
        return {name: value for name in _ATTACHED if (value := getattr(self, name)) is not None}

    @property
    def searchable(self) -> bool:
        """Whether there is a database behind it."""
        return bool(self.url or self.attachment)


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A whole configuration.

    Attributes
    ----------
    collections
        By the name that requests give.
    listen
        ``"HOST:PORT"``; port 0 for any that is free. Other hosts than loopback need TLS and a token, or ``insecure``.
    insecure
        Whether to listen beyond loopback without TLS or without a token.
    token_file
        File that holds the token; "" takes the environment variable ``IMRNN_SERVICE_TOKEN``, and none where that is
        not set.
    grace_s
        Seconds that accepted requests have to finish after SIGTERM.
    reflection
        Whether the reflection service answers.
    tls, limits, telemetry
        Tables of the same names.
    """

    collections: Mapping[str, CollectionConfig]
    listen: str = "127.0.0.1:50061"
    insecure: bool = False
    token_file: str = ""
    grace_s: float = 30.0
    reflection: bool = True
    tls: TLS | None = None
    limits: Limits = field(default_factory=Limits)
    telemetry: Telemetry = field(default_factory=Telemetry)

    def __post_init__(self) -> None:
        if not self.collections:
            raise InvalidInputError("no collection is configured: add a table [collections.NAME]")
        split_address(self.listen)
        if self.grace_s < 0:
            raise InvalidInputError("grace_s is at least 0")

    def token(self) -> str | None:
        """Return the token that clients must send; None where there is none.

        Raises
        ------
        InvalidInputError
            If its file cannot be read or is empty, if no client could send it, or if the service would be open to
            other machines.
        """
        found = os.environ.get(TOKEN_VARIABLE, "").strip() or None
        if self.token_file:
            found = _read(self.token_file).decode(errors="replace").strip()  # what is no text is refused below
            if not found:
                raise InvalidInputError(f"the token file {self.token_file} is empty")
        check_header("the service's token", found or "")
        here = is_this_machine(split_address(self.listen)[0])
        if not here and not self.insecure and (self.tls is None or found is None):
            raise InvalidInputError(
                f"listening on {self.listen} opens the service to other machines: add [tls] and a token, or set "
                "insecure = true where the network is trusted"
            )
        return found


def load_config(path: str | Path) -> ServiceConfig:
    """Read a configuration file.

    Raises
    ------
    InvalidInputError
        If it cannot be read, is no TOML, or holds a key or a value that is not known; the message names it.
    MissingExtraError
        On Python 3.10 without ``tomli``.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as exc:
            raise MissingExtraError("tomli", "serve") from exc
    content = _read(path)
    try:
        values = tomllib.loads(content.decode())
    except ValueError as exc:  # of the syntax, or of the encoding
        raise InvalidInputError(f"{path} is no TOML file: {exc}") from exc
    return _config(values, str(path))


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; `InvalidInputError` if it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidInputError(f"{address!r} is no address: write HOST:PORT, such as 127.0.0.1:50061")
    return host, int(port)


def _config(values: dict[str, Any], where: str) -> ServiceConfig:
    tables: dict[str, type] = {"tls": TLS, "limits": Limits, "telemetry": Telemetry}
    made: dict[str, Any] = {
        name: _table(kind, values.pop(name), f"{where}, [{name}]") for name, kind in tables.items() if name in values
    }
    collections = values.pop("collections", {})
    if not isinstance(collections, dict):
        raise InvalidInputError(f"{where}: collections are tables, [collections.NAME]")
    made["collections"] = {
        name: _table(CollectionConfig, table, f"{where}, [collections.{name}]") for name, table in collections.items()
    }
    return _table(ServiceConfig, {**values, **made}, where, frozenset(made))


def _table(kind: type[Table], values: Any, where: str, made: frozenset[str] = frozenset()) -> Table:
    if not isinstance(values, dict):
        raise InvalidInputError(f"{where} is no table")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    missing = [name for name, item in known.items() if _required(item) and name not in values]
    if unknown or missing:
        raise InvalidInputError(
            f"{where}: "
            + "; ".join([f"{name} is not known" for name in unknown] + [f"{n} is missing" for n in missing])
        )
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInputError(f"{where}: {name} is {value!r}, which is no finite number")
        allowed = _TYPES.get(str(known[name].type).removesuffix(" | None"))
        if name in made or allowed is None:
            continue
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise InvalidInputError(f"{where}: {name} is a {known[name].type}, got {value!r}")
    try:
        return kind(**values)
    except InvalidInputError as exc:
        raise InvalidInputError(f"{where}: {exc}") from exc


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc}") from exc

"""What callers can ask for, each documented and defaulted in one place, as keywords of every method that takes it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from imrnn_vdb.audit import AuditLog, as_audit_log
from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import CodeDtype
from imrnn_vdb.encoders import AnyEncoder
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.filter_text import as_filter
from imrnn_vdb.filters import FactorFilter, focused_on
from imrnn_vdb.guard import Guard, checked_guard
from imrnn_vdb.layout import CodeStorage
from imrnn_vdb.metric import Metric
from imrnn_vdb.modulation import Precision
from imrnn_vdb.observability.observer import Observer
from imrnn_vdb.steering import checked_weights
from imrnn_vdb.time_limit import TimeLimit

if TYPE_CHECKING:
    from imrnn_vdb.factors.topics import Topics

DEFAULT_COARSE_K = 100
API_KEY_VARIABLE = "IMRNN_API_KEY"

Model = str | Path | IMRNNModel


class CommonOptions(TypedDict, total=False):
    """Keywords of a search wherever it runs, as :class:`SearchRequest` documents them."""

    limit: int
    offset: int
    coarse_k: int | None
    payload_filter: Any
    factor_filter: FactorFilter | str | None
    only: str | None
    steer: Mapping[str, float] | None
    max_coarse_k: int | None
    threshold: float | None
    explain: bool
    plan: bool
    trace: bool
    modulate: bool | None
    passes: int


class SearchOptions(CommonOptions, total=False):
    """Keywords of ``search`` and ``search_batch``."""

    audit: AuditLog | str | Path | None
    topics: Topics | str | Path | None


class ServiceOptions(CommonOptions, total=False):
    """Keywords of a search by the service, whose configuration names log and topics."""

    topics: bool


class RerankOptions(TypedDict, total=False):
    """Keywords of ``rerank``: those of a search that make sense where nothing is searched for."""

    limit: int | None
    factor_filter: FactorFilter | str | None
    only: str | None
    steer: Mapping[str, float] | None
    threshold: float | None
    explain: bool
    modulate: bool | None
    audit: AuditLog | str | Path | None
    topics: Topics | str | Path | None


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is asked of a search, beside its query.

    Attributes
    ----------
    limit
        Results wanted, at least 1.
    offset
        Results skipped. All pages of one query lie in one window: keep ``coarse_k`` the same from page to page.
    coarse_k
        Candidates fetched from the database; None for the larger of 100 and ``limit``.
    payload_filter
        The database's own filter (a ``models.Filter`` for Qdrant, an expression string for Milvus), passed through.
    factor_filter
        A condition on documents, ``factor("entity") >= 0.6``, on matches, ``match("entity") >= 0.05``, or both
        combined; or the same as text, see :func:`imrnn_vdb.filter_text.parse_filter`. What the database can evaluate
        runs there, the rest here.
    only
        A factor's name: keeps documents in the upper half of that factor that matched because of it, see
        :func:`imrnn_vdb.filters.focused_on`. Required beside ``factor_filter``.
    steer
        Scales contributions: a weight in 0..10 by factor name, 1 for the others.
    max_coarse_k
        Largest window, where a filter that runs here leaves fewer results than asked: the window grows until enough
        are left or this is reached. None for eight times the first window; ``coarse_k`` for no growth.
    threshold
        Lowest final score, inclusive, applied after scoring; None for none.
    explain
        Whether each result carries its score's parts.
    plan
        Whether the response says which part of the filter ran where.
    trace
        Whether the response says how each step moved the results. The window is refined once more for each step.
    modulate
        True or False to insist; None to follow the model: on if it proved better than the base ranking.
    passes
        With 2, the refined query is searched for as well and finds candidates beyond the first ``coarse_k``, for a
        second round trip.
    audit
        A log that this search is recorded in, or its path; None for the collection's own, if it has one.
    topics
        Topics of the collection, or the path of their file: explanations then say which of them query and results
        belong to, and keep the parts of factors that were made of topics apart. Implies ``explain``.
    """

    limit: int = 10
    offset: int = 0
    coarse_k: int | None = None
    payload_filter: Any = None
    factor_filter: FactorFilter | str | None = None
    only: str | None = None
    steer: Mapping[str, float] | None = None
    max_coarse_k: int | None = None
    threshold: float | None = None
    explain: bool = False
    plan: bool = False
    trace: bool = False
    modulate: bool | None = None
    passes: int = 1
    audit: AuditLog | str | Path | None = None
    topics: Topics | str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "offset", "coarse_k", "max_coarse_k"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.limit < 1 or self.offset < 0:
            raise InvalidInputError("limit must be at least 1 and offset at least 0")
        if self.passes not in (1, 2):
            raise InvalidInputError(f"passes is 1 or 2, got {self.passes!r}")
        fetched = self.window * self.passes
        if self.offset + self.limit > fetched:
            raise InvalidInputError(
                f"offset + limit is {self.offset + self.limit}, but only {fetched} candidates are fetched: "
                "pass a larger coarse_k, the same for all pages"
            )
        if self.threshold is not None and not (isinstance(self.threshold, Real) and math.isfinite(self.threshold)):
            raise InvalidInputError(f"threshold is a finite score or None, got {self.threshold!r}")
        if self.only is not None and not isinstance(self.only, str):
            raise InvalidInputError(f"only is the name of one factor, got {self.only!r}: join several in factor_filter")
        if self.steer is not None:
            object.__setattr__(self, "steer", checked_weights(self.steer))
        object.__setattr__(self, "audit", as_audit_log(self.audit))
        if self.topics is not None:
            from imrnn_vdb.factors.topics import as_topics

            object.__setattr__(self, "topics", as_topics(self.topics))
            object.__setattr__(self, "explain", True)
        object.__setattr__(self, "factor_filter", as_filter(self.factor_filter))

    @property
    def log(self) -> AuditLog | None:
        """The audit log, where there is one."""
        return cast("AuditLog | None", self.audit)  # a path was read when the request was made

    @property
    def told_topics(self) -> Topics | None:
        """The topics that explanations tell of, where there are any."""
        return cast("Topics | None", self.topics)  # a path was read when the request was made

    @property
    def condition(self) -> FactorFilter | None:
        """The factor filter and what ``only`` means, together."""
        given = cast("FactorFilter | None", self.factor_filter)  # text was read when the request was made
        if self.only is None:
            return given
        short = focused_on(self.only)
        return short if given is None else given & short

    def modulates(self, model: IMRNNModel) -> bool:
        """Say whether the modulator runs: as this request insists, else as the model has proved."""
        return model.active if self.modulate is None else self.modulate

    @property
    def window(self) -> int:
        """Number of candidates to fetch."""
        return max(DEFAULT_COARSE_K, self.limit) if self.coarse_k is None else self.coarse_k


class ClientOptions(TypedDict, total=False):
    """Keywords of ``from_client``, as :class:`Settings` documents them."""

    encoder: AnyEncoder | None
    vector_name: str
    text_field: str
    timeout: float
    attempts: int
    device: str
    precision: Precision
    code_dtype: CodeDtype
    guard: Guard
    modulation_timeout: float | None
    audit: AuditLog | str | Path | None
    observer: Observer | None


class OpenOptions(ClientOptions, total=False):
    """Keywords of ``open``, as :class:`Settings` documents them."""

    api_key: str | None
    tls: bool | None


class CreateOptions(OpenOptions, total=False):
    """Keywords of ``create``, as :class:`Settings` documents them."""

    metric: Metric | str
    id_type: Literal["int", "str"]
    code_storage: CodeStorage | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a collection is opened or created.

    Attributes
    ----------
    encoder
        What turns texts into vectors: a callable, an encoder, its configuration or a model name; None for the
        checkpoint's own.
    vector_name
        The base vector, where a collection has several that fit.
    text_field
        Payload key of the text.
    timeout
        Deadline of one operation in seconds, retries included.
    attempts
        How often a call is sent at most when it fails for a reason that passes by itself.
    device
        Torch device of the modulator, ``"cpu"`` or ``"cuda"``.
    precision
        Of the modulator on a GPU: ``"half"`` for half precision where that orders 99.9 % of pairs of candidates as
        single precision does, which is measured when the model first runs; see :mod:`imrnn_vdb.precision`.
    guard
        A condition that all points have which are read, counted, given codes or deleted: a mapping of payload keys to
        values, such as ``{"tenant": "a"}``, or the database's own filter; see :mod:`imrnn_vdb.guard`.
    modulation_timeout
        Seconds that one modulation may take; past them a search returns the database's order and says so. None for no
        limit, which costs nothing. What overruns cannot be stopped and goes on in its thread, see
        :mod:`imrnn_vdb.time_limit`.
    audit
        A log that every search is recorded in, or its path; see :class:`imrnn_vdb.audit.AuditLog`. None for none.
    observer
        Who is told of each search, for traces and metrics; see ``docs/observability.md``. None costs nothing.
    api_key
        Secret for the server; None takes the environment variable ``IMRNN_API_KEY``. Never shown.
    tls
        Whether the connection is encrypted; None: encrypted if there is a key and the server is not on this machine.
    metric
        Of a new collection: ``"cosine"``, ``"dot"``, ``"euclid"`` or, where the engine has it, ``"manhattan"``.
    id_type
        Of a new collection, for engines with typed keys (Milvus).
    code_storage
        Of a new collection: where codes lie, see :class:`imrnn_vdb.layout.Layout`; None for what its engine reads
        fastest, a vector on Qdrant Edge and the payload elsewhere.
    code_dtype
        How wide a coordinate of a code is written, unless it lies in a vector that is there; both widths are read.
    """

    encoder: AnyEncoder | None = None
    vector_name: str = ""
    text_field: str = "text"
    timeout: float = 10.0
    attempts: int = 4
    device: str = "cpu"
    precision: Precision = "float32"
    guard: Guard = None
    modulation_timeout: float | None = None
    audit: AuditLog | str | Path | None = None
    observer: Observer | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    tls: bool | None = None
    metric: Metric | str = Metric.COSINE
    id_type: Literal["int", "str"] = "str"
    code_storage: CodeStorage | None = None
    code_dtype: CodeDtype = "float16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "guard", checked_guard(self.guard))
        object.__setattr__(self, "audit", as_audit_log(self.audit))
        _ = self.time_limit  # checks it
        _one_of("metric", str(self.metric), [str(metric) for metric in Metric])
        _one_of("id_type", self.id_type, ["int", "str"])
        if self.code_storage is not None:
            _one_of("code_storage", self.code_storage, ["payload", "vector"])
        _one_of("precision", self.precision, ["float32", "half"])
        _one_of("code_dtype", self.code_dtype, ["float16", "float32"])

    @property
    def connection(self) -> ConnectionOptions:
        """The part that concerns the connection."""
        key = self.api_key if self.api_key is not None else os.environ.get(API_KEY_VARIABLE)
        return ConnectionOptions(key or None, self.tls, self.timeout, self.attempts)

    @property
    def log(self) -> AuditLog | None:
        """The audit log of all searches, where there is one."""
        return cast("AuditLog | None", self.audit)  # a path was read when the settings were made

    @property
    def time_limit(self) -> TimeLimit | None:
        """A limit for the modulations of one collection."""
        return None if self.modulation_timeout is None else TimeLimit(self.modulation_timeout)

    def load(self, model: Model) -> IMRNNModel:
        """Load the checkpoint, unless it is loaded already."""
        return (
            model if isinstance(model, IMRNNModel) else IMRNNModel.from_pretrained(model, self.device, self.precision)
        )


def whole_number(name: str, value: Any) -> int | None:
    """Return a whole number, of a coarse_k perhaps None; `InvalidInputError` for anything else."""
    if value is None and name.endswith("coarse_k"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidInputError(f"{name} is a whole number, got {value!r}") from None


def _one_of(name: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise InvalidInputError(f"{name} is one of {', '.join(allowed)}; got {value!r}")

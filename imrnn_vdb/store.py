"""What a database must offer, and how one is found: the abstraction that every store adapter implements.

A :class:`Backend` stands for one database product: it connects, and it knows its own clients. A :class:`Store` stands
for one collection: it translates each operation into the vendor's calls and the replies into our structs, and nothing
else. Stores register under the entry point group ``imrnn_vdb.stores`` by URL scheme, so others can add a database.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import CodeDtype, Codes, FloatArray
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.errors import CollectionNotFoundError, InvalidInputError, UnsupportedError
from imrnn_vdb.extras import Extras
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import Guard, admit, checked_guard
from imrnn_vdb.metric import Metric
from imrnn_vdb.payloads import valid_text
from imrnn_vdb.urls import CollectionURL, is_this_machine

ENTRY_POINT_GROUP = "imrnn_vdb.stores"
IN_MEMORY = ":memory:"
RESERVED_PREFIX = "imrnn_"
CODE_PREFIX = "imrnn_code_"
ID_FIELD = "imrnn_id"  # of an original id that an engine cannot use as its key
FACTOR_PREFIX = "imrnn_factor_"

PointId = int | str
"""A point's key: an unsigned integer or a string (UUIDs travel as their canonical text)."""
Payload = dict[str, Any]
CodeStorage = Literal["payload", "vector"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a collection, and in which factor space.

    Attributes
    ----------
    space_id
        Fingerprint of the factor space whose codes are read and written.
    num_factors
        m of that space.
    factor_names
        Names whose calibrated scores are stored beside the code for pre-filters.
    vector_name
        Name of the base vector; "" for a collection's only or unnamed one.
    code_storage
        ``"payload"``: text under ``code_field``. ``"vector"``: a second vector of that name, of m + 1 floats.
    code_dtype
        Width of a stored coordinate in the text form.
    score_ids
        Fingerprints of those scores that have one of their own, by factor name: of factors added to the space.
    """

    space_id: str
    num_factors: int
    factor_names: tuple[str, ...] = ()
    vector_name: str = ""
    code_storage: CodeStorage = "payload"
    code_dtype: CodeDtype = "float16"
    score_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def code_field(self) -> str:
        """Name of the payload key, column or vector of the code; it names the space, so that two lie side by side."""
        return f"{CODE_PREFIX}{self.space_id}"

    def factor_field(self, name: str) -> str:
        """Return the payload key of a named factor's score; it names the space, so that scores of two never mix.

        That of a factor added to the space names its own fingerprint after that.
        """
        added = f"{self.score_ids[name]}_" if name in self.score_ids else ""
        return f"{FACTOR_PREFIX}{self.space_id}_{added}{name}"


class LazyPayloads(Sequence[Payload]):
    """Payloads that are made when they are asked for: a search returns ten of a hundred candidates.

    Parameters
    ----------
    make
        Returns the payload of one row, the same each time.
    count
        Number of rows.
    """

    def __init__(self, make: Callable[[int], Payload], count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Payload: ...
    @overload
    def __getitem__(self, index: slice) -> list[Payload]: ...
    def __getitem__(self, index: int | slice) -> Payload | list[Payload]:
        rows = range(self._count)[index]
        return self._make(rows) if isinstance(rows, int) else [self._make(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The first stage's answer to one query, as a struct of arrays, in the order of the database.

    Attributes
    ----------
    ids
        k point ids.
    base_scores
        Shape (k,), float64, oriented: higher is better (see :mod:`imrnn_vdb.metric`).
    codes
        k factor codes with their status.
    payloads
        k payloads without the fields of this layer.
    cut_short
        Whether a search for a factor filter ended at its own bound, so that more points may match than were returned.
    """

    ids: list[PointId]
    base_scores: npt.NDArray[np.float64]
    codes: Codes
    payloads: Sequence[Payload]
    cut_short: bool = False

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.base_scores) == len(self.codes) == len(self.payloads):
            raise InvalidInputError("candidates need one id, base score, code and payload each")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Points:
    """Points to write, or points that were read.

    Attributes
    ----------
    ids
        n point ids.
    vectors
        Shape (n, d), float32 base vectors; None where they were not read.
    payloads
        n payloads without the fields of this layer.
    codes
        n factor codes with their status; None to write points without a code.
    factor_scores
        Shape (n, number of named factors), float32 in 0..1; None where there is no code.
    """

    ids: list[PointId]
    vectors: FloatArray | None
    payloads: list[Payload]
    codes: Codes | None = None
    factor_scores: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Page:
    """Some points of a scroll, and where it goes on; ``cursor`` is None at the end."""

    points: Points
    cursor: Any


@dataclass(frozen=True, slots=True)
class VectorField:
    """A vector of a collection: its size, its metric, and whether the engine stores it quantised."""

    dim: int
    metric: Metric
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a user may want, and whether it works here.

    Attributes
    ----------
    name
        What it is about, for example ``"code in payload"``.
    status
        ``"works"``, ``"fallback"`` or ``"no"``.
    why
        The fact behind it, and what is done or can be done instead.
    """

    name: str
    status: Literal["works", "fallback", "no"]
    why: str


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a server says of itself and of one collection.

    Attributes
    ----------
    server
        Product and version, for example ``"Qdrant Edge 0.9.0"``.
    vectors
        The dense vector fields by name.
    count
        Number of points.
    capabilities
        What works here, for ``doctor``.
    settings
        What else is known, for ``doctor``: text, numbers, booleans, and lists and mappings of these, by name.
    """

    server: str
    vectors: Mapping[str, VectorField]
    count: int
    capabilities: tuple[Capability, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect and to call.

    Attributes
    ----------
    api_key
        Secret for the server; never shown in a repr, a log or an error.
    tls
        Whether the connection is encrypted; None: where a key would travel to another machine.
    timeout
        Deadline of one operation in seconds.
    attempts
        How often a transient failure is tried at most.
    """

    api_key: str | None = field(default=None, repr=False)
    tls: bool | None = None
    timeout: float = 10.0
    attempts: int = 4

    def encrypts(self, url: CollectionURL) -> bool:
        """Say whether to encrypt: as asked, else where a key would travel to another machine."""
        return self.tls if self.tls is not None else bool(self.api_key) and not is_this_machine(url.host)


class Store(Extras, ABC):
    """One collection of one database. Every method is an operation: see :mod:`imrnn_vdb.connection`.

    Attributes
    ----------
    in_flight
        How many operations of a backfill may run beside one another; 1 where the client is not made for threads.
    filters_factors
        Whether searches and counts can filter on stored factor scores; where not, such filters run on candidates here.
    largest_window
        Candidates that one search returns at most.

    Parameters
    ----------
    collection
        Its name.
    layout
        Where things lie in it.
    guard
        A condition that all points have which are read, counted, given codes or deleted through this store; see
        :mod:`imrnn_vdb.guard`. To a guarded store, other points do not exist.
    """

    in_flight = 4
    filters_factors: bool = True
    largest_window: int = 2**31 - 1

    def __init__(self, collection: str, layout: Layout, guard: Guard = None) -> None:
        self.collection = collection
        self.layout = layout
        self._guard = checked_guard(guard)

    @abstractmethod
    def unguarded(self) -> Store:
        """Return a store of the same collection without the guard, to see whether an id is taken."""

    def _admit(self, points: Points) -> Operation[None]:
        """Refuse to write points that lie outside the guard, or whose ids belong to points outside it."""
        if self._guard is None:
            return
        admit(self._guard, points.payloads)
        mine = yield from self.fetch(points.ids)
        taken = yield from self.unguarded().fetch(points.ids)
        foreign = len(set(taken.ids) - set(mine.ids))
        if foreign:
            raise InvalidInputError(
                f"{foreign} of the ids are taken by points outside the guard, which an upsert would replace; nothing "
                "was written: give ids a prefix of the tenant's own"
            )

    def _check_droppable(self) -> None:
        if self._guard is not None:
            raise UnsupportedError(
                f"collection {self.collection!r} was opened with a guard, and this would remove what belongs to points "
                "outside it: open it without one"
            )

    @abstractmethod
    def info(self) -> Operation[CollectionInfo]:
        """Describe server and collection; `CollectionNotFoundError` if there is none."""

    @abstractmethod
    def create(self, dim: int, metric: Metric, id_type: Literal["int", "str"] = "str") -> Operation[None]:
        """Create the collection for base vectors and codes; `CollectionExistsError` if there is one.

        ``id_type`` matters to engines with typed keys (Milvus); Qdrant takes both.
        """

    @abstractmethod
    def drop(self) -> Operation[None]:
        """Delete the collection and all its points."""

    @abstractmethod
    def upsert(self, points: Points) -> Operation[None]:
        """Insert or replace whole points, visible to the next read of this connection."""

    @abstractmethod
    def search(
        self,
        query_vectors: FloatArray,
        limit: int,
        payload_filter: Any = None,
        factor_filter: FactorFilter | None = None,
    ) -> Operation[list[Candidates]]:
        """Return the first-stage candidates of each query, in one round trip.

        Parameters
        ----------
        query_vectors
            Shape (n, d), float32, finite.
        limit
            Candidates for each query.
        payload_filter
            The vendor's own filter, passed through untouched.
        factor_filter
            On stored factor scores; translated, and combined with the payload filter by "and".
        """

    @abstractmethod
    def fetch(
        self,
        ids: Sequence[PointId],
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Points]:
        """Read points by id, in the order asked for; ids that do not exist are left out.

        Without payloads, only what this layer wrote is read, and the payloads are empty; without codes as well, codes
        and factor scores are not to be used, and may be None.
        """

    @abstractmethod
    def scroll(
        self,
        limit: int,
        cursor: Any = None,
        payload_filter: Any = None,
        with_vectors: bool = False,
        with_payloads: bool = True,
        with_codes: bool = True,
    ) -> Operation[Page]:
        """Read the next points of the collection; every point that stays is seen exactly once.

        Without payloads or codes, as :meth:`fetch` does without them.
        """

    def changed(self, ids: Sequence[PointId], vectors: FloatArray) -> Operation[list[PointId]]:
        """Return those points, of n ids, that are gone or whose base vectors no longer are those of shape (n, d).

        Called after a write of codes. A point may be returned that did not change; one that did may be missed only
        where the code of its new vector would be all but the same, or by a chance of less than 1 in 10,000.
        """
        found = yield from self.fetch(ids, with_vectors=True, with_payloads=False, with_codes=False)
        row_of = {value: row for row, value in enumerate(found.ids)}
        if found.vectors is None or not row_of:
            return list(ids)
        rows = np.array([row_of.get(value, -1) for value in ids], np.intp)
        same = (rows >= 0) & (found.vectors[rows] == vectors).all(axis=1)
        return [ids[row] for row in np.flatnonzero(~same).tolist()]

    @abstractmethod
    def count(self, payload_filter: Any = None, factor_filter: FactorFilter | None = None) -> Operation[int]:
        """Count points exactly."""

    @abstractmethod
    def write_codes(
        self,
        ids: Sequence[PointId],
        codes: Codes,
        factor_scores: FloatArray,
        lacking: npt.NDArray[np.bool_] | None = None,
    ) -> Operation[None]:
        """Write code and named factor scores of existing points; base vectors and foreign payload stay as they are.

        An id that does not exist is left out: no point is created. Where codes lie apart from points, its code may
        stay until :meth:`forget_codes` or :meth:`sweep` removes it; nothing reads it.

        Parameters
        ----------
        ids, codes, factor_scores
            n points, their current codes, and scores of shape (n, named factors).
        lacking
            Shape (n, 1 + named factors), bool: of the code and of each score, whether it has to be written; None for
            all. An engine that only replaces whole rows writes all of them.
        """

    def forget_codes(self, ids: Sequence[PointId]) -> Operation[None]:  # noqa: ARG002
        """Remove the codes of points that are gone, where codes lie apart from points."""
        yield from ()

    @abstractmethod
    def delete(self, ids: Sequence[PointId]) -> Operation[None]:
        """Delete points; ids that do not exist are ignored."""

    @abstractmethod
    def parse_filter(self, text: str) -> Any:
        """Read a payload filter from text: the vendor's JSON or expression; `InvalidInputError` if it is none."""

    @abstractmethod
    def prepare_codes(self, *, in_place: bool = False) -> Operation[bool]:
        """Make room for codes before a backfill, and see all that was written before this moment.

        ``in_place`` says that nobody else writes, so that whole rows may be rewritten where the engine knows no
        smaller update (Milvus).

        Returns
        -------
        bool
            Whether points may have codes already.
        """

    @abstractmethod
    def strip_codes(
        self, space_id: str, limit: int, cursor: Any = None, *, in_place: bool = False
    ) -> Operation[tuple[int, Any]]:
        """Remove a space's codes and factor scores from the next points; return how many had any, and where it goes on.

        Everything else stays as it is; the cursor is None at the end.
        """

    @abstractmethod
    def drop_room(self, space_id: str) -> Operation[None]:
        """Remove what held a space's codes, once they are stripped: payload indexes, vector, sidecar collection."""

    def sweep(self, limit: int, cursor: Any = None) -> Operation[tuple[int, Any]]:  # noqa: ARG002
        """Remove codes that lie apart from their points and whose points are gone; as :meth:`strip_codes` returns."""
        yield from ()
        return 0, None


class Backend(ABC):
    """One database product: connects, recognises its own clients, makes stores."""

    schemes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def connect(self, url: CollectionURL, options: ConnectionOptions, *, asynchronous: bool) -> Connection:
        """Open a connection that this package owns."""

    @abstractmethod
    def adopt(self, client: object, options: ConnectionOptions) -> Connection | None:
        """Wrap a client that the caller built and keeps owning; None if it is not one of this product's."""

    @abstractmethod
    def store(self, connection: Connection, collection: str, layout: Layout, guard: Guard = None) -> Store:
        """Make the store of one collection, with its guard; no call is sent."""


def load_backend(scheme: str) -> Backend:
    """Return the backend registered for a URL scheme, without its variant (``qdrant`` of ``qdrant+edge``).

    Raises
    ------
    InvalidInputError
        If no installed package registers the scheme; the message lists those that do.
    """
    product = scheme.partition("+")[0]
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if product not in found:
        raise InvalidInputError(f"no store is registered for {scheme!r} URLs; there are: {', '.join(sorted(found))}")
    backend: Backend = found[product].load()()
    return backend


def connect(
    where: CollectionURL, options: ConnectionOptions, *, asynchronous: bool, create: bool = False
) -> tuple[Backend, Connection]:
    """Connect to what a URL names.

    Parameters
    ----------
    where
        The parsed URL.
    options
        Key, encryption, deadline.
    asynchronous
        Whether the connection serves ``arun``.
    create
        Whether an embedded engine may make its file or folder; otherwise a mistyped path leaves nothing behind.

    Raises
    ------
    CollectionNotFoundError
        If the path of an embedded engine does not exist and is not to be created.
    """
    backend = load_backend(where.scheme)
    if where.embedded and not create and where.path != IN_MEMORY and not Path(where.path).expanduser().exists():
        raise CollectionNotFoundError(f"there is no collection {where.collection!r}: {where.path} does not exist")
    return backend, backend.connect(where, options, asynchronous=asynchronous)


def adopt_client(client: object, options: ConnectionOptions) -> tuple[Backend, Connection]:
    """Find the backend that knows a caller's client.

    Raises
    ------
    InvalidInputError
        If no installed store knows the client's type.
    """
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        backend: Backend = entry.load()()
        connection = backend.adopt(client, options)
        if connection is not None:
            return backend, connection
    raise InvalidInputError(
        f"no store knows a client of type {type(client).__module__}.{type(client).__qualname__}; pass a QdrantClient, "
        "an AsyncQdrantClient, a qdrant_edge.EdgeShard, a MilvusClient or an AsyncMilvusClient"
    )


def normalize_id(value: object) -> PointId:
    """Return a point id in the form in which it travels.

    Parameters
    ----------
    value
        An integer in 0..2⁶⁴−1, a non-empty string of valid Unicode, or a UUID.

    Raises
    ------
    InvalidInputError
        For anything else, booleans included.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, np.integer):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str) and value:
        return valid_text(value)
    raise InvalidInputError(f"a point id is an integer in 0..2^64-1, a non-empty string or a UUID, got {value!r}")


def is_own_field(name: str) -> bool:
    """Say whether a payload key is one that this layer writes."""
    return name == ID_FIELD or name.startswith((CODE_PREFIX, FACTOR_PREFIX))


def stored_texts(payloads: Sequence[Mapping[str, Any]], layout: Layout) -> list[object]:
    """Return each point's code as text: of the layout's space, else of another, which says so; else None."""
    field = layout.code_field
    texts = [payload.get(field) for payload in payloads]
    return texts if all(texts) else [text or _foreign_text(row) for text, row in zip(texts, payloads, strict=True)]


def _foreign_text(payload: Mapping[str, Any]) -> object:
    if not payload:
        return None
    others = (value for key, value in payload.items() if key.startswith(CODE_PREFIX) and isinstance(value, str))
    return next(filter(None, others), None)


def own_fields_removed(payload: Mapping[str, Any]) -> Payload:
    """Return a copy of a payload without the fields that this layer writes."""
    return {key: value for key, value in payload.items() if not is_own_field(key)}

"""What a Milvus collection looks like: its fields, and where codes lie in it. Pure, but for the schema we create."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imrnn_vdb.errors import InvalidInputError, StoreError, UnsupportedError
from imrnn_vdb.layout import CODE_PREFIX, FACTOR_PREFIX, RESERVED_PREFIX, Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.payloads import valid_text
from imrnn_vdb.points import PointId
from imrnn_vdb.store import VectorField
from imrnn_vdb_milvus.clients import pymilvus
from imrnn_vdb_milvus.expressions import LEAST, dynamic_key, identifier, is_identifier

DYNAMIC_FIELD = "$meta"
KEY_NAME, BASE_NAME = "id", "vector"
MAX_KEY_BYTES = 512
MAX_FIELDS = 64
"""Fields that a server allows in a collection, unless it is configured otherwise."""
CODE_COLUMN_BYTES = 4096
"""Room for float32 codes of far more factors than there are; a limit, not what a row costs."""

CodeHome = Literal["vector", "column", "dynamic"]

_VARCHAR, _FLOAT_VECTOR, _FIRST_VECTOR = 21, 101, 100
_REWRITABLE = frozenset({1, 2, 3, 4, 5, 10, 11, _VARCHAR, 22, 23, _FLOAT_VECTOR})
"""Types whose values, as read, can be written again: booleans, integers, floats, VARCHAR, ARRAY, JSON, FLOAT_VECTOR."""

_METRICS = {"COSINE": Metric.COSINE, "IP": Metric.DOT, "L2": Metric.EUCLID}
_METRIC_TYPES = {metric: name for name, metric in _METRICS.items()}
_EXACT_INDEXES = frozenset({"FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX", "DISKANN", "GPU_CAGRA", "GPU_IVF_FLAT", ""})


@dataclass(frozen=True, slots=True)
class Server:
    """Which Milvus answers.

    Attributes
    ----------
    version
        For example ``(2, 3, 5)``; empty where it could not be read, which counts as new.
    lite
        Whether it is Milvus Lite, the engine in this process.
    """

    version: tuple[int, ...]
    lite: bool

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read what ``get_server_version`` says: ``v2.3.5``, ``milvus_lite-3.2.0``."""
        found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
        return cls(tuple(map(int, found.groups())) if found else (), text.replace("-", "_").startswith("milvus_lite"))

    def at_least(self, *version: int) -> bool:
        """Whether a server has this version or a later one; Milvus Lite counts versions of its own."""
        return self.lite or not self.version or self.version >= version

    def __str__(self) -> str:
        return f"Milvus{' Lite' if self.lite else ''} {'.'.join(map(str, self.version)) or '(version unknown)'}"


@dataclass(frozen=True, slots=True)
class Schema:
    """A collection as the server describes it.

    Attributes
    ----------
    collection
        Its name, also where it was asked for by an alias.
    key, key_is_text, key_bytes
        Primary key: field name, VARCHAR or INT64, and the most bytes of a VARCHAR.
    auto_id
        Whether the server invents the keys.
    vectors
        FLOAT_VECTOR fields that have an index, by name; the code is one of them where it is stored as a vector.
    index_types
        Index type of each of them.
    columns
        Scalar fields beside the key, ours included, with the most bytes of a VARCHAR (0 for other types).
    hidden
        Names that are no payload: the key and vectors of every kind.
    stored
        Fields that a row is written with: all, but for those a function of the server fills.
    foreign
        Fields of types that cannot be read and written again unchanged.
    dynamic
        Whether rows can have keys beyond the schema.
    partition_key
        Whether the server spreads rows over partitions itself.
    lifetime
        Seconds from its last write after which a server deletes a row; 0 for never.
    number, created
        What the server knows it by, and when it was created, on the server's own clock; 0 in Milvus Lite.
    """

    collection: str
    key: str
    key_is_text: bool
    key_bytes: int
    auto_id: bool
    vectors: Mapping[str, VectorField]
    index_types: Mapping[str, str]
    columns: Mapping[str, int]
    hidden: frozenset[str]
    stored: tuple[str, ...]
    foreign: tuple[str, ...]
    dynamic: bool
    partition_key: bool
    lifetime: int = 0
    number: int = 0
    created: int = 0

    @classmethod
    def parse(cls, description: Mapping[str, Any], indexes: Iterable[Mapping[str, Any]]) -> Schema:
        """Read the replies of ``describe_collection`` and, for each index, ``describe_index``."""
        fields = description["fields"]
        key = next(field for field in fields if field.get("is_primary"))
        by_field = {index.get("field_name"): index for index in indexes}
        filled = {name for function in description.get("functions", ()) for name in function["output_field_names"]}
        vectors, index_types = _vectors(fields, by_field)
        lifetime = str((description.get("properties") or {}).get("collection.ttl.seconds", ""))
        return cls(
            collection=description["collection_name"],
            key=identifier(key["name"]),
            key_is_text=int(key["type"]) == _VARCHAR,
            key_bytes=_max_bytes(key),
            auto_id=bool(key.get("auto_id") or description.get("auto_id")),
            vectors=vectors,
            index_types=index_types,
            columns={f["name"]: _max_bytes(f) for f in fields if f is not key and int(f["type"]) < _FIRST_VECTOR},
            hidden=frozenset({key["name"], *(f["name"] for f in fields if int(f["type"]) >= _FIRST_VECTOR)}),
            stored=tuple(f["name"] for f in fields if f["name"] not in filled),
            foreign=tuple(f["name"] for f in fields if f["name"] not in filled and int(f["type"]) not in _REWRITABLE),
            dynamic=bool(description.get("enable_dynamic_field")),
            partition_key=any(f.get("is_partition_key") for f in fields),
            lifetime=int(lifetime) if lifetime.isdecimal() else 0,
            number=int(description.get("collection_id") or 0),
            created=int(description.get("created_timestamp") or 0),
        )

    def is_of(self, description: Mapping[str, Any]) -> bool:
        """Say whether a later description is of this collection: an alias moves, a name is given to a new one."""
        return (self.collection, self.number) == (
            description["collection_name"],
            int(description.get("collection_id") or 0),
        )

    def base_name(self, layout: Layout) -> str:
        """Return the name of the base vector: the layout's, else the only one beside the code.

        Raises
        ------
        InvalidInputError
            If the name does not exist, or if there are several and none was chosen.
        """
        names = [name for name in self.vectors if not name.startswith(CODE_PREFIX)]
        if layout.vector_name in names:
            return layout.vector_name
        if layout.vector_name or len(names) != 1:
            raise InvalidInputError(
                f"collection {self.collection!r} needs vector_name= to be one of its indexed float vector fields: "
                f"{', '.join(names) or 'there is none; create an index on the vector field first'}"
            )
        return names[0]

    def code_home(self, layout: Layout) -> CodeHome | None:
        """Where codes lie here: a second vector field, a column, keys of the dynamic field; None: there is no room."""
        if layout.code_field in self.vectors:
            return "vector"
        if layout.code_field in self.columns:
            return "column"
        return "dynamic" if self.dynamic else None

    def read_fields(self, layout: Layout) -> list[str]:
        """Fields that a search reads: payload and code, neither base vectors nor the scores kept for pre-filters."""
        fields = [name for name in self.columns if not name.startswith(FACTOR_PREFIX)]
        if self.code_home(layout) == "vector":
            fields.append(layout.code_field)
        if self.dynamic:
            fields.append(DYNAMIC_FIELD)
        return fields or [self.key]  # Milvus Lite takes an empty list for "everything"

    def point_fields(self, layout: Layout) -> list[str]:
        """Fields that reading a point needs beside its base vector."""
        return [self.key, *self.read_fields(layout), *(name for name in self.columns if name.startswith(FACTOR_PREFIX))]

    def own_fields(self, layout: Layout) -> list[str]:
        """Fields that reading codes and scores needs, beside vectors that are wanted for themselves."""
        ours = [name for name in self.columns if name.startswith((CODE_PREFIX, FACTOR_PREFIX))]
        if self.code_home(layout) == "vector":
            ours.append(layout.code_field)
        names = {layout.code_field, *map(layout.factor_field, layout.factor_names)}
        if self.dynamic and not names <= {*ours}:
            ours.append(DYNAMIC_FIELD)
        return [self.key, *ours]

    @property
    def row_fields(self) -> list[str]:
        """Every field of a row, to write it again."""
        return [*self.stored, *([DYNAMIC_FIELD] if self.dynamic else [])]

    def address(self, field: str) -> str:
        """Return the expression that addresses a payload key: the key, a column, or a key of the dynamic field.

        Raises
        ------
        InvalidInputError
            If the collection has no such field, nor a dynamic field.
        """
        if field == self.key or field in self.columns:
            return identifier(field)
        if self.dynamic:
            return dynamic_key(field)
        raise InvalidInputError(f"collection {self.collection!r} has no field {field!r} to filter on")

    def score_address(self, layout: Layout, name: str) -> str:
        """Return the expression that addresses the score of a named factor."""
        field = layout.factor_field(name)
        if field in self.columns:
            return identifier(field)
        if self.dynamic:
            return dynamic_key(field)
        raise UnsupportedError(
            f"collection {self.collection!r} has no field {field!r} and no dynamic field, so it stores no scores of "
            f"the factor {name!r} to filter on"
        )

    def check_room(self, layout: Layout) -> None:
        """Raise `UnsupportedError` if codes and scores cannot be stored here as the layout says."""
        if layout.code_storage == "vector" and self.code_home(layout) != "vector":
            raise UnsupportedError(
                f"collection {self.collection!r} has no vector field {layout.code_field!r}: store codes in the "
                "payload, or create the collection with code_storage='vector'"
            )
        missing = [name for name in layout.factor_names if layout.factor_field(name) not in self.columns]
        if self.code_home(layout) is None or (missing and not self.dynamic):
            raise UnsupportedError(
                f"collection {self.collection!r} has no dynamic field and no fields {RESERVED_PREFIX}*, so it has no "
                "room for codes: create a new collection with this package, or with enable_dynamic_field=True, and "
                "copy the points (a dynamic field cannot be enabled later)"
            )

    def usable_keys(self, ids: Iterable[PointId]) -> list[PointId]:
        """Return the ids that a point of this collection can have, each once; the others do not exist."""
        return list(dict.fromkeys(value for value in ids if self._is_key(value)))

    def check_key(self, value: PointId) -> PointId:
        """Return an id that is to be written.

        Raises
        ------
        InvalidInputError
            If the primary key cannot hold it.
        """
        if not self._is_key(value):
            kind = f"text of at most {self.key_bytes} bytes" if self.key_is_text else "an integer below 2^63"
            raise InvalidInputError(f"the ids of collection {self.collection!r} are {kind}, got {value!r}")
        return value

    def _is_key(self, value: PointId) -> bool:
        if isinstance(value, str):
            return self.key_is_text and len(valid_text(value).encode()) <= self.key_bytes
        return not self.key_is_text and LEAST <= value < 2**63


def new_schema(dim: int, id_type: Literal["int", "str"], layout: Layout, key_bytes: int = MAX_KEY_BYTES) -> Any:
    """Build the schema of a collection that we create: key, base vector, code, scores, and a dynamic payload.

    The columns of this layer cannot be null, which Milvus before 2.5 does not know: a point without a code has an
    empty text (or a zero vector) and scores of -1.
    """
    milvus = pymilvus()
    types = milvus.DataType
    schema = milvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    if id_type == "int":
        schema.add_field(KEY_NAME, types.INT64, is_primary=True)
    else:
        schema.add_field(KEY_NAME, types.VARCHAR, is_primary=True, max_length=key_bytes)
    schema.add_field(identifier(layout.vector_name or BASE_NAME), types.FLOAT_VECTOR, dim=dim)
    if layout.code_storage == "vector":
        schema.add_field(layout.code_field, types.FLOAT_VECTOR, dim=layout.code_width)
    else:
        schema.add_field(layout.code_field, types.VARCHAR, max_length=CODE_COLUMN_BYTES)
    for name in layout.factor_names:  # others get keys in the dynamic field
        if is_identifier(layout.factor_field(name)) and len(schema.fields) < MAX_FIELDS:
            schema.add_field(layout.factor_field(name), types.FLOAT)
    return schema


def new_indexes(metric: Metric, layout: Layout, server: Server) -> Any:
    """Build the index parameters of a new collection: HNSW, or an exact scan in Milvus Lite.

    The HNSW graphs of Milvus Lite 3.2 leave points of small collections unreachable (6 to 11 of 60 were never found,
    whatever ``ef``), and its queries read every row anyway.

    Raises
    ------
    UnsupportedError
        If Milvus has no such metric.
    """
    if metric not in _METRIC_TYPES:
        raise UnsupportedError(f"Milvus has no {metric} metric: use cosine, dot or euclid")
    indexes = pymilvus().MilvusClient.prepare_index_params()
    hnsw = {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
    kind: dict[str, Any] = {"index_type": "FLAT"} if server.lite else hnsw
    indexes.add_index(layout.vector_name or BASE_NAME, metric_type=_METRIC_TYPES[metric], **kind)
    if layout.code_storage == "vector":  # Milvus loads no collection with a vector field that has no index
        indexes.add_index(layout.code_field, index_type="FLAT", metric_type="IP")
    return indexes


def search_params(schema: Schema, field: str, limit: int) -> dict[str, Any]:
    """Return parameters of a search on a vector field: how much of its index is visited, and the metric.

    HNSW visits at least twice the candidates wanted. An index of cells (IVF, SCANN) visits 8 of them unless it is told
    otherwise, however many candidates are wanted; a cell holds 39 points or more, so here it visits ten times the
    candidates wanted, or all. A server refuses another metric than the index's: the collection was made anew then.
    """
    kind, params = schema.index_types[field], dict[str, int]()
    if kind.startswith("HNSW"):
        params = {"ef": min(max(64, 2 * limit), 32768)}
    elif "IVF" in kind or kind == "SCANN":
        params = {"nprobe": max(16, limit // 4)}
    return {"metric_type": _METRIC_TYPES[schema.vectors[field].metric], "params": params}


def check_partitions(schema: Schema, partitions: Sequence[str]) -> None:
    """Raise `UnsupportedError` if it cannot be known to which partition a new row belongs."""
    if len(partitions) > 1 and not schema.partition_key:
        raise UnsupportedError(
            f"collection {schema.collection!r} has partitions made by hand, and Milvus would keep a second row beside "
            "one of the same id in another partition: write points with your own client, then their codes with this "
            "package"
        )


def check_placing(server: Server, schema: Schema) -> None:
    """Raise `UnsupportedError` if the server puts upserted rows where filters on the partition key miss them.

    Tried on 2.3.5, which hashes another field than the partition key (github.com/milvus-io/milvus/issues/30607).
    """
    if misplaces(server, schema):
        raise UnsupportedError(
            f"collection {schema.collection!r} has a partition key, and {server} upserts rows into wrong partitions, "
            "where filters on that key do not find them (mended in 2.4): write points by insert and delete of your own "
            "client, and let a backfill keep codes in a sidecar collection"
        )


def misplaces(server: Server, schema: Schema) -> bool:
    """Say whether the server upserts rows of the collection into wrong partitions."""
    return schema.partition_key and not server.at_least(2, 4)


def prolongs(server: Server, schema: Schema) -> bool:
    """Say whether rows of the collection expire, and later once rewritten (tried on 2.3.5; Milvus Lite keeps them)."""
    return bool(schema.lifetime) and not server.lite


def _vectors(
    fields: Iterable[Mapping[str, Any]], by_field: Mapping[Any, Mapping[str, Any]]
) -> tuple[dict[str, VectorField], dict[str, str]]:
    vectors: dict[str, VectorField] = {}
    index_types: dict[str, str] = {}
    for field in fields:
        name, index = field["name"], by_field.get(field["name"])
        if int(field["type"]) != _FLOAT_VECTOR or index is None:
            continue
        metric = _METRICS.get(str(index.get("metric_type")).upper())
        if metric is None:
            raise StoreError(f"vector field {name!r} has the metric {index.get('metric_type')!r}, unknown here")
        index_types[name] = str(index.get("index_type", ""))
        quantized = index_types[name] not in _EXACT_INDEXES
        vectors[name] = VectorField(int(field["params"]["dim"]), metric, quantized)
    return vectors, index_types


def _max_bytes(field: Mapping[str, Any]) -> int:
    return int(field.get("params", {}).get("max_length", 0)) if int(field["type"]) == _VARCHAR else 0

"""The hits of a search: from Milvus's own message, by column, or from what pymilvus makes of one. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, overload

import numpy as np

from imrnn_vdb.points import PointId

Row = dict[str, Any]
_SCALARS = {
    1: "bool_data",
    2: "int_data",
    3: "int_data",
    4: "int_data",
    5: "long_data",
    10: "float_data",
    11: "double_data",
    21: "string_data",
}
_JSON, _FLOAT_VECTOR = 23, 101  # as the keys above, of pymilvus's DataType


class HitRows(Sequence[Row]):
    """The rows of one query's hits, kept as columns. JSON is parsed in the rows that are looked at.

    Parameters
    ----------
    columns
        Of all queries' hits, by field.
    texts
        Columns of JSON in bytes, with the field; None as the field for the dynamic one, whose keys are keys of the row.
    places
        Where in the columns the hits of this query are.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        texts: Sequence[tuple[str | None, Sequence[bytes | None]]],
        places: range,
    ) -> None:
        self._columns, self._texts, self._places = columns, texts, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = self._places[index]
        return self._row(places) if isinstance(places, int) else [self._row(place) for place in places]

    def _row(self, place: int) -> Row:
        row = {name: column[place] for name, column in self._columns.items()}
        for name, column in self._texts:
            text = column[place]
            value = None if text is None else json.loads(text)
            if name is not None:
                row[name] = value
            else:
                row.update(value or {})
        return row

    def column(self, name: str) -> Sequence[Any]:
        """Return one field of all rows: None everywhere where it is no column."""
        if name not in self._columns:
            return [None] * len(self)
        return self._columns[name][self._places.start : self._places.stop]


@dataclass(frozen=True, slots=True)
class Hits:
    """One query's hits, nearest first.

    Attributes
    ----------
    ids
        k primary keys.
    distances
        k numbers as Milvus gives them; what they mean is for the metric to say.
    rows
        k rows of the fields that were asked for.
    """

    ids: list[PointId]
    distances: list[float]
    rows: Sequence[Row]


def hits_by_column(results: Any) -> list[Hits] | None:
    """Read a ``SearchResultData`` message, one entry a query; None where it holds what is not known here.

    Known are scalar fields, JSON, and float vectors that no row lacks.
    """
    columns: dict[str, Sequence[Any]] = {}
    texts: list[tuple[str | None, Sequence[bytes | None]]] = []
    for field in results.fields_data:
        kind, valid = int(field.type), field.valid_data
        if kind in _SCALARS:
            columns[field.field_name] = _present(getattr(field.scalars, _SCALARS[kind]).data, valid)
        elif kind == _JSON:
            name = None if field.is_dynamic else field.field_name
            texts.append((name, _present(field.scalars.json_data.data, valid)))
        elif kind == _FLOAT_VECTOR and not valid:
            flat: Any = np.array(field.vectors.float_vector.data, np.float32)
            columns[field.field_name] = flat.reshape(-1, field.vectors.dim)
        else:
            return None
    keys = results.ids.str_id.data if results.ids.HasField("str_id") else results.ids.int_id.data
    bounds = pairwise(accumulate(results.topks, initial=0))
    return [
        Hits(keys[first:end], results.scores[first:end], HitRows(columns, texts, range(first, end)))
        for first, end in bounds
    ]


def hits_of_vendor(reply: Iterable[Any]) -> list[Hits]:
    """Read what a client's ``search`` returns, one entry a query."""
    return [
        Hits(list(hits.ids), list(hits.distances), with_lists([dict(hit["entity"]) for hit in hits])) for hits in reply
    ]


def with_lists(rows: list[Row]) -> list[Row]:
    """Return rows with lists in array fields: pymilvus 2.6 gives protobuf's own containers there, which are no JSON."""
    kinds = {kind for row in rows for kind in map(type, row.values())}
    others = tuple(kind for kind in kinds - {list, bytearray} if issubclass(kind, MutableSequence))
    if not others:
        return rows
    return [{name: list(value) if isinstance(value, others) else value for name, value in row.items()} for row in rows]


def _present(values: Sequence[Any], valid: Sequence[bool]) -> Sequence[Any]:
    """Return a column with None where a nullable field has no value; Milvus sends some value for it all the same."""
    return [value if there else None for value, there in zip(values, valid, strict=True)] if valid else values

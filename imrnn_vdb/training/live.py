"""Labels on a live collection: its first stage gives the candidates, its vectors are trained on, or measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import FloatArray
from imrnn_vdb.datasets import Dataset, Qrels, check_grades, check_new, read_json_lines, read_lines
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId, possible_ids
from imrnn_vdb.training.embeddings import EmbeddedDataset, unit_vectors
from imrnn_vdb.training.examples import Examples, build_examples, merged

if TYPE_CHECKING:
    from imrnn_vdb.collection import IMRNNCollection

_log = logging.getLogger("imrnn_vdb")
_QUERY_BATCH, _FETCH_BATCH = 32, 500
_UNIT_TOLERANCE = 1e-3
_LEAST_SHARE = 0.5
Queries = Mapping[str, str] | Mapping[str, FloatArray]


def examples_from_collection(
    collection: IMRNNCollection, queries: Queries, qrels: Qrels, coarse_k: int = 100
) -> Examples:
    """Search a collection for every labelled query, and read the vectors of what is found and of what is relevant.

    Parameters
    ----------
    collection
        Open; it is only read, and its model plays no part. The metric is the cosine, or all vectors have unit length.
    queries
        Text or vector of shape (d,) by query id; texts are encoded by the collection's encoder.
    qrels
        Grades by point id, written as text, by query id. Relevant points that do not exist count as never found.
    coarse_k
        Candidates per query, as served later. Points without a direction, a zero vector, are none. All lists are cut to
        the length of the shortest.

    Raises
    ------
    InvalidInputError
        If no query is labelled, a grade is not a whole number from -100 to 100, a query finds less than half as many
        candidates as another, or scores are not cosines.
    StoreError
        What the database answered.
    """
    judged = merged(queries, _labelled(queries, qrels))
    seen = _see(collection, queries, judged, coarse_k)
    rows = {point_id: row for row, point_id in enumerate(seen.ids)}
    there = [[rows[point_id] for point_id in one if point_id in rows] for one in seen.found]
    candidates = _of_one_length(there, [*judged], collection.name)
    position = {str(point_id): row for point_id, row in rows.items()}
    return build_examples([*judged], seen.queries, seen.table, candidates, judged, position)


def embedded_from_collection(
    collection: IMRNNCollection, queries: Queries, qrels: Qrels, coarse_k: int = 100
) -> EmbeddedDataset:
    """Read what is needed to measure a model on a collection, whether or not its codes are there.

    Parameters
    ----------
    collection, queries, qrels
        As for :func:`examples_from_collection`; queries that ask the same count each, as they come.
    coarse_k
        Candidates per query. Together with the relevant points they are the documents: an exact search among them
        finds for each query what the database found, and what its index missed and another query showed.

    Returns
    -------
    EmbeddedDataset
        With one split, ``"test"``, and documents without texts.

    Raises
    ------
    InvalidInputError
        If no query is labelled, a grade is not a whole number from -100 to 100, nothing is found, or scores are not
        cosines.
    StoreError
        What the database answered.
    """
    judged = _labelled(queries, qrels)
    seen = _see(collection, queries, judged, coarse_k)
    texts = {name: query if isinstance(query, str) else "" for name, query in queries.items() if name in judged}
    ids = [str(point_id) for point_id in seen.ids]
    data = Dataset(collection.name, dict.fromkeys(ids, ""), texts, {"test": judged})
    return EmbeddedDataset(data, ids, seen.table, [*judged], seen.queries)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a collection holds for n labelled queries: their unit vectors, what each finds, and N points with theirs."""

    queries: FloatArray
    found: list[list[PointId]]
    ids: list[PointId]
    table: FloatArray


def _labelled(queries: Queries, qrels: Qrels) -> Qrels:
    """Return the judgements of those queries, in their order, to which something is relevant."""
    check_grades(qrels)
    if unknown := len(qrels.keys() - queries.keys()):
        _log.warning("judgements of %d queries that are not among the queries are left out", unknown)
    known = ((name, qrels[name]) for name in queries if name in qrels)
    labelled = {name: grades for name, grades in known if any(grade > 0 for grade in grades.values())}
    if not labelled:
        raise InvalidInputError("no query of the queries file has a relevant point in the judgements")
    return labelled


def _see(collection: IMRNNCollection, queries: Queries, judged: Qrels, coarse_k: int) -> _Seen:
    """Search for labelled queries, equal ones once, and read the vectors of what is found and of what is relevant."""
    asked = [queries[name] for name in judged]
    keys = [query if isinstance(query, str) else np.asarray(query, np.float32).tobytes() for query in asked]
    once = dict(zip(keys, asked, strict=True))
    place = {key: number for number, key in enumerate(once)}
    repeated = [place[key] for key in keys]
    vectors = unit_vectors(_query_vectors(collection, list(once.values())))
    found = _search(collection, vectors, coarse_k)
    relevant = {key: None for grades in judged.values() for key, grade in grades.items() if grade > 0}
    wanted: dict[PointId, None] = dict.fromkeys(point_id for ids in found for point_id in ids)
    wanted.update(dict.fromkeys(possible_ids(relevant)))
    ids, table = _fetch(collection, list(wanted))
    there = {str(point_id) for point_id in ids}
    if absent := sum(key not in there for key in relevant):
        _log.warning(
            "collection %r: %d of %d relevant points are not there, or without a direction: they count as never found",
            collection.name,
            absent,
            len(relevant),
        )
    return _Seen(vectors[repeated], [found[row] for row in repeated], ids, table)


def read_queries(path: Path) -> Queries:
    """Read a file of queries, JSON lines: ``_id`` with ``text``, or ``_id`` with ``vector``.

    Raises
    ------
    InvalidInputError
        If the file is missing, a line is malformed, an ``_id`` is there twice, or texts and vectors are mixed.
    """
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    vectors: dict[str, FloatArray] = {}
    for number, row in read_json_lines(path):
        try:
            key = str(row["_id"])
            if "vector" in row:
                vectors[key] = np.asarray(row["vector"], np.float32)
            elif not row["text"].strip():
                raise ValueError("blank")
            else:
                texts[key] = row["text"]
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise InvalidInputError(
                f"{path}, line {number}: an object with '_id' and 'text' or 'vector' is needed"
            ) from exc
        check_new(key, number, lines, path)
    if texts and vectors:
        raise InvalidInputError(f"{path} mixes texts and vectors: give one or the other")
    return vectors or texts


def read_triples(path: Path) -> Qrels:
    """Read triples as judgements: query id, relevant id, not relevant id, separated by tabs.

    Raises
    ------
    InvalidInputError
        If the file is missing or a line does not have three columns.
    """
    qrels: Qrels = {}
    for number, line in read_lines(path):
        parts = line.split("\t")
        if len(parts) != 3:
            raise InvalidInputError(f"{path}, line {number}: 'query-id<TAB>relevant-id<TAB>other-id' is expected")
        query, relevant, other = parts
        qrels.setdefault(query, {})[relevant] = 1.0
        qrels[query].setdefault(other, 0.0)
    return qrels


def _query_vectors(collection: IMRNNCollection, queries: Sequence[Any]) -> FloatArray:
    if isinstance(queries[0], str):
        return collection.encode_queries(list(queries))
    try:
        return np.stack([np.asarray(vector, np.float32) for vector in queries])
    except ValueError as exc:
        raise InvalidInputError(f"the query vectors differ in length: {exc}") from exc


def _of_one_length(rows: list[list[int]], names: list[str], collection: str) -> npt.NDArray[np.intp]:
    """Cut lists of candidates to the shortest, shape (n, k)."""
    lengths = [len(row) for row in rows]
    width, longest = min(lengths), max(lengths)
    if longest == 0:
        raise InvalidInputError(f"collection {collection!r} answers a query with no candidate: is it empty?")
    if width < _LEAST_SHARE * longest:
        raise InvalidInputError(
            f"query {names[lengths.index(width)]!r} finds {width} candidates in collection {collection!r}, others "
            f"{longest}: leave it out, or ask for fewer candidates (coarse_k)"
        )
    return np.array([row[:width] for row in rows], np.intp)


def _search(collection: IMRNNCollection, vectors: FloatArray, coarse_k: int) -> list[list[PointId]]:
    found: list[list[PointId]] = []
    for start in range(0, len(vectors), _QUERY_BATCH):
        batch = vectors[start : start + _QUERY_BATCH]
        responses = collection.search_batch(batch, limit=coarse_k, coarse_k=coarse_k, modulate=False)
        found += [[result.id for result in sorted(response, key=lambda r: r.base_rank)] for response in responses]
    return found


def _fetch(collection: IMRNNCollection, wanted: list[PointId]) -> tuple[list[PointId], FloatArray]:
    ids: list[PointId] = []
    tables: list[FloatArray] = []
    for start in range(0, len(wanted), _FETCH_BATCH):
        points = collection.fetch(wanted[start : start + _FETCH_BATCH], with_vectors=True)
        if points.vectors is not None and len(points):
            ids += points.ids
            tables.append(points.vectors)
    if not tables:
        raise InvalidInputError(f"collection {collection.name!r} holds none of the points that were asked for")
    table = np.concatenate(tables)
    norms = np.linalg.norm(table, axis=1)
    keep = np.flatnonzero(norms > 0)
    if collection.metric is not Metric.COSINE and np.abs(norms[keep] - 1).max(initial=0) > _UNIT_TOLERANCE:
        raise InvalidInputError(
            f"collection {collection.name!r} ranks by {collection.metric} and its vectors differ in length: training "
            "works on cosines; train on a BEIR folder, or keep vectors of unit length"
        )
    return [ids[row] for row in keep], unit_vectors(table[keep])

"""Our structs as messages of the protocol, and back; nothing is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.codec import Codes, FloatArray, decode_rows, decode_texts
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.topics import TopicMatch
from imrnn_vdb.filter_text import format_filter, parse_filter
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.options import ServiceOptions
from imrnn_vdb.payloads import finite, valid_text
from imrnn_vdb.planning import QueryPlan, WindowGrowth
from imrnn_vdb.points import Candidates, Payload, PointId, normalize_id
from imrnn_vdb.results import Explanation, SearchResponse, SearchResult
from imrnn_vdb.serving.proto import imrnn_vdb_pb2 as pb
from imrnn_vdb.space import FactorSpace, check_vectors
from imrnn_vdb.trace import StepTrace

_ALWAYS = ("offset", "explain", "plan", "trace")
_TEXTS = ("payload_filter", "factor_filter", "only")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode
_OPTIONAL = ("limit", "coarse_k", "max_coarse_k", "threshold", "modulate", "passes")


def options_message(options: ServiceOptions) -> pb.SearchOptions:
    """Turn the keywords of a search into a message.

    Raises
    ------
    InvalidInputError
        For a keyword that is not known, and for a payload filter that is no text.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - ServiceOptions.__annotations__.keys())
    if unknown:
        raise InvalidInputError(f"a search has no option {', '.join(unknown)}")
    if isinstance(given.get("factor_filter"), FactorFilter):
        given["factor_filter"] = format_filter(given["factor_filter"])
    if not isinstance(given.get("payload_filter", ""), str):
        raise InvalidInputError(
            "a payload filter travels as text: JSON of a models.Filter (model_dump_json()) for Qdrant, an expression "
            "for Milvus"
        )
    try:
        return pb.SearchOptions(**given)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(f"an option has a value that it cannot have: {exc}") from exc


def read_options(message: pb.SearchOptions) -> dict[str, Any]:
    """Return the keywords of a search but topics, which are not in the message; a payload filter is still text."""
    options: dict[str, Any] = {name: getattr(message, name) for name in _ALWAYS}
    options |= {name: text for name in _TEXTS if (text := getattr(message, name))}
    options |= {name: getattr(message, name) for name in _OPTIONAL if message.HasField(name)}
    if message.steer:
        options["steer"] = dict(message.steer)
    return options


def query_message(query: str | npt.ArrayLike) -> pb.Query:
    """Turn a text or a vector of shape (d,) into a message; `InvalidInputError` for what is neither."""
    return pb.Query(text=valid_text(query)) if isinstance(query, str) else pb.Query(vector=vector_message(query))


def vector_message(vector: npt.ArrayLike) -> pb.Vector:
    """Turn a vector of shape (d,) into a message; `InvalidInputError` for another shape."""
    table = np.asarray(vector)
    if table.ndim != 1 or table.dtype.kind not in "fiu":
        raise InvalidInputError(f"a query is a text or a vector of shape (d,), got an array of shape {table.shape}")
    return pb.Vector(values=table.astype(np.float32).tolist())


def read_query(message: pb.Query, dim: int) -> str | FloatArray:
    """Return a query as a text, or as a checked vector of shape (d,).

    Raises
    ------
    SpaceMismatchError
        For another dimension.
    InvalidInputError
        For a query that is not set, or NaN.
    """
    if message.WhichOneof("kind") == "text":
        return message.text
    return read_vector(message.vector, dim)


def read_vector(message: pb.Vector, dim: int) -> FloatArray:
    """Return a checked vector of shape (d,)."""
    if not message.values:
        raise InvalidInputError("the query is empty: give a text or a vector")
    if len(message.values) != dim:
        check_vectors(np.empty((1, len(message.values)), np.float32), dim)  # says so, before all are read
    vector: FloatArray = check_vectors(np.array(message.values, np.float32)[None], dim)[0]
    return vector


def id_message(point_id: object) -> pb.PointId:
    """Turn a point's id into a message."""
    value = normalize_id(point_id)
    if isinstance(value, str):
        return pb.PointId(text=value)
    return pb.PointId(number=value) if value >= 0 else pb.PointId(negative=value)


def read_id(message: pb.PointId) -> PointId:
    """Return a point's id; `InvalidInputError` where none is set."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidInputError("a point has no id")
    value: PointId = getattr(message, kind)
    return value


def candidate_message(
    point_id: object, base_score: float, code: str | npt.ArrayLike | None, vector: npt.ArrayLike | None
) -> pb.Candidate:
    """Turn one candidate into a message, with a stored code or a base vector or neither."""
    made = pb.Candidate(id=id_message(point_id), base_score=base_score)
    if isinstance(code, str):
        made.code_text = code
    elif code is not None:
        made.code_row.CopyFrom(_row_message(code))
    elif vector is not None:
        made.vector = np.asarray(vector, "<f4").tobytes()
    return made


def _row_message(code: npt.ArrayLike) -> pb.Vector:
    row = np.asarray(code)
    if row.ndim != 1 or row.dtype.kind not in "fiu":
        raise InvalidInputError("a candidate's code is the text or the vector that is stored for it")
    return pb.Vector(values=row.tolist())


def read_candidates(messages: Sequence[pb.Candidate], space: FactorSpace) -> Candidates:
    """Return candidates with codes that were decoded, or computed from base vectors.

    Raises
    ------
    SpaceMismatchError
        For base vectors of another dimension.
    InvalidInputError
        For a base score that is NaN or infinite.
    """
    kinds = [message.WhichOneof("code") for message in messages]
    texts = [message.code_text if kind == "code_text" else None for message, kind in zip(messages, kinds, strict=True)]
    codes = decode_texts(texts, space.space_id, space.num_factors)
    stored = [place for place, kind in enumerate(kinds) if kind == "code_row"]
    _put(codes, stored, decode_rows([messages[place].code_row.values for place in stored], space.num_factors))
    given = [place for place, kind in enumerate(kinds) if kind == "vector"]
    if given:
        _put(codes, given, _encoded([messages[place].vector for place in given], space))
    ids = [read_id(message.id) for message in messages]
    scores = np.array([message.base_score for message in messages], np.float64)
    if not np.isfinite(scores).all():
        raise InvalidInputError("a base score is NaN or infinite")
    return Candidates(ids, scores, codes, [{} for _ in ids])


def _put(codes: Codes, places: list[int], found: Codes) -> None:
    codes.directions[places], codes.norms[places], codes.status[places] = found.directions, found.norms, found.status


def _encoded(raw: list[bytes], space: FactorSpace) -> Codes:
    if any(len(data) % 4 for data in raw) or len({len(data) for data in raw}) > 1:
        raise InvalidInputError("the vectors of candidates are d 32-bit floats each, all of one length")
    return space.encode(np.frombuffer(b"".join(raw), "<f4").reshape(len(raw), -1))


def response_message(response: SearchResponse, space: FactorSpace) -> pb.SearchResponse:
    """Turn a response into a message."""
    made = pb.SearchResponse(
        results=[result_message(result) for result in response.results],
        modulated=response.modulated,
        reason=response.reason,
        coarse_k=response.coarse_k,
        candidates=response.candidates,
        space_id=response.space_id,
        model_id=response.model_id,
        unusable=response.unusable,
        timings_ms=response.timings,
        steer=response.steer,
        factor_names=space.names,
    )
    if response.growth is not None:
        made.growth.CopyFrom(pb.WindowGrowth(**response.growth.to_dict()))
    if response.plan is not None:
        made.plan.CopyFrom(pb.QueryPlan(**response.plan.to_dict()))
    if response.trace is not None:
        trace = response.trace
        stages = zip(trace.stages, trace.scores, trace.ranks, strict=True)
        made.trace.extend(pb.TraceStage(name=name, scores=scores, ranks=ranks) for name, scores, ranks in stages)
    if response.topics:
        made.topics.extend(_topic_messages(response.topics))
    if response.results:
        made.topic_names.extend(topic_names(response.results[0]))
    return made


def topic_names(result: SearchResult) -> Sequence[str]:
    """Return the names of all topics that a result's explanation knows, sorted."""
    return () if result.explanation is None else sorted(result.explanation.topic_names)


def read_response(message: pb.SearchResponse) -> SearchResponse:
    """Return a response as the collection made it."""
    names, of_topics = tuple(message.factor_names), frozenset(message.topic_names)
    growth = message.growth
    results = tuple(read_result(result, names, of_topics) for result in message.results)
    return SearchResponse(
        results=results,
        modulated=message.modulated,
        reason=message.reason if message.HasField("reason") else None,
        coarse_k=message.coarse_k,
        candidates=message.candidates,
        space_id=message.space_id,
        model_id=message.model_id,
        unusable=dict(message.unusable),
        timings=dict(message.timings_ms),
        steer=dict(message.steer),
        growth=WindowGrowth(tuple(growth.windows), growth.kept, growth.reason) if message.HasField("growth") else None,
        plan=_read_plan(message.plan) if message.HasField("plan") else None,
        trace=_read_trace(message.trace, results) if message.trace else None,
        topics=_read_topics(message.topics),
    )


def _read_plan(message: pb.QueryPlan) -> QueryPlan:
    return QueryPlan(
        parse_filter(message.database) if message.database else None,
        parse_filter(message.here) if message.here else None,
        message.payload_filter,
        message.window,
        message.largest_window,
    )


def _read_trace(stages: Sequence[pb.TraceStage], results: Sequence[SearchResult]) -> StepTrace:
    return StepTrace(
        tuple(stage.name for stage in stages),
        tuple(result.id for result in results),
        tuple(tuple(stage.scores) for stage in stages),
        tuple(tuple(stage.ranks) for stage in stages),
    )


def _topic_messages(matches: Sequence[TopicMatch]) -> list[pb.TopicMatch]:
    return [pb.TopicMatch(name=match.name, similarity=match.similarity) for match in matches]


def _read_topics(messages: Sequence[pb.TopicMatch]) -> tuple[TopicMatch, ...]:
    return tuple(TopicMatch(message.name, message.similarity) for message in messages)


def result_message(result: SearchResult) -> pb.Result:
    """Turn one result into a message."""
    return pb.Result(
        id=id_message(result.id),
        rank=result.rank,
        score=result.score,
        base_rank=result.base_rank,
        base_score=result.base_score,
        modulated=result.modulated,
        reason=result.reason,
        payload_json=_payload_json(result.payload),
        factors=result.factors.values(),
        explanation=_explanation_message(result.explanation),
    )


def _payload_json(payload: Payload) -> str:
    try:
        return _encode(payload)
    except ValueError:  # NaN or infinity, which few payloads hold
        return _encode(finite(payload))


def _explanation_message(explanation: Explanation | None) -> pb.Explanation | None:
    if explanation is None:
        return None
    return pb.Explanation(
        residual=explanation.residual,
        contributions=explanation.contributions,
        prominence=explanation.prominence,
        topics=_topic_messages(explanation.topics),
    )


def read_result(message: pb.Result, names: tuple[str, ...], of_topics: frozenset[str]) -> SearchResult:
    """Return one result; the names are those of the first factors, and of all topics that were asked for."""
    explanation = None
    if message.HasField("explanation"):
        parts = message.explanation
        explanation = Explanation(
            parts.residual,
            tuple(parts.contributions[:]),
            names,
            tuple(parts.prominence[:]),
            _read_topics(parts.topics),
            of_topics,
        )
    return SearchResult(
        id=read_id(message.id),
        rank=message.rank,
        score=message.score,
        base_rank=message.base_rank,
        base_score=message.base_score,
        modulated=message.modulated,
        reason=message.reason if message.HasField("reason") else None,
        payload=json.loads(message.payload_json),
        factors=_factors(names, message.factors[:]),
        explanation=explanation,
    )


def _factors(names: tuple[str, ...], scores: Sequence[float]) -> Mapping[str, float]:
    return dict(zip(names, scores, strict=True)) if scores else {}

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PointId(_message.Message):
    __slots__ = ("number", "text", "negative")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    number: int
    text: str
    negative: int
    def __init__(self, number: _Optional[int] = ..., text: _Optional[str] = ..., negative: _Optional[int] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("text", "vector")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    text: str
    vector: Vector
    def __init__(self, text: _Optional[str] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("limit", "offset", "coarse_k", "payload_filter", "factor_filter", "only", "steer", "max_coarse_k", "threshold", "explain", "plan", "modulate", "passes", "trace", "topics")
    class SteerEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COARSE_K_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FILTER_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FILTER_FIELD_NUMBER: _ClassVar[int]
    ONLY_FIELD_NUMBER: _ClassVar[int]
    STEER_FIELD_NUMBER: _ClassVar[int]
    MAX_COARSE_K_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MODULATE_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    limit: int
    offset: int
    coarse_k: int
    payload_filter: str
    factor_filter: str
    only: str
    steer: _containers.ScalarMap[str, float]
    max_coarse_k: int
    threshold: float
    explain: bool
    plan: bool
    modulate: bool
    passes: int
    trace: bool
    topics: bool
    def __init__(self, limit: _Optional[int] = ..., offset: _Optional[int] = ..., coarse_k: _Optional[int] = ..., payload_filter: _Optional[str] = ..., factor_filter: _Optional[str] = ..., only: _Optional[str] = ..., steer: _Optional[_Mapping[str, float]] = ..., max_coarse_k: _Optional[int] = ..., threshold: _Optional[float] = ..., explain: _Optional[bool] = ..., plan: _Optional[bool] = ..., modulate: _Optional[bool] = ..., passes: _Optional[int] = ..., trace: _Optional[bool] = ..., topics: _Optional[bool] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("collection", "query", "options")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: Query
    options: SearchOptions
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class TopicMatch(_message.Message):
    __slots__ = ("name", "similarity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    similarity: float
    def __init__(self, name: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("residual", "contributions", "prominence", "topics")
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    PROMINENCE_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    residual: float
    contributions: _containers.RepeatedScalarFieldContainer[float]
    prominence: _containers.RepeatedScalarFieldContainer[float]
    topics: _containers.RepeatedCompositeFieldContainer[TopicMatch]
    def __init__(self, residual: _Optional[float] = ..., contributions: _Optional[_Iterable[float]] = ..., prominence: _Optional[_Iterable[float]] = ..., topics: _Optional[_Iterable[_Union[TopicMatch, _Mapping]]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "rank", "score", "base_rank", "base_score", "modulated", "reason", "payload_json", "factors", "explanation")
    ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BASE_RANK_FIELD_NUMBER: _ClassVar[int]
    BASE_SCORE_FIELD_NUMBER: _ClassVar[int]
    MODULATED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    id: PointId
    rank: int
    score: float
    base_rank: int
    base_score: float
    modulated: bool
    reason: str
    payload_json: str
    factors: _containers.RepeatedScalarFieldContainer[float]
    explanation: Explanation
    def __init__(self, id: _Optional[_Union[PointId, _Mapping]] = ..., rank: _Optional[int] = ..., score: _Optional[float] = ..., base_rank: _Optional[int] = ..., base_score: _Optional[float] = ..., modulated: _Optional[bool] = ..., reason: _Optional[str] = ..., payload_json: _Optional[str] = ..., factors: _Optional[_Iterable[float]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class WindowGrowth(_message.Message):
    __slots__ = ("windows", "kept", "reason")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    windows: _containers.RepeatedScalarFieldContainer[int]
    kept: int
    reason: str
    def __init__(self, windows: _Optional[_Iterable[int]] = ..., kept: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TraceStage(_message.Message):
    __slots__ = ("name", "scores", "ranks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    scores: _containers.RepeatedScalarFieldContainer[float]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., scores: _Optional[_Iterable[float]] = ..., ranks: _Optional[_Iterable[int]] = ...) -> None: ...

class QueryPlan(_message.Message):
    __slots__ = ("database", "here", "payload_filter", "window", "largest_window")
    DATABASE_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FILTER_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LARGEST_WINDOW_FIELD_NUMBER: _ClassVar[int]
    database: str
    here: str
    payload_filter: bool
    window: int
    largest_window: int
    def __init__(self, database: _Optional[str] = ..., here: _Optional[str] = ..., payload_filter: _Optional[bool] = ..., window: _Optional[int] = ..., largest_window: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results", "modulated", "reason", "coarse_k", "candidates", "space_id", "model_id", "unusable", "timings_ms", "steer", "growth", "plan", "factor_names", "trace", "topics", "topic_names")
    class UnusableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TimingsMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class SteerEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODULATED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COARSE_K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    UNUSABLE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    STEER_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FACTOR_NAMES_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    TOPIC_NAMES_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    modulated: bool
    reason: str
    coarse_k: int
    candidates: int
    space_id: str
    model_id: str
    unusable: _containers.ScalarMap[str, int]
    timings_ms: _containers.ScalarMap[str, float]
    steer: _containers.ScalarMap[str, float]
    growth: WindowGrowth
    plan: QueryPlan
    factor_names: _containers.RepeatedScalarFieldContainer[str]
    trace: _containers.RepeatedCompositeFieldContainer[TraceStage]
    topics: _containers.RepeatedCompositeFieldContainer[TopicMatch]
    topic_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., modulated: _Optional[bool] = ..., reason: _Optional[str] = ..., coarse_k: _Optional[int] = ..., candidates: _Optional[int] = ..., space_id: _Optional[str] = ..., model_id: _Optional[str] = ..., unusable: _Optional[_Mapping[str, int]] = ..., timings_ms: _Optional[_Mapping[str, float]] = ..., steer: _Optional[_Mapping[str, float]] = ..., growth: _Optional[_Union[WindowGrowth, _Mapping]] = ..., plan: _Optional[_Union[QueryPlan, _Mapping]] = ..., factor_names: _Optional[_Iterable[str]] = ..., trace: _Optional[_Iterable[_Union[TraceStage, _Mapping]]] = ..., topics: _Optional[_Iterable[_Union[TopicMatch, _Mapping]]] = ..., topic_names: _Optional[_Iterable[str]] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("collection", "queries", "options")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    options: SearchOptions
    def __init__(self, collection: _Optional[str] = ..., queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("index", "response")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    index: int
    response: SearchResponse
    def __init__(self, index: _Optional[int] = ..., response: _Optional[_Union[SearchResponse, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("collection", "query", "id", "options")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: Query
    id: PointId
    options: SearchOptions
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[_Union[Query, _Mapping]] = ..., id: _Optional[_Union[PointId, _Mapping]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("result", "factor_names", "space_id", "model_id", "topic_names")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FACTOR_NAMES_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_NAMES_FIELD_NUMBER: _ClassVar[int]
    result: Result
    factor_names: _containers.RepeatedScalarFieldContainer[str]
    space_id: str
    model_id: str
    topic_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, result: _Optional[_Union[Result, _Mapping]] = ..., factor_names: _Optional[_Iterable[str]] = ..., space_id: _Optional[str] = ..., model_id: _Optional[str] = ..., topic_names: _Optional[_Iterable[str]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("id", "base_score", "code_text", "vector", "code_row")
    ID_FIELD_NUMBER: _ClassVar[int]
    BASE_SCORE_FIELD_NUMBER: _ClassVar[int]
    CODE_TEXT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    CODE_ROW_FIELD_NUMBER: _ClassVar[int]
    id: PointId
    base_score: float
    code_text: str
    vector: bytes
    code_row: Vector
    def __init__(self, id: _Optional[_Union[PointId, _Mapping]] = ..., base_score: _Optional[float] = ..., code_text: _Optional[str] = ..., vector: _Optional[bytes] = ..., code_row: _Optional[_Union[Vector, _Mapping]] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("collection", "query", "candidates", "options")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    query: Vector
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    options: SearchOptions
    def __init__(self, collection: _Optional[str] = ..., query: _Optional[_Union[Vector, _Mapping]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class FactorsRequest(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    def __init__(self, collection: _Optional[str] = ...) -> None: ...

class Factor(_message.Message):
    __slots__ = ("name", "quantiles", "held_out_auc")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_AUC_FIELD_NUMBER: _ClassVar[int]
    name: str
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    held_out_auc: float
    def __init__(self, name: _Optional[str] = ..., quantiles: _Optional[_Iterable[float]] = ..., held_out_auc: _Optional[float] = ...) -> None: ...

class CollectionFactors(_message.Message):
    __slots__ = ("collection", "metric", "dim", "num_factors", "space_id", "model_id", "active", "searchable", "factors")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    NUM_FACTORS_FIELD_NUMBER: _ClassVar[int]
    SPACE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    SEARCHABLE_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    metric: str
    dim: int
    num_factors: int
    space_id: str
    model_id: str
    active: bool
    searchable: bool
    factors: _containers.RepeatedCompositeFieldContainer[Factor]
    def __init__(self, collection: _Optional[str] = ..., metric: _Optional[str] = ..., dim: _Optional[int] = ..., num_factors: _Optional[int] = ..., space_id: _Optional[str] = ..., model_id: _Optional[str] = ..., active: _Optional[bool] = ..., searchable: _Optional[bool] = ..., factors: _Optional[_Iterable[_Union[Factor, _Mapping]]] = ...) -> None: ...

class FactorsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[CollectionFactors]
    def __init__(self, collections: _Optional[_Iterable[_Union[CollectionFactors, _Mapping]]] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("rank", "base_rank", "gain")
    RANK_FIELD_NUMBER: _ClassVar[int]
    BASE_RANK_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    rank: int
    base_rank: int
    gain: float
    def __init__(self, rank: _Optional[int] = ..., base_rank: _Optional[int] = ..., gain: _Optional[float] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("collection", "relevant")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    RELEVANT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    relevant: _containers.RepeatedCompositeFieldContainer[Judgement]
    def __init__(self, collection: _Optional[str] = ..., relevant: _Optional[_Iterable[_Union[Judgement, _Mapping]]] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

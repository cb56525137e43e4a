"""A stand-in for a Qdrant server: the real protocol over a real gRPC port, with qdrant-client's local mode behind it.

It is not Qdrant. It shows that our requests survive the wire, lets tests look at them, and answers with faults on
demand; what a real server makes of a request is tested against one, where there is one.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as pb
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

VERSION = "1.19.0"


@dataclass
class Fault:
    """What the next call of a method gets instead of its answer."""

    code: grpc.StatusCode | None = None
    details: str = ""
    retry_after: int | None = None
    delay: float = 0.0


class WireServer:
    """Listens on a free port of this machine until it is closed.

    Attributes
    ----------
    requests
        Name and message of every request, in order.
    faults
        By method name, faults that the next calls get.
    strict
        By collection in strict mode, its limits beside the refusal of filters without an index; requests beyond them
        are refused as the server's source has it (lib/collection/src/operations/verification, 1.13 to 1.19).
    forgets_metadata
        Whether it ignores metadata, as servers before 1.16 do.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.faults: dict[str, list[Fault]] = {}
        self.indexed: dict[str, set[str]] = {}
        self.strict: dict[str, dict[str, Any]] = {}
        self.forgets_metadata = False
        self.local = QdrantClient(":memory:")
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
        pb.add_PointsServicer_to_server(_servicer(pb.PointsServicer, self, _POINTS), self._server)
        pb.add_CollectionsServicer_to_server(_servicer(pb.CollectionsServicer, self, _COLLECTIONS), self._server)
        pb.add_QdrantServicer_to_server(_servicer(pb.QdrantServicer, self, _ROOT), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def url(self) -> str:
        return f"qdrant://127.0.0.1:{self.port}"

    def sent(self, method: str) -> list[Any]:
        return [request for name, request in self.requests if name == method]

    def answer(self, method: str, handler: Callable[..., Any], request: Any, context: Any) -> Any:
        self.requests.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        waiting = self.faults.get(method)
        if waiting:
            fault = waiting.pop(0)
            time.sleep(fault.delay)
            if fault.retry_after is not None:
                context.set_trailing_metadata((("retry-after", str(fault.retry_after)),))
            if fault.code is not None:
                context.abort(fault.code, fault.details)
        refusal = _refusal(self, method, request)
        if refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {refusal}")
        try:
            with self._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # local mode warns that it has no index and no search parameters
                return handler(self, request)
        except KeyError as exc:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: No point with id {exc} found")
        except ValueError as exc:
            text = str(exc)
            if text.endswith("not found"):
                name = text.split()[1]
                context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")
            if text.endswith("already exists"):
                name = text.split()[1]
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: Collection `{name}` already exists!")
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Wrong input: {text}")

    def close(self) -> None:
        self._server.stop(None).wait()
        self.local.close()


def _refusal(server: WireServer, method: str, request: Any) -> str | None:
    """Return why strict mode refuses a request; deadlines and sizes of conditions are bounded wherever they occur."""
    limits = server.strict.get(getattr(request, "collection_name", ""))
    if limits is None:
        return None
    indexed = server.indexed.get(request.collection_name, set())
    for limit, name, values in _sizes(method, request, indexed):
        for value in values:
            if value > limits.get(limit, value):
                return f'Limit exceeded {value} > {limits[limit]} for "{name}". Help: Reduce the "{name}" parameter'
    exact = method == "Count" and request.exact
    if exact and limits.get("search_allow_exact") is False:
        return "Exact search disabled!. Help: Set exact=false."
    for condition in _conditions(method, request):
        if condition.field.key and condition.field.key not in indexed:
            return f'Index required but not found for "{condition.field.key}". Help: Create an index for this key'
    return None


def _sizes(method: str, request: Any, indexed: set[str]) -> list[tuple[str, str, list[int]]]:
    """Return what of a request is bounded: the limit's name in the configuration and in the answer, and values."""
    found = [
        ("max_timeout", "timeout", [getattr(request, "timeout", 0)]),
        ("condition_max_size", "condition", [len(one.has_id.has_id) for one in _conditions(method, request)]),
    ]
    if method in {"QueryBatch", "Scroll"}:
        reads = request.query_points if method == "QueryBatch" else [request]
        found.append(("max_query_limit", "limit", [read.limit for read in reads]))
    elif method == "Upsert":
        found.append(("upsert_max_batchsize", "upsert limit", [len(request.points)]))
    elif method == "UpdateBatch":
        changed = [len(one.update_vectors.points) for one in request.operations]
        found.append(("upsert_max_batchsize", "update limit", changed))
    elif method == "CreateFieldIndex":
        found.append(("max_payload_index_count", "payload index", [len({*indexed, request.field_name})]))
    return found


def _conditions(method: str, request: Any) -> list[Any]:
    if method not in {"QueryBatch", "Scroll", "Count", "Delete"}:
        return []
    held = request.points if method == "Delete" else request
    filters = [query.filter for query in request.query_points] if method == "QueryBatch" else [held.filter]
    return [one for given in filters for one in (*given.must, *given.should, *given.must_not)]


def _servicer(base: type, server: WireServer, handlers: dict[str, Callable[..., Any]]) -> Any:
    def method(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        return lambda _self, request, context: server.answer(name, handler, request, context)

    return type(base.__name__, (base,), {name: method(name, handler) for name, handler in handlers.items()})()


def _done() -> Any:
    return pb.UpdateResult(operation_id=1, status=pb.UpdateStatus.Completed)


def _upsert(server: WireServer, request: Any) -> Any:
    server.local.upsert(request.collection_name, [GrpcToRest.convert_point_struct(point) for point in request.points])
    return pb.PointsOperationResponse(result=_done())


def _update_batch(server: WireServer, request: Any) -> Any:
    operations = [GrpcToRest.convert_points_update_operation(operation) for operation in request.operations]
    server.local.batch_update_points(request.collection_name, operations)
    return pb.UpdateBatchResponse(result=[_done() for _ in operations])


def _query_batch(server: WireServer, request: Any) -> Any:
    queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
    replies = server.local.query_batch_points(request.collection_name, queries)
    return pb.QueryBatchResponse(
        result=[
            pb.BatchResult(result=[RestToGrpc.convert_scored_point(point) for point in reply.points])
            for reply in replies
        ]
    )


def _get(server: WireServer, request: Any) -> Any:
    records = server.local.retrieve(
        request.collection_name,
        [GrpcToRest.convert_point_id(point) for point in request.ids],
        with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
        with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
    )
    return pb.GetResponse(result=[_record(record) for record in records])


def _scroll(server: WireServer, request: Any) -> Any:
    records, following = server.local.scroll(
        request.collection_name,
        scroll_filter=GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None,
        limit=request.limit,
        offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
        with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
        with_vectors=GrpcToRest.convert_with_vectors_selector(request.with_vectors),
    )
    return pb.ScrollResponse(
        result=[_record(record) for record in records],
        next_page_offset=None if following is None else RestToGrpc.convert_extended_point_id(following),
    )


def _record(record: Any) -> Any:
    record.payload = record.payload or {}
    return RestToGrpc.convert_retrieved_point(record)


def _count(server: WireServer, request: Any) -> Any:
    condition = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
    number = server.local.count(request.collection_name, condition, exact=True).count
    return pb.CountResponse(result=pb.CountResult(count=number))


def _delete(server: WireServer, request: Any) -> Any:
    server.local.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
    return pb.PointsOperationResponse(result=_done())


def _create_index(server: WireServer, request: Any) -> Any:
    server.local.get_collection(request.collection_name)
    server.indexed.setdefault(request.collection_name, set()).add(request.field_name)
    return pb.PointsOperationResponse(result=_done())


def _delete_index(server: WireServer, request: Any) -> Any:
    server.indexed.get(request.collection_name, set()).discard(request.field_name)
    return pb.PointsOperationResponse(result=_done())


def _delete_vector(server: WireServer, request: Any) -> Any:
    server.local.delete_vector_name(request.collection_name, request.vector_name)
    return pb.PointsOperationResponse(result=_done())


def _create_vector(server: WireServer, request: Any) -> Any:
    dense = request.dense_config
    config = models.DenseVectorConfig(size=dense.size, distance=GrpcToRest.convert_distance(dense.distance))
    named = models.DenseVectorNameConfig(dense=config)
    server.local.create_vector_name(request.collection_name, request.vector_name, named)
    return pb.PointsOperationResponse(result=_done())


def _create(server: WireServer, request: Any) -> Any:
    vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
    server.local.create_collection(request.collection_name, vectors_config=vectors)
    return pb.CollectionOperationResponse(result=True)


def _describe(server: WireServer, request: Any) -> Any:
    info = server.local.get_collection(request.collection_name)
    info.payload_schema = {
        key: models.PayloadIndexInfo(data_type=models.PayloadSchemaType.FLOAT, points=0)
        for key in server.indexed.get(request.collection_name, ())
    }
    if request.collection_name in server.strict:
        info.config.strict_mode_config = models.StrictModeConfigOutput(
            enabled=True, unindexed_filtering_retrieve=False, **server.strict[request.collection_name]
        )
    return pb.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))


def _update_collection(server: WireServer, request: Any) -> Any:
    if not server.forgets_metadata:
        server.local.update_collection(request.collection_name, metadata=GrpcToRest.convert_payload(request.metadata))
    return pb.CollectionOperationResponse(result=True)


def _drop(server: WireServer, request: Any) -> Any:
    server.indexed.pop(request.collection_name, None)
    return pb.CollectionOperationResponse(result=server.local.delete_collection(request.collection_name))


_POINTS = {
    "Upsert": _upsert,
    "UpdateBatch": _update_batch,
    "QueryBatch": _query_batch,
    "Get": _get,
    "Scroll": _scroll,
    "Count": _count,
    "Delete": _delete,
    "CreateFieldIndex": _create_index,
    "DeleteFieldIndex": _delete_index,
    "CreateVectorName": _create_vector,
    "DeleteVectorName": _delete_vector,
}
_COLLECTIONS = {"Create": _create, "Get": _describe, "Update": _update_collection, "Delete": _drop}
_ROOT = {"HealthCheck": lambda _server, _request: pb.HealthCheckReply(title="stand-in", version=VERSION)}

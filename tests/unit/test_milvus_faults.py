from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from pymilvus.exceptions import DataNotMatchException, MilvusException
from pymilvus.grpc_gen import milvus_pb2

from imrnn_vdb.backend import ConnectionOptions
from imrnn_vdb.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    UnsupportedError,
)
from imrnn_vdb.layout import Layout
from imrnn_vdb.urls import parse_url
from imrnn_vdb_milvus import MilvusBackend
from imrnn_vdb_milvus.faults import NotLoadedError, RefusedConditionError, translate


class Rpc(grpc.RpcError):
    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__()
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status


def caused(exc: Exception, cause: BaseException) -> Exception:
    exc.__cause__ = cause
    return exc


class Retriable(MilvusException):
    """What the server calls worth a retry; pymilvus says so from 3.0 on."""

    retriable = True


STATUS = grpc.StatusCode
CASES = [
    (MilvusException(100, "collection not found", 4), CollectionNotFoundError, False),
    (MilvusException(1, "collection 'x' already exists"), CollectionExistsError, False),
    (MilvusException(65535, "create duplicate collection with different parameters"), CollectionExistsError, False),
    (MilvusException(101, "collection not loaded"), NotLoadedError, False),
    (MilvusException(503, "channel not available"), StoreUnavailableError, True),
    (MilvusException(8, "rate limit"), StoreUnavailableError, True),
    (MilvusException(2, "Fail connecting to server"), StoreUnavailableError, True),
    (Retriable(1, "anything"), StoreUnavailableError, True),
    (MilvusException(1, "[search] Retry timeout: 3s"), StoreTimeoutError, True),
    (MilvusException(STATUS.UNAVAILABLE, "Retry run out"), StoreUnavailableError, True),
    (MilvusException(65535, "cannot parse expression: (("), RefusedConditionError, False),
    (MilvusException(1100, 'cannot parse expression: a == "already exist'), RefusedConditionError, False),
    (MilvusException(503, "cannot parse expression: (("), StoreUnavailableError, True),
    (MilvusException(6, "field 'nope' is not in the schema", 6), RefusedConditionError, False),
    (MilvusException(6, "cross cluster routing[expectedCluster=a][actualCluster=b]"), StoreError, False),
    (DataNotMatchException(message="missed a field"), StoreError, False),
    (Rpc(STATUS.DEADLINE_EXCEEDED), StoreTimeoutError, True),
    (Rpc(STATUS.UNAVAILABLE), StoreUnavailableError, True),
    (Rpc(STATUS.UNIMPLEMENTED), UnsupportedError, False),
    (Rpc(STATUS.UNAUTHENTICATED), StoreError, False),
    (Rpc(STATUS.RESOURCE_EXHAUSTED), StoreError, False),
    (Rpc(STATUS.INTERNAL), StoreError, False),
    (caused(MilvusException(1, "Unexpected error"), asyncio.TimeoutError()), StoreTimeoutError, True),
    (caused(MilvusException(1, "x"), Rpc(STATUS.DEADLINE_EXCEEDED)), StoreTimeoutError, True),
    (ConnectionRefusedError("no"), StoreUnavailableError, True),
    (TimeoutError(), StoreTimeoutError, True),
    (ValueError("odd"), StoreError, False),
]


@pytest.mark.parametrize(("exc", "expected", "transient"), CASES, ids=lambda value: repr(value)[:40])
def test_vendor_errors_become_ours(exc: Exception, expected: type[StoreError], transient: bool) -> None:
    found = translate(exc)
    assert type(found) is expected
    assert found.transient is transient
    assert str(found)


def test_a_privilege_that_is_lacking_is_named() -> None:
    """By a server as pymilvus reaches it: whether the status comes bare or wrapped is its affair."""
    denied = "PrivilegeQuery: permission deny to reader in the `default` database"

    class Denies(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            method = call.method.rpartition("/")[2]

            def answer(_: bytes, context: Any) -> bytes:
                if method != "Connect":
                    context.abort(STATUS.PERMISSION_DENIED, denied)
                return bytes(milvus_pb2.ConnectResponse(identifier=1).SerializeToString())

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), [Denies()])
    url = parse_url(f"milvus://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}/articles")
    server.start()
    connection = MilvusBackend().connect(url, ConnectionOptions(api_key="reader:s3cret"), asynchronous=False)
    with pytest.raises(StoreError, match=denied) as caught:
        connection.run(MilvusBackend().store(connection, "articles", Layout("0a1b2c3d", 3)).count())
    assert "s3cret" not in str(caught.value)
    connection.close()
    server.stop(None)


def test_an_exception_that_is_its_own_cause_ends() -> None:
    exc = MilvusException(65535, "loop")
    assert "loop" in str(translate(caused(exc, exc)))


def test_long_texts_are_cut() -> None:
    assert len(str(translate(MilvusException(65535, "x" * 9999)))) < 400

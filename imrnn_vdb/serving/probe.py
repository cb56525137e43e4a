"""Asks a service whether it is healthy: ``python -m imrnn_vdb.serving.probe HOST:PORT [CA.pem]``; exit code 0 if so."""

from __future__ import annotations

import sys
from pathlib import Path

_TIMEOUT_S = 2.0


def healthy(target: str, ca: str | None = None) -> bool:
    """Say whether the health service at ``HOST:PORT`` answers SERVING; ``ca`` is a PEM file, for TLS."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if ca is None:
        channel = grpc.insecure_channel(target)
    else:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(Path(ca).read_bytes()))
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if healthy(*sys.argv[1:3]) else 1)

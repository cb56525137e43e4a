"""Asks a service whether it is healthy; exit code 0 if so.

``python -m imrnn_vdb.serving.probe HOST:PORT [CA.pem [CERTIFICATE.pem KEY.pem]]``
"""

from __future__ import annotations

import sys

from imrnn_vdb.serving.tls import channel_credentials

_TIMEOUT_S = 2.0


def healthy(target: str, ca: str | None = None, certificate: str | None = None, key: str | None = None) -> bool:
    """Say whether the health service at ``HOST:PORT`` answers SERVING.

    Parameters
    ----------
    target
        Its address.
    ca
        PEM file, for TLS; None for none.
    certificate, key
        PEM files, for a service that wants a certificate of its clients.

    Raises
    ------
    InvalidInputError
        If a file cannot be read or used.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    if ca is None and certificate is None and key is None:
        channel = grpc.insecure_channel(target)
    else:
        channel = grpc.secure_channel(target, channel_credentials(ca, certificate, key))
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if healthy(*sys.argv[1:5]) else 1)

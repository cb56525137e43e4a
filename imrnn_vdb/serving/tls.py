"""TLS on both sides: PEM files as gRPC's credentials, with errors that say which file is wrong.

gRPC itself tells of a file that it cannot use as of a port that it cannot listen on, or a peer that does not answer.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imrnn_vdb.errors import InvalidInputError

if TYPE_CHECKING:
    from imrnn_vdb.serving.config import TLS

AnyPath = str | Path


def server_files(tls: TLS) -> tuple[tuple[bytes, bytes], bytes | None]:
    """Return key and certificate, and whom clients' certificates must be signed by; None where they need none.

    Raises
    ------
    InvalidInputError
        If a file cannot be read, or is not what it should be.
    """
    try:
        return _pair(tls.certificate, tls.key), _authorities(tls.client_ca or None)
    except InvalidInputError as exc:
        raise InvalidInputError(f"[tls]: {exc}") from exc


def server_credentials(tls: TLS) -> Any:
    """Return what a server listens with; raises as :func:`server_files` does."""
    import grpc

    pair, roots = server_files(tls)
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


def channel_credentials(
    ca: AnyPath | None = None, certificate: AnyPath | None = None, key: AnyPath | None = None
) -> Any:
    """Return what a client connects with; None for ``ca`` trusts whom the system trusts.

    Raises
    ------
    InvalidInputError
        If a file cannot be read, or is not what it should be, or if there is a certificate without a key, or a key
        without a certificate.
    """
    import grpc

    if (certificate is None) != (key is None):
        raise InvalidInputError("a client's certificate and its key are given together")
    own = _pair(certificate, key) if certificate is not None and key is not None else (None, None)
    return grpc.ssl_channel_credentials(_authorities(ca), *own)


def _pair(certificate: AnyPath, key: AnyPath) -> tuple[bytes, bytes]:
    """Return key and certificate chain, as gRPC wants them."""
    read = _read(key), _read(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # how long a key must be is gRPC's matter
    try:
        context.load_cert_chain(certificate, key, password="")  # nobody is asked; gRPC takes no such key
    except (ssl.SSLError, ValueError) as exc:
        raise InvalidInputError(f"{certificate} and {key} are no certificate and its key in PEM: {exc}") from exc
    return read


def _authorities(path: AnyPath | None) -> bytes | None:
    if path is None:
        return None
    read = _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, ValueError) as exc:
        raise InvalidInputError(f"{path} holds no certificates in PEM: {exc}") from exc
    return read


def _read(path: AnyPath) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise InvalidInputError(f"{path} cannot be read: {exc}") from exc

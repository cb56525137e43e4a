"""Collection URLs: ``qdrant://host:6334/NAME``, ``qdrant+edge:PATH/NAME``, ``milvus+lite:FILE.db/NAME`` and others."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from imrnn_vdb.errors import InvalidInputError

_EXAMPLES = (
    "qdrant://localhost:6334/articles, qdrant+edge:./data/articles, qdrant+local:./data/articles, "
    "milvus://localhost:19530/articles or milvus+lite:./data.db/articles"
)


@dataclass(frozen=True, slots=True)
class CollectionURL:
    """Where a collection lives.

    Attributes
    ----------
    scheme
        For example ``"qdrant"`` or ``"milvus+lite"``.
    host, port
        Of a server; empty and None for embedded engines.
    path
        Folder or file of an embedded engine; empty for servers.
    collection
        The last segment.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    collection: str

    @property
    def embedded(self) -> bool:
        """Whether the engine runs in this process."""
        return not self.host

    def __str__(self) -> str:
        if self.embedded:
            return f"{self.scheme}:{self.path}/{self.collection}"
        port = f":{self.port}" if self.port else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}/{self.collection}"


def is_this_machine(host: str) -> bool:
    """Say whether a host is ``localhost`` or a loopback address (127.0.0.0/8, ::1, with brackets or without)."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


def parse_url(url: str) -> CollectionURL:
    """Parse a collection URL.

    Raises
    ------
    InvalidInputError
        If the form is another. A URL with a user name, a password or a query is refused without repeating it: keys are
        given by keyword or environment.
    """
    scheme, colon, rest = url.partition(":")
    is_port = "+" not in scheme and rest[:1].isdigit()  # as in HOST:PORT/NAME
    if not colon or is_port or not scheme.replace("+", "").isalnum():
        raise InvalidInputError(f"a collection URL starts with a scheme: {_EXAMPLES}")
    if not rest.startswith("//"):
        if "+" not in scheme:
            raise InvalidInputError(f"the URL of a server is written {scheme}://HOST:PORT/NAME; {_EXAMPLES}")
        return _embedded(scheme, rest)
    authority, _, collection = rest[2:].rpartition("/")
    if "@" in rest:
        raise InvalidInputError("a collection URL carries no user name or key: use api_key= or IMRNN_API_KEY")
    if "/" in authority or set("?#") & set(rest):  # not repeated: a key may stand there
        raise InvalidInputError(
            "the URL of a server is host, port, one slash and the collection: a key goes into api_key= or "
            "IMRNN_API_KEY, and another database of Milvus into a client of your own, for from_client"
        )
    host, port = _authority(authority)
    if not host or not collection:
        raise InvalidInputError(f"{url!r} names no server or no collection; write for example {_EXAMPLES}")
    return CollectionURL(scheme, host, port, "", collection)


def _embedded(scheme: str, rest: str) -> CollectionURL:
    path, slash, collection = rest.rpartition("/")
    if not slash or not collection or not (path or rest.startswith("/")):
        raise InvalidInputError(f"{scheme}:{rest!r} needs a path and, after the last slash, a collection: {_EXAMPLES}")
    return CollectionURL(scheme, "", None, path or "/", collection)


def _authority(authority: str) -> tuple[str, int | None]:
    bracket = authority.rfind("]")
    host, colon, port = authority.rpartition(":") if authority.rfind(":") > bracket else (authority, "", "")
    if not colon:
        return authority.strip("[]"), None
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidInputError(f"{port!r} is no port: a number from 1 to 65535 follows the host's colon")
    return host.strip("[]"), int(port)

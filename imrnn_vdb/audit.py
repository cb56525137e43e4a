"""The audit log: on request, each search and each reranking as one JSON line, and whether what it says still holds.

A line holds what the scores were computed from, apart from the codes, which lie in the database: the query's code, the
candidates with their base scores, and the fingerprints of space and model. So scores can be computed again later, and a
code, a point or a model that has changed since shows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imrnn_vdb.errors import AuditError, InvalidInputError
from imrnn_vdb.filter_text import format_filter

if TYPE_CHECKING:
    from imrnn_vdb.codec import Codes, FloatArray
    from imrnn_vdb.options import SearchRequest
    from imrnn_vdb.results import SearchResponse
    from imrnn_vdb.windows import Window

VERSION = 2
REDACTABLE = ("query", "query_code", "request", "ids", "results")
"""Fields that can be left out: the query's text or hash; its code; filters, steering and limits; all point ids; the
results with their contributions. Scores, fingerprints and time always stay."""
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
_log = logging.getLogger("imrnn_vdb")


@dataclass(frozen=True, slots=True)
class AuditLog:
    """A file that searches are appended to, one JSON line each.

    Made with permissions for its owner alone; one that others can read is refused. A line is written by one call, under
    a lock, so that threads and processes can share a file. A line that cannot be written whole is taken back.

    Parameters
    ----------
    path
        The file. It is opened for each write, so it may be rotated at any time; a symbolic link is refused.
    query
        What is kept of a query: its ``"text"``, or a ``"hash"`` (SHA-256) by which equal queries are recognised. Of a
        vector there is no text, and the hash is of its float32 bytes.
    key
        Makes the hash an HMAC-SHA256. Without a key, whoever can guess a query can recognise its hash.
    redact
        Names of :data:`REDACTABLE` that are left out. Without query code, request or ids, a line cannot be recomputed.
    required
        If True, a search whose line cannot be written raises :class:`AuditError`: no answer without a record. If False
        it answers, and the failure is logged as an error.

    Raises
    ------
    InvalidInputError
        For an unknown name in ``redact`` or another kind of ``query``.
    """

    path: Path
    query: Literal["text", "hash"] = "hash"
    key: bytes | None = field(default=None, repr=False)
    redact: Collection[str] = ()
    required: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "redact", frozenset(self.redact))
        unknown = sorted(set(self.redact) - set(REDACTABLE))
        if unknown:
            raise InvalidInputError(f"fields to redact are {', '.join(REDACTABLE)}, not {', '.join(unknown)}")
        if self.key is not None and not isinstance(self.key, bytes):
            raise InvalidInputError("the key of the hash is bytes, such as secrets.token_bytes(32)")
        if self.query not in ("text", "hash"):
            raise InvalidInputError(f"query is 'text' or 'hash', got {self.query!r}")

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write entries, as :func:`audit_entries` makes them, one line each.

        Raises
        ------
        AuditError
            If they cannot be written and ``required`` is set.
        """
        try:
            lines = [json.dumps(self._kept(entry), ensure_ascii=False, allow_nan=False) + "\n" for entry in entries]
            _write(self.path, "".join(lines).encode())
        except (OSError, ValueError) as exc:
            message = f"the audit log {self.path} could not be written: {exc}"
            if self.required:
                raise AuditError(f"{message}; the search is not answered, since it would leave no record") from exc
            _log.error("%s; the search is answered without a record", message)

    def _kept(self, entry: dict[str, Any]) -> dict[str, Any]:
        kept = dict(entry)
        text, vector = kept.pop("text"), kept.pop("vector")
        shown = self.query == "text" and text is not None
        kept["query"] = {"text": text} if shown else {"hash": self._hash(text, vector)}
        for name in sorted(self.redact):
            if name == "ids":
                kept["candidates"] = {**kept["candidates"], "ids": None}
                kept["results"] = [{**result, "id": None} for result in kept["results"] or ()]
            else:
                kept[name] = None
        kept["redacted"] = sorted(self.redact)
        return kept

    def _hash(self, text: str | None, vector: FloatArray) -> str:
        data = text.encode() if text is not None else vector.astype("<f4").tobytes()
        if self.key is not None:
            return hmac.new(self.key, data, hashlib.sha256).hexdigest()
        return hashlib.sha256(data).hexdigest()


def as_audit_log(value: AuditLog | str | Path | None) -> AuditLog | None:
    """Accept a log, or the path of one with default settings; `InvalidInputError` for anything else."""
    if isinstance(value, str | Path):
        return AuditLog(Path(value))
    if value is not None and not isinstance(value, AuditLog):
        raise InvalidInputError(f"audit is an AuditLog, the path of one, or None, got {value!r}")
    return value


def audit_entries(
    collection: str,
    request: SearchRequest,
    queries: tuple[Sequence[str | None], FloatArray, Codes],
    windows: Sequence[Window],
    responses: Sequence[SearchResponse],
    kind: Literal["search", "rerank"] = "search",
) -> list[dict[str, Any]]:
    """Say what n searches were computed from, and what came out.

    Parameters
    ----------
    collection
        Its name.
    request
        What was asked.
    queries
        n texts, None for a vector that came as such; their vectors, shape (n, d); their codes.
    windows, responses
        n each.
    kind
        Whether the candidates were searched for, or given by their ids.
    """
    texts, vectors, codes = queries
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return [
        {
            "version": VERSION,
            "kind": kind,
            "time": now,
            "collection": collection,
            "space_id": response.space_id,
            "model_id": response.model_id,
            "modulated": response.modulated,
            "reason": response.reason,
            "text": texts[i],
            "vector": vectors[i],
            "query_code": {"direction": codes.directions[i].tolist(), "norm": float(codes.norms[i])},
            "request": _asked(request),
            "candidates": {
                "ids": list(window.candidates.ids),
                "base_scores": window.candidates.base_scores.tolist(),
                "scores": window.refined.scored.scores.tolist(),
            },
            "results": _results(window, response),
        }
        for i, (window, response) in enumerate(zip(windows, responses, strict=True))
    ]


def read_audit(path: str | Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Read a log: the number of each line, 1-based, and what it holds; None for a line that is no entry.

    Raises
    ------
    InvalidInputError
        If the file cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                yield number, _entry(line)
    except OSError as exc:
        raise InvalidInputError(f"the audit log {path} cannot be read: {exc}") from exc


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and entry.get("version") == VERSION else None


def _finite(number: str) -> float:
    """Read a number; NaN and infinity, which no line is written with, would compare as equal to anything."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no finite number")
    return value


def _asked(request: SearchRequest) -> dict[str, Any]:
    condition = request.condition
    return {
        "limit": request.limit,
        "offset": request.offset,
        "threshold": request.threshold,
        "passes": request.passes,
        "factor_filter": None if condition is None else format_filter(condition),
        "payload_filter": request.payload_filter is not None,  # what it says is the database's and may be private
        "steer": dict(request.steer or {}),
    }


def _results(window: Window, response: SearchResponse) -> list[dict[str, Any]]:
    row_of = {point_id: row for row, point_id in enumerate(window.candidates.ids)}
    scored = window.refined.scored
    return [
        {
            "id": result.id,
            "rank": result.rank,
            "score": result.score,
            "residual": float(scored.residuals[row_of[result.id]]),
            "contributions": scored.contributions[row_of[result.id]].tolist(),
        }
        for result in response
    ]


def _write(path: Path, data: bytes) -> None:
    """Append by one call, under a lock; a part of it is taken back."""
    import fcntl  # POSIX alone has it; nothing else of this package asks for that

    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(path, flags, _OWNER_ONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & ~stat.S_IFMT(found.st_mode) & ~_OWNER_ONLY:
            raise OSError(f"it must be a file that only its owner can read and write: chmod 600 {path}")
        if found.st_size and os.pread(file, 1, found.st_size - 1) != b"\n":
            data = b"\n" + data  # after a line that a crash of the machine cut short
        written = 0
        try:
            written = os.write(file, data)
        finally:
            if written < len(data):
                os.ftruncate(file, found.st_size)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written")
    finally:
        os.close(file)

"""Structured logs: one JSON object a line, with the ids of the requests on whose behalf something happened."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

REQUEST_IDS: ContextVar[tuple[str, ...]] = ContextVar("imrnn_request_ids", default=())
"""Ids of the requests that are answered now; several where they are answered as one."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, request ids, and what ``extra`` holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if ids := REQUEST_IDS.get():
            line["request_ids" if len(ids) > 1 else "request_id"] = list(ids) if len(ids) > 1 else ids[0]
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Writes a record for people, request ids at the end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        ids = REQUEST_IDS.get()
        return super().format(record) + (f" [{' '.join(ids)}]" if ids else "")


def log_to_stderr(style: str, level: str) -> None:
    """Send what this package logs to standard error, ``"text"`` or ``"json"``, from a level on.

    Other loggers are left alone. Called again, it replaces what it set up.
    """
    logger = logging.getLogger("imrnn_vdb")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False

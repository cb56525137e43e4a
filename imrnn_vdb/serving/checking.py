"""Checks what a configuration names, as far as that needs no database, no model and no port."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from imrnn_vdb.attach import Attachment
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.topics import as_topics
from imrnn_vdb.serving.hosted import open_audit
from imrnn_vdb.serving.instruments import Instruments
from imrnn_vdb.serving.tls import server_files
from imrnn_vdb.urls import parse_url

if TYPE_CHECKING:
    from imrnn_vdb.serving.config import CollectionConfig, ServiceConfig


def check_config(config: ServiceConfig) -> None:
    """Check token, TLS files, attachments, topics, audit logs, and what telemetry needs. Writes nothing.

    Raises
    ------
    InvalidInputError
        If one of them cannot be used; the message names its table.
    MissingExtraError
        If metrics or traces are asked for, and what they need is not installed.
    """
    config.token()
    Instruments.from_config(config.telemetry).close()
    if config.tls is not None:
        server_files(config.tls)
    for name, table in config.collections.items():
        try:
            _check(table)
        except InvalidInputError as exc:
            raise InvalidInputError(f"[collections.{name}]: {exc}") from exc


def _check(table: CollectionConfig) -> None:
    if table.attachment:
        if ":" in table.attachment and not Path(table.attachment).is_file():
            parse_url(table.attachment)  # it lies in the collection
        else:
            Attachment.load(table.attachment)
    if table.topics:
        as_topics(table.topics)
    if os.path.lexists(table.audit):
        open_audit(table)
    elif table.audit:
        _check_folder(Path(table.audit))


def _check_folder(log: Path) -> None:
    """Say whether the log could be made; made by who checks, it might belong to somebody else than the service."""
    folder = log.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInputError(f"the audit log {log} cannot be written: {folder} is no folder that can be written to")

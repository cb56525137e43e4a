"""``imrnn-vdb doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import console, exit_codes, json_option, model_option, print_json, url_options

if TYPE_CHECKING:
    from imrnn_vdb.attach import Attachment


@click.command()
@url_options
@model_option
@json_option
@exit_codes
def doctor(url: str, model: str, as_json: bool, attachment: Attachment | None = None, **options: Any) -> None:
    """Say what works with the collection at URL, what does not, and why. Changes nothing."""
    from rich.table import Table
    from rich.text import Text

    from imrnn_vdb.backend import connect
    from imrnn_vdb.doctor import diagnose
    from imrnn_vdb.options import Settings
    from imrnn_vdb.urls import parse_url

    settings = Settings(**options)
    where = parse_url(url)
    space = settings.load(model).space
    backend, connection = connect(where, settings.connection, asynchronous=False)
    try:
        diagnosis = connection.run(diagnose(backend, connection, where.collection, space, settings, attachment))
    finally:
        connection.close()
    if as_json:
        print_json(diagnosis.to_dict())
        return
    out = console()
    info = diagnosis.info
    out.print(f"{info.server}, collection {where.collection}: {info.count} points", markup=False)
    for name, field in info.vectors.items():
        quantized = ", quantised" if field.quantized else ""
        out.print(f"  vector {name or '(unnamed)'}: {field.dim} dimensions, {field.metric}{quantized}", markup=False)
    for setting, value in info.settings.items():
        out.print(f"  {setting}: {_shown(value)}", markup=False)
    if diagnosis.attached:
        out.print(f"  attached with: {diagnosis.attached.model}, {diagnosis.attached.space_id}", markup=False)
    sampled = sum(diagnosis.codes.values())
    if sampled:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(diagnosis.codes.items()))
        out.print(f"  factor codes of the first {sampled} points: {counts}", markup=False)
    if diagnosis.backfill:
        out.print(f"  backfill: {diagnosis.backfill}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("capability")
    table.add_column("status")
    table.add_column("why", overflow="fold")
    colours = {"works": "green", "fallback": "yellow", "no": "red"}
    for capability in diagnosis.capabilities:
        status = Text(capability.status, colours[capability.status])
        table.add_row(capability.name, status, Text(capability.why))
    out.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    return ", ".join(map(_shown, value)) or "none" if isinstance(value, list) else str(value)

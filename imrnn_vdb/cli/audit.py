"""``imrnn-vdb audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from imrnn_vdb.cli.common import FAILED, exit_codes, json_option, model_option, print_json, url_options


@click.group()
def audit() -> None:
    """Work with audit logs; `imrnn-vdb search --audit FILE` and `audit=` in Python write them."""


@audit.command()
@url_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@model_option
@json_option
@exit_codes
def verify(file: Path, as_json: bool, **options: Any) -> None:
    """Recompute the searches that FILE records, with the codes in the collection at URL now.

    Ends with 0 if every line holds, else with 1.
    """
    from imrnn_vdb.collection import IMRNNCollection

    with IMRNNCollection.open(**options) as collection:
        report = collection.verify_audit(file)
    if as_json:
        print_json(report.to_dict())
    else:
        for verdict in report.verdicts:
            if verdict.status != "holds":
                click.echo(f"line {verdict.line}: {verdict.status}: {verdict.reason}")
        click.echo(", ".join(f"{count} {status}" for status, count in report.counts.items()))
    if not report.holds:
        sys.exit(FAILED)

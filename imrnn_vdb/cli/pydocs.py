"""``imrnn-vdb pydocs``."""

from __future__ import annotations

from pathlib import Path

import click

from imrnn_vdb.cli.common import OutFolder, exit_codes, json_option, print_json


@click.command()
@click.option("--out", type=OutFolder(), required=True, help="Folder to write.")
@json_option
@exit_codes
def pydocs(out: Path, as_json: bool) -> None:
    """Export the labelled set `pydocs` as a BEIR folder, for train and evaluate."""
    from imrnn_vdb.pydocs import export_beir

    counts = export_beir(out)
    if as_json:
        print_json(counts)
    else:
        click.echo(f"wrote {counts['entries']} entries, {counts['train']} training and {counts['test']} test questions")

"""``imrnn-vdb demo``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from imrnn_vdb.cli.common import OutFile, console, exit_codes, json_option, print_json
from imrnn_vdb.files import replace_file

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from imrnn_vdb.demo import StoreName
    from imrnn_vdb.report import ReportSection


@click.command()
@click.option("--store", type=click.Choice(["edge", "milvus"]), default="edge", show_default=True, help="Engine.")
@click.option("--model", default="pydocs", show_default=True, help="Checkpoint.")
@click.option(
    "--report",
    type=OutFile(),
    default=Path("imrnn-demo.html"),
    show_default=True,
    help="HTML file to write.",
)
@json_option
@exit_codes
def demo(store: str, model: str, report: Path, as_json: bool) -> None:
    """Search the Python standard library's documentation, plain and modulated side by side."""
    from imrnn_vdb.demo import run_demo

    out = console()
    out.quiet = as_json
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="imrnn-demo-", ignore_cleanup_errors=True) as folder:
        outcome = run_demo(cast("StoreName", store), model, Path(folder), lambda line: out.print(line, markup=False))
    for section in outcome.sections:
        show(out, section)
    out.print(f"\n{outcome.gain}", markup=False)
    if as_json:
        print_json({**outcome.to_dict(), "report": str(report), "seconds": round(time.perf_counter() - started, 1)})
    replace_file(report, outcome.report.encode())
    out.print(f"\nreport with factor heatmaps: {report.resolve()}", markup=False, soft_wrap=True)
    out.print(f"done in {time.perf_counter() - started:.0f} s", markup=False)


def show(out: Console, section: ReportSection) -> None:
    """Print one question: both rankings side by side, and the first score taken apart where asked for."""
    from imrnn_vdb.explain import explanation_table

    out.print(f"\n» {section.query}", style="bold", markup=False)
    if section.note:
        out.print(f"  {section.note}", style="dim", markup=False)
    out.print(side_by_side(section))
    if section.response.reason:
        out.print(f"  not modulated: {section.response.reason}", style="dim", markup=False)
    if section.take_apart and section.response:
        out.print(explanation_table(section.response[0]))


def side_by_side(section: ReportSection) -> Table:
    """Return both rankings in one table."""
    from rich.table import Table
    from rich.text import Text

    from imrnn_vdb.explain import moved, tags

    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("the database alone", overflow="fold")
    table.add_column("with imrnn_vdb", overflow="fold")
    table.add_column("moved", justify="right")
    table.add_column("speaks for it", overflow="fold")
    for plain, result in zip(section.plain or (), section.response, strict=False):
        table.add_row(
            Text(str(result.rank)),
            Text(str(plain.payload.get("name", plain.id))),
            Text(str(result.payload.get("name", result.id))),
            Text(moved(result)),
            Text(tags(result.explanation, 2) if result.explanation else ""),
        )
    return table

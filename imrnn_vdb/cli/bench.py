"""``imrnn-vdb bench``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    CONNECTION,
    OutFile,
    connection_of,
    connection_options,
    console,
    exit_codes,
    flags,
    given,
    json_option,
    located,
    print_json,
)

if TYPE_CHECKING:
    from imrnn_vdb.bench import BenchReport
    from imrnn_vdb.modulation import Precision


@click.command()
@click.option(
    "--url", help="A collection, or its attachment's file, to be measured read-only; unset: synthetic points."
)
@connection_options
@click.option("--store", help="Where to make synthetic collections, e.g. milvus://HOST:PORT; unset: Qdrant Edge.")
@click.option(
    "--model", help="The checkpoint; unset: the attachment's, minilm with --url, else random weights everywhere."
)
@click.option("--device", default="cpu", show_default=True, help="Torch device of the modulator, e.g. cuda.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "half"]),
    default="float32",
    show_default=True,
    help="On a GPU: half precision, where that keeps the ranks.",
)
@click.option("--size", "sizes", type=click.IntRange(100), multiple=True, help="Synthetic points; may be repeated.")
@click.option("--coarse-k", type=click.IntRange(10), default=100, show_default=True, help="Candidates per query.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Turns that each rival gets.")
@click.option("--calls", type=click.IntRange(1), default=30, show_default=True, help="Calls in one turn.")
@click.option("--sweep/--no-sweep", default=True, show_default=True, help="Sweep coarse_k, m and batch sizes too.")
@click.option("--plot", type=OutFile(), help="Write the sweeps as a picture.")
@json_option
@exit_codes
def bench(
    url: str | None,
    store: str | None,
    model: str | None,
    device: str,
    precision: Precision,
    sizes: tuple[int, ...],
    sweep: bool,
    plot: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what a modulated search costs beside a plain one.

    Rivals take turns, so that ratios hold on a busy machine. Synthetic collections are dropped at the end.
    """
    from imrnn_vdb.async_collection import AsyncIMRNNCollection
    from imrnn_vdb.bench import BenchOptions, bench_collection, bench_synthetic
    from imrnn_vdb.bench.synthetic import random_model
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.errors import InvalidInputError

    numbers = {name: value for name, value in options.items() if name not in CONNECTION}
    if url and (store or sizes):
        raise InvalidInputError("--url measures what is there: leave --store and --size out")
    if not url and (foreign := given(*CONNECTION)):
        raise InvalidInputError(f"{flags(foreign)} cannot be used without --url")
    if plot and not sweep and len(set(sizes)) < 2:
        raise InvalidInputError("--plot draws sweeps: leave --no-sweep out, or give two values of --size")
    if not sweep:
        numbers |= {"sweep_coarse_k": (), "sweep_factors": (), "sweep_batch": ()}
    if sizes:
        numbers["sizes"] = sizes
    wanted = BenchOptions(**numbers)

    def progress(text: str) -> None:
        click.echo(text, err=True)

    if url:
        where, found, how = located(url, model, device=device, precision=precision, **connection_of(options))
        with IMRNNCollection.open(where, found, **how) as collection:
            twin = partial(AsyncIMRNNCollection.open, where, collection.model, **how)
            report = bench_collection(collection, wanted, twin, progress=progress)
    else:
        load = random_model if model is None else partial(IMRNNModel.from_pretrained, model)
        report = bench_synthetic(wanted, store, progress, load(device=device, precision=precision))
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    if plot is not None:
        report.plot(plot)


def _print(report: BenchReport) -> None:
    out = console()
    out.print(" · ".join(f"{name} {value}" for name, value in report.setting.items()), markup=False)
    for table in report.tables():
        out.print(table)
        out.print()

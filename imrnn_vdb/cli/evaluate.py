"""``imrnn-vdb evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    OutFile,
    OutFolder,
    console,
    exit_codes,
    given,
    json_option,
    model_option,
    print_json,
)
from imrnn_vdb.cli.labels import check_source, live_labels, source_options

if TYPE_CHECKING:
    from rich.table import Table

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.evaluation import Change, Evaluation
    from imrnn_vdb.training.embeddings import EmbeddedDataset


_DATA_ONLY = ("split", "cache", "passes")


@click.command()
@source_options
@model_option
@click.option("--encoder", default=None, help="Text encoder, if not the checkpoint's own.")
@click.option("--split", default="test", show_default=True, help="With --data: judgements to measure against.")
@click.option("--coarse-k", type=click.IntRange(1), default=100, show_default=True, help="Candidates per query.")
@click.option(
    "--passes",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="With --data: 2 searches again, refined.",
)
@click.option("--run", "run_file", type=OutFile(), help="Write the ranking, TREC format.")
@click.option("--cache", type=OutFolder(cache=True), help="With --data: folder for embeddings.")
@json_option
@exit_codes
def evaluate(run_file: Path | None, as_json: bool, **options: Any) -> None:
    """Measure a model against the base ranking, on the same candidates.

    A live collection needs no codes for it.
    """
    from imrnn_vdb.datasets import write_run
    from imrnn_vdb.evaluation import evaluate as measure
    from imrnn_vdb.evaluation import load_measures
    from imrnn_vdb.training.api import EVIDENCE_KEY

    check_source(options, _DATA_ONLY)
    load_measures()
    model, embedded = _live(options) if options["url"] else _dataset(options)
    split = options["split"]
    result = measure(model, embedded, split, options["coarse_k"], options["passes"])
    if model.evidence.get(EVIDENCE_KEY, {}).get("data") == (options["url"] or f"{embedded.data.name}/{split}"):
        where = "judgements over this collection" if options["url"] else "this split"
        click.echo(f"note: the model was trained on {where} and knows its queries by heart: measure others", err=True)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    if run_file is not None:
        write_run(run_file, result.runs["modulated"], f"imrnn-{model.model_id}")


def _dataset(options: dict[str, Any]) -> tuple[IMRNNModel, EmbeddedDataset]:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import as_encoder
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.training.api import embedded_data
    from imrnn_vdb.training.embeddings import EmbeddingCache

    model = IMRNNModel.from_pretrained(options["model"])
    source = options["encoder"] if options["encoder"] is not None else model.encoder
    if source is None:
        raise InvalidInputError("this checkpoint names no encoder: give --encoder")
    return model, embedded_data(options["data"], as_encoder(source), EmbeddingCache(options["cache"]))


def _live(options: dict[str, Any]) -> tuple[IMRNNModel, EmbeddedDataset]:
    from imrnn_vdb.encoders import EncoderConfig
    from imrnn_vdb.training.live import embedded_from_collection

    encoder = EncoderConfig(options["encoder"]) if options["encoder"] is not None else None
    model = options["model"] if given("model") else None  # else that of an attachment
    with live_labels(options, model, encoder) as (collection, queries, qrels):
        return collection.model, embedded_from_collection(collection, queries, qrels, options["coarse_k"])


def _print(result: Evaluation) -> None:
    from rich.table import Table

    table = Table("measure", "base", "modulated", "difference")
    for name, before in result.base.items():
        after = result.modulated[name]
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    out, test = console(), result.test
    out.print(table)
    different = result.settings["different_queries"]
    count = f"{result.queries} queries" + (f", {different} different" if different < result.queries else "")
    out.print(
        f"nDCG@10 over {count}: {test.difference:+.4f}, 95 % interval {test.ci_low:+.4f} to "
        f"{test.ci_high:+.4f}, p = {test.p_value:.3g}; {test.wins} better, {test.losses} worse, {test.ties} equal"
    )
    for title, changes in (("most improved", result.most_improved), ("most harmed", result.most_harmed)):
        if changes:
            out.print(_changes(title, changes))
    if not result.settings.get("active", True):
        out.print("this model is not switched on: searches keep the base ranking unless you insist")


def _changes(title: str, changes: list[Change]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("query", "text", "base", "modulated", title=title)
    for change in changes:
        table.add_row(Text(change.query_id), Text(change.text), f"{change.base:.3f}", f"{change.modulated:.3f}")
    return table

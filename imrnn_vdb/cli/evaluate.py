"""``imrnn-vdb evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imrnn_vdb.cli.common import OutFile, OutFolder, console, exit_codes, json_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from imrnn_vdb.evaluation import Change, Evaluation


@click.command()
@click.option("--data", required=True, help="BEIR folder, or a name that ir_datasets knows.")
@click.option("--model", required=True, help="Checkpoint: a shipped name, a folder or a hub repo id.")
@click.option("--encoder", default=None, help="Text encoder, if not the checkpoint's own.")
@click.option("--split", default="test", show_default=True, help="Judgements to measure against.")
@click.option("--coarse-k", type=click.IntRange(1), default=100, show_default=True, help="Candidates per query.")
@click.option("--passes", type=click.IntRange(1, 2), default=1, show_default=True, help="2 searches again, refined.")
@click.option("--run", "run_file", type=OutFile(), help="Write the ranking, TREC format.")
@click.option("--cache", type=OutFolder(cache=True), help="Folder for embeddings.")
@json_option
@exit_codes
def evaluate(
    data: str,
    model: str,
    encoder: str | None,
    split: str,
    coarse_k: int,
    passes: int,
    run_file: Path | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Measure a model against the base ranking, on the same candidates."""
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.datasets import write_run
    from imrnn_vdb.encoders import as_encoder
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.evaluation import evaluate as measure
    from imrnn_vdb.evaluation import load_measures
    from imrnn_vdb.training.api import EVIDENCE_KEY, embedded_data
    from imrnn_vdb.training.embeddings import EmbeddingCache

    load_measures()
    loaded = IMRNNModel.from_pretrained(model)
    source = encoder if encoder is not None else loaded.encoder
    if source is None:
        raise InvalidInputError("this checkpoint names no encoder: give --encoder")
    embedded = embedded_data(data, as_encoder(source), EmbeddingCache(cache))
    result = measure(loaded, embedded, split, coarse_k, passes)
    if loaded.evidence.get(EVIDENCE_KEY, {}).get("data") == f"{embedded.data.name}/{split}":
        click.echo("note: the model was trained on this split and knows its queries by heart: measure others", err=True)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    if run_file is not None:
        write_run(run_file, result.runs["modulated"], f"imrnn-{loaded.model_id}")


def _print(result: Evaluation) -> None:
    from rich.table import Table

    table = Table("measure", "base", "modulated", "difference")
    for name, before in result.base.items():
        after = result.modulated[name]
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    out, test = console(), result.test
    out.print(table)
    out.print(
        f"nDCG@10 over {result.queries} queries: {test.difference:+.4f}, 95 % interval {test.ci_low:+.4f} to "
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

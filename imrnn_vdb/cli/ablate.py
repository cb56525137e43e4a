"""``imrnn-vdb ablate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from imrnn_vdb.cli.common import OutFolder, exit_codes, json_option, print_json


@click.command()
@click.option("--data", required=True, help="BEIR folder, or a name that ir_datasets knows.")
@click.option("--encoder", default="minilm", show_default=True, help="What made the vectors.")
@click.option("--space", default="minilm", show_default=True, help="Checkpoint for the row with named axes, or 'none'.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Trainings per variant.")
@click.option("--only", multiple=True, help="Variants to run, by the start of their names; all if unset.")
@click.option("--epochs", type=click.IntRange(1), help="Most passes over the queries, to save time.")
@click.option("--test-split", default="test", show_default=True, help="What is measured.")
@click.option("--cache", type=OutFolder(cache=True), help="Folder for embeddings.")
@json_option
@exit_codes
def ablate(
    data: str,
    encoder: str,
    space: str,
    seeds: int,
    only: tuple[str, ...],
    epochs: int | None,
    test_split: str,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Measure what each part of the model is worth, and print a table in Markdown."""
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import as_encoder
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.evaluation import load_measures, measure, rank_base
    from imrnn_vdb.progress import track
    from imrnn_vdb.training.ablation import VARIANTS, AblationRow, markdown
    from imrnn_vdb.training.ablation import ablate as run
    from imrnn_vdb.training.api import embedded_data
    from imrnn_vdb.training.embeddings import EmbeddingCache
    from imrnn_vdb.training.settings import TrainingSettings

    variants = {name: changes for name, changes in VARIANTS.items() if not only or name.startswith(only)}
    if not variants:
        raise InvalidInputError(f"no variant is named {', '.join(only)}; there are: {'; '.join(VARIANTS)}")
    load_measures()
    named = None if space == "none" else IMRNNModel.from_pretrained(space)
    embedded = embedded_data(data, as_encoder(encoder), EmbeddingCache(cache))
    values = measure(embedded.data.split(test_split), rank_base(embedded, test_split, 100))
    base = {name: sum(by_query.values()) / len(by_query) for name, by_query in values.items()}
    settings = TrainingSettings() if epochs is None else TrainingSettings(epochs=epochs)
    with track("training variants", len(variants)) as advance:

        def report(row: AblationRow) -> None:
            advance(1)
            click.echo(f"{row.variant}: {row.test[0]:.4f} ± {row.test[1]:.4f}", err=True)

        rows = run(
            embedded,
            seeds=seeds,
            variants=variants,
            named=named,
            settings=settings,
            test_split=test_split,
            report=report,
        )
    if as_json:
        print_json({"base": base, "rows": [asdict(row) for row in rows]})
    else:
        click.echo(markdown(rows, base), nl=False)

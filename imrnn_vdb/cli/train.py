"""``imrnn-vdb train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imrnn_vdb.cli.common import exit_codes, json_option, print_json

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--data", required=True, help="BEIR folder, or a name that ir_datasets knows.")
@click.option("--encoder", default="minilm", show_default=True, help="What made the collection's vectors.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for the checkpoint.")
@click.option("--split", default="train", show_default=True, help="Judgements to train on.")
@click.option(
    "--space",
    default=None,
    help="Checkpoint whose named factors are kept, or 'none'; unset, the encoder's shipped one.",
)
@click.option("--fix-basis", is_flag=True, help="Keep that checkpoint's whole space, so that stored codes stay valid.")
@click.option("--continue-from", default=None, help="Checkpoint to update on these labels; its space is kept.")
@click.option(
    "--replay", default=None, help="Data that checkpoint was trained on, so that old queries keep their quality."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same model.")
@click.option("--epochs", type=click.IntRange(1), help="Most passes over the queries; cross-validation chooses.")
@click.option("--steps", "num_steps", type=click.IntRange(0), help="Refinement steps T.")
@click.option("--num-factors", type=click.IntRange(1), help="Factors m of a space that is trained.")
@click.option("--coarse-k", type=click.IntRange(1), help="Candidates per query.")
@click.option("--cache", type=_FOLDER, help="Folder for embeddings; the user's cache folder if unset.")
@json_option
@exit_codes
def train(**options: Any) -> None:
    """Train a model on labelled queries; interrupted, the same command goes on where it stopped.

    The model is switched on only if it is better than the base ranking on held-out queries.
    """
    from imrnn_vdb.training.api import EVIDENCE_KEY, verdict
    from imrnn_vdb.training.console import reporting

    out: Path = options["out"]
    with reporting() as report:
        model = _train(options, out, report)
    model.save_pretrained(out)
    training = model.evidence[EVIDENCE_KEY]
    if options["as_json"]:
        ids = {"model_id": model.model_id, "space_id": model.space.space_id}
        print_json({"out": str(out), "active": model.active, **ids, **training})
    else:
        click.echo(verdict(training))
        click.echo(f"saved to {out}")


def _train(options: dict[str, Any], out: Path, report: Any) -> Any:
    from imrnn_vdb.checkpoint import IMRNNModel, shipped_checkpoints
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.training.api import train as train_model
    from imrnn_vdb.training.embeddings import EmbeddingCache
    from imrnn_vdb.training.settings import TrainingSettings

    space, start = options["space"], options["continue_from"]
    if space and start:
        raise InvalidInputError("--space and --continue-from exclude each other: an update keeps its own space")
    if space is None and not start and options["encoder"] in shipped_checkpoints():
        space = options["encoder"]
    space = None if space == "none" else space
    if options["fix_basis"] and not space:
        raise InvalidInputError("--fix-basis needs --space: the checkpoint whose space is kept")
    if options["replay"] and not start:
        raise InvalidInputError("--replay needs --continue-from: the checkpoint that was trained on those data")
    given = {name: options[name] for name in ("epochs", "num_steps", "num_factors", "coarse_k") if options[name]}
    if options["num_steps"] == 0:
        given["num_steps"] = 0
    return train_model(
        options["data"],
        options["encoder"],
        base=IMRNNModel.from_pretrained(space) if space else None,
        continue_from=IMRNNModel.from_pretrained(start) if start else None,
        replay=options["replay"],
        split=options["split"],
        settings=TrainingSettings(seed=options["seed"], train_basis=not options["fix_basis"], **given),
        cache=EmbeddingCache(options["cache"]),
        journal=out / ".training",
        report=report,
    )

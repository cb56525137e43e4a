"""``imrnn-vdb train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    ModelFolder,
    OutFolder,
    exit_codes,
    given,
    is_attachment,
    json_option,
    print_json,
    save_model,
)
from imrnn_vdb.cli.labels import check_source, live_labels, source_options

if TYPE_CHECKING:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.encoders import EncoderConfig
    from imrnn_vdb.training.examples import Examples
    from imrnn_vdb.training.settings import Reporter, TrainingSettings

_DATA_ONLY = ("split", "cache")


@click.command()
@source_options
@click.option("--encoder", default="minilm", show_default=True, help="What made the collection's vectors.")
@click.option("--out", type=ModelFolder(), required=True, help="Folder for the checkpoint.")
@click.option("--split", default="train", show_default=True, help="With --data: judgements to train on.")
@click.option(
    "--space",
    default=None,
    help="Checkpoint whose named factors are kept, or 'none'; unset, the attachment's or the encoder's shipped one.",
)
@click.option(
    "--train-basis/--fix-basis",
    default=None,
    help="Learn the latent columns, or keep that checkpoint's whole space, so that stored codes stay valid; unset, "
    "they are learned.",
)
@click.option(
    "--adapter/--whole-model",
    default=None,
    help="Learn a small linear update of the query, or the whole model; unset, the update below 300 labelled queries, "
    "and where a whole model turns out not to be better than it.",
)
@click.option("--continue-from", default=None, help="Checkpoint to update on these labels; its space is kept.")
@click.option(
    "--replay", default=None, help="Data that checkpoint was trained on: an update that harms their queries is refused."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same model.",
)
@click.option("--epochs", type=click.IntRange(1), help="Of a whole model: most passes; cross-validation chooses.")
@click.option("--steps", "num_steps", type=click.IntRange(0), help="Of a whole model: refinement steps T.")
@click.option(
    "--num-factors",
    type=click.IntRange(1),
    help="Factors m of a space that is trained, cut to the dimension; unset, 64 beside the named ones.",
)
@click.option("--coarse-k", type=click.IntRange(1), help="Candidates per query.")
@click.option(
    "--cache",
    type=OutFolder(cache=True),
    help="With --data: folder for embeddings; the user's cache folder if unset.",
)
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
    save_model(model, out)
    training = model.evidence[EVIDENCE_KEY]
    if options["as_json"]:
        ids = {"model_id": model.model_id, "space_id": model.space.space_id}
        print_json({"out": str(out), "active": model.active, **ids, **training})
    else:
        click.echo(verdict(training))
        click.echo(f"saved to {out}")
        if model.active and training["settings"]["train_basis"]:
            click.echo(f"its factor space is new: write its codes with imrnn-vdb backfill URL --model {out}")


def _train(options: dict[str, Any], out: Path, report: Reporter) -> IMRNNModel:
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.datasets import load_dataset
    from imrnn_vdb.encoders import EncoderConfig
    from imrnn_vdb.training.api import train as train_model
    from imrnn_vdb.training.api import train_examples
    from imrnn_vdb.training.embeddings import EmbeddingCache
    from imrnn_vdb.training.settings import TrainingSettings

    space, start = _origins(options)
    numbers = {name: options[name] for name in ("epochs", "num_steps", "num_factors", "coarse_k")}
    common: dict[str, Any] = {
        "base": IMRNNModel.from_pretrained(space) if space else None,
        "continue_from": IMRNNModel.from_pretrained(start) if start else None,
        "settings": TrainingSettings(
            seed=options["seed"],
            train_basis=options["train_basis"],
            adapter=options["adapter"],
            **{name: value for name, value in numbers.items() if value is not None},
        ),
        "journal": out / ".training",
        "report": report,
    }
    if options["url"]:
        encoder = EncoderConfig(options["encoder"]) if given("encoder") else None
        examples = _live_examples(options, common, encoder)
        _check_followed(options, len(examples), common)
        return train_examples(examples, name=options["url"], encoder=encoder, **common)
    data = load_dataset(options["data"])
    _check_followed(options, len(data.split(options["split"])), common)
    source = {"replay": options["replay"], "split": options["split"], "cache": EmbeddingCache(options["cache"])}
    return train_model(data, options["encoder"], **source, **common)


def _origins(options: dict[str, Any]) -> tuple[str | None, str | None]:
    """Check what excludes what; return the names of the space and of the model to go on from."""
    from imrnn_vdb.checkpoint import shipped_checkpoints
    from imrnn_vdb.errors import InvalidInputError

    space, start = options["space"], options["continue_from"]
    check_source(options, _DATA_ONLY)
    if space and start:
        raise InvalidInputError("--space and --continue-from exclude each other: an update keeps its own space")
    if space is None and not start and not is_attachment(options["url"]):
        space = options["encoder"] if options["encoder"] in shipped_checkpoints() else None
    space = None if space == "none" else space
    if start and options["train_basis"]:
        raise InvalidInputError("--train-basis and --continue-from exclude each other: an update keeps its own space")
    if options["train_basis"] is False and not (space or start or is_attachment(options["url"])):
        raise InvalidInputError("--fix-basis needs --space: the checkpoint whose space is kept")
    if options["replay"] and (options["url"] or not start):
        raise InvalidInputError(
            "--replay needs --data and --continue-from: the checkpoint trained on the replayed data"
        )
    return space, start


def _check_followed(options: dict[str, Any], queries: int, common: dict[str, Any]) -> None:
    """Refuse settings that this training would not follow, before it starts."""
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.training.api import planned
    from imrnn_vdb.training.starting import check_num_factors

    settings: TrainingSettings = common["settings"]
    start: IMRNNModel | None = common["continue_from"]
    plan = planned(settings, queries, start)
    asked = {"--epochs": options["epochs"], "--steps": options["num_steps"]}
    if options["adapter"] is False:
        asked["--whole-model"] = 1
    unused = [flag for flag, value in asked.items() if value is not None]
    if plan.adapter and unused:
        raise InvalidInputError(f"{', '.join(unused)} cannot be followed: {_why_adapter(settings, queries, start)}")
    origin = start if start is not None else common["base"]
    check_num_factors(plan, origin.space if origin is not None else None)


def _why_adapter(settings: TrainingSettings, queries: int, start: IMRNNModel | None) -> str:
    from imrnn_vdb.training.api import planned

    if planned(replace(settings, adapter=False), queries, start).adapter:
        return "a trained model is updated by an adapter, which has neither epochs nor steps"
    if settings.adapter:
        return "an adapter has neither epochs nor steps"
    return f"{queries} labelled queries train an adapter, with neither epochs nor steps; --whole-model trains all"


def _live_examples(options: dict[str, Any], common: dict[str, Any], encoder: EncoderConfig | None) -> Examples:
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.training.live import examples_from_collection

    model = common["continue_from"] or common["base"]
    if model is None and not (is_attachment(options["url"]) and options["space"] is None):
        raise InvalidInputError("--url needs --space or --continue-from: a checkpoint for the collection's vectors")
    with live_labels(options, model, encoder) as (collection, queries, qrels):
        if model is None:
            common["base"] = collection.model
        return examples_from_collection(collection, queries, qrels, common["settings"].coarse_k)

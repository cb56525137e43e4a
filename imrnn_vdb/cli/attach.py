"""``imrnn-vdb attach``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    ModelFolder,
    exit_codes,
    given,
    json_option,
    model_option,
    print_json,
    save_model,
    unwritable,
    url_options,
)
from imrnn_vdb.errors import InvalidInputError

if TYPE_CHECKING:
    from imrnn_vdb.backend import Backend
    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.connection import Connection
    from imrnn_vdb.options import Settings


@click.command()
@url_options
@model_option
@click.option("--text-field", default="text", show_default=True, help="Payload key of the text.")
@click.option(
    "--guard", help="JSON object of payload keys and values that every read requires; or a Milvus expression."
)
@click.option("--fit", "folder", type=ModelFolder(), help="Fit a model to the collection, into this folder.")
@click.option("--sample", type=click.IntRange(100), default=20_000, show_default=True, help="Points that --fit reads.")
@click.option(
    "--num-factors", type=click.IntRange(1), default=64, show_default=True, help="Of --fit; cut to the dimension."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="imrnn.json", show_default=True)
@click.option("--in-collection", is_flag=True, help="Record it in the collection's metadata; --out as well if given.")
@json_option
@exit_codes
def attach(
    url: str,
    model: str,
    guard: str | Mapping[str, Any] | None,
    folder: Path | None,
    sample: int,
    num_factors: int,
    out: Path,
    in_collection: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Check that the collection at URL fits a model, and record how it is opened.

    Changes nothing in the database, but for one key of the collection's metadata with --in-collection.
    """
    from imrnn_vdb.attach import attach as look
    from imrnn_vdb.attach import record
    from imrnn_vdb.backend import connect
    from imrnn_vdb.layout import Layout
    from imrnn_vdb.options import Settings
    from imrnn_vdb.urls import parse_url

    in_file = bool(given("out")) or not in_collection
    if in_file and (reason := unwritable(out)):
        raise InvalidInputError(reason)
    settings = Settings(**options, guard=_guard(guard))
    backend, connection = connect(parse_url(url), settings.connection, asynchronous=False)
    try:
        if folder is not None:
            fitted = _fit(backend, connection, parse_url(url).collection, settings, sample, num_factors)
            save_model(fitted, folder)
            model = str(folder)
        loaded = settings.load(model)
        found = connection.run(look(backend, connection, url, model, loaded.space, settings))
        if in_collection:
            store = backend.store(connection, parse_url(url).collection, Layout(found.space_id, 1), settings.guard)
            connection.run(record(store, found))
    finally:
        connection.close()
    where = [f"{url} --attached"] if in_collection else []
    if in_file:
        found.save(out)
        where.insert(0, str(out))
    measured = loaded.evidence.get("fit", {}) if folder is not None else {}
    factors = {name: factor["auc"] for name, factor in measured.get("factors", {}).items()}
    if as_json:
        print_json({"recorded": where, "model": found.model, "space_id": found.space_id, "held_out_auc": factors})
        return
    for name, auc in factors.items():
        click.echo(f"{name}: held-out AUC {'not measured' if auc is None else format(auc, '.3f')}")
    for name, reason in measured.get("rejected", {}).items():
        click.echo(f"left out: {name}: {reason}")
    click.echo(f"attached; next: imrnn-vdb doctor {where[0]}, imrnn-vdb backfill {where[0]}")


def _guard(given: str | Mapping[str, Any] | None) -> Any:
    """Read what was typed; the guard of an attachment comes as it is."""
    if not isinstance(given, str) or not given.lstrip().startswith("{"):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(f"--guard is no JSON object: {exc}") from exc


def _fit(
    backend: Backend, connection: Connection, collection: str, settings: Settings, sample: int, num_factors: int
) -> IMRNNModel:
    from imrnn_vdb.fitting.collection import fit_sample, sample_points
    from imrnn_vdb.layout import Layout
    from imrnn_vdb.progress import track

    store = backend.store(connection, collection, Layout("00000000", 1, (), settings.vector_name), settings.guard)
    with track("reading a sample", sample) as advance:
        texts, vectors = sample_points(connection, store, settings.text_field, sample, progress=advance)
    return fit_sample(texts, vectors, num_factors=num_factors)[0]

"""``imrnn-vdb index``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from imrnn_vdb.cli.common import exit_codes, json_option, model_option, print_json, url_options
from imrnn_vdb.datasets import passage_text, read_json_lines
from imrnn_vdb.errors import CollectionNotFoundError, InvalidInputError
from imrnn_vdb.progress import track

_BATCH = 512


@click.command()
@url_options
@click.option(
    "--input",
    "corpus",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="JSON lines in BEIR layout: _id, title, text; any other field becomes payload.",
)
@model_option
@click.option("--metric", default="cosine", show_default=True, help="Of a collection that is created.")
@json_option
@exit_codes
def index(corpus: Path, metric: str, as_json: bool, **options: Any) -> None:
    """Encode a corpus and upsert it, with codes, into the collection at URL; it is created if it is not there."""
    from imrnn_vdb.collection import IMRNNCollection

    total = None
    if corpus.is_file():  # a pipe can be read but once
        with corpus.open("rb") as file:
            total = sum(1 for line in file if line.strip())
    rows = _rows(corpus)
    batch = list(islice(rows, _BATCH))  # before a collection is made: the first lines must be right
    try:
        collection = IMRNNCollection.open(**options)
    except CollectionNotFoundError:
        collection = IMRNNCollection.create(metric=metric, **options)
    written = 0
    with collection, track("encoding and writing", total) as advance:
        while batch:
            collection.upsert(
                [row.pop("_id") for row in batch],
                vectors=collection.encode_passages([passage_text(row) for row in batch]),
                payloads=batch,
            )
            written += len(batch)
            advance(len(batch))
            batch = list(islice(rows, _BATCH))
        count = collection.count()
    if as_json:
        print_json({"written": written, "count": count})
    else:
        click.echo(f"wrote {written} points; the collection holds {count}")


def _rows(corpus: Path) -> Iterator[dict[str, Any]]:
    for number, row in read_json_lines(corpus):
        if not isinstance(row, dict) or not _is_id(row.get("_id")) or not isinstance(row.get("text"), str):
            raise InvalidInputError(f"{corpus}, line {number}: an object with '_id' and 'text' is needed")
        yield {**row, "_id": str(row["_id"])}


def _is_id(value: object) -> bool:
    """Say whether a value can be an id: a text or a number, 0 included."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""

"""What ``train`` and ``evaluate`` share: judged queries, over a data set or over a live collection."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import CONNECTION, Command, connection_of, connection_options, flags, given, located

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imrnn_vdb.checkpoint import IMRNNModel
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.datasets import Qrels
    from imrnn_vdb.encoders import EncoderConfig
    from imrnn_vdb.training.live import Queries

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_LIVE_ONLY = ("queries", "qrels", "triples", *CONNECTION)


def source_options(command: Command) -> Command:
    """Add ``--data`` and, in its place, ``--url`` with its judgements and the options of a connection."""
    for decorate in (
        connection_options,
        click.option(
            "--triples", type=_FILE, help="With --url, instead of --qrels: query, relevant and other id, by tabs."
        ),
        click.option(
            "--qrels", type=_FILE, help="With --url: judgements: query id, point id, grade; or TREC's four columns."
        ),
        click.option("--queries", type=_FILE, help="With --url: JSON lines of _id and text, or _id and vector."),
        click.option("--url", help="Instead of --data: a live collection, or its attachment's file; it is only read."),
        click.option("--data", help="BEIR folder, or a name that ir_datasets knows."),
    ):
        command = decorate(command)
    return command


def check_source(options: dict[str, Any], data_only: tuple[str, ...]) -> None:
    """Refuse two sources, none, and options that belong to the other one."""
    from imrnn_vdb.errors import InvalidInputError

    if bool(options["data"]) == bool(options["url"]):
        raise InvalidInputError("give either --data or --url")
    if foreign := given(*(data_only if options["url"] else _LIVE_ONLY)):
        source, other = ("--url", "--data") if options["url"] else ("--data", "--url")
        raise InvalidInputError(f"{flags(foreign)} cannot be used with {source}: that belongs to {other}")
    if options["url"] and (not options["queries"] or bool(options["qrels"]) == bool(options["triples"])):
        raise InvalidInputError("--url needs --queries, and either --qrels or --triples")


@contextmanager
def live_labels(
    options: dict[str, Any], model: IMRNNModel | str | None, encoder: EncoderConfig | None
) -> Iterator[tuple[IMRNNCollection, Queries, Qrels]]:
    """Open the collection of ``--url`` and read its queries and judgements; model and URL as for `located`."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.datasets import read_qrels
    from imrnn_vdb.training.live import read_queries, read_triples

    queries = read_queries(options["queries"])
    qrels = read_qrels(options["qrels"]) if options["qrels"] else read_triples(options["triples"])
    url, found, how = located(options["url"], model, encoder=encoder, **connection_of(options))
    with IMRNNCollection.open(url, found, **how) as collection:
        yield collection, queries, qrels

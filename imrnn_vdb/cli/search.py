"""``imrnn-vdb search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    OutFile,
    console,
    exit_codes,
    json_option,
    model_option,
    print_json,
    print_unmodulated,
    topics_option,
    typed_ids,
    url_options,
)
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from imrnn_vdb.results import SearchResponse

_ASKED = (
    *("limit", "offset", "coarse_k", "passes", "threshold", "only", "factor_filter"),
    *("plan", "trace", "modulate", "explain", "audit", "topics"),
)
"""Options that are keywords of ``IMRNNCollection.search`` as they are."""


@click.command()
@url_options
@click.argument("query")
@model_option
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Results wanted.")
@click.option(
    "--coarse-k", type=click.IntRange(1), help="Candidates fetched; the larger of 100 and the limit if unset."
)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="Results skipped.")
@click.option("--passes", type=click.IntRange(1, 2), default=1, show_default=True, help="2: ask the refined query too.")
@click.option("--threshold", type=float, help="Only results with at least this score.")
@click.option("--where", help="Only points that match: an expression for Milvus, JSON of a Filter for Qdrant.")
@click.option("--only", help="A factor's name: only documents that are about it and matched because of it.")
@click.option("--factor-filter", help="For example 'entity >= 0.6 and not top(money, 3)'; see docs/factors.md.")
@click.option("--steer", multiple=True, metavar="FACTOR=WEIGHT", help="Scale a factor's contributions; repeatable.")
@click.option("--good", multiple=True, metavar="ID", help="Mark a result: search again, steered towards it.")
@click.option("--bad", multiple=True, metavar="ID", help="Mark a result: search again, steered away from it.")
@click.option("--plan", is_flag=True, help="Show which part of the filter runs where.")
@click.option("--modulate/--no-modulate", default=None, help="Insist; unset, the model's own evidence decides.")
@click.option("--explain", is_flag=True, help="Show each score's parts.")
@topics_option
@click.option("--heatmap", is_flag=True, help="Show factors × results in one table.")
@click.option("--trace", is_flag=True, help="Show how each step moved the results.")
@click.option("--html", type=OutFile(), help="Write all of it to one HTML file.")
@click.option(
    "--sample", type=click.IntRange(0), default=0, help="With --html: points read to show what latent factors order by."
)
@click.option(
    "--audit", type=click.Path(dir_okay=False, path_type=Path), help="Append a line on this search to an audit log."
)
@json_option
@exit_codes
def search(
    query: str, where: str | None, heatmap: bool, html: Path | None, sample: int, as_json: bool, **options: Any
) -> None:
    """Search the collection at URL for QUERY."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.heatmaps import heatmap as make_heatmap
    from imrnn_vdb.report import explain_search, render_report

    asked = {name: options.pop(name) for name in _ASKED}
    asked["steer"] = dict(_weight(text) for text in options.pop("steer")) or None
    marks = options.pop("good"), options.pop("bad")
    shown = asked["explain"]
    asked["explain"] = shown or heatmap
    with IMRNNCollection.open(**options) as collection:
        asked["payload_filter"] = collection.parse_filter(where) if where else None
        if any(marks):
            asked["steer"] = _proposed(collection.search(query, **{**asked, "explain": True}), *marks)
        section = explain_search(collection, query, sample, **asked) if html else None
        response = section.response if section else collection.search(query, **asked)
    out = console()
    out.quiet = as_json
    parts = {"explain": shown, "heatmap": heatmap, "trace": asked["trace"]}
    try:
        if as_json:
            drawn = {"heatmap": make_heatmap(response).to_dict()} if heatmap else {}
            print_json({**response.to_dict(), **drawn})
        else:
            _print(out, response, query, parts, collection.text_field, bool(asked["only"] or asked["factor_filter"]))
    finally:  # whoever reads this may have read enough before its end
        if section and html:
            replace_file(html, render_report(query, [section]).encode())
    if html:
        out.print(f"report: {html}", markup=False, soft_wrap=True)


def _print(
    out: Console, response: SearchResponse, query: str, shown: dict[str, bool], text_field: str, filtered: bool
) -> None:
    from imrnn_vdb.explain import explanation_table, results_table, trace_table
    from imrnn_vdb.heatmaps import heatmap_table

    out.print(results_table(response, query, text_field))
    for result in response if shown["explain"] else ():
        out.print(explanation_table(result, text_field=text_field))
    if shown["heatmap"]:
        out.print(heatmap_table(response))
    if shown["trace"]:
        out.print(trace_table(response, text_field))
    for heading, found in (("plan", response.plan), ("window", response.growth)):
        if found is not None:
            out.print(f"{heading}: {found}", style="dim", markup=False)
    if response.steer:
        weights = " ".join(f"--steer {name}={weight:g}" for name, weight in response.steer.items())
        out.print(f"steered: {weights}", style="dim", markup=False)
    print_unmodulated(out, response)
    if not response and filtered:
        never = "points without a current code or the factor's score never do: imrnn-vdb doctor counts those"
        out.print(f"nothing passes this filter; {never}", style="dim", markup=False)


def _proposed(response: SearchResponse, good: Sequence[str], bad: Sequence[str]) -> dict[str, float]:
    """Propose weights for results marked by their ids."""
    from imrnn_vdb.steering import propose_steering

    known = [result.id for result in response]
    return propose_steering(response, typed_ids(known, good), typed_ids(known, bad))


def _weight(text: str) -> tuple[str, float]:
    """Read ``FACTOR=WEIGHT``."""
    name, _, weight = text.partition("=")
    try:
        return name.strip(), float(weight)
    except ValueError as exc:
        raise InvalidInputError(f"--steer takes FACTOR=WEIGHT, such as entity=1.5, got {text!r}") from exc

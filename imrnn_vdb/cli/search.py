"""``imrnn-vdb search``."""

from __future__ import annotations

from typing import Any

import click

from imrnn_vdb.cli.common import console, exit_codes, json_option, model_option, print_json, url_options


@click.command()
@url_options
@click.argument("query")
@model_option
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Results wanted.")
@click.option(
    "--coarse-k", type=click.IntRange(1), help="Candidates fetched; the larger of 100 and the limit if unset."
)
@click.option("--modulate/--no-modulate", default=None, help="Insist; unset, the model's own evidence decides.")
@click.option("--explain", is_flag=True, help="Show each score's parts.")
@json_option
@exit_codes
def search(query: str, limit: int, coarse_k: int | None, explain: bool, as_json: bool, **options: Any) -> None:
    """Search the collection at URL for QUERY."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.explain import explanation_table, results_table

    modulate = options.pop("modulate")
    with IMRNNCollection.open(**options) as collection:
        response = collection.search(query, limit=limit, coarse_k=coarse_k, explain=explain, modulate=modulate)
    if as_json:
        print_json([result.to_dict() for result in response])
        return
    out = console()
    out.print(results_table(response, title=query))
    if explain:
        for result in response:
            out.print(explanation_table(result))
    if response.reason:
        out.print(f"not modulated: {response.reason}", style="dim", markup=False)

"""``imrnn-vdb explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imrnn_vdb.cli.common import (
    console,
    exit_codes,
    json_option,
    model_option,
    print_json,
    print_unmodulated,
    topics_option,
    typed_ids,
    url_options,
    without_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from imrnn_vdb.results import SearchResponse, SearchResult

_REASONS = 3


@click.command()
@url_options
@click.argument("query")
@click.argument("point_id")
@model_option
@click.option("--against", metavar="ID", help="Another point: why does one rank above the other?")
@click.option("--words", is_flag=True, help="Show which words of query and text carry the match's factors.")
@topics_option
@click.option("--coarse-k", type=click.IntRange(1), help="Candidates fetched; 100 if unset.")
@click.option("--modulate/--no-modulate", default=None, help="Insist; unset, the model's own evidence decides.")
@json_option
@exit_codes
def explain(
    query: str,
    point_id: str,
    against: str | None,
    words: bool,
    topics: Path | None,
    coarse_k: int | None,
    modulate: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain where the point POINT_ID stands among the candidates for QUERY, and why."""
    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.comparison import compare
    from imrnn_vdb.errors import InvalidInputError
    from imrnn_vdb.explain import comparison_table, explanation_table, tokens_table

    with IMRNNCollection.open(**options) as collection:
        window = coarse_k or 100
        response = collection.search(
            query, limit=window, coarse_k=window, explain=True, modulate=modulate, topics=topics
        )
        result = _pick(response, point_id)
        found = compare(result, _pick(response, against)) if against is not None else None
        if words and (reason := without_text(collection, [result.payload])):
            raise InvalidInputError(reason)
        texts = {"query": (query, True), "text": (collection.text_of(result.payload), False)} if words else {}
        carried = {name: collection.token_factors(text, query=is_query) for name, (text, is_query) in texts.items()}
    names = [name for name, _ in result.explanation.reasons(_REASONS)] if result.explanation else []
    if as_json:
        print_json(
            {
                "result": result.to_dict(),
                "comparison": found.to_dict() if found else None,
                "words": {
                    place: {name: tokens.strongest(name, 5) for name in names} for place, tokens in carried.items()
                },
            }
        )
        return
    out = console()
    out.print(explanation_table(result, text_field=collection.text_field))
    print_unmodulated(out, response)
    if found is not None:
        out.print(comparison_table(found))
    for place, tokens in carried.items():
        out.print(tokens_table(tokens, names, f"words of the {place}"))


def _pick(response: SearchResponse, point_id: str) -> SearchResult:
    from imrnn_vdb.core import pick

    return pick(response, *typed_ids((result.id for result in response), [point_id]))

"""Explanations as one self-contained HTML page: no script, nothing loaded, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from imrnn_vdb.comparison import compare
from imrnn_vdb.errors import UnsupportedError
from imrnn_vdb.explain import comparison_parts, explanation_parts, headline, moved, topics_line
from imrnn_vdb.filter_text import as_filter, format_filter
from imrnn_vdb.heatmaps import Heatmap, heatmap
from imrnn_vdb.results import SearchResponse, SearchResult

if TYPE_CHECKING:
    import jinja2
    from typing_extensions import Unpack

    from imrnn_vdb.collection import IMRNNCollection
    from imrnn_vdb.comparison import RankComparison
    from imrnn_vdb.factors.ends import FactorEnds
    from imrnn_vdb.factors.tokens import TokenFactors
    from imrnn_vdb.options import SearchOptions

_PARTS = 8
_DIFFERENCES = 8
_REASONS = 3
_COMPARED = 3
_LATENT = 3
_LONGEST_MARKED = 2_000  # characters of a text that are shown with marks


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text with the words marked that carry a few factors.

    Attributes
    ----------
    title
        What it is: the query, or a result's headline.
    tokens
        Shares of its words.
    factors
        Names of the factors to show, at least one; the words are marked for the first.
    """

    title: str
    tokens: TokenFactors
    factors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportSection:
    """One query in a report.

    Attributes
    ----------
    query
        As it was asked.
    response
        Results with explanations; with a trace, it is shown.
    plain
        The database's own answer to the same query, to stand beside it; None for none.
    note
        What is special about this query, for example its filter.
    take_apart
        Whether the first result's score is to be shown part by part.
    comparisons
        Pairs of results: why one ranks above the other.
    texts
        Query and passages with their words marked.
    ends
        Latent factors, by what stands at their two ends.
    text_field
        Payload key of the text, which says what a result is where it has no title.
    """

    query: str
    response: SearchResponse
    plain: SearchResponse | None = None
    note: str = ""
    take_apart: bool = False
    comparisons: tuple[RankComparison, ...] = ()
    texts: tuple[MarkedText, ...] = ()
    ends: tuple[FactorEnds, ...] = ()
    text_field: str = "text"


def explain_search(
    collection: IMRNNCollection, query: str, sample: int = 0, **options: Unpack[SearchOptions]
) -> ReportSection:
    """Search, and gather what explains the results: the plain answer, a trace, a comparison, words, latent ends.

    Parameters
    ----------
    collection
        Where to search.
    query
        A text.
    sample
        Points to draw for the ends of the three latent factors that contribute most; 0 for none, for the whole
        collection is read.
    options
        As for :meth:`IMRNNCollection.search`; explanations and trace are always on.
    """
    response = collection.search(query, **{**options, "explain": True, "trace": True})  # type: ignore[arg-type]
    plain = collection.search(query, **{**options, "modulate": False, "steer": None, "topics": None})  # type: ignore[arg-type]
    return ReportSection(
        query,
        response,
        plain,
        _special(options),
        comparisons=tuple(compare(first, second) for first, second in pairwise(response[:_COMPARED])),
        texts=_carriers(collection, query, response),
        ends=_latent_ends(collection, response, sample) if sample else (),
        text_field=collection.text_field,
    )


def _special(options: SearchOptions) -> str:
    """Say which filters and weights were asked for."""
    told = []
    if options.get("payload_filter") is not None:
        told.append("Only points that a payload filter lets through.")
    if only := options.get("only"):
        told.append(f"Only {only}.")
    if (tree := as_filter(options.get("factor_filter"))) is not None:
        told.append(f"Only where {format_filter(tree)}.")
    if weights := options.get("steer"):
        told.append(f"Steered: {', '.join(f'{name} × {weight:g}' for name, weight in weights.items())}.")
    return " ".join(told)


def _carriers(collection: IMRNNCollection, query: str, response: SearchResponse) -> tuple[MarkedText, ...]:
    """Mark the words of query and first result that carry its reasons; nothing where the encoder cannot tell."""
    first = response[0] if response else None
    names = tuple(name for name, _ in first.explanation.reasons(_REASONS)) if first and first.explanation else ()
    if first is None or not names:
        return ()
    title = f"{first.rank}. {headline(first, collection.text_field)}"
    texts = [("The query", query, True), (title, collection.text_of(first.payload), False)]
    try:
        return tuple(
            MarkedText(title, collection.token_factors(text, query=is_query), names)
            for title, text, is_query in texts
            if text.strip()
        )
    except UnsupportedError:
        return ()


def _latent_ends(collection: IMRNNCollection, response: SearchResponse, sample: int) -> tuple[FactorEnds, ...]:
    from imrnn_vdb.factors.ends import factor_ends, strongest_latent

    space, points = collection.model.space, collection.sample(sample)
    parts = [result.explanation.contributions for result in response if result.explanation]
    names = strongest_latent(parts, len(space.names), _LATENT) if len(points) > 1 else []
    return tuple(factor_ends(space, points, name, text_field=collection.text_field) for name in names)


def render_report(title: str, sections: Sequence[ReportSection], introduction: str = "") -> str:
    """Return a self-contained HTML page: for each query its results, why they stand there, and what moved them.

    Everything that comes from outside (queries, payloads, ids, names) is escaped, and the page forbids scripts and
    anything loaded from elsewhere. It reads on a phone and by a screen reader: tables with captions and headings, and
    numbers beside every colour; of the words that are marked, beside the five that carry most.

    Parameters
    ----------
    title, introduction
        Head of the page.
    sections
        The queries, with explained responses.
    """
    return _template().render(
        title=title, introduction=introduction, sections=[_shown(section) for section in sections], moved=moved
    )


def _shown(section: ReportSection) -> dict[str, Any]:
    """Return what the template shows of a section, ready to be written down."""
    explained = [result for result in section.response if result.explanation is not None]
    whole = len(explained) == len(section.response) > 0
    return {
        "section": section,
        "titles": {
            result.id: headline(result, section.text_field) for result in (*section.response, *(section.plain or ()))
        },
        "heat": _cells(heatmap(section.response)) if whole else None,
        "apart": [
            _parts(result, section.text_field) for result in (explained[:1] if section.take_apart else explained)
        ],
        "comparisons": [_differences(comparison) for comparison in section.comparisons],
        "texts": [_marked(text) for text in section.texts],
        "topics": topics_line(section.response.topics),
    }


def _cells(found: Heatmap) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "single": i < found.factors,
            "cells": [
                {"value": value, "strength": strength if i < found.factors else 0.0}
                for value, strength in zip(values.tolist(), strengths.tolist(), strict=True)
            ],
        }
        for i, (name, values, strengths) in enumerate(zip(found.rows, found.values, found.strengths, strict=True))
    ]
    return {"results": found.results, "rows": rows}


def _parts(result: SearchResult, text_field: str) -> dict[str, Any]:
    parts = explanation_parts(result.explanation, _PARTS) if result.explanation else []
    topics = topics_line(result.explanation.topics) if result.explanation else ""
    return {"result": result, "title": headline(result, text_field), "parts": _bars(parts), "topics": topics}


def _differences(comparison: RankComparison) -> dict[str, Any]:
    parts = _bars(comparison_parts(comparison, _DIFFERENCES))
    return {"comparison": comparison, "parts": parts, "deciding": {name for name, _ in comparison.deciding}}


def _bars(parts: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    largest = max((abs(value) for _, value in parts), default=0.0) or 1.0
    return [{"name": name, "value": value, "width": 100 * abs(value) / largest} for name, value in parts]


def _marked(text: MarkedText) -> dict[str, Any]:
    """Cut a text into pieces, each with the strength in −1..1 of its share in the first factor."""
    found = text.tokens
    shares = found.of(text.factors[0])[:-1]
    largest = float(np.abs(shares).max(initial=0)) or 1.0
    pieces: list[dict[str, Any]] = []
    last = 0
    for (first, end), share in zip(found.spans, shares.tolist(), strict=True):
        if end > _LONGEST_MARKED:
            break
        pieces += [{"text": found.text[last:first], "strength": 0.0}] if first > last else []
        pieces.append({"text": found.text[first:end], "strength": share / largest, "share": share})
        last = end
    return {
        "title": text.title,
        "factor": text.factors[0],
        "pieces": pieces,
        "rest": "" if last >= len(found.text.rstrip()) else "…",
        "carriers": [{"factor": name, "words": found.strongest(name, 5)} for name in text.factors],
    }


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imrnn_vdb"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")

"""Explanations for people: tags, terminal tables with bars, and one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from imrnn_vdb.results import Explanation, SearchResponse, SearchResult

if TYPE_CHECKING:
    import jinja2

_BAR_WIDTH = 24
_HEATMAP_ROWS = 12
_HEADLINE_CHARS = 90
_HEADLINE_FIELDS = ("title", "name", "text")


@dataclass(frozen=True, slots=True)
class ReportSection:
    """One query in a report.

    Attributes
    ----------
    query
        As it was asked.
    response
        Results with explanations.
    plain
        The database's own answer to the same query, to stand beside it; None for none.
    note
        What is special about this query, for example its filter.
    take_apart
        Whether the first result's score is to be shown part by part.
    """

    query: str
    response: SearchResponse
    plain: SearchResponse | None = None
    note: str = ""
    take_apart: bool = False


def headline(result: SearchResult) -> str:
    """Return one line that says what a result is: its title, or the beginning of its text."""
    for name in _HEADLINE_FIELDS:
        value = result.payload.get(name)
        if isinstance(value, str) and value.strip():
            line = " ".join(value.split())
            return line if len(line) <= _HEADLINE_CHARS else line[: _HEADLINE_CHARS - 1] + "…"
    return str(result.id)


def tags(explanation: Explanation, count: int = 3) -> str:
    """Return the named factors that speak most for a match, for example ``"entity +0.031 · numeric +0.012"``."""
    return " · ".join(f"{name} {value:+.3f}" for name, value in explanation.reasons(count))


def moved(result: SearchResult) -> str:
    """Say how far a result moved against the database's order: ``"↑3"``, ``"↓1"`` or ``"="``."""
    change = result.base_rank - result.rank
    return "=" if change == 0 else f"{'↑' if change > 0 else '↓'}{abs(change)}"


def results_table(response: SearchResponse, title: str = "") -> Table:
    """Return a terminal table of results: rank, movement, score, base score and what each is."""
    table = _table(title)
    for name in ("rank", "moved", "score", "base"):
        table.add_column(name, justify="right")
    table.add_column("result", overflow="ellipsis", no_wrap=True)
    explained = any(result.explanation for result in response)
    if explained:
        table.add_column("speaks for it")
    for result in response:
        row = [str(result.rank), moved(result), f"{result.score:.4f}", f"{result.base_score:.4f}"]
        cells: list[Text] = [Text(cell) for cell in row]
        cells.append(Text(headline(result), style="" if result.modulated else "dim"))
        if explained:
            cells.append(Text(tags(result.explanation) if result.explanation else ""))
        table.add_row(*cells)
    return table


def explanation_table(result: SearchResult, count: int = 8) -> Table:
    """Return a terminal table of one score's parts with bars; parts beyond ``count`` are summed in one line.

    The lines add up to the score.
    """
    table = _table(f"{result.rank}. {headline(result)}: score {result.score:.4f}")
    table.add_column("part")
    table.add_column("contribution", justify="right")
    table.add_column("")
    if result.explanation is None:
        return table
    parts = explanation_parts(result.explanation, count)
    largest = max((abs(value) for _, value in parts), default=0.0) or 1.0
    for name, value in parts:
        bar = "█" * max(1, round(abs(value) / largest * _BAR_WIDTH)) if value else ""
        table.add_row(Text(name), Text(f"{value:+.4f}"), Text(bar, style="cyan" if value > 0 else "yellow"))
    return table


def explanation_parts(explanation: Explanation, count: int) -> list[tuple[str, float]]:
    """Return residual, the ``count`` largest named parts, and the others summed: together they are the score."""
    named = sorted(explanation.named.items(), key=lambda item: -abs(item[1]))
    parts = [("outside the factor space", explanation.residual), *named[:count]]
    if named[count:]:
        parts.append((f"{len(named) - count} other named factors", sum(value for _, value in named[count:])))
    latent = len(explanation.contributions) - len(explanation.names)
    if latent > 0:
        parts.append((f"{latent} latent factors", explanation.latent))
    return parts


def render_report(title: str, sections: Sequence[ReportSection], introduction: str = "") -> str:
    """Return a self-contained HTML page: results side by side, and a heatmap factors × results for each query.

    Everything that comes from outside (queries, payloads, ids, names) is escaped.

    Parameters
    ----------
    title, introduction
        Head of the page.
    sections
        The queries, with explained responses.
    """
    return _template().render(
        title=title,
        introduction=introduction,
        sections=[{"section": section, "heatmap": _heatmap(section.response)} for section in sections],
        headline=headline,
        moved=moved,
    )


def _heatmap(response: SearchResponse) -> dict[str, Any] | None:
    explained = [(result, result.explanation) for result in response if result.explanation is not None]
    if not explained:
        return None
    table = np.array([explanation.contributions for _, explanation in explained])
    names = explained[0][1].names
    named = table[:, : len(names)]
    order = np.argsort(-np.abs(named).max(axis=0, initial=0), kind="stable")
    shown, others = order[:_HEATMAP_ROWS], order[_HEATMAP_ROWS:]
    largest = float(np.abs(named).max(initial=0)) or 1.0
    rows = [(names[column], named[:, column]) for column in shown]
    if len(others):
        rows.append((f"{len(others)} other named factors", named[:, others].sum(axis=1)))
    if table.shape[1] > len(names):
        rows.append((f"{table.shape[1] - len(names)} latent factors", table[:, len(names) :].sum(axis=1)))
    return {
        "results": [result for result, _ in explained],
        "rows": [
            {
                "name": name,
                "cells": [{"value": value, "strength": min(1.0, abs(value) / largest)} for value in values.tolist()],
            }
            for name, values in rows
        ],
        "residuals": [explanation.residual for _, explanation in explained],
    }


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imrnn_vdb"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2")


def _table(title: str) -> Table:
    return Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False)

"""Explanations for people: tags, and terminal tables with bars. The HTML page is :mod:`imrnn_vdb.report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from imrnn_vdb.comparison import RESIDUAL
from imrnn_vdb.payloads import headline_of, printable
from imrnn_vdb.results import Explanation, SearchResponse, SearchResult

if TYPE_CHECKING:
    from imrnn_vdb.comparison import RankComparison
    from imrnn_vdb.factors.ends import FactorEnds
    from imrnn_vdb.factors.tokens import TokenFactors
    from imrnn_vdb.factors.topics import TopicMatch

_BAR_WIDTH = 24


def headline(result: SearchResult, text_field: str = "text") -> str:
    """Return one line that says what a result is: its title, or the beginning of its text."""
    return headline_of(result.payload, result.id, text_field)


def tags(explanation: Explanation, count: int = 3) -> str:
    """Return the named factors that speak most for a match, for example ``"entity +0.031 · numeric +0.012"``."""
    return " · ".join(f"{name} {value:+.3f}" for name, value in explanation.reasons(count))


def topics_line(topics: Sequence[TopicMatch]) -> str:
    """Return topics with the similarity to each, coarse first, for example ``"music 0.71 › violin_concert 0.84"``."""
    return " › ".join(f"{match.name} {match.similarity:.2f}" for match in topics)


def moved(result: SearchResult) -> str:
    """Say how far a result moved against the database's order: ``"↑3"``, ``"↓1"`` or ``"="``."""
    change = result.base_rank - result.rank
    return "=" if change == 0 else f"{'↑' if change > 0 else '↓'}{abs(change)}"


def results_table(response: SearchResponse, title: str = "", text_field: str = "text") -> Table:
    """Return a terminal table of results: rank, movement, score, base score and what each is."""
    table = _table(title)
    for name in ("rank", "moved", "score", "base"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result")
    explained = any(result.explanation for result in response)
    if explained:
        table.add_column("speaks for it")
    topical = any(result.explanation and result.explanation.topics for result in response)
    if topical:
        table.add_column("topics")
        table.caption, table.caption_justify = Text(f"topics of the query: {_or_none(response.topics)}"), "left"
    for result in response:
        row = [str(result.rank), moved(result), f"{result.score:.4f}", f"{result.base_score:.4f}"]
        cells: list[Text] = [Text(cell) for cell in row]
        style = "" if result.modulated else "dim"
        cells.append(_cut(headline(result, text_field), style))
        if explained:
            cells.append(Text(tags(result.explanation) if result.explanation else ""))
        if topical:
            cells.append(Text(_or_none(result.explanation.topics) if result.explanation else ""))
        table.add_row(*cells)
    return table


def explanation_table(result: SearchResult, count: int = 8, text_field: str = "text") -> Table:
    """Return a terminal table of one score's parts with bars; parts beyond ``count`` are summed in one line.

    The lines add up to the score. Topics that the document belongs to stand below.
    """
    table = _table(f"{result.rank}. {headline(result, text_field)}: score {result.score:.4f}")
    table.add_column("part")
    table.add_column("contribution", justify="right")
    table.add_column("")
    if result.explanation is None:
        return table
    _add_bars(table, explanation_parts(result.explanation, count))
    if result.explanation.topics:
        table.caption, table.caption_justify = Text(f"topics: {topics_line(result.explanation.topics)}"), "left"
    return table


def comparison_table(comparison: RankComparison, count: int = 8) -> Table:
    """Return a terminal table of the differences between two scores; beyond ``count``, they are summed in one line.

    The lines add up to the gap; those that decide the order are marked with an asterisk.
    """
    table = _table(str(comparison))
    table.add_column("part")
    table.add_column("difference", justify="right")
    table.add_column("")
    deciding = {name for name, _ in comparison.deciding}
    parts = comparison_parts(comparison, count)
    _add_bars(table, [(f"{name} *" if name in deciding else name, value) for name, value in parts])
    return table


def trace_table(response: SearchResponse, text_field: str = "text") -> Table:
    """Return a terminal table of how each step moved the results: rank and score after each stage."""
    trace = response.trace
    table = _table("rank and score after each step")
    table.add_column("result")
    for stage in trace.stages if trace else ():
        table.add_column(stage, justify="right", no_wrap=True)
    for i, result in enumerate(response if trace else ()):
        assert trace is not None  # noqa: S101 - else there are no rows
        cells = (f"{ranks[i]}  {scores[i]:.4f}" for ranks, scores in zip(trace.ranks, trace.scores, strict=True))
        table.add_row(_cut(headline(result, text_field)), *map(Text, cells))
    return table


def tokens_table(found: TokenFactors, names: Sequence[str], title: str = "") -> Table:
    """Return a terminal table of the words that carry factors most."""
    table = _table(title)
    table.add_column("factor")
    table.add_column("carried by")
    for name in names:
        words = " · ".join(f"{printable(word)} {value:+.4f}" for word, value in found.strongest(name, 5))
        table.add_row(Text(name), Text(words))
    return table


def ends_table(ends: FactorEnds) -> Table:
    """Return a terminal table of the two ends of a factor."""
    table = _table(f"{ends.factor}, in a sample of {ends.sample}")
    table.add_column("coordinate", justify="right", no_wrap=True)
    table.add_column("document")
    for documents, terms in ((ends.high, ends.high_terms), (ends.low, ends.low_terms)):
        table.add_row("", _cut(", ".join(terms), "bold"))
        for document in documents:
            table.add_row(Text(f"{document.coordinate:+.3f}"), _cut(document.headline))
    return table


def _add_bars(table: Table, parts: Sequence[tuple[str, float]]) -> None:
    largest = max((abs(value) for _, value in parts), default=0.0) or 1.0
    for name, value in parts:
        bar = "█" * max(1, round(abs(value) / largest * _BAR_WIDTH)) if value else ""
        table.add_row(Text(name), Text(f"{value:+.4f}"), Text(bar, style="cyan" if value > 0 else "yellow"))


def comparison_parts(comparison: RankComparison, count: int) -> list[tuple[str, float]]:
    """Return all differences that decide, then others up to ``count``, then the rest summed: they are the gap."""
    deciding = {name for name, _ in comparison.deciding}
    shown = max(count, len(deciding))
    ordered = sorted(comparison.differences, key=lambda item: item[0] not in deciding)
    rest = ordered[shown:]
    return ordered[:shown] + ([(f"{len(rest)} other parts", sum(value for _, value in rest))] if rest else [])


def explanation_parts(explanation: Explanation, count: int) -> list[tuple[str, float]]:
    """Return residual, the ``count`` largest named parts, those of topics, and others summed: they are the score."""
    ordered = sorted(explanation.named.items(), key=lambda item: -abs(item[1]))
    named = [(name, value) for name, value in ordered if name not in explanation.topic_names]
    topical = [(f"topic {name}", value) for name, value in ordered if name in explanation.topic_names]
    parts = [(RESIDUAL, explanation.residual), *named[:count], *topical]
    if named[count:]:
        parts.append((f"{len(named) - count} other named factors", sum(value for _, value in named[count:])))
    latent = len(explanation.contributions) - len(explanation.names)
    if latent > 0:
        parts.append((f"{latent} latent factors", explanation.latent))
    return parts


def _table(title: str) -> Table:
    return Table(title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False)


def _cut(text: str, style: str = "") -> Text:
    """Return a cell that gives way where there is no room, so that the numbers beside it stay whole."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _or_none(topics: Sequence[TopicMatch]) -> str:
    return topics_line(topics) or "none"

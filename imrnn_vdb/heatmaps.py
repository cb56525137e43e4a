"""The heatmap of a result list, factors × results: an array, a terminal table and a matplotlib figure.

Every column adds up to its result's score: what is not shown factor by factor stands in a row as a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from imrnn_vdb.comparison import RESIDUAL, coordinate_names
from imrnn_vdb.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from imrnn_vdb.results import SearchResponse, SearchResult

ROWS = 12
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Contributions of factors to the scores of a result list.

    Attributes
    ----------
    rows
        Names of the rows: factors by their largest contribution, then sums, then the part outside the factor space.
    results
        The R results of the columns, by rank.
    values
        Shape (len(rows), R), float64, signed, in the unit of the score: ``values.sum(0)`` are the scores, to rounding.
    factors
        How many of the first rows are single factors.
    """

    rows: tuple[str, ...]
    results: tuple[SearchResult, ...]
    values: npt.NDArray[np.float64]
    factors: int

    @property
    def strengths(self) -> npt.NDArray[np.float64]:
        """Shape of `values`, in 0..1: sizes against the largest of a single factor; sums are cut at 1."""
        largest = float(np.abs(self.values[: self.factors]).max(initial=0)) or 1.0
        strengths: npt.NDArray[np.float64] = (np.abs(self.values) / largest).clip(0, 1)
        return strengths

    def to_dict(self) -> dict[str, Any]:
        """Return rows, ids, values and scores, ready for JSON."""
        return {
            "rows": list(self.rows),
            "ids": [result.id for result in self.results],
            "values": self.values.tolist(),
            "scores": [result.score for result in self.results],
        }


def heatmap(response: SearchResponse, rows: int | None = ROWS) -> Heatmap:
    """Make the heatmap of an explained response.

    Parameters
    ----------
    response
        With explanations (``explain=True``).
    rows
        Named factors shown one by one, those with the largest contributions; the others, and all latent ones, are
        summed. None for every factor, latent ones included, in the order of the space.

    Raises
    ------
    InvalidInputError
        If results have no explanation.
    """
    if rows is not None and rows < 0:
        raise InvalidInputError(f"a heatmap shows 0 or more factors one by one, got rows={rows}")
    explanations = [result.explanation for result in response]
    explained = [explanation for explanation in explanations if explanation is not None]
    if len(explained) < len(explanations):
        raise InvalidInputError("this response has no explanations: search again with explain=True")
    names = explained[0].names if explained else ()
    width = len(explained[0].contributions) if explained else 0
    table = (
        np.array([explanation.contributions for explanation in explained], np.float64).reshape(len(explained), width).T
    )
    if rows is None:
        labels, parts = coordinate_names(names, width), list(table)
        factors = len(labels)
    else:
        labels, parts, factors = _shortened(names, table, rows)
    labels.append(RESIDUAL)
    parts.append(np.array([explanation.residual for explanation in explained], np.float64))
    return Heatmap(tuple(labels), response.results, np.stack(parts), factors)


def heatmap_table(response: SearchResponse, rows: int | None = ROWS) -> RenderableType:
    """Return the heatmap as a terminal table: a bar and a number in each cell, one column a result.

    Results that the terminal has no room for stand in another table below.
    """
    return _Tables(heatmap(response, rows))


class _Tables:
    """A heatmap, to print on a terminal of any width."""

    def __init__(self, found: Heatmap) -> None:
        self._found = found

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the title, then tables as wide as there is room for."""
        yield Text("contributions: columns are ranks, and add up to the score", style="italic")
        found = self._found
        columns = [
            (
                Text(str(result.rank)),
                *(_cell(*cell) for cell in zip(values.tolist(), strengths.tolist(), strict=True)),
                Text(f"{result.score:+.3f}", style="bold"),
            )
            for result, values, strengths in zip(found.results, found.values.T, found.strengths.T, strict=True)
        ]
        names = [Text("factor"), *map(Text, found.rows), Text("score", style="bold")]
        widest = max((cell.cell_len for column in columns for cell in column), default=1)
        beside = max(1, (options.max_width - max(name.cell_len for name in names)) // (widest + 2))
        for start in range(0, len(columns), beside):
            yield _table(names, columns[start : start + beside])


def _table(names: Sequence[Text], columns: Sequence[Sequence[Text]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(names[0])
    for head, *_ in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for row in list(zip(names, *columns, strict=True))[1:]:
        table.add_row(*row)
    return table


def heatmap_figure(response: SearchResponse, rows: int | None = ROWS) -> Any:
    """Return the heatmap as a ``matplotlib.figure.Figure``; save it with its ``savefig``.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise MissingExtraError("matplotlib", "plot") from exc
    found = heatmap(response, rows)
    labels, values = found.rows[: found.factors], found.values[: found.factors]
    figure = Figure(
        figsize=(2.5 + 0.55 * max(1, values.shape[1]), 1.5 + 0.3 * max(1, len(labels))), layout="constrained"
    )
    axes = figure.add_subplot()
    largest = float(np.abs(values).max(initial=0)) or 1.0
    image = axes.imshow(values, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto")
    axes.set_yticks(range(len(labels)), [_plain(label) for label in labels])
    axes.set_xticks(range(values.shape[1]), [str(result.rank) for result in found.results])
    axes.set_xlabel("rank")
    figure.colorbar(image, ax=axes, label="contribution to the score")
    return figure


def _shortened(
    names: tuple[str, ...], table: npt.NDArray[np.float64], count: int
) -> tuple[list[str], list[npt.NDArray[np.float64]], int]:
    named, latent = table[: len(names)], table[len(names) :]
    order = np.argsort(-np.abs(named).max(axis=1, initial=0), kind="stable")
    shown, others = order[:count], order[count:]
    labels, parts = [names[j] for j in shown], [named[j] for j in shown]
    for what, rest in (("other named factors", named[others]), ("latent factors", latent)):
        if len(rest):
            labels.append(f"{len(rest)} {what}")
            parts.append(rest.sum(axis=0))
    return labels, parts, len(shown)


def _cell(value: float, strength: float) -> Text:
    bar = _BARS[round(strength * (len(_BARS) - 1))]
    return Text.assemble((bar, "cyan" if value > 0 else "yellow"), f" {value:+.3f}")


def _plain(label: str) -> str:
    """Keep a name from being read as a formula."""
    return label.replace("$", r"\$")

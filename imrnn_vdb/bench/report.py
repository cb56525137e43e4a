"""Figures of a benchmark: a table, JSON, and a plot with log axes."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imrnn_vdb.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table


STAGES = "stages without a database"
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """How long one thing took, in milliseconds.

    Attributes
    ----------
    group
        What it belongs to: ``"search"``, or the name of a sweep.
    name
        What was timed.
    at
        Where in a sweep; None outside of one.
    median, p95
        Over all calls.
    best
        The smallest median of a round: what a busy machine hides least.
    ratio, ratio_p95
        Median and 95th percentile over those of the group's first figure; None where there is nothing to compare.
    note
        What to know about it, or why there is no figure: then the times are NaN.
    """

    group: str
    name: str
    median: float
    p95: float
    best: float
    at: int | None = None
    ratio: float | None = None
    ratio_p95: float | None = None
    note: str = ""

    @classmethod
    def missing(cls, group: str, name: str, note: str) -> Figure:
        """Return an entry for what could not be measured, with the reason."""
        return cls(group, name, float("nan"), float("nan"), float("nan"), note=note)


def figures(
    group: str, taken: Mapping[str, npt.NDArray[np.float64]], at: int | None = None, relative: bool = False
) -> list[Figure]:
    """Turn times of shape (rounds, calls) into figures; ``relative`` compares all with the first."""
    found = []
    for name, times in taken.items():
        median, p95 = float(np.median(times)), float(np.percentile(times, 95))
        found.append(Figure(group, name, median, p95, float(np.median(times, axis=1).min()), at))
    if not relative:
        return found
    first = found[0]
    return [
        Figure(f.group, f.name, f.median, f.p95, f.best, f.at, f.median / first.median, f.p95 / first.p95)
        for f in found
    ]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured, on what.

    Attributes
    ----------
    setting
        Store, sizes, and the class of machine; no names of hosts.
    figures
        In the order in which they were measured.
    """

    setting: Mapping[str, Any]
    figures: Sequence[Figure]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; times that could not be measured are None."""
        rows = [
            {key: None if isinstance(value, float) and value != value else value for key, value in asdict(f).items()}
            for f in self.figures
        ]
        return {"setting": dict(self.setting), "figures": rows}

    def tables(self) -> list[Table]:
        """Return one terminal table a group."""
        from rich.table import Table

        made = []
        for group in dict.fromkeys(figure.group for figure in self.figures):
            table = Table(title=group, title_justify="left", box=None, pad_edge=False)
            table.add_column("what")
            for name in ("at", "median ms", "p95 ms", "best median ms", "ratio", "ratio of p95"):
                table.add_column(name, justify="right")
            table.add_column("")
            for f in self.figures:
                if f.group == group:
                    times = [f"{value:.3f}" if value == value else "-" for value in (f.median, f.p95, f.best)]
                    ratios = ["" if value is None else f"{value:.2f}" for value in (f.ratio, f.ratio_p95)]
                    table.add_row(f.name, "" if f.at is None else f"{f.at:,}", *times, *ratios, f.note)
            made.append(table)
        return made

    def plot(self, path: str | Path) -> None:
        """Write the sweeps as a picture with log axes; its format follows the file's ending.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.
        InvalidInputError
            If nothing was swept, or if matplotlib does not know the ending.
        """
        places: dict[str, set[int]] = {}
        for f in self.figures:
            if f.at is not None and f.group != STAGES:
                places.setdefault(f.group, set()).add(f.at)
        sweeps = [group for group, values in places.items() if len(values) > 1]
        if not sweeps:
            raise InvalidInputError("there is nothing to plot: this run had no sweep")
        try:
            from matplotlib.figure import Figure as Picture
            from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
        except ImportError as exc:
            raise MissingExtraError("matplotlib", "bench") from exc
        rows = -(-len(sweeps) // _COLUMNS)
        picture = Picture(figsize=(4.5 * min(_COLUMNS, len(sweeps)), 3.5 * rows), layout="constrained")
        for number, group in enumerate(sweeps, 1):
            axes = picture.add_subplot(rows, min(_COLUMNS, len(sweeps)), number)
            swept = [f for f in self.figures if f.group == group]
            for name in dict.fromkeys(f.name for f in swept):
                line = [(f.at, f.median) for f in swept if f.name == name]
                axes.loglog([at for at, _ in line], [median for _, median in line], marker="o", label=name)
            ticks = sorted(places[group])
            axes.set_xticks(ticks, [f"{at:,}" for at in ticks], fontsize="small")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set(title=group, ylabel="median, ms")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
        try:
            picture.savefig(path)
        except ValueError as exc:
            raise InvalidInputError(f"the picture cannot be written to {path}: {exc}") from exc


def machine() -> dict[str, Any]:
    """Describe the class of machine: architecture, cores, and threads; no names."""
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }

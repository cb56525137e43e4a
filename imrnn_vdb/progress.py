"""One progress bar for all long work: on a terminal's standard error, silent elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def track(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left; yields a function that advances it by n.

    Parameters
    ----------
    title
        What is being done.
    total
        How many steps there are; None if nobody knows.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)

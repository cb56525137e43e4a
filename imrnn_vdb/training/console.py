"""The progress of a training, as one bar on a terminal's standard error; silent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imrnn_vdb.training.settings import Progress as TrainingProgress
from imrnn_vdb.training.settings import Reporter


@contextmanager
def reporting() -> Iterator[Reporter]:
    """Show a bar with loss, held-out nDCG@10 and the time left; yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=None, start=False)

        def report(state: TrainingProgress) -> None:
            bar.start_task(task)
            ndcg = "" if state.ndcg is None else f"  nDCG@10 {state.ndcg:.4f}"
            loss = "" if state.loss is None else f"  loss {state.loss:.3f}"
            text = f"{state.phase}{loss}{ndcg}"
            bar.update(task, description=text, completed=state.done, total=state.total)

        yield report

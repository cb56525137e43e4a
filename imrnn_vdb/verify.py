"""Whether the stored codes are what the stored vectors give: a look that writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from imrnn_vdb.backfill import MAX_FAILURES, Filler
from imrnn_vdb.backfill_plan import plan
from imrnn_vdb.codec import CodeStatus
from imrnn_vdb.metric import Metric
from imrnn_vdb.points import PointId, Points
from imrnn_vdb.scripts import Progress, Round, Script, draw_script
from imrnn_vdb.space import FactorSpace


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """How stored codes compare with what the stored vectors give.

    Attributes
    ----------
    checked
        Points compared.
    differing
        How many differ, by what is wrong: ``missing``, ``other_space``, ``malformed``, ``stale``, or, where the code is
        right, ``without_score``: a factor's score is missing, or is not what the code gives.
    ids
        The first points that differ.
    """

    checked: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    ids: tuple[PointId, ...] = ()

    def __add__(self, other: VerifyReport) -> VerifyReport:
        """Add up two parts."""
        names = sorted({*self.differing, *other.differing})
        counts = {name: self.differing.get(name, 0) + other.differing.get(name, 0) for name in names}
        return VerifyReport(self.checked + other.checked, counts, (*self.ids, *other.ids)[:MAX_FAILURES])

    @property
    def intact(self) -> bool:
        """Whether every point that was checked has its code."""
        return not self.differing


def compare(space: FactorSpace, metric: Metric, points: Points) -> VerifyReport:
    """Recompute the codes of points, read with vectors, and say which stored ones differ."""
    wrong = plan(space, metric, points)
    row_of = {value: row for row, value in enumerate(points.ids)}
    counts: dict[str, int] = {}
    for value, code_differs in zip(wrong.ids, wrong.lacking[:, 0], strict=True):
        status = CodeStatus.MISSING if points.codes is None else CodeStatus(int(points.codes.status[row_of[value]]))
        name = status.name.lower()
        if status is CodeStatus.CURRENT:
            name = "stale" if code_differs else "without_score"
        counts[name] = counts.get(name, 0) + 1
    return VerifyReport(len(points) - len(wrong.failures), counts, tuple(wrong.ids[:MAX_FAILURES]))


def verify_script(filler: Filler, sample: int | None, progress: Progress) -> Script[VerifyReport]:
    """Compare the codes of all points, or of a uniform sample of them; nothing is written.

    Parameters
    ----------
    filler
        What is compared.
    sample
        How many points; None for all.
    progress
        Called with the number of points compared since the last call.
    """
    total, seen, cursor = VerifyReport(), 0, None
    if sample is not None:
        size, condition = filler.options.batch_size, filler.options.payload_filter
        pages = partial(filler.store.scroll, size, payload_filter=condition, with_payloads=False)
        ids = yield from draw_script(pages, lambda points: points.ids, sample, None)
        for part in _parts(ids, filler.batch):
            [points] = yield Round((filler.store.fetch(part, with_vectors=True, with_payloads=False),))
            total += compare(filler.space, filler.metric, points)
            progress(len(points))
        return total
    while True:
        [page] = yield Round((filler.read(cursor, seen),))
        total += compare(filler.space, filler.metric, page.points)
        progress(len(page.points))
        seen, cursor = seen + len(page.points), page.cursor
        if cursor is None:
            return total


def _parts(ids: Sequence[PointId], size: int) -> Iterator[Sequence[PointId]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]

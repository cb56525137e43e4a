"""Recomputing what an audit log says: the codes of today, the query and base scores of then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imrnn_vdb.codec import Codes, CodeStatus
from imrnn_vdb.filter_text import as_filter
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import passing
from imrnn_vdb.points import Candidates, LazyRows, Points, normalize_ids
from imrnn_vdb.refine import Refined, refine_codes
from imrnn_vdb.results import page_of
from imrnn_vdb.steering import steered

if TYPE_CHECKING:
    from imrnn_vdb.connection import Operation
    from imrnn_vdb.core import CollectionCore

TOLERANCE = 1e-6
"""Largest difference of a score or a part that counts as none: another machine rounds otherwise. Relative above 1."""

Status = Literal["holds", "changed", "unknown"]


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What became of one line of an audit log.

    Attributes
    ----------
    line
        Its number, 1-based.
    status
        ``"holds"``: every score, every part and every rank comes out again. ``"changed"``: some do not. ``"unknown"``:
        it cannot be recomputed here.
    reason
        Why it does not hold, or cannot be recomputed; "" where it holds.
    difference
        Largest difference of a score; None where none could be recomputed.
    """

    line: int
    status: Status
    reason: str = ""
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Verdicts on the lines of an audit log, in their order."""

    verdicts: tuple[AuditVerdict, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of lines by status."""
        found = Counter(str(verdict.status) for verdict in self.verdicts)
        return {status: found[status] for status in ("holds", "changed", "unknown")}

    @property
    def holds(self) -> bool:
        """Whether every line holds."""
        return self.counts["holds"] == len(self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and verdicts, ready for JSON."""
        return {"counts": self.counts, "lines": [asdict(verdict) for verdict in self.verdicts]}


def recheck(core: CollectionCore, line: int, entry: dict[str, Any] | None) -> Operation[AuditVerdict]:
    """Recompute one line; see :class:`AuditVerdict`."""
    if entry is None:
        return AuditVerdict(line, "unknown", "this line is no entry of this version")
    try:
        if obstacle := _obstacle(core, entry):
            return AuditVerdict(line, "unknown", obstacle)
        ids = normalize_ids(entry["candidates"]["ids"])
        points = yield from core.store.fetch(ids, with_payloads=False)
        candidates = _candidates(core, entry, points)
        refined = _again(core, entry, candidates)
        verdict = _verdict(line, entry, refined, len(ids) - len(set(points.ids)))
        if verdict.status == "holds" and not _same_page(core, entry, candidates, refined):
            return replace(verdict, status="changed", reason="other results come out, or other ranks")
        return verdict
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        return AuditVerdict(line, "unknown", f"this line is damaged: {type(exc).__name__} {exc}")


def _obstacle(core: CollectionCore, entry: dict[str, Any]) -> str:
    """Say why a line cannot be recomputed here; "" where it can."""
    for name, found in (
        ("collection", core.store.collection),
        ("space_id", core.model.space.space_id),
        ("model_id", core.model.model_id),
    ):
        if entry.get(name) != found:
            return f"it was written for {name} {entry.get(name)!r}, this is {found!r}"
    missing = [name for name in ("query_code", "request", "ids") if name in (entry.get("redacted") or ())]
    return f"{', '.join(missing)} redacted: it cannot be recomputed" if missing else ""


def _candidates(core: CollectionCore, entry: dict[str, Any], points: Points) -> Candidates:
    """Return the candidates of then, with the codes of today."""
    ids, m = list(entry["candidates"]["ids"]), core.model.space.num_factors
    rows = {point_id: row for row, point_id in enumerate(points.ids)}
    missing = np.full(len(ids), CodeStatus.MISSING, np.uint8)
    codes = Codes(np.zeros((len(ids), m), np.float32), np.zeros(len(ids), np.float32), missing)
    for i, point_id in enumerate(ids):
        if points.codes is not None and point_id in rows:
            row = rows[point_id]
            codes.directions[i] = points.codes.directions[row]
            codes.norms[i], codes.status[i] = points.codes.norms[row], points.codes.status[row]
    base = np.asarray(entry["candidates"]["base_scores"], np.float64)
    return Candidates(ids, base, codes, LazyRows(lambda _: {}, len(ids)))


def _again(core: CollectionCore, entry: dict[str, Any], candidates: Candidates) -> Refined:
    code = entry["query_code"]
    query = Codes(
        np.asarray([code["direction"]], np.float32), np.asarray([code["norm"]], np.float32), np.zeros(1, np.uint8)
    )
    (refined,) = refine_codes(core.model, core.metric, query, [candidates], bool(entry["modulated"]))
    steer = entry["request"]["steer"]
    return steered(refined, core.model.space, steer) if steer else refined


def _verdict(line: int, entry: dict[str, Any], refined: Refined, gone: int) -> AuditVerdict:
    scores, then = refined.scored.scores, np.asarray(entry["candidates"]["scores"], np.float64)
    difference = float(np.abs(scores - then).max(initial=0.0))
    reasons = []
    apart = int((~(np.abs(scores - then) <= TOLERANCE * np.maximum(1, np.abs(then)))).sum())  # NaN is apart, too
    if apart:
        reasons.append(f"{apart} of {len(then)} scores come out otherwise, by up to {difference:.2g}")
    if gone:
        reasons.append(f"{gone} of the points are gone")
    unusable = int((~refined.usable).sum()) - gone
    if unusable and apart:
        reasons.append(f"{unusable} have no usable code")
    wrong = _wrong_results(entry, refined)
    if wrong:
        reasons.append(f"the parts of {wrong} results come out otherwise")
    return AuditVerdict(line, "changed" if reasons else "holds", "; ".join(reasons), difference)


def _same_page(core: CollectionCore, entry: dict[str, Any], candidates: Candidates, refined: Refined) -> bool:
    """Say whether the results are those that the scores of then, the filter and the limits give, in that order."""
    if entry["results"] is None:
        return True
    asked = entry["request"]
    request = SearchRequest(
        asked["limit"], asked["offset"], coarse_k=asked["offset"] + asked["limit"], threshold=asked["threshold"]
    )
    condition = as_filter(asked["factor_filter"])
    keep = None if condition is None else passing(condition, core.model.space, candidates, refined)
    scores = np.asarray(entry["candidates"]["scores"], np.float64)
    rows = page_of(candidates.base_scores, scores, request, keep)
    found = [(candidates.ids[row], request.offset + rank) for rank, row in enumerate(rows.tolist(), 1)]
    return found == [(result["id"], result["rank"]) for result in entry["results"]]


def _wrong_results(entry: dict[str, Any], refined: Refined) -> int:
    """Count results whose parts differ from those of today, or do not sum up to their score."""
    results: Sequence[dict[str, Any]] = entry["results"] or ()
    row_of = {point_id: row for row, point_id in enumerate(entry["candidates"]["ids"])}
    wrong = 0
    for result in results:
        row = row_of[result["id"]]
        parts = np.array([result["residual"], *result["contributions"]])
        today = np.array([refined.scored.residuals[row], *refined.scored.contributions[row]])
        scale = TOLERANCE * max(1.0, float(np.abs(parts).max()))
        apart = [*(parts - today), parts.sum() - result["score"], result["score"] - refined.scored.scores[row]]
        wrong += not np.abs(apart).max() <= scale
    return wrong

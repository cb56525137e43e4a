"""What works with a collection, and why: a look that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from time import monotonic
from typing import Any

from imrnn_vdb.attach import Attachment, recorded
from imrnn_vdb.backend import Backend
from imrnn_vdb.backfill import BackfillOptions
from imrnn_vdb.backfill_plan import fresh_codes
from imrnn_vdb.codec import Codes
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.core import stored_fields
from imrnn_vdb.encoder_check import latent_spread, misfit
from imrnn_vdb.errors import IMRNNError, InvalidInputError, SpaceMismatchError, StoreError
from imrnn_vdb.metric import Metric
from imrnn_vdb.opening import choose_vector, found_layout, make_layout
from imrnn_vdb.options import DEFAULT_COARSE_K, Settings
from imrnn_vdb.points import Points
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import Capability, CollectionInfo, Store, VectorField
from imrnn_vdb.verify import compare

_TIMES = 5
_TIMES_AS_LONG_AS_READING = 4
"""How a whole backfill compares with reading and computing alone. Measured on two cores with d = 384 and 26 factors,
4,000 and 10,000 points: 2 times on a Milvus 2.3.5 server, after 3 s to make the sidecar, 4 to 10 in Qdrant Edge, 1 in
Milvus Lite."""


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What a backfill of the points without a code would take, guessed from a few of them.

    Attributes
    ----------
    points
        Points without a current code or a factor's score: counted where that is cheap, else by the share of the sample,
        which alone tells of those whose code is stale or lacks a score.
    counted
        Whether they were counted.
    size
        Bytes of their codes and factor scores, before the engine's own overhead, indexes and copies.
    seconds
        Of a whole pass; None for an empty collection. Reading and computing were measured, writing was not: it is
        taken as `_TIMES_AS_LONG_AS_READING`, so expect it to be wrong by a factor of three either way.
    """

    points: int
    counted: bool
    size: int
    seconds: float | None

    def __str__(self) -> str:
        how = "counted" if self.counted else "by the share of the sample"
        if not self.points:
            return f"nothing is missing ({how})"
        took = "" if self.seconds is None else f", about {_duration(self.seconds)} (estimated from a sample of reads)"
        return f"{self.points} points lack a current code or a score ({how}): about {self.size / 2**20:.1f} MiB{took}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about a collection.

    Attributes
    ----------
    info
        Server, vectors, number of points, settings.
    capabilities
        What works here and what does not, the fit of the model first.
    codes
        How many of the sampled points have a code that is current, missing, stale, of another space …
    backfill
        What is left to do; None where the model does not fit.
    attached
        How the collection is opened, where that is recorded in it.
    """

    info: CollectionInfo
    capabilities: tuple[Capability, ...]
    codes: Mapping[str, int] = field(default_factory=dict)
    backfill: BackfillEstimate | None = None
    attached: Attachment | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        vectors = {
            name: {"dim": found.dim, "metric": str(found.metric), "quantized": found.quantized}
            for name, found in self.info.vectors.items()
        }
        return {
            "server": self.info.server,
            "count": self.info.count,
            "vectors": vectors,
            "settings": dict(self.info.settings),
            "sampled_codes": dict(self.codes),
            "backfill": asdict(self.backfill) if self.backfill else None,
            "attached": self.attached.to_dict() if self.attached else None,
            "capabilities": [asdict(capability) for capability in self.capabilities],
        }


def diagnose(
    backend: Backend,
    connection: Connection,
    collection: str,
    space: FactorSpace,
    settings: Settings,
    attachment: Attachment | None = None,
) -> Operation[Diagnosis]:
    """Read server and collection, and a sample of its points; say where the attachment in use is for another space."""
    store = backend.store(connection, collection, make_layout(space, settings), settings.guard)
    info = yield from store.info()
    attached, record = yield from _record(store, space)
    record = (*_attachment(attachment, space), *record)
    try:
        name = choose_vector(collection, info, space.dim, settings.vector_name)
    except (InvalidInputError, SpaceMismatchError) as exc:
        unfit = Capability("model fits", "no", str(exc))
        return Diagnosis(info, (unfit, *record, *info.capabilities), attached=attached)
    store.layout = found_layout(space, settings, info, name)
    coded = yield from store.coded()
    started = monotonic()
    size = BackfillOptions().batch_points(space.dim)
    page = yield from store.scroll(size, with_vectors=True, with_payloads=False)
    points = page.points
    codes = _codes_of(points, space, info.vectors[name])
    seconds = (monotonic() - started) / len(points) if len(points) else None
    estimate = _estimate(store, space, info.count, coded, codes, seconds)
    second = yield from _second_call(store, points)
    fit = _fit(name, info.vectors[name], space, points)
    return Diagnosis(info, (*fit, *record, *second, *info.capabilities), codes, estimate, attached)


def _attachment(attachment: Attachment | None, space: FactorSpace) -> tuple[Capability, ...]:
    try:
        if attachment is not None:
            attachment.check(space)
    except SpaceMismatchError as exc:
        return (Capability("attachment", "no", str(exc)),)
    return ()


def _record(store: Store, space: FactorSpace) -> Operation[tuple[Attachment | None, tuple[Capability, ...]]]:
    """Read how the collection is opened, where it says so, and whether that is this model's space."""
    try:
        attached = yield from recorded(store)
        if attached is not None:
            attached.check(space)
    except IMRNNError as exc:
        if isinstance(exc, StoreError):
            raise
        return None, (Capability("recorded in the collection", "no", str(exc)),)
    return attached, ()


def _fit(name: str, found: VectorField, space: FactorSpace, points: Points) -> tuple[Capability, ...]:
    where = f"vector {name!r}" if name else "the unnamed vector"
    quantized = (
        Capability("quantisation", "fallback", "base scores are as exact as the engine's rescoring; the rest is exact")
        if found.quantized
        else Capability("quantisation", "works", "the vector is stored as it is, as far as the engine tells")
    )
    scores = (
        Capability("exact scores", "works", f"{found.metric} scores split exactly into factors")
        if found.metric.factorable
        else Capability("exact scores", "no", f"a {found.metric} distance does not split: the database's order is kept")
    )
    fits = Capability("model fits", "works", f"{where} has {found.dim} dimensions, as the model")
    return fits, _encoder(space, points), scores, quantized


def _encoder(space: FactorSpace, points: Points) -> Capability:
    spread = latent_spread(space, points.vectors)
    if reason := misfit(spread):
        return Capability("encoder", "no", reason)
    if spread is None:
        return Capability("encoder", "fallback", "too few vectors or latent factors to tell which encoder made them")
    why = f"the vectors vary along the model's latent factors {spread:.1f} times as much as by chance, as they should"
    return Capability("encoder", "works", why)


def _codes_of(points: Points, space: FactorSpace, found: VectorField) -> dict[str, int]:
    """Compare the sample's codes with what its vectors give."""
    report = compare(space, found.metric, points)
    current = report.checked - sum(report.differing.values())
    return {**({"current": current} if current else {}), **report.differing}


def _estimate(
    store: Store, space: FactorSpace, count: int, coded: int | None, codes: Mapping[str, int], seconds: float | None
) -> BackfillEstimate:
    sampled = sum(codes.values())
    if coded is None:
        missing, differing = 0, sampled - codes.get("current", 0)
    else:
        missing, differing = count - min(coded, count), codes.get("stale", 0) + codes.get("without_score", 0)
    missing = min(count, missing + round(count * differing / max(sampled, 1)))
    one = stored_fields(space, store.layout, _any_code(space))[0]
    share = _TIMES_AS_LONG_AS_READING if missing else 1
    took = None if seconds is None else seconds * (count + (share - 1) * missing)
    return BackfillEstimate(missing, coded is not None and not differing, missing * store.bytes_of(one), took)


def _any_code(space: FactorSpace) -> Codes:
    return fresh_codes(space, Metric.COSINE, space.basis[:, :1].T)


def _second_call(store: Store, points: Points) -> Operation[tuple[Capability, ...]]:
    """Say what codes beside the collection cost each search, measured by the median of a few reads."""
    ids = points.ids[:DEFAULT_COARSE_K]
    times = []
    for _ in range(_TIMES if ids else 0):
        took = yield from store.second_call(ids)
        if took is None:
            return ()
        times.append(took)
    if not times:
        return ()
    why = (
        f"a search makes a second call, for the codes in a sidecar: {median(times) * 1e3:.1f} ms for {len(ids)} keys "
        f"(median of {_TIMES} reads just now)"
    )
    return (Capability("cost of a sidecar", "fallback", why),)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

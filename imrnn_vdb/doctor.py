"""What works with a collection, and why: a look that changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imrnn_vdb.codec import CodeStatus
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.core import choose_vector, found_layout, make_layout
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.options import Settings
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import Backend, Capability, CollectionInfo

_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about a collection.

    Attributes
    ----------
    info
        Server, vectors, number of points.
    capabilities
        What works here and what does not, the fit of the model first.
    codes
        How many of the sampled points have a code that is current, missing, of another space …
    """

    info: CollectionInfo
    capabilities: tuple[Capability, ...]
    codes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        vectors = {
            name: {"dim": field.dim, "metric": str(field.metric), "quantized": field.quantized}
            for name, field in self.info.vectors.items()
        }
        return {
            "server": self.info.server,
            "count": self.info.count,
            "vectors": vectors,
            "sampled_codes": dict(self.codes),
            "capabilities": [asdict(capability) for capability in self.capabilities],
        }


def diagnose(
    backend: Backend, connection: Connection, collection: str, space: FactorSpace, settings: Settings
) -> Operation[Diagnosis]:
    """Read server and collection, and a sample of its points."""
    store = backend.store(connection, collection, make_layout(space, settings), settings.guard)
    info = yield from store.info()
    try:
        name = choose_vector(collection, info, space.dim, settings.vector_name)
    except (InvalidInputError, SpaceMismatchError) as exc:
        return Diagnosis(info, (Capability("model fits", "no", str(exc)), *info.capabilities), {})
    field = info.vectors[name]
    where = f"vector {name!r}" if name else "the unnamed vector"
    fit = Capability("model fits", "works", f"{where} has {field.dim} dimensions, as the model")
    scoring = (
        Capability("exact scores", "works", f"{field.metric} scores split exactly into factors")
        if field.metric.factorable
        else Capability("exact scores", "no", f"a {field.metric} distance does not split: the database's order is kept")
    )
    store = backend.store(connection, collection, found_layout(space, settings, info, name), settings.guard)
    page = yield from store.scroll(_SAMPLE)
    codes: Counter[str] = Counter()
    if page.points.codes is not None:
        codes.update(CodeStatus(int(status)).name.lower() for status in page.points.codes.status)
    return Diagnosis(info, (fit, scoring, *info.capabilities), codes)

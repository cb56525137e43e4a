"""`doctor` on every engine: what it says is so, and it changes nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from drivers import Driver
from test_collection import Collection, data, make  # noqa: F401  (the fixture)

from factory import make_model, make_space
from imrnn_vdb.connection import Operation
from imrnn_vdb.doctor import Diagnosis, diagnose
from imrnn_vdb.options import Settings
from imrnn_vdb.points import Points

MODES = ("sync",)  # the command is
COUNT = 60


def run(collection: Collection, operation: Operation[Any]) -> Any:
    connection = collection.inner._connection
    if collection.loop is None:
        return connection.run(operation)
    return collection.loop.run_until_complete(connection.arun(operation))


def examined(collection: Collection, driver: Driver, **options: Any) -> Diagnosis:
    """Diagnose, and check on the way that all the vendor can tell is as it was."""
    connection, name = collection.inner._connection, collection.inner.name
    kind = _kind(connection.client)
    before = run(collection, everything(name, kind))
    space = options.pop("space", collection.inner.model.space)
    found = run(collection, diagnose(driver.backend, connection, name, space, Settings(**options)))
    assert run(collection, everything(name, kind)) == before
    json.dumps(found.to_dict())
    return found


def everything(name: str, kind: str) -> Operation[str]:
    """Read points, payloads, vectors, schema, indexes and metadata with the vendor's own calls."""
    if kind == "edge":
        return (yield lambda engine, _: _edge_state(engine, name))
    if kind == "qdrant":
        about = yield lambda client, _: client.get_collection(name)
        points = yield lambda client, _: client.scroll(name, limit=1000, with_payload=True, with_vectors=True)
        return f"{about!r}{json.dumps([point.model_dump() for point in points[0]], sort_keys=True, default=str)}"
    names = yield lambda client, seconds: client.list_collections(timeout=seconds)
    state = []
    for one in sorted(found for found in names if found.startswith(name)):
        about = yield _ask("describe_collection", one)
        indexes = yield _ask("list_indexes", one)
        details = []
        for index in indexes:
            detail = yield _ask("describe_index", one, index_name=index)
            details.append({name: value for name, value in detail.items() if "rows" not in name and name != "state"})
        fields = [field["name"] for field in about["fields"]] + ["$meta"]
        rows = yield _ask("query", one, filter="", output_fields=fields, limit=1000, consistency_level="Strong")
        state.append([one, about, details, sorted(json.dumps(dict(row), sort_keys=True, default=str) for row in rows)])
    return repr(state)


def _kind(client: Any) -> str:
    if hasattr(type(client), "shard"):
        return "edge"
    return "qdrant" if "qdrant" in type(client).__module__ else "milvus"


def _ask(method: str, name: str, **arguments: Any) -> Any:
    return lambda client, seconds: getattr(client, method)(collection_name=name, timeout=seconds, **arguments)


def _edge_state(engine: Any, name: str) -> str:
    import qdrant_edge as edge

    shard = engine.shard(name)
    records, _ = shard.scroll(edge.ScrollRequest(limit=1000, with_payload=True, with_vector=True))
    info = shard.info()
    config = (engine.root / name / "edge_config.json").read_text("utf-8")
    points = json.dumps([[str(one.id), one.payload, one.vector] for one in records], sort_keys=True)
    return f"{sorted(info.payload_schema)}{info.points_count}{points}{config}"


def bare(collection: Collection, rng: np.random.Generator) -> None:
    """Write points without codes, as their team would."""
    ids, vectors, payloads = data(rng, COUNT)
    run(collection, collection.inner._core.store.upsert(Points(ids, vectors, payloads)))


def test_doctor_tells_what_is_there_and_what_is_left_to_do(make, driver: Driver, rng) -> None:  # noqa: F811
    collection = make(make_model())
    empty = examined(collection, driver)
    assert empty.info.count == empty.backfill.points == 0
    assert empty.backfill.seconds is None

    bare(collection, rng)
    found = examined(collection, driver)
    status = {capability.name: capability.status for capability in found.capabilities}
    assert status["model fits"] == status["exact scores"] == "works"
    assert found.info.count == COUNT
    assert found.codes == {"missing": COUNT}
    assert found.backfill.points == COUNT
    assert found.backfill.size > COUNT * 30  # 8 half floats in base64 alone
    assert found.backfill.seconds > 0
    assert found.attached is None

    unfit = examined(collection, driver, space=make_space(dim=48))
    assert (unfit.capabilities[0].name, unfit.capabilities[0].status) == ("model fits", "no")
    assert "attach --fit" in unfit.capabilities[0].why
    assert unfit.backfill is None

    run(collection, _half_filled(collection))
    half = examined(collection, driver)
    assert half.codes == {"current": COUNT // 2, "missing": COUNT // 2}
    assert half.backfill.points == COUNT // 2
    collection.call("backfill", in_place=collection.inner._core.store.layout.code_storage == "vector" or needs(driver))
    full = examined(collection, driver)
    assert full.codes == {"current": COUNT}
    assert full.backfill.points == 0
    assert "nothing is missing" in str(full.backfill)

    space = collection.inner.model.space
    wider = space.with_factor("cricket", np.eye(space.num_factors)[-1], space.quantiles[0])
    grown = examined(collection, driver, space=wider)
    assert grown.codes == {"without_score": COUNT}
    assert (grown.backfill.points, grown.backfill.counted) == (COUNT, False)


def needs(driver: Driver) -> bool:
    """Whether codes lie in the rows of a collection that we made, so that a backfill rewrites rows."""
    return driver.engine.name.startswith("milvus")


def _half_filled(collection: Collection) -> Operation[None]:
    core = collection.inner._core
    ids, vectors, _ = data(np.random.default_rng(7), COUNT)
    points = core.points(ids[: COUNT // 2], None, vectors[: COUNT // 2], None)
    yield from core.store.write_codes(points.ids, points.codes, points.factor_scores)

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
    before = run(collection, driver.engine.contents(name))
    space = options.pop("space", collection.inner.model.space)
    found = run(collection, diagnose(driver.backend, connection, name, space, Settings(**options)))
    assert run(collection, driver.engine.contents(name)) == before
    json.dumps(found.to_dict())
    return found


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
    in_place = driver.engine.code_storage == "vector" or driver.engine.rewrites_rows
    collection.call("backfill", in_place=in_place)
    full = examined(collection, driver)
    assert full.codes == {"current": COUNT}
    assert full.backfill.points == 0
    assert "nothing is missing" in str(full.backfill)

    space = collection.inner.model.space
    wider = space.with_factor("cricket", np.eye(space.num_factors)[-1], space.quantiles[0])
    grown = examined(collection, driver, space=wider)
    assert grown.codes == {"without_score": COUNT}
    assert (grown.backfill.points, grown.backfill.counted) == (COUNT, False)


def _half_filled(collection: Collection) -> Operation[None]:
    core = collection.inner._core
    ids, vectors, _ = data(np.random.default_rng(7), COUNT)
    points = core.points(ids[: COUNT // 2], None, vectors[: COUNT // 2], None)
    yield from core.store.write_codes(points.ids, points.codes, points.factor_scores)

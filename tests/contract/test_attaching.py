"""How a collection is opened, recorded in its own metadata; and a vector for codes added to it: on every engine."""

from __future__ import annotations

import numpy as np
import pytest
from drivers import Driver
from test_collection import data, make  # noqa: F401  (the fixture)
from test_doctor import examined, run

from factory import make_model
from imrnn_vdb.attach import Attachment, record, recorded
from imrnn_vdb.errors import InvalidInputError, UnsupportedError
from imrnn_vdb.metric import Metric
from imrnn_vdb.results import SearchResponse

COUNT = 12


def test_a_record_in_the_collection_is_read_back_and_no_search_sees_it(make, driver: Driver, rng) -> None:  # noqa: F811
    model = make_model()
    collection = make(model)
    ids, vectors, payloads = data(rng, COUNT)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    store, name = collection.inner._core.store, collection.inner.name
    attachment = Attachment(f"{driver.base_url}/{name}", "minilm", model.space.space_id, "", 'te"xt\\é🙂')
    assert run(collection, recorded(store)) is None
    if not driver.engine.keeps_records:
        with pytest.raises(UnsupportedError, match="keeps no metadata"):
            run(collection, record(store, attachment))
        return
    for field in ('te"xt\\é🙂', "body"):  # twice: the second replaces the first
        run(collection, record(store, Attachment(attachment.url, "minilm", model.space.space_id, "", field)))
        assert run(collection, recorded(store)).text_field == field
    assert collection.call("count") == COUNT
    found = collection.call("search", vectors[0], limit=COUNT * 2)
    assert {result.id for result in found} == set(ids)
    assert all(set(result.payload) == set(payloads[0]) for result in found)
    assert examined(collection, driver).attached.text_field == "body"
    with pytest.raises(InvalidInputError, match="all its tenants"):
        run(collection, record(store, Attachment(attachment.url, "minilm", "0a1b2c3d", guard={"tenant": "a"})))


def test_a_vector_for_codes_is_added_once_where_the_engine_can(make, driver: Driver, rng) -> None:  # noqa: F811
    if driver.engine.code_storage == "vector":
        pytest.skip("these collections are made with one")
    collection = make(make_model(), vector_name="theirs")
    ids, vectors, payloads = data(rng, COUNT)
    collection.call("upsert", ids, vectors=vectors, payloads=payloads)
    query = rng.normal(size=32)
    before = collection.call("search", query, limit=COUNT)
    if not driver.engine.adds_code_vector:
        with pytest.raises(UnsupportedError, match=r"sidecar|cannot be given"):
            collection.call("add_code_vector")
        assert collection.call("search", query, limit=COUNT) == before
        return
    for _ in range(2):
        collection.call("add_code_vector")
    assert not any(result.modulated for result in collection.call("search", query, limit=COUNT))
    assert collection.call("backfill").written == COUNT
    check_same(collection.call("search", query, limit=COUNT), before)
    assert collection.call("fetch", ids, with_vectors=True).payloads == payloads
    collection.call("close")
    opened = make(make_model(), collection.inner.name, "open", vector_name="theirs")
    check_same(opened.call("search", query, limit=COUNT), before)


def check_same(after: SearchResponse, before: SearchResponse) -> None:
    assert [result.id for result in after] == [result.id for result in before]
    np.testing.assert_allclose([r.score for r in after], [r.score for r in before], atol=1e-3)  # half floats in text


def test_a_metric_that_does_not_split_is_refused_with_what_to_do(make, driver: Driver, rng) -> None:  # noqa: F811
    from imrnn_vdb.attach import attach
    from imrnn_vdb.errors import SpaceMismatchError
    from imrnn_vdb.options import Settings

    model = make_model()
    collection = make(model, metric=Metric.MANHATTAN)
    where = f"{driver.base_url.replace(':memory:', 'memory')}/{collection.inner.name}"
    looking = attach(driver.backend, collection.inner._connection, where, "minilm", model.space, Settings())
    with pytest.raises(SpaceMismatchError, match=r"manhattan, whose distances do not split.*copy the points into"):
        run(collection, looking)

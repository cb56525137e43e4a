"""What the framework adapters share."""

from __future__ import annotations

import uuid

import pytest

from frames import QUERY, TEXTS, filled, opened
from imrnn_vdb import InvalidInputError
from imrnn_vdb.framework import Collections, in_new_order, told_id
from imrnn_vdb_qdrant.ids import native_id


@pytest.fixture
def collection(tmp_path):
    with opened(filled(tmp_path)) as collection:
        yield collection


def test_an_adapter_needs_a_collection(collection):
    with pytest.raises(InvalidInputError, match="give a collection"):
        Collections()
    assert Collections(collection).text_field == "text"


async def test_an_asynchronous_collection_alone_answers_no_blocking_call(collection):
    only = Collections(None, collection)  # which kind it is, only the call finds out
    with pytest.raises(InvalidInputError, match="async method"):
        only.search(QUERY, {})
    found = await Collections(collection).asearch(QUERY, {"limit": 3})
    assert list(found) == list(collection.search(QUERY, limit=3, explain=True))


def test_documents_follow_the_response_and_strangers_come_last(collection):
    response = collection.rerank(QUERY, range(5))
    order = [result.id for result in response]
    stranger = uuid.uuid4()
    asked = Collections(collection)
    pairs = in_new_order(asked, list("xabcdea"), [stranger, 0, 1, 2, 3, 4, 0], response, {"limit": 7, "only": None})
    named = {0: "aa", 1: "b", 2: "c", 3: "d", 4: "e"}
    assert [document for document, _ in pairs] == [*"".join(named[point] for point in order), "x"]
    assert pairs[-1][1] == {
        "id": str(stranger),
        "modulated": False,
        "reason": "the collection has no point of this id",
    }
    assert len(in_new_order(asked, "ab", [0, 1], response, {"limit": 1})) == 1
    assert in_new_order(asked, "x", [stranger], response, {"threshold": 0.0}) == []
    with pytest.raises(InvalidInputError, match="limit must be at least 1"):
        in_new_order(asked, "ab", [0, 1], response, {"limit": 0})


@pytest.mark.parametrize("limit", [1, None])
def test_all_points_are_ranked_whatever_the_limit(collection, limit):
    asked, options = Collections(collection), {"limit": limit}
    response = asked.rerank(QUERY, range(5), options)
    assert response.results == collection.rerank(QUERY, range(5), explain=True).results
    wanted = [result.id for result in response][:limit]
    assert [told["id"] for _, told in in_new_order(asked, "abcde", range(5), response, options)] == wanted


@pytest.mark.parametrize("foreign", ["text", "paid", ["id"], 5, None, {"id": None}, {"id": {"a": 1}}, {}])
def test_what_is_foreign_under_our_key_tells_no_id(foreign):
    assert told_id({"imrnn": foreign}) is None
    assert told_id({}) is None
    assert [told_id({"imrnn": {"id": own}}) for own in (0, "a")] == [0, "a"]


async def test_a_point_is_found_by_its_id_and_by_the_databases_key_of_it(tmp_path):
    names = ["doc-1", "doc-2", "doc-3"]
    with opened(filled(tmp_path, "qdrant+local")) as collection:
        collection.delete(range(len(TEXTS)))
        collection.upsert(names, texts=TEXTS[:3])
        keys = [record.id for record in collection.client.scroll(collection.name)[0]]
        assert {collection.key_of(name) for name in names} == set(keys)
        assert [collection.key_of(key) for key in keys] == keys
        asked, ids = Collections(collection), [*keys, *names]
        response = asked.rerank(QUERY, ids, {})
        assert sorted(result.id for result in response) == names
        assert (await asked.arerank(QUERY, ids, {})).results == response.results
        found = in_new_order(asked, ids, ids, response, {})
    assert len(found) == 6
    assert all(told["modulated"] for _, told in found)
    assert all(document in (told["id"], native_id(told["id"])) for document, told in found)


def test_the_collection_of_the_tests_has_texts(collection):
    assert collection.count() == len(TEXTS)

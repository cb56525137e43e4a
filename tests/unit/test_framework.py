"""What the framework adapters share."""

from __future__ import annotations

import uuid

import pytest

from frames import QUERY, TEXTS, filled, opened
from imrnn_vdb import InvalidInputError
from imrnn_vdb.framework import Collections, in_new_order


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
    pairs = in_new_order(list("xabcdea"), [stranger, 0, 1, 2, 3, 4, 0], response, 7, {"only": None})
    named = {0: "aa", 1: "b", 2: "c", 3: "d", 4: "e"}
    assert [document for document, _ in pairs] == [*"".join(named[point] for point in order), "x"]
    assert pairs[-1][1] == {
        "id": str(stranger),
        "modulated": False,
        "reason": "the collection has no point of this id",
    }
    assert len(in_new_order("ab", [0, 1], response, 1, {})) == 1
    assert in_new_order("x", [stranger], response, 5, {"threshold": 0.0}) == []


def test_the_collection_of_the_tests_has_texts(collection):
    assert collection.count() == len(TEXTS)

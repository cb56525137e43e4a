"""Hostile text where no database is asked: URLs, factor filters, attachments, queries and texts to encode."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile
from factory import make_model
from imrnn_vdb import IMRNNCollection
from imrnn_vdb.attach import Attachment
from imrnn_vdb.errors import IMRNNError, InvalidInputError
from imrnn_vdb.filter_text import format_filter, parse_filter
from imrnn_vdb.filters import FactorFilter
from imrnn_vdb.guard import checked_guard
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.urls import CollectionURL, parse_url

nested = st.sampled_from(["(", "not ", "[", '{"a":', "~("]).flatmap(lambda one: st.integers(1, 3000).map(one.__mul__))
SIGNS = 'entity match top and or not ( ) , >= < "a" 0.5 -1 1e999'
words = st.lists(st.sampled_from(SIGNS.split()), max_size=12)
TEXT = hostile.texts | nested | words.map(" ".join)


@given(hostile.texts | st.builds("{}:{}/{}".format, st.sampled_from(["qdrant", "milvus+lite"]), TEXT, hostile.texts))
def test_a_url_is_read_or_refused(text: str) -> None:
    try:
        found = parse_url(text)
    except InvalidInputError:
        return
    assert isinstance(found, CollectionURL)
    assert found.collection
    assert "@" not in found.host


@given(TEXT)
def test_a_factor_filter_is_read_or_refused(text: str) -> None:
    try:
        tree = parse_filter(text)
    except InvalidInputError:
        return
    assert isinstance(tree, FactorFilter)
    assert parse_filter(format_filter(tree)) == tree


@given(TEXT)
def test_an_attachment_is_read_or_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        Attachment.from_text(text, "here")


@given(hostile.values)
def test_a_guard_is_taken_or_refused(value: object) -> None:
    try:
        found = checked_guard({"tenant": value})
    except InvalidInputError:
        return
    assert dict(found) == {"tenant": value}
    assert type(value) in (str, int, bool)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf])
def test_a_threshold_is_a_number(threshold: float) -> None:
    with pytest.raises(InvalidInputError, match="threshold"):
        SearchRequest(threshold=threshold)


def test_texts_to_encode_are_texts(tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(text.encode().decode() for text in texts)  # as every tokenizer does
        return np.ones((len(texts), 32))

    with IMRNNCollection.create(f"qdrant+edge:{tmp_path}/c", make_model(), encoder=embed) as collection:

        @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=50)
        @given(hostile.texts)
        def searches(text: str) -> None:
            if text.strip() and hostile.is_text(text):
                assert len(collection.search(text)) <= 10
                collection.upsert(["one"], texts=[text], payloads=[{}])
                assert collection.fetch(["one"]).payloads == [{"text": text}]
                assert asked[-1] == text
            else:
                with pytest.raises(IMRNNError):
                    collection.search(text)
                if text.strip():
                    with pytest.raises(InvalidInputError):
                        collection.upsert(["one"], texts=[text])

        searches()

"""What cannot be asked is refused when the request is made, before anything is sent."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imrnn_vdb import IMRNNCollection, factor
from imrnn_vdb.audit import AuditLog
from imrnn_vdb.backfill import BackfillKeywords, BackfillOptions
from imrnn_vdb.core import whole_window
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.options import CreateOptions, RerankOptions, SearchOptions, SearchRequest, Settings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"limit": "5"}, "limit is a whole number, got '5'"),
        ({"limit": None}, "limit is a whole number, got None"),
        ({"limit": 5.0}, "limit is a whole number, got 5.0"),
        ({"offset": None}, "offset is a whole number"),
        ({"coarse_k": 50.0}, "coarse_k is a whole number"),
        ({"max_coarse_k": "800"}, "max_coarse_k is a whole number"),
        ({"threshold": "0.1"}, "threshold is a finite score"),
        ({"threshold": float("nan")}, "threshold is a finite score"),
        ({"steer": {"entity": "1"}}, "scales a factor's contributions"),
        ({"steer": {"entity": True}}, "scales a factor's contributions"),
        ({"steer": ["entity"]}, "weights by factor name"),
        ({"only": ["entity"]}, "the name of one factor"),
        ({"audit": 5}, "audit is an AuditLog, the path of one, or None, got 5"),
        ({"topics": 5}, "topics are Topics, or the path of their file, got 5"),
        ({"factor_filter": factor("entity"), "only": "entity"}, "built from factor"),
        ({"factor_filter": (factor("a") >= 0.1) & 5}, "built from factor"),
        ({"factor_filter": reduce(or_, [factor("a") >= 0.1] * 1200)}, "at most 400 conditions"),
    ],
)
def test_what_makes_no_sense_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        SearchRequest(**options)


@pytest.mark.parametrize(
    ("keywords", "checked", "methods"),
    [
        (SearchOptions, SearchRequest, [IMRNNCollection.search]),
        (CreateOptions, Settings, [IMRNNCollection.open, IMRNNCollection.create]),
        (BackfillKeywords, BackfillOptions, [IMRNNCollection.backfill]),
    ],
)
def test_keywords_are_what_is_checked_and_what_is_documented(keywords: Any, checked: Any, methods: list[Any]) -> None:
    assert set(keywords.__annotations__) == {field.name for field in fields(checked)}
    told = "".join(re.findall("``(.+?)``", "".join(method.__doc__ for method in methods), re.S))
    for field in fields(checked):
        default = getattr(field.default, "value", field.default)
        assert f"{field.name}={default!r}".replace("'", '"') in told
    assert RerankOptions.__annotations__.keys() < SearchOptions.__annotations__.keys()


def test_numbers_of_numpy_are_numbers() -> None:
    request = SearchRequest(
        limit=np.int64(5), coarse_k=np.uint16(50), threshold=np.float32(0.5), steer={"entity": np.float32(1.5)}
    )
    assert (request.limit, request.coarse_k, request.steer) == (5, 50, {"entity": 1.5})
    assert type(request.limit) is int


@pytest.mark.parametrize("options", [{}, {"coarse_k": 20}, {"limit": 150}, {"passes": 2}, {"passes": 2, "limit": 150}])
def test_the_whole_window_is_that_of_the_search(options: Any) -> None:
    request = SearchRequest(**options)
    whole = whole_window(options)
    assert whole.window == request.window
    assert whole.limit == request.window * request.passes
    assert whole.max_coarse_k == request.window


def test_a_window_may_be_smaller_than_a_page() -> None:
    assert whole_window({"coarse_k": 5}).limit == 5


def test_a_key_that_is_no_bytes_is_refused_before_the_first_search(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="the key of the hash is bytes"):
        AuditLog(tmp_path / "log", key="secret")  # type: ignore[arg-type]

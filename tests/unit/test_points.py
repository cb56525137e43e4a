"""Ids in the form in which they travel, and rows of candidates."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from imrnn_vdb.codec import Codes
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.points import Candidates, normalize_ids, possible_ids


def test_ids_travel_as_integers_and_text() -> None:
    given = [0, -(2**63), 2**64 - 1, np.int32(-7), "a", uuid.UUID(int=1)]
    assert normalize_ids(given) == [0, -(2**63), 2**64 - 1, -7, "a", str(uuid.UUID(int=1))]


def test_what_reads_as_a_number_may_be_one() -> None:
    texts = ["7", "-7", "07", "1_0", "x", "", str(2**64), "9" * 5000]
    assert possible_ids(texts) == ["7", "-7", "07", "1_0", "x", str(2**64), "9" * 5000, 7, -7]


@pytest.mark.parametrize("value", ["abc", b"abc", 5, uuid.UUID(int=1), None])
def test_one_id_is_no_list(value: object) -> None:
    with pytest.raises(InvalidInputError, match="point ids come as a list"):
        normalize_ids(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, 1.0, "", 2**64, -(2**63) - 1, None])
def test_what_no_id_is(value: object) -> None:
    with pytest.raises(InvalidInputError, match="a point id is"):
        normalize_ids([value])


def test_rows_without_a_score_are_left_out() -> None:
    codes = Codes(np.eye(4, dtype=np.float32), np.ones(4, np.float32), np.zeros(4, np.uint8))
    scores = np.array([3, np.nan, 2, -np.inf])
    found = Candidates(["a", "b", "c", "d"], scores, codes, [{"n": n} for n in range(4)], cut_short=True)
    kept = found.finite()
    assert (list(kept.ids), kept.base_scores.tolist(), list(kept.payloads)) == (
        ["a", "c"],
        [3, 2],
        [{"n": 0}, {"n": 2}],
    )
    assert kept.codes.directions.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert kept.cut_short
    assert kept.finite() is kept
    assert list(found.first(3).finite().ids) == ["a", "c"]
    assert not found.first(3).cut_short

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imrnn_vdb.codec import Codes, CodeStatus, decode_rows, decode_texts, encode_rows, encode_texts, row_width
from imrnn_vdb.errors import InvalidInputError

SPACE = "0123abcd"


def codes_of(directions: np.ndarray, norms: np.ndarray | None = None) -> Codes:
    directions = np.asarray(directions, np.float32)
    norms = np.ones(len(directions), np.float32) if norms is None else np.asarray(norms, np.float32)
    return Codes(directions, norms, np.zeros(len(directions), np.uint8))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 70)), elements=st.floats(-1, 1, width=32)),
    st.sampled_from(["float16", "float32"]),
)
def test_texts_come_back_at_their_precision(directions, dtype):
    norms = np.linspace(0.1, 1e6, len(directions))
    stored = encode_texts(codes_of(directions, norms), SPACE, dtype)
    read = decode_texts(stored, SPACE, directions.shape[1])
    assert read.current.all()
    np.testing.assert_array_equal(read.directions, directions.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(read.norms, norms.astype(np.float32))


def test_a_code_of_64_half_floats_is_short():
    (text,) = encode_texts(codes_of(np.zeros((1, 64))), SPACE)
    assert len(text) == 184
    assert text.startswith(SPACE)


def test_what_cannot_be_used_is_marked_and_its_neighbours_are_read(rng):
    directions = rng.normal(size=(3, 8)).astype(np.float32) / 8
    good = encode_texts(codes_of(directions), SPACE)
    other = encode_texts(codes_of(directions), "ffffffff")
    damaged = good[1][:-3] + "*=!"
    not_finite = SPACE + base64.b64encode(np.array([np.nan] * 5, "<f4").tobytes() + b"\0").decode()
    given_ = [good[0], None, other[0], damaged, 17, "", good[2], good[0][:-4], "é" * len(good[0]), SPACE, not_finite]
    read = decode_texts(given_, SPACE, 8)
    assert [CodeStatus(status) for status in read.status] == [
        CodeStatus.CURRENT,
        CodeStatus.MISSING,
        CodeStatus.OTHER_SPACE,
        CodeStatus.MALFORMED,
        CodeStatus.MALFORMED,
        CodeStatus.MALFORMED,
        CodeStatus.CURRENT,
        CodeStatus.MALFORMED,
        CodeStatus.OTHER_SPACE,
        CodeStatus.MALFORMED,
        CodeStatus.MALFORMED,
    ]
    np.testing.assert_allclose(read.directions[[0, 6]], directions[[0, 2]], atol=1e-3)
    assert not read.directions[~read.current].any()


def test_widths_may_be_mixed(rng):
    directions = rng.normal(size=(2, 8)).astype(np.float32) / 8
    half = encode_texts(codes_of(directions), SPACE, "float16")
    full = encode_texts(codes_of(directions), SPACE, "float32")
    read = decode_texts([half[0], full[1]], SPACE, 8)
    np.testing.assert_array_equal(read.directions[1], directions[1])
    np.testing.assert_allclose(read.directions[0], directions[0], atol=1e-3)


@given(st.lists(st.one_of(st.none(), st.text(), st.binary(), st.integers(), st.lists(st.floats())), max_size=6))
def test_foreign_data_is_never_an_error(values):
    read = decode_texts(values, SPACE, 4)
    assert not read.current.any()
    assert len(read) == len(values)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("m", [1, 2, 7, 8, 64])
def test_rows_hold_what_texts_hold(dtype, m, rng):
    directions = rng.normal(size=(5, m))
    codes = codes_of(directions / np.linalg.norm(directions, axis=1, keepdims=True), [1e-30, 2, 3e8, 0, 5])
    rows = encode_rows(codes, dtype)
    assert rows.shape == (5, row_width(m, dtype))
    assert rows.dtype == np.float32
    stored = "float16" if m == 1 else dtype  # a row of two floats is one of halves
    as_text = decode_texts(encode_texts(codes, SPACE, stored), SPACE, m)
    read = decode_rows(rows.tolist(), m)  # as lists of Python's floats, which is how databases return them
    assert read.current.all()
    np.testing.assert_array_equal(read.directions, as_text.directions)
    np.testing.assert_array_equal(read.norms, codes.norms)


@given(st.lists(st.floats(-1, 1, width=16), min_size=2, max_size=9))
def test_two_halves_make_a_float_that_no_engine_changes(halves):
    codes = codes_of(np.array([halves], np.float32))
    rows = encode_rows(codes)
    assert (np.abs(rows[0, :-1]) >= np.finfo(np.float32).tiny).all()  # neither zero nor subnormal
    assert np.isfinite(rows).all()
    read = decode_rows(rows.tolist(), len(halves)).directions
    np.testing.assert_array_equal(read.view(np.uint32), codes.directions.view(np.uint32))  # the sign of a zero, too


def test_rows_are_marked(rng):
    codes = codes_of(rng.normal(size=(4, 8)) / 8, [1, 2, 3, 4])
    halves, full = encode_rows(codes).tolist(), encode_rows(codes, "float32").tolist()
    rows = [halves[0], None, full[3][:-1], [np.inf] * 5, [np.inf] * 9, [0.0] * 5, full[2], np.float32(halves[1])]
    read = decode_rows(rows, 8)
    bad = CodeStatus.MALFORMED
    assert read.status.tolist() == [
        CodeStatus.CURRENT,
        CodeStatus.MISSING,
        bad,
        bad,
        bad,
        bad,
        *[CodeStatus.CURRENT] * 2,
    ]
    np.testing.assert_allclose(read.directions[[0, 7]], codes.directions[[0, 1]], atol=1e-3)
    np.testing.assert_array_equal(read.directions[6], codes.directions[2])
    assert read.norms.tolist() == [1, 0, 0, 0, 0, 0, 3, 2]
    assert len(decode_rows([], 8)) == 0


def test_only_current_codes_are_stored():
    codes = Codes(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([CodeStatus.STALE], np.uint8))
    with pytest.raises(InvalidInputError, match="only current codes"):
        encode_texts(codes, SPACE)
    with pytest.raises(InvalidInputError, match="8 hex digits"):
        encode_texts(codes_of(np.zeros((1, 4))), "xyz")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("spoilt", ["none", "missing", "space", "short", "character", "padding"])
def test_one_step_for_all_and_one_by_one_read_the_same(dtype, spoilt, rng):
    codes = Codes(rng.normal(size=(9, 12)).astype(np.float32), np.ones(9, np.float32), np.zeros(9, np.uint8))
    texts: list[object] = list(encode_texts(codes, SPACE, dtype))
    text = str(texts[4])
    damage = {
        "none": text,
        "missing": None,
        "space": "ffffffff" + text[8:],
        "short": text[:-4],
        "character": text[:20] + "-" + text[21:],
        "padding": text[:-1] + "=",
    }
    texts[4] = damage[spoilt]
    together = decode_texts(texts, SPACE, 12)
    for row, text_of_row in enumerate(texts):
        alone = decode_texts([text_of_row, None], SPACE, 12)  # the None sends it the long way
        np.testing.assert_array_equal(together.directions[row], alone.directions[0])
        assert together.status[row] == alone.status[0]
    assert together.current.sum() == (9 if spoilt == "none" else 8)


@pytest.mark.parametrize("norm", [-1.0, np.inf, np.nan])
def test_a_norm_that_no_vector_has_is_damage(norm):
    codes = codes_of(np.full((2, 8), 0.1), [1.0, norm])
    for read in (decode_texts(encode_texts(codes, SPACE), SPACE, 8), decode_rows(encode_rows(codes).tolist(), 8)):
        assert read.status.tolist() == [CodeStatus.CURRENT, CodeStatus.MALFORMED]
        assert read.norms.tolist() == [1, 0]
        assert not read.directions[1].any()


def test_texts_of_other_lengths_are_not_read_as_one():
    first, *others = encode_texts(codes_of(np.full((3, 8), 0.1)), SPACE)
    joined, cut = "".join(others), len(first) + 4
    read = decode_texts([first, joined[:cut], joined[cut:]], SPACE, 8)
    assert read.status.tolist() == [CodeStatus.CURRENT, CodeStatus.MALFORMED, CodeStatus.OTHER_SPACE]

"""Factor codes as they are stored: a compact text, or a row of floats (DESIGN.md §5).

A code is the direction of a vector in the factor space, ``Uᵀx / ‖x‖``, with the norm ``‖x‖`` beside it. Directions fit
half floats whatever the scale of the vectors, and one format serves every metric.

Text form: the space id (8 hex digits), then base64 of one little-endian float32 (the norm) and m little-endian floats
(16 or 32 bits), zero-padded to a multiple of three bytes, so that the texts of many candidates, joined, decode in one
step.

Row form, for a vector field: m coordinates, then the norm. Two half floats share one float: as they lie in memory, with
one added to its exponent. The second half's magnitude is at most 1, so the float is finite, and never subnormal, which
some processors are told to take for zero.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pybase64

from imrnn_vdb.errors import InvalidInputError

FloatArray = npt.NDArray[np.float32]
CodeDtype = Literal["float16", "float32"]

SPACE_ID_CHARS = 8
_DTYPES: dict[CodeDtype, np.dtype[np.floating]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_NORMAL = np.uint32(0x00800000)
"""One in the exponent of a float."""


class CodeStatus(IntEnum):
    """Whether a candidate's stored code can be used for scoring."""

    CURRENT = 0
    MISSING = 1
    OTHER_SPACE = 2
    MALFORMED = 3
    STALE = 4
    ZERO = 5


@dataclass(frozen=True, slots=True)
class Codes:
    """Decoded factor codes of n points.

    Attributes
    ----------
    directions
        Shape (n, m), float32: ``Uᵀx / ‖x‖``; zero where the status is not ``CURRENT``.
    norms
        Shape (n,), float32: ``‖x‖``; zero where the status is not ``CURRENT``.
    status
        Shape (n,), uint8 values of :class:`CodeStatus`.
    """

    directions: FloatArray
    norms: FloatArray
    status: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.status)

    @property
    def current(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): True where the code can be used."""
        return np.asarray(self.status == CodeStatus.CURRENT)

    def take(self, rows: npt.NDArray[np.intp]) -> Codes:
        """Return the codes of the given rows, in that order."""
        return Codes(self.directions[rows], self.norms[rows], self.status[rows])


def encode_texts(codes: Codes, space_id: str, dtype: CodeDtype = "float16") -> list[str]:
    """Turn codes into their stored text form.

    Parameters
    ----------
    codes
        n codes; every one must be ``CURRENT``.
    space_id
        Fingerprint of the factor space, 8 hex digits.
    dtype
        Width of a stored coordinate.

    Returns
    -------
    list of str
        n texts of equal length.
    """
    _check_current(codes)
    _check_space_id(space_id)
    n, m = codes.directions.shape
    coordinates = codes.directions.astype(_DTYPES[dtype]).view(np.uint8).reshape(n, m * _DTYPES[dtype].itemsize)
    norms = codes.norms.astype("<f4").view(np.uint8).reshape(n, 4)
    padding = np.zeros((n, _payload_bytes(m, dtype) - 4 - coordinates.shape[1]), np.uint8)
    rows = np.concatenate([norms, coordinates, padding], axis=1)
    return [space_id + pybase64.b64encode_as_string(row.tobytes()) for row in rows]


def decode_texts(texts: Sequence[object], space_id: str, m: int) -> Codes:
    """Read stored texts back; what cannot be used is marked in the status, never raised.

    Parameters
    ----------
    texts
        n stored values, anything a database may return: the text, None where there is none, or foreign data.
    space_id
        The space that the caller scores in.
    m
        Number of factors of that space.

    Returns
    -------
    Codes
        n rows in the order of ``texts``.
    """
    lengths = {SPACE_ID_CHARS + _payload_bytes(m, dtype) // 3 * 4: dtype for dtype in _DTYPES}
    sound = _decode_sound(texts, space_id, m, lengths)
    if sound is not None:
        return _mark_unusable(sound)
    status = np.fromiter((_text_status(text, space_id, lengths) for text in texts), np.uint8, len(texts))
    codes = Codes(np.zeros((len(texts), m), np.float32), np.zeros(len(texts), np.float32), status)
    for length, dtype in lengths.items():
        rows = [i for i, text in enumerate(texts) if not status[i] and len(text) == length]  # type: ignore[arg-type]
        if rows:
            _decode_rows([texts[i] for i in rows], rows, dtype, codes)  # type: ignore[misc]
    return _mark_unusable(codes)


def row_width(m: int, dtype: CodeDtype = "float16") -> int:
    """Return how many floats the row form of a code of m coordinates has."""
    return m + 1 if dtype == "float32" else (m + 1) // 2 + 1


def row_dtype(m: int, width: int) -> CodeDtype:
    """Return the width of a coordinate in rows of so many floats; where either has as many (m = 1), a half."""
    return "float32" if width != row_width(m) else "float16"


def encode_rows(codes: Codes, dtype: CodeDtype = "float16") -> FloatArray:
    """Return codes in their row form, for a vector field: shape (n, row_width(m, dtype)).

    Parameters
    ----------
    codes
        n codes; every one must be ``CURRENT``.
    dtype
        Width of a stored coordinate.
    """
    _check_current(codes)
    coordinates, m = codes.directions, codes.directions.shape[1]
    if row_dtype(m, row_width(m, dtype)) == "float16":
        halves = np.pad(coordinates, ((0, 0), (0, m % 2))).astype("<f2")
        coordinates = (halves.view("<u4") + _NORMAL).view("<f4")
    return np.concatenate([coordinates, codes.norms[:, None]], axis=1).astype(np.float32, copy=False)


def decode_rows(rows: Sequence[Any], m: int) -> Codes:
    """Read codes in their row form, from a vector field that is named after the space.

    Parameters
    ----------
    rows
        n sequences of floats, or None where there is none.
    m
        Number of factors of the space that the caller scores in.
    """
    n = len(rows)
    widths = [-1 if row is None else len(row) for row in rows]
    kinds = set(widths)
    if len(kinds) == 1 and kinds <= {row_width(m, dtype) for dtype in _DTYPES}:
        return _mark_unusable(Codes(*_unpacked(rows, widths[0], m), np.zeros(n, np.uint8)))
    codes = Codes(np.zeros((n, m), np.float32), np.zeros(n, np.float32), np.zeros(n, np.uint8))
    for width in kinds:
        where = [i for i in range(n) if widths[i] == width]
        if width in {row_width(m, dtype) for dtype in _DTYPES}:
            codes.directions[where], codes.norms[where] = _unpacked([rows[i] for i in where], width, m)
        else:
            codes.status[where] = CodeStatus.MISSING if width < 0 else CodeStatus.MALFORMED
    return _mark_unusable(codes)


def _unpacked(rows: Sequence[Any], width: int, m: int) -> tuple[FloatArray, FloatArray]:
    """Take directions, shape (n, m), and norms out of rows of one width; numpy takes three times as long for lists."""
    pack = struct.Struct(f"<{width}f").pack
    table = np.frombuffer(b"".join([pack(*row) for row in rows]), "<f4").reshape(len(rows), width)
    directions: npt.NDArray[np.floating] = table[:, :-1]
    if row_dtype(m, width) == "float16":
        directions = (np.ascontiguousarray(directions).view("<u4") - _NORMAL).view("<f2")[:, :m]
    return directions.astype(np.float32), table[:, -1].copy()


def _decode_sound(texts: Sequence[object], space_id: str, m: int, lengths: dict[int, CodeDtype]) -> Codes | None:
    """Decode texts in one step where all are of one width and space; None where any needs a closer look.

    A space id has eight characters of base64's alphabet, so that it decodes along with the rest, to six bytes.
    """
    try:
        data = pybase64.b64decode("".join(texts), validate=True)  # type: ignore[arg-type]
        dtype = lengths[len(texts[0])]  # type: ignore[arg-type]
    except (TypeError, ValueError, IndexError, KeyError):  # not all texts; not ASCII, or damaged; none; odd length
        return None
    row, own = _row_of_text(space_id, m, dtype)
    if len(data) != row.itemsize * len(texts) or len(set(map(len, texts))) > 1:  # type: ignore[arg-type]
        return None
    table = np.frombuffer(data, row)
    if not (table["space"] == own).all():
        return None
    norms, directions = table["norm"].astype(np.float32), table["direction"].astype(np.float32)
    return Codes(directions, norms, np.zeros(len(texts), np.uint8))


@functools.cache
def _row_of_text(space_id: str, m: int, dtype: CodeDtype) -> tuple[np.dtype[Any], npt.NDArray[np.uint8]]:
    """Return what a decoded text holds, its space id included, and the bytes of that id."""
    own = np.frombuffer(pybase64.b64decode(space_id, validate=True), np.uint8)
    fields = {"space": (np.uint8, (len(own),)), "norm": "<f4", "direction": (_DTYPES[dtype], (m,))}
    offsets = [0, len(own), len(own) + 4]
    size = len(own) + _payload_bytes(m, dtype)
    kinds = {"names": [*fields], "formats": [*fields.values()], "offsets": offsets, "itemsize": size}
    return np.dtype(kinds), own  # type: ignore[call-overload]


def _text_status(text: object, space_id: str, lengths: dict[int, CodeDtype]) -> CodeStatus:
    if text is None:
        return CodeStatus.MISSING
    if not isinstance(text, str):
        return CodeStatus.MALFORMED
    if not text.startswith(space_id):
        return CodeStatus.OTHER_SPACE if len(text) > SPACE_ID_CHARS else CodeStatus.MALFORMED
    return CodeStatus.CURRENT if len(text) in lengths else CodeStatus.MALFORMED


def _decode_rows(texts: list[str], rows: list[int], dtype: CodeDtype, codes: Codes) -> None:
    m = codes.directions.shape[1]
    size = _payload_bytes(m, dtype)
    try:
        data = pybase64.b64decode("".join([text[SPACE_ID_CHARS:] for text in texts]), validate=True)
    except ValueError:
        data = b""
    if len(data) != size * len(texts):  # one text is damaged: find it by decoding each alone
        if len(texts) == 1:
            codes.status[rows] = CodeStatus.MALFORMED
        else:
            for text, row in zip(texts, rows, strict=True):
                _decode_rows([text], [row], dtype, codes)
        return
    table = np.frombuffer(data, np.uint8).reshape(len(texts), size)
    width = m * _DTYPES[dtype].itemsize
    codes.norms[rows] = np.ascontiguousarray(table[:, :4]).view("<f4")[:, 0]
    codes.directions[rows] = np.ascontiguousarray(table[:, 4 : 4 + width]).view(_DTYPES[dtype])


def _mark_unusable(codes: Codes) -> Codes:
    """Mark codes that hold values no vector has: not finite, or a negative norm."""
    least, most = codes.norms.min(initial=0), codes.norms.max(initial=0)  # NaN where one is NaN
    if least >= 0 and most < np.inf and not codes.status.any() and np.isfinite(codes.directions).all():
        return codes
    finite = np.isfinite(codes.directions).all(axis=1) & np.isfinite(codes.norms) & (codes.norms >= 0)
    codes.status[~finite] = CodeStatus.MALFORMED
    unusable = ~codes.current
    codes.directions[unusable] = 0
    codes.norms[unusable] = 0
    return codes


def _payload_bytes(m: int, dtype: CodeDtype) -> int:
    raw = 4 + m * _DTYPES[dtype].itemsize
    return raw + -raw % 3


def _check_current(codes: Codes) -> None:
    if not codes.current.all():
        raise InvalidInputError("only current codes can be stored; compute missing ones from their vectors first")


def _check_space_id(space_id: str) -> None:
    if len(space_id) != SPACE_ID_CHARS or not set(space_id) <= set("0123456789abcdef"):
        raise InvalidInputError(f"a space id has {SPACE_ID_CHARS} hex digits, got {space_id!r}")

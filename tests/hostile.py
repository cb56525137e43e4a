"""Values that break out of a query, a path or a protocol where anything at all is done wrong."""

from __future__ import annotations

from hypothesis import strategies as st

TEXTS = [
    "",
    " ",
    '"',
    "'",
    "\\",
    '\\"',
    "\\\\'",
    '" or id != "',
    '") or (id != "',
    "' or '1'=='1",
    'x" in ["',
    "a == 1 || true",
    "not (",
    "{v}",
    "%s %d {}",
    "$meta",
    '$meta["n"]',
    "a.b[].c",
    "][",
    "\n",
    "\r\n\t",
    "\x00",
    "\x1f\x7f\x85",
    "../..",
    "/etc/passwd",
    "漢🙂é",
    "e\u0301",
    "\u2028\ufeff\u202e",
    "\ufdd0\uffff",
    "nan",
    "null",
    "true",
    "-1e309",
    "\ud800",
    "a\udfffb",
    "x" * 10_000,
    '"' * 10_000,
    "漢" * 10_000,
]

texts = st.sampled_from(TEXTS) | st.text(max_size=20) | st.text("ab\"'\\][(){}$%.\n\x00漢\ud800", max_size=10)
"""Hypothesis leaves lone surrogates out of its own texts, so the other sources add them."""

numbers = st.sampled_from([0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1])
floats = st.floats() | st.sampled_from([0.1, -0.0, 5e-324, 1.7976931348623157e308])
scalars = st.none() | st.booleans() | numbers | floats | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


def is_text(text: str) -> bool:
    """Whether it can be written down at all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

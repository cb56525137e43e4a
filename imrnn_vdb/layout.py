"""Where codes and factor scores lie beside a point: the fields that this layer writes, and what it reads from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from imrnn_vdb.codec import CodeDtype, row_dtype, row_width
from imrnn_vdb.points import Payload

RESERVED_PREFIX = "imrnn_"
CODE_PREFIX = "imrnn_code_"
ID_FIELD = "imrnn_id"  # of an original id that an engine cannot use as its key
FACTOR_PREFIX = "imrnn_factor_"

CodeStorage = Literal["payload", "vector"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a collection, and in which factor space.

    Attributes
    ----------
    space_id
        Fingerprint of the factor space whose codes are read and written.
    num_factors
        m of that space.
    factor_names
        Names whose calibrated scores are stored beside the code for pre-filters.
    vector_name
        Name of the base vector; "" for a collection's only or unnamed one.
    code_storage
        ``"payload"``: text under ``code_field``. ``"vector"``: a second vector of that name, of ``code_width`` floats.
    code_dtype
        Width of a stored coordinate.
    score_ids
        Fingerprints of those scores that have one of their own, by factor name: of factors added to the space.
    """

    space_id: str
    num_factors: int
    factor_names: tuple[str, ...] = ()
    vector_name: str = ""
    code_storage: CodeStorage = "payload"
    code_dtype: CodeDtype = "float16"
    score_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def code_field(self) -> str:
        """Name of the payload key, column or vector of the code; it names the space, so that two lie side by side."""
        return f"{CODE_PREFIX}{self.space_id}"

    @property
    def code_width(self) -> int:
        """Number of floats of a code that is stored as a vector."""
        return row_width(self.num_factors, self.code_dtype)

    def in_vector(self, width: int) -> Layout:
        """Return this layout with codes in a vector that is there, and has so many floats."""
        return replace(self, code_storage="vector", code_dtype=row_dtype(self.num_factors, width))

    def factor_field(self, name: str) -> str:
        """Return the payload key of a named factor's score; it names the space, so that scores of two never mix.

        That of a factor added to the space names its own fingerprint after that.
        """
        added = f"{self.score_ids[name]}_" if name in self.score_ids else ""
        return f"{FACTOR_PREFIX}{self.space_id}_{added}{name}"


def is_own_field(name: str) -> bool:
    """Say whether a payload key is one that this layer writes."""
    return name == ID_FIELD or name.startswith((CODE_PREFIX, FACTOR_PREFIX))


def stored_texts(payloads: Sequence[Mapping[str, Any]], layout: Layout) -> list[object]:
    """Return each point's code as text: of the layout's space, else of another, which says so; else None."""
    field = layout.code_field
    texts = [payload.get(field) for payload in payloads]
    return texts if all(texts) else [text or _foreign_text(row) for text, row in zip(texts, payloads, strict=True)]


def _foreign_text(payload: Mapping[str, Any]) -> object:
    if not payload:
        return None
    others = (value for key, value in payload.items() if key.startswith(CODE_PREFIX) and isinstance(value, str))
    return next(filter(None, others), None)


def own_fields_removed(payload: Mapping[str, Any]) -> Payload:
    """Return a copy of a payload without the fields that this layer writes."""
    return {key: value for key, value in payload.items() if not is_own_field(key)}

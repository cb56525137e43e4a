"""What a store may offer beyond its contract; the defaults here say what it does not.

A database that another package adds (:mod:`imrnn_vdb.backend`) need not know any of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imrnn_vdb.errors import UnsupportedError

if TYPE_CHECKING:
    from imrnn_vdb.connection import Operation
    from imrnn_vdb.points import PointId

RECORD_KEY = "imrnn_vdb.attachment"
"""Under which a collection's own metadata holds how it is opened (:mod:`imrnn_vdb.attach`)."""


class Extras:
    """Base of a store: each method is an operation, but for :meth:`bytes_of` and :meth:`key_of`."""

    collection: str

    def read_record(self) -> Operation[str | None]:
        """Return what :meth:`write_record` left; None where there is nothing, or no place for it."""
        yield from ()
        return None

    def write_record(self, text: str) -> Operation[None]:  # noqa: ARG002 - in the signature of those that can
        """Put a short text into the collection's own metadata, and read it back; searches never see it.

        Raises
        ------
        UnsupportedError
            If the engine keeps no such metadata; nothing was changed then.
        """
        yield from ()
        raise UnsupportedError(
            f"nothing can be recorded in collection {self.collection!r}: its engine keeps no metadata of a collection; "
            "record it in a file"
        )

    def add_code_vector(self) -> Operation[None]:
        """Give an existing collection a vector for codes, once, and verify that it is there.

        From then on this store reads and writes codes there; what was written elsewhere stays until it is undone.

        Raises
        ------
        UnsupportedError
            If this server or this collection cannot take one; nothing was changed then.
        """
        yield from ()
        raise UnsupportedError(f"collection {self.collection!r} cannot be given a vector for codes")

    def coded(self) -> Operation[int | None]:
        """Count the points with a code of the layout's space; None where a count is dear, or would change something."""
        yield from ()
        return None

    def second_call(self, ids: Sequence[PointId]) -> Operation[float | None]:  # noqa: ARG002 - as above
        """Return the seconds of the call that reads codes for these ids in every search; None where there is none."""
        yield from ()
        return None

    def key_of(self, point_id: PointId) -> PointId:
        """Return the key under which the engine keeps a point; of such a key, itself."""
        return point_id

    def bytes_of(self, fields: Mapping[str, Any]) -> int:
        """Return about how many bytes one point's code and factor scores take, before the engine's own overhead."""
        return len(json.dumps(dict(fields)))

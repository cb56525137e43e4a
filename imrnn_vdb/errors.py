"""Every error this package raises, as one short tree.

Each message says what was wrong, where, and what to do. Vendor exceptions are chained (``raise … from exc``), so the
original is always at hand; their text never carries a key, because keys never enter a message here.
"""

from __future__ import annotations

_QUOTED_CHARS = 300
"""Most characters that a message quotes of a vendor."""


def one_line(text: object, most: int = _QUOTED_CHARS) -> str:
    """Return text as one line of at most so many characters; what is cut off ends in an ellipsis."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


class IMRNNError(Exception):
    """Root of all errors of this package."""


class InvalidInputError(IMRNNError, ValueError):
    """The caller's argument cannot be used: wrong shape, NaN, unknown name, contradictory options."""


class MissingExtraError(IMRNNError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is needed here: pip install 'imrnn-vdb[{extra}]'")


class CheckpointError(IMRNNError):
    """A checkpoint is missing, truncated, altered, foreign or of another format version."""


class SpaceMismatchError(IMRNNError):
    """Model and collection do not fit: dimension, metric or factor space differ."""


class AuditError(IMRNNError):
    """A search could not be recorded in an audit log that requires it."""


class StoreError(IMRNNError):
    """The database could not answer. ``transient`` says whether trying again later can help.

    Parameters
    ----------
    message
        What was asked, of which collection, and what to do.
    transient
        True for what passes by itself: unavailable, overloaded, timed out.
    retry_after
        Seconds the server asked to wait, where it said so.
    """

    def __init__(self, message: str, *, transient: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after = retry_after


class StoreUnavailableError(StoreError):
    """The server cannot be reached, or is overloaded."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, transient=True, retry_after=retry_after)


class StoreTimeoutError(StoreError):
    """The deadline passed before the database answered."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


class CollectionNotFoundError(StoreError):
    """The collection does not exist."""


class CollectionExistsError(StoreError):
    """A collection of that name exists already; nothing was changed."""


class UnsupportedError(StoreError):
    """What was asked is beyond this server, or beyond this collection as it was created."""

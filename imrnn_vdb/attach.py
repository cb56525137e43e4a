"""Attaching to a collection that is already in production: what was decided about it, in one small file.

An attachment says where the collection is, which of its vectors and fields are used, which model and space, and which
guard. It holds no key: a key comes by keyword or environment when the collection is opened. Where the engine keeps
metadata of a collection, it may lie there instead, where every client finds it and no search does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from imrnn_vdb.backend import Backend, connect
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.encoder_check import warn_of_misfit
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.files import replace_file
from imrnn_vdb.layout import Layout
from imrnn_vdb.opening import choose_vector, fitting_vectors, found_layout, make_layout
from imrnn_vdb.options import Settings
from imrnn_vdb.payloads import keys_of
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import Store
from imrnn_vdb.urls import parse_url

FORMAT, VERSION = "imrnn_vdb attachment", 1
_SAMPLE = 100
_log = logging.getLogger("imrnn_vdb")


@dataclass(frozen=True, slots=True)
class Attachment:
    """How a collection is opened.

    Attributes
    ----------
    url
        Its URL, without a key.
    model
        The checkpoint: a folder, a shipped name or a hub repo id.
    space_id
        Fingerprint of that model's factor space; another one is refused when the collection is opened.
    vector_name
        The base vector; "" for the only or unnamed one.
    text_field
        Payload key of the text.
    guard
        A condition of every read, see :mod:`imrnn_vdb.guard`; None for none.
    """

    url: str
    model: str
    space_id: str
    vector_name: str = ""
    text_field: str = "text"
    guard: dict[str, Any] | str | None = None

    def __post_init__(self) -> None:
        parse_url(self.url)  # refuses a user name or key
        if self.guard is not None and not isinstance(self.guard, Mapping | str):
            raise InvalidInputError("an attachment holds a guard that is a mapping or a text, not a filter object")

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of ``IMRNNCollection.open`` beside URL and model."""
        return {"vector_name": self.vector_name, "text_field": self.text_field, "guard": self.guard}

    def merged(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attachment's keywords with the caller's over them.

        Raises
        ------
        InvalidInputError
            If the caller names a guard where the attachment has one.
        """
        if self.guard is not None and options.get("guard") is not None:
            raise InvalidInputError("this attachment has a guard, which no caller can change: edit the file")
        given = {name: value for name, value in options.items() if name != "guard" or value is not None}
        return {**self.options, **given}

    def check(self, space: FactorSpace) -> None:
        """Raise `SpaceMismatchError` if a model is not the one that the collection was attached with."""
        if space.space_id != self.space_id:
            raise SpaceMismatchError(
                f"the collection was attached with factor space {self.space_id}, but the model {self.model!r} now has "
                f"{space.space_id}: attach again, and backfill"
            )

    def save(self, path: str | Path) -> None:
        """Write the file; an old one stays if the write fails.

        Raises
        ------
        InvalidInputError
            If it cannot be written.
        """
        try:
            replace_file(Path(path), (self.to_text(indent=2) + "\n").encode())
        except OSError as exc:
            raise InvalidInputError(f"the attachment cannot be written to {path}: {exc}") from exc

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "guard": dict(self.guard) if isinstance(self.guard, Mapping) else self.guard}

    def to_text(self, indent: int | None = None) -> str:
        """Return it as JSON that says what it is."""
        return json.dumps({"format": FORMAT, "version": VERSION, **self.to_dict()}, indent=indent)

    @classmethod
    def load(cls, path: str | Path) -> Attachment:
        """Read a file.

        Raises
        ------
        InvalidInputError
            If it is none of ours, of another version, or holds what it should not.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, ValueError) as exc:
            raise InvalidInputError(f"{path} is no attachment that can be read: {exc}") from exc
        return cls.from_text(text, str(path))

    @classmethod
    def from_text(cls, text: str, where: str) -> Attachment:
        """Read what :meth:`to_text` made; ``where`` it came from stands in the error, raised as by :meth:`load`."""
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError) as exc:
            raise InvalidInputError(f"{where} is no attachment that can be read: {exc}") from exc
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT or values.pop("version", 0) != VERSION:
            raise InvalidInputError(f"{where} is no attachment of version {VERSION}: make one with imrnn-vdb attach")
        names = {field.name for field in fields(cls)}
        if set(values) != names or not all(isinstance(values[name], str) for name in names - {"guard"}):
            raise InvalidInputError(f"{where} holds other keys or values than an attachment: make it again")
        return cls(**values)


def find_attachment(source: str | Path, settings: Settings) -> Attachment:
    """Read an attachment from its file, or, for a collection's URL, from the collection.

    Parameters
    ----------
    source
        The path, or the URL; the attachment then has this URL, whatever the recorded one was.
    settings
        How to connect.

    Raises
    ------
    InvalidInputError
        If there is none, or none that can be used.
    """
    if ":" not in str(source) or Path(source).is_file():
        return Attachment.load(source)
    url = parse_url(str(source))
    backend, connection = connect(url, settings.connection, asynchronous=False)
    try:
        store = backend.store(connection, url.collection, Layout("00000000", 1), settings.guard)
        found = connection.run(recorded(store))
    finally:
        connection.close()
    if found is None:
        raise InvalidInputError(f"nothing is recorded in {url}: attach with --in-collection, or name the file")
    return replace(found, url=str(source))


def recorded(store: Store) -> Operation[Attachment | None]:
    """Read the attachment that lies in a collection's own metadata; None where there is none."""
    text = yield from store.read_record()
    return None if text is None else Attachment.from_text(text, f"the record in collection {store.collection!r}")


def record(store: Store, attachment: Attachment) -> Operation[None]:
    """Write an attachment into the collection's own metadata.

    Raises
    ------
    InvalidInputError
        If it has a guard: a collection's metadata belongs to all its tenants.
    UnsupportedError
        If the engine keeps no such metadata.
    """
    if attachment.guard is not None:
        raise InvalidInputError("a collection belongs to all its tenants: keep an attachment with a guard in a file")
    yield from store.write_record(attachment.to_text())


def attach(
    backend: Backend, connection: Connection, url: str, model: str, space: FactorSpace, settings: Settings
) -> Operation[Attachment]:
    """Look at a collection, check that it fits the model, and say how it is opened. Changes nothing.

    A warning is logged where the vectors of the first 100 points do not look like those of the model's encoder, and
    where other vectors of the collection fit, too: one model serves one of them.

    Raises
    ------
    SpaceMismatchError
        If no vector has the model's dimension, or if the metric cannot be split into factors.
    InvalidInputError
        If several vectors fit, or if no sampled point has the text field.
    """
    collection = parse_url(url).collection
    store = backend.store(connection, collection, make_layout(space, settings), settings.guard)
    info = yield from store.info()
    name = choose_vector(collection, info, space.dim, settings.vector_name)
    if not info.vectors[name].metric.factorable:
        raise SpaceMismatchError(
            f"vector {name!r} of collection {collection!r} has the metric {info.vectors[name].metric}, whose distances "
            "do not split into factors: copy the points into a collection with cosine, dot or euclid"
        )
    if others := [other for other in fitting_vectors(info, space.dim) if other != name]:
        _log.warning(
            "collection %r also has %s of %d dimensions: codes are keyed by space, so a backfill for another of its "
            "vectors with this model would replace those of %r. Give each a space of its own: imrnn-vdb attach --fit",
            collection,
            " and ".join(map(repr, others)),
            space.dim,
            name,
        )
    store.layout = found_layout(space, settings, info, name)
    page = yield from store.scroll(_SAMPLE, with_vectors=True, with_codes=False)
    if len(page.points) and not any(settings.text_field in payload for payload in page.points.payloads):
        raise InvalidInputError(
            f"none of {len(page.points)} sampled points has the text field {settings.text_field!r}; they have: "
            f"{keys_of(page.points.payloads)}. Name the field with --text-field"
        )
    warn_of_misfit(space, page.points.vectors, collection)
    guard = dict(settings.guard) if isinstance(settings.guard, Mapping) else settings.guard
    folder = Path(model).expanduser()
    where = str(folder.resolve()) if folder.is_dir() else model
    return Attachment(url, where, space.space_id, name, settings.text_field, guard)

"""Opening a collection: what is looked at, what must fit the model, and where things lie in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from imrnn_vdb.backend import Backend
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.connection import Connection, Operation
from imrnn_vdb.core import CollectionCore
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.layout import CODE_PREFIX, Layout
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import Settings
from imrnn_vdb.space import FactorSpace
from imrnn_vdb.store import CollectionInfo, VectorField


def open_core(
    backend: Backend, connection: Connection, collection: str, model: IMRNNModel, settings: Settings
) -> Operation[CollectionCore]:
    """Look at a collection, check that it fits the model, and make its core."""
    store = backend.store(connection, collection, make_layout(model.space, settings), settings.guard)
    info = yield from store.info()
    name = choose_vector(collection, info, model.space.dim, settings.vector_name)
    store.layout = found_layout(model.space, settings, info, name)  # other homes of fields that keep their names
    metric = info.vectors[name].metric
    return CollectionCore(
        model,
        store,
        metric,
        settings.text_field,
        settings.encoder,
        settings.time_limit,
        settings.log,
        settings.observer,
    )


def create_core(
    backend: Backend, connection: Connection, collection: str, model: IMRNNModel, settings: Settings
) -> Operation[CollectionCore]:
    """Create a collection with room for codes, and make its core."""
    store = backend.store(connection, collection, make_layout(model.space, settings), settings.guard)
    if settings.code_storage is None:
        store.layout = replace(store.layout, code_storage=store.best_code_storage)
    yield from store.create(model.space.dim, Metric(settings.metric), settings.id_type)
    return (yield from open_core(backend, connection, collection, model, settings))


def found_layout(space: FactorSpace, settings: Settings, info: CollectionInfo, vector_name: str) -> Layout:
    """Say where things lie in a collection that was looked at."""
    layout = make_layout(space, settings, vector_name=vector_name, code_storage="payload")
    vector = info.vectors.get(layout.code_field)
    return layout if vector is None else layout.in_vector(vector.dim)


def make_layout(space: FactorSpace, settings: Settings, **changes: Any) -> Layout:
    """Say where things lie in a collection, by the settings and what was found out about it."""
    values: dict[str, Any] = {
        "space_id": space.space_id,
        "num_factors": space.num_factors,
        "factor_names": space.names,
        "score_ids": space.score_ids,
        "vector_name": settings.vector_name,
        "code_storage": "payload" if settings.code_storage is None else settings.code_storage,
        "code_dtype": settings.code_dtype,
    }
    return Layout(**{**values, **changes})


def choose_vector(collection: str, info: CollectionInfo, dim: int, wanted: str) -> str:
    """Return the name of the base vector: the one that is wanted, or the only one that fits.

    Raises
    ------
    SpaceMismatchError
        If none has the model's dimension.
    InvalidInputError
        If several have.
    """
    vectors = _base_vectors(info)
    listing = ", ".join(f"{name or '(unnamed)'} of {found.dim}" for name, found in vectors.items()) or "none"
    if wanted:
        if wanted not in vectors:
            raise SpaceMismatchError(f"collection {collection!r} has no vector {wanted!r}; it has: {listing}")
        if vectors[wanted].dim != dim:
            raise SpaceMismatchError(
                f"vector {wanted!r} of collection {collection!r} has {vectors[wanted].dim} dimensions, not {dim}: "
                "use the model made for this collection's encoder"
            )
        return wanted
    fitting = fitting_vectors(info, dim)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise SpaceMismatchError(
            f"no vector of collection {collection!r} has the model's {dim} dimensions; it has: {listing}. "
            "Use the model made for this collection's encoder, or fit one to its vectors: imrnn-vdb attach --fit FOLDER"
        )
    names = ", ".join(name or "(unnamed)" for name in fitting)
    raise InvalidInputError(f"several vectors of collection {collection!r} fit ({names}): name one by vector_name=")


def fitting_vectors(info: CollectionInfo, dim: int) -> list[str]:
    """Return the names of a collection's vectors of so many dimensions; those for codes are none."""
    return [name for name, found in _base_vectors(info).items() if found.dim == dim]


def _base_vectors(info: CollectionInfo) -> dict[str, VectorField]:
    return {name: found for name, found in info.vectors.items() if not name.startswith(CODE_PREFIX)}

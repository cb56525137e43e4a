"""The benchmark itself: whole searches, then stage by stage, then sweeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from imrnn_vdb.async_collection import AsyncIMRNNCollection
from imrnn_vdb.bench.filling import fill
from imrnn_vdb.bench.options import BenchOptions
from imrnn_vdb.bench.report import BenchReport, Figure, machine
from imrnn_vdb.bench.searches import Twin, batches, end_to_end, search_sweeps, taken_apart
from imrnn_vdb.bench.stages import stages, sweep_factors, sweeps
from imrnn_vdb.bench.synthetic import random_model, random_vectors
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.errors import InvalidInputError

_QUERIES = 256

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def bench_collection(
    collection: IMRNNCollection,
    options: BenchOptions,
    twin: Twin | None = None,
    progress: Progress = _silent,
) -> BenchReport:
    """Measure a collection of yours by vectors that it holds, each of which finds itself first; nothing is written.

    Parameters
    ----------
    collection
        Opened with a model whose codes it holds.
    options
        How much is measured.
    twin
        Opens it a second time, for concurrent searches; None to leave these out.
    progress
        Told what is done next.

    Raises
    ------
    InvalidInputError
        If the collection is empty.
    """
    queries = collection.peek(_QUERIES).vectors
    if queries is None or not len(queries):
        raise InvalidInputError("the collection is empty: there is nothing to measure")
    setting = _setting(collection, options) | {"queries": "stored vectors"}
    found = _searches(collection, queries, options, twin, progress)
    progress("stages and sweeps without a database")
    found += stages(collection.model, options) + sweeps(collection.model, options)
    return BenchReport(setting, found)


def bench_synthetic(
    options: BenchOptions, url: str | None = None, progress: Progress = _silent, model: IMRNNModel | None = None
) -> BenchReport:
    """Measure a random model on random points, in collections that are made for it and dropped at the end.

    Parameters
    ----------
    options
        How much is measured.
    url
        Where to make the collections, without their name (``milvus://localhost:19530``); None for Qdrant Edge in a
        temporary folder.
    progress
        Told what is done next.
    model
        What is measured instead of :func:`~imrnn_vdb.bench.synthetic.random_model`.
    """
    model, found, setting = model or random_model(), list[Figure](), dict[str, Any]()
    with TemporaryDirectory() as folder:
        for number, size in enumerate(options.sizes):
            progress(f"making a collection of {size:,} points")
            where = f"{url or f'qdrant+edge:{folder}'}/imrnn_bench_{size}"
            with IMRNNCollection.create(where, model, timeout=600.0) as collection:
                try:
                    fill(collection, size)
                    queries = random_vectors(_QUERIES, model.space.dim, seed=3)
                    if number:
                        progress(f"searching among {size:,} points")
                        times = end_to_end(collection, queries, options)
                    else:
                        setting = _setting(collection, options) | {"queries": "random vectors"}
                        twin = partial(AsyncIMRNNCollection.open, where, model) if url else None
                        times = _searches(collection, queries, options, twin, progress)
                        found += times
                    found += [_at("search over points", f, size) for f in times[:2]]
                finally:
                    collection.drop()
    progress("stages and sweeps without a database")
    found += stages(model, options) + sweeps(model, options) + sweep_factors(model, options)
    return BenchReport(setting, found)


def _setting(collection: IMRNNCollection, options: BenchOptions) -> dict[str, Any]:
    info, model = collection.info(), collection.model
    return {
        **machine(),
        "model": model.model_id,
        "device": str(model.modulator.pool.device),
        "server": info.server,
        "points": info.count,
        "dim": model.space.dim,
        "factors": model.space.num_factors,
        "coarse_k": options.coarse_k,
    }


def _searches(
    collection: IMRNNCollection, queries: FloatArray, options: BenchOptions, twin: Twin | None, progress: Progress
) -> list[Figure]:
    """Return all figures of one collection, those of single searches first."""
    points = collection.count()
    progress(f"searching among {points:,} points")
    found = end_to_end(collection, queries, options)
    found += taken_apart(collection, queries, options)
    found += batches(collection, queries, options, twin)
    return found + search_sweeps(collection, queries, options, points)


def _at(group: str, figure: Figure, at: int) -> Figure:
    return Figure(group, figure.name, figure.median, figure.p95, figure.best, at, figure.ratio, figure.ratio_p95)

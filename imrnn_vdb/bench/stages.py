"""What happens between the database's reply and the results, stage by stage and swept: without a database."""

from __future__ import annotations

from imrnn_vdb.bench.measure import Task, interleaved
from imrnn_vdb.bench.options import LIMIT, BenchOptions
from imrnn_vdb.bench.report import STAGES, Figure, figures
from imrnn_vdb.bench.synthetic import random_candidates, random_model, random_vectors
from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import decode_texts, encode_texts
from imrnn_vdb.filters import factor, match
from imrnn_vdb.metric import Metric
from imrnn_vdb.options import SearchRequest
from imrnn_vdb.planning import passing
from imrnn_vdb.refine import refine
from imrnn_vdb.results import build_results

_ALL = "modulate, score, results"


def stages(model: IMRNNModel, options: BenchOptions) -> list[Figure]:
    """Time each stage for 100 and 1,000 candidates."""
    found = []
    for k in (100, 1000):
        found += figures(STAGES, interleaved(stage_tasks(model, k), options.rounds, options.calls), k)
    return found


def stage_tasks(model: IMRNNModel, k: int) -> dict[str, Task]:
    """Return each stage of one query with k candidates as a task."""
    query = random_vectors(1, model.space.dim, seed=4)
    candidates = random_candidates(model, query[0], k)
    texts = encode_texts(candidates.codes, model.space.space_id)
    plain, explained = (SearchRequest(limit=LIMIT, coarse_k=k, explain=explain) for explain in (False, True))
    (refined,) = refine(model, Metric.COSINE, query, [candidates], True)

    def whole(request: SearchRequest) -> Task:
        def task(_: int) -> object:
            (rows,) = refine(model, Metric.COSINE, query, [candidates], True)
            return build_results(model.space, candidates, rows, request)

        return task

    tasks: dict[str, Task] = {
        "decode": lambda _: decode_texts(texts, model.space.space_id, model.space.num_factors),
        "modulate and score": lambda _: refine(model, Metric.COSINE, query, [candidates], True),
    }
    if len(model.space.names) >= 2:
        first, second, *_ = model.space.names
        condition = (factor(first) >= 0.5) | (match(second) > 0)
        tasks["filter by a factor and by a match"] = lambda _: passing(condition, model.space, candidates, refined)
    return tasks | {
        "results": lambda _: build_results(model.space, candidates, refined, plain),
        "results, their factor scores read": lambda _: [
            dict(result.factors) for result in build_results(model.space, candidates, refined, plain)
        ],
        "explain: results, the largest parts of each read": lambda _: [
            result.explanation and result.explanation.top(3)
            for result in build_results(model.space, candidates, refined, explained)
        ],
        _ALL: whole(plain),
        f"{_ALL}, explained": whole(explained),
    }


def sweeps(model: IMRNNModel, options: BenchOptions) -> list[Figure]:
    """Time modulation, scoring and results over coarse_k, and over the size of a batch."""
    rounds, calls = options.fewer
    found = []
    for k in options.sweep_coarse_k:
        found += figures("modulation over coarse_k", interleaved({_ALL: stage_tasks(model, k)[_ALL]}, rounds, calls), k)
    for size in options.sweep_batch:
        queries = random_vectors(size, model.space.dim, seed=5)
        sets = [random_candidates(model, query, options.coarse_k) for query in queries]
        batch: Task = lambda _, queries=queries, sets=sets: refine(model, Metric.COSINE, queries, sets, True)  # type: ignore[misc]  # noqa: E731
        found += figures(
            "modulation over batch", interleaved({"modulate and score": batch}, rounds, max(2, calls // size)), size
        )
    return found


def sweep_factors(model: IMRNNModel, options: BenchOptions) -> list[Figure]:
    """Time the same over m, on random models of the device and precision of one."""
    rounds, calls = options.fewer
    how = str(model.modulator.pool.device), model.precision
    found = []
    for m in options.sweep_factors:
        tasks = stage_tasks(random_model(model.space.dim, m, device=how[0], precision=how[1]), options.coarse_k)
        found += figures(
            "modulation over m", interleaved({name: tasks[name] for name in (_ALL, "decode")}, rounds, calls), m
        )
    return found

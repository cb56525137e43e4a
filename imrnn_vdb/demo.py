"""The demo: a team's collection as it might be, attached, and searched plain and modulated.

The documentation strings of the running Python's standard library stand for the team's texts. Their vectors go into an
embedded database through the vendor's own client, without any knowledge of this package; then the collection is opened,
codes are written from the stored vectors, and the same questions are asked with and without the model.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.codec import FloatArray
from imrnn_vdb.collection import IMRNNCollection
from imrnn_vdb.datasets import Run
from imrnn_vdb.encoders import TransformerEncoder
from imrnn_vdb.errors import InvalidInputError, MissingExtraError
from imrnn_vdb.evaluation import Evaluation, compare_runs
from imrnn_vdb.filters import FactorFilter, factor
from imrnn_vdb.options import DEFAULT_COARSE_K
from imrnn_vdb.pydocs import DocEntry, read_questions, read_stdlib
from imrnn_vdb.report import ReportSection, render_report
from imrnn_vdb.training.embeddings import EmbeddingCache

T = TypeVar("T")

StoreName = Literal["edge", "milvus"]
COLLECTION = "pydocs"
BATCH = 500


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A question to show, with what is special about it."""

    text: str
    note: str = ""
    factor_filter: FactorFilter | None = None
    take_apart: bool = False


QUERIES = (
    DemoQuery("stop waiting for a child process after ten seconds"),
    DemoQuery("start a fresh log file every midnight"),
    DemoQuery("keep only the newest hundred items of a stream"),
    DemoQuery(
        "how many days lie between two dates",
        'only entries in the upper half of the factor: factor("temporal") >= 0.5',
        factor_filter=factor("temporal") >= 0.5,
    ),
    DemoQuery("pick a random winner from a list of names", "each score taken apart", take_apart=True),
)


def look_for_packages(store: StoreName) -> None:
    """Look for all that the demo needs, before it reads and encodes for minutes.

    Raises
    ------
    MissingExtraError
        If something is not installed; its command brings everything.
    """
    extra, engine = {
        "edge": ("qdrant-edge", ["qdrant_edge"]),
        "milvus": ("milvus-lite", ["milvus_lite", "pymilvus"]),
    }[store]
    for module in ("transformers", *engine, "ir_measures"):
        if find_spec(module) is None:
            raise MissingExtraError(module, f"encoders,{extra},train")


def fill_edge(folder: Path, entries: Sequence[DocEntry], vectors: FloatArray) -> str:
    """Make a Qdrant Edge collection as a team would, with the vendor's client; returns its URL."""
    import qdrant_edge as edge

    path = folder / COLLECTION
    path.mkdir(parents=True)
    config = edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=vectors.shape[1], distance=edge.Distance.Cosine))
    shard = edge.EdgeShard.create(str(path), config)
    for start in range(0, len(entries), BATCH):
        points = [
            edge.Point(start + i, vectors[start + i].tolist(), payload(entry))
            for i, entry in enumerate(entries[start : start + BATCH])
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.close()
    return f"qdrant+edge:{folder}/{COLLECTION}"


def fill_milvus(folder: Path, entries: Sequence[DocEntry], vectors: FloatArray) -> str:
    """Make a Milvus Lite collection as a team would, with the vendor's client; returns its URL."""
    from pymilvus import MilvusClient

    file = folder / "demo.db"
    client = MilvusClient(str(file))
    client.create_collection(COLLECTION, dimension=vectors.shape[1], metric_type="COSINE", auto_id=False)
    for start in range(0, len(entries), BATCH):
        rows = [
            {"id": start + i, "vector": vectors[start + i].tolist(), **payload(entry)}
            for i, entry in enumerate(entries[start : start + BATCH])
        ]
        client.insert(COLLECTION, rows)
    client.flush(COLLECTION)
    client.close()
    return f"milvus+lite:{file}/{COLLECTION}"


FILL: dict[StoreName, Callable[[Path, Sequence[DocEntry], FloatArray], str]] = {
    "edge": fill_edge,
    "milvus": fill_milvus,
}


def payload(entry: DocEntry) -> dict[str, Any]:
    """Return what the team stores beside a vector."""
    return {
        "name": entry.id,
        "title": entry.title,
        "text": entry.text,
        "module": entry.module,
        "kind": entry.kind,
    }


@dataclass(frozen=True, eq=False)
class DemoOutcome:
    """What a demo run found.

    Attributes
    ----------
    sections
        The questions with both answers.
    evaluation
        Base against modulated ranking on the test part of `pydocs`, in this very collection.
    report
        The HTML page.
    entries, url
        Number of points, and where they were.
    """

    sections: list[ReportSection]
    evaluation: Evaluation
    report: str
    entries: int
    url: str

    @property
    def gain(self) -> str:
        """One sentence with the measured gain and its certainty."""
        base, modulated = self.evaluation.base["ndcg@10"], self.evaluation.modulated["ndcg@10"]
        test = self.evaluation.test
        return (
            f"Measured on {self.evaluation.queries} labelled questions about modules the model was not trained on:\n"
            f"nDCG@10 {base:.3f} → {modulated:.3f} ({test.difference:+.3f}, 95 % interval {test.ci_low:+.3f} to "
            f"{test.ci_high:+.3f}, p = {test.p_value:.3g}); {test.wins} questions better, {test.losses} worse, "
            f"{test.ties} unchanged"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return questions, answers and measures, ready for JSON."""
        questions = [
            {
                "query": section.query,
                "note": section.note,
                "plain": [result.to_dict() for result in section.plain or ()],
                "modulated": [result.to_dict() for result in section.response],
            }
            for section in self.sections
        ]
        return {"url": self.url, "entries": self.entries, "questions": questions, "test": self.evaluation.to_dict()}


def run_demo(store: StoreName, model: str, folder: Path, say: Callable[[str], None]) -> DemoOutcome:
    """Run the demo from reading the texts to the report.

    Parameters
    ----------
    store
        Which embedded engine.
    model
        A checkpoint whose encoder is at hand.
    folder
        Where the database puts its files.
    say
        Called with a line for each step.
    """
    look_for_packages(store)
    loaded = IMRNNModel.from_pretrained(model)
    if loaded.encoder is None:
        raise InvalidInputError(f"the checkpoint {model!r} names no encoder, and the demo has only texts")
    entries = read_stdlib()
    say(f"read {len(entries)} documentation strings of Python {platform.python_version()}'s standard library")
    encoder = TransformerEncoder(loaded.encoder)
    texts = [f"{entry.title}\n{entry.text}" for entry in entries]

    def encode(missing: Sequence[str]) -> FloatArray:
        if not sys.stderr.isatty():  # on a terminal there is a bar
            say("encoding them, which takes minutes, once")
        return encoder.encode_passages(missing, "encoding")

    vectors, seconds = _timed(lambda: EmbeddingCache().encode(encoder.encoder_id, "passage", texts, encode))
    say(f"encoded them with {loaded.encoder.model} ({seconds:.0f} s; cached for the next run)")
    url, seconds = _timed(lambda: FILL[store](folder, entries, vectors))
    say(f"put them into {url.partition(':')[0]} with the vendor's own client ({seconds:.1f} s), as any team has them")
    with IMRNNCollection.open(url, loaded, encoder=encoder, timeout=60.0) as collection:
        report, seconds = _timed(collection.backfill)
        code, vector = code_size(loaded.space.num_factors, loaded.space.dim)
        say(
            f"attached: wrote {report.written} factor codes from the stored vectors ({seconds:.1f} s), "
            f"{code} bytes each beside vectors of {vector}; no text was encoded again"
        )
        sections = [ask(collection, query) for query in QUERIES]
        evaluation = measure_gain(collection, entries)
    outcome = DemoOutcome(sections, evaluation, "", len(entries), url)
    introduction = f"{len(entries)} documentation strings, {url.partition(':')[0]}. {outcome.gain}"
    return replace(outcome, report=render_report("imrnn_vdb: plain and modulated search", sections, introduction))


def ask(collection: IMRNNCollection, query: DemoQuery, limit: int = 5) -> ReportSection:
    """Ask one question twice: of the database alone, and with the model."""
    vector = collection.encode_queries([query.text])[0]
    plain = collection.search(vector, limit=limit, factor_filter=query.factor_filter, modulate=False)
    response = collection.search(vector, limit=limit, factor_filter=query.factor_filter, explain=True)
    return ReportSection(query.text, response, plain, query.note, query.take_apart)


def measure_gain(collection: IMRNNCollection, entries: Sequence[DocEntry]) -> Evaluation:
    """Measure both rankings on the test part of `pydocs`, through the collection itself."""
    questions = read_questions("test", entries)
    vectors = collection.encode_queries([question.text for question in questions])
    qrels = {question.id: {key: float(grade) for key, grade in question.judgements.items()} for question in questions}

    def ranking(modulate: bool | None) -> Run:
        responses = collection.search_batch(vectors, limit=DEFAULT_COARSE_K, modulate=modulate)
        return {
            question.id: {str(result.payload["name"]): result.score for result in response}
            for question, response in zip(questions, responses, strict=True)
        }

    return compare_runs(qrels, ranking(False), ranking(None), {question.id: question.text for question in questions})


def code_size(num_factors: int, dim: int) -> tuple[int, int]:
    """Return the bytes of a stored code's numbers, and those of a base vector in single precision."""
    return num_factors * np.dtype(np.float16).itemsize, dim * np.dtype(np.float32).itemsize


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started

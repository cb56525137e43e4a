"""The code blocks of README and docs: how they are found, what they find when they run, and what is not run, and why.

Every page is run from top to bottom in a fresh folder, its Python blocks in one namespace, as a reader would who types
all of it. Both servers hold a collection ``articles`` then, without codes; nothing is changed in a block but addresses,
and on Milvus, which others may be using, the name of the collection in them.
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from imrnn_vdb import IMRNNModel
from imrnn_vdb.cli import main
from imrnn_vdb.encoders import MINILM, TransformerEncoder
from imrnn_vdb.urls import parse_url

ROOT = Path(__file__).parents[1]
README_TEXTS = (
    "Alexander Fleming discovered penicillin in London in 1928.",
    "Photosynthesis turns light into chemical energy.",
    "The penicillin trials of 1941 began in Oxford.",
    "A cat is a small domesticated carnivore.",
)
POINTS = 700
_QDRANT, _MILVUS = "qdrant://localhost:6334", "milvus://localhost:19530"
_SERVICE = "localhost:50061"
_QDRANT_CLIENT = '"localhost", grpc_port=6334, prefer_grpc=True'

RUN = ("python", "console")
SHOWN = ("text", "bibtex", "json", "yaml", "toml", "proto", "dockerfile", "promql")
"""Languages of blocks that hold nothing to run; any other language than these and ``RUN`` fails."""
EXEMPT = {
    "make": "sets up an environment and runs these very tests, or the demo",
    "pip": "installs into the environment that runs the tests",
    "pytest": "the measurement runs as a test of its own, tests/integration/test_backfill_cost.py",
    "docker": "needs Docker, which the machines that run the tests need not have",
}
"""Programs whose lines are not run, and why."""
READ_ONLY = {
    "imrnn-vdb factors report": "encodes the whole standard library: 90 s; tests/unit/test_factors_quality.py tests it",
    "imrnn-vdb backfill --follow": "repeats until it is interrupted",
    "imrnn-vdb serve": "serves until it is stopped",
}
"""Commands of ours whose arguments are read and checked, and that are not carried out, and why."""
SMALL = {
    "imrnn-vdb bench --url": "--rounds 1 --calls 1",
    "imrnn-vdb bench --plot": "--size 100 --size 200 --coarse-k 10 --rounds 1 --calls 1 --no-sweep",
    "imrnn-vdb bench": "--size 200 --coarse-k 10 --rounds 1 --calls 1 --no-sweep",
    "imrnn-vdb ablate": "--seeds 1 --epochs 1 --only defaults",
}
"""Commands that would take minutes or hours, and the options that make them small; the first that fits."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language, and what it says."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return README and all pages of the documentation that have code to run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if any(block.language in RUN for block in blocks(page))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, indented ones included."""
    text = page.read_text("utf-8")
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[2], re.sub(f"^{found[1]}", "", found[3], flags=re.M))
        for found in re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```", text, re.S | re.M)
    ]


def commands(block: Block) -> list[list[str]]:
    """Return the command lines of a console block, as words; lines without a prompt are output."""
    whole = block.text.replace("\\\n", " ")
    return [shlex.split(line[2:], comments=True) for line in whole.splitlines() if line.startswith("$ ")]


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs blocks against servers.

    Attributes
    ----------
    servers
        What stands in for the documented addresses.
    names
        The namespace of the page.
    """

    servers: dict[str, str]
    names: dict[str, Any]

    def run(self, block: Block) -> None:
        """Run a block; what fails, raises."""
        if block.language == "python":
            code = self.addressed(block.text)
            exec(compile(code, str(block), "exec"), self.names)  # our own files: that is the point of this test
        for words in commands(block) if block.language == "console" else []:
            self._shell([self.addressed(word) for word in words], f"{block}: {shlex.join(words)}")

    def addressed(self, text: str) -> str:
        """Return a text with the servers' real addresses."""
        for documented, real in self.servers.items():
            text = text.replace(documented, real)
        return text

    def _shell(self, words: list[str], where: str) -> None:
        if words[0] in EXEMPT:
            return
        assert words[0] == "imrnn-vdb", f"{where}: neither a command of ours nor listed in EXEMPT"
        if first(READ_ONLY, words):
            check_arguments(words[1:])
            return
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        done = CliRunner().invoke(main, _made_small(words)[1:])
        assert done.exit_code == 0, f"{where}\n{done.output}\n{done.exception!r}"
        if target:
            Path(target).write_text(done.stdout)


def _made_small(words: list[str]) -> list[str]:
    options = shlex.split(first(SMALL, words) or "")
    replaced = {place + step for place, word in enumerate(words) if word in options[::2] for step in (0, 1)}
    return [word for place, word in enumerate(words) if place not in replaced] + options


def first(table: dict[str, str], words: list[str]) -> str | None:
    """Return the first entry whose words are all among those of a command line."""
    return next((value for key, value in table.items() if set(key.split()) <= set(words)), None)


def check_arguments(words: list[str]) -> None:
    """Read a command's arguments as it would, without carrying it out."""
    command: click.Command = main
    context = click.Context(main, info_name="imrnn-vdb")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        if not isinstance(command, click.Group):
            command.make_context(name, list(words), parent=context)


def _sentences() -> list[str]:
    """Sentences about the sea or the land; a quarter each names people, numbers and dates, independently."""
    sea, land = ("ship", "vessel", "harbour", "sailor", "anchor"), ("cow", "meadow", "barn", "farmer", "mill")
    people, months = ("Anna Berg", "Louis Martin", "Maria Rossi"), ("March", "April", "October")
    found = list(README_TEXTS)
    for i in range(len(found), POINTS):
        who = f"{people[i % 3]} of Lisbon" if i % 4 == 0 else ("a stranger", "somebody", "the child")[i % 3]
        count = f"{i * 7} or {i}" if i // 4 % 4 == 0 else ("some", "a few", "hardly any")[i % 3]
        when = f"in {months[i % 3]}, that year" if i // 16 % 4 == 0 else ("with care", "gladly", "alone")[i % 3]
        words = sea if _kind(i) == "sea" else land
        found.append(f"{who} looked after {count} of the {words[i % 5]} and the {words[(i + 2) % 5]} {when}")
    return found


def _kind(number: int) -> str:
    return "sea" if number // 8 % 2 else "land"


@cache
def rows() -> list[dict[str, Any]]:
    """Return the points of ``articles``: README's four texts first."""
    texts = _sentences()
    vectors = TransformerEncoder(MINILM).encode_passages(texts)
    return [
        {
            "id": number,
            "vector": vector.tolist(),
            "title": text[:20],
            "text": text,
            "body": text,
            "tenant": "acme",
            "kind": _kind(number),
        }
        for number, (vector, text) in enumerate(zip(vectors, texts, strict=True))
    ]


@contextmanager
def milvus_articles(url: str, points: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Fill ``articles`` on a Milvus server as a team would, and drop it; yields what stands in for what."""
    from pymilvus import MilvusClient

    where, name = parse_url(f"{url}/any"), f"articles_{uuid.uuid4().hex[:8]}"  # others may test on the same server
    client = MilvusClient(f"http://{where.host}:{where.port}")
    client.create_collection(name, dimension=384, metric_type="COSINE", consistency_level="Session")
    try:
        client.insert(name, points)
        yield {f"{_MILVUS}/articles": f"{url}/{name}", _MILVUS: url, "timeout=10.0": "timeout=60.0"}
    finally:
        for found in client.list_collections():
            if found.startswith(name):
                client.drop_collection(found)
        client.close()


@contextmanager
def qdrant_articles(url: str, points: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Fill ``articles`` on a Qdrant server as a team would, and drop it; yields what stands in for what."""
    from qdrant_client import QdrantClient, models

    where = parse_url(f"{url}/any")
    client = QdrantClient(where.host, grpc_port=where.port, prefer_grpc=True, check_compatibility=False)
    client.create_collection("articles", models.VectorParams(size=384, distance=models.Distance.COSINE))
    try:
        structs = [
            models.PointStruct(id=row["id"], vector=row["vector"], payload=_without(row, "id", "vector"))
            for row in points
        ]
        client.upsert("articles", structs, wait=True)
        arguments = f'"{where.host}", grpc_port={where.port}, prefer_grpc=True, check_compatibility=False'
        yield {_QDRANT: url, _QDRANT_CLIENT: arguments}
    finally:
        client.delete_collection("articles")
        client.close()


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def write_files(folder: Path) -> None:
    """Write the files that pages name: a corpus, labels, lists of texts, a model."""
    points = rows()[:60]
    _write_lines(folder / "queries.jsonl", [{"_id": row["id"], "text": row["text"][:40]} for row in points])
    (folder / "qrels.tsv").write_text("".join(f"{row['id']}\t{row['id']}\t1\n" for row in points))
    for name in ("my-labels", "PYDOCS", "SCIFACT"):
        _write_beir(folder / name, points)
    _write_lines(folder / "corpus.jsonl", [{"_id": str(row["id"]), **_without(row, "id", "vector")} for row in points])
    for name, kind in (("yes", "sea"), ("no", "land")):
        lines = [row["text"] + "\n" for row in rows() if row["kind"] == kind]
        (folder / f"{name}.txt").write_text("".join(lines), "utf-8")
    IMRNNModel.from_pretrained("minilm").save_pretrained(folder / "new-model")


def _write_beir(folder: Path, points: list[dict[str, Any]]) -> None:
    (folder / "qrels").mkdir(parents=True)
    _write_lines(
        folder / "corpus.jsonl", [{"_id": f"d{row['id']}", "title": "", "text": row["text"]} for row in points]
    )
    _write_lines(folder / "queries.jsonl", [{"_id": f"q{row['id']}", "text": row["text"][:40]} for row in points])
    for split, part in (("train", points[::2]), ("test", points[1::2])):
        lines = [f"q{row['id']}\td{row['id']}\t1\n" for row in part]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


@contextmanager
def service_of_articles(url: str, points: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Serve a Milvus server's ``articles``; yields what stands in for what."""
    from imrnn_vdb.serving.config import CollectionConfig, ServiceConfig
    from serving import running

    with milvus_articles(url, points) as replaced:
        collections = {"articles": CollectionConfig(replaced[f"{_MILVUS}/articles"], timeout=60.0)}
        with running(ServiceConfig(collections, listen="127.0.0.1:0")) as (server, _):
            yield {**replaced, _SERVICE: f"localhost:{server.port}"}


needs: dict[str, tuple[str, Callable[..., Any]]] = {
    "qdrant": ("qdrant_wire_url", qdrant_articles),
    "milvus": ("milvus_server_url", milvus_articles),
    "service": ("milvus_server_url", service_of_articles),
}
"""By product: the fixture of its server, and what fills it."""


def products(page: Path) -> list[str]:
    """Return the databases that a page speaks to."""
    text = "".join(block.text for block in blocks(page) if block.language in RUN)
    spoken = {"qdrant": (_QDRANT, _QDRANT_CLIENT), "milvus": (_MILVUS,), "service": (_SERVICE,)}
    return [product for product, addresses in spoken.items() if any(address in text for address in addresses)]

"""Topics: clusters that are there are found, named by their words, kept when more is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.factors.topics import Topics, find_topics, topic_factor

WORDS = {0: "anchor harbour vessel", 1: "violin concert melody", 2: "butter recipe oven"}


def made(space, rng, kinds, count=60):
    """Codes around one latent direction a kind, and texts in its words."""
    codes, texts = [], []
    for kind in kinds:
        centre = np.zeros(space.num_factors)
        centre[-1 - kind] = 1.0
        codes.append(centre + rng.normal(size=(count, space.num_factors)) * 0.05)
        texts += [f"the {WORDS[kind]} of number {i}" for i in range(count)]
    return np.concatenate(codes).astype(np.float32), texts


def test_clusters_are_found_and_named_by_their_own_words(space, rng):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, coarse=2, fine=2)
    names = [topic.name for topic in found.level()]
    assert sorted(sorted(name.split("_")) for name in names) == sorted(sorted(WORDS[k].split()) for k in (0, 1))
    assigned = [pair[0] for pair in found.assign(codes)]
    assert len(set(assigned[:60])) == len(set(assigned[60:])) == 1
    assert all(len(found.level(name)) == 2 for name in names)


def test_new_topics_are_appended_and_old_ones_stay(space, rng, tmp_path):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, coarse=2, fine=0)
    found = found.renamed(found.level()[0].name, "first")
    more = found.extended(*made(space, rng, (0, 1, 2)))
    assert more.topics[: len(found.topics)] == found.topics
    assert {"butter", "recipe", "oven"} & set(more.topics[-1].terms)
    more.save(tmp_path / "topics.json")
    assert Topics.load(tmp_path / "topics.json") == more


def test_a_topic_becomes_a_factor(space, rng):
    codes, texts = made(space, rng, (0, 1, 2))
    found = find_topics(space, codes, texts, coarse=3, fine=0)
    own = topic_factor(space, found, found.level()[0].name, codes)
    assert own.auc > 0.95
    assert own.space.space_id == space.space_id


def test_what_cannot_be_is_refused(space, rng, tmp_path):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, coarse=2, fine=0)
    first, second = (topic.name for topic in found.level())
    with pytest.raises(InvalidInputError, match="taken"):
        found.renamed(first, second)
    with pytest.raises(InvalidInputError, match="no topic"):
        found.renamed("unheard", "x")
    with pytest.raises(InvalidInputError, match="cannot be found"):
        find_topics(space, codes, texts, coarse=1000)
    with pytest.raises(InvalidInputError, match="does not hold topics"):
        Topics.load(tmp_path / "none.json")
    other = Topics("00000000", found.mean, found.nearest, found.topics)
    with pytest.raises(SpaceMismatchError, match="belong to the space"):
        other.checked(space)


def run(*arguments: object) -> dict:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_line_finds_topics_and_adds_a_factor(tmp_path):
    """On a real engine and the real encoder."""
    rows = [
        {"_id": f"{kind}-{i}", "text": f"{text} {i}", "kind": kind}
        for kind, text in (("sea", "The ship left the harbour, day"), ("food", "Melt the butter in a pan, step"))
        for i in range(12)
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    url = f"qdrant+edge:{tmp_path}/things"
    run("index", url, "--input", tmp_path / "corpus.jsonl")
    topics = run("factors", "topics", url, "--coarse", 2, "--fine", 0)
    assert any("harbour" in topic["terms"] for topic in topics)
    added = run("factors", "add", url, "seafaring", "--field", "kind", "--value", "sea", "--out", tmp_path / "own")
    assert added["auc"] > 0.9
    by_words = run("factors", "add", url, "ships", "--words", "ship harbour", "--out", tmp_path / "words")
    assert by_words["positives"] == 12
    found = run("search", url, "a boat trip", "--model", tmp_path / "own", "--limit", 1)
    assert found[0]["factors"]["seafaring"] > 0.5

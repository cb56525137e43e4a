"""Topics: clusters that are there are found, named by their words, kept when more is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from factory import make_model
from imrnn_vdb import IMRNNCollection, format_filter, parse_filter
from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.explain import explanation_parts
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


def test_what_was_known_is_no_new_topic(space, rng):
    """Two in a hundred codes are far from all topics, of any sample; they are no news."""
    codes, texts = made(space, rng, (0, 1), count=400)
    found = find_topics(space, codes, texts, coarse=2, fine=0)
    assert found.extended(codes, texts, 1) is found
    assert found.extended(*made(space, rng, (0, 1), count=400), 3) is found
    codes, texts = made(space, rng, (0, 1, 2), count=400)
    few = slice(0, 840)  # 40 of the new kind
    assert {"butter", "recipe", "oven"} & set(found.extended(codes[few], texts[few]).topics[-1].terms)


def test_equal_codes_are_one_topic(space, rng):
    codes, texts = made(space, rng, (0, 1), count=1)
    found = find_topics(space, np.repeat(codes, 30, axis=0), [text for text in texts for _ in range(30)], 4, 3)
    assert [topic.count for topic in found.topics if topic.parent is None] == [30, 30]
    assert all(topic.count for topic in found.topics)


def test_words_of_any_script_are_terms(space, rng):
    codes, texts = made(space, rng, (0, 1))
    russian = ["корабль и море" if "anchor" in text else "скрипка, straße, music l'été 1928_बंदरगाह" for text in texts]
    sea, music = sorted(find_topics(space, codes, russian, 2, 0).topics, key=lambda topic: "море" not in topic.terms)
    assert set(sea.terms) == {"корабль", "море"}
    assert set(music.terms) == {"скрипка", "straße", "music", "बंदरगाह"}  # whose vowels are marks, no letters
    assert set(sea.name.split("_")) == set(sea.terms)
    assert music.name.split("_") == list(music.terms[:3])


def test_a_topic_is_renamed_and_becomes_a_factor_in_letters_of_any_script(space, rng):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, 2, 0)
    own = topic_factor(space, found.renamed(found.topics[0].name, "größe_моря"), "größe_моря", codes)
    assert own.space.names[-1] == "größe_моря"
    text = 'größe_моря >= 0.5 and top(größe_моря, 3) or not "बंदरगाह" < 0.5'
    assert format_filter(parse_filter(text)) == text
    with pytest.raises(InvalidInputError, match="letters, digits and underscores"):
        found.renamed(found.topics[0].name, "a name")


def test_a_topic_becomes_a_factor(space, rng):
    codes, texts = made(space, rng, (0, 1, 2))
    found = find_topics(space, codes, texts, coarse=3, fine=0)
    own = topic_factor(space, found, found.level()[0].name, codes)
    assert own.auc > 0.95
    assert own.space.space_id == space.space_id


def test_what_a_code_belongs_to_is_told_with_its_similarity(space, rng):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, coarse=2, fine=2)
    matches = found.matches(codes)
    assert [tuple(match.name for match in pair) for pair in matches if pair] == [
        names for names, pair in zip(found.assign(codes), matches, strict=True) if pair
    ]
    assert sum(pair == () for pair in matches) <= 0.03 * len(codes)  # `nearest` is the 2 % quantile
    centred = codes[0] - np.array(found.mean)
    by_name = {topic.name: np.array(topic.centre) for topic in found.topics}
    for match in matches[0]:
        cosine = centred @ by_name[match.name] / np.linalg.norm(centred)
        assert match.similarity == pytest.approx(cosine, abs=1e-5)
    elsewhere = np.eye(space.num_factors, dtype=np.float32)[:1] * -1
    assert found.matches(elsewhere) == [()]


def test_explanations_say_topics_and_keep_their_factors_apart(space, rng, tmp_path):
    codes, texts = made(space, rng, (0, 1))
    topics = find_topics(space, codes, texts, coarse=2, fine=0)
    first = topics.level()[0].name
    model = replace(make_model(), space=topic_factor(space, topics, first, codes).space)
    topics.save(tmp_path / "topics.json")
    with IMRNNCollection.create("qdrant+local::memory:/topical", model) as collection:
        collection.upsert(range(len(codes)), vectors=codes @ space.basis.T)
        query = space.basis @ codes[0]
        found = collection.search(query, topics=tmp_path / "topics.json")
        ranked = collection.rerank(query, [1, len(codes) - 1], topics=topics)
        bare = collection.search(query, explain=True)
        with pytest.raises(SpaceMismatchError, match="belong to the space"):
            collection.search(query, topics=replace(topics, space_id="00000000"))
    expected = [names[0] for names in topics.assign(codes)]
    assert found.topics[0].name == expected[0]
    for result in (*found, *ranked):
        told = result.explanation
        assert told.topics == () or told.topics[0].name == expected[result.id]
        assert set(told.of_topics) == {first} < set(told.named)
        assert told.to_dict()["topics"] == {match.name: match.similarity for match in told.topics}
        parts = dict(explanation_parts(told, 2))
        assert parts[f"topic {first}"] == told.named[first]
        assert sum(parts.values()) == pytest.approx(result.score, abs=1e-6)
    assert any(result.explanation.topics for result in found)
    assert {result.explanation.topics[0].name for result in ranked if result.explanation.topics} <= set(expected)
    assert [result.score for result in bare] == pytest.approx([result.score for result in found], abs=1e-6)
    assert (bare.topics, bare[0].explanation.topics, bare[0].explanation.of_topics) == ((), (), {})


def test_a_shipped_factor_is_no_topic_because_one_bears_its_name(space, rng):
    codes, texts = made(space, rng, (0, 1))
    topics = find_topics(space, codes, texts, coarse=2, fine=0)
    topics = topics.renamed(topics.level()[0].name, space.names[0])
    with IMRNNCollection.create("qdrant+local::memory:/namesake", make_model()) as collection:
        collection.upsert(range(len(codes)), vectors=codes @ space.basis.T)
        found = collection.search(space.basis @ codes[0], topics=topics)
    assert found[0].explanation.of_topics == {}


def test_what_cannot_be_is_refused(space, rng, tmp_path):
    codes, texts = made(space, rng, (0, 1))
    found = find_topics(space, codes, texts, coarse=2, fine=0)
    first, second = (topic.name for topic in found.level())
    with pytest.raises(InvalidInputError, match="taken"):
        found.renamed(first, second)
    with pytest.raises(InvalidInputError, match="no topic"):
        found.renamed("unheard", "x")
    with pytest.raises(InvalidInputError, match="no topic is named 'unheard'"):
        topic_factor(space, found, "unheard", codes)
    with pytest.raises(InvalidInputError, match="cannot be found"):
        find_topics(space, codes, texts, coarse=1000)
    with pytest.raises(InvalidInputError, match="does not hold topics"):
        Topics.load(tmp_path / "none.json")
    found.save(tmp_path / "topics.json")
    row = json.loads((tmp_path / "topics.json").read_text())
    others = [{**row, "mean": row["mean"][1:]}, {**row, "topics": []}]
    for text in ("5", "[]", "null", "{}", '{"topics": 5}', "[" * 10_000, "\xff", *map(json.dumps, others)):
        (tmp_path / "other.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(InvalidInputError, match=r"other\.json does not hold topics"):
            Topics.load(tmp_path / "other.json")
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
    found = run("search", url, "a boat trip", "--model", tmp_path / "own", "--limit", 1)["results"]
    assert found[0]["factors"]["seafaring"] > 0.5
    file, page = tmp_path / "topics.json", tmp_path / "page.html"
    [sea] = [topic["name"] for topic in topics if "harbour" in topic["terms"]]
    run("factors", "topics", url, "--coarse", 2, "--fine", 0, "--out", file)
    run("factors", "add", url, sea, "--topics", file, "--out", tmp_path / "topical")
    model = ("--model", tmp_path / "topical", "--topics", file)
    found = run("search", url, "The ship left the harbour, day 3", *model, "--limit", 3, "--html", page)["results"]
    assert {sea} == set(found[0]["explanation"]["topics"]) == set(found[0]["explanation"]["of_topics"])
    assert f"Topics of the query: {sea}" in page.read_text(encoding="utf-8")
    assert f"topic {sea}" in page.read_text(encoding="utf-8")
    one = run("explain", url, "The ship left the harbour, day 3", found[0]["id"], *model)
    assert set(one["result"]["explanation"]["topics"]) == {sea}

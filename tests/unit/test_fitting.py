from __future__ import annotations

import json

import numpy as np
import pytest

from imrnn_vdb.checkpoint import IMRNNModel
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.fitting import default_labellers, factor_labels, fit_space, join, measure_factors, read_texts
from imrnn_vdb.fitting.auc import carries, lacks, roc_auc
from imrnn_vdb.fitting.collection import fit_sample
from imrnn_vdb.fitting.labels import EntityLabeller, WordList
from imrnn_vdb.fitting.probes import orthogonalise

DIM = 24


@pytest.fixture
def corpus(rng):
    """Texts of three sources; two planted directions carry food and music, a third one tells the sources apart."""
    texts, vectors, sources = [], [], []
    for place, source in enumerate(("a", "b", "c")):
        for _ in range(400):
            food, music = (rng.random(2) < 0.3).tolist()
            words = ["filler"] * 6 + ["cheese"] * 2 * food + ["guitar"] * 2 * music
            vector = rng.normal(0, 0.4, DIM)
            vector[0] += 1.5 * food
            vector[1] += 1.5 * music + 0.5 * food
            vector[2] += 2 * place
            texts.append(" ".join(words))
            vectors.append(vector)
            sources.append(source)
    labellers = {name: default_labellers([])[name] for name in ("food", "music")}
    return texts, np.array(vectors), sources, labellers


def pairwise_auc(positive, scores):
    differences = scores[positive][:, None] - scores[~positive][None]
    return ((differences > 0) + 0.5 * (differences == 0)).mean()


def test_auc_counts_ordered_pairs_and_ties_by_half(rng):
    positive = rng.random(500) < 0.3
    scores = np.round(rng.normal(size=500) + positive, 1)
    assert roc_auc(positive, scores) == pytest.approx(pairwise_auc(positive, scores), abs=1e-12)
    assert roc_auc(np.array([True, False]), np.zeros(2)) == 0.5
    assert np.isnan(roc_auc(np.ones(3, bool), np.arange(3.0)))


def test_top_and_bottom_third():
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1.0, 2.0])
    assert carries(labels).tolist() == [False] * 7 + [True] * 2
    assert lacks(labels).tolist() == [True] * 7 + [False] * 2
    assert carries(np.array([0.0, 1, 1, 1])).tolist() == [False, True, True, True]
    assert carries(np.arange(9.0)).sum() == lacks(np.arange(9.0)).sum() == 3


def test_word_lists_know_plurals_stems_phrases_and_signs():
    words = WordList("cat infect* due_to :)")
    assert words.count("Cats infected two infections, due to a cat :) :)") == 7
    assert words.positions("due to the cat") == [0, 3]
    assert words.count("concatenate undue to") == 0


def test_entity_knows_names_by_words_that_are_never_lower_case():
    label = EntityLabeller(["the weather is fine"] * 5)
    assert label("The Weather in Lisbon") == label("the weather in Lisbon") > label("The Weather is fine") == 0
    assert label("@Lisbon #Lisbon") == 0


@pytest.mark.parametrize(
    ("factor", "more", "less"),
    [
        ("numeric", "It weighs 12.5 kg and costs 300 dollars", "It weighs little and costs much"),
        ("temporal", "Born in March 1912, it ended at 5 pm", "It began and it ended"),
        ("sentiment", "a wonderful film, I loved it", "not a wonderful film, I hated it"),
        ("negation", "I can't and won't do nothing", "I can and will do something"),
        ("procedural", "Step one: press the button, then make sure to install it", "The button is red"),
        ("definition", "The term is also known as a type of synonym", "The car is red"),
        ("causal", "It failed because of heat, which led to damage", "It failed on a hot day"),
        ("comparison", "Better than the other, unlike similar ones", "It is good"),
    ],
)
def test_weak_labels_tell_more_from_less(factor, more, less):
    label = default_labellers([])[factor]
    assert label(more) > label(less)


def test_orthogonalisation_is_symmetric_and_the_closest(rng):
    directions = rng.normal(size=(DIM, 5))
    directions[:, 1] += directions[:, 0]
    directions /= np.linalg.norm(directions, axis=0)
    axes = orthogonalise(directions)
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-10)
    other, _ = np.linalg.qr(directions)
    assert np.linalg.norm(axes - directions) < np.linalg.norm(
        other * np.sign(np.sum(other * directions, 0)) - directions
    )
    np.testing.assert_allclose(orthogonalise(directions[:, ::-1])[:, ::-1], axes, atol=1e-10)
    with pytest.raises(InvalidInputError, match="depend on one another"):
        orthogonalise(np.repeat(directions[:, :1], 2, axis=1))


def test_planted_factors_are_found_and_hold_on_another_source(corpus):
    texts, vectors, sources, labellers = corpus
    fitted = fit_space(texts, vectors, sources, held_out=["c"], labellers=labellers, num_factors=8)
    assert fitted.space.names == ("food", "music")
    assert fitted.space.num_factors == 8
    assert fitted.fit_sources == {"a": 400, "b": 400}
    for report in fitted.reports:
        assert set(report.held_out) == {"c"}
        assert report.auc > 0.9
        assert report.cosine > 0.9
    axis = fitted.space.basis[:, 0]
    positive = np.array(["cheese" in text for text, source in zip(texts, sources, strict=True) if source == "c"])
    scores = fitted.space.encode(vectors).directions[800:, 0]
    assert fitted.reports[0].held_out["c"].auc == pytest.approx(roc_auc(positive, scores), abs=1e-3)
    assert abs(axis[2]) < 0.2  # a source is not a factor


def test_the_calibration_gives_even_scores_on_the_fitted_texts(corpus):
    texts, vectors, sources, labellers = corpus
    space = fit_space(texts, vectors, sources, labellers=labellers, num_factors=8).space
    scores = space.factor_scores(space.encode(vectors).directions)
    np.testing.assert_allclose(np.quantile(scores, [0.1, 0.5, 0.9], axis=0).T, [[0.1, 0.5, 0.9]] * 2, atol=0.02)


def test_fitting_is_deterministic_and_its_evidence_holds_no_text(corpus):
    texts, vectors, sources, labellers = corpus
    first, second = (fit_space(texts, vectors, sources, labellers=labellers, num_factors=8) for _ in range(2))
    assert first.space.space_id == second.space.space_id
    assert "cheese" not in json.dumps(first.evidence())


def test_without_sources_parts_of_the_texts_stand_for_them(corpus):
    texts, vectors, _, labellers = corpus
    fitted = fit_space(texts, vectors, labellers=labellers, num_factors=4)
    assert list(fitted.fit_sources) == ["part0", "part1", "part2", "part3"]
    assert fitted.evidence()["mean_auc"] is None


def test_peoples_labels_take_the_place_of_weak_ones(corpus):
    texts, vectors, sources, labellers = corpus
    people = np.where(np.array(sources) == "c", vectors[:, 5], np.nan)
    fitted = fit_space(
        texts, vectors, sources, held_out=["c"], labels={"food": people}, labellers=labellers, num_factors=4
    )
    food, music = fitted.reports
    assert (food.held_out["c"].judged_by, music.held_out["c"].judged_by) == ("people", "words")
    assert abs(food.auc - 0.5) < 0.1  # what these people call food has nothing to do with cheese


def test_factors_that_nothing_carries_are_left_out_with_a_reason(corpus, rng):
    texts, vectors, sources, labellers = corpus
    noise = iter(rng.random(len(texts)))
    extra = {**labellers, "noise": lambda text: next(noise), "absent": lambda text: 0.0}
    fitted = fit_space(texts, vectors, sources, labellers=extra, num_factors=8, min_auc=0.8)
    assert fitted.space.names == ("food", "music")
    assert "fewer than 25" in fitted.rejected["absent"]
    assert "below 0.8" in fitted.rejected["noise"]


def test_more_factors_than_dimensions_are_cut_to_the_dimension(rng):
    numbers = rng.random(1200) < 0.5
    vectors = rng.normal(size=(1200, DIM))
    vectors[:, 0] += np.where(numbers, 3, -3)
    model, fitted = fit_sample(weights(numbers), vectors.astype(np.float32), num_factors=DIM + 1)
    assert fitted.space.names == ("numeric",)
    assert model.space.num_factors == model.modulator.config.num_factors == DIM


def test_copies_of_a_text_are_held_out_together(rng):
    numbers, vectors = rng.random(60) < 0.5, rng.normal(size=(60, DIM)).astype(np.float32)
    order = rng.permutation(np.repeat(np.arange(60), 20))
    texts = weights(numbers)
    with pytest.raises(InvalidInputError, match=r"numeric: [^;]*below 0\.7"):  # these vectors say nothing of numbers
        fit_sample([texts[row] for row in order], vectors[order])


def weights(numbers) -> list[str]:
    """As many different texts, with a number where one is wanted."""
    return [f"weights {'12' if some else 'xx'} {'y' * row}" for row, some in enumerate(numbers)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros((1200, DIM))}, "zero"),
        ({"vectors": np.ones((3, DIM))}, "1200 texts need"),
        ({"held_out": ["d"]}, "no text is of the source 'd'"),
        ({"held_out": ["a", "b", "c"]}, "nothing is left"),
        ({"num_factors": 1}, "2 named factors"),
        ({"labels": {"food": [1.0]}}, "labels for 'food'"),
        ({"labellers": {"absent": lambda text: 0.0}}, "no factor could be fitted"),
    ],
)
def test_wrong_input_is_refused(corpus, change, message):
    texts, vectors, sources, labellers = corpus
    given = {"texts": texts, "vectors": vectors, "sources": sources, "labellers": labellers, "num_factors": 8, **change}
    with pytest.raises(InvalidInputError, match=message):
        fit_space(given.pop("texts"), given.pop("vectors"), given.pop("sources"), **given)


def test_texts_are_read_with_sources_and_peoples_labels(tmp_path):
    rows = [
        {"_id": "1", "text": "good", "source": "web", "sentiment": 2},
        {"_id": "2", "title": "T", "text": "Ada", "split": "dev", "tokens": 4, "entity_tokens": 1},
        {"_id": "3", "text": "plain"},
    ]
    (tmp_path / "x.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_texts(tmp_path, ["sentiment", "entity", "food"])
    assert read.texts == ["good", "T\nAda", "plain"]
    assert read.sources == ["x/web", "x/dev", "x"]
    np.testing.assert_equal(read.labels, {"sentiment": [2, np.nan, np.nan], "entity": [np.nan, 0.25, np.nan]})
    assert len(join([read, read])) == 6


def test_a_text_may_hold_any_separator_and_a_file_a_byte_order_mark(tmp_path):
    rows = [{"text": "one\u2028still one\u0085"}, {"text": "two"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "x.jsonl").write_text(lines, encoding="utf-8-sig")
    assert read_texts(tmp_path, []).texts == ["one\u2028still one\u0085", "two"]
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\n\xff\n')
    with pytest.raises(InvalidInputError, match="line 2: not UTF-8"):
        read_texts(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"title": "t"}', "line 1: needs"),
        ("\n\n", "holds no text"),
        ('\n{"text": "a", "title": 5}', "line 2: 'title' is a string, got 5"),
        ('{"text": "a", "entity_tokens": "x", "tokens": 3}', "line 1: 'entity_tokens' and 'tokens' are numbers"),
        ('{"text": "a", "entity_tokens": 1, "tokens": ["a"]}', "line 1: 'entity_tokens' and 'tokens' are numbers"),
    ],
)
def test_unreadable_texts_are_refused(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInputError, match=message):
        read_texts(tmp_path, ["entity"])
    with pytest.raises(InvalidInputError, match=r"no \.jsonl"):
        read_texts(tmp_path / "nowhere", [])


def test_the_shipped_space_carries_its_evidence():
    model = IMRNNModel.from_pretrained("minilm")
    factors = model.evidence["fit"]["factors"]
    assert (model.space.dim, model.space.num_factors) == (384, 64)
    assert tuple(factors) == model.space.names
    assert {"entity", "numeric", "temporal", "sentiment", "procedural", "definition", "causal", "comparison"} <= set(
        factors
    )
    assert len(factors) >= 16
    assert model.evidence["fit"]["mean_auc"] >= 0.85
    fitted_on = set(model.evidence["fit"]["fit_sources"])
    for factor in factors.values():
        assert factor["cosine"] > 0.9
        assert factor["held_out"]
        assert not fitted_on & {*factor["held_out"], *factor["checked"]}


def test_a_space_is_measured_on_other_texts_as_the_fit_measures_it(corpus):
    texts, vectors, sources, labellers = corpus
    fitted = fit_space(texts, vectors, sources, labellers=labellers, num_factors=8, held_out=["c"])
    rows = [i for i, source in enumerate(sources) if source == "c"]
    found = measure_factors(fitted.space, [texts[i] for i in rows], vectors[rows], ["c"] * len(rows))
    assert {name: by_source["c"].auc for name, by_source in found.items()} == {
        report.name: pytest.approx(report.held_out["c"].auc) for report in fitted.reports
    }
    people = {"food": np.array(["guitar" in texts[i] for i in rows], float)}  # people who call music food
    other = measure_factors(fitted.space, [texts[i] for i in rows], vectors[rows], ["c"] * len(rows), people)
    assert other["food"]["c"].judged_by == "people"
    assert other["food"]["c"].auc < found["food"]["c"].auc
    with pytest.raises(InvalidInputError, match="sources for"):
        measure_factors(fitted.space, texts, vectors, ["c"])


def test_a_factor_of_one_s_own_is_measured_by_people_s_labels_alone(corpus):
    """No word list tells it; a source without labels, or with too few, says nothing of it."""
    texts, vectors, sources, labellers = corpus
    space = fit_space(texts, vectors, sources, labellers=labellers, num_factors=8).space
    direction = np.eye(8)[7]
    own = space.with_factor("mine", direction, np.linspace(-1, 1, space.quantiles.shape[1]))
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = (rows @ own.named_axes[:, own.index("mine")]).astype(float)
    labels[[source == "b" for source in sources]] = np.nan
    few = np.flatnonzero([source == "c" for source in sources])[10:]
    labels[few] = np.nan
    found = measure_factors(own, texts, vectors, sources, {"mine": labels})
    assert found["mine"].keys() == {"a"}
    assert (found["mine"]["a"].auc, found["mine"]["a"].judged_by) == (1.0, "people")
    assert "mine" not in measure_factors(own, texts, vectors, sources)


def test_people_s_labels_go_before_word_lists_where_a_source_has_enough():
    texts = [f"My mother and her sister, number {i}." for i in range(240)]
    sources = ["judged"] * 120 + ["plain"] * 120
    people = np.where(np.arange(240) < 120, np.arange(240.0), np.nan)
    found = factor_labels(texts, sources, {"family": people})
    np.testing.assert_array_equal(found["family"][:120], people[:120])
    assert (found["family"][120:] > 0).all()
    assert np.isfinite(found["numeric"]).all()

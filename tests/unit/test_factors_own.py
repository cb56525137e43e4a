"""Factors of one's own: what they leave as it is, and what their evidence is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from imrnn_vdb.cli import main
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.own import add_factor, split_by_field, split_by_rule
from imrnn_vdb.metric import Metric
from imrnn_vdb.opening import make_layout
from imrnn_vdb.options import Settings
from imrnn_vdb.points import Candidates
from imrnn_vdb.refine import refine
from imrnn_vdb.space import FactorSpace


@pytest.fixture
def examples(space: FactorSpace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Codes that differ along one latent direction, shapes (40, m) and (60, m)."""
    codes = rng.normal(size=(100, space.num_factors)).astype(np.float32) * 0.1
    codes[:40, -1] += 0.5
    return codes[:40], codes[40:]


def test_an_added_factor_leaves_codes_names_and_scores_as_they_are(space, examples, rng):
    own = add_factor(space, "cricket", *examples)
    vectors = rng.normal(size=(20, space.dim))
    codes = space.encode(vectors).directions
    assert own.space.space_id == space.space_id
    assert np.array_equal(own.space.basis, space.basis)
    assert np.array_equal(own.space.encode(vectors).directions, codes)
    assert np.array_equal(own.space.factor_scores(codes)[:, :-1], space.factor_scores(codes))
    assert own.space.names == (*space.names, "cricket")
    assert [*own.space.score_ids] == ["cricket"]


def test_scores_are_stored_under_the_documented_keys(space, examples):
    own = add_factor(space, "cricket", *examples).space
    layout = make_layout(own, Settings())
    first = space.names[0]
    assert layout.factor_field(first) == f"imrnn_factor_{space.space_id}_{first}"
    assert layout.factor_field("cricket") == f"imrnn_factor_{space.space_id}_{own.score_ids['cricket']}_cricket"


def test_a_factor_that_is_there_is_found_on_held_out_examples(space, examples):
    own = add_factor(space, "cricket", *examples)
    assert own.auc > 0.95
    assert own.kept > 0.9
    assert own.space.factor_scores(examples[0])[:, -1].mean() > own.space.factor_scores(examples[1])[:, -1].mean() + 0.3


def test_examples_without_a_difference_show_no_auc(space, rng):
    codes = rng.normal(size=(400, space.num_factors))
    assert abs(add_factor(space, "noise", codes[:200], codes[200:]).auc - 0.5) < 0.1


def test_examples_that_repeat_count_once(space, examples, rng):
    yes, no = examples
    log = [np.repeat(codes, 5, axis=0) for codes in (yes[:6], yes[6:12])]
    noise = [(codes + rng.uniform(-1e-7, 1e-7, codes.shape)).astype(np.float32) for codes in log]
    for kinds in (log, noise):
        own = add_factor(space, "noise", *kinds)
        assert (own.positives, own.negatives) == (6, 6)
        assert own.auc == pytest.approx(add_factor(space, "noise", yes[:6], yes[6:12]).auc)
    with pytest.raises(InvalidInputError, match="5 different positive"):
        add_factor(space, "noise", np.repeat(yes[:4], 5, axis=0), no)


def test_a_name_that_is_taken_is_named(space, examples):
    with pytest.raises(InvalidInputError, match=f"the name '{space.names[0]}' is taken"):
        add_factor(space, space.names[0], *examples)


def test_a_second_factor_does_not_move_the_first(space, examples, rng):
    once = add_factor(space, "cricket", *examples).space
    other = rng.normal(size=(60, space.num_factors))
    other[:30, -2] += 3
    twice = add_factor(once, "chess", other[:30], other[30:]).space
    assert np.array_equal(twice.added[:, :1], once.added)
    assert twice.score_ids["cricket"] == once.score_ids["cricket"]
    assert np.allclose(twice.added.T @ twice.added, np.eye(2), atol=1e-6)


def test_scores_stay_exact_sums_with_an_added_factor(model, examples, rng):
    from dataclasses import replace

    own = replace(model, space=add_factor(model.space, "cricket", *examples).space)
    query, documents = rng.normal(size=(1, model.space.dim)), rng.normal(size=(12, model.space.dim))
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    base = unit @ query[0] / np.linalg.norm(query)
    candidates = Candidates(list(range(12)), base, model.space.encode(documents), [{} for _ in base])
    before, after = (
        refine(used, Metric.COSINE, query.astype(np.float32), [candidates], active=True)[0] for used in (model, own)
    )
    p = len(model.space.names)
    assert np.allclose(after.scored.scores, before.scored.scores, atol=1e-6)
    assert np.allclose(after.scored.contributions[:, :p], before.scored.contributions[:, :p], atol=1e-7)
    assert np.allclose(after.scored.residuals + after.scored.contributions.sum(1), after.scored.scores, atol=1e-6)
    assert np.allclose(after.scored.contributions[:, p:].sum(1), before.scored.contributions[:, p:].sum(1), atol=1e-6)


def test_a_checkpoint_keeps_added_factors(model, examples, tmp_path):
    from dataclasses import replace

    from imrnn_vdb.checkpoint import IMRNNModel

    own = replace(model, space=add_factor(model.space, "cricket", *examples).space)
    own.save_pretrained(tmp_path)
    loaded = IMRNNModel.from_pretrained(tmp_path)
    assert loaded.space.names == own.space.names
    assert np.array_equal(loaded.space.added, own.space.added)
    assert loaded.space.space_id == model.space.space_id
    assert loaded.model_id == own.model_id != model.model_id


@pytest.mark.parametrize(("positive", "negative"), [(3, 10), (10, 4)])
def test_too_few_examples_are_refused(space, rng, positive, negative):
    codes = rng.normal(size=(20, space.num_factors))
    with pytest.raises(InvalidInputError, match="at least"):
        add_factor(space, "few", codes[:positive], codes[:negative])


def test_a_mixture_of_named_factors_is_refused(space):
    direction = np.eye(space.num_factors)[0] + 0.01
    with pytest.raises(InvalidInputError, match="mixture"):
        space.with_factor("again", direction, np.linspace(-1, 1, 9))


def test_a_factor_has_as_many_quantiles_as_the_others(space, rng):
    coarse = replace(space, quantiles=space.quantiles[:, ::8])
    codes = rng.normal(size=(20, space.num_factors))
    assert add_factor(coarse, "mine", codes[:10], codes[10:]).space.quantiles.shape == (len(space.names) + 1, 5)
    with pytest.raises(InvalidInputError, match="has 5 quantiles"):
        coarse.with_factor("mine", codes[0], np.linspace(-1, 1, 33))


def test_a_name_that_is_taken_is_refused(space, examples):
    with pytest.raises(InvalidInputError, match="differ"):
        add_factor(space, space.names[0], *examples)


def test_a_payload_field_labels_points():
    payloads = [{"kind": "a"}, {"kind": ["b", "a"]}, {"kind": "b"}, {}, {"kind": 7}]
    assert split_by_field(payloads, "kind", "a").tolist() == [1, 1, 0, -1, 0]
    assert split_by_field(payloads, "kind", "7").tolist() == [0, 0, 0, -1, 1]


def test_a_payload_field_may_hold_booleans():
    payloads = [{"open": True}, {"open": False}, {"open": "true"}, {"open": [True]}]
    assert split_by_field(payloads, "open", "true").tolist() == [1, 0, 1, 1]
    assert split_by_field(payloads, "open", "False").tolist() == [0, 1, 0, 0]


def test_examples_that_nothing_tells_apart_are_refused(space, rng):
    codes = rng.normal(size=(7, space.num_factors))
    with pytest.raises(InvalidInputError, match="nothing tells the two kinds of examples apart"):
        add_factor(space, "equal", codes, codes[::-1])


@pytest.mark.parametrize(
    "told",
    [
        [],
        ["--field", "kind"],
        ["--positive-id", "1"],
        ["--field", "kind", "--value", "sea", "--words", "ship"],
        ["--positive-id", "1", "--negative-id", "2", "--value", "sea"],
    ],
)
def test_the_command_line_takes_one_way_to_say_what_carries_a_factor(tmp_path, told):
    asked = ["factors", "add", f"qdrant+edge:{tmp_path}/none", "sea", "--out", str(tmp_path / "own"), *told]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2
    assert "in one of these ways what carries the factor: --positive with --negative; " in done.output


def test_a_rule_labels_the_ends_and_leaves_out_what_it_does_not_know():
    labels = split_by_rule([str(i) for i in range(9)], lambda text: float("nan") if text == "4" else float(text))
    assert labels.tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]
    assert (split_by_rule(["a", "b"], lambda _: 1.0) == -1).all()

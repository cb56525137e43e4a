"""The quality report of named factors: each figure against a case whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.quality import agreement, correlations, faithfulness, stability, stored_auc, strongest
from imrnn_vdb.pydocs.reasons import JudgedReason, read_reasons
from imrnn_vdb.results import Explanation
from imrnn_vdb.space import FactorSpace


def unit(table: np.ndarray) -> np.ndarray:
    """Bring rows to unit length."""
    return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float32)


def test_judged_reasons_are_enough_and_name_known_factors():
    from imrnn_vdb.checkpoint import IMRNNModel

    triples = read_reasons()
    names = set(IMRNNModel.from_pretrained("minilm").space.names)
    assert len(triples) >= 150
    assert all(1 <= len(triple.reasons) <= 3 and set(triple.reasons) <= names for triple in triples)
    assert len({triple.query for triple in triples}) == len(triples)
    assert {triple.part for triple in triples} == {"dev", "test"}


def test_explanations_are_faithful_to_full_vectors(model, rng):
    found = faithfulness(
        model, unit(rng.normal(size=(4, model.space.dim))), unit(rng.normal(size=(60, model.space.dim)))
    )
    assert found.largest_error < 1e-5
    assert found.ranks_as_predicted == 1.0
    assert found.results == 40


def test_agreement_counts_documents_whose_reason_is_shown(model):
    """Two documents on one axis each: a query on the axis gives that axis as its reason."""
    space = model.space
    names, m = space.names, space.num_factors
    axes = [space.basis[:, j] for j in range(min(2, len(names)))]
    documents = unit(np.stack([axes[0], axes[-1], -axes[0]]))
    triples = [JudgedReason("q", "d0", (names[0],), "dev"), JudgedReason("r", "d1", (names[0],), "test")]
    found = agreement(replace(model, active=False), triples, documents[:2], ["d0", "d1", "d2"], documents)
    assert found.reasons["dev"].value == 1.0
    assert found.reasons["all"].cases == 2
    assert 0 < found.chance <= 1
    assert m >= len(names)


def test_agreement_needs_a_factor_that_was_judged(model):
    with pytest.raises(InvalidInputError, match="none of the judged"):
        agreement(model, [JudgedReason("q", "d", ("unheard_of",), "dev")], np.zeros((1, 4)), ["d"], np.zeros((1, 4)))


def test_correlations_find_the_factor_that_goes_along(space, rng):
    codes = rng.normal(size=(500, space.num_factors))
    codes[:, 1] = codes[:, 0] * -0.9 + rng.normal(size=500) * 0.1
    found = strongest(space.names, correlations(space, codes))
    other, value = found[space.names[0]]
    assert other == space.names[1]
    assert value < -0.9


def test_an_axis_that_its_texts_determine_comes_back_on_resamples(rng):
    """Two factors, each the sign of one coordinate; 0.9 for 400 texts a source and 16 dimensions."""
    vectors = rng.normal(size=(800, 16))
    labels = {"left": vectors[:, 0].copy(), "right": vectors[:, 1].copy()}
    space = FactorSpace(np.eye(16, 4), ("left", "right"), np.tile(np.linspace(-1, 1, 5), (2, 1)))
    found = stability(space, unit(vectors), ["a", "b"] * 400, labels, seeds=2)
    assert all(value > 0.9 for value in found.values())
    labels["right"][:] = 0.0
    with pytest.raises(InvalidInputError, match="carry right: a refit needs 25"):
        stability(space, unit(vectors), ["a", "b"] * 400, labels, seeds=1)


def test_stored_figures_are_those_of_the_evidence(model):
    name = model.space.names[0]
    told = replace(model, evidence={"fit": {"factors": {name: {"auc": 0.8}, "gone": {"auc": 0.1}}}})
    assert stored_auc(told) == {name: {"auc": 0.8}}
    assert stored_auc(replace(model, evidence={})) == {}


def test_reasons_are_what_both_sides_share_beyond_the_usual(space):
    usual = np.quantile(space.quantiles, 0.5, axis=1)
    query, document = np.zeros(space.num_factors, np.float32), np.zeros(space.num_factors, np.float32)
    query[: len(usual)] = usual
    document[: len(usual)] = usual
    query[0], document[0] = usual[0] + 0.2, usual[0] + 0.1
    query[1], document[1] = usual[1] - 0.5, usual[1] - 0.5  # lacking it together is no reason
    found = space.prominence(query, document[None])[0]
    assert found[0] == pytest.approx(0.02, abs=1e-5)
    assert (found[1:] == 0).all()


def test_reasons_order_by_prominence_and_show_contributions():
    told = Explanation(0.1, (0.5, 0.2, -0.3, 0.1), ("usual", "special", "against"), (0.0, 0.4, 0.9))
    assert told.reasons(2) == [("special", 0.2), ("usual", 0.5)]
    assert Explanation(0.1, (0.5, 0.2), ("a", "b")).reasons(1) == [("a", 0.5)]

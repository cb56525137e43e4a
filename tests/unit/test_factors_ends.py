from __future__ import annotations

import numpy as np
import pytest

from factory import make_space
from imrnn_vdb import factor_ends
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.factors.ends import factor_column, strongest_latent
from imrnn_vdb.points import Points

COUNT = 100


@pytest.fixture
def points(space, rng):
    """Texts of ships where the fifth coordinate is high, of bread where it is low."""
    vectors = rng.normal(size=(COUNT, space.dim)).astype(np.float32)
    coordinates = space.encode(vectors).directions[:, 4]
    ranks = np.argsort(np.argsort(-coordinates))
    words = np.where(ranks < 15, "harbour vessel", np.where(ranks >= 85, "bread oven", "plain filler"))
    return Points(list(range(COUNT)), vectors, [{"title": f"t{i}", "text": f"{words[i]} words"} for i in range(COUNT)])


def test_the_ends_of_a_latent_factor_are_its_outermost_documents_and_their_terms(space, points):
    found = factor_ends(space, points, "latent_4", count=3)
    coordinates = space.encode(points.vectors).directions[:, 4]
    assert [document.id for document in found.high] == np.argsort(-coordinates)[:3].tolist()
    assert [document.id for document in found.low] == np.argsort(coordinates)[:3].tolist()
    assert found.high[0].coordinate == pytest.approx(coordinates.max())
    assert set(found.high_terms[:2]) == {"harbour", "vessel"}
    assert set(found.low_terms[:2]) == {"bread", "oven"}
    assert found.sample == COUNT
    assert found.to_dict()["high"][0]["headline"].startswith("t")


def test_named_and_added_factors_have_ends_too(space, points, rng):
    assert factor_ends(space, points, "numeric").factor == "numeric"
    direction = np.zeros(space.num_factors)
    direction[6] = 1
    larger = space.with_factor("seafaring", direction, np.linspace(-1, 1, 33))
    found = factor_ends(larger, points, "seafaring")
    assert found.high[0].coordinate == pytest.approx(space.encode(points.vectors).directions[:, 6].max(), abs=1e-6)
    with pytest.raises(InvalidInputError, match="latent_4 to latent_7"):
        factor_column(larger, "latent_3")


@pytest.mark.parametrize("name", ["latent_2", "latent_8", "latent_x", "latent_"])
def test_unknown_latent_factors_are_refused(name):
    with pytest.raises(InvalidInputError, match="latent_3 to latent_7"):
        factor_column(make_space(), name)


def test_unknown_names_and_empty_samples_are_refused(space, points):
    with pytest.raises(InvalidInputError, match="no factor is named"):
        factor_column(space, "nonesuch")
    with pytest.raises(InvalidInputError, match="at least 2 points"):
        factor_ends(space, Points([1], points.vectors[:1], [{}]), "entity")


def test_the_strongest_latent_factors_are_those_that_contribute_most():
    assert strongest_latent([[9, 0.1, -0.5, 0.2], [9, 0.3, 0.0, 0.2]], 1, 2) == ["latent_2", "latent_1"]
    assert strongest_latent([], 1, 2) == []

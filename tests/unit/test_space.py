from __future__ import annotations

import numpy as np
import pytest

from factory import make_space
from imrnn_vdb.codec import decode_texts, encode_texts
from imrnn_vdb.errors import InvalidInputError, SpaceMismatchError
from imrnn_vdb.space import FactorSpace, complete_basis


def test_codes_are_directions_with_norms(space, rng):
    vectors = rng.normal(size=(5, space.dim)) * [[1], [10], [1e-3], [1e4], [0]]
    codes = space.encode(vectors)
    np.testing.assert_allclose(codes.directions * codes.norms[:, None], vectors @ space.basis, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(codes.norms, np.linalg.norm(vectors, axis=1), rtol=1e-6)
    assert not codes.directions[4].any()


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e17])
def test_codes_do_not_depend_on_the_length_of_a_vector(space, rng, scale):
    vectors = rng.normal(size=(5, space.dim)).astype(np.float32)
    usual, codes = space.encode(vectors), space.encode(vectors * np.float32(scale))
    np.testing.assert_allclose(codes.directions, usual.directions, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(codes.norms, usual.norms * scale, rtol=1e-3)
    assert decode_texts(encode_texts(codes, space.space_id), space.space_id, 8).current.all()


def test_factor_scores_are_calibrated(space, rng):
    reference = rng.normal(size=(4000, 3)).astype(np.float32)
    calibrated = FactorSpace(space.basis, space.names, np.quantile(reference, np.linspace(0, 1, 33), axis=0).T)
    codes = np.zeros((4000, 8), np.float32)
    codes[:, :3] = reference
    scores = calibrated.factor_scores(codes)
    assert scores.shape == (4000, 3)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert abs((scores[:, 0] > 0.9).mean() - 0.1) < 0.01


def test_the_space_id_covers_basis_names_and_calibration(space):
    assert space.space_id == make_space().space_id
    renamed = FactorSpace(space.basis, ("entity", "numeric", "sentiment"), space.quantiles)
    recalibrated = FactorSpace(space.basis, space.names, space.quantiles + 1)
    others = {make_space(seed=1).space_id, renamed.space_id, recalibrated.space_id, space.space_id}
    assert len(others) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": np.ones((4, 2))}, "not orthonormal"),
        ({"basis": np.eye(4)[:2]}, "1 <= m <= d"),
        ({"names": ("a", "a", "b")}, "differ"),
        ({"names": ("a b", "c", "d")}, "letters"),
        ({"names": ("a", "latent_7", "latent_heat")}, "'latent_7' is what a factor without a name is called"),
        ({"names": tuple("abcdefghi")}, "9 names"),
        ({"quantiles": np.zeros((2, 33))}, "quantiles need the shape"),
        ({"quantiles": np.ones((3, 1))}, "quantiles need the shape"),
        ({"quantiles": np.tile([1.0, 0.0], (3, 1))}, "ascending"),
        ({"quantiles": np.full((3, 4), np.nan)}, "finite"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space, change, message):
    values = {"basis": space.basis, "names": space.names, "quantiles": space.quantiles, **change}
    with pytest.raises(InvalidInputError, match=message):
        FactorSpace(**values)


def test_vectors_that_do_not_fit_are_refused(space):
    with pytest.raises(SpaceMismatchError, match="5 dimensions, but the model was made for 32"):
        space.encode(np.zeros((1, 5)))
    with pytest.raises(InvalidInputError, match="shape"):
        space.encode(np.zeros(32))
    with pytest.raises(InvalidInputError, match="vector 1 holds NaN"):
        space.encode([[0.0] * 32, [np.nan] * 32])
    with pytest.raises(InvalidInputError, match=r"vector 1 .* longer than"):
        space.encode([[1e18] * 32, [1e19] * 32])  # no score of it is finite
    with pytest.raises(InvalidInputError, match="table of numbers"):
        space.encode([["a"] * 32])


def test_an_unknown_factor_lists_the_known(space):
    assert space.index("numeric") == 1
    with pytest.raises(InvalidInputError, match="entity, numeric, temporal"):
        space.index("entitty")


def test_a_completed_basis_keeps_its_named_columns(rng):
    named = np.linalg.qr(rng.normal(size=(20, 3)))[0]
    directions = rng.normal(size=(20, 10))
    directions[:, 0] = named[:, 0]  # adds nothing and must not become a column
    basis = complete_basis(named, directions, 8)
    np.testing.assert_allclose(basis[:, :3], named, atol=1e-6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(8), atol=1e-5)
    with pytest.raises(InvalidInputError, match="independent directions"):
        complete_basis(named, directions, 14)
    np.testing.assert_array_equal(complete_basis(named, directions, 3), named.astype(np.float32))
    with pytest.raises(InvalidInputError, match="2 columns were asked for, but the 3 named ones stay"):
        complete_basis(named, directions, 2)


@pytest.mark.parametrize("added", [False, True])
def test_scores_are_those_of_the_stored_code(space, rng, added):
    """What is stored beside a point equals, to the bit, what is computed from its decoded code, one point or many."""
    if added:
        space = space.with_factor("seafaring", rng.normal(size=space.num_factors), np.linspace(-0.5, 0.5, 33))
    codes = space.encode(rng.normal(size=(200, space.dim)))
    stored = space.factor_scores(codes.directions)
    for dtype in ("float16", "float32"):
        decoded = decode_texts(encode_texts(codes, space.space_id, dtype), space.space_id, space.num_factors)
        assert (space.factor_scores(decoded.directions) == stored).all()
        alone = np.concatenate([space.factor_scores(row[None]) for row in decoded.directions])
        assert (alone == stored).all()
        last, first = space.factor_scores(decoded.directions, [space.names[-1], space.names[0]]).T
        assert (last == stored[:, -1]).all()
        assert (first == stored[:, 0]).all()

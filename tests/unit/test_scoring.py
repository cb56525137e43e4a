"""Scores from codes against scores of full refined vectors, on random vectors (real ones: tests/integration)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import make_space
from imrnn_vdb.errors import InvalidInputError
from imrnn_vdb.metric import Metric
from imrnn_vdb.scoring import base_cosines, breaks_bound, ranking, row_products, score_candidates

FACTORABLE = [metric for metric in Metric if metric.factorable]


def oriented(metric: Metric, q: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The oriented score of full vectors, in float64: the slow definition that everything is held against."""
    if metric is Metric.COSINE:
        return d @ q / (np.linalg.norm(q) * np.linalg.norm(d, axis=1))
    return d @ q if metric is Metric.DOT else -((d - q) ** 2).sum(1)


def case(metric: Metric, seed: int, k: int = 60, dim: int = 48, m: int = 12, half: bool = False):
    """Vectors, codes moved by a random update, and the scores of x + U (z_t − z_0), brought back to the length of x."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, m)))[0]
    scale = 1.0 if metric is Metric.COSINE else rng.uniform(0.5, 3.0)
    q = rng.normal(size=dim) * scale / dim**0.5
    d = rng.normal(size=(k, dim)) * rng.uniform(0.5, 3.0, size=(k, 1)) / dim**0.5
    q_norm, d_norms = np.linalg.norm(q), np.linalg.norm(d, axis=1)
    q0, d0 = q / q_norm @ basis, d / d_norms[:, None] @ basis
    if half:
        d0 = d0.astype(np.float16).astype(np.float64)
    q_t, d_t = q0 + rng.normal(size=m) * 0.05, d0 + rng.normal(size=(k, m)) * 0.05
    q_full = q + q_norm * (basis @ (q_t - q0))
    d_full = d + d_norms[:, None] * ((d_t - d0) @ basis.T)
    q_full *= q_norm / np.linalg.norm(q_full)
    d_full *= (d_norms / np.linalg.norm(d_full, axis=1))[:, None]
    return oriented(metric, q, d), (q0, d0, q_t, d_t), (q_norm, d_norms), oriented(metric, q_full, d_full)


@pytest.mark.parametrize("metric", FACTORABLE)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_scores_from_codes_are_the_scores_of_full_refined_vectors(metric, seed):
    base, codes, norms, full = case(metric, seed)
    scored = score_candidates(metric, base, codes, norms)
    np.testing.assert_allclose(scored.scores, full, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("length", [0.1, 1.0, 10.0])
def test_documents_of_one_length_are_ranked_alike_by_all_metrics_whatever_the_querys_length(length):
    cosines, codes, _, judged = case(Metric.COSINE, 4)  # the refined cosines that a training's gate judges
    products = length * 2.0 * cosines
    bases = {Metric.COSINE: cosines, Metric.DOT: products, Metric.EUCLID: 2 * products - length**2 - 2.0**2}
    for metric, base in bases.items():
        scores = score_candidates(metric, base, codes, (length, np.full(60, 2.0))).scores
        assert np.argsort(-scores).tolist() == np.argsort(-judged).tolist(), metric


@pytest.mark.parametrize("metric", FACTORABLE)
def test_float32_codes_are_exact_to_1e_5(metric):
    base, codes, norms, full = case(metric, 3)
    single = tuple(code.astype(np.float32) for code in codes)
    np.testing.assert_allclose(score_candidates(metric, base, single, norms).scores, full, atol=1e-5)


@pytest.mark.parametrize("metric", FACTORABLE)
def test_half_precision_codes_rank_pairs_alike(metric):
    agreements = []
    for seed in range(20):
        exact_base, exact_codes, norms, exact = case(metric, seed, k=100)
        half = exact_codes[1].astype(np.float16).astype(np.float64)
        moved = half + (exact_codes[3] - exact_codes[1])
        scores = score_candidates(metric, exact_base, (exact_codes[0], half, exact_codes[2], moved), norms).scores
        upper = np.triu_indices(100, 1)
        signs = np.sign(exact[:, None] - exact)[upper] == np.sign(scores[:, None] - scores)[upper]
        agreements.append(signs.mean())
    assert np.mean(agreements) >= 0.999


@pytest.mark.parametrize("metric", FACTORABLE)
@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_parts_sum_to_the_score(metric, shrinkage):
    base, codes, norms, full = case(metric, 5)
    scored = score_candidates(metric, base, codes, norms, shrinkage)
    np.testing.assert_allclose(scored.residuals + scored.contributions.sum(1), scored.scores, atol=1e-6)
    np.testing.assert_allclose(scored.scores, (1 - shrinkage) * base + shrinkage * full, atol=1e-9)


@pytest.mark.parametrize("metric", FACTORABLE)
def test_some_parts_are_those_of_the_whole_to_the_last_bit(metric, rng):
    base, codes, norms, _ = case(metric, 6)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    usable = np.arange(60) % 7 > 0
    scored = score_candidates(metric, base, codes, norms, 0.7, usable, turn=lambda code: code @ rotation)
    rows = np.array([58, 0, 7, 31])
    assert (scored.part(rows, 5) == scored.contributions[rows, :5]).all()
    assert (scored.part(count=3) == scored.contributions[:, :3]).all()
    assert not scored.part(rows)[1:3].any(), "neither of these two has a usable code"


@pytest.mark.parametrize("metric", FACTORABLE)
def test_codes_that_did_not_move_give_the_base_score_to_the_last_bit(metric):
    base, (q0, d0, _, _), norms, _ = case(metric, 8)
    base = base.astype(np.float32).astype(np.float64)
    for shrinkage in (0.4, 1.0):
        scores = score_candidates(metric, base, (q0, d0, q0, d0), norms, shrinkage).scores
        np.testing.assert_array_equal(scores, base)


@pytest.mark.parametrize("metric", FACTORABLE)
def test_base_cosines_are_cosines(metric, rng):
    q, d = rng.normal(size=20), rng.normal(size=(9, 20))
    q, d = (q / np.linalg.norm(q), d / np.linalg.norm(d, axis=1)[:, None]) if metric is Metric.COSINE else (q, d)
    found = base_cosines(metric, oriented(metric, q, d), np.linalg.norm(q)[None], np.linalg.norm(d, axis=1))
    np.testing.assert_allclose(found, oriented(Metric.COSINE, q, d), atol=1e-12)


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.EUCLID])
def test_base_cosines_of_very_short_vectors_are_cosines_and_those_of_zero_vectors_are_zero(metric, rng):
    q, d = 1e-6 * rng.normal(size=20), 1e-5 * rng.normal(size=(9, 20))
    d[4] = 0
    norms = np.linalg.norm(q)[None], np.linalg.norm(d, axis=1)
    found = base_cosines(metric, oriented(metric, q, d).astype(np.float32).astype(float), *norms)
    rest = np.arange(9) != 4
    np.testing.assert_allclose(found[rest], oriented(Metric.COSINE, q, d[rest]), atol=1e-5)
    assert found[4] == 0
    assert not base_cosines(metric, oriented(metric, 0 * q, d), np.zeros(1), norms[1]).any()


def test_a_manhattan_distance_does_not_split():
    _, codes, norms, _ = case(Metric.DOT, 1)
    with pytest.raises(InvalidInputError, match="does not split"):
        score_candidates(Metric.MANHATTAN, np.zeros(60), codes, norms)


def test_a_code_that_breaks_cauchy_schwarz_is_found_and_a_true_one_never_is(rng):
    space = make_space(dim=32, factors=24)
    vectors = rng.normal(size=(500, 32)).astype(np.float32)
    codes = space.encode(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    query = codes.directions[0]
    half = codes.directions.astype(np.float16).astype(np.float32)
    assert not breaks_bound(unit @ unit[0], row_products(query, half)).any()
    foreign = np.roll(codes.directions, 1, axis=0)  # every code now belongs to another vector
    assert breaks_bound(unit @ unit[0], row_products(query, foreign)).mean() > 0.2


def test_the_bound_is_that_of_cauchy_and_schwarz_on_both_sides():
    products = row_products([0.6, 0.0], [[0.8, 0.0]] * 4)  # 0.48 inside; outside at most 0.8 * 0.6 either way
    cosines = np.array([0.96 + 0.004, 0.96 + 0.006, -0.004, -0.006])
    assert breaks_bound(cosines, products).tolist() == [False, True, False, True]


def test_codes_that_rounding_made_longer_than_their_vectors_leave_no_room_outside():
    for query, candidate in (([1.0001], [0.5]), ([0.5], [1.0001]), ([1.2], [1.2])):
        inside = query[0] * candidate[0]
        found = breaks_bound(np.array([inside, inside - 0.4]), row_products(query, [candidate] * 2))
        assert found.tolist() == [False, True]


def test_a_vector_that_is_moved_to_nothing_has_a_finite_score():
    codes = ([1.0001], [[1.0001], [0.5]], [0.0], [[0.0], [0.0]])
    assert np.isfinite(score_candidates(Metric.COSINE, [1.0, 0.5], codes, (1.0, [1.0, 1.0])).scores).all()


def test_ties_go_to_the_better_base_rank_in_whatever_order_candidates_come():
    ranks = np.random.default_rng(0).permutation(40) + 1
    assert ranks[ranking(ranks, np.zeros(40))].tolist() == list(range(1, 41))

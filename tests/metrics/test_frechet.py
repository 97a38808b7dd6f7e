"""The Frechet distance against closed forms, scipy.linalg.sqrtm, and its own properties."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics import FeatureStatistics, frechet_between, frechet_distance


def covariance(rng, dim, rank=None):
    factor = rng.randn(dim, rank or dim + 5)
    return factor @ factor.T / factor.shape[1]


def by_scipy(m1, c1, m2, c2):
    root = scipy.linalg.sqrtm(c1 @ c2)
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root).real)


def test_closed_forms():
    eye = np.eye(3)
    assert frechet_distance([1, 2, 2], eye, [0, 0, 0], eye) == pytest.approx(9.0, abs=1e-12)
    assert frechet_distance([0] * 3, eye, [0] * 3, 4 * eye) == pytest.approx(3.0, abs=1e-12)
    # commuting covariances: the sum of (sqrt a - sqrt b)^2
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 0.0, 1.0])
    turn = np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    wanted = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance([0] * 3, turn @ np.diag(a) @ turn.T, [0] * 3, turn @ np.diag(b) @ turn.T)
    assert found == pytest.approx(wanted, abs=1e-10)


def test_one_dimension():
    assert frechet_distance([2.0], [[9.0]], [5.0], [[4.0]]) == pytest.approx(9.0 + 1.0, abs=1e-12)


def test_rank_one_covariances():
    """tr((C1^1/2 C2 C1^1/2)^1/2) of u u' and v v' is |u.v|."""
    rng = np.random.RandomState(1)
    u, v = rng.randn(6), rng.randn(6)
    found = frechet_distance(np.zeros(6), np.outer(u, u), np.zeros(6), np.outer(v, v))
    assert found == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), abs=1e-9)


def test_nothing_but_means():
    zero = np.zeros((4, 4))
    assert frechet_distance(np.ones(4), zero, np.zeros(4), zero) == 4.0
    assert frechet_distance(np.zeros(4), np.eye(4), np.zeros(4), zero) == pytest.approx(4.0)


@pytest.mark.parametrize("dim", [2, 17, 64])
def test_agrees_with_a_second_library(dim):
    rng = np.random.RandomState(dim)
    m1, m2 = rng.randn(dim), rng.randn(dim)
    c1, c2 = covariance(rng, dim), covariance(rng, dim) * 3
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(by_scipy(m1, c1, m2, c2), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 5, 20, None])
def test_properties(rank):
    rng = np.random.RandomState(7)
    m1, m2 = rng.randn(20), rng.randn(20)
    c1, c2 = covariance(rng, 20, rank), covariance(rng, 20)
    d = frechet_distance(m1, c1, m2, c2)
    assert d >= 0
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(d, rel=1e-10)
    assert frechet_distance(m1, c1, m1, c1) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(3 * m1, 9 * c1, 3 * m2, 9 * c2) == pytest.approx(9 * d, rel=1e-10)
    turn = np.linalg.qr(rng.randn(20, 20))[0]
    turned = frechet_distance(turn @ m1, turn @ c1 @ turn.T, turn @ m2, turn @ c2 @ turn.T)
    assert turned == pytest.approx(d, rel=1e-8)


def test_root_obeys_the_triangle():
    rng = np.random.RandomState(8)
    gaussians = [(rng.randn(6), covariance(rng, 6)) for _ in range(3)]
    ab, bc, ac = (
        np.sqrt(frechet_distance(*gaussians[i], *gaussians[j])) for i, j in ((0, 1), (1, 2), (0, 2))
    )
    assert ac <= ab + bc + 1e-12


def test_sets_of_samples_approach_the_gaussians_they_come_from():
    rng = np.random.RandomState(9)
    c = covariance(rng, 4)
    a = FeatureStatistics.of(rng.multivariate_normal(np.zeros(4), c, 20000))
    b = FeatureStatistics.of(rng.multivariate_normal(np.full(4, 0.5), c, 20000))
    assert frechet_between(a, b) == pytest.approx(1.0, rel=0.05)


def test_bad_input_is_refused():
    eye = np.eye(2)
    with pytest.raises(ShapeError, match="covariance2"):
        frechet_distance([0, 0], eye, [0, 0], np.eye(3))
    with pytest.raises(ShapeError, match="one length"):
        frechet_distance([0, 0], eye, [0, 0, 0], np.eye(3))
    with pytest.raises(ValueRangeError, match="symmetric"):
        frechet_distance([0, 0], [[1, 1], [0, 1]], [0, 0], eye)
    with pytest.raises(ValueRangeError, match="negative eigenvalue"):
        frechet_distance([0, 0], [[1, 2], [2, 1]], [0, 0], eye)
    with pytest.raises(ValueRangeError, match="finite"):
        frechet_distance([0, np.inf], eye, [0, 0], eye)
    few = FeatureStatistics.of(np.random.RandomState(0).randn(5, 8))
    with pytest.raises(ValueRangeError, match="more than 8 images"):
        frechet_between(few, few)

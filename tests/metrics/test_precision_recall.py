"""Precision and recall by hand on a line, against brute force, and at their extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics import neighbour_radii, precision_recall
from pyface.metrics.distances import squared_distances


def brute(real, fake, k):
    def radii(x):
        return [
            sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1] for i in range(len(x))
        ]

    def inside(queries, centres):
        r = radii(centres)
        return np.mean([any(np.linalg.norm(q - c) <= r[j] for j, c in enumerate(centres)) for q in queries])

    return inside(fake, real), inside(real, fake)


def column(*numbers):
    return np.array(numbers, float)[:, None]


def test_by_hand_on_a_line():
    real = column(0, 1, 2, 3)  # radii 1: the manifold is [-1, 4]
    assert neighbour_radii(real, 1).tolist() == [1, 1, 1, 1]
    fake = column(0.5, 3.75, 4.25, -1.5)  # radii 2, 0.5, 0.5, 2: balls [-1.5, 2.5], [3.25, 4.75], [-3.5, 0.5]
    precision, recall = precision_recall(real, fake, 1)
    assert precision == 0.5
    assert recall == 0.75
    assert neighbour_radii(column(0, 1, 3, 7), 2).tolist() == [3, 2, 3, 6]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.5, 1e4])
def test_agrees_with_brute_force(k, shift, monkeypatch):
    monkeypatch.setattr("pyface.metrics.distances.BLOCK_BYTES", 8 * 33 * 5)  # many blocks
    rng = np.random.RandomState(k)
    real, fake = rng.randn(33, 4) + shift, 0.7 * rng.randn(21, 4) + shift + 0.4
    assert precision_recall(real, fake, k) == pytest.approx(brute(real, fake, k), abs=1e-12)


def test_extremes():
    rng = np.random.RandomState(0)
    real = torch.from_numpy(rng.randn(60, 3)).float()
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    collapsed = real[:1] + 1e-4 * torch.from_numpy(rng.randn(60, 3)).float()
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0
    assert recall < 0.05
    wide = 50 * torch.from_numpy(rng.randn(60, 3)).float()
    precision, recall = precision_recall(real, wide)
    assert precision < 0.1
    assert recall > 0.9


def test_swapping_the_sets_swaps_the_numbers():
    rng = np.random.RandomState(4)
    a, b = rng.randn(40, 2), 2 * rng.randn(30, 2)
    assert precision_recall(a, b) == precision_recall(b, a)[::-1]


def test_identical_images_have_radius_zero():
    assert neighbour_radii(np.ones((5, 3)), 2).tolist() == [0.0] * 5
    assert precision_recall(np.ones((5, 3)), np.ones((6, 3))) == (1.0, 1.0)


def test_distances_are_exact_far_from_zero():
    rng = np.random.RandomState(5)
    a, b = rng.randn(7, 3) + 1e6, rng.randn(9, 3) + 1e6
    found = np.concatenate([block for _, block in squared_distances(a, b)])
    np.testing.assert_allclose(found, ((a[:, None] - b[None]) ** 2).sum(2), rtol=1e-8)


def test_bad_input_is_refused():
    with pytest.raises(ValueRangeError, match="less than the number of images"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)), 3)
    with pytest.raises(ShapeError, match="one length"):
        precision_recall(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(ValueRangeError, match="not finite"):
        precision_recall(np.full((9, 2), np.inf), np.zeros((9, 2)))

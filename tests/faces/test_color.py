"""Colour transfer: moments and histograms agree under the mask, and nowhere else counts."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.errors import ValueRangeError
from pyface.faces.color import from_lab, match_color, match_histogram, reinhard, to_lab


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(1)
    new = np.clip(generator.normal((150, 110, 90), (20, 15, 10), (40, 50, 3)), 0, 255).astype(np.float32)
    old = np.clip(generator.normal((120, 130, 140), (25, 20, 15), (40, 50, 3)), 0, 255).astype(np.float32)
    y, x = np.mgrid[:40, :50]
    weight = np.clip((18 - np.hypot(x - 25, y - 20)) / 6, 0, 1).astype(np.float32)
    return new, old, weight


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color", reason="scikit-image is not installed")
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(to_lab(levels), color.rgb2lab(levels / 255), atol=0.02)
    np.testing.assert_allclose(from_lab(to_lab(levels)), levels, atol=0.01)


def test_lab_of_known_colours():
    corners = np.float32([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])
    np.testing.assert_allclose(to_lab(corners)[0], [[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20]], atol=0.02)


def moments(picture, weight):
    lab, shares = to_lab(picture).astype(float), (weight / weight.sum())[..., None]
    mean = (shares * lab).sum((0, 1))
    return mean, np.sqrt((shares * (lab - mean) ** 2).sum((0, 1)))


def test_reinhard_gives_mean_and_spread(pictures):
    new, old, weight = pictures
    found, wanted = moments(reinhard(new, old, weight), weight), moments(old, weight)
    np.testing.assert_allclose(found[0], wanted[0], atol=0.05)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0.01)


def test_reinhard_of_a_flat_picture_is_shifted_only(pictures):
    _, old, weight = pictures
    found = reinhard(np.full_like(old, 90), old, weight)
    assert np.ptp(found, (0, 1)).max() < 1e-3
    np.testing.assert_allclose(moments(found, weight)[0], moments(old, weight)[0], atol=0.05)


def test_histogram_is_taken_over_exactly(pictures):
    new, old, weight = pictures
    found = match_histogram(new, old, weight)
    inside = weight > 0
    for channel in range(3):
        values = new[..., channel][inside]
        assert len(np.unique(values)) == len(values)
        np.testing.assert_allclose(
            np.sort(found[..., channel][inside]), np.sort(old[..., channel][inside]), atol=1e-4
        )
        np.testing.assert_array_equal(
            np.argsort(found[..., channel][inside], kind="stable"), np.argsort(values, kind="stable")
        )


def test_equal_levels_stay_equal(pictures):
    _, old, weight = pictures
    new = (np.arange(2000).reshape(40, 50, 1) % 4 * 60 + np.zeros((1, 1, 3))).astype(np.float32)
    found = match_histogram(new, old, weight)
    for level in (0, 60, 120, 180):
        assert np.ptp(found[new[..., 0] == level], 0).max() == 0
    inside = weight > 0
    np.testing.assert_allclose(found[inside].mean(0), old[inside].mean(0), rtol=1e-5)


@pytest.mark.parametrize("color", ["reinhard", "histogram"])
def test_only_the_mask_counts(pictures, color):
    new, old, weight = pictures
    other_new, other_old = new.copy(), old.copy()
    other_new[weight == 0] = 3
    other_old[weight == 0] = 250
    inside = weight > 0
    np.testing.assert_allclose(
        match_color(other_new, other_old, weight, color)[inside],
        match_color(new, old, weight, color)[inside],
        atol=1e-3,
    )


@pytest.mark.parametrize("color", ["none", "reinhard", "histogram"])
def test_a_picture_matched_to_itself_stays(pictures, color):
    new, _, weight = pictures
    np.testing.assert_allclose(match_color(new, new, weight, color)[weight > 0], new[weight > 0], atol=0.02)


@pytest.mark.parametrize("color", ["reinhard", "histogram"])
def test_grey(pictures, color):
    new, old, weight = (a[..., :1] if a.ndim == 3 else a for a in pictures)
    found = match_color(new, old, weight, color)
    assert found.shape == new.shape
    inside = weight > 0.5
    assert abs(found[inside].mean() - old[inside].mean()) < 3


@pytest.mark.parametrize("color", ["reinhard", "histogram"])
def test_an_empty_mask_changes_nothing(pictures, color):
    new, old, weight = pictures
    np.testing.assert_array_equal(match_color(new, old, weight * 0, color), new)


def test_unknown_word(pictures):
    with pytest.raises(ValueRangeError, match="color must be one of none, reinhard, histogram; got 'lab'"):
        match_color(*pictures, "lab")

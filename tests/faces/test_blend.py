"""Blending: closed forms, plain references in float64, and nothing changed outside."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import blend as blending
from pyface.faces.blend import blend, blend_alpha, blend_multiband, blend_poisson

HEIGHT, WIDTH = 61, 74


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    photo, new = (
        ndimage.gaussian_filter(generator.random((HEIGHT, WIDTH, 3)) * 255, (1.5, 1.5, 0)).astype(np.float32)
        for _ in range(2)
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    weight = np.clip((22 - np.hypot(x - 36, 1.2 * (y - 30))) / 8, 0, 1).astype(np.float32)
    return photo, new, weight


@pytest.mark.parametrize("method", blending.BLENDS)
def test_nothing_changes_outside(pictures, method):
    photo, new, weight = pictures
    found = blend(photo, new, weight, method)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[weight == 0], photo[weight == 0])
    assert np.abs(found - photo)[weight == 1].max() > 5


@pytest.mark.parametrize("method", blending.BLENDS)
def test_the_photograph_itself_changes_nothing(pictures, method):
    photo, _, weight = pictures
    np.testing.assert_allclose(blend(photo, photo.copy(), weight, method), photo, atol=1e-3)


@pytest.mark.parametrize("method", blending.BLENDS)
def test_an_empty_mask_changes_nothing(pictures, method):
    photo, new, weight = pictures
    np.testing.assert_array_equal(blend(photo, new, weight * 0, method), photo)


@pytest.mark.parametrize("method", blending.BLENDS)
def test_a_full_mask_takes_the_new_picture(pictures, method):
    photo, new, weight = pictures
    np.testing.assert_allclose(blend(photo, new, np.ones_like(weight), method), new, atol=1e-3)


def test_alpha_is_the_weighted_mean(pictures):
    photo, new, weight = pictures
    truth = (1 - weight[..., None].astype(float)) * photo + weight[..., None] * new.astype(float)
    np.testing.assert_allclose(blend_alpha(photo, new, weight), truth, atol=1e-4)


# --- Poisson -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-60.0, 35.0])
def test_poisson_undoes_a_shift(pictures, shift):
    """A patch that is brighter by a constant has the gradients of the photograph: the answer is it."""
    photo, _, weight = pictures
    np.testing.assert_allclose(blend_poisson(photo, photo + np.float32(shift), weight), photo, atol=0.3)


def test_poisson_undoes_a_ramp(pictures):
    """Any harmonic difference goes: here x, y and x^2 - y^2, which the five-point Laplacian makes 0."""
    photo, _, weight = pictures
    y, x = (a.astype(np.float32) for a in np.mgrid[:HEIGHT, :WIDTH])
    harmonic = (0.6 * x - 0.4 * y + 0.01 * (x * x - y * y))[..., None] + np.float32([10, 0, -10])
    np.testing.assert_allclose(blend_poisson(photo, photo + harmonic, weight), photo, atol=0.3)


def test_poisson_of_a_flat_patch_on_a_ramp_is_the_ramp():
    """No gradients inside: the membrane over the border values, which for a linear photograph is linear."""
    y, x = (a.astype(np.float32) for a in np.mgrid[:40, :50])
    photo = (2 * x + 3 * y)[..., None]
    weight = (np.hypot(x - 25, y - 20) < 12).astype(np.float32)
    np.testing.assert_allclose(blend_poisson(photo, np.full_like(photo, 77), weight), photo, atol=0.3)


def test_poisson_moves_a_patch_within_a_picture():
    """A patch cut from another place of a picture that is a sum of a pattern and a ramp of one slope."""
    y, x = (a.astype(np.float32) for a in np.mgrid[:60, :80])
    pattern = 30 * np.sin(2 * np.pi * x / 8) * np.cos(2 * np.pi * y / 8)  # repeats after 8 pixels
    photo = (pattern + x + 100)[..., None]
    moved = np.roll(photo, 16, 1)  # the same pattern, another level
    weight = (np.hypot(x - 45, y - 30) < 18).astype(np.float32)
    np.testing.assert_allclose(blend_poisson(photo, moved, weight), photo, atol=0.5)


def test_poisson_at_the_edge_of_the_picture():
    """Sides that end with the picture leave the gradient of the patch free."""
    y, x = (a.astype(np.float32) for a in np.mgrid[:40, :50])
    photo = (50 + 20 * np.sin(x / 5) * np.cos(y / 7)).astype(np.float32)[..., None]
    weight = (np.hypot(x - 49, y - 39) < 20).astype(np.float32)
    np.testing.assert_allclose(blend_poisson(photo, photo - 40, weight), photo, atol=0.3)


def test_mixed_gradients_keep_what_is_stronger():
    photo = np.full((30, 40, 1), 100, np.float32)
    photo[:, 20] = 160  # a line in the photograph
    weight = np.zeros((30, 40), np.float32)
    weight[5:25, 5:35] = 1
    flat = np.full_like(photo, 10)
    assert np.ptp(blend_poisson(photo, flat, weight)[15, 15:25]) < 5
    np.testing.assert_allclose(blend_poisson(photo, flat, weight, mixed=True), photo, atol=0.5)


# --- multiband ---------------------------------------------------------------------------------------------

TAPS = np.array([1, 4, 6, 4, 1]) / 16


def reduced(picture):
    for axis in (0, 1):
        picture = ndimage.correlate1d(picture, TAPS, axis, mode="nearest")
    return picture[::2, ::2]


def expanded(picture, shape):
    """EXPAND as published: zeros between the pixels, then twice the weights each way."""
    wide = np.pad(picture, 2, mode="edge")
    zeros = np.zeros((2 * wide.shape[0], 2 * wide.shape[1]))
    zeros[::2, ::2] = wide
    for axis in (0, 1):
        zeros = ndimage.correlate1d(zeros, 2 * TAPS, axis, mode="constant")
    return zeros[4 : 4 + shape[0], 4 : 4 + shape[1]]


def splined(a, b, mask, bands):
    if bands == 1:
        return b + mask * (a - b)
    small_a, small_b = reduced(a), reduced(b)
    top = (a - expanded(small_a, a.shape)) * mask + (b - expanded(small_b, b.shape)) * (1 - mask)
    return top + expanded(splined(small_a, small_b, reduced(mask), bands - 1), a.shape)


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_multiband_is_the_spline_of_burt_and_adelson(pictures, bands):
    photo, new, weight = pictures
    found = blend_multiband(photo, new, weight, bands=bands)
    seam = (weight > 0.5).astype(float)
    sure = weight >= 0.5  # where nothing fades back into the photograph
    for channel in range(3):
        truth = splined(new[..., channel].astype(float), photo[..., channel].astype(float), seam, bands)
        np.testing.assert_allclose(found[..., channel][sure], truth[sure], atol=1e-3)


def test_multiband_has_no_step_at_the_seam(pictures):
    photo, _, _ = pictures
    flat = np.full_like(photo, 100)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    weight = np.clip((26 - np.hypot(x - 36, y - 30)) / 16, 0, 1).astype(np.float32)
    found = blend_multiband(flat, flat + 60, weight)
    alpha = blend_alpha(flat, flat + 60, (weight > 0.5).astype(np.float32))
    assert np.abs(np.diff(alpha[30, :, 0])).max() == 60
    assert np.abs(np.diff(found[30, :, 0])).max() < 15
    assert found[30, 36, 0] > 150


def test_multiband_keeps_fine_structure_sharp():
    """Stripes of one pixel end within a few pixels of the seam, however wide the soft edge is."""
    x = np.broadcast_to(np.arange(128), (64, 128))
    stripes = np.where(x % 2, 150, 100).astype(np.float32)[..., None]
    plain = np.full_like(stripes, 125)
    weight = np.clip((96 - x) / 64, 0, 1).astype(np.float32)
    contrast = np.abs(np.diff(blend_multiband(plain, stripes, weight)[32, :, 0]))
    assert contrast[:60].min() > 40
    assert contrast[70:].max() < 10


def test_edge_width():
    x = np.broadcast_to(np.arange(200.0), (100, 200))
    weight = np.clip((120 - x) / 20, 0, 1).astype(np.float32)
    assert 15 < blending.edge_width(weight) < 30
    assert blending.edge_width((weight > 0.5).astype(np.float32)) == 0


def test_errors(pictures):
    photo, new, weight = pictures
    with pytest.raises(ValueRangeError, match="blend must be one of alpha, poisson, multiband; got 'paste'"):
        blend(photo, new, weight, "paste")
    with pytest.raises(ShapeError, match="photo and new"):
        blend(photo, new[:-1], weight)
    with pytest.raises(ShapeError, match="weight"):
        blend(photo, new, weight[1:])

"""One reading of a picture: exact where nothing moves, faithful where it does, no aliases when it shrinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.faces.affine import inverse
from pyface.faces.resample import resample


def turned(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def smooth(x, y):
    return 120 + 60 * np.sin(x / 3.1 + 1) * np.cos(y / 2.7) + 30 * np.cos((x + 2 * y) / 5)


def grid(height, width):
    return (np.arange(width) + 0.5)[None], (np.arange(height) + 0.5)[:, None]


def picture(height, width):
    return torch.from_numpy(smooth(*grid(height, width)).astype(np.float32))[None]


def test_identity_is_exact():
    given = torch.rand(3, 31, 44) * 255
    found = resample(given, [[1, 0, 0], [0, 1, 0]], (31, 44))
    np.testing.assert_allclose(found, given, atol=2e-3)


def test_whole_shifts_are_exact():
    given = torch.rand(1, 30, 40) * 255
    found = resample(given, [[1, 0, -7], [0, 1, -4]], (20, 25))
    np.testing.assert_allclose(found, given[:, 4:24, 7:32], atol=2e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.7])
def test_values_between_pixels_are_those_of_the_function(angle, scale):
    matrix = turned(angle, scale, (0, 0))
    matrix[:, 2] = [20, 20] - matrix[:, :2] @ [60, 55]
    found = resample(picture(110, 120), matrix, (40, 40))[0].numpy()
    x, y = np.broadcast_arrays(*grid(40, 40))
    back = inverse(matrix)
    truth = smooth(back[0, 0] * x + back[0, 1] * y + back[0, 2], back[1, 0] * x + back[1, 1] * y + back[1, 2])
    assert np.abs(found - truth).max() < 1.6


def test_beyond_the_edge_stands_the_mirror_image():
    given = torch.rand(1, 12, 20) * 255
    found = resample(given, [[1, 0, 8], [0, 1, 5]], (24, 40))[0].numpy()
    np.testing.assert_allclose(
        found, np.pad(given[0].numpy(), ((5, 7), (8, 12)), mode="symmetric"), atol=2e-3
    )


@pytest.mark.parametrize("times", [2, 3, 8])
def test_made_smaller_it_is_the_mean(times):
    given = torch.rand(2, 48, 72) * 255
    found = resample(given, np.array([[1, 0, 0], [0, 1, 0]]) / times, (48 // times, 72 // times))
    np.testing.assert_allclose(found, torch.nn.functional.avg_pool2d(given[None], times)[0], atol=2e-3)


def test_stripes_that_are_too_fine_become_grey():
    stripes = torch.zeros(1, 300, 300)
    stripes[:, :, ::2] = 255
    found = resample(stripes, turned(0.3, 1 / 6, (10, 5)), (40, 40))[0, 10:30, 15:30]
    assert (found - 127.5).abs().max() < 12


def test_only_a_window_is_looked_at():
    """A far corner of a large picture gives what that corner alone gives."""
    given = torch.rand(1, 400, 500) * 255
    matrix = turned(0.5, 1.1, (0, 0))
    matrix[:, 2] = [16, 16] - matrix[:, :2] @ [440, 350]
    whole = resample(given, matrix, (32, 32))
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ [300, 200]
    np.testing.assert_allclose(resample(given[:, 200:, 300:], shifted, (32, 32)), whole, atol=0.05)


def test_a_map_without_a_way_back():
    with pytest.raises(ValueRangeError, match="invert"):
        resample(torch.rand(1, 8, 8), [[1, 0, 0], [1, 0, 0]], (4, 4))

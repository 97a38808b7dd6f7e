"""Poisson's equation on masks, against a sparse direct solution."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from pyface.errors import PyfaceError
from pyface.faces.poisson import solve_poisson


def direct(inside, right):
    """The same system, solved by factorisation in float64."""
    height, width = inside.shape
    numbers = np.arange(height * width).reshape(height, width)
    links = sparse.lil_matrix((height * width, height * width))
    for here, there in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        links[numbers[here].ravel(), numbers[there].ravel()] = 1.0
    links = (links + links.T).tocsr()
    chosen = inside.ravel()
    count = np.asarray(links.sum(1)).ravel()[chosen]
    matrix = (sparse.diags(count) - links[chosen][:, chosen]).tocsc()
    found = np.zeros((len(right), height * width))
    for channel, values in enumerate(right.reshape(len(right), -1)):
        found[channel, chosen] = spsolve(matrix, values[chosen].astype(np.float64))
    return found.reshape(right.shape)


def blob(height, width, cx, cy):
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - cy, x - cx)
    return np.hypot(x - cx, y - cy) < 0.35 * min(height, width) * (1 + 0.3 * np.sin(3 * angle))


MASKS = {
    "blob": blob(90, 110, 50, 44),
    "edge": blob(64, 80, 75, 60),
    "corner": blob(63, 71, 2, 3),
    "thin": np.eye(40, dtype=bool) | np.eye(40, k=1, dtype=bool),
    "scattered": np.random.default_rng(1).random((50, 60)) > 0.3,
    "one pixel": np.arange(35).reshape(5, 7) == 17,
    "one row": np.ones((1, 30), bool) & (np.arange(30) > 3),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("source", ["boundary", "everywhere"])
def test_against_a_direct_solution(name, source):
    inside = MASKS[name]
    generator = np.random.default_rng(3)
    right = generator.normal(size=(2, *inside.shape)).astype(np.float32)
    if source == "boundary":  # as blending has it: large values beside the outside only
        beside = np.pad(~inside, 1)
        edge = beside[:-2, 1:-1] | beside[2:, 1:-1] | beside[1:-1, :-2] | beside[1:-1, 2:]
        right = (right * 60 + 100) * edge
    found = solve_poisson(inside, right.astype(np.float32), 0.05)
    assert not found[:, ~inside].any()
    np.testing.assert_allclose(found, direct(inside, right * inside), atol=0.08)


def test_nothing_inside():
    assert not solve_poisson(np.zeros((4, 5), bool), np.ones((3, 4, 5), np.float32)).any()


def test_no_outside_leaves_a_constant_open():
    inside = np.ones((9, 12), bool)
    assert not solve_poisson(inside, np.zeros((1, 9, 12), np.float32)).any()
    wave = np.broadcast_to(np.cos(np.pi * (np.arange(12) + 0.5) / 12), (1, 9, 12)).astype(np.float32) * 50
    padded = np.pad(wave, ((0, 0), (1, 1), (1, 1)), mode="edge")
    right = 4 * wave - padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1] - padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]
    found = solve_poisson(inside, right, 0.01)
    np.testing.assert_allclose(found - found.mean(), wave, atol=0.05)


def test_what_has_no_solution_is_refused():
    with pytest.raises(PyfaceError, match="no solution"):
        solve_poisson(np.ones((8, 8), bool), np.ones((1, 8, 8), np.float32))
    with pytest.raises(PyfaceError, match="no solution"):
        solve_poisson(MASKS["blob"], np.full((1, 90, 110), np.nan, np.float32))


def test_large_masks_stay_exact():
    """A smooth mode of 100 grey levels over 300 pixels: single precision alone loses it."""
    size = 301
    inside = np.zeros((size, size), bool)
    inside[1:-1, 1:-1] = True
    x = np.sin(np.pi * np.arange(size) / (size - 1))
    truth = 100 * x[:, None] * x[None]
    eigenvalue = 4 - 4 * np.cos(np.pi / (size - 1))
    found = solve_poisson(inside, (eigenvalue * truth)[None].astype(np.float32), 0.05)
    np.testing.assert_allclose(found[0], truth, atol=0.05)

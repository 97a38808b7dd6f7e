"""Nearest features against brute force, in one block or many; the sheet puts neighbours beside images."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics import NearestImages, nearest, nearest_sheet


@pytest.mark.parametrize("blocks", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 4])
def test_agrees_with_brute_force(blocks, k):
    rng = np.random.RandomState(blocks)
    queries, table = rng.randn(11, 5), rng.randn(40, 5)
    search = NearestImages(queries, k)
    for part in np.array_split(table, blocks):
        search.add(part)
    wanted = np.linalg.norm(queries[:, None] - table[None], axis=2)
    order = np.argsort(wanted, axis=1)[:, :k]
    np.testing.assert_array_equal(search.indices, order)
    np.testing.assert_allclose(search.distances, np.take_along_axis(wanted, order, 1), rtol=1e-10)


def test_indices_can_be_given():
    search = NearestImages([[0.0]], 2)
    search.add([[3.0], [1.0]], [30, 10])
    search.add([[-2.0]], [20])
    assert search.indices.tolist() == [[10, 20]]


def test_too_few_and_misfits_are_refused():
    with pytest.raises(ValueRangeError, match="fewer than 3"):
        nearest(np.zeros((1, 2)), np.zeros((2, 2)), 3)
    with pytest.raises(ShapeError, match="like the queries"):
        nearest(np.zeros((1, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueRangeError, match="neighbours"):
        NearestImages(np.zeros((1, 2)), 0)


def test_sheet():
    made = [np.full((8, 8, 3), 200, np.uint8)] * 5
    found = [[np.full((8, 8), 50, np.uint8), np.full((8, 8, 3), 100, np.uint8)]] * 5
    sheet = nearest_sheet(made, found, pairs_per_row=2)
    assert sheet.shape == (3 * 8 + 4 * 6, 2 * 26 + 3 * 6, 3)
    assert {50, 100, 200} <= set(np.unique(sheet).tolist())
    with pytest.raises(ShapeError, match="same number"):
        nearest_sheet(made, found[:4])

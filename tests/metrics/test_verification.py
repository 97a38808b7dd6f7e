"""Rates of verification by hand, against Gaussians, and at their extremes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from pyface.errors import ShapeError, ValueRangeError
from pyface.metrics import pair_scores, verification


def test_by_hand():
    found = verification([0.9, 0.8, 0.3, 0.2], [0.1, 0.2, 0.4, 0.0], [0.25, 0.5])
    assert found.auc == (4 + 4 + 3 + 2.5) / 16
    assert found.tar == {"0.25": 0.75, "0.5": 1.0}
    assert (found.genuine, found.impostor) == (4, 4)
    assert 0.25 <= found.eer <= 0.5


def test_separated_and_swapped():
    perfect = verification([0.8, 0.9], [0.1, 0.2])
    assert (perfect.auc, perfect.eer, perfect.tar["0.01"]) == (1.0, 0.0, 1.0)
    reversed_ = verification([0.1, 0.2], [0.8, 0.9])
    assert (reversed_.auc, reversed_.eer) == (0.0, 1.0)
    same = verification([0.5] * 4, [0.5] * 4)
    assert (same.auc, same.eer) == (0.5, 0.5)


def test_gaussians():
    rng = np.random.RandomState(0)
    found = verification(rng.randn(40000) + 2, rng.randn(40000), [0.01, 0.1])
    normal = scipy.stats.norm
    assert found.auc == pytest.approx(normal.cdf(2 / np.sqrt(2)), abs=0.003)
    assert found.eer == pytest.approx(normal.cdf(-1), abs=0.004)
    for rate in (0.01, 0.1):
        assert found.tar[f"{rate:g}"] == pytest.approx(normal.sf(normal.isf(rate) - 2), abs=0.02)


def test_pairs():
    e = np.eye(3)[[0, 0, 1, 2]]
    genuine, impostor = pair_scores(e, [5, 5, 5, 6])
    assert sorted(genuine) == [0, 0, 1]
    assert impostor.tolist() == [0, 0, 0]
    mask = np.zeros((4, 4), bool)
    mask[1, 0] = mask[0, 1] = True
    assert [x.tolist() for x in pair_scores(e, [5, 5, 5, 6], mask)] == [[1], []]


def test_bad_input_is_refused():
    with pytest.raises(ValueRangeError, match="at least one score"):
        verification([], [0.1])
    with pytest.raises(ValueRangeError, match="rates"):
        verification([0.1], [0.1], [0.0])
    with pytest.raises(ShapeError, match="identities"):
        pair_scores(np.eye(3), [1, 2])

"""Agreement of action units: by hand, with unknown labels, against always saying yes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.metrics import unit_agreement, unit_table


def test_by_hand():
    read = np.array([[0.9], [0.35], [0.1], [0.4], [0.0]])
    true = np.array([[0.8], [0.30], [0.5], [0.0], [0.1]])
    found = unit_agreement(read, true, ["AU12"])["AU12"]
    assert (found.threshold, found.known, found.present) == (0.3, 5, 3)
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.f1_always == pytest.approx(2 * 0.6 / 1.6)
    # of the 6 pairs of a face with and one without, (0.35, 0.4) and (0.1, 0.4) are in the wrong order
    assert found.auc == pytest.approx(4 / 6)
    assert found.correlation == pytest.approx(np.corrcoef(read[:, 0], true[:, 0])[0, 1])
    assert found.error == pytest.approx((0.1 + 0.05 + 0.4 + 0.4 + 0.1) / 5)


def test_every_unit_has_its_own_threshold():
    found = unit_agreement(np.full((1, 3), 0.2), np.full((1, 3), 0.2), ["AU12", "AU25", "AU26"])
    assert [found[unit].present for unit in ("AU12", "AU25", "AU26")] == [0, 0, 1]


def test_unknown_labels_are_left_out_not_taken_for_absent():
    read = np.array([[0.9, 0.9], [0.8, 0.1], [0.0, 0.0]])
    true = np.array([[0.9, 0.9], [np.nan, 0.0], [0.0, np.nan]])
    found = unit_agreement(read, true, ["AU6", "AU12"])
    assert [found[unit].known for unit in found] == [2, 2]
    assert all(found[unit].f1 == 1.0 for unit in found)


def test_what_cannot_be_said_is_nan():
    found = unit_agreement(np.zeros((3, 1)), np.zeros((3, 1)), ["AU9"])["AU9"]
    assert all(math.isnan(v) for v in (found.f1, found.auc, found.correlation))
    assert found.to_dict()["auc"] is None
    assert found.to_dict()["error"] == 0.0
    assert "| AU9 | 0.3 | 0 of 3 | - | 0.000 | - | - | 0.000 |" in unit_table({"AU9": found})
    nothing = unit_agreement(np.zeros((0, 1)), np.zeros((0, 1)), ["AU9"])["AU9"]
    assert (nothing.known, nothing.present) == (0, 0)


def test_whole_numbers_are_refused():
    good = np.zeros((2, 1))
    for bad in (good.astype(np.uint8), good.astype(int), good.astype(bool)):
        with pytest.raises(DTypeError, match="floating point"):
            unit_agreement(bad, good, ["AU1"])
        with pytest.raises(DTypeError, match="floating point"):
            unit_agreement(good, bad, ["AU1"])


def test_other_bad_arguments_are_refused():
    good = np.zeros((2, 1))
    with pytest.raises(ShapeError, match="column for each unit"):
        unit_agreement(good, good, ["AU1", "AU2"])
    with pytest.raises(ShapeError, match="as many rows"):
        unit_agreement(good, good[:1], ["AU1"])
    with pytest.raises(ValueRangeError, match=r"\[0, 1\]"):
        unit_agreement(good, good + 3.0, ["AU1"])
    with pytest.raises(ValueRangeError, match="nan"):
        unit_agreement(good + np.nan, good, ["AU1"])

"""Gates: what errors come to, and what they may come to, of floats and of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyface.errors import ExportError, ValueRangeError
from pyface.export.gates import GATES, Gate, compare, gate_of, scale_of
from pyface.export.spec import PRECISIONS
from pyface.io.images import to_uint8

LOOSE = Gate("fp32", max_error=1.0, rmse=1.0)


def _pictures(rows: int = 4, size: int = 32, std: float = 0.4) -> np.ndarray:
    return (np.random.RandomState(0).randn(rows, 3, size, size) * std).astype(np.float32)


def test_every_precision_has_a_gate() -> None:
    assert set(GATES) == set(PRECISIONS)
    assert gate_of("bfloat16") is GATES["bf16"]
    assert all(gate.rmse < gate.max_error for gate in GATES.values())
    errors = [gate_of(precision).rmse for precision in ("fp32", "fp16", "bf16", "int8")]
    assert errors == sorted(errors)
    with pytest.raises(ValueRangeError, match="precision must be one of"):
        gate_of("fp4")


def test_numbers_of_known_errors() -> None:
    truth = _pictures()
    found = truth.copy()
    found[2] += np.float32(0.01)  # one picture alone
    agreement = compare(found, truth, LOOSE, pictures=True)
    std = float(truth.astype(np.float64).std())
    assert agreement.scale == pytest.approx(std)
    assert agreement.rmse == pytest.approx(0.01 / std, rel=1e-4)  # that of the worst, not of all
    assert agreement.max_error == pytest.approx(0.01 / std, rel=1e-4)
    assert agreement.psnr == pytest.approx(20 * math.log10(2 / 0.01), abs=1e-3)
    assert agreement.levels == 2
    assert agreement.differing == pytest.approx((to_uint8(found) != to_uint8(truth)).mean())
    exact = compare(truth, truth, GATES["fp32"], pictures=True)
    assert (exact.max_error, exact.rmse, exact.levels, exact.psnr) == (0, 0, 0, math.inf)
    assert exact.passed


def test_numbers_that_are_no_pictures() -> None:
    truth = np.array([[3.0], [4.0], [0.0]], np.float32)
    found = truth + np.array([[0.0], [0.0], [0.3]], np.float32)
    agreement = compare(found, truth, LOOSE, pictures=False)
    scale = math.sqrt(25 / 3)
    assert agreement.scale == pytest.approx(scale)
    assert agreement.rmse == pytest.approx(math.sqrt(0.03) / scale, rel=1e-5)  # of all rows together
    assert (agreement.psnr, agreement.differing, agreement.levels) == (None, None, None)
    assert scale_of(np.zeros((2, 1), np.float32), pictures=False) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    truth = _pictures()
    found = truth.copy()
    found[1, 0, 3, 3] = bad
    agreement = compare(found, truth, GATES["int8"], pictures=True)
    assert not agreement.passed
    assert math.isinf(agreement.max_error)
    with pytest.raises(ExportError, match="network itself gives numbers that are not finite"):
        compare(truth, found, LOOSE, pictures=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("std", [0.1, 0.4, 1.5])
@pytest.mark.parametrize("size", [16, 64])
def test_pixels_pass_where_floats_do(precision: str, std: float, size: int) -> None:
    """Errors just within the gate before rounding are within it after; several times as much is not."""
    gate, truth = GATES[precision], _pictures(3, size, std)
    noise = np.random.RandomState(1).uniform(-1, 1, truth.shape) * math.sqrt(3) * gate.rmse * truth.std()
    for times, passes in ((0.95, True), (0.1, True), (10.0, False)):
        found = (truth + noise * times).astype(np.float32)
        assert compare(found, truth, gate, pictures=True).passed is passes
        if passes or size == 64:  # few pixels of small pictures change at all
            assert compare(to_uint8(found), truth, gate, pictures=True).passed is passes


def test_pixels_of_wrong_pictures_fail() -> None:
    truth = _pictures()
    for wrong in (np.roll(truth, 1, axis=3), truth[::-1], truth[:, ::-1], truth * np.float32(1.1)):
        for precision in ("fp32", "fp16", "bf16"):
            assert not compare(wrong, truth, GATES[precision], pictures=True).passed
            assert not compare(to_uint8(wrong), truth, GATES[precision], pictures=True).passed

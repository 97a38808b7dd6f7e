"""The machine's rates, and the least time that follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyface.benchmark.ceilings import Ceilings, measure_ceilings
from pyface.errors import ValueRangeError

ROUND = Ceilings(
    copy_gb_s=10.0,
    cache_gb_s=100.0,
    float32_gflops=200.0,
    bfloat16_gflops=1000.0,
    float16_gflops=None,
    bfloat16_conv_gflops=900.0,
)


@pytest.fixture(scope="module")
def measured() -> Ceilings:
    return measure_ceilings("cpu", 1)


def test_measured_rates_are_those_of_a_computer(measured):
    assert 0.2 < measured.copy_gb_s < 5000
    assert measured.cache_gb_s > 0.5 * measured.copy_gb_s
    assert 0.5 < measured.float32_gflops < 1e5
    assert 0 < measured.bfloat16_conv_gflops <= measured.bfloat16_gflops
    assert measured.float16_gflops is None


def test_matrix_units_are_seen(measured):
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "amx_bf16" not in flags.read_text():
        pytest.skip("this processor has no AMX")
    assert measured.bfloat16_gflops > measured.float32_gflops


def test_number_of_threads_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr("pyface.benchmark.ceilings._Rates.copy", lambda rates, count: 1.0)
    counts = []

    def best(rates: object, work: object) -> float:
        counts.append(torch.get_num_threads())
        return 2.0

    monkeypatch.setattr("pyface.benchmark.ceilings._Rates.best", best)
    before = torch.get_num_threads()
    assert measure_ceilings("cpu", 2) == Ceilings(1.0, 1.0, 2.0, 2.0, None, 2.0)
    assert set(counts) == {2}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("amount", "floor_ms", "bound"),
    [
        ((50_000_000, 0, "float32"), 5.0, "memory"),  # 50 MB at 10 GB/s
        ((0, 2_000_000_000, "float32"), 10.0, "compute"),  # 2 GFLOP at 200 GFLOP/s
        ((0, 2_000_000_000, "bfloat16"), 2.0, "compute"),
        ((0, 2_000_000_000, "float16"), 10.0, "compute"),  # not measured: float32's rate
        ((50_000_000, 2_000_000_000, "bfloat16"), 5.0, "memory"),
        ((50_000_000, 2_000_000_000, "float32"), 10.0, "compute"),
    ],
)
def test_least_time(amount, floor_ms, bound):
    assert ROUND.floor_ms(*amount) == pytest.approx(floor_ms)
    assert ROUND.bound(*amount) == bound


def test_cached_bytes_are_read_at_the_rate_of_the_caches():
    assert ROUND.roofline(1_000_000, 0, "float32", cached=True).floor_ms == pytest.approx(0.01)


def test_rates_survive_json():
    assert Ceilings.from_dict(ROUND.to_dict()) == ROUND
    assert Ceilings(1 / 3, 1.0, 1.0, 1.0, 2 / 3, 1.0).to_dict()["copy_gb_s"] == 0.3333


def test_other_devices_are_refused():
    with pytest.raises(ValueRangeError, match="meta"):
        measure_ceilings("meta")

"""The cases of `pyface bench` on pytest-benchmark: `pytest bench/ops --benchmark-only [-k bias_act]`."""

from __future__ import annotations

import pytest

from pyface.benchmark import Case, all_cases
from pyface.benchmark.document import check_result
from pyface.benchmark.method import threads
from pyface.errors import BackendError

pytest.importorskip("pytest_benchmark")


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_speed(case: Case, benchmark) -> None:
    """Our variant alone, one thread, checked against the reference."""
    try:
        work = case.build("cpu")
    except (ImportError, BackendError) as error:
        pytest.skip(str(error))
    ours = next(iter(work.variants.values()))
    with threads(1):
        benchmark.extra_info["check"] = check_result(case, work).check
        benchmark.extra_info["bytes"], benchmark.extra_info["flops"] = work.bytes, work.flops
        benchmark.pedantic(ours.run, rounds=5, iterations=case.calls, warmup_rounds=1)

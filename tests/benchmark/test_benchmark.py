"""The measuring method, the cases' correctness at small sizes, the JSON document and the report."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pyface.benchmark import Case, Variant, all_cases, measure, run_suite, schema
from pyface.benchmark import suite as suite_module
from pyface.benchmark.case import Workload
from pyface.benchmark.ceilings import Ceilings
from pyface.benchmark.document import check_result, entry_of, line_of, result_error
from pyface.benchmark.method import Quartiles, Timing, threads
from pyface.benchmark.op_cases import DTYPES, LAYOUTS, op_builders
from pyface.benchmark.suite import FORMAT, select
from pyface.errors import PyfaceError, ValueRangeError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", op_builders())
def test_every_variant_does_the_same_work(op, dtype, layout):
    work = op_builders()[op]((2, 8, 12, 16), dtype, layout, "cpu")
    reference = work.reference()
    limit = 1e-5 if dtype == "float32" else 0.03
    for name, variant in work.variants.items():
        result = variant.run()
        assert result.dtype == DTYPES[dtype], name
        error = float((result.double() - reference).abs().max() / reference.abs().max())
        assert error <= limit, (name, error)
    assert work.bytes > 0
    assert work.flops > 0


def test_names_are_unique_and_every_group_is_known():
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases)
    allowed = schema()["$defs"]["case"]["properties"]["group"]["enum"]
    assert {case.group for case in cases} <= set(allowed)
    assert any(case.quick for case in cases)


def test_selection():
    cases = all_cases()
    assert all(case.name.startswith("blur/") for case in select(cases, ["blur/"], quick=False))
    assert len(select(cases, ["bias_act/1x128*", "call/*/grad"], quick=False)) == 5
    with pytest.raises(ValueRangeError, match="names begin with align"):
        select(cases, ["no such"], quick=False)


def test_processor_time_counts_work_and_not_sleep():
    x = torch.randn(200_000)
    variants = {"work": Variant(lambda: x.exp()), "sleep": Variant(lambda: time.sleep(0.01))}
    with threads(1):
        times = measure(variants, rounds=5, calls=2, cold=False)
    assert Quartiles.of(times["sleep"].wall).median >= 10
    assert Quartiles.of(times["sleep"].cpu).median < 5
    assert len(times["work"].cpu) == len(times["work"].wall) == 5


def test_preparation_is_not_measured():
    prepared = []

    def prepare() -> None:
        prepared.append(1)
        time.sleep(0.02)

    times = measure({"a": Variant(lambda: None, prepare)}, rounds=3, cold=True)
    assert len(prepared) == 5  # two warm-up samples and three measured ones
    assert min(times["a"].wall) < 20


def test_quartiles():
    assert Quartiles.of([3.0]) == Quartiles(3.0, 3.0, 3.0)
    assert Quartiles.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Quartiles(3.0, 2.0, 4.0)


CEILINGS = Ceilings(10.0, 80.0, 100.0, 1000.0, None, 900.0)


def small_case(
    result: torch.Tensor, other: torch.Tensor | None = None, tolerance: float = 1e-6
) -> tuple[Case, Workload]:
    work = Workload(
        {
            "pyface": Variant(lambda: result),
            "torch eager": Variant(lambda: result if other is None else other),
        },
        reference=lambda: torch.ones(4, dtype=torch.float64),
        bytes=32,
        flops=4,
        tolerance=tolerance,
    )
    return Case("small/4", "ops", "small", "4", "float32", "-", lambda device: work, cold=False), work


def test_a_wrong_result_is_not_timed():
    checked = check_result(*small_case(torch.ones(4)))
    assert checked.check == {"max_error": 0.0, "tolerance": 1e-6}
    assert checked.errors == {
        name: {"max": 0.0, "max_by_std": 0.0, "rmse": 0.0} for name in ("pyface", "torch eager")
    }
    for wrong in (torch.ones(4) * 1.1, torch.full((4,), float("nan")), torch.ones(5)):
        with pytest.raises(PyfaceError, match="the result of pyface is wrong"):
            check_result(*small_case(wrong))


def document(monkeypatch, **settings) -> dict:
    def absent(device: str) -> Workload:
        raise ImportError("no such part")

    missing = Case("missing/4", "ops", "missing", "4", "float32", "-", absent)
    monkeypatch.setattr(suite_module, "all_cases", lambda: [small_case(torch.ones(4))[0], missing])
    monkeypatch.setattr(suite_module, "process_cases", list)
    return run_suite(**{"ceilings": {1: CEILINGS, 2: CEILINGS}, **settings})


def test_document_follows_its_schema(monkeypatch):
    jsonschema = pytest.importorskip("jsonschema")
    found = document(monkeypatch)
    jsonschema.validate(json.loads(json.dumps(found)), schema())
    assert found["skipped"] == [{"name": "missing/4", "reason": "no such part"}]
    assert found["cases"][0]["speedup"]["torch eager"]["median"] > 0
    two = document(monkeypatch, num_threads=2)
    jsonschema.validate(two, schema())
    assert two["cases"][0]["variants"]["pyface"]["cpu_ms"] is None
    assert found["ceilings"] == {"1": CEILINGS.to_dict(), "2": CEILINGS.to_dict()}


def run_one(monkeypatch, case: Case, **settings) -> dict:
    monkeypatch.setattr(suite_module, "all_cases", lambda: [case])
    monkeypatch.setattr(suite_module, "process_cases", list)
    return run_suite(**{"ceilings": {1: CEILINGS, 2: CEILINGS}, **settings})


def test_a_case_may_bring_its_number_of_threads(monkeypatch):
    used = []
    case, work = small_case(torch.ones(4))

    def build(device: str) -> Workload:
        used.append(torch.get_num_threads())
        return work

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = torch.get_num_threads()
    found = run_one(monkeypatch, replace(case, build=build, threads=2), num_threads=1)
    assert used == [2]
    assert found["cases"][0]["threads"] == 2
    assert found["machine"]["threads"] == 1
    assert found["cases"][0]["variants"]["pyface"]["cpu_ms"] is None  # the wall clock alone
    many = run_one(monkeypatch, replace(case, build=build, threads=3))
    assert many["skipped"] == [
        {"name": "small/4", "reason": "3 threads need as many cores; this machine has 2."}
    ]
    assert torch.get_num_threads() == before


def test_ceilings_are_measured_once_per_number_of_threads(monkeypatch):
    asked = []

    def measured(device: str, count: int) -> Ceilings:
        asked.append((device, count))
        return CEILINGS

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(suite_module, "measure_ceilings", measured)
    case = small_case(torch.ones(4))[0]
    cases = [replace(case, name=f"small/{i}", threads=count) for i, count in enumerate((0, 2, 0, 2))]
    monkeypatch.setattr(suite_module, "all_cases", lambda: cases)
    monkeypatch.setattr(suite_module, "process_cases", list)
    assert set(run_suite()["ceilings"]) == {"1", "2"}
    assert asked == [("cpu", 1), ("cpu", 2)]


def test_share_of_the_ceiling_in_closed_form(monkeypatch):
    def timed(variants, **settings):
        return {name: Timing([2.0], [3.0]) for name in variants}  # ms

    monkeypatch.setattr("pyface.benchmark.document.measure", timed)
    case, work = small_case(torch.ones(4))
    expected = {
        (10_000_000, 0, True): {"floor_ms": 1.0, "fraction": 0.5, "bound": "memory"},  # at 10 GB/s
        (800_000, 0, False): {"floor_ms": 0.01, "fraction": 0.005, "bound": "memory"},  # at 80 GB/s
        (10_000_000, 0, False): {"floor_ms": 1.0, "fraction": 0.5, "bound": "memory"},  # beyond the caches
        (1000, 50_000_000, True): {"floor_ms": 0.5, "fraction": 0.25, "bound": "compute"},  # 100 GFLOP/s
        (0, 0, True): None,
    }
    for (count, flops, cold), roofline in expected.items():
        amount = replace(work, bytes=count, flops=flops)
        entry = entry_of(replace(case, cold=cold), amount, "cpu", 1, CEILINGS)
        assert entry["roofline"] == roofline
        assert entry["gb_per_s"] == (pytest.approx(count / 2e6) if count else None)


def test_errors_in_closed_form():
    reference = torch.tensor([1.0, -1.0, 1.0, -4.0], dtype=torch.float64)
    result = reference.float() + torch.tensor([0.0, 0.0, 0.0, 0.5])
    spread = float(reference.std(correction=0))
    found = result_error(result, reference)
    assert found["max"] == 0.125
    assert found["rmse"] == pytest.approx(0.25 / spread, rel=5e-3)
    assert found["max_by_std"] == pytest.approx(0.5 / spread, rel=5e-3)
    assert set(result_error(torch.ones(3), torch.ones(3, dtype=torch.float64)).values()) == {0.0}
    with pytest.raises(PyfaceError, match="shape"):
        result_error(None, reference)


def test_a_wrong_torch_form_is_left_out(monkeypatch):
    case, work = small_case(torch.ones(4), torch.full((4,), 1.1))
    entry = run_one(monkeypatch, case)["cases"][0]
    assert list(entry["variants"]) == ["pyface"]
    assert entry["left_out"]["torch eager"].startswith("wrong result: off by 0.1")
    unchecked = replace(case, build=lambda device: replace(work, errors=False))
    entry = run_one(monkeypatch, unchecked)["cases"][0]
    assert [times["error"] is None for times in entry["variants"].values()] == [False, True]


def test_a_case_that_fails_leaves_the_others(monkeypatch):
    jsonschema = pytest.importorskip("jsonschema")

    def no_memory(device: str) -> Workload:
        raise MemoryError

    def crash() -> torch.Tensor:
        raise RuntimeError("the other runtime\ngave up")

    case, work = small_case(torch.ones(4))
    crashing = replace(work, variants={**work.variants, "torch eager": Variant(crash)})
    cases = [
        replace(small_case(torch.ones(4) * 1.1)[0], name="wrong/4"),
        replace(case, name="large/4", build=no_memory),
        replace(case, name="late/4", build=lambda device: replace(crashing, errors=False)),
        replace(case, name="other/4", build=lambda device: crashing),
        case,
    ]
    monkeypatch.setattr(suite_module, "all_cases", lambda: cases)
    monkeypatch.setattr(suite_module, "process_cases", list)
    lines, kept = [], []
    found = run_suite(
        ceilings={1: CEILINGS}, report=lines.append, keep=lambda so_far: kept.append(len(so_far["failed"]))
    )
    jsonschema.validate(json.loads(json.dumps(found)), schema())
    assert [entry["name"] for entry in found["cases"]] == ["other/4", "small/4"]
    assert found["cases"][0]["left_out"] == {"torch eager": "RuntimeError: the other runtime gave up"}
    assert found["failed"] == [
        {
            "name": "wrong/4",
            "reason": "the result of pyface is wrong: off by 0.1 of the largest value; allowed is 1e-06",
        },
        {"name": "large/4", "reason": "MemoryError"},
        {"name": "late/4", "reason": "RuntimeError: the other runtime gave up"},
    ]
    assert found["skipped"] == []
    assert kept == [1, 2, 3, 3, 3, 3]
    assert lines[1] == "large/4: failed, MemoryError"


def test_line_of_an_entry(monkeypatch):
    case, work = small_case(torch.ones(4), torch.full((4,), 1.1))
    line = line_of(
        run_one(monkeypatch, replace(case, build=lambda device: replace(work, items=2)))["cases"][0]
    )
    assert line.startswith("small/4: ")
    assert " images/s, " in line
    assert line.endswith("% of the compute ceiling, no torch eager") or line.endswith(
        "% of the memory ceiling, no torch eager"
    )


def test_committed_results_follow_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    paths = list((ROOT / "bench" / "results").glob("*/*.json"))
    if not paths:
        pytest.skip("no results are committed")
    for path in paths:
        found = json.loads(path.read_text())
        if found["kind"] == "pyface-benchmark" and found["format"] == FORMAT:
            jsonschema.validate(found, schema())


@pytest.mark.slow
def test_quick_run():
    found = run_suite(quick=True)
    assert len(found["cases"]) + len(found["skipped"]) >= 8


def test_a_screen_is_measured_in_few_rounds_against_the_plain_expression(monkeypatch):
    calls = []
    names = ("pyface", "torch eager", "torch eager, in place")
    variants = {name: Variant(lambda name=name: calls.append(name) or torch.ones(4)) for name in names}
    work = Workload(variants, reference=lambda: torch.ones(4, dtype=torch.float64), tolerance=1e-6)
    case = Case("a/4", "ops", "a", "4", "float32", "-", lambda device: work, cold=False, screen="a")
    monkeypatch.setattr(suite_module, "all_cases", lambda: [case, small_case(torch.ones(4))[0]])
    monkeypatch.setattr(suite_module, "process_cases", list)
    kept = []
    found = run_suite(
        screen=True, ceilings={1: CEILINGS}, keep=lambda so_far: kept.append(len(so_far["cases"]))
    )
    assert [entry["name"] for entry in found["cases"]] == ["a/4"]
    assert kept == [1, 1]
    assert calls.count("pyface") == 7  # one to check, one to warm up
    assert calls.count("torch eager") == 6
    assert "torch eager, in place" not in calls


def test_without_torch(monkeypatch):
    found = document(monkeypatch, eager=False, rivals=())
    assert list(found["cases"][0]["variants"]) == ["pyface"]
    assert found["settings"]["eager"] is False

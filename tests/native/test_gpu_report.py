"""tools/gpu_report.py where there is no GPU: it says so, invents nothing, and no failed part ends it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "gpu_report.py"
DEVICE = {"gpu": "NVIDIA Test 1", "capability": "9.0", "memory_gb": 1.0, "multiprocessors": 2}
MACHINE = {
    **{"driver": "1", "torch": "2", "cuda": "13", "python": "3.11"},
    **{"commit": "abc", "built_from": "abc", "date": "now"},
}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here; it would be measured")


@pytest.fixture(scope="module", autouse=True)
def tools_on_path() -> Iterator[None]:
    """The tool's package can be imported, as from its script."""
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def part_of(do: Any, name: str = "ops") -> Any:
    from gpu_report.command import Part

    return Part(name, 1, "what", do)


def place_in(folder: Path) -> Any:
    from gpu_report.processes import Place

    return Place(folder, {"PATH": "/usr/bin:/bin"}, quick=True, rivals=False)


def document_in(folder: Path) -> Any:
    from gpu_report.document import Document

    return Document.of_device(folder, DEVICE)


def validate(values: dict[str, Any]) -> None:
    from gpu_report.document import schema

    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    jsonschema.Draft202012Validator(schema()).validate(values)


# ---- the command


@no_gpu
def test_without_gpu_nothing_is_written(tmp_path: Path) -> None:
    done = ran("--out", str(tmp_path / "results"), "--folder", str(tmp_path / "build"))
    assert done.returncode == 0
    assert done.stdout.startswith("No GPU report: torch ")
    from gpu_report.command import PARTS

    for part in PARTS:
        assert f"{part.name}: not measured" in done.stdout
    assert list(tmp_path.iterdir()) == []


@no_gpu
def test_without_gpu_only_the_parts_asked_for_are_named(tmp_path: Path) -> None:
    done = ran("--part", "ops,kernels", "--part", "build", "--no-build", "--out", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["  ops: not measured", "  kernels: not measured"]


def test_unknown_parts_are_refused() -> None:
    done = ran("--part", "build,nope")
    assert done.returncode == 2
    assert "unknown parts nope; allowed: build, conformance, tests, sanitizer, ceilings, ops," in done.stderr


def test_parts_are_listed_with_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    from gpu_report.command import PARTS, main

    assert main(["--list-parts"]) == 0
    text = capsys.readouterr().out
    checks, measured = (
        "build conformance tests sanitizer ceilings",
        "ops layers networks training scaling kernels tune",
    )
    assert " ".join(part.name for part in PARTS) == f"{checks} {measured}"
    for part in PARTS:
        assert f"  {part.name:<12} {part.minutes:>4g}  {part.what}\n" in text


def test_every_group_of_cases_is_in_one_part() -> None:
    from gpu_report.benchmarks import GROUPS
    from gpu_report.document import schema

    from pyface.benchmark import schema as benchmark_schema

    groups = [group for part in GROUPS.values() for group in part]
    assert sorted(groups) == sorted(set(groups))
    assert set(benchmark_schema()["$defs"]["case"]["properties"]["group"]["enum"]) <= set(groups)
    from gpu_report.command import PARTS

    assert set(GROUPS) <= {part.name for part in PARTS}
    assert list(schema()["properties"]["parts"]["properties"]) == [part.name for part in PARTS]


def test_a_run_with_a_gpu_writes_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu_report import command
    from gpu_report.record import PartError

    def works(place: Any, record: Any, deadline: Any) -> None:
        record.plan(["rates"])
        record.done("rates", {"copy_gb_s": 4000.0})

    def fails(place: Any, record: Any, deadline: Any) -> None:
        raise PartError("compute-sanitizer is not on PATH")

    monkeypatch.setattr(command, "missing_gpu", lambda: None)
    monkeypatch.setattr(command, "device_facts", lambda: DEVICE)
    monkeypatch.setattr(command, "machine_facts", lambda built_from: MACHINE)
    monkeypatch.setattr(command, "PARTS", (part_of(fails, "sanitizer"), part_of(works, "ceilings")))
    for _ in range(2):
        assert command.main(["--out", str(tmp_path / "out"), "--folder", str(tmp_path / "build")]) == 0
    path = tmp_path / "out/nvidia-test-1/gpu_report/report.json"
    assert f"wrote {path}" in capsys.readouterr().out
    values = json.loads(path.read_text())
    validate(values)
    assert values["parts"]["sanitizer"]["error"] == "compute-sanitizer is not on PATH"
    assert values["parts"]["sanitizer"]["state"] == "failed"
    assert values["parts"]["ceilings"]["items"] == {"rates": {"copy_gb_s": 4000.0}}
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


# ---- parts, time, and the document


def test_a_slow_part_stops_and_goes_on(tmp_path: Path) -> None:
    from gpu_report.command import run_part

    slow = {"second": 30.0, "third": 30.0}
    done: list[str] = []

    def do(place: Any, record: Any, deadline: Any) -> None:
        if not record.left:
            record.plan(["first", "second", "third"])

        def item(name: str, limit: Any) -> dict[str, Any]:
            from gpu_report.processes import said

            said(["sleep", str(slow.get(name, 0.01))], timeout=limit.left())
            done.append(name)
            return {"name": name}

        record.one_by_one(item, deadline)

    document, part = document_in(tmp_path), part_of(do, "tests")
    start = time.monotonic()
    entry = run_part(part, place_in(tmp_path), document, MACHINE, 2.0)
    assert time.monotonic() - start < 25
    assert (entry["state"], entry["left"], done) == ("stopped", ["second", "third"], ["first"])
    validate(document.values)
    slow.clear()
    later = document_in(tmp_path)
    entry = run_part(part, place_in(tmp_path), later, {**MACHINE, "date": "later"}, 60)
    assert (entry["state"], list(entry["items"]), done) == ("done", ["first", "second", "third"], done)
    assert done == ["first", "second", "third"]
    validate(later.values)
    run_part(part, place_in(tmp_path), later, MACHINE, 60)
    assert len(done) == 6, "a part that is done is measured anew"


def test_an_item_that_takes_all_the_time_has_failed(tmp_path: Path) -> None:
    from gpu_report.processes import said
    from gpu_report.record import Deadline, Record

    record = Record()
    record.plan(["slow", "next"])
    record.one_by_one(lambda name, limit: said(["sleep", "30"], timeout=limit.left()), Deadline(0.3))
    assert record.failed == {"slow": "sleep took more than 0 s"}
    assert record.left == ["next"]


def test_what_was_measured_on_other_versions_is_not_mixed(tmp_path: Path) -> None:
    from gpu_report.document import entry_of
    from gpu_report.record import Record

    document = document_in(tmp_path)
    record = Record(items={"a": {"ms": 1}}, left=["b"])
    document.put("layers", entry_of(record, MACHINE, 1.0, None))
    document.put("tests", entry_of(Record(items={"c": {}}), MACHINE, 1.0, None))
    assert document_in(tmp_path).values == document.values
    assert document.record_of("layers", {**MACHINE, "date": "x"}, again=False).items == {"a": {"ms": 1}}
    assert document.record_of("layers", {**MACHINE, "commit": "def"}, again=False).items == {}
    assert document.record_of("layers", MACHINE, again=True).items == {}
    assert document.record_of("tests", MACHINE, again=False).items == {}
    document.put("layers", entry_of(Record(failed={"b": "x"}), MACHINE, 1.0, None))
    assert list(document.values["parts"]) == ["layers", "tests"]
    assert document.values["parts"]["tests"]["items"] == {"c": {}}
    from gpu_report.document import Document

    other = Document(document.path, {**DEVICE, "memory_gb": 2.0})
    assert other.values["parts"] == {}


# ---- workers


def worker_of(folder: Path, program: str) -> Any:
    """A worker that runs Python code with the names `events` (a function) and `wanted`."""
    from gpu_report.processes import Worker

    head = (
        "import json, os, sys, time\n"
        "def events(**event):\n"
        "    with open(sys.argv[1], 'a') as file: file.write(json.dumps(event) + '\\n')\n"
        "wanted = json.load(open(sys.argv[2]))\n"
        "if wanted is None: events(plan=['a', 'b', 'c'])\n"
        "for name in wanted or ['a', 'b', 'c']:\n"
        "    events(begin=name)\n"
    )
    code = head + "".join(f"    {line}\n" for line in program.splitlines())
    return Worker(
        place_in(folder),
        lambda events, wanted: [sys.executable, "-c", code, str(events), str(wanted)],
        "test",
    )


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    from gpu_report.record import Deadline, Record

    record = Record()
    worker_of(tmp_path, "if name == 'b': os._exit(3)\nevents(item=name, done={'ms': 1})").run(
        record, Deadline(60)
    )
    assert record.to_dict() == {
        "items": {"a": {"ms": 1}, "c": {"ms": 1}},
        "failed": {"b": "the process ended with 3"},
        "skipped": {},
        "left": [],
    }


def test_a_slow_worker_is_ended_and_keeps_what_it_has(tmp_path: Path) -> None:
    from gpu_report.record import Deadline, Record

    record = Record()
    program = "if name == 'b': time.sleep(60)\nevents(item=name, skipped='no')"
    start = time.monotonic()
    worker_of(tmp_path, program).run(record, Deadline(4.0))
    assert time.monotonic() - start < 50
    assert (record.skipped, record.left, record.failed) == ({"a": "no"}, ["b", "c"], {})
    worker_of(tmp_path, program).run(record, Deadline(4.0))
    assert record.failed == {"b": "took all the time of a run of this part"}
    assert record.left == ["c"]


def test_a_worker_that_does_nothing_is_an_error(tmp_path: Path) -> None:
    from gpu_report.processes import Worker
    from gpu_report.record import Deadline, PartError, Record

    def worker(code: str) -> Any:
        return Worker(
            place_in(tmp_path), lambda events, wanted: [sys.executable, "-c", code, str(events)], "test"
        )

    with pytest.raises(PartError, match="ended with 1 before it began an item"):
        worker("raise SystemExit(1)").run(Record(), Deadline(60))
    with pytest.raises(PartError, match="the time was over before the first item began"):
        worker("import time; time.sleep(60)").run(Record(), Deadline(0.3))
    with pytest.raises(PartError, match="no CUDA module"):
        worker("import sys; open(sys.argv[1], 'a').write('{\"error\": \"no CUDA module\"}\\n')").run(
            Record(), Deadline(60)
        )


@no_gpu
def test_workers_of_the_tool_say_why_they_cannot(tmp_path: Path) -> None:
    import os

    from gpu_report.benchmarks import suite
    from gpu_report.processes import Place
    from gpu_report.record import Deadline, PartError, Record

    with pytest.raises(PartError, match=r"reference for CUDA tensors.* run --part build first"):
        suite("layers")(Place(tmp_path, dict(os.environ)), Record(), Deadline(120))


# ---- the suite's cases


def test_cases_are_measured_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import benchmarks

    import pyface.benchmark as benchmark
    from pyface.benchmark.ceilings import Ceilings

    real = benchmark.run_suite
    rates = Ceilings(1e3, 1e3, 1e6, 1e6, None, 1e6)

    def on_cpu(only: list[str], **options: Any) -> dict[str, Any]:
        assert options.pop("device") == "cuda"
        return real(only, **options)

    def no_memory(device: str) -> Any:
        raise RuntimeError("out of memory")

    every = [
        replace(case, build=no_memory) if "blur" in case.name else case for case in benchmark.all_cases()
    ]
    for module in ("pyface.benchmark", "pyface.benchmark.suite"):
        monkeypatch.setattr(f"{module}.all_cases", lambda: every)

    monkeypatch.setattr(benchmark, "run_suite", on_cpu)
    monkeypatch.setattr("pyface.benchmark.ceilings.measure_ceilings", lambda device: rates)
    monkeypatch.setattr(benchmarks, "require_kernels", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    cases = {case.name: case for case in benchmark.all_cases() if case.group == "ops" and case.quick}
    ours = next(name for name in cases if name.startswith("bias_act"))
    blur = next(name for name in cases if "blur" in name)
    events = tmp_path / "events"
    benchmarks.cases_inner(events, [ours, blur, "gone/1"], "ops", place_in(tmp_path))
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert found[0] == {"item": "gone/1", "failed": "there is no such case any more"}
    assert found[1] == {"begin": ours}
    assert found[2]["item"] == found[2]["done"]["name"] == ours
    assert found[3:] == [{"begin": blur}, {"item": blur, "failed": "RuntimeError: out of memory"}]
    from gpu_report.document import entry_of
    from gpu_report.record import Record

    document = document_in(tmp_path)
    document.put("ops", entry_of(Record(items={ours: found[2]["done"]}), MACHINE, 1.0, None))
    validate(document.values)


def test_numbers_of_cpu_threads_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import benchmarks

    import pyface.benchmark as benchmark

    case = replace(benchmark.all_cases()[0], name="scaling/threads/2", group="scaling", threads=2)
    monkeypatch.setattr(benchmark, "all_cases", lambda: [case])
    monkeypatch.setattr("pyface.benchmark.ceilings.measure_ceilings", lambda device: None)
    monkeypatch.setattr(benchmarks, "require_kernels", lambda: None)
    place = place_in(tmp_path)
    benchmarks.cases_inner(tmp_path / "events", None, "scaling,process", type(place)(tmp_path, {}))
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert found[0] == {"plan": ["scaling/threads/2", "process"]}
    assert found[1]["skipped"].startswith("what a fresh process costs is measured on the CPU")
    assert found[3]["skipped"] == "a number of CPU threads says nothing about a GPU"


# ---- conformance and tests


def test_faces_are_compared_by_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    from gpu_report.conformance import compare_faces

    from pyface.ops.face_render import face_render as render

    def on_gpu(params: torch.Tensor, size: int, *, backend: str = "auto") -> dict[str, torch.Tensor]:
        drawn = render(params, size, backend="cpu" if backend == "cuda" else backend)
        if backend == "cuda" and spoil:
            drawn["nir"] = drawn["nir"] ^ 8
        return drawn

    spoil = False
    monkeypatch.setattr(sys.modules["pyface.ops.face_render"], "face_render", on_gpu)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    same = compare_faces(2, 24)
    assert same["ok"]
    assert min(same["share_equal"].values()) >= 0.999
    spoil = True
    spoiled = compare_faces(2, 24)
    assert not spoiled["ok"]
    assert spoiled["share_equal"]["nir"] == 0


def test_what_differs_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import conformance

    monkeypatch.setattr(conformance, "require_kernels", lambda: None)
    monkeypatch.setattr(
        conformance, "compare_primitive", lambda index: {"different": index, "ok": index == 0}
    )
    conformance.conformance_inner(tmp_path / "events", ["mma f16", "ldmatrix"], "", place_in(tmp_path))
    found = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert found[1] == {"item": "mma f16", "done": {"different": 0}}
    assert found[3] == {"item": "ldmatrix", "failed": "GPU and emulator differ: {'different': 2}"}


def test_inputs_of_primitives_have_exact_sums() -> None:
    from gpu_report.conformance import primitive_input

    for primitive, size in ((0, 1280), (1, 1280), (2, 512), (3, 512), (4, 128), (5, 512)):
        given = primitive_input(primitive, size)
        assert given.dtype == np.uint8
        assert given.size == size
    halves = primitive_input(0, 1280)[:768].view(np.float16)
    assert np.array_equal(halves, np.round(halves))
    assert np.abs(halves).max() <= 8
    floats = primitive_input(4, 128).view(np.float32)
    assert np.isfinite(floats).all()


def test_counts_of_a_test_report(tmp_path: Path) -> None:
    from gpu_report.checks import counts_of
    from gpu_report.record import PartError

    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">'
        '<testcase name="good"/><testcase name="bad"><failure/></testcase></testsuite></testsuites>'
    )
    assert counts_of(report) == {"tests": 3, "failures": 1, "errors": 0, "skipped": 1, "failed": ["bad"]}
    report.write_text("<testsuites/>")
    with pytest.raises(PartError, match="no suite"):
        counts_of(report)


def test_a_suite_of_skipped_tests_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report import checks
    from gpu_report.record import Deadline, PartError, Record

    counts = {"tests": 2, "failures": 0, "errors": 0, "skipped": 2, "failed": []}
    monkeypatch.setattr(checks, "_test_file", lambda name, place, limit: counts)
    with pytest.raises(PartError, match=r"no test ran on the GPU: \d+ were skipped"):
        checks.tests(place_in(tmp_path), Record(), Deadline(60))


@no_gpu
def test_parts_that_need_programs_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_report.checks import sanitizer
    from gpu_report.processes import said
    from gpu_report.record import Deadline, PartError, Record

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PartError, match="compute-sanitizer is not on PATH"):
        sanitizer(place_in(tmp_path), Record(), Deadline(10))
    with pytest.raises(PartError, match="no-such-program is not installed"):
        said(["no-such-program"])
    with pytest.raises(PartError, match=r"python[0-9.]* gave 3: oh no"):
        said([sys.executable, "-c", "import sys; print('oh no'); sys.exit(3)"])

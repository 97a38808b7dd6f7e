"""Ceilings, every case of the benchmark suite, and the kernel ladders, on the GPU."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_report.build import require_kernels
from gpu_report.processes import ROOT, Place, Worker, emit, said
from gpu_report.record import Deadline, PartError, Record

__all__ = ["GROUPS", "cases_inner", "ceilings", "ceilings_inner", "kernels", "suite"]

# The groups of cases (pyface/benchmark/schema.json) that each part measures.
GROUPS = {
    "ops": ("ops", "calls", "renderer", "alignment"),
    "layers": ("layers",),
    "networks": ("networks", "projection", "encoding", "engines", "dataset"),
    "training": ("training",),
    "scaling": ("scaling", "process"),
}
_PROCESS = "process"  # the group whose figures are no cases
_CONTEXT_LOST = 3  # exit status of a worker whose GPU no longer answers
_LADDERS = ROOT / "bench/kernels/run.py"


def ceilings(place: Place, record: Record, deadline: Deadline) -> None:
    """One item, "rates": the best GB/s and GFLOP/s of the device (pyface/benchmark/ceilings.py)."""
    Worker.inner(place, "ceilings", []).run(record, deadline)


def ceilings_inner(events: Path, wanted: list[str] | None, _: str, place: Place) -> None:
    """The worker's side."""
    from pyface.benchmark.ceilings import measure_ceilings

    if wanted is None:
        emit(events, plan=["rates"])
    emit(events, begin="rates")
    found = measure_ceilings("cuda").to_dict()
    print(found, flush=True)
    emit(events, item="rates", done=found)


def suite(part: str) -> Callable[[Place, Record, Deadline], None]:
    """A part whose items are the cases of its groups: entries as run_suite gives them."""

    def measure(place: Place, record: Record, deadline: Deadline) -> None:
        Worker.inner(place, "cases", ["--groups", ",".join(GROUPS[part])]).run(record, deadline)

    return measure


def cases_inner(events: Path, wanted: list[str] | None, groups: str, place: Place) -> None:
    """The worker's side: measures cases until all are done."""
    from pyface.benchmark import all_cases
    from pyface.benchmark.ceilings import measure_ceilings

    require_kernels()
    cases = {
        case.name: case
        for case in all_cases()
        if case.group in groups.split(",") and (case.quick or not place.quick)
    }
    if wanted is None:
        wanted = [*cases, *([_PROCESS] if _PROCESS in groups.split(",") else [])]
        emit(events, plan=wanted)
    if _PROCESS in wanted:
        emit(events, item=_PROCESS, skipped="what a fresh process costs is measured on the CPU: pyface bench")
        wanted = [name for name in wanted if name != _PROCESS]
    for name in [name for name in wanted if name not in cases]:
        emit(events, item=name, failed="there is no such case any more")
    found = measure_ceilings("cuda")
    rates = dict.fromkeys(range(1, (os.cpu_count() or 1) + 1), found)
    done: set[str] = set()
    for name in wanted:
        if name not in cases or name in done:
            continue
        emit(events, begin=name)
        if cases[name].threads > 0:
            emit(events, item=name, skipped="a number of CPU threads says nothing about a GPU")
            continue
        done |= _one_case(events, name, rates, place)


def _one_case(events: Path, name: str, rates: Mapping[int, Any], place: Place) -> set[str]:
    """Measures a case, and those whose names hold its name; gives what it measured or skipped."""
    import torch

    from pyface.benchmark import run_suite

    document = run_suite(
        [name], quick=place.quick, device="cuda", rivals=place.rivals, ceilings=rates, report=_tell
    )
    for entry in document["cases"]:
        emit(events, item=entry["name"], done=entry)
    for entry in document["skipped"]:
        emit(events, item=entry["name"], skipped=entry["reason"])
    for entry in document["failed"]:
        emit(events, item=entry["name"], failed=entry["reason"])
    if document["failed"]:
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            os._exit(_CONTEXT_LOST)
    return {entry["name"] for key in ("cases", "skipped", "failed") for entry in document[key]}


def _tell(line: str) -> None:
    print(line, flush=True)


def kernels(place: Place, record: Record, deadline: Deadline) -> None:
    """Items: the CUDA ladders of bench/kernels, each with its versions."""
    if not record.left:
        names = sorted(path.name for path in _LADDERS.parent.glob("*.cu"))
        if not names:
            raise PartError(f"there are no CUDA ladders in {_LADDERS.parent}")
        record.plan(names)
    record.one_by_one(lambda name, limit: _ladder(name, place, limit), deadline)


def _ladder(name: str, place: Place, deadline: Deadline) -> dict[str, Any]:
    out = place.folder / "kernels.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, str(_LADDERS), "--device", "cuda", "--only", name, "--out", str(out)]
    command += ["--quick"] if place.quick else []
    said(command, timeout=deadline.left(), env=place.env, cwd=ROOT, allowed=(0, 1))
    if not out.exists():
        raise PartError("the ladder wrote no result")
    document = json.loads(out.read_text(encoding="utf-8"))
    if document["skipped"]:
        raise PartError(document["skipped"][0]["reason"])
    entry: dict[str, Any] = document["ladders"][0]
    for version in entry["versions"]:
        _tell(f"{name} {version['version']}: {version['ms']} ms, {version['what']}")
    return entry

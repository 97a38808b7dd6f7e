"""The tests that need a GPU, and small shapes under compute-sanitizer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from gpu_report.conformance import compare_faces
from gpu_report.processes import ROOT, SCRIPT, Place, said
from gpu_report.record import Deadline, PartError, Record

__all__ = ["counts_of", "sanitizer", "small_shapes_inner", "test_files", "tests"]

SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# Files of tests, and what is in the names of those that need a GPU (-k of pytest).
_TESTS = {"ops/test_*.py": "cuda", "models/test_stylegan2_cuda.py": "on_the_gpu"}
_NOTHING_COLLECTED = 5


def tests(place: Place, record: Record, deadline: Deadline) -> None:
    """Items: files of tests/ops and of the synthesis, each with the counts of its tests on the GPU."""
    have = subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False)
    if have.returncode:
        raise PartError("pytest is not installed; the tests were not run (pip install pytest pytest-timeout)")
    if not record.left:
        record.plan(test_files())
    record.one_by_one(lambda name, limit: _test_file(name, place, limit), deadline)
    counts = list(record.items.values())
    if not record.left and not record.failed and all(found["tests"] == found["skipped"] for found in counts):
        raise PartError(f"no test ran on the GPU: {sum(found['skipped'] for found in counts)} were skipped")


def test_files() -> dict[str, str]:
    """Files below tests/, each with what is in the names of its tests that need a GPU."""
    tests_folder = ROOT / "tests"
    return {
        path.relative_to(tests_folder).as_posix(): keyword
        for pattern, keyword in _TESTS.items()
        for path in sorted(tests_folder.glob(pattern))
    }


def _test_file(name: str, place: Place, deadline: Deadline) -> dict[str, Any]:
    report = place.folder / "tests.xml"
    report.unlink(missing_ok=True)
    call = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"  # -m pytest would import the source tree
    command = [sys.executable, "-c", call, str(ROOT / "tests" / name), "-k", test_files()[name], "-q"]
    command += [f"--junitxml={report}", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "no:cacheprovider"]
    said(
        command, timeout=deadline.left(), env=place.env, cwd=place.folder, allowed=(0, 1, _NOTHING_COLLECTED)
    )
    if not report.exists():
        raise PartError("pytest wrote no report")
    found = counts_of(report)
    print(f"{name}: {found}", flush=True)
    if found["failures"] or found["errors"]:
        raise PartError(f"{found}")
    return found


def counts_of(report: Path) -> dict[str, Any]:
    """Counts of a report of pytest, and the names of tests that failed."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        raise PartError("the report of pytest has no suite")
    counts: dict[str, Any] = {
        key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
    }
    counts["failed"] = [
        f"{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return counts


def sanitizer(place: Place, record: Record, deadline: Deadline) -> None:
    """Items: the tools of compute-sanitizer, each with its summary of the small shapes."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise PartError("compute-sanitizer is not on PATH; memory and races on the GPU were not checked")
    if not record.left:
        record.plan(SANITIZER_TOOLS)
    command = [sys.executable, str(SCRIPT), "--inner", "small_shapes"]

    def check(tool: str, limit: Deadline) -> dict[str, Any]:
        text = said(
            [program, "--tool", tool, "--error-exitcode", "86", *command], timeout=limit.left(), env=place.env
        )
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
        print(f"{tool}: {summary[-1] if summary else 'no summary'}", flush=True)
        return {"summary": summary[-1] if summary else "no summary"}

    record.one_by_one(check, deadline)


def small_shapes_inner(*_: Any) -> None:
    """Every kernel in small, odd and aligned shapes on the GPU, compared with the CPU; small faces too."""
    from gpu_report.small_shapes import run_small_shapes

    counts = run_small_shapes("cuda")
    print(f"results compared: {counts}", flush=True)
    drawn = compare_faces(2, 33)
    if not drawn["ok"]:
        raise PartError(f"faces differ from the emulator's: {drawn}")

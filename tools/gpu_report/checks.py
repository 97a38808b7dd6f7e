"""The op suite on back-end cuda, and small shapes under compute-sanitizer."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_report.conformance import compare_faces
from gpu_report.processes import ROOT, SCRIPT, Place, said
from gpu_report.record import Deadline, PartError, Record

__all__ = ["counts_of", "sanitizer", "small_shapes_inner", "tests"]

SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_NOTHING_COLLECTED = 5


def tests(place: Place, record: Record, deadline: Deadline) -> None:
    """Items: the files of tests/ops, each with the counts of its tests on the GPU."""
    have = subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, check=False)
    if have.returncode:
        raise PartError(
            "pytest is not installed; the op suite was not run (pip install pytest pytest-timeout)"
        )
    if not record.left:
        record.plan(sorted(path.name for path in (ROOT / "tests/ops").glob("test_*.py")))
    record.one_by_one(lambda name, limit: _test_file(name, place, limit), deadline)
    counts = list(record.items.values())
    if not record.left and not record.failed and all(found["tests"] == found["skipped"] for found in counts):
        raise PartError(f"no test ran on the GPU: {sum(found['skipped'] for found in counts)} were skipped")


def _test_file(name: str, place: Place, deadline: Deadline) -> dict[str, Any]:
    report = place.folder / "tests.xml"
    report.unlink(missing_ok=True)
    call = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"  # -m pytest would import the source tree
    command = [sys.executable, "-c", call, str(ROOT / "tests/ops" / name), "-k", "cuda", "-q"]
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
    """Every op once in small, odd and aligned shapes on the GPU, compared with the CPU; small faces too."""
    import torch

    torch.manual_seed(0)
    for dtype, slack in (
        (torch.float32, 1e-5),
        (torch.float16, 4e-3),
        (torch.bfloat16, 3e-2),
        (torch.float64, 1e-11),
    ):
        for shape in ((2, 8, 33, 40), (1, 3, 7, 9)):
            for layout in (torch.contiguous_format, torch.channels_last):
                _one_shape(torch.randn(shape).to(dtype).contiguous(memory_format=layout), slack)
    drawn = compare_faces(2, 33)
    if not drawn["ok"]:
        raise PartError(f"faces differ from the emulator's: {drawn}")


def _calls() -> list[Callable[..., Any]]:
    from pyface import ops

    return [
        lambda x, b, w, s, f, to: ops.bias_act(x, b.to(x.dtype), act="lrelu", clamp=2.0, backend=to),
        lambda x, b, w, s, f, to: ops.bias_act(x, b.to(x.dtype), act="swish", backend=to),
        lambda x, b, w, s, f, to: ops.upfirdn2d(x, f, up=2, padding=[2, 1, 2, 1], gain=4, backend=to),
        lambda x, b, w, s, f, to: ops.upfirdn2d(x, f, down=2, padding=1, backend=to),
        lambda x, b, w, s, f, to: ops.upfirdn2d(x, f, padding=[2, 1, 2, 1], backend=to),
        lambda x, b, w, s, f, to: ops.modulated_conv2d(
            x, w.to(x.dtype), s.to(x.dtype), padding=1, backend=to
        ),
    ]


def _one_shape(x: Any, slack: float) -> None:
    import torch

    from pyface import ops

    n, c = x.shape[:2]
    b, w, s = torch.randn(c), torch.randn(4, c, 3, 3), torch.randn(n, c)
    f = ops.setup_filter([1, 3, 3, 1])
    for index, call in enumerate(_calls()):
        truth = call(x.double(), b.double(), w.double(), s.double(), f, "reference")
        y = call(x.cuda(), b.cuda(), w.cuda(), s.cuda(), f.cuda(), "cuda").cpu().double()
        error = float((y - truth).abs().max() / truth.abs().max())
        if not error <= slack * (4 if index == 5 else 1):
            raise PartError(f"case {index} {x.dtype} {tuple(x.shape)}: error {error:.3g}")

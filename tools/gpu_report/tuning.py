"""The table that says which convolutions take our kernels and which cuDNN, measured on the GPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gpu_report.build import require_kernels
from gpu_report.processes import SCRIPT, Place, said
from gpu_report.record import Deadline, PartError, Record

__all__ = ["TABLE", "tune", "tune_inner"]

TABLE = "choice table"  # the one item
_MEASURED = "choice_table.json"


def tune(place: Place, record: Record, deadline: Deadline) -> None:
    """One item: the table's file beside the report, its rows, and how many are faster by either."""
    if not record.left:
        record.plan([TABLE])
    record.one_by_one(lambda _, limit: _table(place, limit), deadline)


def _table(place: Place, deadline: Deadline) -> dict[str, Any]:
    measured = place.folder / _MEASURED
    measured.unlink(missing_ok=True)
    seconds = deadline.left()
    command = [sys.executable, str(SCRIPT), "--inner", "tune"]
    try:
        said(command, timeout=seconds, env=place.env, cwd=place.folder)
    except PartError as error:
        if deadline.over():
            raise PartError(
                f"the convolutions took more than {seconds:.0f} s, and a table holds all or nothing: "
                "give the part more --minutes"
            ) from error
        raise
    if not measured.exists():
        raise PartError("the measurement wrote no table")
    return _entry(measured, place.folder if place.results is None else place.results)


def _entry(measured: Path, folder: Path) -> dict[str, Any]:
    """Moves a table to its name in `folder`; its item."""
    table = json.loads(measured.read_text(encoding="utf-8"))
    major, minor = table["capability"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sm_{major}{minor}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(measured.read_text(encoding="utf-8"), encoding="utf-8")
    partial.replace(path)
    measured.unlink()
    rows = table["shapes"]
    ours = sum(row["pyface_ms"] <= row["torch_ms"] for row in rows)
    print(f"{path}: {len(rows)} convolutions, {ours} faster by pyface", flush=True)
    return {
        "path": path.name, "capability": table["capability"], "settings": table["settings"], "pyface": ours,
        "torch": len(rows) - ours, "rows": rows,
    }  # fmt: skip


def tune_inner(events: Path | None, wanted: list[str] | None, _: str, place: Place) -> None:
    """The process that measures: writes the table into its working folder, and reads it as pyface will."""
    from pyface.benchmark import convolution_tuning
    from pyface.ops import convolution_choice

    require_kernels()
    path = convolution_tuning.tune(place.folder / _MEASURED, report=_tell)
    capability = json.loads(path.read_text(encoding="utf-8"))["capability"]
    convolution_choice.read_table(path, tuple(capability))


def _tell(line: str) -> None:
    print(line, flush=True)

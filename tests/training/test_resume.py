"""A run that is killed at any moment and resumed equals one that was left alone, to the bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyface.errors import CheckpointError
from pyface.training.checkpoint import load_state, newest_state, resume_files
from pyface.training.statistics import WALL_CLOCK, read_records

SCRIPT = Path(__file__).with_name("resume_run.py")
STEPS = 60


def _start(folder: Path, steps: int = STEPS) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(steps)], stdout=subprocess.PIPE, text=True
    )


def _differences(a: object, b: object, path: str = "") -> list[str]:
    """Where two states differ; tensors are compared bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.view(torch.uint8) if a.ndim else a, b.view(torch.uint8) if b.ndim else b)
        )
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path} has keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [where for key in a for where in _differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [where for i, (x, y) in pairs for where in _differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = _start(tmp_path / "whole")
    rng = random.Random(20261122)
    killed, begins = 0, []
    for attempt in range(40):
        process = _start(tmp_path / "cut")
        begins.append(process.stdout.readline().strip())
        if attempt < 3:
            while not resume_files(tmp_path / "cut") and process.poll() is None:
                time.sleep(0.05)  # the first kill comes after the first file, however slow the machine
            time.sleep(rng.uniform(0.1, 1.0))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        elif process.wait() == 0:
            break
    assert whole.wait() == 0
    assert killed == 3, "the runs ended before they were killed: lengthen them"
    assert len(set(begins)) > 1, begins
    expected, found = (load_state(tmp_path / name / "final.pt") for name in ("whole", "cut"))
    assert _differences(expected["trainer"], found["trainer"]) == []
    assert expected["trainer"]["step_number"] == STEPS
    records = [read_records(tmp_path / name / "stats.jsonl") for name in ("whole", "cut")]
    for record in (r for each in records for r in each):
        for column in WALL_CLOCK:
            del record[column]
    assert records[0] == records[1]
    assert len(records[0]) == STEPS // 3
    assert not list((tmp_path / "cut").glob(".*")), "temporary files of killed runs are removed"


def test_a_damaged_file_is_passed_over(tmp_path):
    assert _start(tmp_path, 4).wait() == 0
    [newest] = resume_files(tmp_path)
    older = tmp_path / "resume-000000.pt"
    assert newest == older
    newest.rename(tmp_path / "resume-000001.pt")
    (tmp_path / "resume-000002.pt").write_bytes((tmp_path / "resume-000001.pt").read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"resume-000002.pt is not a resume file .* passed over"):
        path, state = newest_state(tmp_path)
    assert path.name == "resume-000001.pt"
    assert state["trainer"]["step_number"] == 4
    (tmp_path / "resume-000001.pt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(CheckpointError, match="none of the 2 resume files"),
    ):
        newest_state(tmp_path)
    assert newest_state(tmp_path / "..") is None

"""`torchrun -m pyface train`: one run of two processes from the first picture to the last file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyface.cli import cli
from pyface.cli.train import rounds_of
from pyface.errors import ValueRangeError

SMALL = {
    "data": "procedural:8x4@16",
    "batch": 8,
    "batch-gpu": 2,
    "mbstd-group": 2,
    "cbase": 128,
    "cmax": 16,
    "z-dim": 16,
    "w-dim": 16,
    "map-depth": 2,
    "snap": 0.016,
    "tick": 0.016,
    "threads": 1,
}
OPTIONS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Launched:
    """torchrun with two processes; ended, whatever happens."""

    def __init__(self, out: Path, *options: str) -> None:
        self.out = out
        self.log = out.with_suffix(".log")
        command = [*LAUNCH, "-m", "pyface", "train", "stylegan2", *OPTIONS, "--out", str(out), *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for(self, name: str) -> None:
        """Until the run has written a file."""
        end = time.monotonic() + 120
        while not list(self.out.glob(name)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def worker(self, rank: int) -> int:
        """Process id of a rank."""
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
                return int(child)
        raise AssertionError(f"no rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_two_processes_stop_together_and_one_goes_on(tmp_path):
    out = tmp_path / "run"
    with Launched(out, "--kimg", "1000") as run:
        run.wait_for("resume-*.pt")
        os.kill(run.worker(1), signal.SIGTERM)
        assert run.process.wait(60) == 0, run.log.read_text()
    assert run.log.read_text().count("images of 16x16 from") == 1
    assert "2 processes" in run.log.read_text()
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("started") == 1
    kimg = events[-1]["kimg"] + 0.016
    result = CliRunner().invoke(
        cli, ["train", "stylegan2", "--resume", str(out), "--kimg", f"{kimg:.3f}", "--threads", "1"]
    )
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert events[-1]["kimg"] == pytest.approx(kimg)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_is_named(tmp_path):
    with Launched(tmp_path / "run", "--kimg", "1000", "--rank-limit", "10") as run:
        run.wait_for("resume-*.pt")
        pid = run.worker(1)
        os.kill(pid, signal.SIGKILL)
        assert run.process.wait(60) != 0
    assert f"pid {pid}) has died; last heard at step" in run.log.read_text()


def test_illegal_batches_are_refused_with_legal_ones():
    assert rounds_of(32, 1, None) == 1
    assert rounds_of(32, 2, 4) == 4
    with pytest.raises(ValueRangeError, match=r"of 12 \(3 processes times .* Use --batch 24 or 36"):
        rounds_of(32, 3, 4)
    with pytest.raises(ValueRangeError, match="Use --batch 64"):
        rounds_of(32, 2, 32)

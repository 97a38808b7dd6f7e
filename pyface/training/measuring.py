"""The peak memory of a real training step, taken in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from pyface.errors import BackendError
from pyface.training.allocator import keep_freed_memory
from pyface.training.configuration import from_plain, plain
from pyface.training.plan import recipe_of
from pyface.training.recipes import recipe_named
from pyface.training.rehearsal import blank_set

__all__ = ["MeasuredPeak", "measure_peak"]


@dataclasses.dataclass(frozen=True)
class MeasuredPeak:
    """Bytes resident in a training process.

    imported: after importing torch and pyface, before any network. peak: the most at any time. steps: how
    many were run, each with every phase. seconds: their wall time.
    """

    imported: int
    peak: int
    steps: int
    seconds: float

    @property
    def training(self) -> int:
        """What training took beyond the imports."""
        return self.peak - self.imported


def measure_peak(recipe: Any, *, rounds: int = 1, steps: int = 2, threads: int = 1) -> MeasuredPeak:
    """Train `steps` steps of a recipe on black images in a new process on the CPU, every phase in each of
    them.

    The kernel's high-water mark of the process counts (VmHWM): parent processes and what was freed before do
    not. Raises BackendError where the system has no such figure, or the process fails.
    """
    if not Path("/proc/self/status").exists():
        raise BackendError(
            "the peak memory of a process is read from /proc, which this system does not have."
        )
    task = {
        "recipe": recipe_of(recipe).name,
        "values": plain(recipe),
        "rounds": rounds,
        "steps": steps,
        "threads": threads,
    }
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        env=variables,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BackendError(f"the measured training ended early: {reason}")
    return MeasuredPeak(**json.loads(done.stdout.splitlines()[-1]))


def high_water() -> int:
    """The most bytes that this process had resident so far."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    if found is None:
        raise BackendError("/proc/self/status does not tell VmHWM on this system.")
    return int(found[1]) * 1024


def _run(task: dict[str, Any]) -> MeasuredPeak:
    keep_freed_memory()  # as pyface train does
    torch.set_num_threads(task["threads"])
    recipe = recipe_named(task["recipe"])
    config, build = from_plain(recipe.config, task["values"]), recipe.build
    imported = high_water()
    data = blank_set(config.resolution, config.spectra, config.conditions)
    trainer = build(config, data, rounds=task["rounds"]).trainer
    began = time.perf_counter()
    for _ in range(task["steps"]):
        trainer.step_number = 0
        trainer.images_seen = max(phase.start for phase in trainer.phases)
        trainer.step()
    return MeasuredPeak(imported, high_water(), task["steps"], round(time.perf_counter() - began, 2))


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_run(json.load(sys.stdin)))))

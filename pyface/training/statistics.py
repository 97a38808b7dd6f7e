"""stats.jsonl: one record for every so many images, the same whether a run was interrupted or not."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyface.errors import ValueRangeError
from pyface.io.atomic import write_text
from pyface.training.loop import Callback, Trainer

__all__ = ["FILE", "WALL_CLOCK", "Statistics", "read_records"]

FILE = "stats.jsonl"
# Columns that tell of the machine and not of the run: two equal runs differ in them.
WALL_CLOCK = ("images_per_second", "seconds", "cpu_seconds", "peak_memory_mb")

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file of JSON lines; a line that a killed process left unfinished is passed over."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def peak_memory(device: torch.device) -> float:
    """MB (2**20 bytes) that the process has held at most: of the GPU on CUDA, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Statistics(Callback):
    """Appends a record to stats.jsonl every `interval` images.

    A record holds `kimg`; `loss/NAME`, the mean of each loss term since the record before; the mean of each
    figure of the followers under its own name; what `sources` measure; and the columns of WALL_CLOCK. All but
    the last are functions of the run: the sums belong to its state, and a resumed run first removes what the
    file holds beyond the place where it goes on. The rest since the last full record is written at the end,
    marked `"partial": true`, and goes when the run goes on. Stands before the callback that saves.

    sources: further columns, asked when a record is due. listeners: get every full record.
    """

    def __init__(self, folder: Path, interval: int = 4000) -> None:
        if interval < 1:
            raise ValueRangeError(f"the interval of statistics is 1 image or more; got {interval}.")
        self.path = folder / FILE
        self.interval = interval
        self.sources: list[Callable[[Trainer], dict[str, float]]] = []
        self.listeners: list[Callable[[Trainer, Record], None]] = []
        self._sums: dict[str, list[float]] = {}
        self._due = self._last_images = 0
        self._last = self._origin = self._cpu_origin = 0.0

    def on_start(self, trainer: Trainer) -> None:
        kept = self._forget_after(trainer.images_seen)
        now = time.monotonic()
        before = kept[-1] if kept else {}
        self._origin = now - float(before.get("seconds") or 0.0)
        self._cpu_origin = time.process_time() - float(before.get("cpu_seconds") or 0.0)
        self._last, self._last_images = now, trainer.images_seen
        self._due = (trainer.images_seen // self.interval + 1) * self.interval

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1.0
        if trainer.images_seen >= self._due:
            self._due = (trainer.images_seen // self.interval + 1) * self.interval
            record = self._append(trainer)
            self._sums.clear()
            self._last, self._last_images = time.monotonic(), trainer.images_seen
            for listener in self.listeners:
                listener(trainer, record)

    def on_end(self, trainer: Trainer) -> None:
        if self._sums:
            self._append(trainer, partial=True)

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        with contextlib.suppress(OSError):  # a full disk may be the error that is told
            self.on_end(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last record."""
        return {"sums": {name: list(total) for name, total in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with stored sums."""
        self._sums = {name: [float(v) for v in total] for name, total in state.get("sums", {}).items()}

    def _forget_after(self, images: int) -> list[Record]:
        """Take the records that this run will write (again) out of the file; returns those that stay."""
        if not self.path.exists():
            return []
        if images == 0:  # another run wrote here before: keep its records aside
            self.path.replace(self.path.with_name("stats-previous.jsonl"))
            return []
        records = read_records(self.path)
        kept = [r for r in records if _images_of(r) <= images and not r.get("partial")]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        if text != self.path.read_text(encoding="utf-8", errors="replace"):
            write_text(self.path, text)
        return kept

    def _append(self, trainer: Trainer, partial: bool = False) -> Record:
        record: Record = {"kimg": trainer.images_seen / 1000}
        terms = {term.name for phase in trainer.phases for term in phase.terms}
        for name, (total, count) in self._sums.items():
            record[f"loss/{name}" if name in terms else name] = total / count
        for source in self.sources:
            record.update(source(trainer))
        now = time.monotonic()
        rate = (trainer.images_seen - self._last_images) / max(now - self._last, 1e-9)
        record["images_per_second"] = round(rate, 2)
        record["seconds"] = round(now - self._origin, 1)
        record["cpu_seconds"] = round(time.process_time() - self._cpu_origin, 1)
        record["peak_memory_mb"] = round(peak_memory(trainer.device), 1)
        if partial:
            record["partial"] = True
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
        return finite


def _images_of(record: Record) -> float:
    kimg = record.get("kimg")
    return round(kimg * 1000) if isinstance(kimg, int | float) else math.inf

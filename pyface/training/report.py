"""What a user sees of a run: a progress line, stats.jsonl, and sheets of samples."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.io.images import contact_sheet, to_uint8
from pyface.training.feed import Feed
from pyface.training.loop import Callback, Trainer
from pyface.training.phases import Images, as_spectra

__all__ = ["Deadline", "Progress", "SampleSheets"]


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Progress(Callback):
    """A line with kimg, images/s, time left and losses every `seconds`, and the same as a record in
    stats.jsonl.

    total: images at which the run ends. On a terminal the line is rewritten in place.
    """

    def __init__(self, folder: Path, total: int, seconds: float = 10.0, stream: TextIO | None = None) -> None:
        self.path = folder / "stats.jsonl"
        self.total = total
        self.seconds = seconds
        self.stream = stream or sys.stderr
        self._sums: dict[str, list[float]] = {}
        self._started = self._last = 0.0
        self._last_images = 0

    def on_start(self, trainer: Trainer) -> None:
        self._started = self._last = time.monotonic()
        self._last_images = trainer.images_seen

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1
        if time.monotonic() - self._last >= self.seconds:
            self._write(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if trainer.images_seen > self._last_images:
            self._write(trainer)
        if self.stream.isatty():
            self.stream.write("\n")
        if trainer.interrupted:
            self.stream.write(
                f"stopped by {trainer.interrupted} at {trainer.images_seen / 1000:.1f} kimg; saved\n"
            )

    def _write(self, trainer: Trainer) -> None:
        now = time.monotonic()
        rate = (trainer.images_seen - self._last_images) / max(now - self._last, 1e-9)
        means = {name: total / count for name, (total, count) in self._sums.items()}
        record = {
            "kimg": trainer.images_seen / 1000,
            "images_per_second": round(rate, 2),
            "seconds": round(now - self._started, 1),
            **{f"loss/{name}": value for name, value in means.items()},
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        left = duration((self.total - trainer.images_seen) / max(rate, 1e-9))
        losses = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        done = f"{trainer.images_seen / 1000:8.1f} of {self.total / 1000:g} kimg"
        line = f"{done}  {rate:6.1f} img/s  {left} left  {losses}"
        self.stream.write(f"\r\x1b[K{line}" if self.stream.isatty() else line + "\n")
        self.stream.flush()
        self._sums.clear()
        self._last = now
        self._last_images = trainer.images_seen


class SampleSheets(Callback):
    """Writes `reals.png` and `fakes-init.png` once and `fakes-000123.png` every `interval` images, always
    for the same latents.

    generator: the network that is shown. The labels are those of the shown real images, so both sheets agree.
    """

    def __init__(
        self,
        folder: Path,
        generator: Any,
        feed: Feed,
        interval: int,
        columns: int = 8,
        rows: int = 6,
        seed: int = 0,
    ) -> None:
        self.folder = folder
        self.generator = generator
        self.interval = interval
        self.columns = columns
        rng = torch.Generator().manual_seed(seed)
        count = min(columns * rows, len(feed.data))
        chosen = torch.randperm(len(feed.data), generator=rng)[:count]
        self.labels = feed.data.labels[chosen]
        self.latents = torch.randn(count, self.generator.z_dim, generator=rng)
        self._reals = feed.data.get(chosen.numpy())
        self._next = 0

    def on_start(self, trainer: Trainer) -> None:
        reals = {name: pixels.permute(0, 2, 3, 1).numpy() for name, pixels in self._reals.items()}
        for name, pixels in reals.items():
            contact_sheet(
                list(pixels), columns=self.columns, path=self.folder / self._file("reals", name, len(reals))
            )
        self._next = (trainer.images_seen // self.interval + 1) * self.interval
        if trainer.images_seen == 0:
            self.save(trainer, "fakes-init")

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if trainer.images_seen >= self._next:
            self._next = (trainer.images_seen // self.interval + 1) * self.interval
            self.save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self.save(trainer)

    @staticmethod
    def _file(kind: str, spectrum: str, spectra: int) -> str:
        return f"{kind}.png" if spectra == 1 else f"{kind}-{spectrum}.png"

    @torch.no_grad()
    def save(self, trainer: Trainer, label: str = "") -> None:
        """Write the sheets of generated images now."""
        label = label or f"fakes-{trainer.images_seen // 1000:06d}"
        made: list[dict[str, Tensor]] = []
        for z, c in zip(self.latents.split(16), self.labels.split(16), strict=True):
            images: Images = self.generator(z.to(trainer.device), c.to(trainer.device), noise_mode="const")
            made.append(as_spectra(images))
        for name in made[0]:
            pixels = [tile for images in made for tile in to_uint8(images[name])]
            file = self._file(label, name, len(made[0]))
            contact_sheet(pixels, columns=self.columns, path=self.folder / file)


class Deadline(Callback):
    """Ends a run cleanly, with a last snapshot, after some minutes of wall time."""

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise ValueRangeError(f"minutes must be greater than 0; got {minutes}.")
        self.seconds = minutes * 60
        self._started = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._started = time.monotonic()

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if time.monotonic() - self._started > self.seconds:
            trainer.interrupted = "the time limit"

"""The progress line of a run, and the time limit that ends it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from pyface.errors import ValueRangeError
from pyface.training.loop import Callback, Trainer

__all__ = ["Deadline", "Progress", "duration"]


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Progress(Callback):
    """Shows kimg, images/s, time left, and the mean of each loss and figure (ADA's p) since the last line.

    total: images at which the run ends. seconds: between two lines; by default 2 on a terminal, where one
    line is rewritten in place, and 30 elsewhere, where lines follow each other.
    """

    def __init__(self, total: int, seconds: float | None = None, stream: TextIO | None = None) -> None:
        self.total = total
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.seconds = seconds if seconds is not None else (2.0 if self.terminal else 30.0)
        self._sums: dict[str, list[float]] = {}
        self._last = 0.0
        self._last_images = 0
        self._rate = 0.0
        self._line_is_open = False

    def on_start(self, trainer: Trainer) -> None:
        self._last = time.monotonic()
        self._last_images = trainer.images_seen
        self._rate = 0.0

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += 1.0
        if time.monotonic() - self._last >= self.seconds:
            self._show(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if trainer.images_seen > self._last_images:
            self._show(trainer)
        self._close_line()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        self._close_line()

    def say(self, text: str) -> None:
        """Write a line of text without tearing the progress line."""
        self._close_line()
        self.stream.write(text + "\n")
        self.stream.flush()

    def line(self, trainer: Trainer) -> str:
        """The line as it would be shown now."""
        left = duration((self.total - trainer.images_seen) / max(self._rate, 1e-9)) if self._rate else "?"
        values = "  ".join(f"{name} {total / count:.3g}" for name, (total, count) in self._sums.items())
        done = f"{trainer.images_seen / 1000:8.1f} of {self.total / 1000:g} kimg"
        return f"{done}  {self._rate:6.1f} img/s  {left} left  {values}"

    def _show(self, trainer: Trainer) -> None:
        now = time.monotonic()
        rate = (trainer.images_seen - self._last_images) / max(now - self._last, 1e-9)
        self._rate = 0.7 * self._rate + 0.3 * rate if self._rate else rate
        line = self.line(trainer)
        if self.terminal:
            line = line[: max(shutil.get_terminal_size().columns - 1, 20)]
        self.stream.write(f"\r\x1b[K{line}" if self.terminal else line + "\n")
        self.stream.flush()
        self._line_is_open = self.terminal
        self._sums.clear()
        self._last, self._last_images = now, trainer.images_seen

    def _close_line(self) -> None:
        if self._line_is_open:
            self.stream.write("\n")
            self._line_is_open = False


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

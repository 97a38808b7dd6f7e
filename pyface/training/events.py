"""events.jsonl: what happened to a run and when: starts, ends, warnings and failures."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pyface.training.loop import Callback, Trainer

__all__ = ["FILE", "Events"]

FILE = "events.jsonl"


def _to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")


class Events(Callback):
    """Keeps the history of a run, over all its interruptions, and says each warning aloud.

    say: shows a line to the user; by default on stderr.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = _to_stderr) -> None:
        self.path = folder / FILE
        self.say = say

    def on_start(self, trainer: Trainer) -> None:
        self.note(trainer, "resumed" if trainer.images_seen else "started")

    def on_end(self, trainer: Trainer) -> None:
        if trainer.interrupted:
            self.note(trainer, "interrupted", trainer.interrupted)
            kimg = trainer.images_seen / 1000
            self.say(f"stopped by {trainer.interrupted} at {kimg:.1f} kimg; saved")
        else:
            self.note(trainer, "finished")

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        with contextlib.suppress(OSError):  # a full disk may be the error that is told
            self.note(trainer, "failed", str(error) or type(error).__name__)

    def warn(self, trainer: Trainer, text: str) -> None:
        """Show a warning and keep it."""
        self.note(trainer, "warning", text)
        self.say(f"warning: {text}")

    def note(self, trainer: Trainer, event: str, text: str = "") -> None:
        """Keep a line with the time (UTC) and the place in the run."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "kimg": trainer.images_seen / 1000,
            "step": trainer.step_number,
            "event": event,
            **({"text": text} if text else {}),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

"""report.html: everything about a run on one page that opens without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyface.errors import PyfaceError
from pyface.io.atomic import write_text
from pyface.training.loop import Callback, Trainer
from pyface.training.report.folder import read_run
from pyface.training.report.page import page

__all__ = ["FILE", "ReportPage", "write_report"]

FILE = "report.html"


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Make the report of the run in `folder`; returns its path, `folder`/report.html unless `out` is given.

    Raises DataError when the folder holds no run or the file cannot be written.
    """
    target = out or folder / FILE
    write_text(target, page(read_run(folder)))
    return target


class ReportPage(Callback):
    """Writes report.html when a run ends, is interrupted or fails. Stands last, after what it shows.

    A report that cannot be made does not fail the run. say: shows a line to the user.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say

    def on_end(self, trainer: Trainer) -> None:
        try:
            self.say(f"report: {write_report(self.folder)}")
        except (PyfaceError, OSError) as error:
            self.say(f"warning: no report was made: {error}")

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        self.on_end(trainer)

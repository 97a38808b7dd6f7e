"""Statistics and sheets for TensorBoard, beside the files that every run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyface.errors import MissingExtraError
from pyface.training.loop import Callback, Trainer

__all__ = ["TensorBoard"]


def _summary_writer() -> Any:
    """The writer class of torch, which needs the package tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            f"--tensorboard needs the package tensorboard, which cannot be imported here ({error}). "
            "Install it: pip install 'pyface-synth[train]'. Without the option stats.jsonl, the sheets and "
            "report.html hold the same."
        ) from error
    return SummaryWriter


class TensorBoard(Callback):
    """Writes scalars and sheets to `folder`/tensorboard; its step is the number of images seen.

    Give `record` to `Statistics.listeners` and `sheet` to `SampleSheets.listeners`; stands after both, to
    close the file when they are done. What an interrupted run had written beyond the place where it goes on
    is marked as replaced.
    Raises MissingExtraError when tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self._class = _summary_writer()
        self._writer: Any = None

    def on_start(self, trainer: Trainer) -> None:
        self._opened(trainer)

    def _opened(self, trainer: Trainer) -> Any:
        if self._writer is None:
            replaced = trainer.images_seen + 1 if trainer.images_seen else None
            self._writer = self._class(str(self.folder), purge_step=replaced)
        return self._writer

    def record(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """Show a record of stats.jsonl."""
        for name, value in record.items():
            if name != "kimg" and isinstance(value, int | float) and not isinstance(value, bool):
                self._opened(trainer).add_scalar(name, value, trainer.images_seen)

    def sheet(self, trainer: Trainer, name: str, pixels: np.ndarray) -> None:
        """Show a sheet, uint8 [H, W, 3]."""
        self._opened(trainer).add_image(name, pixels, trainer.images_seen, dataformats="HWC")

    def on_end(self, trainer: Trainer) -> None:
        self._close()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

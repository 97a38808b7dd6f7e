"""Sheets of samples: real images, and what the generator makes of the same latents as the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.io.images import contact_sheet, to_uint8
from pyface.training.feed import Feed
from pyface.training.loop import Callback, Trainer
from pyface.training.phases import Images, as_spectra

__all__ = ["Listener", "SampleSheets", "caption"]

# Gets the trainer, the sheet's name ("fakes", "raw", "reals-nir", ...) and its pixels, uint8 [H, W, 3].
Listener = Callable[[Trainer, str, np.ndarray], None]

CAPTION_WIDTH = 128  # pixels that a caption needs to be read
LARGEST_SIDE = 4096


def caption(label: Sequence[float], names: Sequence[str]) -> str:
    """What a label row says, short: the names of its high entries, or its numbers when there are few.

    >>> caption([1.0, 0.0, 0.7], ["smile", "glasses", "male"])
    'smile, male .7'
    """
    if not label:
        return ""
    if len(names) == len(label) and all(0 <= value <= 1 for value in label):
        high = [(n, v) for n, v in zip(names, label, strict=True) if v >= 0.5]
        return ", ".join(n if v > 0.95 else f"{n} {v:.1f}".replace(" 0.", " .") for n, v in high) or "-"
    if len(label) > 8:
        return f"vector of {len(label)}"
    return " ".join(f"{value:.2g}" for value in label)


class SampleSheets(Callback):
    """Writes `reals.png` once, and `fakes-000123.png` every `interval` images for latents that never change.

    generator: the network that is shown, usually the running average. raw: the network without average;
    `raw-000123.png` shows it. With several spectra each has a sheet (`fakes-000123-nir.png`). The labels are
    those of the shown real images, so that the sheets agree tile by tile, and stand under the tiles. The
    seed chooses images and latents. `fakes-init.png` is made before the first step.

    listeners: get every sheet as it is made.
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
        raw: Any = None,
    ) -> None:
        if interval < 1 or columns < 1 or rows < 1:
            raise ValueRangeError(
                f"interval, columns and rows of a sheet are 1 or more; got {interval}, {columns}, {rows}."
            )
        self.folder = folder
        self.shown = {"fakes": generator, **({"raw": raw} if raw is not None else {})}
        self.interval = interval
        self.listeners: list[Listener] = []
        height, width = feed.data.size
        self.columns = max(min(columns, LARGEST_SIDE // width), 1)
        rows = max(min(rows, LARGEST_SIDE // height), 1)
        rng = torch.Generator().manual_seed(seed)
        count = min(self.columns * rows, len(feed.data))
        chosen = torch.randperm(len(feed.data), generator=rng)[:count]
        self.labels = feed.data.labels[chosen]
        self.latents = torch.randn(count, generator.z_dim, generator=rng)
        self.captions = [caption(row, feed.data.label_names) for row in self.labels.tolist()]
        self._reals = feed.data.get(chosen.numpy())
        self._next = 0
        self._saved_at = -1

    def on_start(self, trainer: Trainer) -> None:
        self._write(trainer, "reals", "", {k: v.permute(0, 2, 3, 1).numpy() for k, v in self._reals.items()})
        self._next = (trainer.images_seen // self.interval + 1) * self.interval
        if trainer.images_seen == 0:
            self.save(trainer, "init", kinds=("fakes",))

    def on_step(self, trainer: Trainer, losses: dict[str, float]) -> None:
        if trainer.images_seen >= self._next:
            self._next = (trainer.images_seen // self.interval + 1) * self.interval
            self.save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if self._saved_at != trainer.images_seen:
            self.save(trainer)

    @torch.no_grad()
    def save(self, trainer: Trainer, label: str = "", kinds: Sequence[str] = ("fakes", "raw")) -> None:
        """Write the sheets of generated images now."""
        if not label:
            self._saved_at = trainer.images_seen
        for kind, network in self.shown.items():
            if kind not in kinds:
                continue
            made: list[dict[str, Tensor]] = []
            for z, c in zip(self.latents.split(16), self.labels.split(16), strict=True):
                images: Images = network(z.to(trainer.device), c.to(trainer.device), noise_mode="const")
                made.append(as_spectra(images))
            pixels = {name: np.concatenate([to_uint8(part[name]) for part in made]) for name in made[0]}
            self._write(trainer, kind, label or f"{trainer.images_seen // 1000:06d}", pixels)

    def _write(self, trainer: Trainer, kind: str, label: str, pixels: dict[str, np.ndarray]) -> None:
        for spectrum, tiles in pixels.items():
            own = f"-{spectrum}" if len(pixels) > 1 else ""
            captions = self.captions if any(self.captions) else None
            if captions and tiles.shape[2] < CAPTION_WIDTH:
                factor = -(-CAPTION_WIDTH // tiles.shape[2])
                tiles = tiles.repeat(factor, 1).repeat(factor, 2)
            file = f"{kind}{f'-{label}' if label else ''}{own}.png"
            sheet = contact_sheet(
                list(tiles), columns=self.columns, captions=captions, path=self.folder / file
            )
            for listener in self.listeners:
                listener(trainer, kind + own, sheet)

"""Training images in memory or on disk, and the endless, resumable stream of batches made of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.data.labels import schema_of
from pyface.errors import DataError, ShapeError, ValueRangeError
from pyface.training.draws import Draws, Rows
from pyface.training.phases import Images
from pyface.training.read_ahead import ReadAhead

__all__ = ["Feed", "TrainingSet", "box_shrink", "default_workers", "memory_for_images", "to_float"]

BATCHES_AHEAD = 3


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def box_shrink(images: np.ndarray, height: int, width: int, name: str = "image") -> np.ndarray:
    """uint8 images [..., H, W, C] at [..., height, width, C]: the mean of each block of pixels.

    Raises DataError unless the images are larger by the same whole number along both axes.
    """
    *outer, had_height, had_width, channels = images.shape
    factor, rest = divmod(had_height, height)
    if rest or factor < 1 or had_width != width * factor:
        raise DataError(
            f"{name} is {had_height}x{had_width} and cannot be shrunk to {height}x{width} by a whole factor. "
            "Choose a --resolution that divides the image size, or resize the images first."
        )
    if factor == 1:
        return images
    blocks = images.reshape(*outer, height, factor, width, factor, channels).astype(np.float32)
    return np.floor(blocks.mean(axis=(-4, -2)) + 0.5).astype(np.uint8)


@dataclass
class TrainingSet:
    """Images and labels to train on.

    images: {spectrum: uint8 [N, C, H, W]}, or fetch(indices) that returns such a dictionary for large sets.
    labels: float32 [N, c_dim] (c_dim may be 0). label_names: what the columns mean. label_kind: "none",
    "class" (one-hot), "multi-hot" or "vector", as in `pyface.data.labels`. source: where they come from.
    storage: "memory", the path of the file that the images are mapped from, or "streamed". workers: threads
    that read ahead where the images are not in memory; 0 for none.
    """

    labels: Tensor
    label_names: tuple[str, ...]
    source: str
    channels: dict[str, int]
    size: tuple[int, int]
    images: dict[str, Tensor] | None = None
    fetch: Callable[[np.ndarray], dict[str, Tensor]] | None = None
    label_kind: str = "vector"
    storage: str = "memory"
    workers: int = 0

    def __len__(self) -> int:
        return self.labels.shape[0]

    @classmethod
    def from_arrays(
        cls,
        images: dict[str, Tensor] | Tensor,
        labels: Tensor | None = None,
        label_names: Sequence[str] = (),
        source: str = "arrays",
    ) -> TrainingSet:
        """A set from uint8 tensors [N, C, H, W] and float labels [N, c_dim]."""
        found = images if isinstance(images, dict) else {"vis": images}
        sizes = {(t.shape[0], *t.shape[2:]) for t in found.values()}
        if len(sizes) != 1 or any(t.dtype != torch.uint8 or t.ndim != 4 for t in found.values()):
            raise ShapeError(
                "training images must be uint8 [N, C, H, W] of one size; got "
                + ", ".join(f"{name} {t.dtype} {list(t.shape)}" for name, t in found.items())
            )
        count, height, width = next(iter(sizes))
        if labels is None:
            labels = torch.zeros([count, 0])
        if labels.shape[0] != count:
            raise ShapeError(
                f"labels must be [{count}, c_dim], one row for each image; got {list(labels.shape)}."
            )
        names = tuple(label_names) or tuple(f"label{i}" for i in range(labels.shape[1]))
        if len(names) != labels.shape[1]:
            raise ShapeError(f"label_names must be {labels.shape[1]}, one for each label; got {list(names)}.")
        return cls(
            labels.float(),
            names,
            source,
            {k: t.shape[1] for k, t in found.items()},
            (height, width),
            images=found,
            label_kind=schema_of(labels.float().numpy(), names).kind,
        )

    def get(self, indices: np.ndarray) -> dict[str, Tensor]:
        """uint8 images {spectrum: [n, C, H, W]} at these positions."""
        if self.images is not None:
            where = torch.from_numpy(indices)
            return {name: t[where] for name, t in self.images.items()}
        if self.fetch is None:
            raise ValueRangeError("a TrainingSet needs images or fetch; got neither.")
        return self.fetch(indices)


class Feed:
    """Batches without end. The position alone decides what comes next: epoch e is a permutation keyed by
    (seed, e).

    mirror: every image appears half of the time left-right flipped, also decided by (seed, e).
    Where the images are not in memory, `data.workers` threads read those of the next batches while a step
    runs. The stream is the same with any number of them.
    """

    def __init__(self, data: TrainingSet, batch: int, *, seed: int = 0, mirror: bool = False) -> None:
        if batch < 1:
            raise ValueRangeError(f"batch must be 1 or more; got {batch}.")
        if len(data) < 1:
            raise DataError(f"{data.source} holds no images. Name a folder with .png, .jpg or .webp files.")
        self.data = data
        self.batch = batch
        self.seed = seed
        self.mirror = mirror
        self.position = 0
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._ahead = ReadAhead(data.get, data.workers) if data.workers and data.storage != "memory" else None

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the images in an epoch, and which of them are flipped."""
        if epoch not in self._epochs:
            rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, epoch]))
            order = rng.permutation(len(self.data))
            flips = rng.random(len(self.data)) < 0.5
            while len(self._epochs) > 1:  # reading ahead goes over the end of an epoch and comes back
                del self._epochs[max(self._epochs, key=lambda known: abs(known - epoch))]
            self._epochs[epoch] = order, flips
        return self._epochs[epoch]

    def _chosen(self, position: int, share: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Images of the rows of a share when the stream stands at `position`, and which are flipped."""
        epochs, offsets = np.divmod(position + share.index.numpy(), len(self.data))
        indices, flips = np.empty(len(offsets), np.int64), np.empty(len(offsets), bool)
        for epoch in np.unique(epochs):
            there = epochs == epoch
            order, flipped = self._epoch(int(epoch))
            indices[there], flips[there] = order[offsets[there]], flipped[offsets[there]]
        return indices, flips & self.mirror

    def next(
        self, shares: Sequence[Rows] = (), device: torch.device | str = "cpu"
    ) -> list[tuple[Images, Tensor]]:
        """The images and labels of each share of the next global batch, and go on to the one after it.

        shares: rows of the global batch; all rows in one share when empty. Images are float32 in [-1, 1], a
        dictionary when there are several spectra; labels [n, c_dim].
        """
        shares = shares or [Rows(torch.arange(self.batch), self.batch)]
        chosen = [self._chosen(self.position, share) for share in shares]
        if self._ahead is not None:
            coming = range(
                self.position + self.batch, self.position + (BATCHES_AHEAD + 1) * self.batch, self.batch
            )
            later = [self._chosen(position, share)[0] for position in coming for share in shares]
            pixels = self._ahead.read([indices for indices, _ in chosen], later)
        else:
            pixels = [self.data.get(indices) for indices, _ in chosen]
        self.position += self.batch
        return [self._finished(*row, found, device) for row, found in zip(chosen, pixels, strict=True)]

    def _finished(
        self, indices: np.ndarray, flipped: np.ndarray, found: dict[str, Tensor], device: torch.device | str
    ) -> tuple[Images, Tensor]:
        flips = torch.from_numpy(flipped)[:, None, None, None]
        images = {}
        for name, pixels in found.items():
            mirrored = torch.where(flips, pixels.flip(3), pixels) if self.mirror else pixels
            images[name] = to_float(mirrored.to(device, non_blocking=True))
        labels = self.data.labels[torch.from_numpy(indices)].to(device)
        return (next(iter(images.values())) if len(images) == 1 else images), labels

    def draw_labels(self, draws: Draws) -> Tensor:
        """Labels [n, c_dim] of training images drawn with replacement, for each row of `draws`."""
        rows = draws.integers(len(self.data))
        return self.data.labels.to(rows.device)[rows]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"position": self.position, "seed": self.seed, "length": len(self.data)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a stored position. Raises DataError when the dataset has another length now."""
        if state["length"] != len(self.data):
            raise DataError(
                f"the run was started on {state['length']} images; {self.data.source} holds "
                f"{len(self.data)}. Resume with the same data."
            )
        self.position = int(state["position"])
        self.seed = int(state["seed"])
        self._epochs.clear()


def memory_for_images() -> int:
    """Bytes that a cache of training images may take: half of what the machine has free.

    What the system uses for files and gives back is free. A limit of the container counts. Where torchrun
    started several processes on the machine, this one's share.
    """
    return min(_free_memory(), _free_in_container()) // 2 // _processes()


def _free_memory() -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**32


def _free_in_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What the memory limit of this control group (version 2, else 1) leaves; very much without a limit."""
    names = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for limit, used in names:
        with contextlib.suppress(OSError, ValueError):  # without a limit it says "max"
            return max(int((group / limit).read_text()) - int((group / used).read_text()), 0)
    return 2**62


def default_workers() -> int:
    """Threads that read images: half of this process's share of the cores, 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // _processes() // 2, 1), 8)


def _processes() -> int:
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(int(text), 1) if text.isascii() and text.isdigit() else 1

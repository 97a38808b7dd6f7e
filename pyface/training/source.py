"""The training set behind --data: a folder, a zip, or faces that are rendered on the spot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyface.data import FaceDataset, ImageFolder, ProceduralFaces
from pyface.errors import DataError, ValueRangeError
from pyface.training.feed import TrainingSet, box_shrink, memory_for_images

__all__ = ["from_dataset", "open_training_set", "parse_procedural"]

CHUNK = 64


def parse_procedural(text: str) -> tuple[int, int, int]:
    """(identities, samples of each, image size) of "procedural:500x20@64"."""
    match = re.fullmatch(r"procedural:(\d+)x(\d+)@(\d+)", text)
    if not match or min(int(g) for g in match.groups()) < 1:
        raise ValueRangeError(
            "rendered data are named procedural:IDENTITIESxSAMPLES@SIZE, such as procedural:500x20@64; "
            f"got {text!r}."
        )
    return int(match[1]), int(match[2]), int(match[3])


def open_training_set(
    source: str,
    *,
    resolution: tuple[int, int] | None = None,
    conditions: Sequence[str] | None = None,
    spectra: Sequence[str] = ("vis",),
    seed: int = 0,
    progress: Any = None,
) -> TrainingSet:
    """Images and labels of a folder, a zip, or "procedural:IDENTITIESxSAMPLES@SIZE".

    resolution: (height, width) to shrink to by a whole factor; the images' own when absent. conditions:
    names of the labels to train with; empty for none; None takes every label that the data has (rendered:
    the six of CONDITIONS). seed: of rendered faces. progress: wraps the iterable of chunks, like tqdm.
    The images are kept in memory as uint8 when they fit into half of what is free, else read for every batch.
    Raises DataError for images of other sizes, ValueRangeError for a condition that the data does not have.
    """
    dataset: FaceDataset
    if source.startswith("procedural:"):
        identities, samples, size = parse_procedural(source)
        dataset = ProceduralFaces(identities, samples, size=size, spectra=tuple(spectra), seed=seed)
    else:
        if not Path(source).exists():
            raise DataError(
                f"{source} does not exist. Give a folder or zip of images, or procedural:500x20@64."
            )
        dataset = ImageFolder(source)
    return from_dataset(dataset, source, resolution, conditions, spectra, progress)


def from_dataset(
    dataset: FaceDataset,
    source: str,
    resolution: tuple[int, int] | None = None,
    conditions: Sequence[str] | None = None,
    spectra: Sequence[str] = ("vis",),
    progress: Any = None,
) -> TrainingSet:
    """The training set made of any FaceDataset; arguments and errors are those of `open_training_set`."""
    names = tuple(dataset.label_names if conditions is None else conditions)
    labels = torch.from_numpy(np.asarray(dataset.labels(names), np.float32))
    reader = _Reader(dataset, tuple(spectra), resolution, source)
    first = reader(np.array([0]))
    channels = {name: t.shape[1] for name, t in first.items()}
    height, width = next(iter(first.values())).shape[2:]
    data = TrainingSet(labels, names, source, channels, (int(height), int(width)), fetch=reader)
    if len(dataset) * sum(t.nbytes for t in first.values()) <= memory_for_images():
        data.images = _cache(reader, len(dataset), first, progress)
    return data


class _Reader:
    """Reads images by position: {spectrum: uint8 [n, C, H, W]} at the training size."""

    def __init__(
        self, dataset: FaceDataset, spectra: tuple[str, ...], resolution: tuple[int, int] | None, source: str
    ) -> None:
        self.dataset = dataset
        self.spectra = spectra
        self.resolution = resolution
        self.source = source

    def __call__(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name in self.spectra:
            pixels = self.dataset.images(indices.tolist(), name)
            height, width = self.resolution or pixels.shape[1:3]
            small = box_shrink(pixels, height, width, f"an image of {self.source}")
            found[name] = torch.from_numpy(np.ascontiguousarray(small.transpose(0, 3, 1, 2)))
        return found


def _cache(
    reader: _Reader, count: int, first: dict[str, torch.Tensor], progress: Any
) -> dict[str, torch.Tensor]:
    images = {name: torch.empty(count, *t.shape[1:], dtype=torch.uint8) for name, t in first.items()}
    starts: Any = range(0, count, CHUNK)
    for start in progress(starts) if progress else starts:
        stop = min(start + CHUNK, count)
        for name, pixels in reader(np.arange(start, stop)).items():
            images[name][start:stop] = pixels
    return images

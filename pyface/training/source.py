"""The training set behind --data: a folder, a zip, or faces that are rendered on the spot."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyface.data import FaceDataset, ProceduralFaces
from pyface.data.labels import schema_of
from pyface.data.layouts import LAYOUTS, open_named, parse_named
from pyface.errors import DataError, PyfaceError, ValueRangeError
from pyface.training.feed import TrainingSet, box_shrink, default_workers, memory_for_images
from pyface.training.image_cache import ImageStore, cache_folder, fill, mapped_images

__all__ = ["from_dataset", "open_source", "open_training_set", "parse_procedural"]


def parse_procedural(text: str) -> tuple[int, int, int]:
    """(identities, samples of each, image size) of "procedural:500x20@64"."""
    match = re.fullmatch(r"procedural:(\d+)x(\d+)@(\d+)", text)
    if not match or min(int(g) for g in match.groups()) < 1:
        raise ValueRangeError(
            "rendered data are named procedural:IDENTITIESxSAMPLES@SIZE, such as procedural:500x20@64; "
            f"got {text!r}."
        )
    return int(match[1]), int(match[2]), int(match[3])


def open_source(source: str, spectra: Sequence[str] = ("vis",), seed: int = 0) -> FaceDataset:
    """The dataset that `--data` names.

    Args:
        source: "procedural:IDENTITIESxSAMPLES@SIZE"; a folder or zip, whose layout is recognised; or
            LAYOUT:PATH or LAYOUT:NAME=VALUE,...:PATH, as "celeba:crop=ffhq,size=64:/data/celeba".
        spectra: of rendered faces.
        seed: of rendered faces.

    Raises:
        DataError, ValueRangeError: there is none, or its files are wrong.
    """
    if source.startswith("procedural:"):
        identities, samples, size = parse_procedural(source)
        return ProceduralFaces(identities, samples, size=size, spectra=tuple(spectra), seed=seed)
    path = parse_named(source)[2]
    if not Path(path).exists():
        layouts = ", ".join(f"{layout}:PATH" for layout in LAYOUTS)
        raise DataError(
            f"{path} does not exist. Give a folder or zip of images, {layouts}, or procedural:500x20@64."
        )
    return open_named(source)


def open_training_set(
    source: str,
    *,
    resolution: tuple[int, int] | None = None,
    conditions: Sequence[str] | None = None,
    spectra: Sequence[str] = ("vis",),
    seed: int = 0,
    progress: Any = None,
    cache: str | os.PathLike[str] | None = None,
    streamed: bool = False,
    workers: int | None = None,
) -> TrainingSet:
    """Images and labels of what `open_source` opens: a folder, a zip, a published dataset, rendered faces.

    resolution: (height, width) to shrink to by a whole factor; the images' own when absent. conditions:
    names of the labels to train with; empty for none; None takes every label that the data has (rendered:
    the six of CONDITIONS). seed: of rendered faces. progress: wraps an iterable, like tqdm.

    The decoded images are kept in memory when they fit into half of what is free. Else, or when `cache` names
    a folder, they are written once to a file there (by default in `cache_folder()`) and mapped from it.
    Without room for that file, or with `streamed`, they are read or rendered for every batch.
    workers: threads that read, and that read ahead while a step runs; by default `default_workers()`.
    Raises DataError for images of other sizes, ValueRangeError for a condition that the data does not have.
    """
    return from_dataset(
        open_source(source, spectra, seed),
        source,
        resolution,
        conditions,
        spectra,
        progress,
        cache=cache,
        streamed=streamed,
        workers=workers,
    )


def from_dataset(
    dataset: FaceDataset,
    source: str,
    resolution: tuple[int, int] | None = None,
    conditions: Sequence[str] | None = None,
    spectra: Sequence[str] = ("vis",),
    progress: Any = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    streamed: bool = False,
    workers: int | None = None,
) -> TrainingSet:
    """The training set made of any FaceDataset; arguments and errors are those of `open_training_set`."""
    workers = default_workers() if workers is None else workers
    if workers < 0:
        raise ValueRangeError(f"workers must be 0 or more; got {workers}.")
    if cache is not None and streamed:
        raise ValueRangeError("images are either kept in a file (cache) or streamed; got both.")
    names = tuple(dataset.label_names if conditions is None else conditions)
    table = np.asarray(dataset.labels(names), np.float32)
    whole = bool(names) and names == tuple(dataset.label_names)
    schema = dataset.label_schema if whole else schema_of(table, names)
    reader = _Reader(dataset, tuple(spectra), resolution, source)
    first = reader(np.array([0]))
    channels = {name: t.shape[1] for name, t in first.items()}
    height, width = next(iter(first.values())).shape[2:]
    data = TrainingSet(
        torch.from_numpy(table),
        names,
        source,
        channels,
        (int(height), int(width)),
        fetch=reader,
        label_kind=schema.kind,
        workers=workers,
        storage="streamed",
    )
    if not streamed:
        _store(data, reader, {name: tuple(t.shape[1:]) for name, t in first.items()}, cache, progress)
    return data


def _store(
    data: TrainingSet,
    reader: _Reader,
    shapes: dict[str, Any],
    cache: str | os.PathLike[str] | None,
    progress: Any,
) -> None:
    """Keep the images of a set in memory or in a file, unless there is no room for them."""
    size = len(data) * sum(int(np.prod(shape)) for shape in shapes.values())
    if cache is None and size <= memory_for_images():
        images = {name: torch.empty(len(data), *shape, dtype=torch.uint8) for name, shape in shapes.items()}

        def write(start: int, chunk: dict[str, torch.Tensor]) -> None:
            for name, pixels in chunk.items():
                images[name][start : start + len(pixels)] = pixels

        fill(len(data), reader, write, workers=data.workers, progress=progress)
        data.images, data.storage = images, "memory"
        return
    content = reader.dataset.fingerprint()
    folder = cache_folder() if cache is None else Path(cache)
    if not content or (cache is None and not _has_room(folder, size)):
        return
    rendered = data.source.startswith("procedural:")
    source = data.source if rendered else str(Path(parse_named(data.source)[2]).resolve())
    seed = f" seed {getattr(reader.dataset, 'seed', 0)}" if rendered else ""
    settings = f"{data.size[0]}x{data.size[1]} {' '.join(shapes)}{seed}"
    store = ImageStore(source, settings, content, len(data), shapes)
    data.images = mapped_images(folder, store, reader, workers=data.workers, progress=progress)
    data.storage = str(folder / store.name)


def _has_room(folder: Path, size: int) -> bool:
    """Whether a file of images may be made without being asked for: it leaves a tenth of the disk free."""
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    disk = shutil.disk_usage(there)
    return size + disk.total // 10 <= disk.free


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
        try:
            return self._read(indices)
        except PyfaceError:
            raise
        except Exception as error:  # say which image it was, whatever the decoder raised
            for index in indices:
                try:
                    self._read(np.array([index]))
                except Exception as cause:
                    name = self.dataset.name_of(int(index))
                    raise DataError(f"{name} of {self.source} cannot be read: {cause}") from cause
            raise DataError(f"images of {self.source} cannot be read: {error}") from error

    def _read(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name in self.spectra:
            pixels = self.dataset.images(indices.tolist(), name)
            height, width = self.resolution or pixels.shape[1:3]
            small = box_shrink(pixels, height, width, f"an image of {self.source}")
            found[name] = torch.from_numpy(np.ascontiguousarray(small.transpose(0, 3, 1, 2)))
        return found

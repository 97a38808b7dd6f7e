"""Decoded training images in one memory-mapped file, shared by all processes that train on them.

The file begins with a header of HEADER bytes: a JSON object that names the source, a digest of its content,
and where the uint8 images [N, C, H, W] of each spectrum lie. It is made whole or not at all, by one process
while others wait, and is made again when the content has changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyface.data.ordered import in_order
from pyface.errors import DataError
from pyface.io.atomic import atomic_write, make_folder, remove_leftovers

__all__ = ["CHUNK", "ImageStore", "cache_folder", "fill", "mapped_images"]

HEADER = 4096
CHUNK = 64  # images that are read at once

Shape = tuple[int, int, int]
Read = Callable[[np.ndarray], dict[str, Tensor]]


@dataclass(frozen=True)
class ImageStore:
    """What a file of images is made of.

    source: where the images come from. settings: how they are read (resolution...): with `source` it decides
    the name of the file. content: what changes when an image does; then the file is made again. count: of the
    images. shapes: their (C, H, W) by spectrum.
    """

    source: str
    settings: str
    content: str
    count: int
    shapes: dict[str, Shape]

    @property
    def name(self) -> str:
        """File name: readable, and different for every source and way of reading it."""
        key = hashlib.blake2b(f"{self.source}\0{self.settings}".encode(), digest_size=8).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.source).stem or self.source).strip("-")[:40]
        return f"{stem or 'images'}-{key}.images"

    @property
    def offsets(self) -> dict[str, int]:
        """Where the images of each spectrum begin, in bytes; multiples of 4096."""
        found, position = {}, HEADER
        for spectrum, shape in self.shapes.items():
            found[spectrum] = position
            position += -(-self.count * int(np.prod(shape)) // 4096) * 4096
        return found

    @property
    def length(self) -> int:
        """Of the file, in bytes."""
        last = list(self.shapes)[-1]
        return self.offsets[last] + -(-self.count * int(np.prod(self.shapes[last])) // 4096) * 4096

    def header(self) -> bytes:
        """The first HEADER bytes of the file."""
        told = {
            "format": "pyface-images",
            "version": 1,
            "source": self.source[-2000:],
            "settings": self.settings,
            "content": hashlib.blake2b(self.content.encode(), digest_size=16).hexdigest(),
            "count": self.count,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "offsets": self.offsets,
        }
        return json.dumps(told).encode().ljust(HEADER - 1) + b"\n"


def cache_folder() -> Path:
    """Where files of images go when nobody names a folder: PYFACE_CACHE, else ~/.cache/pyface."""
    named = os.environ.get("PYFACE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyface"


def mapped_images(
    folder: str | os.PathLike[str], store: ImageStore, read: Read, *, workers: int = 1, progress: Any = None
) -> dict[str, Tensor]:
    """The images of `store`, mapped from its file in `folder`, which is made first when it is not there.

    Processes that need the same file wait for the one that makes it. What is mapped stays as it was even when
    the file is replaced later.

    Args:
        folder: made when it is not there.
        store: what the file holds.
        read: uint8 images {spectrum: [n, C, H, W]} at given positions; called from threads.
        workers: threads that read.
        progress: wraps the iterable of positions, like tqdm.

    Raises:
        DataError: the folder cannot be written, the disk is too small, or an image cannot be read.
    """
    path = Path(folder) / store.name
    images = _opened(path, store)
    if images is not None:
        return images
    with _alone(make_folder(folder)) as certain:
        images = _opened(path, store)
        if images is None:
            if certain:
                remove_leftovers(folder)
            _build(path, store, read, workers, progress)
            images = _opened(path, store)
    if images is None:
        raise DataError(
            f"{path} was made and cannot be read back; is the disk failing? Choose another folder."
        )
    return images


def _opened(path: Path, store: ImageStore) -> dict[str, Tensor] | None:
    """The images of a file that holds just these; None when it is not there or holds something else."""
    try:
        with path.open("rb") as file:
            if file.read(HEADER) != store.header() or os.fstat(file.fileno()).st_size != store.length:
                return None
            # "c": a private copy of what is written to, which nothing is; torch takes no read-only map
            return {
                name: torch.from_numpy(
                    np.memmap(file, np.uint8, "c", store.offsets[name], (store.count, *shape))
                )
                for name, shape in store.shapes.items()
            }
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait until no other process is in this block for the same folder; False where there are no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: the file is still put there in one step
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _build(path: Path, store: ImageStore, read: Read, workers: int, progress: Any) -> None:
    with atomic_write(path) as temporary:
        handle = os.open(temporary, os.O_RDWR)
        try:
            _reserve(handle, store.length, path)

            def write(start: int, images: dict[str, Tensor]) -> None:
                for name, pixels in images.items():
                    _write_at(handle, pixels, store.offsets[name] + start * int(np.prod(store.shapes[name])))

            fill(store.count, read, write, workers=workers, progress=progress)
            os.pwrite(handle, store.header(), 0)
        finally:
            os.close(handle)


def _reserve(handle: int, size: int, path: Path) -> None:
    """Take the space now, so that a full disk is known before the work."""
    os.ftruncate(handle, size)
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(
                f"cannot write {path}: {size / 2**30:.1f} GiB of images do not fit on the disk. Name another "
                "folder with --cache, or a smaller --resolution."
            ) from error


def _write_at(handle: int, pixels: Tensor, position: int) -> None:
    rest = memoryview(pixels.contiguous().numpy().tobytes())
    while rest:
        written = os.pwrite(handle, rest, position)
        rest, position = rest[written:], position + written


def fill(
    count: int,
    read: Read,
    write: Callable[[int, dict[str, Tensor]], None],
    *,
    workers: int = 1,
    progress: Any = None,
) -> None:
    """write(start, images) for all images, read by threads in chunks of CHUNK."""
    starts = range(0, count, CHUNK)

    def chunk(start: int) -> None:
        write(start, read(np.arange(start, min(start + CHUNK, count))))

    done: Any = _Steps(in_order(chunk, starts, max(workers, 1)), len(starts))
    for _ in progress(done) if progress else done:
        pass


class _Steps:
    """An iterator whose length is known, as progress bars like it."""

    def __init__(self, steps: Iterator[Any], count: int) -> None:
        self.steps, self.count = steps, count

    def __iter__(self) -> Iterator[Any]:
        return self.steps

    def __len__(self) -> int:
        return self.count

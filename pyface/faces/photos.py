"""Photographs in files: found in folders, read upright."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pyface.errors import DataError
from pyface.faces.face import Photo
from pyface.io.images import WRITTEN_SUFFIXES, read_image

__all__ = ["find_photos", "read_photo"]


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Pixels of a photograph, turned upright as its EXIF orientation says: uint8 [H, W, 3], RGB.

    Grey is repeated, an alpha channel dropped; PNG, JPEG and WebP are read.

    Raises:
        DataError: the file is missing, damaged, too large, or of another kind.
    """
    pixels = read_image(path, upright=True)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    return np.ascontiguousarray(pixels)


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files named, and all pictures in the folders named and below them, in order of their names.

    Hidden files and folders are passed over.

    Raises:
        DataError: a path does not exist.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            below = (path for path in given.rglob("*") if path.suffix.lower() in WRITTEN_SUFFIXES)
            shown = (path for path in below if not any(p[0] == "." for p in path.relative_to(given).parts))
            found += sorted(path for path in shown if path.is_file())
        elif given.exists():
            found.append(given)
        else:
            raise DataError(f"{given} does not exist; give photographs or folders of them")
    return found

"""Datasets by the name of their layout, or by what lies in the folder."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyface.data.files import open_files
from pyface.data.sample import FaceDataset
from pyface.data.tree import FOLDERS, LABELS
from pyface.errors import DataError, ValueRangeError

__all__ = ["LAYOUTS", "layout_of", "open_dataset"]

# layout -> (module, class); the class takes a path and on_problem
LAYOUTS = {
    "folder": ("pyface.data.folder", "ImageFolder"),
    "spectra": ("pyface.data.spectra", "PairedSpectra"),
    "ckplus": ("pyface.data.ckplus", "CKPlus"),
    "celeba": ("pyface.data.celeba", "CelebA"),
    "mtfl": ("pyface.data.mtfl", "MTFL"),
}

_CKPLUS = re.compile(r"(.*/)?cohn-kanade-images/S\d+/\d+/[^/]+")
_CELEBA = re.compile(r"(.*/)?list_(attr|landmarks_align|bbox)_celeba\.(txt|csv)")
_SPECTRA = re.compile(r"[^/]+_[^/_]+")


def _is_spectra(names: Sequence[str]) -> bool:
    """VIS and NIR with names such as 000012_003.png, and no records that would say more."""
    trees = [[n for n in names if n.startswith(FOLDERS[s] + "/")] for s in ("vis", "nir")]
    stems = [n.partition("/")[2].rpartition(".")[0] for tree in trees for n in tree]
    return all(trees) and LABELS not in names and all(map(_SPECTRA.fullmatch, stems))


# in this order; the first that holds is taken
_RECOGNISED: dict[str, Callable[[Sequence[str]], bool]] = {
    "ckplus": lambda names: any(map(_CKPLUS.fullmatch, names)),
    "mtfl": lambda names: "training.txt" in names or "testing.txt" in names,
    "celeba": lambda names: any(map(_CELEBA.fullmatch, names)),
    "spectra": _is_spectra,
}


def layout_of(path: str | os.PathLike[str]) -> str:
    """The layout that the files of a folder or zip have; "folder" when it is none of the others."""
    names = open_files(path).names()
    return next((layout for layout, fits in _RECOGNISED.items() if fits(names)), "folder")


def open_dataset(path: str | os.PathLike[str], layout: str | None = None, **options: Any) -> FaceDataset:
    """The dataset in a folder or zip.

    Args:
        path: folder or .zip.
        layout: one of LAYOUTS; by default the one that `layout_of` recognises.
        **options: what the layout's class takes besides the path, such as `on_problem="skip"`.

    Raises:
        DataError: nothing there that can be used.
        ValueRangeError: an unknown layout, or an option that the layout does not have.
    """
    if not Path(path).exists():
        raise DataError(f"{path} does not exist; give a folder or a .zip with a dataset")
    layout = layout_of(path) if layout is None else layout
    if layout not in LAYOUTS:
        raise ValueRangeError(f"layout must be one of {', '.join(LAYOUTS)}; got {layout!r}.")
    module, name = LAYOUTS[layout]
    loader = getattr(importlib.import_module(module), name)
    known = list(inspect.signature(loader).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueRangeError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    dataset: FaceDataset = loader(path, **options)
    return dataset

"""Datasets by the name of their layout, or by what lies in the folder."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyface.data.files import IMAGE_SUFFIXES, DatasetFiles, open_files, stem_of
from pyface.data.labels import LABEL_FILES
from pyface.data.option_text import plain_text, several, whole_number, yes_or_no
from pyface.data.sample import FaceDataset
from pyface.data.tree import FOLDERS, LABELS
from pyface.errors import DataError, ValueRangeError

__all__ = ["LAYOUTS", "layout_of", "open_dataset", "open_named", "parse_named", "read_options"]

# layout -> (module, class); the class takes a path and on_problem
LAYOUTS = {
    "folder": ("pyface.data.folder", "ImageFolder"),
    "spectra": ("pyface.data.spectra", "PairedSpectra"),
    "ckplus": ("pyface.data.ckplus", "CKPlus"),
    "celeba": ("pyface.data.celeba", "CelebA"),
    "mtfl": ("pyface.data.mtfl", "MTFL"),
}

# options of the classes that are not text -> what reads them
_READERS: dict[str, Callable[[str, str], Any]] = {
    "action_units": several,
    "cache": yes_or_no,
    "size": whole_number,
    "spectra": several,
    "verify": yes_or_no,
}

_CELEBA_TABLES = tuple(
    f"{kind}.{suffix}"
    for kind in ("list_attr_celeba", "list_landmarks_align_celeba", "list_bbox_celeba")
    for suffix in ("txt", "csv")
)
_PAIR = re.compile(r"[^/]+_[^/_]+")
_MTFL_CELLS = 15  # a path, five points, four labels
_OPTION = r"\w+=(?:last:\d+|[^,:=]*)"
_NAMED = re.compile(rf"({'|'.join(LAYOUTS)}):(?:({_OPTION}(?:,{_OPTION})*):)?(.+)")


def _is_ckplus(files: DatasetFiles, names: Sequence[str]) -> bool:
    return any("cohn-kanade-images/" in name for name in names)


def _is_celeba(files: DatasetFiles, names: Sequence[str]) -> bool:
    return any(name.endswith(_CELEBA_TABLES) for name in names)


def _is_mtfl(files: DatasetFiles, names: Sequence[str]) -> bool:
    """Annotation files of which one of the first lines has a path and fourteen numbers."""
    there = [name for name in ("training.txt", "testing.txt") if name in names]
    heads = [files.head(name, 4096).decode("utf-8", "replace").split("\n") for name in there]
    return any(len(line.split()) == _MTFL_CELLS for lines in heads for line in lines)


def _is_spectra(files: DatasetFiles, names: Sequence[str]) -> bool:
    """VIS and NIR whose pictures have names such as 000012_003.png."""
    pictures = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    trees = [[n for n in pictures if n.startswith(FOLDERS[s] + "/")] for s in ("vis", "nir")]
    return all(trees) and all(_PAIR.fullmatch(stem_of(n)) for tree in trees for n in tree)


_RECOGNISED: dict[str, Callable[[DatasetFiles, Sequence[str]], bool]] = {
    "ckplus": _is_ckplus,
    "celeba": _is_celeba,
    "mtfl": _is_mtfl,
    "spectra": _is_spectra,
}


def layout_of(path: str | os.PathLike[str]) -> str:
    """The layout that the files of a folder or zip have; "folder" when it is none of the others.

    Files of labels (labels.jsonl, dataset.json...) are those of a "folder". With VIS and NIR they say more
    than the names do, so that this is a "folder" too.

    Raises:
        DataError: the files fit more than one; the message lists them.
    """
    files = open_files(path)
    names = files.names()
    found = [layout for layout, fits in _RECOGNISED.items() if fits(files, names)]
    if any(name in names for name in (LABELS, *LABEL_FILES)):
        found = ["folder", *(layout for layout in found if layout != "spectra")]
    if len(found) > 1:
        raise DataError(
            f"{path} has the files of more than one layout: {', '.join(found)}. Name the one that is meant, "
            f"as in {found[-1]}:{path} or layout={found[-1]!r}"
        )
    return found[0] if found else "folder"


def open_named(source: str) -> FaceDataset:
    """The dataset that a text names: PATH, LAYOUT:PATH, or LAYOUT:NAME=VALUE,NAME=VALUE:PATH.

    >>> open_named("celeba:crop=centre128,split=train:/data/celeba")   # doctest: +SKIP

    The options are those of the layout's class, read by `read_options`.

    Raises:
        DataError, ValueRangeError: as `open_dataset`.
    """
    layout, options, path = parse_named(source)
    return open_dataset(path, layout, **read_options(options))


def parse_named(source: str) -> tuple[str | None, dict[str, str], str]:
    """Layout (None: to be recognised), options as text, and path of what `open_named` takes."""
    match = _NAMED.fullmatch(source)
    if match is None:
        return None, {}, source
    pairs = [pair.partition("=")[::2] for pair in re.findall(_OPTION, match[2] or "")]
    return match[1], dict(pairs), match[3]


def read_options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Options as the classes take them: size as a number, verify and cache from yes or no, several words
    (action_units, spectra) from what "+" divides; the others are text.

    Raises:
        ValueRangeError: a text that is no such value.
    """
    return {name: _READERS.get(name, plain_text)(name, text) for name, text in texts.items()}


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

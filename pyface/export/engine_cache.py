"""Artefacts that engines made of a network, kept for the next time.

They lie in `$PYFACE_HOME/engines`, else `pyface/engines` in the user's cache folder, one folder each, whose
name says what it was made of: weights, format, precision, form, and the versions of all packages that had a
hand in it. Other versions are another folder. A folder appears complete or not at all, and one that is
damaged is made anew; all of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyface.errors import ExportError
from pyface.export.artefact import Artefact, open_artefact
from pyface.io.atomic import make_folder

__all__ = ["Recipe", "find", "folder", "obtain"]

_UNUSED_S = 30 * 24 * 3600.0  # artefacts of other versions are removed when nobody took them for so long
_DIGITS = 16


@dataclass(frozen=True)
class Recipe:
    """What decides about an artefact.

    file: its name, such as "generator.onnx". form: weights, format, precision and whatever else was asked
    for, as plain JSON. versions: by package.
    """

    file: str
    form: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def slot(self) -> str:
        """The part of its folder's name that is the same in all versions."""
        return _digest(dict(self.form))

    @property
    def path(self) -> Path:
        """Where it lies or would lie."""
        return folder() / f"{self.slot}-{_digest(dict(self.versions))}" / self.file


def folder() -> Path:
    """Where they lie."""
    if home := os.environ.get("PYFACE_HOME"):
        return Path(home).expanduser() / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyface" / "engines"


def find(recipe: Recipe) -> Artefact | None:
    """The artefact, if it is there and whole."""
    path = recipe.path
    if not path.parent.is_dir():
        return None
    try:
        artefact = open_artefact(path)
    except ExportError:
        return None
    with contextlib.suppress(OSError):  # a cache that is only read
        os.utime(path.parent)
    return artefact


def obtain(recipe: Recipe, make: Callable[[Path], object]) -> Artefact:
    """The artefact, made by `make(path)` where it is not there, is damaged, or is of other versions.

    Two processes that want the same one at once make it once; the other waits.

    Raises:
        DataError: the folder cannot be written.
        Whatever `make` raises; nothing is kept then.
    """
    found = find(recipe)
    if found is not None:
        return found
    root = make_folder(folder())
    entry = recipe.path.parent
    with _held(root / f".{entry.name}.lock"):
        found = find(recipe)  # another process may have made it meanwhile
        if found is not None:
            return found
        for abandoned in root.glob(f".{entry.name}.*"):
            if abandoned.is_dir():
                shutil.rmtree(abandoned, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=root))
        try:
            make(made / recipe.file)
            made.chmod(0o755)
            if entry.exists():
                shutil.rmtree(entry)
            made.replace(entry)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        _remove_stale(root, recipe)
    return open_artefact(recipe.path)


def _remove_stale(root: Path, recipe: Recipe) -> None:
    for other in root.glob(f"{recipe.slot}-*"):
        with contextlib.suppress(OSError):
            if other != recipe.path.parent and time.time() - other.stat().st_mtime > _UNUSED_S:
                shutil.rmtree(other)


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Let one process in at a time; the lock ends with the process. Without locks nobody waits."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]

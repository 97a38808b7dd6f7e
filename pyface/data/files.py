"""Named files of a dataset, in a folder or in a zip file."""

from __future__ import annotations

import abc
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pyface.data.problems import Problem
from pyface.data.tree import FOLDERS, bare_name
from pyface.errors import DataError

__all__ = [
    "IMAGE_SUFFIXES",
    "DatasetFiles",
    "FolderFiles",
    "ZipFiles",
    "open_files",
    "paired_files",
    "stem_of",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")  # what is read; others are left alone


class DatasetFiles(abc.ABC):
    """Named files of a dataset, wherever they lie. Names are relative, with forward slashes."""

    path: Path

    @abc.abstractmethod
    def names(self) -> list[str]:
        """All files in order of their names, without hidden ones."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises DataError when it cannot be read."""

    @abc.abstractmethod
    def head(self, name: str, count: int) -> bytes:
        """The first bytes of a file, at most `count`. Raises DataError when it cannot be read."""

    @abc.abstractmethod
    def stamp(self, name: str) -> tuple[int, int]:
        """Size in bytes and a number that changes when the file does (time in ns, or checksum)."""

    def where(self, name: str) -> str:
        """The file for a message."""
        return str(self.path / name)


class FolderFiles(DatasetFiles):
    """The files of a folder and of the folders in it; links are followed, but not to a folder around them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path, onerror=_unlisted, followlinks=True):
            base = Path(folder)
            folders[:] = [n for n in folders if not n.startswith(".") and not _leads_back(base / n)]
            place = base.relative_to(self.path).as_posix()
            prefix = "" if place == "." else f"{place}/"
            found += [prefix + name for name in files if not name.startswith(".")]
        return sorted(found)

    def read(self, name: str) -> bytes:
        return self._bytes(name, -1)

    def head(self, name: str, count: int) -> bytes:
        return self._bytes(name, count)

    def _bytes(self, name: str, count: int) -> bytes:
        path = self.path / name
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait for a writer
                raise DataError(f"{name} cannot be read: it is a pipe, socket or device")
            with path.open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error

    def stamp(self, name: str) -> tuple[int, int]:
        try:
            status = (self.path / name).stat()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error
        return status.st_size, status.st_mtime_ns


class ZipFiles(DatasetFiles):
    """The files of a zip; each process opens it for itself, as forked ones would share a file position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _file(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(f"{self.path} is not a readable zip file: {error}") from error
        return self._opened[1]

    def entries(self) -> list[str]:
        """Names of all files as the zip lists them: in its order, twice where they stand twice."""
        files = [info.filename for info in self._file().infolist() if not info.is_dir()]
        return [n for n in files if not any(p.startswith((".", "__MACOSX")) for p in PurePosixPath(n).parts)]

    def names(self) -> list[str]:
        return sorted(set(self.entries()))

    def read(self, name: str) -> bytes:
        return self._bytes(name, -1)

    def head(self, name: str, count: int) -> bytes:
        return self._bytes(name, count)

    def _bytes(self, name: str, count: int) -> bytes:
        with self._lock:
            try:
                with self._file().open(name) as file:
                    return file.read(count)
            except Exception as error:  # also zlib.error, lzma.LZMAError: damaged compressed bytes
                raise DataError(f"{name} cannot be read: {error}") from error

    def stamp(self, name: str) -> tuple[int, int]:
        try:
            info = self._file().getinfo(name)
        except KeyError as error:
            raise DataError(f"{name} is not in {self.path}") from error
        return info.file_size, info.CRC

    def where(self, name: str) -> str:
        return f"{self.path}!{name}"


def _unlisted(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}") from error


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in: following it would never end."""
    return folder.is_symlink() and folder.resolve() in (
        folder.parent.resolve(),
        *folder.parent.resolve().parents,
    )


def open_files(path: str | os.PathLike[str]) -> DatasetFiles:
    """The files of a folder or a zip. Raises DataError when it does not exist."""
    where = Path(path)
    if not where.exists():
        raise DataError(f"{where} does not exist; give a folder with pictures, or a .zip file")
    return FolderFiles(where) if where.is_dir() else ZipFiles(where)


def paired_files(
    names: Sequence[str],
    spectra: Sequence[str] | None,
    path: str | os.PathLike[str],
    key: Callable[[str, str], Hashable] = lambda spectrum, stem: stem,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> tuple[list[tuple[str, ...]], tuple[str, ...], list[Problem]]:
    """Files of each sample, one per spectrum; the spectra; and what is not there though it should be.

    Args:
        names: of all files, in order.
        spectra: the wanted ones; by default those that are there.
        path: for messages.
        key: from a spectrum and a name in its folder without suffix, what the pictures of a sample share.
        suffixes: of pictures.

    Returns:
        A row for each picture of the first spectrum in the order of `names`, with "" for a partner that is
        not there; the spectra; the problems: "no-partner" and "same-sample".

    Raises:
        DataError: there is no picture, or none in these spectra.
    """
    pictures = [name for name in names if name.lower().endswith(suffixes)]
    trees, chosen = _trees(pictures, spectra, path)
    problems: list[Problem] = []
    found: dict[str, dict[Hashable, str]] = {}
    for spectrum in chosen:
        found[spectrum] = {}
        if len(chosen) == 1:
            continue
        for name in trees[spectrum]:
            first = found[spectrum].setdefault(key(spectrum, stem_of(name)), name)
            if first != name:
                problems.append(Problem(name, None, "same-sample", f"is the same sample as {first}"))
    extra = {problem.file for problem in problems}
    rows = []
    for name in trees[chosen[0]]:
        shared = key(chosen[0], stem_of(name)) if len(chosen) > 1 else None
        alone = name in extra
        row = (name, *("" if alone else found[s].pop(shared, "") for s in chosen[1:]))
        rows.append(row)
        if not alone:
            problems += [_lonely(name, s) for s, other in zip(chosen[1:], row[1:], strict=True) if not other]
    problems += [_lonely(name, chosen[0]) for s in chosen[1:] for name in found[s].values()]
    return rows, chosen, problems


def stem_of(name: str) -> str:
    """The name within its spectrum's folder without its suffix: what the pictures of a sample share."""
    return bare_name(name).rpartition(".")[0]


def _lonely(name: str, spectrum: str) -> Problem:
    wanted = f"{FOLDERS[spectrum]}/{bare_name(name)}"
    return Problem(name, None, "no-partner", f"{wanted} is not there")


def _trees(
    pictures: Sequence[str], spectra: Sequence[str] | None, path: str | os.PathLike[str]
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Pictures of each spectrum, and the chosen spectra."""
    trees = {s: [n for n in pictures if n.startswith(FOLDERS[s] + "/")] for s in ("vis", "nir")}
    there = tuple(s for s in trees if trees[s])
    if not there:
        extra = tuple(f"{FOLDERS[kind]}/" for kind in ("segmentation", "depth"))
        trees, there = {"vis": [n for n in pictures if not n.startswith(extra)], "nir": []}, ("vis",)
    chosen = tuple(spectra) if spectra is not None else there
    if not chosen or set(chosen) - set(there) or len(set(chosen)) != len(chosen):
        raise DataError(f"{path} has the spectra {', '.join(there)}; got {', '.join(chosen) or 'none'}")
    if not trees[chosen[0]]:
        raise DataError(
            f"{path} has no picture ({', '.join(IMAGE_SUFFIXES)}); give the folder that holds them"
        )
    return trees, chosen

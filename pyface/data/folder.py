"""Pictures in a folder or a zip file, with their labels."""

from __future__ import annotations

import abc
import collections
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.sample import Annotations, FaceDataset, Pixels, Sample
from pyface.data.tree import (
    DATASET_JSON,
    FOLDERS,
    LABELS,
    annotations_from,
    decode_depth,
    fill_sample,
    read_nvidia_labels,
    read_records,
)
from pyface.errors import DataError
from pyface.io.images import image_shape, read_image, read_image16

__all__ = ["ImageFolder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LISTED = 20


class _Source(abc.ABC):
    """Named files of a dataset, wherever they lie. Names are relative, with forward slashes."""

    path: Path

    @abc.abstractmethod
    def names(self) -> list[str]: ...

    @abc.abstractmethod
    def read(self, name: str) -> bytes: ...

    def where(self, name: str) -> str:
        return str(self.path / name)


class _Folder(_Source):
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            base = Path(folder).relative_to(self.path)
            found += [(base / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error


class _Zip(_Source):
    """A zip file; each process opens it for itself, so that forked workers do not share a file position."""

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

    def names(self) -> list[str]:
        files = [info.filename for info in self._file().infolist() if not info.is_dir()]
        return sorted(
            n for n in files if not any(p.startswith((".", "__MACOSX")) for p in PurePosixPath(n).parts)
        )

    def read(self, name: str) -> bytes:
        with self._lock:
            try:
                return self._file().read(name)
            except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise DataError(f"{name} cannot be read: {error}") from error

    def where(self, name: str) -> str:
        return f"{self.path}!{name}"


class ImageFolder(FaceDataset):
    """Pictures of a folder (and the folders in it) or of a zip file, in the order of their names.

    PNG, JPEG and WebP of one common size. With folders VIS and NIR (see `pyface.data.tree`) a sample has both
    pictures; SEGMENTATION and DEPTH are read when they are there. Labels come from labels.jsonl and from
    dataset.json; labels of files that are not there are left out.

    Args:
        path: folder or .zip file.
        spectra: which pictures to give; by default those that are there. A folder without VIS and NIR is
            "vis".
        cache: decode all pictures now and keep them in memory (size^2 * 3 bytes each).

    Raises:
        DataError: nothing there, unreadable labels, a picture without label; or pictures that are damaged, of
            another size or without their partner: each is listed with its reason.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, spectra: Sequence[str] | None = None, cache: bool = False
    ) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist; give a folder with pictures, or a .zip file")
        self._source: _Source = _Folder(self.path) if self.path.is_dir() else _Zip(self.path)
        names = self._source.names()
        self._files, self.spectra = _paired(names, spectra, self.path)
        self._extras = {
            kind: {name for name in names if name.startswith(FOLDERS[kind] + "/")}
            for kind in ("segmentation", "depth")
        }
        self.image_shape = self._checked_shapes()
        self._records: list[dict[str, Any]] = []
        self._annotations: dict[str, npt.NDArray[Any]] = {}
        self._read_labels(set(names))
        self._pixels: dict[str, Pixels] = {}
        if cache:
            self._pixels = {s: self._decoded(range(len(self)), s) for s in self.spectra}

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return (
            f"ImageFolder({str(self.path)!r}: {len(self)} x [{height}, {width}, {channels}], "
            f"{'+'.join(self.spectra)}, labels {', '.join(self.label_names) or 'none'})"
        )

    @property
    def annotations(self) -> Annotations:
        return self._annotations

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        return [self._sample(int(i)) for i in self._checked_indices(indices)]

    def images(self, indices: Iterable[int] | None = None, spectrum: str = "vis") -> Pixels:
        self._checked_spectrum(spectrum)
        chosen = self._checked_indices(indices)
        if spectrum in self._pixels:
            return self._pixels[spectrum][chosen]
        return self._decoded(chosen.tolist(), spectrum)

    def _picture(self, index: int, spectrum: str) -> Pixels:
        if spectrum in self._pixels:
            return self._pixels[spectrum][index]
        name = self._file(index, spectrum)
        try:
            pixels = read_image(self._source.read(name))
        except DataError as error:
            raise DataError(f"{self._source.where(name)}: {_reason(error)}") from error
        grey = spectrum == "nir" or self.image_shape[2] == 1
        if grey and pixels.ndim == 3:
            pixels = pixels[..., 1]
        elif not grey and pixels.ndim == 2:
            return np.repeat(pixels[..., None], 3, axis=2)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _file(self, index: int, spectrum: str) -> str:
        return self._files[index][self.spectra.index(spectrum)]

    def _sample(self, index: int) -> Sample:
        sample = Sample(path=self._source.where(self._files[index][0]))
        if self._records:
            fill_sample(sample, self._records[index])
        elif "identity" in self._annotations:
            sample.identity = int(self._annotations["identity"][index])
        if "vis" in self.spectra:
            sample.image = self._picture(index, "vis")
        if "nir" in self.spectra:
            sample.nir = self._picture(index, "nir")[..., 0]
        bare = self._files[index][0].partition("/")[2]
        if f"{FOLDERS['segmentation']}/{bare}" in self._extras["segmentation"]:
            sample.segmentation = read_image(self._source.read(f"{FOLDERS['segmentation']}/{bare}"))
        if f"{FOLDERS['depth']}/{bare}" in self._extras["depth"]:
            sample.depth = decode_depth(read_image16(self._source.read(f"{FOLDERS['depth']}/{bare}")))
        return sample

    def _decoded(self, indices: Sequence[int], spectrum: str) -> Pixels:
        channels = 1 if spectrum == "nir" else self.image_shape[2]
        pixels = np.empty((len(indices), *self.image_shape[:2], channels), np.uint8)
        problems = []
        for row, index in enumerate(indices):
            try:
                pixels[row] = self._picture(index, spectrum)
            except DataError as error:
                problems.append(str(error))
        _refuse(problems, len(indices), self.path)
        return pixels

    def _checked_shapes(self) -> tuple[int, int, int]:
        shapes: dict[str, tuple[int, int, int]] = {}
        problems = []
        for files in self._files:
            for name in files:
                try:
                    shapes[name] = self._shape(name)
                except DataError as error:
                    problems.append(f"{name}: {_reason(error)}")
        if shapes:
            sizes = collections.Counter(shape[:2] for shape in shapes.values())
            (height, width), _ = sizes.most_common(1)[0]
            problems += [
                f"{name}: is {w} x {h}, most are {width} x {height}"
                for name, (h, w, _) in shapes.items()
                if (h, w) != (height, width)
            ]
        _refuse(problems, sum(len(files) for files in self._files), self.path)
        first = [shapes[files[0]][2] for files in self._files]
        return height, width, 1 if self.spectra[0] == "nir" else max(first)

    def _shape(self, name: str) -> tuple[int, int, int]:
        if isinstance(self._source, _Folder):
            return image_shape(self._source.path / name)
        return image_shape(self._source.read(name))

    def _read_labels(self, names: set[str]) -> None:
        if LABELS in names:
            found = read_records(self._text(LABELS), self._source.where(LABELS))
            by_file = {name: record for record in found.values() for name in _record_files(record)}
            self._records = self._of_every_picture(by_file.get, LABELS)
            self._annotations = annotations_from(self._records)
            self.label_names = tuple(self._records[0].get("conditions", ()))
        if DATASET_JSON in names:
            labels, label_names = read_nvidia_labels(
                self._text(DATASET_JSON), self._source.where(DATASET_JSON)
            )
            if labels:
                stems = {_bare(name): vector for name, vector in labels.items()}
                rows = self._of_every_picture(lambda n: labels.get(n, stems.get(_bare(n))), DATASET_JSON)
                table = np.array(rows, np.float32).reshape(len(self), len(label_names))
                self._annotations = {n: table[:, i] for i, n in enumerate(label_names)} | self._annotations
                self.label_names = label_names

    def _of_every_picture(self, find: Callable[[str], Any], source: str) -> list[Any]:
        rows = [next((r for r in map(find, files) if r is not None), None) for files in self._files]
        _refuse(
            [
                f"{files[0]}: has no label in {source}"
                for files, row in zip(self._files, rows, strict=True)
                if row is None
            ],
            len(self),
            self.path,
        )
        return rows

    def _text(self, name: str) -> str:
        try:
            return self._source.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self._source.where(name)} is not UTF-8 text: {error}") from error


def _record_files(record: dict[str, Any]) -> list[str]:
    files = record.get("files")
    return [record["file"], *(files.values() if isinstance(files, dict) else ())]


def _bare(name: str) -> str:
    """The name within its spectrum's folder, as VIS/a.png and NIR/a.png share one."""
    top, slash, rest = name.partition("/")
    return rest if slash and top in FOLDERS.values() else name


def _reason(error: DataError) -> str:
    return (
        str(error.__cause__ or error)
        if "cannot be read: " not in str(error)
        else str(error).split(": ", 1)[1]
    )


def _refuse(problems: list[str], total: int, path: Path) -> None:
    if problems:
        rest = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise DataError(
            f"{len(problems)} of {total} pictures of {path} cannot be used: "
            f"{'; '.join(problems[:_LISTED])}{rest}. Repair or remove them."
        )


def _paired(
    names: list[str], spectra: Sequence[str] | None, path: Path
) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Files of each sample, one per spectrum, and the spectra."""
    pictures = [name for name in names if name.lower().endswith(_SUFFIXES)]
    trees = {s: [n for n in pictures if n.startswith(FOLDERS[s] + "/")] for s in ("vis", "nir")}
    there = tuple(s for s in trees if trees[s])
    if not there:
        extra = tuple(f"{FOLDERS[kind]}/" for kind in ("segmentation", "depth"))
        trees, there = {"vis": [n for n in pictures if not n.startswith(extra)], "nir": []}, ("vis",)
    chosen = tuple(spectra) if spectra is not None else there
    if not chosen or set(chosen) - set(there) or len(set(chosen)) != len(chosen):
        raise DataError(f"{path} has the spectra {', '.join(there)}; got {', '.join(chosen) or 'none'}")
    if not trees[chosen[0]]:
        raise DataError(f"{path} has no picture ({', '.join(_SUFFIXES)}); give the folder that holds them")
    others = [set(trees[s]) for s in chosen[1:]]
    rows = []
    problems = []
    for first in trees[chosen[0]]:
        row = (first, *(f"{FOLDERS[s]}/{_bare(first)}" for s in chosen[1:]))
        rows.append(row)
        problems += [
            f"{first}: {name} is not there" for name, t in zip(row[1:], others, strict=True) if name not in t
        ]
    _refuse(problems, len(rows), path)
    return rows, chosen

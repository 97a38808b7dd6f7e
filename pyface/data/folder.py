"""Pictures in a folder or a zip file, with their labels."""

from __future__ import annotations

import collections
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.files import DatasetFiles, FolderFiles, open_files, paired_files, stem_of
from pyface.data.labels import LABEL_FILES, LabelSchema, read_labels
from pyface.data.problems import OnProblem, Problem, Problems
from pyface.data.sample import Annotations, FaceDataset, Pixels, Sample
from pyface.data.tree import (
    FOLDERS,
    LABELS,
    annotations_from,
    decode_depth,
    fill_sample,
    parse_records,
)
from pyface.errors import DataError
from pyface.io.images import image_shape, read_image, read_image16

__all__ = ["ImageFolder"]


class ImageFolder(FaceDataset):
    """Pictures of a folder (and the folders in it) or of a zip file, in the order of their names.

    PNG, JPEG and WebP of one common size. With folders VIS and NIR (see `pyface.data.tree`) a sample has both
    pictures; SEGMENTATION and DEPTH are read when they are there. Labels come from labels.jsonl and from one
    of the files of `pyface.data.labels`; labels of files that are not there are left out.

    Args:
        path: folder or .zip file.
        spectra: which pictures to give; by default those that are there. A folder without VIS and NIR is
            "vis".
        cache: decode all pictures now and keep them in memory (size^2 * 3 bytes each).
        on_problem: "stop", or "skip" pictures that cannot be used; `problems` lists them.

    Raises:
        DataError: nothing there that can be used; with "stop" also unreadable labels, a picture without
            label, or pictures that are damaged, of another size or without their partner: each is listed
            with its reason.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        spectra: Sequence[str] | None = None,
        cache: bool = False,
        on_problem: OnProblem = "stop",
    ) -> None:
        self.path = Path(path)
        advice = f"`pyface data check {path} --fix NEW` writes a repaired copy."
        self.problems = Problems(self.path, on_problem, advice=advice)
        self._source: DatasetFiles = open_files(self.path)
        names = self._source.names()
        self._files, self.spectra, missing = self._paired(names, spectra)
        self._every_name = [row[0] for row in self._files]  # whose order rows of labels.npy have
        self.problems.extend(missing)
        self.problems.settle(f"{len(missing)} of {len(self._files)} pictures")
        self._records: list[dict[str, Any]] = []
        self._annotations: dict[str, npt.NDArray[Any]] = {}
        self._pixels: dict[str, Pixels] = {}
        self._keep([all(row) for row in self._files])
        self._extras = {
            kind: {stem_of(name): name for name in names if name.startswith(FOLDERS[kind] + "/")}
            for kind in ("segmentation", "depth")
        }
        self.image_shape = self._checked_shapes()
        self._schema: LabelSchema | None = None
        self._read_labels(set(names))
        if cache:
            self._fill_cache()

    def _paired(
        self, names: Sequence[str], spectra: Sequence[str] | None
    ) -> tuple[list[tuple[str, ...]], tuple[str, ...], list[Problem]]:
        """What `paired_files` gives."""
        return paired_files(names, spectra, self.path)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return (
            f"{type(self).__name__}({str(self.path)!r}: {len(self)} x [{height}, {width}, {channels}], "
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

    def name_of(self, index: int) -> str:
        """The file of a picture."""
        return self._source.where(self._files[index][0])

    def fingerprint(self) -> str:
        """Digest of names, lengths and times (in a zip: checksums) of the picture files."""
        found = hashlib.blake2b(digest_size=16)
        for name in itertools.chain.from_iterable(self._files):
            found.update(f"{name}\0{self._source.stamp(name)}\n".encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def file_names(self, spectrum: str) -> list[str]:
        """Files of all pictures of a spectrum, relative to the dataset, in order."""
        place = self.spectra.index(self._checked_spectrum(spectrum))
        return [row[place] for row in self._files]

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
        stem = stem_of(self._files[index][0])
        if (name := self._extras["segmentation"].get(stem)) is not None:
            sample.segmentation = read_image(self._source.read(name))
        if (name := self._extras["depth"].get(stem)) is not None:
            sample.depth = decode_depth(read_image16(self._source.read(name)))
        return sample

    def _decoded(self, indices: Sequence[int], spectrum: str) -> Pixels:
        pixels, problems = self._decoded_or_not(indices, spectrum)
        if problems:
            found = Problems(self.path, advice=self.problems.advice)
            found.extend(problems.values())
            found.settle(f"{len(problems)} of {len(indices)} pictures")
        return pixels

    def _decoded_or_not(self, indices: Sequence[int], spectrum: str) -> tuple[Pixels, dict[int, Problem]]:
        """Pictures, and by row the problem of each that cannot be decoded (its pixels are 0)."""
        channels = 1 if spectrum == "nir" else self.image_shape[2]
        pixels = np.zeros((len(indices), *self.image_shape[:2], channels), np.uint8)
        problems = {}
        for row, index in enumerate(indices):
            try:
                pixels[row] = self._picture(index, spectrum)
            except DataError as error:
                problems[row] = Problem(self._file(index, spectrum), None, "unreadable", _reason(error))
        return pixels, problems

    def _fill_cache(self) -> None:
        """Decode all pictures; those that cannot be decoded are problems."""
        found = {s: self._decoded_or_not(range(len(self)), s) for s in self.spectra}
        bad = [problems for _, problems in found.values()]
        self.problems.extend(problem for problems in bad for problem in problems.values())
        self.problems.settle(f"{sum(map(len, bad))} of {len(self)} pictures")
        self._pixels = {s: pixels for s, (pixels, _) in found.items()}
        self._keep([not any(row in problems for problems in bad) for row in range(len(self))])

    def _checked_shapes(self) -> tuple[int, int, int]:
        """The common shape; pictures without one are problems."""
        shapes: dict[str, tuple[int, int, int]] = {}
        before = len(self.problems)
        for files in self._files:
            for name in files:
                try:
                    shapes[name] = self._shape(name)
                except DataError as error:
                    self.problems.add(name, None, "unreadable", _reason(error))
        height, width = 0, 0
        if shapes:
            sizes = collections.Counter(shape[:2] for shape in shapes.values())
            (height, width), _ = sizes.most_common(1)[0]
        for name, (h, w, _) in shapes.items():
            if (h, w) != (height, width):
                self.problems.add(name, None, "size", f"is {w} x {h}, most are {width} x {height}")
        bad = self.problems.files() if len(self.problems) > before else set()
        self.problems.settle(f"{len(self.problems)} of {sum(len(files) for files in self._files)} pictures")
        self._keep([not bad.intersection(files) for files in self._files])
        first = [shapes[files[0]][2] for files in self._files]
        return height, width, 1 if self.spectra[0] == "nir" else max(first)

    def _shape(self, name: str) -> tuple[int, int, int]:
        if isinstance(self._source, FolderFiles):
            return image_shape(self._source.path / name)
        return image_shape(self._source.read(name))

    def _keep(self, sound: Sequence[bool]) -> None:
        """Leave out the samples that are not sound.

        Raises:
            DataError: none is left.
        """
        kept = np.flatnonzero(sound).tolist()
        if not kept:
            raise DataError(f"{self.problems.message()} Nothing is left.")
        if len(kept) == len(self._files):
            return
        self._files = [self._files[i] for i in kept]
        self._records = [self._records[i] for i in kept] if self._records else []
        self._annotations = {name: column[kept] for name, column in self._annotations.items()}
        self._pixels = {spectrum: pixels[kept] for spectrum, pixels in self._pixels.items()}

    def _read_labels(self, names: set[str]) -> None:
        if LABELS in names:
            self._read_records()
        present = [name for name in LABEL_FILES if name in names]
        files = [read_labels(n, self._source.read(n), self._every_name) for n in present]
        files = [labels for labels in files if labels.rows or labels.faults]
        if len(files) > 1:
            raise DataError(
                f"{self.path} has labels in {' and in '.join(x.source for x in files)}; keep one of them"
            )
        for labels in files:
            self.problems.extend(labels.faults)
            self.problems.settle(f"{len(labels.faults)} labels")
            rows = self._of_every_picture(labels.finder(), labels.source)
            self._schema = labels.schema
            self.label_names = labels.schema.names
            table = np.stack([labels.vector(row) for row in rows])
            columns = {name: table[:, i] for i, name in enumerate(self.label_names)}
            self._annotations = self._annotations | columns

    def _read_records(self) -> None:
        """Everything that labels.jsonl says."""
        by_file: dict[str, dict[str, Any]] = {}
        for line, record in parse_records(self._text(LABELS)):
            if isinstance(record, str):
                self.problems.add(LABELS, line, "labels", record)
            else:
                by_file |= dict.fromkeys(_record_files(record), record)
        self.problems.settle(f"{len(self.problems)} labels")
        self._records = self._of_every_picture(by_file.get, LABELS)
        self._annotations = annotations_from(self._records)
        self.label_names = tuple(self._records[0].get("conditions", ()))

    def _of_every_picture(self, find: Callable[[str], Any], source: str) -> list[Any]:
        """What is found for each picture; those without are problems."""
        rows = [next((r for r in map(find, files) if r is not None), None) for files in self._files]
        missing = [files[0] for files, row in zip(self._files, rows, strict=True) if row is None]
        for name in missing:
            self.problems.add(name, None, "label-missing", f"has no label in {source}")
        self.problems.settle(f"{len(missing)} of {len(self)} pictures")
        self._keep([row is not None for row in rows])
        return [row for row in rows if row is not None]

    @property
    def label_schema(self) -> LabelSchema:
        return super().label_schema if self._schema is None else self._schema

    def _text(self, name: str) -> str:
        try:
            return self._source.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self._source.where(name)} is not UTF-8 text: {error}") from error


def _record_files(record: dict[str, Any]) -> list[str]:
    files = record.get("files")
    return [record["file"], *(files.values() if isinstance(files, dict) else ())]


def _reason(error: DataError) -> str:
    return (
        str(error.__cause__ or error)
        if "cannot be read: " not in str(error)
        else str(error).split(": ", 1)[1]
    )

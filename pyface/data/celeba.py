"""CelebA: 202,599 photographs of 10,177 celebrities with 40 attributes, five points, people and a partition.

| layout | pictures | tables |
|--|--|--|
| flat | img_align_celeba/ | *.txt beside it |
| official | Img/img_align_celeba/ (or img_align_celeba_png/) | Anno/*.txt, Eval/list_eval_partition.txt |
| Kaggle | img_align_celeba/img_align_celeba/ | *.csv beside the outer folder; nobody is named |

The tables are those of `pyface.data.celeba_tables`; any of them may be missing. Pictures are the aligned
ones, 178 x 218. Source: Liu, Luo, Wang, Tang: "Deep learning face attributes in the wild", ICCV 2015.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.celeba_tables import CELEBA_ATTRIBUTES, COLUMNS, Table, read_table
from pyface.data.cropping import Crop, square_picture
from pyface.data.labels import LabelSchema
from pyface.data.photographs import HALF_PIXEL, Photographs
from pyface.data.problems import OnProblem
from pyface.data.sample import Pixels, Sample
from pyface.errors import DataError, ValueRangeError

__all__ = ["CELEBA_FOLDERS", "CELEBA_SIZE", "PARTITIONS", "BoundingBoxes", "CelebA", "celeba_tables"]

PARTITIONS = ("train", "valid", "test")
CELEBA_SIZE = (218, 178)  # height, width of an aligned picture

# where the pictures lie, in the order in which they are looked for
CELEBA_FOLDERS = (
    "img_align_celeba",
    "img_align_celeba/img_align_celeba",
    "Img/img_align_celeba",
    "img_align_celeba_png",
    "Img/img_align_celeba_png",
)

_TABLE_FOLDERS = ("", "Anno/", "Eval/")
_CENTRE = re.compile(r"centre(\d{1,3})(?:\+(\d{1,3}))?")


@dataclasses.dataclass(frozen=True)
class BoundingBoxes:
    """Boxes of faces, and in which pictures they are.

    Attributes:
        values: int32 [N, 4], x, y, width and height in pixels as the file has them.
        frame: "original": of the photographs before they were aligned; an aligned picture shows another part.
    """

    values: npt.NDArray[np.int32]
    frame: str = "original"

    def __len__(self) -> int:
        return len(self.values)

    def within(self, frame: str) -> npt.NDArray[np.int32]:
        """The boxes in pictures of a frame.

        Raises:
            ValueRangeError: they are in those of another one.
        """
        if frame != self.frame:
            raise ValueRangeError(_BOX_ADVICE.format(frame=self.frame, wanted=frame))
        return self.values


_BOX_ADVICE = (
    "the boxes of list_bbox_celeba are in the {frame} photographs, not in the {wanted} pictures, and are "
    'never applied to them; crop by the five points, as with crop="ffhq", or crop="centre178".'
)


@dataclasses.dataclass(frozen=True)
class _Window(Crop):
    """A square of an aligned picture, `down` pixels below its middle."""

    side: int = 0
    down: int = 0

    @property
    def by_landmarks(self) -> bool:
        return False

    def matrix(self, height: int, width: int, points: Any) -> npt.NDArray[np.float64]:
        left, top = (width - self.side) // 2, (height - self.side) // 2 + self.down
        scale = (self.size or self.side) / self.side
        return np.array([[scale, 0.0, -scale * left], [0.0, scale, -scale * top]])

    def apply(self, pixels: Pixels, points: Any) -> tuple[Pixels, npt.NDArray[np.float64]]:
        height, width = pixels.shape[:2]
        left, top = (width - self.side) // 2, (height - self.side) // 2 + self.down
        part = pixels[top : top + self.side, left : left + self.side]
        size = self.size or self.side
        return (
            part if size == self.side else square_picture(part, size),
            self.matrix(height, width, points),
        )


class CelebA(Photographs):
    """The aligned pictures of CelebA in the order of their names, in any of its three layouts.

    All tables are read in about a second, no picture is. What is not there is left out: without
    identity_CelebA there is no column `identity`, and `split` counts each picture as a person. Columns: the
    40 attributes as truth values, `identity` and `partition` ("train", "valid", "test"). Landmarks "5pt" are
    in pixels with centres at +0.5: half a pixel is added to the numbers of the file.

    `boxes` holds list_bbox_celeba. Its boxes are in the photographs before alignment; to crop by them is an
    error.

    Args:
        root: folder or .zip.
        split: one part of list_eval_partition; everything by default.
        crop: None for 178 x 218; "centre178" for the square in the middle, "centre178+15" for the one 15
            pixels lower, or any other side and shift; "ffhq", "arcface112" or another crop by landmarks.
        size: height and width of the crop; by default that of a centre crop, else 128.
        on_problem: "stop", or "skip" pictures that cannot be used; `problems` lists them.
        verify: decode every picture now; else a damaged one, or one that is not 178 x 218, is an error when
            it is read.

    Raises:
        DataError: no such tree, nothing that can be used, a split without list_eval_partition; with "stop"
            also every problem of the tables, each with file and line: rows that are wrong, pictures without
            row and rows without picture, a count that is not that of the rows.
        ValueRangeError: an unknown split or crop.
    """

    boxes: BoundingBoxes | None

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None = None,
        *,
        crop: str | None = None,
        size: int | None = None,
        on_problem: OnProblem = "stop",
        verify: bool = False,
    ) -> None:
        if split is not None and split not in PARTITIONS:
            raise ValueRangeError(f"split must be one of {', '.join(PARTITIONS)}, or None; got {split!r}.")
        window = _window(crop, size)
        super().__init__(
            root,
            crop=None if window else crop,
            size=None if window else size,
            on_problem=on_problem,
            verify=verify,
        )
        self._crop = window or self._crop
        self.part = split
        names = self._source.names()
        pictures = self._pictures(names)
        tables = self._tables(names)
        if split is not None and "list_eval_partition" not in tables:
            raise DataError(f"{self.path} has no list_eval_partition; open it with split=None")
        if self._crop.by_landmarks and "list_landmarks_align_celeba" not in tables:
            raise DataError(
                f"{self.path} has no list_landmarks_align_celeba, and the crop {crop!r} needs its points; "
                'take "centre178" or None'
            )
        files, rows = self._joined(pictures, tables)
        if split is not None:
            part = tables["list_eval_partition"].values[rows["list_eval_partition"], 0]
            chosen = np.flatnonzero(part == PARTITIONS.index(split))
            files = [files[i] for i in chosen.tolist()]
            rows = {kind: row[chosen] for kind, row in rows.items()}
        self._take(files, {kind: tables[kind].values[row] for kind, row in rows.items()})

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        part = f" {self.part}" if self.part else ""
        return f"CelebA({str(self.path)!r}{part}: {len(self)} x [{height}, {width}, {channels}])"

    @property
    def label_schema(self) -> LabelSchema:
        return LabelSchema("multi-hot", self.label_names) if self.label_names else LabelSchema()

    def _pictures(self, names: Sequence[str]) -> dict[str, str]:
        """Name without suffix -> file, in order."""
        found: dict[str, list[str]] = {folder: [] for folder in CELEBA_FOLDERS}
        for name in names:
            folder, _, _ = name.rpartition("/")
            if folder in found and name.lower().endswith((".jpg", ".jpeg", ".png")):
                found[folder].append(name)
        for files in found.values():
            if files:
                return self._by_stem(files)
        packed = [n for n in names if n.endswith((".zip", ".7z")) and "img_align_celeba" in n]
        advice = f"unpack {packed[0]} there" if packed else "give the folder that holds it"
        if any("img_celeba/" in name for name in names):
            advice += "; img_celeba has the photographs before alignment, which are not read"
        raise DataError(
            f"{self.path} has no pictures in img_align_celeba (nor in {', '.join(CELEBA_FOLDERS[1:])}); "
            f"{advice}"
        )

    def _by_stem(self, files: Sequence[str]) -> dict[str, str]:
        stems: dict[str, str] = {}
        for name in files:
            first = stems.setdefault(_stem(name), name)
            if first != name:
                self.problems.add(name, None, "twice", f"is the same picture as {first}; that counts")
        return stems

    def _tables(self, names: Sequence[str]) -> dict[str, Table]:
        """The tables that are there and can be read."""
        found = {}
        for kind, source in celeba_tables(names).items():
            if len(source) > 1:
                raise DataError(f"{self.path} has {' and '.join(source)}; keep one of them")
            table = read_table(source[0], self._source.read(source[0]), self.problems)
            if table is not None:
                found[kind] = table
        if not found:
            self.problems.settle()
            told = f": {self.problems.message()}" if len(self.problems) else ""
            raise DataError(
                f"{self.path} has no table of CelebA that can be read, such as list_attr_celeba.txt{told}; "
                "pictures without tables are an ImageFolder"
            )
        return found

    def _joined(
        self, pictures: dict[str, str], tables: dict[str, Table]
    ) -> tuple[list[str], dict[str, npt.NDArray[np.int64]]]:
        """Pictures with a sound row in every table, in order, and their rows by table."""
        stems = list(pictures)
        told: set[str] = set()
        rows = {}
        usable = np.ones(len(stems), bool)
        for kind, table in tables.items():
            listed = table.stems()
            if listed == stems:
                rows[kind] = np.arange(len(stems))
                continue
            place = {stem: row for row, stem in enumerate(listed)}
            found = np.array([place.get(stem, -1) for stem in stems], np.int64)
            bad = {_stem(name) for name in table.bad}
            for i in np.flatnonzero(found < 0).tolist():
                if stems[i] not in bad:
                    reason = f"has no row in {table.source}"
                    self.problems.add(pictures[stems[i]], None, "label-missing", reason)
            for stem in sorted(place.keys() - pictures.keys() - told):
                row = place[stem]
                reason = f"{table.names[row]} is not among the pictures"
                self.problems.add(table.source, int(table.lines[row]), "missing-picture", reason)
            told |= place.keys() - pictures.keys()
            rows[kind] = found
            usable &= found >= 0
        kept = np.flatnonzero(usable)
        files = list(pictures.values())
        return [files[i] for i in kept.tolist()], {kind: row[kept] for kind, row in rows.items()}

    def _take(self, files: list[str], values: dict[str, npt.NDArray[np.int32]]) -> None:
        """Adopt the pictures with their rows of each table."""
        if self._verify:
            shapes = self._examined(files)
            for name, (height, width, _) in shapes.items():
                if (height, width) != CELEBA_SIZE:
                    self.problems.add(name, None, "size", _size_reason(height, width))
            bad = self.problems.files()
            sound = [i for i, name in enumerate(files) if name in shapes and name not in bad]
            files = [files[i] for i in sound]
            values = {kind: rows[sound] for kind, rows in values.items()}
        table: dict[str, npt.NDArray[Any]] = {}
        if "identity_CelebA" in values:
            table["identity"] = values["identity_CelebA"][:, 0].astype(np.int64)
        if "list_eval_partition" in values:
            table["partition"] = np.array(PARTITIONS)[values["list_eval_partition"][:, 0]]
        if "list_attr_celeba" in values:
            holds = np.ascontiguousarray(values["list_attr_celeba"].T == 1)
            table |= dict(zip(CELEBA_ATTRIBUTES, holds, strict=True))
            self.label_names = CELEBA_ATTRIBUTES
        points = {}
        if "list_landmarks_align_celeba" in values:
            numbers = values["list_landmarks_align_celeba"].astype(np.float32)
            points["5pt"] = numbers.reshape(-1, 5, 2) + np.float32(HALF_PIXEL)
        kept = self._adopt(files, [(*CELEBA_SIZE, 3)] * len(files), points, table)
        boxes = values.get("list_bbox_celeba")
        self.boxes = None if boxes is None else BoundingBoxes(boxes[kept])

    def _picture(self, name: str) -> Pixels:
        pixels = super()._picture(name)
        if pixels.shape[:2] != CELEBA_SIZE:
            raise DataError(f"{self._source.where(name)}: {_size_reason(pixels.shape[0], pixels.shape[1])}")
        return pixels

    def _label(self, index: int, sample: Sample) -> None:
        sample.attributes = {name: bool(self._table[name][index]) for name in self.label_names}
        if "identity" in self._table:
            sample.identity = int(self._table["identity"][index])


def celeba_tables(names: Sequence[str]) -> dict[str, list[str]]:
    """The files among `names` that are tables of CelebA, by table."""
    there = set(names)
    found = {}
    for kind in COLUMNS:
        places = [f"{folder}{kind}{suffix}" for folder in _TABLE_FOLDERS for suffix in (".txt", ".csv")]
        files = [place for place in places if place in there]
        if files:
            found[kind] = files
    return found


def _stem(name: str) -> str:
    base = name.rpartition("/")[2]
    return base.rpartition(".")[0] or base


def _size_reason(height: int, width: int) -> str:
    return f"is {width} x {height} (width x height); aligned pictures of CelebA are 178 x 218"


def _window(crop: str | None, size: int | None) -> _Window | None:
    """The window of a crop named centreSIDE or centreSIDE+DOWN; None of another crop.

    Raises:
        ValueRangeError: a window that leaves the picture, or a crop by boxes.
    """
    if crop in ("bbox", "box", "boxes"):
        raise ValueRangeError(_BOX_ADVICE.format(frame="original", wanted="aligned"))
    match = _CENTRE.fullmatch(crop or "")
    if match is None:
        return None
    side, down = int(match[1]), int(match[2] or 0)
    height, width = CELEBA_SIZE
    if not 4 <= side <= width or (height - side) // 2 + down + side > height:
        raise ValueRangeError(
            f"a centre crop must lie within 178 x 218, such as centre178 or centre128+12; got {crop!r}."
        )
    return _Window(crop, side if size is None else size, side, down)

"""The Multi-Task Facial Landmark dataset (MTFL): five points, gender, smile, glasses and pose of photographs.

training.txt, testing.txt     a line for each picture: path, x1..x5, y1..y5, gender, smile, glasses, pose
lfw_5590/ net_7876/ AFLW/     the pictures, each of its own size

Points are eyes, nose tip and mouth corners, image left first. Codes: gender 1 male, 2 female; smile 1 yes,
2 no; glasses 1 yes, 2 no; pose 1 left profile, 2 left, 3 frontal, 4 right, 5 right profile. Paths have
backslashes and a blank before them. Source: Zhang, Luo, Loy, Tang: "Facial landmark detection by deep
multi-task learning", ECCV 2014, and the text files of the dataset.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.photographs import HALF_PIXEL, LARGEST_COORDINATE, Photographs
from pyface.data.problems import OnProblem, Problem
from pyface.data.sample import Sample
from pyface.errors import DataError, ValueRangeError

__all__ = ["CODES", "MTFL", "POSES", "SPLITS", "person_in"]

SPLITS = {"training": "training.txt", "testing": "testing.txt"}

# column -> (lowest code, highest code, what they mean)
CODES = {
    "gender": (1, 2, "1 male, 2 female"),
    "smile": (1, 2, "1 smiling, 2 not"),
    "glasses": (1, 2, "1 worn, 2 not"),
    "pose": (1, 5, "1 left profile, 2 left, 3 frontal, 4 right, 5 right profile"),
}

# words for the codes 1 to 5 of a pose
POSES = ("left profile", "left", "frontal", "right", "right profile")

# name of an attribute in CelebA -> (column, code for yes)
_ATTRIBUTES = {"Male": ("gender", 1), "Smiling": ("smile", 1), "Eyeglasses": ("glasses", 1)}

_NUMBERS = 10 + len(CODES)
_PERSON = re.compile(r"(.*[A-Za-z].*)_\d{4}")


@dataclasses.dataclass(frozen=True)
class _Row:
    """One sound line: `codes` in the order of CODES."""

    file: str
    split: str
    line: int
    points: npt.NDArray[np.float32]
    codes: tuple[int, ...]


class MTFL(Photographs):
    """Photographs of MTFL, the training part first, in the order of its annotation files.

    The pictures have different sizes: samples come as they are, and `images()` (and with it training) needs a
    crop. `crop="face"` frames the head as FFHQ does, `crop="mouth"` the mouth in a way that a smile does not
    change. Landmarks are "5pt" in pixels with centres at +0.5: half a pixel is added to the numbers of the
    files.

    Columns: gender, smile, glasses and pose with the codes of the files (see the top of this module), so that
    `filter(smile=1, pose=3)` takes smiling frontal faces; Male, Smiling and Eyeglasses as truth values under
    CelebA's names; split; and identity. The files name nobody. Pictures named as those of LFW are
    (First_Last_0001.jpg) count as one person for each name, any other picture as a person of its own, so that
    `split` and `folds` keep people apart where the names tell them.

    Args:
        root: folder or .zip that holds training.txt and testing.txt, or one of them.
        split: "training", "testing", or "all" that are there.
        crop: see `pyface.data.photographs.Photographs`.
        size: height and width of a crop.
        on_problem: "stop", or "skip" the pictures whose line or file is bad; `problems` lists them.
        verify: decode the pictures now, see `Photographs`.

    Raises:
        DataError: no picture that can be used; with "stop", problems, each with file, line and reason.
        ValueRangeError: bad arguments.
    """

    label_names = ("Male", "Smiling", "Eyeglasses")

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "all",
        *,
        crop: str | None = None,
        size: int | None = None,
        on_problem: OnProblem = "stop",
        verify: bool = False,
    ) -> None:
        if split not in ("all", *SPLITS):
            raise ValueRangeError(f"split must be all, training or testing; got {split!r}.")
        super().__init__(root, crop=crop, size=size, on_problem=on_problem, verify=verify)
        self.part = split
        everyone = self._read_rows()
        rows = [row for row in everyone if split in ("all", row.split)]
        shapes = self._examined(row.file for row in rows)
        rows = [row for row in rows if row.file in shapes]
        points = np.stack([row.points for row in rows]) if rows else np.zeros((0, 5, 2), np.float32)
        people = {name: i for i, name in enumerate(sorted({person_in(row.file) for row in everyone}))}
        files = [row.file for row in rows]
        kept = self._adopt(files, [shapes[f] for f in files], {"5pt": points}, _columns(rows, people))
        self._rows = [rows[i] for i in kept]

    def __repr__(self) -> str:
        return f"MTFL({str(self.path)!r}: {len(self)} pictures ({self.part}))"

    def _read_rows(self) -> list[_Row]:
        """Sound lines of the annotation files that are there, of both parts."""
        names = set(self._source.names())
        found = {part: name for part, name in SPLITS.items() if name in names}
        if not found or (self.part != "all" and self.part not in found):
            wanted = " or ".join(SPLITS.values()) if self.part == "all" else SPLITS[self.part]
            raise DataError(f"{self.path} has no {wanted}; give the folder of MTFL that holds it")
        rows: dict[str, _Row] = {}
        for part, name in found.items():
            for row in self._lines(part, name):
                if row.file in rows:
                    before = rows[row.file]
                    where = f"{SPLITS[before.split]} line {before.line}"
                    self.problems.add(
                        row.file, row.line, "twice", f"stands in {where} already, which counts", name
                    )
                elif row.file not in names:
                    self.problems.add(row.file, row.line, "missing", "is not there", name)
                else:
                    rows[row.file] = row
        return list(rows.values())

    def _lines(self, part: str, name: str) -> Iterator[_Row]:
        data = self._source.read(name).removeprefix(codecs.BOM_UTF8)
        if not data.strip():
            self.problems.add(name, None, "empty", "has no lines")
        for line, content in enumerate(data.splitlines(), 1):
            try:
                words = content.decode("utf-8")
            except UnicodeDecodeError as error:
                self.problems.add(name, line, "not-text", f"is not UTF-8 text: {error.reason}")
                continue
            if words.strip():
                row = _parsed(words, line, part, name)
                if isinstance(row, Problem):
                    self.problems.extend([row])
                else:
                    yield row

    def _label(self, index: int, sample: Sample) -> None:
        sample.identity = int(self._table["identity"][index])
        sample.attributes = {name: bool(self._table[name][index]) for name in _ATTRIBUTES}


def person_in(file: str) -> str:
    """Who a picture shows: the name in First_Last_0001.jpg, without its folder; else the whole path."""
    stem = posixpath.splitext(posixpath.basename(file))[0]
    match = _PERSON.fullmatch(stem)
    return match[1] if match else file


def _parsed(text: str, line: int, part: str, source: str) -> _Row | Problem:
    """A line as a row, or what is wrong with it; blanks within a path are kept."""
    words = text.split()
    if len(words) <= _NUMBERS:
        reason = f"must have a path and {_NUMBERS} numbers; got {len(words)} words: {text.strip()[:60]!r}"
        return Problem(source, line, "form", reason)
    path = text.strip().rsplit(maxsplit=_NUMBERS)[0]
    file = posixpath.normpath(path.strip().replace("\\", "/"))
    try:
        numbers = [float(word) for word in words[-_NUMBERS:]]
    except ValueError:
        bad = next(word for word in words[-_NUMBERS:] if not _is_number(word))
        return Problem(file, line, "form", f"{bad!r} is not a number", source)
    if file.startswith(("../", "/")):
        return Problem(file, line, "outside", "lies outside of the dataset", source)
    if not all(abs(number) <= LARGEST_COORDINATE for number in numbers):
        return Problem(file, line, "not-finite", "has a number that is not finite, or far too large", source)
    codes = []
    for value, (name, (low, high, meaning)) in zip(numbers[10:], CODES.items(), strict=True):
        if value not in range(low, high + 1):
            return Problem(file, line, "range", f"{name} must be {meaning}; got {value:g}", source)
        codes.append(int(value))
    points = np.array([numbers[:5], numbers[5:10]]).T + HALF_PIXEL
    return _Row(file, part, line, points.astype(np.float32), tuple(codes))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _columns(rows: Sequence[_Row], people: dict[str, int]) -> dict[str, npt.NDArray[Any]]:
    table: dict[str, npt.NDArray[Any]] = {
        "identity": np.array([people[person_in(row.file)] for row in rows], np.int64),
        "split": np.array([row.split for row in rows], str),
    }
    for i, name in enumerate(CODES):
        table[name] = np.array([row.codes[i] for row in rows], np.int64)
    for name, (column, yes) in _ATTRIBUTES.items():
        table[name] = table[column] == yes
    return table

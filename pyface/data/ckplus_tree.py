"""The files of the extended Cohn-Kanade dataset (CK+), as they lie on disk.

cohn-kanade-images/S005/001/S005_001_00000011.png       frames of a sequence, from neutral to peak
Landmarks/S005/001/S005_001_00000011_landmarks.txt      68 lines "x y" for each frame
FACS/S005/001/S005_001_00000011_facs.txt                lines "unit intensity", of the last frame
Emotion/S005/001/S005_001_00000011_emotion.txt          one number, of the last frame, not for every sequence

Numbers are in e-notation. The four folders may lie in further ones, as their archives unpack. Source: Lucey,
Cohn, Kanade, Saragih, Ambadar, Matthews: "The extended Cohn-Kanade dataset (CK+)", CVPR workshops 2010.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pyface.data.files import IMAGE_SUFFIXES
from pyface.data.photographs import HALF_PIXEL, LARGEST_COORDINATE
from pyface.data.problems import Problems

__all__ = [
    "CKPLUS_UNITS",
    "EMOTION_CODES",
    "FOLDERS",
    "SequenceFiles",
    "SequenceKey",
    "parse_emotion",
    "parse_facs",
    "parse_landmarks",
    "sequence_files",
]

FOLDERS = {
    "picture": "cohn-kanade-images",
    "landmarks": "Landmarks",
    "facs": "FACS",
    "emotion": "Emotion",
}

# number in an emotion file -> word; the words of `pyface.data.EMOTIONS`, and contempt
EMOTION_CODES = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")

# action units that the dataset's documentation counts
CKPLUS_UNITS = (
    1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 24, 25, 26, 27, 28, 29, 31, 34, 38,
    39, 43,
)  # fmt: skip

_POINTS = 68
_WHOLE = 1e-3  # how far a number may be from a whole one

SequenceKey = tuple[str, str]  # ("S005", "001")

_NAME = re.compile(r"(S\d{3,})_(\d{3,})_(\d+)(?:_(landmarks|facs|emotion))?")


@dataclasses.dataclass
class SequenceFiles:
    """Files of one sequence, by frame number where there is one for each frame."""

    pictures: dict[int, str] = dataclasses.field(default_factory=dict)
    landmarks: dict[int, str] = dataclasses.field(default_factory=dict)
    facs: dict[int, str] = dataclasses.field(default_factory=dict)
    emotion: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames that have a picture, in order."""
        return sorted(self.pictures)


def sequence_files(names: Iterable[str], problems: Problems) -> dict[SequenceKey, SequenceFiles]:
    """The files of each sequence, in order of subject and sequence.

    Files elsewhere, and those that are neither pictures nor texts, are not looked at.
    """
    found: dict[SequenceKey, SequenceFiles] = {}
    kinds = {folder: kind for kind, folder in FOLDERS.items()}
    for name in names:
        parts = name.split("/")
        kind = kinds.get(parts[-4]) if len(parts) >= 4 else None
        suffixes = IMAGE_SUFFIXES if kind == "picture" else (".txt",)
        if kind is None or not parts[-1].lower().endswith(suffixes):
            continue
        match = _NAME.fullmatch(parts[-1].rpartition(".")[0])
        if match is None or (match[4] or "picture") != kind:
            form = "S005_001_00000011" + ("" if kind == "picture" else f"_{kind}") + suffixes[0]
            problems.add(name, None, "name", f"is not named as a file of {FOLDERS[kind]} is, such as {form}")
        elif [match[1], match[2]] != parts[-3:-1]:
            problems.add(
                name, None, "name", f"lies in {parts[-3]}/{parts[-2]}, but its name is of another sequence"
            )
        else:
            files = found.setdefault((match[1], match[2]), SequenceFiles())
            by_frame = files.pictures if kind == "picture" else getattr(files, kind)
            frame = int(match[3])
            if frame in by_frame:
                problems.add(name, None, "twice", f"is of the same frame as {by_frame[frame]}, which counts")
            else:
                by_frame[frame] = name
    return dict(sorted(found.items()))


def _numbers(data: bytes, file: str, width: int, problems: Problems) -> list[tuple[int, list[float]]] | None:
    """Line numbers and the `width` finite numbers of each line; None when that is not what it holds."""
    if not data:
        problems.add(file, None, "empty", "has zero bytes")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add(file, None, "not-text", "is not text")
        return None
    rows = []
    sound = True
    for line, words in enumerate((words.split() for words in text.splitlines()), 1):
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) == width and all(map(math.isfinite, row)):
            rows.append((line, row))
        else:
            wanted = "one number" if width == 1 else f"{width} numbers"
            problems.add(file, line, "form", f"must be {wanted}; got {' '.join(words)[:60]!r}")
            sound = False
    if sound and not rows:
        problems.add(file, None, "empty", "has no numbers")
    return rows if sound and rows else None


def _whole(value: float, low: int, high: int) -> int | None:
    nearest = round(value)
    return nearest if abs(value - nearest) <= _WHOLE and low <= nearest <= high else None


def parse_facs(data: bytes, file: str, problems: Problems) -> dict[int, float] | None:
    """Action units that are present: number -> intensity 0.2 (A) to 1 (E), or NaN when it is not given.

    One line that cannot be read makes the whole file unknown, as a unit that is not listed counts as absent.

    Args:
        data: lines "unit intensity"; the intensity is 1 to 5 for A to E, or 0.
        file: its name in problems.
        problems: where they are noted.
    """
    rows = _numbers(data, file, 2, problems)
    if rows is None:
        return None
    units: dict[int, float] = {}
    sound = True
    for line, (number, intensity) in rows:
        unit, letter = _whole(number, 1, 999), _whole(intensity, 0, 5)
        if unit is None:
            problems.add(file, line, "range", f"{number:g} is not the number of an action unit")
        elif letter is None:
            problems.add(
                file, line, "range", f"intensity must be a whole number from 0 to 5; got {intensity:g}"
            )
        else:
            value = letter / 5 if letter else math.nan
            before = units.setdefault(unit, value)
            if before == value or (math.isnan(before) and math.isnan(value)):
                continue
            problems.add(file, line, "twice", f"action unit {unit} stands here with another intensity too")
        sound = False
    return units if sound else None


def parse_emotion(data: bytes, file: str, problems: Problems) -> str | None:
    """One of EMOTION_CODES; None when the file does not say which."""
    rows = _numbers(data, file, 1, problems)
    if rows is None:
        return None
    line, (value,) = rows[0]
    code = _whole(value, 0, len(EMOTION_CODES) - 1)
    if len(rows) > 1:
        problems.add(file, rows[1][0], "form", f"must hold one number; got {len(rows)}")
        return None
    if code is None:
        last = len(EMOTION_CODES) - 1
        problems.add(file, line, "range", f"emotion must be a whole number from 0 to {last}; got {value:g}")
        return None
    return EMOTION_CODES[code]


def parse_landmarks(data: bytes, file: str, problems: Problems) -> npt.NDArray[np.float32] | None:
    """iBUG points float32 [68, 2] in pixels, pixel centres at +0.5 (HALF_PIXEL is added here)."""
    rows = _numbers(data, file, 2, problems)
    if rows is None:
        return None
    if len(rows) != _POINTS:
        problems.add(file, None, "landmarks", f"must have {_POINTS} points; got {len(rows)}")
        return None
    far = next((line for line, row in rows if max(map(abs, row)) > LARGEST_COORDINATE), None)
    if far is not None:
        problems.add(file, far, "range", "has a coordinate that is far outside of any picture")
        return None
    return (np.array([row for _, row in rows]) + HALF_PIXEL).astype(np.float32)

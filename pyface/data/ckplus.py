"""The extended Cohn-Kanade dataset (CK+): sequences from neutral to peak with action units and emotions."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.ckplus_tree import (
    CKPLUS_UNITS,
    SequenceFiles,
    SequenceKey,
    parse_emotion,
    parse_facs,
    parse_landmarks,
    sequence_files,
)
from pyface.data.cropping import middle_picture
from pyface.data.files import DatasetFiles
from pyface.data.photographs import Photographs
from pyface.data.problems import OnProblem, Problems
from pyface.data.sample import Pixels, Sample
from pyface.errors import DataError, ValueRangeError

__all__ = ["CKPlus"]

_SCHEME = "ibug68"


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What is known of a sequence's peak: units present (None: not coded), by number; and the emotion."""

    units: dict[int, float] | None
    emotion: str | None


@dataclasses.dataclass(frozen=True)
class _Frame:
    """One picture of the dataset. `phase` is "neutral", "rise" or "peak"; labels are None where not known."""

    key: SequenceKey
    number: int
    file: str
    phase: str
    units: Mapping[int, float] | None
    emotion: str | None
    landmarks: str | None


class CKPlus(Photographs):
    """Frames of CK+ in order of subject, sequence and frame; `pyface.data.ckplus_tree` shows the files.

    The peak has the sequence's action units and emotion. The first of several frames is neutral: emotion
    "neutral", all units 0. Frames between have the peak's labels with "last:k", which is what one asks for
    them for; with "all" their labels are not known.

    An emotion that is not known is None in a sample and "" in the column. A unit that is present without an
    intensity is NaN in `Sample.action_units` and in its column AU12, and 1 in the column AU12_present; one
    that is absent is 0 in both. Where nobody coded the frame both are NaN, and the sample has no units.
    Landmarks are "ibug68" in pixels with centres at +0.5: half a pixel is added to the numbers of the files.

    Columns: identity (S005 is 5), subject, sequence, frame, phase (neutral, rise, peak), emotion, facs (the
    units are known), AU1..., AU1_present...

    Args:
        root: folder or .zip that holds cohn-kanade-images, Landmarks, FACS and Emotion, or folders around
            them. Only the first must be there.
        frames: "peak", "neutral+peak", "all", or "last:k" for up to k frames without the first of several.
        action_units: numbers or names of the units that samples and columns have; by default the 30 of the
            dataset. Others that are coded are in `extras`.
        crop: see `pyface.data.photographs.Photographs`; frames are 640 x 490 or 640 x 480, most are grey.
        size: height and width of a crop.
        on_problem: "stop", or "skip" pictures, landmarks and labels that cannot be used; `problems` lists
            them. Labels of a file that is bad in one place are not known.
        verify: decode the chosen frames now, see `Photographs`.

    Raises:
        DataError: no frame that can be used; with "stop", problems, each with file, line and reason.
        ValueRangeError: bad arguments.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        frames: str = "peak",
        action_units: Sequence[int | str] | None = None,
        *,
        crop: str | None = None,
        size: int | None = None,
        on_problem: OnProblem = "stop",
        verify: bool = False,
    ) -> None:
        last = _frames_asked_for(frames)
        self.units = _checked_units(action_units)
        super().__init__(root, crop=crop, size=size, on_problem=on_problem, verify=verify)
        self.frames = frames
        self._sequences = self._read_sequences()
        self._labels = {
            key: _labels_of(self._source, key, files, self.problems) for key, files in self._sequences.items()
        }
        chosen = [
            frame
            for key, files in self._sequences.items()
            for frame in _chosen_frames(key, files, self._labels[key], frames, last, self.problems)
        ]
        shapes = self._examined(frame.file for frame in chosen)
        self._chosen = [frame for frame in chosen if frame.file in shapes]
        points = self._read_landmarks()
        files = [frame.file for frame in self._chosen]
        kept = self._adopt(files, [shapes[file] for file in files], points, self._columns())
        self._chosen = [self._chosen[i] for i in kept]
        self.label_names = tuple(f"AU{unit}_present" for unit in self.units)

    def __repr__(self) -> str:
        known = sum(labels.emotion is not None for labels in self._labels.values())
        people = len({subject for subject, _ in self._sequences})
        return (
            f"CKPlus({str(self.path)!r}: {len(self)} pictures ({self.frames}); "
            f"{len(self._sequences)} sequences of {people} people, {known} with an emotion)"
        )

    @property
    def sequences(self) -> list[SequenceKey]:
        """(subject, sequence) of every sequence with pictures, such as ("S005", "001"), in order."""
        return list(self._sequences)

    @property
    def extras(self) -> dict[SequenceKey, dict[str, float]]:
        """Units that are coded but are no columns, of the sequences that have some: "AU62" -> intensity."""
        others = {
            key: {f"AU{n}": v for n, v in (labels.units or {}).items() if n not in self.units}
            for key, labels in self._labels.items()
        }
        return {key: units for key, units in others.items() if units}

    def emotions(self) -> dict[SequenceKey, str | None]:
        """The emotion of every sequence; None where there is none."""
        return {key: labels.emotion for key, labels in self._labels.items()}

    def action_units(self, with_intensity: bool = False) -> dict[SequenceKey, dict[str, float] | None]:
        """The units that are present at the peak of every sequence; None where nobody has coded it.

        Args:
            with_intensity: give intensities from 0.2 to 1, NaN where only the presence is known; else 1 each.
        """
        return {
            key: None
            if labels.units is None
            else {
                f"AU{unit}": value if with_intensity else 1.0
                for unit, value in sorted(labels.units.items())
                if unit in self.units
            }
            for key, labels in self._labels.items()
        }

    def action_unit_sums(self, with_intensity: bool = False) -> dict[str, float]:
        """Of each unit: how many sequences show it; `with_intensity`: the sum of the intensities known."""
        coded = [units for units in self.action_units(with_intensity).values() if units is not None]
        names = [f"AU{unit}" for unit in self.units]
        return {
            name: math.fsum(u[name] for u in coded if name in u and not math.isnan(u[name])) for name in names
        }

    def aus_with_min_rate(self, rate: float) -> list[str]:
        """Units that at least this share of all sequences show (also of those that nobody has coded)."""
        least = rate * len(self._sequences)
        return [name for name, count in self.action_unit_sums().items() if count >= least - 1e-9]

    def peak_frames(self, size: int, square: bool = True) -> Pixels:
        """The peak of every sequence, in the order of `sequences`, whatever `frames` is: uint8 [S, H, W, C].

        Args:
            size: width of a picture.
            square: show the square in the middle; else the middle part that is 3/4 as high as wide, which is
                all of a frame of 640 x 480.

        Raises:
            DataError: a peak that cannot be read.
            ValueRangeError: size is below 4.
        """
        if size < 4:
            raise ValueRangeError(f"size must be at least 4 pixels; got {size}.")
        height = size if square else round(0.75 * size)
        peaks = [files.pictures[files.frames[-1]] for files in self._sequences.values()]
        pixels = [middle_picture(self._picture(name), height, size) for name in peaks]
        channels = max(p.shape[2] for p in pixels)
        return np.stack([np.broadcast_to(p, (height, size, channels)) for p in pixels])

    def _read_sequences(self) -> dict[SequenceKey, SequenceFiles]:
        """All sequences with pictures."""
        found = sequence_files(self._source.names(), self.problems)
        if not any(files.pictures for files in found.values()):
            raise DataError(
                f"{self.path} has no pictures of CK+, such as cohn-kanade-images/S005/001/"
                "S005_001_00000011.png; give the folder that holds cohn-kanade-images, Landmarks, FACS and "
                "Emotion"
            )
        for key, files in found.items():
            if not files.pictures:
                label = next(iter({**files.landmarks, **files.facs, **files.emotion}.values()))
                self.problems.add(
                    label, None, "no-pictures", f"is of sequence {'/'.join(key)}, which has no pictures"
                )
        return {key: files for key, files in found.items() if files.pictures}

    def _read_landmarks(self) -> dict[str, npt.NDArray[np.float32]]:
        if not any(files.landmarks for files in self._sequences.values()):
            return {}
        points = np.full((len(self._chosen), 68, 2), np.nan, np.float32)
        for row, frame in zip(points, self._chosen, strict=True):
            if frame.landmarks is None:
                continue
            try:
                data = self._source.read(frame.landmarks)
            except DataError as error:
                self.problems.add(frame.landmarks, None, "unreadable", _reason(error, frame.landmarks))
                continue
            found = parse_landmarks(data, frame.landmarks, self.problems)
            if found is not None:
                row[:] = found
        return {_SCHEME: points}

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        frames = self._chosen
        table: dict[str, npt.NDArray[Any]] = {
            "identity": np.array([int(frame.key[0][1:]) for frame in frames], np.int64),
            "subject": np.array([frame.key[0] for frame in frames], str),
            "sequence": np.array([int(frame.key[1]) for frame in frames], np.int64),
            "frame": np.array([frame.number for frame in frames], np.int64),
            "phase": np.array([frame.phase for frame in frames], str),
            "emotion": np.array([frame.emotion or "" for frame in frames], str),
            "facs": np.array([frame.units is not None for frame in frames], bool),
        }
        for unit in self.units:
            values = [math.nan if f.units is None else f.units.get(unit, 0.0) for f in frames]
            present = [math.nan if f.units is None else float(unit in f.units) for f in frames]
            table[f"AU{unit}"] = np.array(values, np.float32)
            table[f"AU{unit}_present"] = np.array(present, np.float32)
        return table

    def _label(self, index: int, sample: Sample) -> None:
        frame = self._chosen[index]
        sample.identity = int(frame.key[0][1:])
        sample.emotion = frame.emotion
        if frame.units is not None:
            sample.action_units = {f"AU{unit}": frame.units.get(unit, 0.0) for unit in self.units}


def _frames_asked_for(frames: str) -> int:
    """k of "last:k", 0 for the other words."""
    match = re.fullmatch(r"last:([1-9]\d*)", frames)
    if match is None and frames not in ("peak", "neutral+peak", "all"):
        raise ValueRangeError(
            f"frames must be peak, neutral+peak, all or last:k, such as last:3; got {frames!r}."
        )
    return int(match[1]) if match else 0


def _checked_units(units: Sequence[int | str] | None) -> tuple[int, ...]:
    if units is None:
        return CKPLUS_UNITS
    numbers = []
    for unit in units:
        text = str(unit).upper().removeprefix("AU")
        if not text.isdecimal() or int(text) < 1:
            raise ValueRangeError(
                f"action_units must be numbers or names such as 12 or 'AU12'; got {unit!r}."
            )
        numbers.append(int(text))
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueRangeError(f"action_units must be different ones, at least one; got {list(units)}.")
    return tuple(numbers)


def _labels_of(source: DatasetFiles, key: SequenceKey, files: SequenceFiles, problems: Problems) -> _Labels:
    def read(kind: str, found: Mapping[int, str], parse: Any) -> Any:
        if not found:
            return None
        name = found[max(found)]
        peak = files.frames[-1]
        if len(found) > 1:
            problems.add(
                name, None, "several", f"is one of {len(found)} files of {'/'.join(key)}; one must be there"
            )
        elif peak not in found:
            reason = f"is of frame {max(found)}, but the last picture of {'/'.join(key)} is frame {peak}"
            problems.add(name, None, "not-peak", reason)
        else:
            try:
                return parse(source.read(name), name, problems)
            except DataError as error:
                problems.add(name, None, "unreadable", _reason(error, name))
        return None

    return _Labels(read("facs", files.facs, parse_facs), read("emotion", files.emotion, parse_emotion))


def _chosen_frames(
    key: SequenceKey, files: SequenceFiles, labels: _Labels, frames: str, last: int, problems: Problems
) -> list[_Frame]:
    numbers = files.frames
    first, peak = numbers[0], numbers[-1]
    chosen = {
        "peak": [peak],
        "neutral+peak": sorted({first, peak}),
        "all": numbers,
    }.get(frames, (numbers[1:] or numbers)[-last:])
    found = []
    for number in chosen:
        phase = "peak" if number == peak else "neutral" if number == first else "rise"
        units, emotion = labels.units, labels.emotion
        if phase == "neutral":
            units, emotion = {}, "neutral"
        elif phase == "rise" and frames == "all":
            units, emotion = None, None
        file = files.pictures[number]
        if files.landmarks and number not in files.landmarks:
            problems.add(
                file, None, "no-landmarks", f"has no landmarks, though other frames of {'/'.join(key)} have"
            )
        found.append(_Frame(key, number, file, phase, units, emotion, files.landmarks.get(number)))
    return found


def _reason(error: DataError, name: str) -> str:
    return str(error).removeprefix(f"{name} ")

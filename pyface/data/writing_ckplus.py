"""Rendered sequences from neutral to peak, written as the extended Cohn-Kanade dataset lies on disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pyface.data.ckplus_tree import EMOTION_CODES, FOLDERS
from pyface.data.emotions import ACTION_UNITS, PROTOTYPES
from pyface.data.ordered import in_order
from pyface.data.output_folder import output_folder
from pyface.data.photographs import HALF_PIXEL
from pyface.data.procedural import Override, draw_faces
from pyface.data.recipe import check_ranges, checked_people, checked_workers, recipe
from pyface.io.atomic import remove_leftovers, write_text
from pyface.io.images import write_image
from pyface.io.rng import Domain, uniforms
from pyface.ops.face_render import face_parameters, face_render

__all__ = ["DrawnSequence", "draw_sequence", "write_ckplus"]

_FORMAT = "pyface-ckplus"

# emotions of the rendered sequences: those of the dataset that have a prototype
_EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise")

# the faces of the dataset look into the camera
_FRONTAL: dict[str, Override] = {
    "yaw": (-0.2, 0.2),
    "pitch": (-0.12, 0.12),
    "roll": (-0.1, 0.1),
    "gaze_x": (-0.4, 0.4),
    "gaze_y": (-0.4, 0.4),
}
_LOOKS_ASIDE = 0.2  # gaze from which eyes are coded as turned; 1 is about 30 degrees


@dataclasses.dataclass(frozen=True)
class DrawnSequence:
    """One sequence before it is rendered.

    Attributes:
        identity: of the person.
        number: of the sequence, from 0.
        emotion: what the face shows at the peak.
        parameters: float32 [F, P] of each frame, in the order of `pyface.ops.face_parameters()`.
        noted: what the FACS file says: unit -> 1 to 5 for A to E, or 0 for present without an intensity.
    """

    identity: int
    number: int
    emotion: str
    parameters: npt.NDArray[np.float32]
    noted: dict[int, int]

    @property
    def frames(self) -> int:
        return len(self.parameters)

    def file(self, kind: str, frame: int) -> str:
        """The file of a frame, from 0: `kind` is one of `pyface.data.ckplus_tree.FOLDERS`."""
        subject, sequence = f"S{self.identity:03d}", f"{self.number + 1:03d}"
        ending = ".png" if kind == "picture" else f"_{kind}.txt"
        stem = f"{subject}_{sequence}_{frame + 1:08d}"
        return f"{FOLDERS[kind]}/{subject}/{sequence}/{stem}{ending}"


def draw_sequence(
    seed: int,
    identity: int,
    number: int,
    frames: int = 6,
    *,
    uncoded: bool = False,
    overrides: Mapping[str, Override] | None = None,
) -> DrawnSequence:
    """The frames of one sequence: one person in one light, from all units at 0 up to an emotion's.

    The emotion is drawn so that a person does not repeat one within six sequences, and at the peak it is
    strong: its units are raised together until one of them reaches 0.6 to 1. Intensities at the peak are
    rounded to the five letters of FACS before they are rendered, so that what is noted is what is shown.

    Args:
        seed: of the dataset.
        identity: of the person, in [0, 2^32).
        number: of the sequence, from 0.
        frames: at least 2.
        uncoded: note the weakest unit without its intensity.
        overrides: see `pyface.data.draw_faces`; by default head and eyes are towards the camera.
    """
    order = np.argsort(uniforms(seed, Domain.SHUFFLE, identity, 0, len(_EMOTIONS))[0])
    wanted: dict[str, Override] = {**_FRONTAL, "emotion": _EMOTIONS[order[number % len(_EMOTIONS)]]}
    wanted |= overrides or {}
    emotion = str(wanted["emotion"])
    peak = draw_faces(seed, identity, number, wanted).parameters[0]
    column = {p.name: i for i, p in enumerate(face_parameters())}
    units = [column[f"au{unit}"] for unit in ACTION_UNITS]
    meant = [column[f"au{unit}"] for unit in PROTOTYPES[emotion] if f"au{unit}" not in wanted]
    if meant:
        apex = 0.6 + 0.4 * uniforms(seed, Domain.SHUFFLE, identity, number + 1, 1).item()
        peak[meant] = np.clip(peak[meant] * max(apex / peak[meant].max(), 1.0), 0.0, 1.0)
    letters = np.rint(peak[units] * 5)
    rise = np.linspace(0.0, 1.0, frames)
    rise = rise**2 * (3.0 - 2.0 * rise)  # slow at both ends
    parameters = np.repeat(peak[None], frames, axis=0)
    parameters[:, units] = (rise[:, None] * (letters / 5)).astype(np.float32)
    noted = {unit: int(n) for unit, n in zip(ACTION_UNITS, letters.tolist(), strict=True) if n}
    if uncoded and noted:
        noted[min(noted, key=lambda unit: noted[unit])] = 0
    noted |= dict.fromkeys(_eye_codes(peak[column["gaze_x"]], peak[column["gaze_y"]]), 0)
    return DrawnSequence(identity, number, emotion, parameters, noted)


def _eye_codes(across: float, up: float) -> Iterator[int]:
    """FACS codes of turned eyes: 61 to the right of the picture (the person's left), 62; 63 up, 64 down."""
    if abs(across) >= _LOOKS_ASIDE:
        yield 61 if across > 0 else 62
    if abs(up) >= _LOOKS_ASIDE:
        yield 63 if up > 0 else 64


def write_ckplus(
    out: str | os.PathLike[str],
    *,
    identities: int | Iterable[int],
    seed: int = 0,
    size: int = 256,
    progress: Callable[[int], None] | None = None,
    sequences: int = 2,
    frames: int = 6,
    grey: bool = True,
    unlabelled_every: int = 6,
    uncoded_every: int = 4,
    overrides: Mapping[str, Override] | None = None,
    workers: int | None = None,
    command: str | None = None,
) -> Path:
    """Render sequences into a folder that `pyface.data.CKPlus` and other readers of CK+ take.

    A run that was stopped is continued by the same call. Every file is there whole or not at all.

    Args:
        out: new, empty, or begun by the same call. card.json in it has the recipe.
        identities: how many people, or their numbers: person 12 is S012.
        seed: of everything drawn.
        size: height and width of a frame in pixels, 16 to 1024.
        progress: called with the number of pictures finished since the last call.
        sequences: of each person, 1 to 999.
        frames: of each sequence, at least 2: from neutral to the peak.
        grey: write grey pictures, as most of the dataset are.
        unlabelled_every: each so manyth sequence has no file with an emotion; 0: all have one.
        uncoded_every: each so manyth sequence has a unit without its intensity; 0: none has.
        overrides: as in `draw_sequence`.
        workers: threads that compress; all cores by default.
        command: the command line, noted in card.json.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds something else or cannot be written.
        ValueRangeError: bad numbers.
    """
    people, workers = checked_people(identities), checked_workers(workers)
    check_ranges(
        ("size", size, 16, 1024),
        ("sequences", sequences, 1, 999),
        ("frames", frames, 2, 99_999_999),
        ("unlabelled_every", unlabelled_every, 0, 10**9),
        ("uncoded_every", uncoded_every, 0, 10**9),
    )
    decided = recipe(
        _FORMAT, seed, overrides, identities=people, size=size, sequences=sequences, frames=frames,
        grey=grey, unlabelled_every=unlabelled_every, uncoded_every=uncoded_every,
    )  # fmt: skip
    draw_sequence(seed, people[0], 0, frames, overrides=overrides)  # bad overrides are found at once
    with output_folder(out, decided, command=command) as (folder, card):
        drawn = _drawn(people, seed, sequences, frames, uncoded_every, overrides)
        _write_jobs(_rendered(folder, drawn, size, grey, unlabelled_every), workers, progress)
        card |= {"sequences": len(people) * sequences, "pictures": len(people) * sequences * frames}
    return folder


def _drawn(
    people: Sequence[int],
    seed: int,
    sequences: int,
    frames: int,
    uncoded_every: int,
    overrides: Mapping[str, Override] | None,
) -> Iterator[DrawnSequence]:
    """Every sequence, person by person."""
    for place in range(len(people) * sequences):
        uncoded = uncoded_every > 0 and place % uncoded_every == uncoded_every - 1
        person, number = people[place // sequences], place % sequences
        yield draw_sequence(seed, person, number, frames, uncoded=uncoded, overrides=overrides)


Job = tuple[int, list[tuple[Path, Any]]]  # pictures done with it; files to write, each a picture or a text


def _rendered(
    folder: Path, drawn: Iterable[DrawnSequence], size: int, grey: bool, unlabelled_every: int
) -> Iterator[Job]:
    """The files of each sequence that are not there yet; a sequence without any is not rendered."""
    for place, sequence in enumerate(drawn):
        labelled = not unlabelled_every or place % unlabelled_every != unlabelled_every - 1
        peak = sequence.frames - 1
        texts = {sequence.file("facs", peak): _facs_text(sequence.noted)}
        if labelled:
            code = EMOTION_CODES.index(sequence.emotion)
            texts[sequence.file("emotion", peak)] = _numbers(code)
        names = [sequence.file(kind, i) for kind in ("picture", "landmarks") for i in range(peak + 1)]
        files: list[tuple[Path, Any]] = []
        if not all((folder / name).exists() for name in names):
            rendered = face_render(
                torch.from_numpy(sequence.parameters), size, ("vis", "landmarks"), backend="cpu"
            )
            pixels, points = rendered["vis"].numpy(), rendered["landmarks"].numpy()[:, :68]
            pictures = [np.asarray(Image.fromarray(p).convert("L")) if grey else p for p in pixels]
            landmarks = ["".join(_numbers(*p) for p in row.astype(float) - HALF_PIXEL) for row in points]
            files = list(zip((folder / n for n in names), [*pictures, *landmarks], strict=True))
        files += [(folder / name, text) for name, text in texts.items()]
        yield sequence.frames, [(path, content) for path, content in files if not path.exists()]


def _write_jobs(jobs: Iterable[Job], workers: int, progress: Callable[[int], None] | None) -> None:
    for count in in_order(_write_files, jobs, workers):
        if progress:
            progress(count)


def _write_files(job: Job) -> int:
    count, files = job
    for parent in {path.parent for path, _ in files}:
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
    for path, content in files:
        if isinstance(content, str):
            write_text(path, content, sync=False)
        else:
            write_image(path, content, sync=False)
    return count


def _facs_text(noted: Mapping[int, int]) -> str:
    return "".join(_numbers(unit, letter) for unit, letter in sorted(noted.items()))


def _numbers(*values: float) -> str:
    """A line of numbers as the dataset writes them, such as "   1.2000000e+01   3.0000000e+00"."""
    return "".join(f"{value:16.7e}" for value in values) + "\n"

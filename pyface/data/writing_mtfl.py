"""Rendered faces, written as the MTFL dataset lies on disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pyface.data.face_attributes import attribute_table
from pyface.data.mtfl import SPLITS
from pyface.data.output_folder import output_folder
from pyface.data.photographs import HALF_PIXEL
from pyface.data.procedural import Override, draw_faces
from pyface.data.recipe import check_ranges, checked_people, checked_workers, recipe
from pyface.io.atomic import make_folder, remove_leftovers, write_text
from pyface.io.images import write_image
from pyface.ops.face_render import face_render

__all__ = ["pose_code", "write_mtfl"]

_FORMAT = "pyface-mtfl"

# folder -> how large its pictures are, in quarters of the size asked for
_FOLDERS = {"lfw_5590": 4, "net_7876": 3, "AFLW": 5}
_BATCH = 32
_TURNED, _PROFILE = math.radians(15), math.radians(45)  # of yaw, from which a pose has another code


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One picture to be written: `size` in pixels, `part` is training or testing."""

    identity: int
    sample: int
    file: str
    size: int
    part: str


def pose_code(yaw: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Codes of MTFL's poses: 3 within 15 degrees of the camera, 2 and 4 up to 45 degrees, 1 and 5 beyond.

    Args:
        yaw: radians, positive to the right of the picture; "left" is read as the left of the picture.
    """
    turned = np.abs(yaw)
    steps = (turned > _TURNED).astype(np.int64) + (turned > _PROFILE)
    return 3 + np.where(yaw > 0, steps, -steps)


def write_mtfl(
    out: str | os.PathLike[str],
    *,
    identities: int | Iterable[int],
    seed: int = 0,
    size: int = 192,
    progress: Callable[[int], None] | None = None,
    samples: int = 3,
    testing_every: int = 4,
    mixed_sizes: bool = True,
    overrides: Mapping[str, Override] | None = None,
    workers: int | None = None,
    command: str | None = None,
) -> Path:
    """Render faces into a folder that `pyface.data.MTFL` and other readers of MTFL take.

    Pictures are JPEG; each is named as those of LFW are, so that the name tells the person. The two
    annotation files appear when all pictures are there; a run that was stopped is continued by the same call.

    Args:
        out: new, empty, or begun by the same call. card.json in it has the recipe.
        identities: how many people, or their numbers.
        seed: of everything drawn.
        size: height and width in pixels of the pictures in lfw_5590, 16 to 1024.
        progress: called with the number of pictures finished since the last call.
        samples: pictures of each person, 1 to 9999.
        testing_every: each so manyth person is in testing.txt, the others in training.txt; 0: nobody is.
        mixed_sizes: pictures of net_7876 are 3/4 as large and those of AFLW 5/4, within 16 to 1024;
            else all have one size.
        overrides: of what is drawn, see `pyface.data.draw_faces`.
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
        ("samples", samples, 1, 9999),
        ("testing_every", testing_every, 0, 10**9),
    )
    decided = recipe(
        _FORMAT, seed, overrides, identities=people, size=size, samples=samples,
        testing_every=testing_every, mixed_sizes=mixed_sizes,
    )  # fmt: skip
    draw_faces(seed, people[:1], 0, overrides)  # bad overrides are found before anything is written
    pictures = _pictures(people, samples, size, testing_every, mixed_sizes)
    with output_folder(out, decided, command=command) as (folder, card):
        lines = _write_pictures(folder, pictures, seed, overrides, workers, progress)
        for part, name in SPLITS.items():
            told = [lines[p.file] for p in pictures if p.part == part]
            if told:
                write_text(folder / name, "".join(told) + " \n")
        card["pictures"] = len(pictures)
    return folder


def _pictures(
    people: Sequence[int], samples: int, size: int, testing_every: int, mixed_sizes: bool
) -> list[_Picture]:
    pictures = []
    for place, person in enumerate(people):
        testing = testing_every > 0 and place % testing_every == testing_every - 1
        for sample in range(samples):
            folder, quarters = list(_FOLDERS.items())[(place + sample) % len(_FOLDERS)]
            wanted = size * quarters // 4 if mixed_sizes else size
            name = f"{folder}/Person_{person:06d}_{sample + 1:04d}.jpg"
            part = "testing" if testing else "training"
            pictures.append(_Picture(person, sample, name, min(max(wanted, 16), 1024), part))
    return pictures


def _batches(pictures: Sequence[_Picture]) -> Iterable[list[_Picture]]:
    """Pictures of one size at a time."""
    for size in sorted({picture.size for picture in pictures}):
        alike = [picture for picture in pictures if picture.size == size]
        for start in range(0, len(alike), _BATCH):
            yield alike[start : start + _BATCH]


def _write_pictures(
    folder: Path,
    pictures: Sequence[_Picture],
    seed: int,
    overrides: Mapping[str, Override] | None,
    workers: int,
    progress: Callable[[int], None] | None,
) -> dict[str, str]:
    """Write the pictures that are not there yet; the line of each one, by its file."""
    for name in _FOLDERS:
        remove_leftovers(make_folder(folder / name))
    lines: dict[str, str] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for batch in _batches(pictures):
            lines |= _write_batch(folder, batch, seed, overrides, pool)
            if progress:
                progress(len(batch))
    return lines


def _write_batch(
    folder: Path,
    batch: Sequence[_Picture],
    seed: int,
    overrides: Mapping[str, Override] | None,
    pool: concurrent.futures.Executor,
) -> dict[str, str]:
    """The same of pictures that have one size."""
    drawn = draw_faces(seed, [p.identity for p in batch], [p.sample for p in batch], overrides)
    parameters = torch.from_numpy(drawn.parameters)
    size = batch[0].size
    missing = [i for i, picture in enumerate(batch) if not (folder / picture.file).exists()]
    if missing:
        pixels = face_render(parameters[missing], size, ("vis",), backend="cpu")["vis"].numpy()
        jobs = [
            pool.submit(write_image, folder / batch[i].file, pixels[row], sync=False)
            for row, i in enumerate(missing)
        ]
        for job in jobs:
            job.result()
    points = face_render(parameters, size, ("landmarks",), backend="cpu")["landmarks"].numpy()[:, 68:73]
    holds = attribute_table(drawn.columns)
    pose = pose_code(drawn.columns["yaw"])
    lines = {}
    for i, picture in enumerate(batch):
        numbers = (points[i].astype(float) - HALF_PIXEL).T.reshape(-1)
        words = [f"{number:.2f}" for number in numbers]
        words += ["1" if holds[name][i] else "2" for name in ("Male", "Smiling", "Eyeglasses")]
        path = picture.file.replace("/", "\\")
        lines[picture.file] = f" {path} {' '.join(words)} {pose[i]}\n"
    return lines

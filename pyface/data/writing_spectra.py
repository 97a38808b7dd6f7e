"""Rendered faces as pairs of visible light and near infrared, which `pyface.data.PairedSpectra` takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pyface.data.procedural import ProceduralFaces
from pyface.data.writing import write_faces

__all__ = ["write_spectra"]


def write_spectra(
    out: str | os.PathLike[str],
    *,
    identities: int,
    seed: int = 0,
    size: int = 128,
    samples: int = 10,
    workers: int | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render VIS/000012_003.png and NIR/000012_003.png, registered, of each person and sample.

    The tree of `pyface.data.writing.write_faces`, with labels.jsonl and dataset.json, and as resumable.

    Args:
        out: folder; new, empty, or holding the beginning of the same dataset.
        identities: number of people.
        seed: of everything drawn.
        size: height and width in pixels.
        samples: pairs of each person.
        workers: threads that render and compress; all cores by default.
        command: the command line, noted in card.json.
        progress: called with the number of pairs finished since the last call.

    Raises:
        DataError: the folder holds something else or cannot be written.
        ValueRangeError: numbers below 1, or a size outside [16, 1024].
    """
    faces = ProceduralFaces(identities, samples, size, ("vis", "nir"), seed)
    return write_faces(faces, out, workers=workers, command=command, progress=progress)

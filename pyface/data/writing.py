"""Writing a rendered dataset to a folder: resumable, nothing half-written, the same bytes on every run."""

from __future__ import annotations

import concurrent.futures
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.data.face_attributes import CONDITIONS
from pyface.data.output_folder import output_folder
from pyface.data.procedural import ProceduralFaces, condition_vector, samples_of
from pyface.data.recipe import checked_workers, recipe
from pyface.data.sample import Sample
from pyface.data.tree import DATASET_JSON, FOLDERS, LABELS, encode_depth, nvidia_labels, record_of
from pyface.errors import ValueRangeError
from pyface.io.atomic import atomic_write, make_folder, remove_leftovers, write_text
from pyface.io.images import write_image, write_image16

__all__ = ["recipe_of", "write_faces"]

_FORMAT = "pyface-rendered-faces"
_BATCH = 32


def recipe_of(faces: ProceduralFaces) -> dict[str, Any]:
    """All that decides the bytes of a dataset: what makes it again, and what a resumed run must agree on."""
    return recipe(
        _FORMAT,
        faces.seed,
        faces.overrides,
        identities=len(faces.identities),
        first_identity=int(faces.identities[0]),
        samples_per_identity=faces.samples_per_identity,
        size=faces.size,
        spectra=list(faces.spectra),
        also=list(faces.extras),
    )


def write_faces(
    faces: ProceduralFaces,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render every picture of `faces` into a folder laid out as `pyface.data.tree` says.

    A run that was stopped is continued by the same call: complete pictures are kept, only missing ones are
    rendered. labels.jsonl and dataset.json appear when all pictures are there.

    Args:
        faces: what to render; its identities must be consecutive.
        out: folder; new, empty, or holding the beginning of the same dataset.
        workers: threads that render and compress; all cores by default.
        command: the command line, noted in card.json.
        progress: called with the number of pictures finished since the last call.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds something else, cannot be written, or the disk is full.
        ValueRangeError: fewer than one worker, or identities with gaps.
    """
    workers = checked_workers(workers)
    if not np.array_equal(faces.identities, faces.identities[0] + np.arange(len(faces.identities))):
        raise ValueRangeError(
            "identities must be consecutive numbers to be written; give a count or a range."
        )
    with output_folder(out, recipe_of(faces), command=command) as (folder, card):
        for kind in _kinds(faces):
            remove_leftovers(make_folder(folder / FOLDERS[kind]))
        files, vectors = _write_samples(faces, folder, workers, progress)
        write_text(folder / DATASET_JSON, nvidia_labels(vectors, files, CONDITIONS))
        card["pictures"] = len(files)
    return folder


def _kinds(faces: ProceduralFaces) -> tuple[str, ...]:
    return (*faces.spectra, *faces.extras)


def _write_samples(
    faces: ProceduralFaces, folder: Path, workers: int, progress: Callable[[int], None] | None
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Write pictures and labels.jsonl; return the files and the conditions [N, 6]."""
    files, vectors = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    try:
        with atomic_write(folder / LABELS) as temporary, temporary.open("w", encoding="utf-8") as lines:
            for sample, names in _written(faces, folder, workers, progress):
                lines.write(json.dumps(record_of(sample, names)) + "\n")
                files.append(next(iter(names.values())))
                vectors.append(condition_vector(sample))
    finally:
        torch.set_num_threads(threads)
    return files, np.stack(vectors)


def _written(
    faces: ProceduralFaces,
    folder: Path,
    workers: int,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[Sample, dict[str, str]]]:
    """Samples without pictures, in order, each once its files are complete.

    While one batch is compressed by the pool, the next one is rendered here.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: list[tuple[Sample, dict[str, str], concurrent.futures.Future[None] | None]] = []
        try:
            for start in range(0, len(faces), _BATCH):
                stop = min(start + _BATCH, len(faces))
                begun = _begin_batch(faces, range(start, stop), folder, pool)
                yield from _finished(waiting, progress)
                waiting = begun
            yield from _finished(waiting, progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin_batch(
    faces: ProceduralFaces,
    indices: Sequence[int],
    folder: Path,
    pool: concurrent.futures.ThreadPoolExecutor,
) -> list[tuple[Sample, dict[str, str], concurrent.futures.Future[None] | None]]:
    """Render what is missing of a batch for the pool; of what is there only landmarks are made again."""
    drawn = faces.draw(indices)
    names = [
        {kind: f"{FOLDERS[kind]}/{identity:06d}_{sample:03d}.png" for kind in _kinds(faces)}
        for identity, sample in zip(drawn.identities.tolist(), drawn.samples.tolist(), strict=True)
    ]
    missing = [i for i, n in enumerate(names) if not all((folder / file).exists() for file in n.values())]
    samples = samples_of(drawn, faces.render(indices, ("landmarks",)) if len(missing) < len(indices) else {})
    jobs: dict[int, concurrent.futures.Future[None]] = {}
    if missing:
        fresh = faces.__getitems__([indices[i] for i in missing])
        for i, sample in zip(missing, fresh, strict=True):
            samples[i] = sample
            jobs[i] = pool.submit(_write_pictures, sample, names[i], folder)
    return [(samples[i], names[i], jobs.get(i)) for i in range(len(indices))]


def _finished(
    batch: Sequence[tuple[Sample, dict[str, str], concurrent.futures.Future[None] | None]],
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[Sample, dict[str, str]]]:
    for sample, names, job in batch:
        if job is not None:
            job.result()
        yield sample, names
    if progress and batch:
        progress(len(batch))


def _write_pictures(sample: Sample, names: Mapping[str, str], folder: Path) -> None:
    pictures = {"vis": sample.image, "nir": sample.nir, "segmentation": sample.segmentation}
    for kind, name in names.items():
        pixels = pictures.get(kind)
        if pixels is not None:
            write_image(folder / name, pixels, sync=False)
        elif kind == "depth" and sample.depth is not None:
            write_image16(folder / name, encode_depth(sample.depth), sync=False)

"""Rendered faces in the layouts of CelebA, which `pyface.data.CelebA` and other readers of CelebA take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.data.celeba import CELEBA_SIZE, PARTITIONS
from pyface.data.celeba_tables import CELEBA_ATTRIBUTES, COLUMNS
from pyface.data.face_attributes import ATTRIBUTES, attribute_table
from pyface.data.ordered import in_order
from pyface.data.output_folder import output_folder
from pyface.data.photographs import HALF_PIXEL
from pyface.data.procedural import ProceduralFaces
from pyface.data.recipe import checked_workers
from pyface.data.sample import Pixels
from pyface.data.writing import recipe_of
from pyface.errors import ValueRangeError
from pyface.io.atomic import make_folder, remove_leftovers, write_text
from pyface.io.images import write_image
from pyface.io.rng import Domain, permutation

__all__ = ["CELEBA_LAYOUTS", "UNKNOWN_ATTRIBUTES", "write_celeba"]

# layout -> (folder of pictures; {} is "_png" for PNG), folder of tables, folder of the partition, suffix
CELEBA_LAYOUTS = {
    "flat": ("img_align_celeba{}", "", "", ".txt"),
    "official": ("Img/img_align_celeba{}", "Anno/", "Eval/", ".txt"),
    "kaggle": ("img_align_celeba/img_align_celeba", "", "", ".csv"),
}

# attributes that the renderer cannot show; they are -1 in every row
UNKNOWN_ATTRIBUTES = tuple(name for name in CELEBA_ATTRIBUTES if name not in ATTRIBUTES)

_BATCH = 32
_EYES = np.array([89.0, 111.0])  # middle of the eyes in an aligned picture
_RENDERED = 288  # side of the photograph from which the aligned picture is cut
# in a photograph of this side eyes are then 40 pixels apart, as in CelebA, and level
_PLACED: dict[str, Any] = {"scale": 0.56, "roll": 0.0, "shift_x": 0.0, "shift_y": 0.0}
_HELD_OUT = 0.1  # share of the people in "valid", and in "test"


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What the tables say of all pictures, in their order; all whole numbers [N, C]."""

    names: list[str]
    columns: Mapping[str, npt.NDArray[np.int64]]


def write_celeba(
    out: str | os.PathLike[str],
    *,
    identities: int,
    seed: int = 0,
    size: int | None = None,
    samples: int = 10,
    layout: str = "official",
    pictures: str = "jpg",
    workers: int | None = None,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render a tree as CelebA lies on disk: pictures, attributes, points, boxes, people and parts.

    Eyes lie where CelebA's lie on average, 40 pixels apart; faces turned to the side are not turned back.
    Each picture is cut from a rendered photograph of 288 x 288, to which list_bbox_celeba refers, as CelebA's
    boxes refer to the photographs before alignment. Points are rounded to whole pixels, as CelebA's are.
    Attributes that the renderer does not know are -1, and card.json lists them. About a tenth of the people
    is in "valid" and in "test" each, nobody in two parts. A run that was stopped is continued by the same
    call.

    Args:
        out: folder; new, empty, or holding the beginning of the same dataset.
        identities: number of people.
        seed: of the faces and of the order of the pictures.
        size: width of the pictures: 178, as CelebA has it.
        samples: pictures of each person.
        layout: "flat", "official" (Anno, Eval, Img) or "kaggle" (.csv, without the people).
        pictures: "jpg", or "png" for pixels as they were rendered.
        workers: threads that compress; all cores by default.
        command: the command line, noted in card.json.
        progress: called with the number of pictures finished since the last call.

    Raises:
        DataError: the folder holds something else or cannot be written.
        ValueRangeError: an unknown layout, another size, or numbers below 1.
    """
    if layout not in CELEBA_LAYOUTS:
        raise ValueRangeError(f"layout must be one of {', '.join(CELEBA_LAYOUTS)}; got {layout!r}.")
    if pictures not in ("jpg", "png"):
        raise ValueRangeError(f"pictures must be jpg or png; got {pictures!r}.")
    if size not in (None, CELEBA_SIZE[1]):
        raise ValueRangeError(f"aligned pictures of CelebA are 178 x 218: size must be 178; got {size}.")
    workers = checked_workers(workers)
    faces = ProceduralFaces(identities, samples, _RENDERED, ("vis",), seed, **_PLACED)
    folder_of_pictures = CELEBA_LAYOUTS[layout][0].format("" if pictures == "jpg" else "_png")
    decided = recipe_of(faces) | {"format": "pyface-rendered-celeba", "layout": layout, "pictures": pictures}
    with output_folder(out, decided, command=command) as (folder, card):
        place = make_folder(folder / folder_of_pictures)
        remove_leftovers(place)
        order, parts = _order(faces)
        rows = _write_pictures(faces, order, parts, place, pictures, workers, progress)
        _write_tables(folder, layout, rows)
        card |= {"images": len(rows.names), "unknown_attributes": list(UNKNOWN_ATTRIBUTES)}
    return folder


def _order(faces: ProceduralFaces) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The faces in the order of the pictures, and their parts: train first, within a part mixed."""
    people = len(faces.identities)
    held_out = max(1, round(_HELD_OUT * people)) if people >= len(PARTITIONS) else 0
    part_of_person = np.zeros(people, np.int64)
    if held_out:
        part_of_person[-2 * held_out : -held_out] = 1
        part_of_person[-held_out:] = 2
    parts = np.repeat(part_of_person, faces.samples_per_identity)
    mixed = permutation(faces.seed, Domain.SHUFFLE, len(faces))
    order = mixed[np.argsort(parts[mixed], kind="stable")]
    return order, parts[order]


def _write_pictures(
    faces: ProceduralFaces,
    order: npt.NDArray[np.int64],
    parts: npt.NDArray[np.int64],
    place: Path,
    suffix: str,
    workers: int,
    progress: Callable[[int], None] | None,
) -> _Rows:
    """Write what is missing; return what the tables say of all."""
    written = [f"{number:06d}.{suffix}" for number in range(1, len(order) + 1)]
    found: dict[str, list[npt.NDArray[Any]]] = {kind: [] for kind in COLUMNS}

    def jobs() -> Iterator[tuple[Path, Pixels | None]]:
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            names = written[start : start + _BATCH]
            corners, rows = _measured(faces, chosen)
            for kind, values in rows.items():
                found[kind].append(values)
            yield from _cut(faces, chosen, corners, [place / name for name in names])

    for _ in in_order(_write_one, jobs(), workers):
        if progress:
            progress(1)
    columns = {kind: np.concatenate(values) for kind, values in found.items() if values}
    columns["list_eval_partition"] = parts[:, None]
    return _Rows([f"{number:06d}.jpg" for number in range(1, len(order) + 1)], columns)


def _write_one(job: tuple[Path, Pixels | None]) -> None:
    path, pixels = job
    if pixels is not None:
        write_image(path, pixels, sync=False)


def _cut(
    faces: ProceduralFaces,
    chosen: npt.NDArray[np.int64],
    corners: npt.NDArray[np.int64],
    paths: Sequence[Path],
) -> Iterator[tuple[Path, Pixels | None]]:
    """Each path with the picture that it lacks; only those are rendered."""
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    rendered = faces.images(chosen[missing]) if missing else ()
    fresh = dict(zip(missing, rendered, strict=True))
    height, width = CELEBA_SIZE
    for i, path in enumerate(paths):
        left, top = corners[i].tolist()
        yield path, fresh[i][top : top + height, left : left + width] if i in fresh else None


def _measured(
    faces: ProceduralFaces, chosen: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]:
    """Where the pictures are cut, [N, 2] left and top, and the tables' rows but for the partition."""
    drawn = faces.draw(chosen)
    landmarks = faces.render(chosen, ("landmarks",))["landmarks"].astype(np.float64)
    height, width = CELEBA_SIZE
    five = landmarks[:, 68:73]
    corners = np.rint(five[:, :2].mean(axis=1) - _EYES).astype(np.int64)
    corners = np.clip(corners, 0, [_RENDERED - width, _RENDERED - height])
    low, high = landmarks[:, :68].min(axis=1), landmarks[:, :68].max(axis=1)
    low = np.floor(low - 0.1 * (high - low)).astype(np.int64)
    high = np.ceil(high).astype(np.int64)
    attributes = attribute_table(drawn.columns)
    holds = np.full((len(chosen), len(CELEBA_ATTRIBUTES)), -1, np.int64)
    for column, name in enumerate(CELEBA_ATTRIBUTES):
        if name in attributes:
            holds[attributes[name], column] = 1
    points = np.rint(five - corners[:, None] - HALF_PIXEL).astype(np.int64)
    return corners, {
        "list_attr_celeba": holds,
        "list_landmarks_align_celeba": points.reshape(len(chosen), 10),
        "list_bbox_celeba": np.concatenate([low, high - low], axis=1),
        "identity_CelebA": drawn.identities[:, None],
    }


def _write_tables(folder: Path, layout: str, rows: _Rows) -> None:
    """All tables of a layout, each whole or not at all."""
    _, tables, partition, suffix = CELEBA_LAYOUTS[layout]
    for kind, values in rows.columns.items():
        if suffix == ".csv" and kind == "identity_CelebA":
            continue
        place = make_folder(folder / (partition if kind == "list_eval_partition" else tables))
        text = _csv(kind, rows.names, values) if suffix == ".csv" else _txt(kind, rows.names, values)
        write_text(place / f"{kind}{suffix}", text)


def _csv(kind: str, names: Sequence[str], values: npt.NDArray[np.int64]) -> str:
    lines = [",".join(("image_id", *COLUMNS[kind]))]
    lines += [",".join((name, *map(str, row))) for name, row in zip(names, values.tolist(), strict=True)]
    return "\n".join(lines) + "\n"


def _txt(kind: str, names: Sequence[str], values: npt.NDArray[np.int64]) -> str:
    """With a count and names before the rows where CelebA has them, and its blanks."""
    lines = []
    if kind not in ("identity_CelebA", "list_eval_partition"):
        box = kind == "list_bbox_celeba"
        lines = [str(len(names)), " ".join((*(("image_id",) if box else ()), *COLUMNS[kind]))]
    width = {"list_attr_celeba": 2, "list_landmarks_align_celeba": 4, "list_bbox_celeba": 3}.get(kind, 0)
    lines += [
        " ".join((name, *(f"{v:{width}d}" if width else str(v) for v in row)))
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    return "\n".join(lines) + "\n"

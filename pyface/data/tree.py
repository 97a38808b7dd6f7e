"""How a dataset lies on disk, for whoever writes or reads one.

VIS/000012_003.png            visible light, RGB
NIR/000012_003.png            near infrared, grey
SEGMENTATION/000012_003.png   grey level = class, see `pyface.data.SEGMENTATION_CLASSES`
DEPTH/000012_003.png          16-bit grey: 0 nothing, else 1 + distance * DEPTH_LEVELS, rounded
labels.jsonl                  one record per picture: file, identity, attributes, landmarks...
dataset.json                  labels in the layout that NVIDIA's StyleGAN2 reads, with `label_names` added
card.json                     the recipe that makes the dataset again
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pyface.data.sample import Sample

__all__ = [
    "CARD",
    "DATASET_JSON",
    "DEPTH_LEVELS",
    "FOLDERS",
    "LABELS",
    "annotations_from",
    "bare_name",
    "decode_depth",
    "encode_depth",
    "fill_sample",
    "nvidia_labels",
    "parse_records",
    "record_of",
]

FOLDERS = {"vis": "VIS", "nir": "NIR", "segmentation": "SEGMENTATION", "depth": "DEPTH"}
LABELS = "labels.jsonl"
DATASET_JSON = "dataset.json"
CARD = "card.json"

DEPTH_LEVELS = 4096.0  # levels per head unit: steps of 0.00024, up to 15.99 units

_NUMBERS = ("attributes", "action_units", "conditions", "pose")


def bare_name(name: str) -> str:
    """The name within its spectrum's folder, as VIS/a.png and NIR/a.png share one."""
    top, slash, rest = name.partition("/")
    return rest if slash and top in FOLDERS.values() else name


def encode_depth(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Depth in head units (+inf: nothing) as 16-bit levels of the same shape."""
    seen = np.isfinite(depth)
    levels = np.clip(np.rint(np.where(seen, depth, 0.0).astype(np.float64) * DEPTH_LEVELS) + 1, 1, 65535)
    return np.where(seen, levels, 0).astype(np.uint16)


def decode_depth(levels: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Depth in head units of 16-bit levels, to half a level; +inf where there is nothing."""
    return np.where(levels > 0, (levels.astype(np.float32) - 1) / np.float32(DEPTH_LEVELS), np.inf).astype(
        np.float32
    )


def record_of(sample: Sample, files: Mapping[str, str]) -> dict[str, Any]:
    """What labels.jsonl says of one sample: plain numbers and words.

    Args:
        sample: its pictures are not stored here.
        files: "vis", "nir"... -> path relative to the dataset's folder; the first one is the record's `file`.
    """
    record: dict[str, Any] = {"file": next(iter(files.values())), "files": dict(files)}
    record |= {"identity": sample.identity, "emotion": sample.emotion}
    for name in _NUMBERS:
        values = getattr(sample, name)
        record[name] = {k: v if isinstance(v, bool) else round(float(v), 5) for k, v in values.items()}
    record["landmarks"] = {k: np.round(v.astype(float), 2).tolist() for k, v in sample.landmarks.items()}
    record["parameters"] = {k: float(f"{v:.7g}") for k, v in sample.parameters.items()}
    return record


def fill_sample(sample: Sample, record: Mapping[str, Any]) -> None:
    """Put what a record says into a sample, the inverse of `record_of`."""
    sample.identity = record.get("identity")
    sample.emotion = record.get("emotion")
    sample.attributes = {k: bool(v) for k, v in record.get("attributes", {}).items()}
    for name in ("action_units", "conditions", "pose", "parameters"):
        setattr(sample, name, {k: float(v) for k, v in record.get(name, {}).items()})
    sample.landmarks = {k: np.asarray(v, np.float32) for k, v in record.get("landmarks", {}).items()}


def annotations_from(records: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Columns [N] of records: single values, and attributes, action units, conditions and pose by their
    names.

    A column is there when every record has it.
    """
    flat = []
    for record in records:
        row = {k: v for k, v in record.items() if isinstance(v, str | int | float | bool)}
        for name in _NUMBERS:
            row |= record.get(name, {})
        flat.append(row)
    names = [name for name in (flat[0] if flat else {}) if all(name in row for row in flat)]
    return {name: np.array([row[name] for row in flat]) for name in names}


def parse_records(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers of a labels.jsonl, each with its record, or with what is wrong with it in words."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON: {error}"
            continue
        wrong = _record_fault(record)
        yield number, record if wrong is None else wrong


def _record_fault(record: Any) -> str | None:
    """Why `fill_sample` could not read a record; None when it can."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        return f'must be an object with "file": "NAME"; got {json.dumps(record)[:80]}'
    files = record.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        return f'{record["file"]}: "files" must be an object of names'
    for name in (*_NUMBERS, "parameters"):
        values = record.get(name, {})
        if not isinstance(values, dict) or not all(isinstance(v, int | float) for v in values.values()):
            return f'{record["file"]}: "{name}" must be an object of numbers'
    landmarks = record.get("landmarks", {})
    if not isinstance(landmarks, dict) or not all(map(_are_points, landmarks.values())):
        return f'{record["file"]}: "landmarks" must be an object of lists of [x, y]'
    return None


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(isinstance(v, int | float) for v in point)
        for point in points
    )


def nvidia_labels(labels: npt.NDArray[np.float32], files: Sequence[str], names: Sequence[str]) -> str:
    """Text of a dataset.json: one vector per file, in NVIDIA's layout, and the names of its entries."""
    rows = [[name, [round(float(v), 5) for v in row]] for name, row in zip(files, labels, strict=True)]
    return json.dumps({"labels": rows, "label_names": list(names)})

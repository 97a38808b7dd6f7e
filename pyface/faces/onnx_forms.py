"""What outputs of published face detectors in ONNX files mean: three families in four forms.

| form | outputs, for an input of H x W |
|---|---|
| scrfd | for each stride 8, 16, 32 (and 64, 128): scores [A, 1], boxes [A, 4], perhaps points [A, 10] |
| yunet | for each stride 8, 16, 32: class and object scores [A, 1], boxes [A, 4], points [A, 10] |
| yunet2022 | loc [A, 14], conf [A, 2], iou [A, 1] over boxes of ten sizes at strides 8, 16, 32, 64 |
| centerface | maps of H/4 x W/4: heat [1], size [2], offset [2], perhaps points [10] |

A is the number of anchors; a leading axis of length 1 is allowed. Outputs are told apart by their shapes, so
their names and order do not matter beyond what a form says.

Sources: J. Guo et al., "Sample and computation redistribution for efficient face detection" (SCRFD, 2021);
W. Wu, H. Peng, S. Yu, "YuNet: a tiny millisecond-level face detector" (2023), and the model of 2022 that
OpenCV 4.5.4 introduced; Y. Xu et al., "CenterFace: joint face detection and alignment using face as point"
(2019).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.faces.detect import Candidates

__all__ = ["FORMS", "OutputForm", "recognised"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, Array]
Size = tuple[int, int]

_POINTS = 5


@dataclasses.dataclass(frozen=True)
class OutputForm:
    """How one family of detectors is fed and read.

    Attributes:
        name: of the form.
        bgr: whether the network was trained on pictures in the order blue, green, red.
        mean: subtracted from grey levels 0 to 255.
        std: by which the difference is divided.
        multiple: heights and widths must be multiples of it.
        fits: whether outputs at an input of (width, height) have this form.
        decode: candidates of at least a score, in pixels of the input.
    """

    name: str
    bgr: bool
    mean: float
    std: float
    multiple: int
    fits: Callable[[Outputs, Size], bool]
    decode: Callable[[Outputs, Size, float], Candidates]


def recognised(outputs: Outputs, size: Size) -> list[OutputForm]:
    """All forms that outputs for one picture of (width, height) have; none or one, as the forms differ."""
    return [form for form in FORMS.values() if form.fits(outputs, size)]


def _rows(output: Array) -> Floats | None:
    """[A, K] of an output with at most one leading axis of length 1; None for others."""
    array = output[0] if output.ndim == 3 and len(output) == 1 else output
    return np.asarray(array, np.float32) if array.ndim == 2 else None


def _by_columns(outputs: Outputs) -> dict[int, list[Floats]] | None:
    """K -> outputs [A, K], most rows first, in the file's order where equal; None if one is not so."""
    found: dict[int, list[Floats]] = {}
    for output in outputs.values():
        rows = _rows(output)
        if rows is None:
            return None
        found.setdefault(rows.shape[1], []).append(rows)
    return {columns: sorted(several, key=lambda rows: -len(rows)) for columns, several in found.items()}


def _cells(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def _grid(size: Size, stride: int, anchors: int) -> Floats:
    """Column and row of each anchor's cell: float32 [rows * columns * anchors, 2]."""
    across, down = _cells(size, stride)
    rows, columns = np.mgrid[:down, :across]
    grid = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float32)
    return np.repeat(grid, anchors, axis=0)


def _anchors_per_cell(counts: list[int], size: Size, strides: list[int]) -> int:
    """How many anchors each cell has, the same for every stride; 0 where the numbers do not fit."""
    cells = [across * down for across, down in (_cells(size, stride) for stride in strides)]
    ratios = {divmod(count, number) for count, number in zip(counts, cells, strict=True)}
    anchors, rest = ratios.pop()
    return anchors if not ratios and not rest else 0


# ---- SCRFD


def _scrfd_parts(outputs: Outputs, size: Size) -> tuple[list[int], int, dict[int, list[Floats]]] | None:
    """Strides, anchors of a cell and outputs by columns; None for another form."""
    found = _by_columns(outputs)
    if found is None or set(found) not in ({1, 4}, {1, 4, 10}):
        return None
    levels = len(found[1])
    if levels not in (3, 5) or any(len(several) != levels for several in found.values()):
        return None
    counts = [len(rows) for rows in found[1]]
    if any([len(rows) for rows in several] != counts for several in found.values()):
        return None
    strides = [8 << i for i in range(levels)]
    anchors = _anchors_per_cell(counts, size, strides)
    return (strides, anchors, found) if anchors else None


def _fits_scrfd(outputs: Outputs, size: Size) -> bool:
    return _scrfd_parts(outputs, size) is not None


def _decode_scrfd(outputs: Outputs, size: Size, threshold: float) -> Candidates:
    """Distances of the four sides and of the points from the cell's corner, in strides."""
    parts = _scrfd_parts(outputs, size)
    if parts is None:
        return Candidates.none()
    strides, anchors, found = parts
    levels = []
    for level, stride in enumerate(strides):
        scores = found[1][level][:, 0]
        chosen = np.flatnonzero(scores >= threshold)
        corners = _grid(size, stride, anchors)[chosen] * stride
        sides = found[4][level][chosen] * stride
        boxes = np.concatenate([corners - sides[:, :2], corners + sides[:, 2:]], axis=1)
        points = found[10][level][chosen].reshape(len(chosen), _POINTS, 2) * stride if 10 in found else None
        placed = np.zeros((len(chosen), 0, 2), np.float32) if points is None else points + corners[:, None]
        levels.append(Candidates(boxes, scores[chosen], placed))
    return Candidates.joined(levels)


# ---- YuNet of 2023


def _yunet_parts(outputs: Outputs, size: Size) -> tuple[list[int], dict[int, list[Floats]]] | None:
    found = _by_columns(outputs)
    if found is None or {k: len(several) for k, several in found.items()} != {1: 6, 4: 3, 10: 3}:
        return None
    strides = [8, 16, 32]
    counts = [len(rows) for rows in found[4]]
    if [len(rows) for rows in found[10]] != counts or _anchors_per_cell(counts, size, strides) != 1:
        return None
    return (strides, found) if [len(rows) for rows in found[1]] == sorted(counts * 2, reverse=True) else None


def _fits_yunet(outputs: Outputs, size: Size) -> bool:
    return _yunet_parts(outputs, size) is not None


def _decode_yunet(outputs: Outputs, size: Size, threshold: float) -> Candidates:
    """Centre and points from the cell's corner in strides, logarithms of the size in strides.

    The score is the geometric mean of class and object score, so which is which does not matter.
    """
    parts = _yunet_parts(outputs, size)
    if parts is None:
        return Candidates.none(_POINTS)
    strides, found = parts
    levels = []
    for level, stride in enumerate(strides):
        one, other = (np.clip(found[1][2 * level + i][:, 0], 0.0, 1.0) for i in (0, 1))
        scores = np.sqrt(one * other)
        chosen = np.flatnonzero(scores >= threshold)
        cells = _grid(size, stride, 1)[chosen]
        numbers = found[4][level][chosen]
        centres = (cells + numbers[:, :2]) * stride
        half = np.exp(numbers[:, 2:]) * (stride / 2)
        points = (found[10][level][chosen].reshape(-1, _POINTS, 2) + cells[:, None]) * stride
        boxes = np.concatenate([centres - half, centres + half], axis=1)
        levels.append(Candidates(boxes, scores[chosen], points))
    return Candidates.joined(levels)


# ---- YuNet of 2022

_PRIOR_SIDES = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
_VARIANCES = np.array([0.1, 0.2], np.float32)


def _priors(size: Size) -> Floats:
    """Centre x, y and side of every prior box in pixels: float32 [A, 3]."""
    across, down = (((side + 1) // 2) // 2 for side in size)
    parts = []
    for level, sides in enumerate(_PRIOR_SIDES):
        across, down = across // 2, down // 2
        rows, columns = np.mgrid[:down, :across]
        centres = (np.stack([columns, rows], axis=-1).reshape(-1, 1, 2) + 0.5) * (8 << level)
        each = np.broadcast_to(np.array(sides, np.float32)[None, :, None], (len(centres), len(sides), 1))
        centres = np.broadcast_to(centres, (len(centres), len(sides), 2))
        parts.append(np.concatenate([centres, each], axis=2).reshape(-1, 3))
    return np.concatenate(parts).astype(np.float32)


def _fits_yunet2022(outputs: Outputs, size: Size) -> bool:
    found = _by_columns(outputs)
    if found is None or {k: len(several) for k, several in found.items()} != {14: 1, 2: 1, 1: 1}:
        return False
    return {len(several[0]) for several in found.values()} == {len(_priors(size))}


def _decode_yunet2022(outputs: Outputs, size: Size, threshold: float) -> Candidates:
    """Offsets in tenths of the prior's side, logarithms of sizes scaled by 0.1 across and 0.2 down."""
    found = _by_columns(outputs) or {}
    places, faces, ious = found[14][0], found[2][0][:, 1], np.clip(found[1][0][:, 0], 0.0, 1.0)
    scores = np.sqrt(np.clip(faces, 0.0, 1.0) * ious)
    chosen = np.flatnonzero(scores >= threshold)
    priors, places = _priors(size)[chosen], places[chosen]
    centre, side = priors[:, :2], priors[:, 2:]
    middles = centre + places[:, :2] * _VARIANCES[0] * side
    half = side * np.exp(places[:, 2:4] * _VARIANCES) / 2
    offsets = places[:, 4:].reshape(-1, _POINTS, 2) * _VARIANCES[0] * side[:, None]
    boxes = np.concatenate([middles - half, middles + half], axis=1)
    return Candidates(boxes, scores[chosen], centre[:, None] + offsets)


# ---- CenterFace

_CENTERFACE_STRIDE = 4


def _centerface_maps(outputs: Outputs, size: Size) -> dict[str, Floats] | None:
    """Maps [C, H/4, W/4] by meaning; of the two of two channels the first is the size unless names tell."""
    across, down = _cells(size, _CENTERFACE_STRIDE)
    maps: dict[int, list[tuple[str, Floats]]] = {}
    for name, output in outputs.items():
        array = output[0] if output.ndim == 4 and len(output) == 1 else output
        if array.ndim != 3 or array.shape[1:] != (down, across):
            return None
        maps.setdefault(len(array), []).append((name.lower(), np.asarray(array, np.float32)))
    counts = {channels: len(several) for channels, several in maps.items()}
    if counts not in ({1: 1, 2: 2}, {1: 1, 2: 2, 10: 1}):
        return None
    pair = maps[2][::-1] if "off" in maps[2][0][0] and "off" not in maps[2][1][0] else maps[2]
    found = {"heat": maps[1][0][1], "size": pair[0][1], "offset": pair[1][1]}
    if 10 in maps:
        found["points"] = maps[10][0][1]
    return found


def _fits_centerface(outputs: Outputs, size: Size) -> bool:
    return _centerface_maps(outputs, size) is not None


def _decode_centerface(outputs: Outputs, size: Size, threshold: float) -> Candidates:
    """A face where the heat is; logarithms of its height and width in strides, row before column everywhere.

    Points are shares of the box from its left upper corner.
    """
    maps = _centerface_maps(outputs, size)
    if maps is None:
        return Candidates.none()
    rows, columns = np.nonzero(maps["heat"][0] >= threshold)
    stride = _CENTERFACE_STRIDE
    sides = np.exp(maps["size"][:, rows, columns].T[:, ::-1]) * stride
    cells = np.stack([columns, rows], axis=1).astype(np.float32)
    centres = (cells + maps["offset"][:, rows, columns].T[:, ::-1] + 0.5) * stride
    corners = centres - sides / 2
    points = np.zeros((len(rows), 0, 2), np.float32)
    if "points" in maps:
        shares = maps["points"][:, rows, columns].T.reshape(-1, _POINTS, 2)[:, :, ::-1]
        points = corners[:, None] + shares * sides[:, None]
    return Candidates(
        np.concatenate([corners, corners + sides], axis=1).astype(np.float32),
        maps["heat"][0, rows, columns],
        points.astype(np.float32),
    )


FORMS: Mapping[str, OutputForm] = {
    form.name: form
    for form in (
        OutputForm("scrfd", False, 127.5, 128.0, 32, _fits_scrfd, _decode_scrfd),
        OutputForm("yunet", True, 0.0, 1.0, 32, _fits_yunet, _decode_yunet),
        OutputForm("yunet2022", True, 0.0, 1.0, 64, _fits_yunet2022, _decode_yunet2022),
        OutputForm("centerface", False, 0.0, 1.0, 32, _fits_centerface, _decode_centerface),
    )
}

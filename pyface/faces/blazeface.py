"""BlazeFace: the detector for near and mid-range faces that the offline default uses.

V. Bazarevsky, Y. Kartynnik, A. Vakunov, K. Raveendran, M. Grundmann: "BlazeFace: sub-millisecond neural face
detection on mobile GPUs" (2019); the network is the one for back cameras of MediaPipe (Apache-2.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError, ValueRangeError
from pyface.faces.detect import Candidates, Limits, Window, blend, checked_images, suppress, windows
from pyface.faces.face import Face, Photo
from pyface.faces.opencv_network import OpenCVNetwork
from pyface.faces.schemes import convert

__all__ = ["BlazeFace", "load_blazeface"]

Floats = npt.NDArray[np.float32]

_SIDE = 256
# (cells along a side, anchors in each cell)
_GRIDS = ((16, 2), (8, 6))
_POINTS = 6
# side of the smallest face that is found surely, in pixels of the network's input; see bench/faces.py
_SURE = 20
_AT_ONCE = 8
_OVERLAP = 0.3
# neighbouring windows share this part of their side, so that every face up to it is whole in one of them
_SHARED = 0.5
# a box of which so much lies in a better one is a part of the same face
_PART = 0.6


def _anchors() -> Floats:
    """Centres of the 896 anchors in pixels of the input: float32 [896, 2]."""
    centres = [
        ((x + 0.5) * _SIDE / cells, (y + 0.5) * _SIDE / cells)
        for cells, count in _GRIDS
        for y in range(cells)
        for x in range(cells)
        for _ in range(count)
    ]
    return np.array(centres, np.float32)


class BlazeFace:
    """Finds faces by boxes and six points: eyes, nose tip, middle of the mouth, ears (image left first).

    Each face has the points as landmarks "blazeface6", and "5pt" estimated from them: the corners of the
    mouth are not among the six, so they are put beside its middle at a fixed share of the distance of the
    eyes. Where corners matter, take "5pt" from a landmarker. The points follow faces tilted by up to about 70
    degrees; beyond, faces are still found, but as if they were upright.

    A picture of any size is fitted into the network's 256 x 256 input, where faces from about a twelfth
    of the longer side upwards are found. `smallest` adds windows of a finer scale for smaller ones.

    Args:
        path: `face_detection_back.tflite`.
        threshold: least score, in [0, 1].
        max_faces: keep the best so many; None keeps all.
        min_size: leave out faces whose box's longer side is below so many pixels.
        smallest: side in pixels of the smallest faces to look for. None takes the whole picture alone; a
            number adds overlapping windows, each level half as large as the one before, until such faces are
            large enough in them. Cost grows with the number of windows.

    Raises:
        MissingExtraError: OpenCV is not installed.
        CheckpointError: the file is not this network.
        ValueRangeError: a number is out of range.
    """

    name = "blazeface"

    def __init__(
        self,
        path: str | os.PathLike[str],
        threshold: float = 0.5,
        max_faces: int | None = None,
        min_size: float = 0.0,
        smallest: float | None = None,
    ) -> None:
        self._limits = Limits(threshold, max_faces, min_size)
        if smallest is not None and not smallest >= 4:
            raise ValueRangeError(f"smallest must be at least 4 pixels or None; got {smallest}.")
        self.smallest = smallest
        self._anchors = _anchors()
        self._network = OpenCVNetwork(path)

    def detect(self, images: Sequence[Photo]) -> list[list[Face]]:
        """The faces of each picture, best score first.

        Args:
            images: uint8 [H, W, 3] each, RGB, of any sizes.

        Raises:
            ShapeError: a picture is not RGB uint8; `pyface.faces.as_rgb` makes one of grey or RGBA.
        """
        photos = checked_images(images)
        found = self._search(photos, [list(self._windows(*photo.shape[1::-1])) for photo in photos])
        empty = [i for i, candidates in enumerate(found) if not len(candidates)]
        # a face that fills the picture is larger than any the network has been taught
        again = self._search([photos[i] for i in empty], [self._small(photos[i]) for i in empty])
        for i, candidates in zip(empty, again, strict=True):
            found[i] = candidates
        return [self._faces(candidates) for candidates in found]

    def _windows(self, width: int, height: int) -> Iterator[Window]:
        longer = max(width, height)
        size = (_SIDE, _SIDE)
        yield Window.of((0, 0, width, height), size)
        if self.smallest is None:
            return
        side = longer
        while self.smallest * _SIDE / side < _SURE:
            side = max(-(-side // 2), 1)
            for rectangle in windows(width, height, side, _SHARED):
                yield Window.of(rectangle, size, share=side_share(rectangle, side))

    @staticmethod
    def _small(photo: Photo) -> list[Window]:
        height, width = photo.shape[:2]
        return [Window.of((0, 0, width, height), (_SIDE, _SIDE), share=0.5)]

    def _search(self, photos: list[Photo], cuts: list[list[Window]]) -> list[Candidates]:
        """Candidates of each picture, seen through its windows."""
        parts: list[list[Candidates]] = [[] for _ in photos]
        jobs = [(i, window) for i, several in enumerate(cuts) for window in several]
        for start in range(0, len(jobs), _AT_ONCE):
            some = jobs[start : start + _AT_ONCE]
            inputs = np.stack([window.cut(photos[i]) for i, window in some])
            for (i, window), candidates in zip(some, self._candidates(inputs), strict=True):
                height, width = photos[i].shape[:2]
                if (window.right - window.left, window.bottom - window.top) != (width, height):
                    sides = (candidates.boxes[:, 2:] - candidates.boxes[:, :2]).max(axis=1, initial=0.0)
                    candidates = candidates[sides <= _SHARED * _SIDE]
                placed = window.back(candidates)
                parts[i].append(placed[window.whole_inside(placed.boxes, (width, height))])
        blended = [blend(Candidates.joined(several), _OVERLAP) for several in parts]
        return [suppress(candidates, _PART, of_smaller=True) for candidates in blended]

    def _candidates(self, inputs: npt.NDArray[np.uint8]) -> list[Candidates]:
        """Candidates above the threshold in uint8 [N, 256, 256, 3], in pixels of the input."""
        batch = inputs.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
        outputs = {output.shape[-1]: output for output in self._network(batch).values()}
        if set(outputs) != {1, 4 + 2 * _POINTS} or any(
            output.size != len(batch) * len(self._anchors) * last for last, output in outputs.items()
        ):
            raise CheckpointError(
                f"{self._network.path} is not BlazeFace for back cameras: its outputs are "
                f"{[list(o.shape) for o in outputs.values()]}, expected [1, 896, 1] and [1, 896, 16]."
            )
        logits = _by_image(outputs[1], len(batch))[:, :, 0]
        numbers = _by_image(outputs[4 + 2 * _POINTS], len(batch))
        scores = 1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))
        return [self._decoded(s, n) for s, n in zip(scores, numbers, strict=True)]

    def _decoded(self, scores: Floats, numbers: Floats) -> Candidates:
        chosen = np.flatnonzero(scores >= self._limits.threshold)
        numbers, anchors = numbers[chosen], self._anchors[chosen]
        centres, half = numbers[:, :2] + anchors, numbers[:, 2:4] / 2
        points = numbers[:, 4:].reshape(-1, _POINTS, 2) + anchors[:, None]
        return Candidates(np.concatenate([centres - half, centres + half], axis=1), scores[chosen], points)

    def _faces(self, found: Candidates) -> list[Face]:
        found = self._limits.applied(found)
        faces = []
        for box, score, points in zip(found.boxes, found.scores, found.points, strict=True):
            points = np.ascontiguousarray(points, np.float32)
            landmarks = {"5pt": convert(points, "blazeface6", "5pt"), "blazeface6": points}
            faces.append(Face(box.astype(np.float32), float(score), landmarks))
        return faces


def side_share(rectangle: tuple[int, int, int, int], side: int) -> float:
    """Share of the input that a rectangle takes whose full square has `side` pixels, in (0, 1]."""
    left, top, right, bottom = rectangle
    return max(right - left, bottom - top) / side


def _by_image(output: Floats, count: int) -> Floats:
    """[count, 896, K] of an output whose rows are ordered by grid first, then by image."""
    last = output.shape[-1]
    rows = output.reshape(-1, last)
    parts, start = [], 0
    for cells, each in _GRIDS:
        length = cells * cells * each
        parts.append(rows[start : start + count * length].reshape(count, length, last))
        start += count * length
    return np.concatenate(parts, axis=1)


def load_blazeface(**options: object) -> BlazeFace:
    """BlazeFace of the model store; options as for the class."""
    from pyface.faces.model_store import model_file

    return BlazeFace(model_file("blazeface"), **options)  # type: ignore[arg-type]

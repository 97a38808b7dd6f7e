"""FaceMesh: 468 points on a face that was found, with their depth.

Y. Kartynnik, A. Ablavatski, I. Grishchenko, M. Grundmann: "Real-time facial surface geometry from monocular
video on mobile GPUs" (2019); the network is MediaPipe's (Apache-2.0).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError, ShapeError, ValueRangeError
from pyface.faces.detect import checked_images
from pyface.faces.face import Face, Photo
from pyface.faces.opencv_network import OpenCVNetwork, opencv
from pyface.faces.schemes import eye_line

__all__ = ["FaceMesh", "load_facemesh"]

Floats = npt.NDArray[np.float32]

_SIDE = 192
_POINTS = 468
_AT_ONCE = 16
# side of the square that the network sees: times the longer side of a detector's box, of the mesh's extent
_AROUND_BOX = 1.5
_AROUND_MESH = 1.5
# differences of squares beyond which a face is looked at again: share of the side, logarithm of the ratio of
# sides, radians
_MOVED, _RESIZED, _TURNED = 0.05, 0.08, 0.10


class FaceMesh:
    """Places "mesh468" on faces.

    A square around the face's box, turned so that the eyes are level, goes through the network. Where the
    square around the mesh that comes out differs much from it, as after a box of another detector or one
    without eyes, the network sees the better squares too. Faces from BlazeFace need one pass; for boxes 0.75
    to 1.4 times as large, moved and without eyes, three bring the error on renders down to nearly the same
    (bench/faces.py).

    Args:
        path: `face_landmark.tflite`.
        max_passes: how often the network may see one face.

    Raises:
        MissingExtraError: OpenCV is not installed.
        CheckpointError: the file is not this network.
        ValueRangeError: max_passes below 1.
    """

    name = "facemesh"
    scheme = "mesh468"

    def __init__(self, path: str | os.PathLike[str], max_passes: int = 3) -> None:
        if max_passes < 1:
            raise ValueRangeError(f"max_passes must be at least 1; got {max_passes}.")
        self.max_passes = int(max_passes)
        self._network = OpenCVNetwork(path)

    def landmarks(self, images: Sequence[Photo], faces: Sequence[Face]) -> Floats:
        """float32 [N, 468, 3]: x, y in pixels of the picture, and depth in the same unit.

        Depth is relative to the middle of the head and grows away from the camera.

        Args:
            images: uint8 [H, W, 3] each, RGB; image i belongs to face i.
            faces: with a box; the eyes of any scheme of theirs say how they are turned.

        Raises:
            ShapeError: not one picture for each face, or a picture that is not RGB uint8.
        """
        return self.landmarks_and_presence(images, faces)[0]

    def landmarks_and_presence(self, images: Sequence[Photo], faces: Sequence[Face]) -> tuple[Floats, Floats]:
        """The points, and float32 [N]: how sure the network is that it looks at a face, in [0, 1]."""
        photos = checked_images(images)
        if len(photos) != len(faces):
            raise ShapeError(
                f"landmarks wants one picture for each face; got {len(photos)} pictures and {len(faces)} "
                "faces. Repeat a picture that has several faces."
            )
        points = np.zeros((len(faces), _POINTS, 3), np.float32)
        presence = np.zeros(len(faces), np.float32)
        squares = [_square_of(face) for face in faces]
        todo = list(range(len(faces)))
        for number in range(self.max_passes):
            for start in range(0, len(todo), _AT_ONCE):
                some = todo[start : start + _AT_ONCE]
                found = self._run([photos[i] for i in some], np.stack([squares[i] for i in some]))
                points[some], presence[some] = found
            better = {i: _square_around(points[i]) for i in todo}
            if number == 0:  # what was off moves a part of the way with each pass
                todo = [i for i in todo if _differ(squares[i], better[i])]
            squares = [better.get(i, square) for i, square in enumerate(squares)]
        return points, presence

    def _run(self, photos: Sequence[Photo], squares: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
        """Points and presence in squares float64 [N, 4] (centre x, y, side, angle)."""
        crops = np.stack([_cut(photo, square) for photo, square in zip(photos, squares, strict=True)])
        outputs = self._network(crops.transpose(0, 3, 1, 2).astype(np.float32) / 255.0)
        sizes = {output.size // len(crops): output for output in outputs.values()}
        if set(sizes) != {1, 3 * _POINTS}:
            raise CheckpointError(
                f"{self._network.path} is not FaceMesh: its outputs are "
                f"{[list(o.shape) for o in outputs.values()]}, expected {3 * _POINTS} numbers and 1 a face."
            )
        found = sizes[3 * _POINTS].reshape(-1, _POINTS, 3).astype(np.float64)
        logits = np.clip(sizes[1].reshape(-1).astype(np.float64), -80.0, 80.0)
        scale = squares[:, 2, None, None] / _SIDE
        flat = (found[:, :, :2] - _SIDE / 2) * scale
        cosine, sine = np.cos(squares[:, 3, None]), np.sin(squares[:, 3, None])
        x = flat[:, :, 0] * cosine - flat[:, :, 1] * sine + squares[:, 0, None]
        y = flat[:, :, 0] * sine + flat[:, :, 1] * cosine + squares[:, 1, None]
        points = np.stack([x, y, found[:, :, 2] * scale[:, :, 0]], axis=-1)
        return points.astype(np.float32), (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)


def _square_of(face: Face) -> npt.NDArray[np.float64]:
    """Centre x, y, side and angle (radians, clockwise in the picture) of the square around a face's box."""
    box = np.asarray(face.box, np.float64)
    middle = (box[:2] + box[2:]) / 2
    return np.array([*middle, _AROUND_BOX * max(*(box[2:] - box[:2]), 1.0), _turn(eye_line(face.landmarks))])


def _square_around(mesh: Floats) -> npt.NDArray[np.float64]:
    """The same around the extent of the mesh [468, 3] itself."""
    angle = _turn(eye_line({"mesh468": mesh}))
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    level = mesh[:, :2].astype(np.float64) @ axes.T
    low, high = level.min(axis=0), level.max(axis=0)
    return np.array([*(axes.T @ ((low + high) / 2)), _AROUND_MESH * max(*(high - low), 1.0), angle])


def _differ(used: npt.NDArray[np.float64], better: npt.NDArray[np.float64]) -> bool:
    """Whether a second look at the better square is worth its time."""
    moved = float(np.hypot(*(better[:2] - used[:2]))) / better[2]
    turned = (better[3] - used[3] + np.pi) % (2 * np.pi) - np.pi
    return moved > _MOVED or abs(float(np.log(better[2] / used[2]))) > _RESIZED or abs(turned) > _TURNED


def _turn(line: npt.NDArray[np.float64] | None) -> float:
    return 0.0 if line is None else float(np.arctan2(line[1], line[0]))


def _cut(photo: Photo, square: npt.NDArray[np.float64]) -> Photo:
    """The turned square of a picture: uint8 [192, 192, 3]; black where it reaches beyond the picture."""
    cv2 = opencv()
    x, y, side, angle = square
    # linear interpolation leaves out pixels where it shrinks by more than two
    factor = int(side / _SIDE)
    left = top = 0
    if factor > 1:
        reach = side * 0.75 + factor
        left, top = (max(int(c - reach), 0) for c in (x, y))
        right, bottom = int(max(x + reach, left + 1)), int(max(y + reach, top + 1))
        photo = photo[top:bottom, left:right]
        if not photo.size:
            return np.zeros((_SIDE, _SIDE, 3), np.uint8)
        height, width = photo.shape[:2]
        small = (max(width // factor, 1), max(height // factor, 1))
        scale = np.array([small[0] / width, small[1] / height])
        photo = cv2.resize(np.ascontiguousarray(photo), small, interpolation=cv2.INTER_AREA)
    else:
        scale = np.ones(2)
    # from the crop to the picture, pixel centres at whole numbers as OpenCV counts them
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (side / _SIDE)
    turn = scale[:, None] * turn
    move = scale * (np.array([x, y]) - (left, top)) - turn @ np.full(2, (_SIDE - 1) / 2) - 0.5
    matrix = np.concatenate([turn, move[:, None]], axis=1)
    crop: Photo = cv2.warpAffine(photo, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return crop


def load_facemesh(**options: object) -> FaceMesh:
    """FaceMesh of the model store; options as for the class."""
    from pyface.faces.model_store import model_file

    return FaceMesh(model_file("facemesh"), **options)  # type: ignore[arg-type]

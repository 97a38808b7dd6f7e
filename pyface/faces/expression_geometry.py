"""Distances and angles of a face mesh that expressions change, with the turn of the head taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import DTypeError, ShapeError, ValueRangeError

__all__ = [
    "GEOMETRY",
    "MESH_POINTS",
    "RIGID_POINTS",
    "RIGID_SHAPE",
    "checked_meshes",
    "expression_geometry",
    "frontal_meshes",
]

MESH_POINTS = 468

Array = npt.NDArray[np.float64]

# Points on bone, which expressions move least: corners of the eyes, bridge and base of the nose, temples and
# sides of the face. Their places are those of the mean mesh of 2,800 rendered faces, made symmetric, in units
# of the distance between the eyes' centres, from the middle of them: x to image right, y down, z away from
# the camera.
RIGID_POINTS = (33, 263, 133, 362, 168, 6, 197, 2, 98, 327, 127, 356, 234, 454)
RIGID_SHAPE = (
    (-0.723, -0.019, 0.044),
    (0.723, -0.019, 0.044),
    (-0.277, 0.019, -0.044),
    (0.277, 0.019, -0.044),
    (0.0, -0.073, -0.300),
    (0.0, 0.075, -0.356),
    (0.0, 0.198, -0.426),
    (0.0, 0.746, -0.312),
    (-0.269, 0.703, -0.192),
    (0.269, 0.703, -0.192),
    (-1.082, -0.030, 0.820),
    (1.082, -0.030, 0.820),
    (-1.063, 0.181, 0.913),
    (1.063, 0.181, 0.913),
)

# Points of the mesh by name: on the image left, and their twins on the image right.
_SIDES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "eye outer": ((33,), (263,)),
    "eye inner": ((133,), (362,)),
    "upper lid": ((158, 159, 160), (385, 386, 387)),
    "lower lid": ((153, 145, 144), (380, 374, 373)),
    "inner brow": ((107, 66, 55, 65), (336, 296, 285, 295)),
    "middle brow": ((105, 52), (334, 282)),
    "outer brow": ((70, 63, 46, 53), (300, 293, 276, 283)),
    "cheek": ((50, 101, 36), (280, 330, 266)),
    "pouch": ((119, 118, 230), (348, 347, 450)),
    "wing": ((129, 64, 98), (358, 294, 327)),
    "fold": ((206, 216, 92), (426, 436, 322)),
    "lip corner": ((61, 78), (291, 308)),
    "outer top": ((40, 39), (270, 269)),
    "outer bottom": ((91, 181), (321, 405)),
    "inner top": ((81, 80), (311, 310)),
    "inner bottom": ((178, 88), (402, 318)),
    "jaw": ((150, 149, 176), (379, 378, 400)),
}
_MIDDLE = {
    "bridge": 168, "nose tip": 4, "nose base": 2, "lip top": 0, "lip inner top": 13, "lip inner bottom": 14,
    "lip bottom": 17, "chin fold": 18, "chin boss": 199, "chin": 152, "forehead": 9,
}  # fmt: skip


class _Side:
    """Named points [N, 3] of one half of the face as if it were the image left one: x grows to the middle."""

    def __init__(self, points: Array, side: int) -> None:
        self._points = points * (-1.0, 1.0, 1.0) if side else points
        self._side = side

    def __call__(self, name: str) -> Array:
        if name in _MIDDLE:
            return self._points[:, _MIDDLE[name]]
        return np.asarray(self._points[:, _SIDES[name][self._side]].mean(1))

    def down(self, name: str, from_: str) -> Array:
        """How far below `from_` a point lies [N]."""
        return self(name)[:, 1] - self(from_)[:, 1]

    def apart(self, first: str, second: str) -> Array:
        """Distance of two points [N]."""
        return np.asarray(np.linalg.norm(self(first) - self(second), axis=1))

    def slope(self, start: str, end: str) -> Array:
        """Angle in radians by which the line from `start` to `end` goes down [N]."""
        way = self(end) - self(start)
        return np.arctan2(way[:, 1], np.abs(way[:, 0]) + 1e-6)

    @property
    def eye_line(self) -> Array:
        """y of the middle between the corners of the eye [N]."""
        return np.asarray((self("eye outer")[:, 1] + self("eye inner")[:, 1]) / 2)


Feature = Callable[[_Side], Array]

# feature -> what it measures on one half; gives two numbers, "name" (mean) and "name left-right" (difference)
_SIDED: dict[str, Feature] = {
    "inner brow height": lambda s: s.eye_line - s("inner brow")[:, 1],
    "middle brow height": lambda s: s.eye_line - s("middle brow")[:, 1],
    "outer brow height": lambda s: s.eye_line - s("outer brow")[:, 1],
    "inner brow to middle": lambda s: -s("inner brow")[:, 0],
    "brow slope": lambda s: s.slope("outer brow", "inner brow"),
    "inner brow slope": lambda s: s.slope("middle brow", "inner brow"),
    "brow to lid": lambda s: s.down("upper lid", "middle brow"),
    "eye opening": lambda s: s.apart("upper lid", "lower lid"),
    "upper lid height": lambda s: s.eye_line - s("upper lid")[:, 1],
    "lower lid height": lambda s: s.eye_line - s("lower lid")[:, 1],
    "eye width": lambda s: s.apart("eye outer", "eye inner"),
    "pouch depth": lambda s: s.down("pouch", "lower lid"),
    "cheek height": lambda s: s.eye_line - s("cheek")[:, 1],
    "cheek bulge": lambda s: s("lip top")[:, 2] - s("cheek")[:, 2],
    "nose wing height": lambda s: s.eye_line - s("wing")[:, 1],
    "nose wing width": lambda s: -s("wing")[:, 0],
    "fold height": lambda s: s.eye_line - s("fold")[:, 1],
    "fold width": lambda s: -s("fold")[:, 0],
    "lip corner lift": lambda s: (
        (s("lip inner top")[:, 1] + s("lip inner bottom")[:, 1]) / 2 - s("lip corner")[:, 1]
    ),
    "lip corner below nose": lambda s: s.down("lip corner", "nose base"),
    "lip corner width": lambda s: -s("lip corner")[:, 0],
    "lip corner depth": lambda s: s("lip corner")[:, 2] - s("lip top")[:, 2],
    "lip corner to eye": lambda s: s.apart("lip corner", "eye outer"),
    "upper lip slope": lambda s: s.slope("lip corner", "outer top"),
    "lower lip slope": lambda s: s.slope("lip corner", "outer bottom"),
    "lip opening aside": lambda s: s.apart("inner top", "inner bottom"),
    "jaw below nose": lambda s: s.down("jaw", "nose base"),
}
# feature -> what it measures in the middle
_SINGLE: dict[str, Feature] = {
    "lip opening": lambda s: s.apart("lip inner top", "lip inner bottom"),
    "mouth height": lambda s: s.apart("lip top", "lip bottom"),
    "upper lip": lambda s: s.down("lip inner top", "lip top"),
    "lower lip": lambda s: s.down("lip bottom", "lip inner bottom"),
    "lip below nose": lambda s: s.down("lip top", "nose base"),
    "lower lip below nose": lambda s: s.down("lip bottom", "nose base"),
    "chin below nose": lambda s: s.down("chin", "nose base"),
    "chin below lip": lambda s: s.down("chin", "lip bottom"),
    "chin boss below lip": lambda s: s.down("chin boss", "lip bottom"),
    "chin boss depth": lambda s: s("chin boss")[:, 2] - s("lip bottom")[:, 2],
    "chin fold depth": lambda s: s("chin fold")[:, 2] - s("lip bottom")[:, 2],
    "lower lip depth": lambda s: s("lip bottom")[:, 2] - s("lip top")[:, 2],
    "nose length": lambda s: s.down("nose base", "bridge"),
    "nose tip height": lambda s: s.down("nose base", "nose tip"),
    "forehead height": lambda s: s.down("bridge", "forehead"),
}
_POSE = ("pitch", "yaw", "roll")

# Names of the columns of `expression_geometry`; those that a mirrored face has with the other sign come last.
GEOMETRY: tuple[str, ...] = (
    *_SIDED,
    *_SINGLE,
    "pitch",
    *(f"{name} left-right" for name in _SIDED),
    "yaw",
    "roll",
)
NUM_EVEN = len(_SIDED) + len(_SINGLE) + 1


def expression_geometry(meshes: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Features float32 [N, len(GEOMETRY)] of face meshes, in units of the distance between the eyes.

    Angles are in radians. "pitch", "yaw" and "roll" are the sines of the head's turn as the mesh shows it
    (up, to image right, clockwise: positive); all others are measured after it has been undone. Sided
    features are the mean of both halves and, as "... left-right", their difference.

    Args:
        meshes: [N, 468, 3] in pixels, see `checked_meshes`.

    Raises:
        ShapeError, DTypeError, ValueRangeError: not such meshes.

    >>> expression_geometry(np.zeros((0, 468, 3), np.float32)).shape == (0, len(GEOMETRY))
    True
    """
    points, rotations = frontal_meshes(meshes)
    left, right = _Side(points, 0), _Side(points, 1)
    sided = [(feature(left), feature(right)) for feature in _SIDED.values()]
    yaw, pitch = -rotations[:, 2, 0], rotations[:, 2, 1]
    columns = [(a + b) / 2 for a, b in sided]
    columns += [feature(left) for feature in _SINGLE.values()]
    columns += [pitch, *(a - b for a, b in sided), yaw, rotations[:, 0, 1]]
    return np.stack(columns, 1).astype(np.float32)


def frontal_meshes(meshes: npt.ArrayLike) -> tuple[Array, Array]:
    """Meshes as if seen from the front, and how each head was turned.

    The rotation, with shift and scale, brings RIGID_POINTS nearest to RIGID_SHAPE in the sense of least
    squares: Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns",
    equations 40 to 42. Afterwards the middle between the eyes is the origin and their distance is 1.

    Args:
        meshes: [N, 468, 3] in pixels.

    Returns:
        float64 [N, 468, 3], and rotations float64 [N, 3, 3]: a row vector times one of them goes from the
        frontal face to the picture.
    """
    found = checked_meshes(meshes)
    shape = np.asarray(RIGID_SHAPE)
    shape = shape - shape.mean(0)
    rigid = found[:, RIGID_POINTS]
    rigid = rigid - rigid.mean(1, keepdims=True)
    u, _, v = np.linalg.svd(np.einsum("nki,kj->nij", rigid, shape))
    signs = np.ones((len(found), 1, 3))
    signs[:, 0, 2] = np.sign(np.linalg.det(u @ v))
    turn = (u * signs) @ v
    frontal = found @ turn
    eyes = [frontal[:, corners].mean(1) for corners in ((33, 133), (263, 362))]
    unit = np.linalg.norm(eyes[1] - eyes[0], axis=1)
    if len(found) and not unit.min() > 1e-6:
        raise ValueRangeError(
            f"mesh {int(unit.argmin())} has both eyes in one place. "
            "Run the landmarker on a picture of a face."
        )
    return (frontal - ((eyes[0] + eyes[1]) / 2)[:, None]) / unit[:, None, None], turn.transpose(0, 2, 1)


def checked_meshes(meshes: npt.ArrayLike) -> Array:
    """Meshes float64 [N, 468, 3] of floating-point points in pixels: x right, y down, z away from the camera.

    Raises:
        DTypeError: whole numbers, in which fractions of a pixel, and with unsigned ones everything left of
            the edge, are lost already.
        ShapeError: another shape; two columns have no depth.
        ValueRangeError: a point is not finite.
    """
    found: npt.NDArray[Any] = np.asarray(meshes)
    if found.dtype.kind != "f":
        raise DTypeError(
            f"meshes must be floating point; got {found.dtype}. Keep the landmarks as the landmarker gives "
            "them: whole numbers lose what action units are read from."
        )
    if found.ndim != 3 or found.shape[1:] != (MESH_POINTS, 3):
        raise ShapeError(
            f"meshes must be [N, {MESH_POINTS}, 3]; got {list(found.shape)}. "
            'Landmarks "mesh468" with a depth come from pyface.faces.load_landmarker("default").'
        )
    if not np.isfinite(found).all():
        face = int(np.flatnonzero(~np.isfinite(found).all((1, 2)))[0])
        raise ValueRangeError(f"mesh {face} has points that are not finite. Run the landmarker again.")
    return found.astype(np.float64)

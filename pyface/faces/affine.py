"""Affine maps between pictures: float64 [2, 3], from (x, y) of one to (x, y) of the other.

Pixel centres lie at +0.5 in both.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError

__all__ = [
    "Matrix",
    "Size",
    "check_invertible",
    "checked_matrix",
    "checked_size",
    "inverse",
    "opencv_matrix",
    "scale_of",
    "transform_points",
    "valid_pixels",
]

Matrix = npt.NDArray[np.float64]
Size = int | tuple[int, int]

_MAX_SIDE = 16384  # of a result


def inverse(matrix: npt.ArrayLike) -> Matrix:
    """The map back: float64 [2, 3] for `matrix` [2, 3].

    Raises:
        ValueRangeError: not finite, or it cannot be inverted.
    """
    m = checked_matrix(matrix)
    (a, b, x), (c, d, y) = m.tolist()
    det = a * d - b * c
    return np.array([[d, -b, b * y - d * x], [-c, a, c * x - a * y]]) / det


def transform_points(matrix: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`points` [..., 2 or 3] moved by `matrix` [2, 3]; a third coordinate, a depth, is scaled: float64."""
    m = checked_matrix(matrix)
    p = np.asarray(points, np.float64)
    if p.ndim < 1 or p.shape[-1] not in (2, 3):
        raise ShapeError(f"points must be [..., 2] or [..., 3]; got {list(p.shape)}.")
    moved = p[..., :2] @ m[:, :2].T + m[:, 2]
    return moved if p.shape[-1] == 2 else np.concatenate([moved, p[..., 2:] * scale_of(m)], -1)


def scale_of(matrix: npt.NDArray[np.float64]) -> float:
    """How many times longer lengths are in the result: the root of the determinant of `matrix` [2, 3]."""
    return math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))


def opencv_matrix(matrix: npt.ArrayLike) -> Matrix:
    """The same map for pixel centres at whole numbers, as OpenCV's warpAffine takes it: float64 [2, 3]."""
    m = checked_matrix(matrix)
    return np.concatenate([m[:, :2], (m[:, 2] + m[:, :2].sum(1) / 2 - 0.5)[:, None]], 1)


def valid_pixels(matrix: npt.ArrayLike, size: Size, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Which pixels of a warped picture have their centre inside the picture of height x width: bool."""
    rows, columns = checked_size(size)
    (a, b, x), (c, d, y) = inverse(matrix).tolist()
    across, down = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    corners_x = a * across[[0, -1, 0, -1]] + b * down[[0, 0, -1, -1]] + x
    corners_y = c * across[[0, -1, 0, -1]] + d * down[[0, 0, -1, -1]] + y
    if (
        corners_x.min() >= 0
        and corners_x.max() <= width
        and corners_y.min() >= 0
        and corners_y.max() <= height
    ):
        return np.ones((rows, columns), np.bool_)  # a convex region that holds the corners holds the rest
    xs = (a * across + x)[None] + (b * down)[:, None]
    ys = (c * across + y)[None] + (d * down)[:, None]
    return (xs >= 0) & (xs <= width) & (ys >= 0) & (ys <= height)


def checked_size(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, int | np.integer) and 1 <= s <= _MAX_SIDE for s in pair):
        raise ValueRangeError(
            f"size must be a whole number or (height, width), each from 1 to {_MAX_SIDE}; got {size!r}."
        )
    return int(pair[0]), int(pair[1])


def checked_matrix(matrix: npt.ArrayLike) -> Matrix:
    m = np.asarray(matrix, np.float64)
    if m.shape != (2, 3):
        raise ShapeError(f"matrix must be [2, 3]; got {list(m.shape)}.")
    check_invertible(m[None])
    return m


def check_invertible(maps: npt.NDArray[np.float64]) -> None:
    finite = np.isfinite(maps).all(axis=(1, 2))
    linear = maps[:, :, :2]
    size = np.abs(linear).sum(axis=(1, 2)) ** 2
    det = np.abs(linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0])
    good = finite & (det > 1e-12 * size) & (det > 0)
    if not good.all():
        i = int(np.flatnonzero(~good)[0])
        raise ValueRangeError(
            f"a matrix must be finite and invertible; number {i} is {maps[i].tolist()}. "
            "Were its points all in one place?"
        )

"""Masks of faces: outlines from landmarks, polygons with a soft edge, distances inside any mask.

A mask is uint8 [H, W]: 0 outside, 255 where the face replaces everything, between at its soft edge. The edge
lies inside the outline, so that nothing outside it is touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError

__all__ = [
    "convex_hull",
    "distance_inside",
    "face_outline",
    "face_oval",
    "five_points",
    "grow_hull",
    "grow_mask",
    "polygon_mask",
    "shrink_mask",
    "soft_step",
]

Mask = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

_ARC = 32  # corners that stand for a circle
_OUTLINE_SCHEMES = ("mesh468", "ibug68", "5pt")
_FOREHEAD = 0.5  # how far above the brows it reaches, in distances from eyes to mouth
# oval of a face seen from the front, in distances from eyes to mouth: measured on rendered faces
_OVAL_CENTRE, _OVAL_HALF_HEIGHT, _OVAL_HALF_WIDTH = 0.42, 1.25, 0.97


def face_outline(landmarks: Mapping[str, npt.NDArray[Any]], *, forehead: bool = True) -> Double:
    """Points whose convex hull is the face: float64 [K, 2].

    The richest scheme that is there is used: the mesh as it is, iBUG-68 with the brows lifted over the
    forehead when `forehead`, the oval of five points otherwise.

    Args:
        landmarks: scheme -> [K, 2] or [K, 3].
        forehead: whether the part above the brows belongs to it (the mesh always has it).

    Raises:
        ValueRangeError: no scheme that is known here.
    """
    for scheme in _OUTLINE_SCHEMES:
        if scheme in landmarks:
            points = np.asarray(landmarks[scheme], np.float64)[:, :2]
            if scheme == "5pt":
                return face_oval(points)
            if scheme == "ibug68" and forehead:
                return np.concatenate([points, _lifted_brows(points)])
            return points
    raise ValueRangeError(
        f"a face outline needs landmarks of one of {', '.join(_OUTLINE_SCHEMES)}; "
        f"the face has {', '.join(landmarks) or 'none'}. Run a landmarker first."
    )


def _lifted_brows(points: Double) -> Double:
    brows = points[17:27]
    eyes, mouth = points[36:48].mean(0), points[[48, 54]].mean(0)
    across = np.linspace(-1.0, 1.0, len(brows))[:, None]
    return brows + (eyes - mouth) * _FOREHEAD * (1.0 - 0.5 * across**2)


def face_oval(points: npt.NDArray[Any]) -> Double:
    """Corners of an ellipse about a face of which only "5pt" is known: float64 [32, 2].

    Its axes follow the line from the middle of the eyes to the middle of the mouth; the proportions are those
    of rendered faces.
    """
    five = np.asarray(points, np.float64)[:, :2]
    eyes, mouth = five[:2].mean(0), five[3:].mean(0)
    down = mouth - eyes
    unit = max(float(np.hypot(*down)), float(np.hypot(*(five[1] - five[0]))))
    down = down / (np.hypot(*down) or 1.0)
    right = np.array([-down[1], down[0]])
    angles = np.arange(_ARC) * (2 * math.pi / _ARC)
    along, across = np.sin(angles)[:, None] * down, np.cos(angles)[:, None] * right
    return eyes + unit * (_OVAL_CENTRE * down + _OVAL_HALF_HEIGHT * along + _OVAL_HALF_WIDTH * across)


def five_points(landmarks: Mapping[str, npt.NDArray[Any]]) -> Double:
    """Eyes, nose tip and corners of the mouth, from "5pt" or "ibug68": float64 [5, 2].

    Raises:
        ValueRangeError: neither is there.
    """
    if "5pt" in landmarks:
        return np.asarray(landmarks["5pt"], np.float64)[:, :2]
    if "ibug68" in landmarks:
        points = np.asarray(landmarks["ibug68"], np.float64)[:, :2]
        return np.stack([points[36:42].mean(0), points[42:48].mean(0), *points[[30, 48, 54]]])
    raise ValueRangeError(
        f"an oval needs landmarks '5pt' or 'ibug68'; the face has {', '.join(landmarks) or 'none'}."
    )


def convex_hull(points: npt.NDArray[Any]) -> Double:
    """Corners of the smallest convex polygon about `points` [K, 2], in order round it: float64 [V, 2].

    Andrew's monotone chain; points that lie on a side are left out. Fewer than three corners when all points
    lie on one line.

    Raises:
        ShapeError: not [K, 2] with K of at least 1.
        ValueRangeError: a coordinate is not finite.
    """
    given = np.asarray(points, np.float64)
    if given.ndim != 2 or given.shape[1] != 2 or not len(given):
        raise ShapeError(f"points must be [K, 2] with K at least 1; got {list(given.shape)}.")
    if not np.isfinite(given).all():
        raise ValueRangeError("points must be finite; a landmark is not a number. Leave that face out.")
    ordered = [(float(x), float(y)) for x, y in np.unique(given, axis=0)]
    if len(ordered) < 3:
        return np.array(ordered)
    lower, upper = _half_hull(ordered), _half_hull(ordered[::-1])
    return np.array(lower[:-1] + upper[:-1])


def _half_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    chain: list[tuple[float, float]] = []
    for x, y in points:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2:]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def grow_hull(points: npt.NDArray[Any], radius: float) -> Double:
    """Hull of `points` [K, 2] grown outwards by `radius` pixels, with rounded corners: float64 [V, 2].

    Rounded by arcs of 32 corners to the full circle, on which it falls short by at most radius / 200.
    """
    corners = convex_hull(points)
    if radius <= 0:
        return corners
    angles = np.arange(_ARC) * (2 * math.pi / _ARC)
    circle = radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return convex_hull((corners[:, None] + circle[None]).reshape(-1, 2))


def soft_step(distance: npt.NDArray[Any], width: float) -> Mask:
    """0 at distances <= 0, 255 from `width` on, a smooth rise (3 t^2 - 2 t^3) between: uint8.

    A width below one pixel gives the share of each pixel that is covered.
    """
    share = distance / width if width >= 1.0 else distance + 0.5
    t = np.clip(share, 0.0, 1.0).astype(np.float32)
    if width >= 1.0:
        t = t * t * (3.0 - 2.0 * t)
    return np.rint(t * 255.0).astype(np.uint8)


def polygon_mask(corners: npt.NDArray[Any], shape: tuple[int, int], feather: float = 0.0) -> Mask:
    """Mask of a convex polygon, its edge softened inwards over `feather` pixels: uint8 [H, W].

    Args:
        corners: [V, 2] in pixels, in order round the polygon, as `convex_hull` gives them. Fewer than three
            enclose nothing.
        shape: height and width.
        feather: below 1 the edge is only smoothed within its pixels.
    """
    points = np.asarray(corners, np.float64)
    if len(points) < 3:
        return np.zeros(shape, np.uint8)
    following = np.roll(points, -1, 0)
    turn = np.sign((points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum())
    side = (following - points) * turn
    normal = np.stack([-side[:, 1], side[:, 0]], 1) / np.hypot(side[:, 0], side[:, 1])[:, None]
    low = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, shape[::-1])
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low, shape[::-1])
    x, y = (np.arange(start, stop) + 0.5 for start, stop in zip(low, high, strict=True))
    inside = np.full((len(y), len(x)), np.inf, np.float32)
    distance = np.empty_like(inside)
    for (nx, ny), (px, py) in zip(normal, points, strict=True):
        across, down = (nx * (x - px)).astype(np.float32), (ny * (y - py)).astype(np.float32)
        np.add(across[None], down[:, None], out=distance)
        np.minimum(inside, distance, out=inside)
    mask = np.zeros(shape, np.uint8)
    mask[low[1] : high[1], low[0] : high[0]] = soft_step(inside, feather)
    return mask


def distance_inside(inside: npt.NDArray[np.bool_], limit: float) -> Float:
    """Distance of each pixel of a mask to the nearest one outside it, in pixels: float32 [H, W].

    Between pixel centres: a pixel beside the outside has 1, pixels outside have 0. What lies beyond the array
    counts as inside. Distances above `limit` are given as limit + 1. Exact Euclidean distances, by the two
    passes of Saito and Toriwaki (1994): down the columns, then the least of the sums along the rows.
    """
    far = float(limit) + 1.0
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return np.zeros(inside.shape, np.float32)
    box = np.s_[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
    distance = np.zeros(inside.shape, np.float32)
    distance[box] = np.minimum(np.sqrt(_squared_distance(inside[box], limit)), far)
    return distance


def _squared_distance(inside: npt.NDArray[np.bool_], limit: float) -> npt.NDArray[Any]:
    """Squared distances [H, W], right up to `limit` and at least its square beyond."""
    width = inside.shape[1]
    far = math.ceil(limit) + 1
    kind = np.uint16 if far * far * 2 < 2**16 else np.uint32  # small numbers: more of them at a time
    column = np.where(inside, np.float32(far), np.float32(0.0))
    column = _passed_down(_passed_down(column)[::-1])[::-1]
    squared = np.square(np.minimum(column, far).astype(kind))
    least = squared.copy()
    scratch = np.empty_like(squared)
    for shift in range(1, min(math.ceil(limit), width - 1) + 1):
        moved = scratch[:, : width - shift]
        np.add(squared[:, shift:], kind(shift * shift), out=moved)
        np.minimum(least[:, :-shift], moved, out=least[:, :-shift])
        np.add(squared[:, :-shift], kind(shift * shift), out=moved)
        np.minimum(least[:, shift:], moved, out=least[:, shift:])
    return least


def _passed_down(column: Float) -> Float:
    """Each value, or one more per row than any value above it, whichever is least."""
    row = np.arange(len(column), dtype=np.float32)[:, None]
    return np.minimum.accumulate(column - row, axis=0) + row


def grow_mask(inside: npt.NDArray[np.bool_], radius: float) -> npt.NDArray[np.bool_]:
    """All pixels within `radius` pixels of the mask: bool [H, W]."""
    if radius <= 0:
        return inside
    return distance_inside(~inside, radius) <= radius


def shrink_mask(mask: Mask, erode: float, feather: float) -> Mask:
    """The mask with another edge: taken back by `erode` pixels, then softened inwards over `feather` pixels.

    What the mask covers is where it is above 0; its own soft edge is replaced. Its border and that of the
    array are treated alike, so that the edge is soft there too.
    """
    padded = np.pad(mask > 0, 1)
    distance = distance_inside(padded, erode + max(feather, 1.0) + 1.0)[1:-1, 1:-1]
    return soft_step(distance - 0.5 - erode, feather)

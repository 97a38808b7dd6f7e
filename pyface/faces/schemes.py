"""Schemes of landmarks: how many points there are, what they mark, their mirror images, and conversions.

"Left" and "right" are those of the picture everywhere: the left eye is the one nearer to column 0 on an
upright, frontal face.

| scheme | points | origin |
|---|---|---|
| 5pt | 5 | eyes, nose tip, corners of the mouth, left first |
| ibug68 | 68 | C. Sagonas et al., "300 faces in-the-wild challenge" (2013) |
| mesh468 | 468 | Y. Kartynnik et al., "Real-time facial surface geometry from monocular video" (2019) |
| blazeface6 | 6 | eyes, nose tip, middle of the mouth, ears, left first; V. Bazarevsky et al. (2019) |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError

__all__ = ["SCHEMES", "Scheme", "convert", "converted", "eye_line", "mirror", "scheme"]

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """One scheme.

    Attributes:
        name: as in `Face.landmarks`.
        count: number of points.
        mirrored: point i of a mirrored picture is the mirror image of point mirrored[i] of the picture.
        parts: name -> the points of a part, in order along it: jaw, left_brow, right_brow, nose, left_eye,
            right_eye, mouth, as far as the scheme has them.
    """

    name: str
    count: int
    mirrored: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]]


# fmt: off
_IBUG68_MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)

# found by matching the mean mesh of renders with that of the same renders mirrored; it is its own inverse
_MESH468_MIRRORED = (
    0, 1, 2, 248, 4, 5, 6, 249, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 250, 251, 252, 253, 254, 255,
    256, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 274, 275, 276,
    277, 278, 279, 280, 281, 282, 283, 284, 285, 286, 287, 288, 289, 290, 291, 292, 293, 294, 295, 296, 297,
    298, 299, 300, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310, 311, 312, 313, 314, 315, 316, 317, 318,
    319, 320, 321, 322, 323, 94, 324, 325, 326, 327, 328, 329, 330, 331, 332, 333, 334, 335, 336, 337, 338,
    339, 340, 341, 342, 343, 344, 345, 346, 347, 348, 349, 350, 351, 352, 353, 354, 355, 356, 357, 358, 359,
    360, 361, 362, 363, 364, 365, 366, 367, 368, 369, 370, 371, 372, 373, 374, 375, 376, 377, 378, 379, 151,
    152, 380, 381, 382, 383, 384, 385, 386, 387, 388, 389, 390, 164, 391, 392, 393, 168, 394, 395, 396, 397,
    398, 399, 175, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417,
    418, 195, 419, 197, 420, 199, 200, 421, 422, 423, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434,
    435, 436, 437, 438, 439, 440, 441, 442, 443, 444, 445, 446, 447, 448, 449, 450, 451, 452, 453, 454, 455,
    456, 457, 458, 459, 460, 461, 462, 463, 464, 465, 466, 467, 3, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28,
    29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54,
    55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80,
    81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105,
    106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126,
    127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144, 145, 146, 147,
    148, 149, 150, 153, 154, 155, 156, 157, 158, 159, 160, 161, 162, 163, 165, 166, 167, 169, 170, 171, 172,
    173, 174, 176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194,
    196, 198, 201, 202, 203, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 216, 217, 218, 219,
    220, 221, 222, 223, 224, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 235, 236, 237, 238, 239, 240,
    241, 242, 243, 244, 245, 246, 247
)

# points of mesh468 for those of ibug68 on the left half and the middle line. For each the point nearest to
# rendered truth was taken, along the face's contour for the jaw; where two are as good, their mean.
_IBUG68_OF_MESH468 = {
    0: (234,), 1: (93,), 2: (132,), 3: (58,), 4: (172,), 5: (136,), 6: (149,), 7: (148,), 8: (152,),
    17: (46, 70), 18: (53,), 19: (52,), 20: (65,), 21: (55,),
    27: (168,), 28: (197,), 29: (5,), 30: (1, 4), 31: (75,), 32: (97,), 33: (2,),
    36: (33,), 37: (160,), 38: (158,), 39: (133,), 40: (153,), 41: (144,),
    48: (76,), 49: (39,), 50: (37,), 51: (0,), 57: (17,), 58: (84,), 59: (181,),
    60: (78,), 61: (82,), 62: (13,), 66: (14,), 67: (87,),
}

_MESH468_PARTS = {
    "jaw": (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361,
            323, 454, 356),
    "left_brow": (46, 53, 52, 65, 55, 107, 66, 105, 63, 70),
    "right_brow": (285, 295, 282, 283, 276, 300, 293, 334, 296, 336),
    "nose": (168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 48, 64, 98, 97, 326, 327, 294, 278),
    "left_eye": (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    "right_eye": (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
    "mouth": (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
              78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
}
# fmt: on

_IBUG68_PARTS = {
    "jaw": tuple(range(17)),
    "left_brow": tuple(range(17, 22)),
    "right_brow": tuple(range(22, 27)),
    "nose": tuple(range(27, 36)),
    "left_eye": tuple(range(36, 42)),
    "right_eye": tuple(range(42, 48)),
    "mouth": tuple(range(48, 68)),
}

SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "5pt",
            5,
            (1, 0, 2, 4, 3),
            {"left_eye": (0,), "right_eye": (1,), "nose": (2,), "mouth": (3, 4)},
        ),
        Scheme("ibug68", 68, _IBUG68_MIRRORED, _IBUG68_PARTS),
        Scheme("mesh468", 468, _MESH468_MIRRORED, _MESH468_PARTS),
        Scheme(
            "blazeface6",
            6,
            (1, 0, 2, 3, 5, 4),
            {"left_eye": (0,), "right_eye": (1,), "nose": (2,), "mouth": (3,)},
        ),
    )
}

# 5pt from blazeface6: the corners lie this share of the line between the eyes to each side of a point that
# lies this share of the way from the lips up to the eyes. Calibrated on renders.
_CORNER_ASIDE = 0.40
_CORNER_UP = 0.10


def scheme(name: str) -> Scheme:
    """The scheme of this name.

    Raises:
        ValueRangeError: there is none.
    """
    if name not in SCHEMES:
        raise ValueRangeError(f"there is no scheme of landmarks {name!r}; there are {', '.join(SCHEMES)}.")
    return SCHEMES[name]


def convert(points: npt.NDArray[Any], source: str, target: str) -> Floats:
    """Landmarks of one scheme as those of another: float32 [..., K, 2].

    mesh468 gives ibug68 and 5pt, ibug68 gives 5pt, and blazeface6 an estimate of 5pt, in which the corners of
    the mouth are guessed from its middle. The eyes of 5pt are the means of the six points of each eye, the
    nose tip is point 30 and the corners are 48 and 54 of ibug68.

    >>> convert(np.zeros((468, 3), np.float32), "mesh468", "5pt").shape
    (5, 2)

    Args:
        points: [..., K, 2] or [..., K, 3]; a depth is left out.
        source: their scheme.
        target: the wanted scheme.

    Raises:
        ShapeError: the points do not fit `source`.
        ValueRangeError: an unknown scheme, or points that cannot be had from the given ones.
    """
    flat = _checked(points, source)[..., :2]
    scheme(target)
    if source == target:
        return flat.copy()
    if (source, target) == ("mesh468", "ibug68"):
        return flat[..., _FIRST, :] * np.float32(0.5) + flat[..., _SECOND, :] * np.float32(0.5)
    if (source, target) == ("mesh468", "5pt"):
        return convert(convert(flat, source, "ibug68"), "ibug68", "5pt")
    if (source, target) == ("ibug68", "5pt"):
        eyes = flat[..., 36:48, :].reshape(*flat.shape[:-2], 2, 6, 2).mean(axis=-2)
        return np.concatenate([eyes, flat[..., [30, 48, 54], :]], axis=-2)
    if (source, target) == ("blazeface6", "5pt"):
        return _five_of_six(flat)
    ways = "; ".join(f"{a} to {b}" for a, b in _WAYS)
    raise ValueRangeError(f"landmarks {source!r} cannot be converted to {target!r}; possible are {ways}.")


_WAYS = (("mesh468", "ibug68"), ("mesh468", "5pt"), ("ibug68", "5pt"), ("blazeface6", "5pt"))


def _sources() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two points of mesh468 for each of ibug68, whose mean it is."""
    of = dict(_IBUG68_OF_MESH468)
    for point, sources in _IBUG68_OF_MESH468.items():
        of.setdefault(_IBUG68_MIRRORED[point], tuple(_MESH468_MIRRORED[s] for s in sources))
    return np.array([of[i][0] for i in range(68)]), np.array([of[i][-1] for i in range(68)])


_FIRST, _SECOND = _sources()


def _five_of_six(points: Floats) -> Floats:
    left, right, nose, lips = (points[..., i, :] for i in range(4))
    aside = (right - left) * np.float32(_CORNER_ASIDE)
    middle = lips + ((left + right) / 2 - lips) * np.float32(_CORNER_UP)
    return np.stack([left, right, nose, middle - aside, middle + aside], axis=-2)


def converted(landmarks: Mapping[str, npt.NDArray[Any]], target: str) -> Floats:
    """Landmarks `target` of a face from the best scheme that it has: float32 [K, 2].

    Args:
        landmarks: scheme -> points, as in `Face.landmarks`. What is `target` already is taken first, then
            ibug68, mesh468 and blazeface6.
        target: the wanted scheme.

    Raises:
        ValueRangeError: no scheme of the face can be converted; the message lists those that are there.
    """
    scheme(target)
    if target in landmarks:
        return convert(landmarks[target], target, target)
    for source in ("ibug68", "mesh468", "blazeface6"):
        if source in landmarks and (source, target) in _WAYS:
            return convert(landmarks[source], source, target)
    raise ValueRangeError(
        f"the face has no landmarks from which {target!r} follows; it has {', '.join(landmarks) or 'none'}. "
        "Run a landmarker first, such as pyface.faces.load_landmarker()."
    )


def mirror(points: npt.NDArray[Any], name: str, width: float) -> Floats:
    """The landmarks of the mirrored picture, in the scheme's order: float32 of the same shape.

    Args:
        points: [..., K, 2] or [..., K, 3].
        name: their scheme.
        width: of the picture in pixels.

    Raises:
        ShapeError: the points do not fit the scheme.
        ValueRangeError: an unknown scheme.
    """
    checked = _checked(points, name)
    turned = checked[..., list(SCHEMES[name].mirrored), :].copy()
    turned[..., 0] = np.float32(width) - turned[..., 0]
    return turned


def eye_line(landmarks: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64] | None:
    """The vector from the left eye to the right one, float64 [2], by any scheme; None without landmarks."""
    for name in ("mesh468", "ibug68", "5pt", "blazeface6"):
        if name in landmarks:
            points = np.asarray(landmarks[name], np.float64)[:, :2]
            parts = SCHEMES[name].parts
            left, right = (points[list(parts[eye])].mean(axis=0) for eye in ("left_eye", "right_eye"))
            line: npt.NDArray[np.float64] = right - left
            return line
    return None


def _checked(points: npt.NDArray[Any], name: str) -> Floats:
    count = scheme(name).count
    array = np.asarray(points, np.float32)
    if array.ndim < 2 or array.shape[-2] != count or array.shape[-1] not in (2, 3):
        raise ShapeError(
            f"landmarks {name!r} must be [..., {count}, 2] or [..., {count}, 3]; got {list(array.shape)}."
        )
    return array

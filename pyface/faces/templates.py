"""Where the features of a face lie in an aligned picture: one affine map for a face and a template.

| template | the map |
|---|---|
| `arcface112` | least squares to five points, the framing of ArcFace networks |
| `dlib150` | least squares to five points, the chips of dlib's recognition network |
| `rendered` | the framing of rendered faces and of `recognition-64`: five points, the head in the middle |
| `ffhq` | the square of the FFHQ dataset around eyes and mouth |
| `eyes` | eyes level and at fixed places |
| `mouth` | around the mouth, placed by eyes and nose alone |
| `mouth_seed` | around the mouth, placed by its own corners; it moves with the expression |

All but `mouth_seed` are similarities (turn, one scale, shift). Points and maps are those of the package:
pixels, x right, y down, pixel centres at +0.5. Published templates that count pixel centres at whole
numbers are moved by half a pixel when they enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.affine import Matrix, inverse
from pyface.faces.ffhq import ffhq_quad

__all__ = [
    "ARCFACE_POINTS",
    "DLIB_POINTS",
    "Template",
    "arcface_points",
    "load_template",
    "point_template",
    "register_template",
    "similarity",
    "template_names",
]

Points = npt.NDArray[np.float64]

# Eyes, nose tip, mouth corners in 112 x 112 pixels whose centres are whole numbers (Deng et al. 2019,
# ArcFace, as published with the networks).
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# The same five points in 150 x 150 pixels, centres at +0.5. dlib (`get_face_chip`, size 150, padding 0.25)
# lays 33 of 68 points by least squares on a mean face. That face was fitted to the chips that dlib cuts of
# landmarks moved at random; these are the means of its eyes, its nose tip and the corners of its mouth.
DLIB_POINTS = np.array(
    [[47.549, 46.599], [100.476, 46.599], [74.013, 76.562], [50.415, 103.023], [97.610, 103.023]]
)

# Where they lie on average in rendered pictures of 64 x 64 pixels that look into the camera (yaw below 0.2),
# and how far the middle of the head moves against them for each pixel that the tip of the nose does: least
# squares over 1500 rendered faces, R2 0.98 across and 0.33 down.
_RENDERED_POINTS = np.array([[23.87, 28.61], [40.13, 28.61], [32.0, 37.77], [25.50, 44.71], [38.50, 44.71]])
_RENDERED_HEAD = np.array([2.80, 1.06])

_EYE_X, _EYE_Y = 0.35, 0.4  # image-left eye in the template "eyes", as shares of the side
# Of the template "mouth", in lengths from between the eyes to the tip of the nose. Sideways the mouth
# follows the nose, which stands out further, by half: with all of it, 44 % of renders in natural poses have
# a corner of the mouth outside of the frame, so 7 %.
_MOUTH_DOWN, _MOUTH_ASIDE, _MOUTH_HALF = 1.65, 0.5, 0.95


@dataclasses.dataclass(frozen=True)
class Template:
    """How a face is laid into a square picture.

    Attributes:
        name: what `align` calls it.
        fit: (points float64 [K, 2] of `scheme`, size) -> float64 [2, 3], picture -> crop.
        scheme: landmarks that `fit` takes.
        sources: schemes of a `Face` to take them from, the best first; others than `scheme` are converted.
        border: what is shown beyond the picture's edges: a border of `warp`, or "ffhq" for the padding that
            FFHQ was made with.
    """

    name: str
    fit: Callable[[Points, int], Matrix]
    scheme: str = "5pt"
    sources: tuple[str, ...] = ("5pt", "ibug68", "mesh468", "blazeface6")
    border: str = "constant"

    def matrix(self, points: npt.ArrayLike, size: int) -> Matrix:
        """float64 [2, 3], picture -> crop of size x size, for `points` [K, 2] of `scheme`.

        Raises:
            ValueRangeError: the points are not finite, or do not say where the face is.
        """
        return self.fit(_checked_points(points, "points"), size)


def similarity(points: npt.ArrayLike, template: npt.ArrayLike) -> Matrix:
    """The similarity that brings `points` nearest to `template`: float64 [2, 3].

    Turn, one scale and shift that minimise the sum of squared distances, never a mirror image (Umeyama 1991,
    equations 34 to 43). With points as complex numbers p and q about their means, turn and scale are
    sum(conj(p) q) / sum(|p|^2), which in the plane is the same.

    >>> similarity([[0, 0], [2, 0]], [[1, 1], [1, 5]]).round(6).tolist()
    [[0.0, -2.0, 1.0], [2.0, 0.0, 1.0]]

    Args:
        points: [K, 2], at least two.
        template: [K, 2], where they shall come to lie.

    Raises:
        ShapeError: not such points.
        ValueRangeError: not finite, all in one place, or in a position that no turn fits better than another.
    """
    source, target = _checked_points(points, "points"), _checked_points(template, "template")
    if source.shape != target.shape or len(source) < 2:
        raise ShapeError(
            "points and template must be [K, 2] with one K of at least 2; "
            f"got {list(source.shape)} and {list(target.shape)}."
        )
    p, q = (array[:, 0] + 1j * array[:, 1] for array in (source, target))
    p_mean, q_mean = p.mean(), q.mean()
    p, q = p - p_mean, q - q_mean
    spread = float((np.abs(p) ** 2).sum())
    if spread <= 1e-12 * (1 + abs(p_mean) ** 2):
        raise ValueRangeError(
            f"points must not all lie in one place; got {len(source)} at about "
            f"({p_mean.real:g}, {p_mean.imag:g}). The landmarks are wrong: leave this face out."
        )
    turn = complex((p.conj() * q).sum() / spread)
    if abs(turn) <= 1e-9 * float((np.abs(q) ** 2).sum() / spread) ** 0.5:
        raise ValueRangeError(
            "points fit the template no better in one direction than in any other; they look mirrored. "
            "Give landmarks in the template's order, image left first."
        )
    return _complex_map(turn, complex(q_mean - turn * p_mean))


def arcface_points(size: int) -> Points:
    """The five points of ArcFace's framing in a crop of `size` pixels, centres at +0.5: float64 [5, 2].

    Sizes that are multiples of 112: the published points scaled. Multiples of 128: the framing of 128 pixels,
    112 in its middle columns (x + 8) and upper rows, scaled. Any other size: the framing of 112, scaled.
    """
    if size % 112 and size % 128 == 0:
        return (ARCFACE_POINTS + np.array([8.0, 0.0])) * (size / 128) + 0.5
    return ARCFACE_POINTS * (size / 112) + 0.5


def point_template(
    name: str, points: npt.ArrayLike, size: int, *, scheme: str = "5pt", centres: float = 0.5
) -> Template:
    """A template that lays landmarks by least squares on `points` [K, 2] of a crop of `size` pixels.

    Crops of other sizes show the same, larger or smaller.

    Args:
        name: of the template.
        points: where the landmarks of `scheme` shall lie.
        size: of the crop that the points are in.
        scheme: of the landmarks.
        centres: where the points count a pixel's centre: 0.5 as pyface does, or 0 as OpenCV and dlib do.
    """
    places = (_checked_points(points, "points") + (0.5 - centres)) / size
    return Template(name, lambda found, side: similarity(found, places * side), scheme)


def register_template(template: Template) -> None:
    """Make `template` known by its name; a later one of the same name replaces it."""
    _TEMPLATES[template.name] = template


def template_names() -> list[str]:
    """Names that `load_template` and `align` know."""
    return sorted(_TEMPLATES)


def load_template(name: str | Template) -> Template:
    """The template of this name; a `Template` is given back.

    Raises:
        ValueRangeError: there is none.
    """
    if isinstance(name, Template):
        return name
    if name not in _TEMPLATES:
        raise ValueRangeError(
            f"there is no template {name!r}; there are {', '.join(template_names())}. "
            "register_template() adds one."
        )
    return _TEMPLATES[name]


# --- the built-in templates --------------------------------------------------------------------------------


def _arcface(points: Points, size: int) -> Matrix:
    return similarity(points, arcface_points(size))


def _rendered(points: Points, size: int) -> Matrix:
    """Least squares to the five points, then shifted so that the head, not the face, is in the middle.

    In a rendered picture the head stays where it is when it turns, and the face moves over it: the nose,
    which stands out, goes farther than eyes and mouth, and tells how far.
    """
    places = _RENDERED_POINTS * (size / 64)
    matrix = similarity(points, places)
    nose = matrix[:, :2] @ points[2] + matrix[:, 2]
    matrix[:, 2] += _RENDERED_HEAD * (nose - places[2])
    return matrix


def _ffhq(points: Points, size: int) -> Matrix:
    """The square of `ffhq_quad` onto the crop."""
    quad, side = ffhq_quad(points)
    return _framed(quad.mean(0), quad[3] - quad[0], side / 2, size)


def _eyes(points: Points, size: int) -> Matrix:
    left, right = points[0], points[1]
    return similarity([left, right], np.array([[_EYE_X, _EYE_Y], [1 - _EYE_X, _EYE_Y]]) * size)


def _mouth(points: Points, size: int) -> Matrix:
    """The eyes level, half a side 0.95 |n|, n from between the eyes to the tip of the nose.

    The middle is 1.65 times the part of n across the line of the eyes below it, and 0.5 times the part along
    that line beside it. Neither point of the mouth takes part, so a smile, which moves them, does not move
    the frame.
    """
    between = points[:2].mean(0)
    nose, right = points[2] - between, points[1] - points[0]
    if not right.any():
        raise _no_frame("the eyes lie in one place")
    aside = (nose @ right) / (right @ right) * right
    centre = between + _MOUTH_ASIDE * aside + _MOUTH_DOWN * (nose - aside)
    return _framed(centre, right, _MOUTH_HALF * float(np.linalg.norm(nose)), size)


def _mouth_seed(points: Points, size: int) -> Matrix:
    """The upright box that KeepSmiling cuts: from nose - A u to f + b + A u, stretched to the crop.

    f is the middle of the mouth's corners, b = f - nose, u the direction from corner to corner, A the root of
    |b|^2 plus the squared half width of the mouth. A smile widens the mouth and lifts its corners, and so
    moves and scales this frame: a classifier can tell a smile from the framing alone. It is here for
    comparison; train on `mouth`.
    """
    nose, left, right = points[2:5]
    middle = (left + right) / 2
    below = middle - nose
    across = right - left
    half = float(np.linalg.norm(across)) / 2
    if half == 0:
        raise _no_frame("the corners of the mouth lie in one place")
    reach = float(np.hypot(half, np.linalg.norm(below))) * across / (2 * half)
    low, high = nose - reach, middle + below + reach
    width, height = (high - low).tolist()
    if width <= 0 or height <= 0:
        raise _no_frame("the mouth is not below the nose; this template takes upright faces alone")
    scale = np.array([size / width, size / height])
    return np.concatenate([np.diag(scale), (-scale * low)[:, None]], 1)


def _framed(centre: Points, right: Points, half: float, size: int) -> Matrix:
    """The map of the square around `centre`, half a side `half`, whose upper side points along `right`."""
    length = float(np.linalg.norm(right))
    if not (length > 0 and half > 0):
        raise _no_frame("eyes, or eyes and nose or mouth, lie in one place")
    turn = size / (2 * half) * complex(right[0], -right[1]) / length
    return _complex_map(turn, complex(size / 2, size / 2) - turn * complex(*centre))


def _complex_map(turn: complex, shift: complex) -> Matrix:
    """z -> turn z + shift as a matrix [2, 3]."""
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    inverse(matrix)  # a frame too small or too large for numbers is an error here, not later
    return matrix


def _no_frame(reason: str) -> ValueRangeError:
    return ValueRangeError(f"points do not say where the face is: {reason}. Leave this face out.")


def _checked_points(points: npt.ArrayLike, name: str) -> Points:
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ShapeError(f"{name} must be [K, 2]; got {list(array.shape)}.")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueRangeError(f"{name} must be finite; number {bad} is {array[bad].tolist()}.")
    return array


_TEMPLATES: dict[str, Template] = {}
for _template in (
    Template("arcface112", _arcface),
    point_template("dlib150", DLIB_POINTS, 150),
    Template("rendered", _rendered),
    Template("ffhq", _ffhq, sources=("ibug68", "mesh468", "5pt", "blazeface6"), border="ffhq"),
    Template("eyes", _eyes),
    Template("mouth", _mouth),
    Template("mouth_seed", _mouth_seed),
):
    register_template(_template)

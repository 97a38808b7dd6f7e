"""Faces laid into square pictures by a template, and the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.face import Face, Photo, checked_photo
from pyface.faces.ffhq import ffhq_crop
from pyface.faces.schemes import convert
from pyface.faces.templates import Template, load_template
from pyface.faces.warp import Border, Matrix, inverse, transform_points, valid_pixels, warp, warp_image

__all__ = ["AlignedFace", "FacePoints", "align", "align_batch", "alignment_matrix"]

Points = npt.NDArray[np.float64]
FacePoints = Face | Mapping[str, npt.NDArray[np.float32]] | npt.NDArray[Any]

_SCHEMES = {5: "5pt", 68: "ibug68", 468: "mesh468"}  # by the number of points


@dataclasses.dataclass
class AlignedFace:
    """A face in a square picture, with the map that brought it there.

    Attributes:
        image: uint8 [size, size, 3].
        matrix: float64 [2, 3], picture -> crop, pixel centres at +0.5 in both.
        template: its name.
        size: height and width in pixels.
        valid: bool [size, size], pixels whose centre came from inside the picture.
        landmarks: scheme -> float32 [K, 2] or [K, 3], the landmarks in the crop.
    """

    image: Photo
    matrix: Matrix
    template: str
    size: int
    valid: npt.NDArray[np.bool_]
    landmarks: dict[str, npt.NDArray[np.float32]]

    def to_crop(self, points: npt.ArrayLike) -> Points:
        """Where `points` [..., 2 or 3] of the picture lie in the crop: float64 of the same shape."""
        return transform_points(self.matrix, points)

    def to_image(self, points: npt.ArrayLike) -> Points:
        """Where `points` [..., 2 or 3] of the crop lie in the picture: float64 of the same shape."""
        return transform_points(inverse(self.matrix), points)


def align(
    image: Photo,
    points: FacePoints,
    template: str | Template = "ffhq",
    size: int = 256,
    *,
    border: Border | None = None,
) -> AlignedFace:
    """The face at `points`, laid into a picture of size x size by `template`.

    >>> photo = np.zeros((100, 100, 3), np.uint8)
    >>> eyes_nose_mouth = np.array([[40, 50], [60, 50], [50, 60], [44, 70], [56, 70]])
    >>> aligned = align(photo, eyes_nose_mouth, "eyes", 100)
    >>> aligned.landmarks["5pt"][:2].round(2).tolist()
    [[35.0, 40.0], [65.0, 40.0]]

    Args:
        image: uint8 [H, W, 3], RGB.
        points: a `Face`, a dictionary scheme -> landmarks, or an array [5, 2] (5pt), [68, 2] (ibug68) or
            [468, 2] (mesh468), in pixels of `image`, image left first; a depth may stand beside.
        template: a name of `template_names()` or a `Template`.
        size: of the crop, in pixels.
        border: what lies outside the picture, as for `warp`; by default what the template says, for "ffhq"
            the padding of the dataset.

    Raises:
        ShapeError: `image` or `points` are something else.
        ValueRangeError: points that are not finite, lie in one place, are mirrored, or are all outside the
            picture; landmarks that the template cannot use; an unknown template; a bad size.
    """
    checked_photo(image)
    chosen = load_template(template)
    _check_size(size)
    found = _landmarks(points)
    fitted = _fitted_points(found, chosen)
    _check_place(fitted, image.shape[0], image.shape[1])
    matrix = chosen.matrix(fitted, size)
    kind = chosen.border if border is None else border
    if kind == "ffhq":
        corners = np.array([[0.0, 0.0], [0.0, size], [size, size], [size, 0.0]])
        crop = ffhq_crop(image, transform_points(inverse(matrix), corners), size)
    else:
        crop = warp_image(image, matrix, size, border=cast(Border, kind))
    return AlignedFace(
        image=crop,
        matrix=matrix,
        template=chosen.name,
        size=size,
        valid=valid_pixels(matrix, size, image.shape[0], image.shape[1]),
        landmarks={name: transform_points(matrix, p).astype(np.float32) for name, p in found.items()},
    )


def align_batch(
    images: Tensor | Sequence[Photo],
    points: Sequence[FacePoints] | npt.NDArray[Any] | Tensor,
    template: str | Template,
    size: int,
    *,
    border: Border | None = None,
) -> tuple[Tensor, Matrix]:
    """One face of each image, laid into pictures of size x size: ready for a network.

    A tensor of images stays on its device and gradients flow through it, so that a loss on aligned faces can
    train what made the images. There the padding of "ffhq" is the mirrored picture alone; photographs get
    what `align` gives.

    Args:
        images: floating point [N, 3, H, W] in [-1, 1]; or N photographs uint8 [h, w, 3] of any sizes.
        points: N times what `align` takes, or one array [N, K, 2]. They get no gradient.
        template, size, border: as for `align`.

    Returns:
        Faces [N, 3, size, size] in [-1, 1] (float32 for photographs, else of the images' dtype), and the
        matrices float64 [N, 2, 3], picture -> crop.

    Raises:
        DTypeError: a tensor of whole numbers.
        ShapeError, ValueRangeError: as `align`; the message says which face it was.
    """
    chosen = load_template(template)
    _check_size(size)
    each = list(points.detach().cpu().numpy()) if isinstance(points, Tensor) else list(points)
    if len(each) != len(images):
        raise ShapeError(f"there must be points for every image; got {len(each)} for {len(images)} images.")
    if isinstance(images, Tensor):
        return _align_tensor(images, each, chosen, size, border)
    faces = torch.empty(len(each), 3, size, size)
    matrices = np.empty((len(each), 2, 3))
    for i, (image, at) in enumerate(zip(images, each, strict=True)):
        with _numbered(i):
            aligned = align(image, at, chosen, size, border=border)
        faces[i] = torch.from_numpy(aligned.image).permute(2, 0, 1)
        matrices[i] = aligned.matrix
    return faces.div_(127.5).sub_(1), matrices


def alignment_matrix(points: FacePoints, template: str | Template, size: int) -> Matrix:
    """The map float64 [2, 3] that `align` would use, without a picture."""
    chosen = load_template(template)
    _check_size(size)
    return chosen.matrix(_fitted_points(_landmarks(points), chosen), size)


def _align_tensor(
    images: Tensor, points: list[FacePoints], template: Template, size: int, border: Border | None
) -> tuple[Tensor, Matrix]:
    if not images.is_floating_point():
        raise DTypeError(
            f"images must be floating point in [-1, 1]; got {images.dtype}. For uint8 levels: x / 127.5 - 1, "
            "or give the photographs as a list of arrays."
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"images must be [N, 3, H, W]; got {list(images.shape)}.")
    matrices = np.empty((len(points), 2, 3))
    for i, at in enumerate(points):
        with _numbered(i):
            fitted = _fitted_points(_landmarks(at), template)
            _check_place(fitted, images.shape[2], images.shape[3])
            matrices[i] = template.matrix(fitted, size)
    kind = template.border if border is None else border
    kind = "reflect" if kind == "ffhq" else kind
    faces = warp(images, matrices, size, border=cast(Border, kind), fill=-1.0)
    return faces, matrices


class _numbered:  # noqa: N801  (reads as a phrase: with _numbered(i))
    """Errors inside the block say which face of the batch they are about."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ShapeError | ValueRangeError):
            raise type(error)(f"face {self.number}: {error}") from error


# --- points ------------------------------------------------------------------------------------------------


def _landmarks(points: FacePoints) -> dict[str, Points]:
    """Landmarks by scheme, float64 [K, 2 or 3]."""
    if isinstance(points, Face):
        points = points.landmarks
    if isinstance(points, Mapping):
        return {name: np.asarray(array, np.float64) for name, array in points.items()}
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or array.shape[1] not in (2, 3) or len(array) not in _SCHEMES:
        known = " or ".join(f"[{count}, 2] ({name})" for count, name in _SCHEMES.items())
        raise ShapeError(f"points must be a Face, landmarks by scheme, or {known}; got {list(array.shape)}.")
    return {_SCHEMES[len(array)]: array}


def _fitted_points(landmarks: dict[str, Points], template: Template) -> Points:
    """The points that the template is fitted to, from the scheme it likes best."""
    for source in template.sources:
        if source in landmarks:
            points = convert(landmarks[source], source, template.scheme).astype(np.float64)
            if not np.isfinite(points).all():
                raise ValueRangeError(
                    f"landmarks {source!r} must be finite; got {points.tolist()}. Leave this face out."
                )
            if template.scheme == "5pt":
                _check_order(points)
            return points
    raise ValueRangeError(
        f"the template {template.name!r} needs landmarks of one of {', '.join(template.sources)}; "
        f"there are {', '.join(landmarks) or 'none'}. Run a landmarker first."
    )


def _check_order(points: Points) -> None:
    """Refuse points in which left and right are swapped: there the mouth is on the wrong side of the eyes."""
    e, m = points[1] - points[0], points[3:5].mean(0) - points[:2].mean(0)
    turn = float(e[0] * m[1] - e[1] * m[0])
    if turn < -0.2 * float(np.linalg.norm(e) * np.linalg.norm(m)):
        raise ValueRangeError(
            "the landmarks are mirrored: they must come in image order, for an upright face the eye on the "
            "left of the picture first. Swap eyes and corners of the mouth: points[[1, 0, 2, 4, 3]]."
        )


def _check_place(points: Points, height: int, width: int) -> None:
    low, high = points.min(0), points.max(0)
    if high[0] <= 0 or high[1] <= 0 or low[0] >= width or low[1] >= height:
        raise ValueRangeError(
            f"the landmarks, x {low[0]:g} to {high[0]:g} and y {low[1]:g} to {high[1]:g}, lie outside the "
            f"picture of {width} x {height} pixels. Are they of another picture, or of another scale?"
        )


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= 4096:
        raise ValueRangeError(f"size must be a whole number from 1 to 4096; got {size!r}.")

"""Crops that give photographs of many sizes one common size.

| crop | what it shows |
|--|--|
| None | the picture as it is |
| "square" | the largest square in the middle of the picture |
| "face" | the head, as FFHQ aligns it; another name of "ffhq" |
| "mouth" | the mouth, placed by eyes and nose so that the frame does not tell a smile |
| others | any name of `pyface.faces.templates`, such as "eyes", "arcface112", "mouth_seed" |

All but the first two turn, scale and cut by the landmarks. Landmarks move with the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from PIL import Image

from pyface.data.sample import Pixels
from pyface.errors import ValueRangeError

__all__ = ["Crop", "middle_picture", "square_picture"]

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]

_DEFAULT_SIZE = 128
_SMALLEST, _LARGEST = 4, 4096
_OTHER_NAMES = {"face": "ffhq"}


@dataclasses.dataclass(frozen=True)
class Crop:
    """How pictures are cropped: `name` and `size` are as in `pyface.data.photographs.Photographs`.

    Raises:
        ValueRangeError: an unknown crop, a size without a crop, or a size outside [4, 4096].
    """

    name: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            if self.size is not None:
                raise ValueRangeError(
                    f'size={self.size} needs a crop, such as crop="square" or crop="face"; without one '
                    "pictures keep their sizes."
                )
            return
        if self.by_landmarks:
            _template(self.name)
        size = _DEFAULT_SIZE if self.size is None else self.size
        if not _SMALLEST <= size <= _LARGEST:
            raise ValueRangeError(f"size must lie in [{_SMALLEST}, {_LARGEST}]; got {size}.")
        object.__setattr__(self, "size", int(size))

    @property
    def by_landmarks(self) -> bool:
        return self.name not in (None, "square")

    def refusal(self, height: int, width: int, points: Points) -> str | None:
        """Why a picture cannot be cropped by these landmarks, or None."""
        if not np.isfinite(points).all():
            return f"has no landmarks, and the crop {self.name!r} needs them"
        low, high = points.min(axis=0), points.max(axis=0)
        if (high <= 0).any() or low[0] >= width or low[1] >= height:
            return f"has landmarks that lie outside of its {width} x {height} pixels"
        try:
            self.matrix(height, width, points)
        except ValueRangeError as error:
            return f"cannot be cropped: {error}"
        return None

    def matrix(self, height: int, width: int, points: Points | None) -> Matrix:
        """The map from a picture to its crop: float64 [2, 3], pixel centres at +0.5 in both.

        Args:
            height: of the picture.
            width: of the picture.
            points: its landmarks [5, 2] or [68, 2], for crops by landmarks.
        """
        if self.size is None:
            return np.eye(2, 3)
        if self.by_landmarks:
            return _template_matrix(points, _template(self.name), self.size)
        side = min(height, width)
        scale = self.size / side
        left, top = (width - side) // 2, (height - side) // 2
        return np.array([[scale, 0.0, -scale * left], [0.0, scale, -scale * top]])

    def apply(self, pixels: Pixels, points: Points | None) -> tuple[Pixels, Matrix]:
        """The crop of a picture uint8 [H, W, C]: uint8 [size, size, C], and its `matrix`."""
        matrix = self.matrix(pixels.shape[0], pixels.shape[1], points)
        if self.size is None:
            return pixels, matrix
        if self.by_landmarks:
            return _aligned(pixels, points, _template(self.name), self.size), matrix
        return square_picture(pixels, self.size), matrix


def square_picture(pixels: Pixels, size: int) -> Pixels:
    """The largest square in the middle of uint8 [H, W, C], resized with Lanczos' filter: [size, size, C]."""
    return middle_picture(pixels, size, size)


def middle_picture(pixels: Pixels, height: int, width: int) -> Pixels:
    """The largest part of this shape in the middle of uint8 [H, W, C], resized: [height, width, C]."""
    scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
    tall, wide = round(scale * height), round(scale * width)
    top, left = (pixels.shape[0] - tall) // 2, (pixels.shape[1] - wide) // 2
    part = pixels[top : top + tall, left : left + wide]
    image = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
    resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return resized.reshape(height, width, -1)


def _template(name: str | None) -> str:
    """The name that `pyface.faces` knows a crop by."""
    from pyface.faces.templates import template_names  # brings torch, which other crops do without

    wanted = _OTHER_NAMES.get(str(name), str(name))
    if wanted not in template_names():
        known = ("square", *_OTHER_NAMES, *template_names())
        raise ValueRangeError(f"crop must be None or one of {', '.join(known)}; got {name!r}.")
    return wanted


def _template_matrix(points: Points | None, template: str, size: int) -> Matrix:
    from pyface.faces.align import alignment_matrix

    if points is None:
        raise ValueRangeError(f"the crop {template!r} needs landmarks, and there are none.")
    return alignment_matrix(points, template, size)


def _aligned(pixels: Pixels, points: Points | None, template: str, size: int) -> Pixels:
    from pyface.faces.align import align

    if points is None:
        raise ValueRangeError(f"the crop {template!r} needs landmarks, and there are none.")
    colour = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return align(colour, points, template, size).image[..., : pixels.shape[2]]

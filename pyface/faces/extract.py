"""Cutting faces out of photographs, with all that is needed to put them back: `FaceExtractor`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.affine import Matrix, scale_of, transform_points, valid_pixels
from pyface.faces.align import alignment_matrix
from pyface.faces.face import Face, Photo
from pyface.faces.masks import (
    Mask,
    face_outline,
    face_oval,
    five_points,
    grow_hull,
    grow_mask,
    polygon_mask,
    shrink_mask,
)
from pyface.faces.resample import resample
from pyface.faces.templates import Template, load_template

__all__ = ["MASKS", "ExtractedFace", "FaceExtractor", "Parser", "cut", "photo_channels"]

Parser = Callable[[Photo], npt.NDArray[np.bool_]]

MASKS = ("hull", "oval", "box", "segmentation")
_NATIVE = 112  # any size tells the scale of a template
_LEAST, _MOST = 4, 4096  # pixels along the side of a crop


@dataclasses.dataclass
class ExtractedFace:
    """A face cut out of a photograph by one affine map.

    Attributes:
        image: uint8 [S, S, 3], or [S, S] of a grey photograph.
        matrix: float64 [2, 3], photograph -> crop, pixel centres at +0.5.
        mask: uint8 [S, S]: 0 outside the face, 255 inside, between at its soft edge.
        landmarks: scheme -> float32 [K, 2] or [K, 3] in pixels of the crop.
        photo_size: height and width of the photograph.
        template: name of the template.
    """

    image: Photo
    matrix: Matrix
    mask: Mask
    landmarks: dict[str, npt.NDArray[np.float32]]
    photo_size: tuple[int, int]
    template: str

    @property
    def size(self) -> int:
        """Pixels along a side of the crop."""
        return int(self.image.shape[0])

    @property
    def extent(self) -> float:
        """Pixels of the photograph along a side of the crop."""
        return self.size / scale_of(self.matrix)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which pixels of the crop come from inside the photograph: bool [S, S]. Others are mirrored."""
        return valid_pixels(self.matrix, self.size, *self.photo_size)

    def landmark_features(self, scheme: str = "ibug68") -> npt.NDArray[np.float32]:
        """Landmarks x0 y0 x1 y1 ... as shares of the crop: float32 [2 K], -1 and 1 at its edges.

        Raises:
            ValueRangeError: there are no landmarks of this scheme.
        """
        if scheme not in self.landmarks:
            raise ValueRangeError(
                f"the crop has no landmarks {scheme!r}; it has {', '.join(self.landmarks) or 'none'}."
            )
        return (self.landmarks[scheme][:, :2] * (2.0 / self.size) - 1.0).astype(np.float32).reshape(-1)

    def low_resolution(self, side: int = 8) -> npt.NDArray[np.float32]:
        """The crop at `side` x `side`, each value the mean of its area: float32 [side, side, C] in [-1, 1].

        Raises:
            ValueRangeError: `side` is not from 1 to the size of the crop.
        """
        if not 1 <= side <= self.size:
            raise ValueRangeError(f"side must be from 1 to {self.size}; got {side}.")
        pixel = np.arange(self.size) * (side / self.size)
        area = np.arange(side)[:, None]
        ends = np.minimum(area + 1, pixel + side / self.size), np.maximum(area, pixel)
        shares = np.maximum(ends[0] - ends[1], 0.0)  # how much of each area a row or column of pixels makes
        rows = np.tensordot(shares, photo_channels(self.image), 1)
        return (shares @ rows / 127.5 - 1.0).astype(np.float32)

    def histogram(self, bins: int = 10, *, masked: bool = False) -> npt.NDArray[np.float32]:
        """How often levels fall into each of `bins` equal ranges, per channel: float32 [C, bins] in [-1, 1].

        -1 stands for never, 1 for all pixels.

        Args:
            bins: 1 to 256.
            masked: count only pixels where the mask is above 0.

        Raises:
            ValueRangeError: as many bins are not possible, or the mask is empty.
        """
        if not 1 <= bins <= 256:
            raise ValueRangeError(f"bins must be from 1 to 256; got {bins}.")
        pixels = photo_channels(self.image)
        chosen = pixels[self.mask > 0] if masked else pixels.reshape(-1, pixels.shape[2])
        if not len(chosen):
            raise ValueRangeError(
                "the mask of the crop is empty; there is nothing to count. Use masked=False."
            )
        counts = [np.bincount(c.astype(np.int64) * bins // 256, minlength=bins) for c in chosen.T]
        return (np.stack(counts) * (2.0 / len(chosen)) - 1.0).astype(np.float32)


class FaceExtractor:
    """Cuts faces out of photographs: one affine map, one reading of the photograph, one mask.

    >>> import numpy as np
    >>> five = np.array([[40, 50], [60, 50], [50, 62], [42, 72], [58, 72]], np.float32)
    >>> face = Face(np.array([30, 30, 70, 85], np.float32), 1.0, {"5pt": five})
    >>> crop = FaceExtractor(size=64).extract(np.zeros((120, 100, 3), np.uint8), face)
    >>> crop.image.shape, crop.mask.shape, crop.landmarks["5pt"].shape
    ((64, 64, 3), (64, 64), (5, 2))

    Beyond the edges of the photograph stands its mirror image; `ExtractedFace.valid` tells.

    Args:
        template: how the face is laid into the crop, a name or a `Template`.
        size: pixels along a side, 4 to 4096; None takes the photograph's own scale, so that nothing is lost.
        margin: share of the template's side that is shown more on every side; below 0 it is less.
        mask: "hull" of the landmarks, "oval" from five points, "box" (the whole crop), "segmentation" (an
            array given with the photograph), or a callable that says for a crop uint8 [S, S, 3] which pixels
            are the face, bool [S, S].
        forehead: whether the hull of iBUG-68 goes up to the hairline. The mesh has the forehead anyway.
        dilate: how far the mask is grown, as a share of the crop's side.
        feather: width of its soft edge, which lies inside it, as a share of the crop's side.

    Raises:
        ValueRangeError: a bad number or name.
    """

    def __init__(
        self,
        template: str | Template = "ffhq",
        size: int | None = 256,
        *,
        margin: float = 0.0,
        mask: str | Parser = "hull",
        forehead: bool = True,
        dilate: float = 0.02,
        feather: float = 0.06,
    ) -> None:
        if size is not None and not _LEAST <= size <= _MOST:
            raise ValueRangeError(f"size must be from {_LEAST} to {_MOST}, or None; got {size}.")
        if not callable(mask) and mask not in MASKS:
            raise ValueRangeError(f"mask must be one of {', '.join(MASKS)}, or a callable; got {mask!r}.")
        for name, value, low, high in (
            ("margin", margin, -0.45, 4.0),
            ("dilate", dilate, 0.0, 0.5),
            ("feather", feather, 0.0, 0.5),
        ):
            if not low <= value <= high:
                raise ValueRangeError(f"{name} must be from {low} to {high}; got {value}.")
        self.template = load_template(template)
        self.size = size
        self.margin = margin
        self.mask = mask
        self.forehead = forehead
        self.dilate = dilate
        self.feather = feather

    def extract(
        self, photo: Photo, face: Face, *, segmentation: npt.NDArray[np.bool_] | None = None
    ) -> ExtractedFace:
        """The face cut out of the photograph.

        Args:
            photo: uint8 [H, W, 3], or [H, W] grey.
            face: with landmarks that the template takes.
            segmentation: bool [H, W], where in the photograph the face is; for mask="segmentation" only. Of
                several faces the one about the landmarks is taken.

        Raises:
            ShapeError: not such pictures.
            ValueRangeError: no such landmarks, landmarks that are no face, or a face outside the photograph.
        """
        channels = photo_channels(photo)
        matrix, size = self._frame(face)
        height, width = channels.shape[:2]
        crop = cut(channels, matrix, size)
        landmarks = {
            scheme: transform_points(matrix, points).astype(np.float32)
            for scheme, points in face.landmarks.items()
        }
        image = crop.reshape(size, size, *photo.shape[2:])
        empty = np.zeros((size, size), np.uint8)
        extracted = ExtractedFace(image, matrix, empty, landmarks, (height, width), self.template.name)
        extracted.mask = self._mask_of(extracted, segmentation)
        if not (extracted.mask[extracted.valid] > 0).any():
            raise ValueRangeError(
                f"the face lies outside the photograph of {width} x {height} pixels, or its mask is empty. "
                "Leave this face out."
            )
        return extracted

    def extract_all(
        self, photo: Photo, faces: Sequence[Face], *, segmentation: npt.NDArray[np.bool_] | None = None
    ) -> list[ExtractedFace]:
        """Every face of a photograph, in the order given; without a face an empty list."""
        return [self.extract(photo, face, segmentation=segmentation) for face in faces]

    def _frame(self, face: Face) -> tuple[Matrix, int]:
        wider = 1.0 + 2.0 * self.margin
        if self.size is None:
            side = wider * _NATIVE / scale_of(alignment_matrix(face, self.template, _NATIVE))
            if not side <= _MOST:
                raise ValueRangeError(
                    f"the face takes {side:.0f} pixels along a side, more than {_MOST}; give a size."
                )
            size = max(math.ceil(side), _LEAST)
        else:
            size = self.size
        matrix = alignment_matrix(face, self.template, size) / wider
        matrix[:, 2] += size * self.margin / wider
        return matrix, size

    def _mask_of(self, crop: ExtractedFace, segmentation: npt.NDArray[np.bool_] | None) -> Mask:
        size = crop.size
        grown, feather = self.dilate * size, self.feather * size
        if self.mask in ("hull", "oval"):
            if self.mask == "hull":
                points = face_outline(crop.landmarks, forehead=self.forehead)
            else:
                points = face_oval(five_points(crop.landmarks))
            return polygon_mask(grow_hull(points, grown), (size, size), feather)
        if self.mask == "box":
            inside = np.ones((size, size), bool)
        else:
            inside = grow_mask(self._parsed(crop, segmentation), grown)
        return shrink_mask(inside.astype(np.uint8), 0.0, feather)

    def _parsed(
        self, crop: ExtractedFace, segmentation: npt.NDArray[np.bool_] | None
    ) -> npt.NDArray[np.bool_]:
        size = crop.size
        if callable(self.mask):
            given: Any = self.mask(crop.image)
            if not isinstance(given, np.ndarray) or given.dtype != bool or given.shape != (size, size):
                raise ShapeError(f"the parser must give bool [{size}, {size}]; it gave {_kind(given)}.")
            return given
        if (
            not isinstance(segmentation, np.ndarray)
            or segmentation.dtype != bool
            or segmentation.shape != crop.photo_size
        ):
            raise ShapeError(
                f"segmentation must be bool {list(crop.photo_size)}, True where a face is; got "
                f"{_kind(segmentation)}. From classes: np.isin(classes, [...])."
            )
        plane = torch.from_numpy(segmentation.astype(np.float32))[None]
        inside = (
            resample(plane, crop.matrix, (size, size), mode="bilinear", padding="border")[0].numpy() > 0.5
        )
        about = grow_hull(face_outline(crop.landmarks, forehead=True), 0.1 * size)
        return inside & (polygon_mask(about, (size, size)) > 0)


def cut(photo: Photo, matrix: Matrix, size: int) -> Photo:
    """The part of a photograph uint8 [H, W, C] that `matrix` brings into a crop: uint8 [size, size, C]."""
    crop = (
        resample(torch.from_numpy(photo).permute(2, 0, 1), matrix, (size, size))
        .round_()
        .clamp_(0, 255)
        .byte()
    )
    return np.ascontiguousarray(crop.permute(1, 2, 0).numpy())


def photo_channels(photo: Photo, name: str = "photo") -> Photo:
    """The picture as uint8 [H, W, C], C being 1 or 3.

    Raises:
        ShapeError: it is not uint8 [H, W], [H, W, 1] or [H, W, 3] with at least one pixel.
    """
    if (
        isinstance(photo, np.ndarray)
        and photo.dtype == np.uint8
        and photo.size
        and (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] in (1, 3)))
    ):
        return np.ascontiguousarray(photo.reshape(*photo.shape[:2], -1))
    raise ShapeError(f"{name} must be uint8 [H, W, 3] (RGB) or [H, W] (grey); got {_kind(photo)}.")


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__

"""Putting faces back into the photographs that they were cut from: `FaceReconstructor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.affine import Matrix, inverse, scale_of, transform_points
from pyface.faces.blend import BLENDS, blend, edge_width
from pyface.faces.color import COLORS, match_color
from pyface.faces.extract import ExtractedFace, cut, photo_channels
from pyface.faces.face import Photo
from pyface.faces.masks import shrink_mask
from pyface.faces.resample import resample

__all__ = ["DETAILS", "FaceReconstructor"]

Float = npt.NDArray[np.float32]
Window = tuple[slice, slice]

DETAILS = ("crop", "photo")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SHARPEN_SIGMA = 1.5  # pixels of the photograph
_LEAST_WEIGHT = 0.5 / 255.0


class FaceReconstructor:
    """Puts crops, changed or not, back to where they were cut out.

    Pixels of the photograph where `weight` is 0, that is outside the mask of the face, keep their exact
    values. A crop is read once, by the inverse of the map it was cut with. Nothing is kept from one call to
    the next.

    Args:
        blend: "alpha" mixes by the mask. "poisson" keeps the crop's gradients and takes the photograph's
            colours at the edge of the mask (seamless cloning). "multiband" mixes coarse structure softly and
            fine structure sharply.
        color: what the crop's colours are fitted to before: "none"; "reinhard", mean and spread of the
            photograph's face; "histogram", its histogram. Only what the mask covers counts.
        feather: width of the mask's soft edge as a share of the crop's side; None keeps that of the mask.
        erode: how far the mask is taken back first, as a share of the crop's side.
        sharpen: above 0, an unsharp mask of the brightness by this amount; below 0, down to -1, a blur of it.
        detail: "crop" shows the crop itself. "photo" adds what has changed in the crop to the photograph,
            which keeps detail finer than the crop's pixels, and gives the photograph bit for bit where
            nothing has changed; for edits that keep the face, not for other faces.

    Raises:
        ValueRangeError: a bad number or name.
    """

    def __init__(
        self,
        blend: str = "alpha",
        color: str = "none",
        *,
        feather: float | None = None,
        erode: float = 0.0,
        sharpen: float = 0.0,
        detail: str = "crop",
    ) -> None:
        for name, word, words in (
            ("blend", blend, tuple(BLENDS)),
            ("color", color, COLORS),
            ("detail", detail, DETAILS),
        ):
            if word not in words:
                raise ValueRangeError(f"{name} must be one of {', '.join(words)}; got {word!r}.")
        for name, value, low, high in (
            ("feather", feather or 0.0, 0.0, 0.5),
            ("erode", erode, 0.0, 0.5),
            ("sharpen", sharpen, -1.0, 10.0),
        ):
            if not low <= value <= high:
                raise ValueRangeError(f"{name} must be from {low} to {high}; got {value}.")
        self.blend = blend
        self.color = color
        self.feather = feather
        self.erode = erode
        self.sharpen = sharpen
        self.detail = detail

    def restore(self, photo: Photo, face: ExtractedFace, crop: Photo | Tensor | None = None) -> Photo:
        """The photograph with the crop where the face was: uint8, of the photograph's shape.

        Where the mask covers no pixel of the photograph, as with faces below a pixel, it is a plain copy.

        Args:
            photo: the photograph that the face was cut from, or one of the same size, uint8.
            face: as `FaceExtractor` gave it.
            crop: what to put there, by default `face.image`: uint8 [S, S, 3], or a tensor [3, S, S] or
                [1, 3, S, S] in [-1, 1] as generators give. S may be another size than the face was cut at.

        Raises:
            ShapeError, DTypeError: pictures of the wrong shape or type.
        """
        return self.restore_all(photo, [face], None if crop is None else [crop])

    def restore_all(
        self,
        photo: Photo,
        faces: Sequence[ExtractedFace],
        crops: Sequence[Photo | Tensor | None] | None = None,
    ) -> Photo:
        """The photograph with several crops in it; a copy of it where there is no face, as in a video.

        Larger faces, which are nearer, come after smaller ones and cover them. Each face changes only what
        its own mask covers, and its colours are fitted to the photograph as it was given.

        Args:
            photo: uint8 [H, W, 3], or [H, W] grey.
            faces: cut from it.
            crops: as many, each as for `restore`.

        Raises:
            ShapeError: pictures of the wrong shape, or another number of crops than of faces.
            DTypeError: a tensor of whole numbers.
        """
        original = photo_channels(photo)
        chosen = [None] * len(faces) if crops is None else list(crops)
        if len(chosen) != len(faces):
            raise ShapeError(f"there must be a crop for each face; got {len(chosen)} for {len(faces)} faces.")
        pixels = []
        for i, (face, crop) in enumerate(zip(faces, chosen, strict=True)):
            name = "crop" if len(faces) == 1 else f"crops[{i}]"
            _check_photo(original, face)
            pixels.append(_crop_tensor(face.image if crop is None else crop, original.shape[2], name))
        canvas = original.copy()
        for i in sorted(range(len(faces)), key=lambda i: faces[i].extent):
            self._put(canvas, original, faces[i], pixels[i])
        return canvas.reshape(photo.shape)

    def weight(self, face: ExtractedFace) -> Float:
        """How much of each pixel of the photograph the crop replaces: float32 [H, W] in [0, 1].

        `restore` leaves pixels of weight 0 as they are, bit for bit.
        """
        whole = np.zeros(face.photo_size, np.float32)
        mask = self._mask(face)
        window = _window(face, mask)
        if window is not None:
            whole[window] = _weight(face, mask, window)
        return whole

    def _mask(self, face: ExtractedFace) -> npt.NDArray[np.uint8]:
        if self.feather is None and self.erode == 0.0:
            return face.mask
        feather = edge_width(_shares(face.mask)) if self.feather is None else self.feather * face.size
        return shrink_mask(face.mask, self.erode * face.size, feather)

    def _put(self, canvas: Photo, original: Photo, face: ExtractedFace, crop: Tensor) -> None:
        """Change `canvas` where the mask covers it."""
        mask = self._mask(face)
        rim = 2
        if self.blend == "multiband":  # coarse bands look about as far as the seam is wide
            rim += math.ceil(2.0 * edge_width(_shares(mask)) / scale_of(face.matrix))
        tight = _window(face, mask)
        if tight is None:
            return
        window, inner = _widened(tight, rim, canvas.shape)
        weight = np.zeros([span.stop - span.start for span in window], np.float32)
        weight[inner] = _weight(face, mask, tight)
        inside = weight > 0
        if not inside.any():
            return
        before = original[window].astype(np.float32)
        new = _onto_photo(face, crop, window)
        if self.detail == "photo":
            cut_out = torch.from_numpy(cut(original, face.matrix, face.size)).permute(2, 0, 1).float()
            new = before + (new - _onto_photo(face, cut_out, window))
        if self.color != "none":
            new = match_color(new, before, weight, self.color)
        if self.sharpen:
            new = _sharpened(new, self.sharpen)
        mixed = blend(canvas[window].astype(np.float32), new, weight, self.blend)
        canvas[window][inside] = np.clip(np.rint(mixed[inside]), 0, 255).astype(np.uint8)


def _window(face: ExtractedFace, mask: npt.NDArray[np.uint8]) -> Window | None:
    """The part of the photograph that the mask can cover; None when there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    (top, bottom), (left, right) = (rows[0] - 1, rows[-1] + 2), (columns[0] - 1, columns[-1] + 2)
    corners = transform_points(
        inverse(face.matrix), [(left, top), (right, top), (left, bottom), (right, bottom)]
    )
    spans = []
    for axis, length in ((1, face.photo_size[0]), (0, face.photo_size[1])):
        low = max(math.floor(corners[:, axis].min()), 0)
        high = min(math.ceil(corners[:, axis].max()), length)
        if low >= high:
            return None
        spans.append(slice(low, high))
    return spans[0], spans[1]


def _widened(window: Window, rim: int, shape: tuple[int, ...]) -> tuple[Window, Window]:
    """A window `rim` pixels wider, as far as the photograph goes, and where the given one lies in it."""
    wide, inner = [], []
    for span, length in zip(window, shape, strict=False):
        low, high = max(span.start - rim, 0), min(span.stop + rim, length)
        wide.append(slice(low, high))
        inner.append(slice(span.start - low, span.stop - low))
    return (wide[0], wide[1]), (inner[0], inner[1])


def _to_window(matrix: Matrix, window: Window) -> tuple[Matrix, tuple[int, int]]:
    """The map from a crop to a window of the photograph, and the window's height and width."""
    rows, columns = window
    back = inverse(matrix)
    back[:, 2] -= (columns.start, rows.start)
    return back, (rows.stop - rows.start, columns.stop - columns.start)


def _shares(mask: npt.NDArray[np.uint8]) -> Float:
    """A mask in [0, 1]."""
    return mask.astype(np.float32) / np.float32(255)


def _weight(face: ExtractedFace, mask: npt.NDArray[np.uint8], window: Window) -> Float:
    matrix, size = _to_window(face.matrix, window)
    plane = torch.from_numpy(_shares(mask))[None]
    weight = resample(plane, matrix, size, mode="bilinear", padding="zeros")[0].numpy()
    weight[weight < _LEAST_WEIGHT] = 0.0
    return np.minimum(weight, 1.0)


def _onto_photo(face: ExtractedFace, crop: Tensor, window: Window) -> Float:
    """The crop [C, S, S] as it lies in a window of the photograph: float32 [h, w, C]."""
    matrix, size = _to_window(face.matrix * (crop.shape[1] / face.size), window)
    return np.ascontiguousarray(resample(crop, matrix, size).permute(1, 2, 0).numpy())


def _sharpened(picture: Float, amount: float) -> Float:
    """Unsharp masking of the brightness of levels [H, W, C], by a Gaussian of sigma 1.5 pixels."""
    channels = picture.shape[2]
    luma = picture @ np.array(_LUMA if channels == 3 else (1.0,), np.float32)
    reach = math.ceil(3 * _SHARPEN_SIGMA)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / _SHARPEN_SIGMA) ** 2)
    taps = (taps / taps.sum())[None, None]
    blurred = torch.from_numpy(luma)[None, None]
    for kernel, pad in ((taps[..., None, :], (reach, reach, 0, 0)), (taps[..., None], (0, 0, reach, reach))):
        blurred = F.conv2d(F.pad(blurred, pad, mode="replicate"), kernel)
    return picture + amount * (luma - blurred[0, 0].numpy())[..., None]


def _check_photo(photo: Photo, face: ExtractedFace) -> None:
    if photo.shape[:2] != tuple(face.photo_size):
        raise ShapeError(
            f"photo must have the size that the face was cut from, {list(face.photo_size)}; "
            f"got {list(photo.shape[:2])}. Is it another photograph, or scaled?"
        )
    if face.mask.shape != (face.size, face.size) or face.mask.dtype != np.uint8:
        raise ShapeError(
            f"the mask must be uint8 [{face.size}, {face.size}] as the crop; "
            f"got {face.mask.dtype} {list(face.mask.shape)}."
        )


def _crop_tensor(crop: Any, channels: int, name: str) -> Tensor:
    """Levels from 0 to 255, float32 [C, S, S]."""
    if isinstance(crop, Tensor):
        if not crop.is_floating_point():
            raise DTypeError(f"{name} as a tensor must be floating point in [-1, 1]; got {crop.dtype}.")
        plane = crop.detach().float().cpu()
        plane = plane[0] if plane.ndim == 4 and plane.shape[0] == 1 else plane
        levels = plane.clamp(-1.0, 1.0).add(1.0).mul(127.5)
    else:
        levels = torch.from_numpy(photo_channels(crop, name)).permute(2, 0, 1).float()
    if levels.ndim != 3 or levels.shape[0] != channels or levels.shape[1] != levels.shape[2]:
        raise ShapeError(
            f"{name} must be square with {channels} channels like the photograph; got {list(crop.shape)}."
        )
    return levels

"""Putting a new picture into a photograph under a mask: alpha, Poisson, multiband.

All take float32 [H, W, C] pictures with levels from 0 to 255 on one grid and a weight [H, W] in [0, 1], and
give float32 [H, W, C] that equals the photograph wherever the weight is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.poisson import solve_poisson

__all__ = ["BLENDS", "blend", "blend_alpha", "blend_multiband", "blend_poisson"]

Float = npt.NDArray[np.float32]

_TOLERANCE = 0.2  # grey levels left in the solution of Poisson's equation
_MOST_BANDS = 8


def blend(photo: Float, new: Float, weight: Float, method: str = "alpha") -> Float:
    """The photograph with the new picture in it.

    Args:
        photo: float [H, W, C], levels from 0 to 255.
        new: of the same shape.
        weight: [H, W]; 0 keeps the photograph, 1 takes the new picture.
        method: one of BLENDS.

    Returns:
        float32 [H, W, C], equal to `photo` where `weight` is 0; levels may lie outside 0..255 elsewhere.

    Raises:
        ShapeError: the three do not agree.
        ValueRangeError: an unknown method.
    """
    if photo.ndim != 3 or photo.shape != new.shape or weight.shape != photo.shape[:2]:
        raise ShapeError(
            f"photo and new must be [H, W, C] and weight [H, W]; got {list(photo.shape)}, {list(new.shape)} "
            f"and {list(weight.shape)}."
        )
    if method not in BLENDS:
        raise ValueRangeError(f"blend must be one of {', '.join(BLENDS)}; got {method!r}.")
    photo, new, weight = (np.asarray(a, np.float32) for a in (photo, new, weight))
    return BLENDS[method](photo, new, weight)


def blend_alpha(photo: Float, new: Float, weight: Float) -> Float:
    """photo + weight (new - photo)."""
    return photo + weight[..., None] * (new - photo)


def blend_poisson(photo: Float, new: Float, weight: Float, *, mixed: bool = False) -> Float:
    """The gradients of `new` wherever the weight is above 0, fitted to the photograph all round.

    Perez, Gangnet and Blake, "Poisson Image Editing" (2003), eq. 4 to 7 with the guidance of eq. 10: solved
    for the correction to `new`, which is harmonic. With `mixed` the stronger of both gradients guides (eq.
    12). The weight only says where; its soft edge is not used. A part without any of the photograph beside it
    keeps the levels of `new`.
    """
    inside = weight > 0
    difference = np.where(inside[..., None], 0.0, photo - new).transpose(2, 0, 1).astype(np.float32)
    right = np.zeros_like(difference)
    for here, there in _neighbour_slices():
        right[(slice(None), *here)] += difference[(slice(None), *there)]
    if mixed:
        right += _stronger_gradients(photo.transpose(2, 0, 1), new.transpose(2, 0, 1))
    correction = solve_poisson(inside, right, _TOLERANCE).transpose(1, 2, 0)
    return np.where(inside[..., None], new + correction, photo)


def _neighbour_slices() -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(pixels, their neighbours) in each of the four directions."""
    every, first, last = slice(None), slice(None, -1), slice(1, None)
    return [
        ((first, every), (last, every)),
        ((last, every), (first, every)),
        ((every, first), (every, last)),
        ((every, last), (every, first)),
    ]


def _stronger_gradients(photo: Float, new: Float) -> Float:
    """What the choice between two gradients at each pair of neighbours adds to the right-hand side."""
    added = np.zeros_like(new)
    for here, there in _neighbour_slices():
        pixel, beside = (slice(None), *here), (slice(None), *there)
        own, other = new[pixel] - new[beside], photo[pixel] - photo[beside]
        added[pixel] += np.where(np.abs(other) > np.abs(own), other - own, np.float32(0.0))
    return added


def blend_multiband(photo: Float, new: Float, weight: Float, *, bands: int | None = None) -> Float:
    """Each band of frequencies mixed over a seam as wide as its own wavelength.

    Burt and Adelson, "A Multiresolution Spline with Application to Image Mosaics" (1983): Laplacian pyramids
    of both pictures, weighted by the Gaussian pyramid of the mask. The seam runs where the weight is one
    half; beyond it, down to where the weight is 0, the result fades into the photograph, so that nothing
    outside is touched.

    Args:
        photo: float32 [H, W, C].
        new: float32 [H, W, C].
        weight: float32 [H, W].
        bands: how many, at least 1; by default as many as the soft edge of the weight has room for.
    """
    seam = weight > 0.5
    if not seam.any():
        return blend_alpha(photo, new, weight)
    if bands is None:
        bands = int(np.clip(np.log2(max(edge_width(weight), 1.0)), 1, _MOST_BANDS))
    difference = torch.from_numpy(np.ascontiguousarray((new - photo).transpose(2, 0, 1)))[None]
    mask = torch.from_numpy(seam.astype(np.float32))[None, None]
    mixed = _weighted_pyramid(difference, mask, bands)[0].numpy().transpose(1, 2, 0)
    fade = np.clip(2.0 * weight, 0.0, 1.0)
    fade = fade * fade * (3.0 - 2.0 * fade)
    return photo + fade[..., None] * mixed


def edge_width(weight: Float) -> float:
    """Mean width in pixels of the soft edge of a weight [H, W]: its area over the length of the seam."""
    seam = weight > 0.5
    crossings = (seam[1:] != seam[:-1]).sum() + (seam[:, 1:] != seam[:, :-1]).sum()
    soft = ((weight > 0.0) & (weight < 1.0)).sum()
    return float(soft) / max(float(crossings) * np.pi / 4.0, 1.0)


def _weighted_pyramid(picture: Tensor, mask: Tensor, bands: int) -> Tensor:
    """The sum over bands of (Gaussian of the mask) x (Laplacian of the picture): [N, C, H, W].

    The pyramids are linear, so that mixing a and b by m is b plus this of a - b.
    """
    if bands <= 1 or min(picture.shape[2:]) < 2:
        return picture * mask
    smaller = _reduce(picture)
    coarse = _weighted_pyramid(smaller, _reduce(mask), bands - 1)
    shape = (picture.shape[2], picture.shape[3])
    return (picture - _expand(smaller, shape)) * mask + _expand(coarse, shape)


def _reduce(picture: Tensor) -> Tensor:
    """Every second pixel after a blur by (1 4 6 4 1) / 16 each way; the border repeats (REDUCE)."""
    for axis in (2, 3):
        pad = (0, 0, 2, 2) if axis == 2 else (2, 2, 0, 0)
        wide = F.pad(picture, pad, mode="replicate")
        length = picture.shape[axis]
        a, b, c, d, e = (_every_second(wide, axis, start, length) for start in range(5))
        picture = (a + e) * (1 / 16) + (b + d) * (4 / 16) + c * (6 / 16)
    return picture


def _every_second(wide: Tensor, axis: int, start: int, length: int) -> Tensor:
    return wide[:, :, start : start + length : 2] if axis == 2 else wide[..., start : start + length : 2]


def _expand(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    """Twice the size by the same weights (EXPAND): even pixels (1 6 1) / 8, odd ones (1 1) / 2."""
    for axis, length in ((2, shape[0]), (3, shape[1])):
        pad = (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0)
        wide = F.pad(picture, pad, mode="replicate")
        count = picture.shape[axis]
        before, here, after = (wide.narrow(axis, start, count) for start in range(3))
        even, odd = (before + after) * (1 / 8) + here * (6 / 8), (here + after) * 0.5
        both = torch.stack([even, odd], axis + 1)
        picture = both.flatten(axis, axis + 1).narrow(axis, 0, length)
    return picture


BLENDS: dict[str, Callable[[Float, Float, Float], Float]] = {
    "alpha": blend_alpha,
    "poisson": blend_poisson,
    "multiband": blend_multiband,
}

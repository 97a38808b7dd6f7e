"""Wavelet filters of the augmentation pipe, reflection at borders, and per-sample band filters."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pyface.ops import upfirdn2d

__all__ = ["band_filters", "filter_bands", "reflected", "wavelet_low_pass"]

Array = NDArray[np.float64]

# Scaling filters of Daubechies' least asymmetric wavelets with 2 and 6 vanishing moments (Daubechies 1992,
# "Ten lectures on wavelets", table 6.3), in the order in which signal tools list them.
_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
_SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)


@functools.cache
def wavelet_low_pass(device: torch.device | str = "cpu") -> Tensor:
    """Low-pass of the sym6 wavelet with sum 1, float32 [12]. Shared: not to be changed."""
    taps = np.array(_SYM6)
    return torch.from_numpy(taps / taps.sum()).float().to(device)


@functools.cache
def band_filters() -> Tensor:
    """4 zero-phase filters that split a signal into octaves, lowest first, float64 [4, 43] on the CPU.

    Their sum is the identity. Shared: not to be changed.

    Autocorrelations of the sym2 wavelet's low and high pass: L(z) L(z^2) L(z^4), L(z) L(z^2) H(z^4),
    L(z) H(z^2) and H(z) (Karras et al. 2020, appendix B).
    """
    low = np.array(_SYM2)
    high = low * (-1.0) ** np.arange(4)
    pass_low, pass_high = (np.convolve(f, f[::-1]) / 2 for f in (low, high))
    two, four = _spread(pass_low, 2), _spread(pass_low, 4)
    bands = [
        np.convolve(np.convolve(pass_low, two), four),
        np.convolve(np.convolve(pass_low, two), _spread(pass_high, 4)),
        np.convolve(pass_low, _spread(pass_high, 2)),
        pass_high,
    ]
    length = len(bands[0])
    return torch.from_numpy(np.stack([np.pad(band, (length - len(band)) // 2) for band in bands]))


def _spread(taps: Array, step: int) -> Array:
    """The filter with `step - 1` zeros between its taps: f(z^step)."""
    wide = np.zeros((len(taps) - 1) * step + 1)
    wide[::step] = taps
    return wide


def reflected(images: Tensor, x0: int, x1: int, y0: int, y1: int) -> Tensor:
    """Columns x0 to x1 - 1 and rows y0 to y1 - 1 of `images` [N, C, H, W], reflected about its outer pixels.

    The range may reach any distance outside, or lie within: then it is a crop.
    """
    return _reflected_axis(_reflected_axis(images, 2, y0, y1), 3, x0, x1)


def _reflected_axis(images: Tensor, axis: int, low: int, high: int) -> Tensor:
    length = images.shape[axis]
    if low >= 0 and high <= length:
        return images.narrow(axis, low, high - low)
    before, after = max(-low, 0), max(high - length, 0)
    if max(before, after) < length:
        pads = (before, after, 0, 0) if axis == 3 else (0, 0, before, after)
        wide = functional.pad(images, pads, mode="reflect")
        kept = high - low
        return wide if kept == wide.shape[axis] else wide.narrow(axis, low + before, kept)
    place = torch.arange(low, high, device=images.device)
    if length == 1:
        return images.index_select(axis, torch.zeros_like(place))
    place = place.remainder(2 * length - 2)
    return images.index_select(axis, torch.minimum(place, 2 * length - 2 - place))


def filter_bands(images: Tensor, gains: Array, bands: Tensor) -> Tensor:
    """`images` [N, C, H, W] with the frequency bands of each sample amplified, along both axes.

    gains: [N, 4]; samples whose gains are all 1 come back as they are. bands: see band_filters. Reflected at
    the borders as often as needed, so that images may be smaller than the filter.

    Each sample is one pass of its own summed filter: 43 taps an axis in place of 4 times that for the bands
    one by one.
    """
    chosen = (gains != 1).any(axis=1)
    if not chosen.any():
        return images
    filters = (torch.from_numpy(gains).to(bands.dtype) @ bands).float().to(images.device)
    reach = bands.shape[1] // 2
    height, width = images.shape[2:]
    parts = []
    for image, apply, taps in zip(images.split(1), chosen, filters, strict=True):
        if apply:
            wide = reflected(image, -reach, width + reach, -reach, height + reach)
            image = upfirdn2d(wide, taps)
        parts.append(image)
    return torch.cat(parts)

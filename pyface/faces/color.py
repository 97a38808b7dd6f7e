"""Colours of one face given to another: mean and spread (Reinhard), or the whole histogram.

Pictures are float [H, W, C] with levels from 0 to 255; statistics count only where the weight is above 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyface.errors import ValueRangeError

__all__ = ["COLORS", "match_color", "match_histogram", "reinhard"]

Float = npt.NDArray[np.float32]

COLORS = ("none", "reinhard", "histogram")

# sRGB (IEC 61966-2-1) to XYZ under D65, the rows divided by the white point
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_RGB_TO_XYZ /= _RGB_TO_XYZ.sum(1, keepdims=True)
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)
_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_LAB_SHIFT = np.array([16.0, 0.0, 0.0])
_DELTA = 6.0 / 29.0
_FINE = 16  # steps of a level


def match_color(
    new: npt.NDArray[Any], old: npt.NDArray[Any], weight: npt.NDArray[Any], color: str = "reinhard"
) -> Float:
    """The picture `new` with the colours that `old` has under the mask: float32 [H, W, C].

    Args:
        new: float [H, W, C], levels from 0 to 255, C 1 or 3.
        old: of the same shape.
        weight: [H, W], at least 0. Without a single weight above 0 nothing is changed.
        color: "none", "reinhard" or "histogram".

    Raises:
        ValueRangeError: another word.
    """
    if color not in COLORS:
        raise ValueRangeError(f"color must be one of {', '.join(COLORS)}; got {color!r}.")
    if color == "none" or not (weight > 0).any():
        return np.asarray(new, np.float32)
    match = reinhard if color == "reinhard" else match_histogram
    return match(new, old, weight)


def reinhard(new: npt.NDArray[Any], old: npt.NDArray[Any], weight: npt.NDArray[Any]) -> Float:
    """`new` with mean and standard deviation of `old` in each of L*, a*, b*: float32 [H, W, C].

    Reinhard, Ashikhmin, Gooch and Shirley, "Color Transfer between Images" (2001), eq. 10 and 11, with
    weighted statistics, and in CIELAB instead of their l-alpha-beta. That takes logarithms, which made the
    spread of one face up to four times that of another, and skin yellow. A channel without any spread in
    `new` is only shifted. Levels are clipped to 0..255 in the end.
    """
    source, target = to_lab(new), to_lab(old)
    inside = np.flatnonzero(weight > 0)
    shares = np.take(weight, inside) / np.take(weight, inside).sum(dtype=np.float64)
    moments = []
    for picture in (source, target):
        values = np.take(picture.reshape(-1, 3), inside, 0)
        mean = shares @ values
        moments.append((mean, np.sqrt(shares @ np.square(values - mean))))
    (mean, spread), (wanted_mean, wanted_spread) = moments
    flat = spread < 1e-3
    gain = np.where(flat, 1.0, wanted_spread / np.where(flat, 1.0, spread))
    levels = from_lab(source * np.float32(gain) + np.float32(wanted_mean - gain * mean))
    return levels if new.shape[2] == 3 else levels[..., 1:2]


def to_lab(picture: npt.NDArray[Any]) -> Float:
    """L*, a*, b* (CIE 1976, D65) of sRGB or grey levels from 0 to 255: float32 [H, W, 3]."""
    levels = torch.from_numpy(np.asarray(picture, np.float32)).div(255.0).clamp_(0.0, 1.0)
    curved = levels.add(0.055).div_(1.055).pow_(2.4)
    linear = torch.where(levels <= 0.04045, levels.div_(12.92), curved).expand(*levels.shape[:2], 3)
    xyz = linear @ torch.from_numpy(_RGB_TO_XYZ.T).float()
    f = torch.where(xyz > _DELTA**3, xyz.pow(1 / 3), xyz.div(3 * _DELTA**2).add_(4.0 / 29.0))
    lab = (f @ torch.from_numpy(_LAB.T).float()).sub_(torch.from_numpy(_LAB_SHIFT).float())
    return lab.numpy()


def from_lab(lab: npt.NDArray[Any]) -> Float:
    """sRGB levels from 0 to 255, clipped, of L*, a*, b*: float32 [H, W, 3]."""
    shifted = torch.from_numpy(np.asarray(lab, np.float32)) + torch.from_numpy(_LAB_SHIFT).float()
    f = shifted @ torch.from_numpy(np.linalg.inv(_LAB).T).float()
    xyz = torch.where(f > _DELTA, f * f * f, f.sub(4.0 / 29.0).mul_(3 * _DELTA**2))
    linear = (xyz @ torch.from_numpy(_XYZ_TO_RGB.T).float()).clamp_(0.0, 1.0)
    curved = linear.pow(1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear <= 0.0031308, linear.mul_(12.92), curved).mul_(255.0).numpy()


def match_histogram(new: npt.NDArray[Any], old: npt.NDArray[Any], weight: npt.NDArray[Any]) -> Float:
    """`new` with the histogram of `old` in each channel: float32 [H, W, C].

    The k-th darkest of the pixels under the mask gets the k-th darkest level of `old` there: with no two
    levels of `new` equal, the histograms agree exactly. Pixels of one level get one level, the mean of
    those that they would share. Elsewhere the same curve is used, to a sixteenth of a level. Pixels count
    alike whatever their weight.
    """
    inside = weight > 0
    result = np.empty(new.shape, np.float32)
    for channel in range(new.shape[2]):
        given = np.asarray(new[..., channel], np.float32)
        values, place, count = np.unique(given[inside], return_inverse=True, return_counts=True)
        total = np.concatenate([[0.0], np.cumsum(np.sort(old[..., channel][inside]).astype(np.float64))])
        ends = np.cumsum(count)
        levels = ((total[ends] - total[ends - count]) / count).astype(np.float32)
        curve = np.interp(np.arange(256 * _FINE) / _FINE, values, levels).astype(np.float32)
        result[..., channel] = curve[np.clip(given * _FINE + 0.5, 0, 256 * _FINE - 1).astype(np.int32)]
        result[..., channel][inside] = levels[place.reshape(-1)]
    return result

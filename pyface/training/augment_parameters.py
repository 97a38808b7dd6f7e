"""What is drawn for each sample: its affine matrix, colour matrices, band gains, noise level and cutout.

All of it is small and lives on the CPU in float64, so that a GPU receives finished matrices and not the
hundred tiny operations that make them. Source: Karras et al. 2020 (StyleGAN2-ADA), appendix B.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyface.errors import ValueRangeError
from pyface.training.augment_settings import COLOUR, Augmentations

__all__ = [
    "EACH_SPECTRUM",
    "SHARED",
    "Cutout",
    "Dice",
    "affine_matrices",
    "band_gains",
    "colour_matrices",
    "cutout_boxes",
    "noise_levels",
]

Array = NDArray[np.float64]

# Random numbers (uniform, normal) that a sample takes for all its spectra together, and for each of them.
SHARED = (18, 5)
EACH_SPECTRUM = (11, 7)

# Share of a natural image's power in each band, lowest frequencies first (appendix B).
_BAND_POWER = np.array([10.0, 1.0, 1.0, 1.0]) / 13
_LUMA_AXIS = np.array([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)


class SampleDraws(Protocol):
    """Random numbers of which sample i of the batch always gets the same; see pyface.training.draws."""

    def uniform(self, *shape: int) -> Tensor: ...

    def normal(self, *shape: int) -> Tensor: ...


class Dice:
    """Random numbers [n] in the order in which they are asked for, or the same percentile for everything.

    Each sample takes a fixed number of them, whatever the set of transforms, so that a change of p or of the
    set does not move the numbers of other transforms.
    """

    def __init__(
        self,
        count: int,
        p: float,
        draws: SampleDraws | None,
        percentile: float | None = None,
        numbers: tuple[int, int] = SHARED,
    ) -> None:
        self.count = count
        self.p = min(max(p, 0.0), 1.0)
        self.percentile = percentile
        self._uniform: Array | None = None
        self._normal: Array | None = None
        self._at = [0, 0]
        if percentile is None and draws is not None:
            uniform, normal = draws.uniform(numbers[0]), draws.normal(numbers[1])
            if len(uniform) != count:
                raise ValueRangeError(f"the draws are for {len(uniform)} samples; the images are {count}.")
            self._uniform = uniform.cpu().numpy().astype(np.float64)
            self._normal = normal.cpu().numpy().astype(np.float64)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Array:
        """Even numbers between low and high [n]."""
        if self._uniform is None:
            unit = np.full(self.count, self.percentile, dtype=np.float64)
        else:
            unit = self._uniform[:, self._at[0]]
        self._at[0] += 1
        return low + (high - low) * unit

    def normal(self) -> Array:
        """Standard normal numbers [n]; for percentile q the inverse error function at 2 q - 1."""
        if self._normal is None:
            return np.full(self.count, _inverse_erf(2 * float(self.percentile or 0) - 1))
        self._at[1] += 1
        return self._normal[:, self._at[1] - 1]

    def half_normal(self) -> Array:
        """Absolute values of standard normal numbers [n]; for percentile q the inverse error function at
        q."""
        if self._normal is None:
            return np.full(self.count, _inverse_erf(float(self.percentile or 0)))
        return np.abs(self.normal())

    def happens(self, probability: float) -> NDArray[np.bool_]:
        """Where a transform of relative probability `probability` happens [n]; p times that on average."""
        return self.happens_absolute(probability * self.p)

    def happens_absolute(self, probability: float) -> NDArray[np.bool_]:
        """Where an event of this probability happens [n]; everywhere for a percentile, unless it is 0."""
        chance = self.uniform()
        if self.percentile is not None:
            return np.full(self.count, probability > 0)
        return chance < probability


def _inverse_erf(value: float) -> float:
    return float(torch.erfinv(torch.tensor(value, dtype=torch.float64)))


def _identity(count: int, size: int) -> Array:
    return np.tile(np.eye(size), (count, 1, 1))


def _translation(x: Array, y: Array) -> Array:
    matrix = _identity(len(x), 3)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def _scaling(x: Array, y: Array) -> Array:
    matrix = _identity(len(x), 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = x, y
    return matrix


def _rotation(angle: Array) -> Array:
    matrix = _identity(len(angle), 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 1, 0] = np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    return matrix


def affine_matrices(kinds: Augmentations, dice: Dice, height: int, width: int) -> Array:
    """Where each output pixel comes from: matrices [n, 3, 3] on (x, y, 1), in pixels from the centre."""
    one = np.ones(dice.count)
    chosen = dice.happens(kinds.xflip)
    flip = np.where(chosen & (dice.uniform(0, 2) >= 1), -1.0, 1.0)
    inverse = _scaling(flip, one)
    chosen = dice.happens(kinds.rotate90)
    turns = np.where(chosen, np.floor(dice.uniform(0, 4)), 0.0)
    quarter = _rotation(turns * math.pi / 2)
    inverse = inverse @ np.where(np.abs(quarter) < 1e-9, 0.0, quarter)
    chosen = dice.happens(kinds.xint)
    x, y = (dice.uniform(-kinds.xint_max, kinds.xint_max) * chosen for _ in range(2))
    inverse = inverse @ _translation(-np.round(x * width), -np.round(y * height))

    chosen = dice.happens(kinds.scale)
    zoom = np.exp2(dice.normal() * kinds.scale_std * chosen)
    inverse = inverse @ _scaling(1 / zoom, 1 / zoom)
    # Turned before or after the unequal scaling, or both: one of the two with probability p.
    share = 1 - math.sqrt(1 - min(kinds.rotate * dice.p, 1.0))
    limit = math.pi * kinds.rotate_max
    chosen = dice.happens_absolute(share)
    inverse = inverse @ _rotation(dice.uniform(-limit, limit) * chosen)
    chosen = dice.happens(kinds.aniso)
    stretch = np.exp2(dice.normal() * kinds.aniso_std * chosen)
    inverse = inverse @ _scaling(1 / stretch, stretch)
    chosen = dice.happens_absolute(share)
    if dice.percentile is None:  # a percentile shows one rotation, not the sum of two
        inverse = inverse @ _rotation(dice.uniform(-limit, limit) * chosen)
    chosen = dice.happens(kinds.xfrac)
    x, y = (dice.normal() * kinds.xfrac_std * chosen for _ in range(2))
    moved: Array = inverse @ _translation(-x * width, -y * height)
    return moved


def colour_matrices(kinds: Augmentations, dice: Dice) -> Array:
    """Colour changes as matrices [n, 4, 4] on (r, g, b, 1)."""
    grey = np.outer(_LUMA_AXIS, _LUMA_AXIS)
    matrix = _identity(dice.count, 4)
    chosen = dice.happens(kinds.brightness)
    matrix[:, :3, 3] += (dice.normal() * kinds.brightness_std * chosen)[:, None]
    chosen = dice.happens(kinds.contrast)
    matrix[:, :3] *= np.exp2(dice.normal() * kinds.contrast_std * chosen)[:, None, None]
    chosen = dice.happens(kinds.lumaflip)
    mirrored = chosen & (dice.uniform(0, 2) >= 1)
    matrix = (np.eye(4) - 2 * grey * mirrored[:, None, None]) @ matrix
    chosen = dice.happens(kinds.hue)
    limit = math.pi * kinds.hue_max
    matrix = _turn_around_grey(dice.uniform(-limit, limit) * chosen) @ matrix
    chosen = dice.happens(kinds.saturation)
    factor = np.exp2(dice.normal() * kinds.saturation_std * chosen)[:, None, None]
    # So written that a factor of 1 leaves the matrix as it is, to the bit.
    saturated: Array = (np.eye(4) * factor + grey * (1 - factor)) @ matrix
    # The homogeneous row belongs to no channel and stays as it is.
    saturated[:, 3] = (0.0, 0.0, 0.0, 1.0)
    return saturated if kinds.any_of(COLOUR) else _identity(dice.count, 4)


def _turn_around_grey(angle: Array) -> Array:
    """Rotations [n, 4, 4] around the grey axis (Rodrigues' formula)."""
    x, y, z = _LUMA_AXIS[:3]
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    along = np.outer(_LUMA_AXIS[:3], _LUMA_AXIS[:3])
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    matrix = _identity(len(angle), 4)
    matrix[:, :3, :3] = cos * np.eye(3) + sin * across + (1 - cos) * along
    return matrix


def band_gains(kinds: Augmentations, dice: Dice) -> Array:
    """Gain of each of the 4 frequency bands [n, 4]; exactly 1 where no band was drawn.

    Each band that is drawn gets a log-normal factor, and all four are divided by what that does to the power
    of a natural image.
    """
    gains = np.ones((dice.count, 4))
    for band, probability in enumerate(kinds.imgfilter_bands):
        chosen = dice.happens(kinds.imgfilter * probability)
        factors = np.ones((dice.count, 4))
        factors[:, band] = np.exp2(dice.normal() * kinds.imgfilter_std * chosen)
        power = np.sqrt((_BAND_POWER * factors**2).sum(1, keepdims=True))
        gains *= np.where(chosen[:, None], factors / power, 1.0)
    return gains


def noise_levels(kinds: Augmentations, dice: Dice) -> Array:
    """Standard deviation of the noise that each sample gets [n]; 0 for most at small p."""
    chosen = dice.happens(kinds.noise)
    return dice.half_normal() * kinds.noise_std * chosen


class Cutout(NamedTuple):
    """Which samples lose a rectangle, bool [n], and its centre [n], as shares of the picture's sides."""

    chosen: NDArray[np.bool_]
    x: Array
    y: Array


def cutout_boxes(kinds: Augmentations, dice: Dice) -> Cutout:
    """Where each sample is cut out."""
    return Cutout(dice.happens(kinds.cutout), dice.uniform(), dice.uniform())

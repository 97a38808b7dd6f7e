"""Augmentation that a discriminator sees through: the pipe of StyleGAN2-ADA.

Karras et al. 2020, "Training generative adversarial networks with limited data", section 2 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.training.augment_filters import band_filters, filter_bands, wavelet_low_pass
from pyface.training.augment_geometry import resample
from pyface.training.augment_parameters import (
    EACH_SPECTRUM,
    SHARED,
    Cutout,
    Dice,
    SampleDraws,
    affine_matrices,
    band_gains,
    colour_matrices,
    cutout_boxes,
    noise_levels,
)
from pyface.training.augment_settings import COLOUR, GEOMETRIC, LUMA, Augmentations, augmentations
from pyface.training.phases import Images, as_spectra

__all__ = ["AugmentPipe"]

Array = NDArray[np.float64]


class AugmentPipe(nn.Module):
    """Random geometry, colour, filters, noise and cutout, each with probability p.

    kinds: name of a set (blit geom color filter noise cutout bg bgc bgcf bgcfn bgcfnc) or Augmentations. p: 0
    to 1, a buffer, so that a controller can move it and a checkpoint holds it; above 1 it counts as 1.

    `pipe(images, draws)` gives images of the same shape and dtype. images: [N, C, H, W], or a dictionary of
    them: all spectra of a sample get the same geometry and cutout, and colour, filter and noise of their own.
    A single tensor is treated as the first spectrum of a dictionary. With 1 channel the colour transforms act
    on a grey picture, and the mean of the three colours is what comes back; with 3 the channels are red,
    green, blue; with another number only brightness and contrast have a meaning and the others are refused.
    draws: `uniform(*shape)` and `normal(*shape)` give [N, *shape]; what a sample gets depends on its numbers
    there alone.

    percentile: a number between 0 and 1 makes everything but the noise the same for every sample: every
    transform of the set happens, at that point of its distribution (for a normal one at
    erfinv(2 percentile - 1) times its standard deviation). For tests and pictures of what the set does.

    Differentiable twice with respect to the images, as R1 needs. 16-bit images are computed in float32.

    Raises ShapeError, DTypeError and ValueRangeError for what it cannot take.
    """

    p: Tensor

    def __init__(self, kinds: str | Augmentations = "bgc", p: float = 0.0) -> None:
        super().__init__()
        self.kinds = augmentations(kinds) if isinstance(kinds, str) else kinds
        if not (math.isfinite(p) and p >= 0):
            raise ValueRangeError(f"p is the probability of each transform, 0 to 1; got {p}.")
        self.register_buffer("p", torch.tensor(float(p)))

    def forward(
        self, images: Images, draws: SampleDraws | None = None, *, percentile: float | None = None
    ) -> Images:
        spectra = as_spectra(images)
        self._check(spectra)
        if percentile is not None and not 0 < percentile < 1:
            raise ValueRangeError(f"percentile must lie between 0 and 1, without both; got {percentile}.")
        p = 1.0 if percentile is not None else float(self.p)
        if p <= 0:
            return images
        if draws is None and (percentile is None or self.kinds.noise > 0):
            raise ValueRangeError("augmentation at p > 0 needs draws, the random numbers of the samples.")
        first = next(iter(spectra.values()))
        # Drawn apart, so that one more spectrum changes nothing for the others.
        dice = [
            Dice(first.shape[0], p, draws, percentile, numbers)
            for numbers in (SHARED, *(EACH_SPECTRUM for _ in spectra))
        ]
        changed = self._transform({name: _computed(image) for name, image in spectra.items()}, dice, draws)
        changed = {name: image.to(spectra[name].dtype) for name, image in changed.items()}
        return changed if isinstance(images, dict) else changed["vis"]

    def _transform(
        self, spectra: dict[str, Tensor], dice: list[Dice], draws: SampleDraws | None
    ) -> dict[str, Tensor]:
        kinds = self.kinds
        height, width = next(iter(spectra.values())).shape[2:]
        inverse = affine_matrices(kinds, dice[0], height, width)
        cutout = cutout_boxes(kinds, dice[0])
        noise = noise_levels(kinds, dice[0])
        if kinds.any_of(GEOMETRIC):
            spectra = _together(spectra, lambda x: resample(x, inverse, wavelet_low_pass(x.device)))
        for name, own in zip(list(spectra), dice[1:], strict=True):
            colours, gains = colour_matrices(kinds, own), band_gains(kinds, own)
            if kinds.any_of(COLOUR):
                spectra[name] = _coloured(spectra[name], colours)
            if kinds.imgfilter > 0:
                spectra[name] = filter_bands(spectra[name], gains, band_filters())
        if kinds.noise > 0 and draws is not None:
            spectra = _together(spectra, lambda x: _noisy(x, noise, draws))
        if kinds.cutout > 0 and cutout.chosen.any():
            spectra = _together(spectra, lambda x: _cut(x, cutout, kinds.cutout_size))
        return spectra

    def _check(self, spectra: dict[str, Tensor]) -> None:
        shapes = {name: list(image.shape) for name, image in spectra.items()}
        if not spectra or any(len(shape) != 4 for shape in shapes.values()):
            raise ShapeError(f"images must be [N, C, H, W], all spectra alike; got {shapes}.")
        if len({(shape[0], *shape[2:]) for shape in shapes.values()}) > 1:
            raise ShapeError(
                f"all spectra of a sample share one geometry, so N, H and W must be equal; got {shapes}."
            )
        for name, image in spectra.items():
            if not image.is_floating_point():
                raise DTypeError(
                    f"augmentation takes floating-point images in [-1, 1]; {name} has dtype {image.dtype}."
                )
        luma = [name for name in LUMA if getattr(self.kinds, name) > 0]
        for name, shape in shapes.items():
            if luma and shape[1] not in (1, 3):
                raise ValueRangeError(
                    f"{', '.join(luma)} need images of 1 or 3 channels; {name} has {shape[1]}. Hand over the "
                    'spectra as a dictionary of 1- and 3-channel images, take set "bg", or Augmentations '
                    "with brightness and contrast alone."
                )

    def extra_repr(self) -> str:
        return f"p={float(self.p):g}, {self.kinds}"


def _computed(image: Tensor) -> Tensor:
    """The image in the dtype that it is transformed in: float32, or float64."""
    return image if image.dtype == torch.float64 else image.float()


def _together(spectra: dict[str, Tensor], transform: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The transform applied to all spectra at once, as channels of one image."""
    if len(spectra) == 1:
        return {name: transform(image) for name, image in spectra.items()}
    channels = [image.shape[1] for image in spectra.values()]
    parts = transform(torch.cat(list(spectra.values()), dim=1)).split(channels, dim=1)
    return dict(zip(spectra, parts, strict=True))


def _coloured(image: Tensor, matrices: Array) -> Tensor:
    """`image` [N, C, H, W] with its colours multiplied by matrices [N, 4, 4] on (r, g, b, 1)."""
    if not (matrices != np.eye(4)).any():
        return image
    n, channels, height, width = image.shape
    if channels != 3:
        # Grey in, and the mean of the three colours out. Brightness and contrast are the same for any number
        # of channels.
        mean = matrices[:, :3].mean(axis=1)
        factor, offset = (
            torch.from_numpy(values).to(image.device, image.dtype)[:, None, None, None]
            for values in (mean[:, :3].sum(axis=1), mean[:, 3])
        )
        return torch.addcmul(offset, image, factor)
    matrix = torch.from_numpy(matrices).to(image.device, image.dtype)
    coloured = torch.baddbmm(matrix[:, :3, 3:], matrix[:, :3, :3], image.reshape(n, 3, height * width))
    return coloured.reshape(n, 3, height, width)


def _noisy(image: Tensor, levels: Array, draws: SampleDraws) -> Tensor:
    # Drawn even where no sample takes any: the numbers that follow must not depend on this batch's share.
    noise = draws.normal(*image.shape[1:]).to(image.device, image.dtype)
    if not levels.any():
        return image
    level = torch.from_numpy(levels).to(image.device, image.dtype)
    return torch.addcmul(image, noise, level[:, None, None, None])


def _cut(image: Tensor, box: Cutout, size: float) -> Tensor:
    """`image` with a rectangle of zeros, `size` of each side, in the samples that were chosen."""
    inside = []
    for centre, length in ((box.y, image.shape[2]), (box.x, image.shape[3])):
        place = (np.arange(length) + 0.5) / length
        inside.append(np.abs(place - centre[:, None]) < size / 2)
    hole = inside[0][:, :, None] & inside[1][:, None, :] & box.chosen[:, None, None]
    return image.masked_fill(torch.from_numpy(hole)[:, None].to(image.device), 0.0)

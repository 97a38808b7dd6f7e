"""Which augmentations a pipe has, how likely each is, and how strong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyface.errors import ValueRangeError

__all__ = ["AUGMENT_SETS", "Augmentations", "augmentations"]


@dataclass(frozen=True)
class Augmentations:
    """Relative probabilities and strengths of the transforms of an augmentation pipe.

    A probability (0 to 1) is multiplied by the pipe's p; 0 leaves the transform out. Blitting: xflip,
    rotate90 (multiples of 90 degrees), xint (whole pixels). Geometry: scale, rotate, aniso (unequal scaling),
    xfrac (fractions of pixels). Colour: brightness, contrast, lumaflip (mirror at the grey plane), hue (turn
    around the grey axis), saturation. imgfilter: amplify or damp 4 frequency bands. Corruptions: noise,
    cutout.

    Strengths: xint_max, xfrac_std: shares of the picture's width and height. scale_std, aniso_std,
    contrast_std, saturation_std, imgfilter_std: standard deviation of log2 of the factor. rotate_max,
    hue_max: 1 is the whole circle. brightness_std, noise_std: image units, in which the range is 2.
    imgfilter_bands: relative probability of each band, lowest frequencies first. cutout_size: side of the
    rectangle as a share of the picture's.

    The defaults are those of Karras et al. 2020 (StyleGAN2-ADA), appendix B.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        for name in TRANSFORMS:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueRangeError(
                    f"{name} is a relative probability from 0 to 1; got {getattr(self, name)}."
                )
        for name in _STRENGTHS:
            if not getattr(self, name) >= 0:
                raise ValueRangeError(f"{name} must be 0 or more; got {getattr(self, name)}.")
        if len(self.imgfilter_bands) != 4 or not all(0 <= band <= 1 for band in self.imgfilter_bands):
            raise ValueRangeError(
                f"imgfilter_bands must be 4 relative probabilities from 0 to 1; got {self.imgfilter_bands}."
            )

    def any_of(self, names: tuple[str, ...]) -> bool:
        """Whether one of the named transforms can happen."""
        return any(getattr(self, name) > 0 for name in names)


_BLIT = ("xflip", "rotate90", "xint")
_GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
COLOUR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
# What a colour matrix does that has a meaning only where the channels are red, green and blue, or grey.
LUMA = ("lumaflip", "hue", "saturation")
GEOMETRIC = _BLIT + _GEOMETRY
TRANSFORMS = (*GEOMETRIC, *COLOUR, "imgfilter", "noise", "cutout")
_STRENGTHS = (
    "xint_max",
    "scale_std",
    "rotate_max",
    "aniso_std",
    "xfrac_std",
    "brightness_std",
    "contrast_std",
    "hue_max",
    "saturation_std",
    "imgfilter_std",
    "noise_std",
    "cutout_size",
)

AUGMENT_SETS: dict[str, tuple[str, ...]] = {
    "blit": _BLIT,
    "geom": _GEOMETRY,
    "color": COLOUR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": GEOMETRIC,
    "bgc": GEOMETRIC + COLOUR,
    "bgcf": (*GEOMETRIC, *COLOUR, "imgfilter"),
    "bgcfn": (*GEOMETRIC, *COLOUR, "imgfilter", "noise"),
    "bgcfnc": TRANSFORMS,
}


def augmentations(name: str) -> Augmentations:
    """The set `name`: every transform in it with relative probability 1, at the strengths of the paper.

    Raises ValueRangeError for an unknown name.

    >>> augmentations("blit").xflip, augmentations("blit").scale
    (1.0, 0.0)
    """
    if name not in AUGMENT_SETS:
        raise ValueRangeError(
            f"augmentation set {name!r} is not known; allowed: {', '.join(AUGMENT_SETS)}. "
            "For other mixtures pass Augmentations(xflip=1, scale=0.5, ...)."
        )
    chosen: dict[str, Any] = dict.fromkeys(AUGMENT_SETS[name], 1.0)
    return Augmentations(**chosen)

"""A small network that reads action units off an aligned grey picture of a face and its mesh's geometry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.models._config import Config, positive

__all__ = ["ActionUnitConfig", "ActionUnitNetwork"]

_UNITS = tuple(f"AU{number}" for number in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26, 43))
_SLOPE = 0.1
_FLAT = 0.05  # a region with less contrast than this, in [-1, 1], is not stretched further


@dataclass(frozen=True)
class ActionUnitConfig(Config):
    """What the network reads and gives, and its sizes.

    Args:
        units: names of the outputs, such as "AU12".
        geometry: names of the geometric features that it takes, in order.
        odd_geometry: how many of them, counted from the end, change their sign in a mirrored picture.
        size: height and width of the aligned grey picture; a multiple of 16, at least 32.
        eye_distance: distance of the eyes' centres in that picture, as a share of `size`.
        channels: of the four convolutions of each of the two regions.
        hidden: length of the vector of each region and of the geometry.
    """

    units: Sequence[str] = _UNITS
    geometry: Sequence[str] = ()
    odd_geometry: int = 0
    size: int = 80
    eye_distance: float = 0.375
    channels: Sequence[int] = (24, 32, 48, 48)
    hidden: int = 64

    def __post_init__(self) -> None:
        for name in ("units", "geometry", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        positive(1, units=len(self.units), geometry=len(self.geometry), hidden=self.hidden)
        if len(self.channels) != 4:
            raise ValueRangeError(f"channels must be four numbers; got {list(self.channels)}")
        for channels in self.channels:
            positive(1, channels=channels)
        if not isinstance(self.size, int) or self.size < 32 or self.size % 16:
            raise ValueRangeError(f"size must be a multiple of 16, at least 32; got {self.size!r}")
        if not 0.1 <= self.eye_distance <= 0.6:
            raise ValueRangeError(f"eye_distance must lie in [0.1, 0.6]; got {self.eye_distance!r}")
        if not 0 <= self.odd_geometry <= len(self.geometry):
            raise ValueRangeError(
                f"odd_geometry must lie in [0, {len(self.geometry)}], the number of features; "
                f"got {self.odd_geometry!r}"
            )


class ActionUnitNetwork(nn.Module):
    """Three readings of a face, put together: eyes and brows, mouth and chin, geometry.

    Both regions are cut out of one aligned picture and stretched to zero mean and unit contrast, so that
    neither brightness nor contrast matters. Training hides now the pictures, now the geometry, so that either
    tells something alone.

    >>> network = ActionUnitNetwork(ActionUnitConfig(geometry=("lip opening",))).eval()
    >>> network.intensities(torch.zeros(2, 1, 80, 80), torch.zeros(2, 1)).shape
    torch.Size([2, 13])
    """

    architecture: ClassVar[str] = "action-units"
    kind: ClassVar[str] = "action-unit reader"

    def __init__(self, config: ActionUnitConfig) -> None:
        super().__init__()
        self.config = config
        upper, lower = self.regions(torch.zeros(1, 1, config.size, config.size))
        self.upper = _Region(config, (upper.shape[2], upper.shape[3]))
        self.lower = _Region(config, (lower.shape[2], lower.shape[3]))
        features, hidden = len(config.geometry), config.hidden
        self.register_buffer("geometry_mean", torch.zeros(features))
        self.register_buffer("geometry_spread", torch.ones(features))
        self.shape = nn.Sequential(
            nn.Linear(features, hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, hidden)
        )
        self.head = nn.Sequential(
            nn.LeakyReLU(_SLOPE),
            nn.Linear(3 * hidden, hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, len(config.units)),
        )

    geometry_mean: Tensor
    geometry_spread: Tensor

    @staticmethod
    def regions(pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Eyes with brows, and mouth with chin, of aligned pictures [N, 1, S, S]."""
        size = pictures.shape[3]
        upper = pictures[:, :, : size // 2]
        lower = pictures[:, :, size * 7 // 16 :, size // 8 : size * 7 // 8]
        return upper, lower

    def forward(self, pictures: Tensor, geometry: Tensor, shown: Tensor | None = None) -> Tensor:
        """Logits float32 [N, units]; the sigmoid of one estimates the intensity in [0, 1].

        Args:
            pictures: float [N, 1, size, size] in [-1, 1], aligned and grey.
            geometry: float [N, len(config.geometry)], as measured.
            shown: [N, 2], 0 where the pictures (first column) or the geometry (second) are to be hidden.

        Raises:
            ShapeError, DTypeError: not such pictures or features.
        """
        self._check(pictures, geometry)
        standard = (geometry.float() - self.geometry_mean) / self.geometry_spread
        parts = [
            region(cut.float())
            for region, cut in zip((self.upper, self.lower), self.regions(pictures), strict=True)
        ]
        parts.append(self.shape(standard.clamp(-6.0, 6.0)))
        if shown is not None:
            parts = [part * shown[:, k, None] for part, k in zip(parts, (0, 0, 1), strict=True)]
        logits: Tensor = self.head(torch.cat(parts, 1))
        return logits.float()

    def intensities(self, pictures: Tensor, geometry: Tensor) -> Tensor:
        """Intensities float32 [N, units] in [0, 1]; arguments as in `forward`."""
        return self.forward(pictures, geometry).sigmoid()

    def _check(self, pictures: Tensor, geometry: Tensor) -> None:
        size, features = self.config.size, len(self.config.geometry)
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (1, size, size):
            raise ShapeError(
                f"pictures must be [N, 1, {size}, {size}]; got {list(pictures.shape)}. "
                "pyface.faces.action_units.expression_picture makes them."
            )
        if tuple(geometry.shape) != (pictures.shape[0], features):
            raise ShapeError(
                f"geometry must be [{pictures.shape[0]}, {features}]; got {list(geometry.shape)}. "
                "pyface.faces.expression_geometry.expression_geometry measures it."
            )
        for name, x in (("pictures", pictures), ("geometry", geometry)):
            if not x.is_floating_point():
                raise DTypeError(
                    f"{name} must be floating point; got {x.dtype}. "
                    "Scale uint8 pictures by x / 127.5 - 1; geometry must never be rounded."
                )


class _Region(nn.Module):
    """A vector [N, hidden] of a region [N, 1, H, W] at an eighth of its resolution."""

    def __init__(self, config: ActionUnitConfig, size: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (1, *config.channels)
        for level, (before, after) in enumerate(itertools.pairwise(channels)):
            stride = 1 if level == 2 else 2
            layers.append(nn.Conv2d(before, after, 3, stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers)
        height, width = (-(-side // 8) for side in size)
        self.output = nn.Linear(channels[-1] * height * width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        spread = (x - mean).square().mean((2, 3), keepdim=True).sqrt()
        x = ((x - mean) / (spread + _FLAT)).contiguous(memory_format=torch.channels_last)
        found: Tensor = self.output(self.layers(x).flatten(1))
        return found

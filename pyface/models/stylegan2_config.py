"""Configurations of the StyleGAN2 networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyface.errors import ValueRangeError
from pyface.models._config import Config, num_doublings, one_of, positive, size_pair
from pyface.ops import ACTIVATIONS

__all__ = ["PRECISIONS", "DiscriminatorConfig", "GeneratorConfig"]

ARCHITECTURES = ("skip", "resnet", "orig")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _NetworkConfig(Config):
    """What generator and discriminator have in common.

    Args:
        resolution: of the images: one number or (height, width); initial_size times a power of two.
        initial_size: of the smallest features: (height, width) or one number. (5, 4) makes images of 5:4.
        c_dim: size of the condition; 0 for none.
        spectra: name and channels of every kind of image, in order.
        channel_base: channels at a resolution are channel_base / its shorter side, at most channel_max.
        channel_max: see channel_base.
        architecture: "skip", "resnet" or "orig".
        activation: of every layer.
        resample_filter: low-pass taps of up- and downsampling.
        conv_clamp: clamp of every convolution's output; when None and there are 16-bit resolutions, 256.
        num_16bit_res: how many of the highest resolutions compute in 16 bits (the lowest never does).
        precision_16bit: "float16" or "bfloat16".
        mapping_layers: layers of the mapping network.
        mapping_lr_multiplier: learning rate of the mapping network relative to the rest.
    """

    resolution: Any
    initial_size: Any = (4, 4)
    c_dim: int = 0
    spectra: Mapping[str, int] = field(default_factory=lambda: {"vis": 3})
    channel_base: int = 32768
    channel_max: int = 512
    architecture: str = "skip"
    activation: str = "lrelu"
    resample_filter: Sequence[float] = (1, 3, 3, 1)
    conv_clamp: float | None = None
    num_16bit_res: int = 0
    precision_16bit: str = "float16"
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", size_pair(self.resolution, "resolution"))
        object.__setattr__(self, "initial_size", size_pair(self.initial_size, "initial_size"))
        object.__setattr__(self, "spectra", dict(self.spectra))
        object.__setattr__(self, "resample_filter", tuple(self.resample_filter))
        num_doublings(self.resolution, self.initial_size)
        one_of(self.architecture, ARCHITECTURES, "architecture")
        one_of(self.activation, tuple(ACTIVATIONS), "activation")
        one_of(self.precision_16bit, ("float16", "bfloat16"), "precision_16bit")
        positive(0, c_dim=self.c_dim, num_16bit_res=self.num_16bit_res)
        positive(1, channel_max=self.channel_max, mapping_layers=self.mapping_layers)
        positive(min(self.resolution), channel_base=self.channel_base)
        if not self.spectra or not all(name.isidentifier() for name in self.spectra):
            raise ValueRangeError(
                'spectra must name at least one kind of image, such as {"vis": 3}; '
                f"got {dict(self.spectra)!r}"
            )
        for name, channels in self.spectra.items():
            positive(1, **{f"spectra[{name}]": channels})

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every resolution, smallest first."""
        doublings = num_doublings(self.resolution, self.initial_size)
        return [(self.initial_size[0] << k, self.initial_size[1] << k) for k in range(doublings + 1)]

    @property
    def effective_clamp(self) -> float | None:
        """The clamp in use."""
        return 256.0 if self.conv_clamp is None and self.num_16bit_res > 0 else self.conv_clamp

    def channels(self, size: tuple[int, int]) -> int:
        """Feature channels at a resolution."""
        return min(self.channel_base // min(size), self.channel_max)

    def dtype_16bit(self, size: tuple[int, int]) -> torch.dtype | None:
        """The 16-bit element type of a resolution, or None when it computes in float32."""
        index = self.sizes.index(size)
        if index == 0 or index < len(self.sizes) - self.num_16bit_res:
            return None
        return PRECISIONS[self.precision_16bit]


@dataclass(frozen=True)
class GeneratorConfig(_NetworkConfig):
    """Configuration of a StyleGAN2 generator; the fields of both networks, and:

    Args:
        z_dim: size of z.
        w_dim: size of w.
        w_avg_decay: decay of the moving average of w per batch.
        use_noise: add noise after every convolution.

    >>> GeneratorConfig(64, spectra={"vis": 3, "nir": 1}).sizes[-1]
    (64, 64)
    """

    z_dim: int = 512
    w_dim: int = 512
    w_avg_decay: float = 0.995
    use_noise: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(1, z_dim=self.z_dim, w_dim=self.w_dim)


@dataclass(frozen=True)
class DiscriminatorConfig(_NetworkConfig):
    """Configuration of a StyleGAN2 discriminator; the fields of both networks, and:

    Args:
        cmap_dim: size of the mapped condition; None takes the channels of the lowest resolution.
        mbstd_group_size: images per group of the minibatch statistics; None for the whole batch.
        mbstd_channels: how many statistics are appended; 0 for none.
        freeze_layers: layers, counted from the image, that keep their weights (Freeze-D).
    """

    architecture: str = "resnet"
    cmap_dim: int | None = None
    mbstd_group_size: int | None = 4
    mbstd_channels: int = 1
    freeze_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(0, mbstd_channels=self.mbstd_channels, freeze_layers=self.freeze_layers)
        if self.mbstd_group_size is not None:
            positive(1, mbstd_group_size=self.mbstd_group_size)
        if self.mbstd_channels and self.channels(self.initial_size) % self.mbstd_channels:
            raise ValueRangeError(
                f"mbstd_channels must divide the {self.channels(self.initial_size)} channels of the lowest "
                f"resolution; got {self.mbstd_channels}"
            )

"""A discriminator of patches: it judges texture everywhere, and knows nothing of the whole picture.

Source: Isola et al. 2017, "Image-to-image translation with conditional adversarial networks", section 3.2.2
(PatchGAN), of the layers of StyleGAN2's discriminator (Karras et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from pyface.errors import ShapeError
from pyface.models._config import Config, positive, size_pair
from pyface.models._generator import Images, joined_spectra
from pyface.nn import EqualizedConv2d

__all__ = ["PatchCritic", "PatchCriticConfig"]


@dataclass(frozen=True)
class PatchCriticConfig(Config):
    """Configuration of a critic of patches.

    Args:
        resolution: of the images, one number or (height, width); divisible by 2 ** layers.
        spectra: name and channels of every kind of image, in order.
        channel_base: channels at a resolution are channel_base / its shorter side, at most channel_max.
        channel_max: see channel_base.
        layers: how often the size is halved; a logit sees patches of 2 ** (layers + 2) pixels or a bit more.
    """

    resolution: Any
    spectra: Mapping[str, int] = field(default_factory=lambda: {"vis": 3})
    channel_base: int = 16384
    channel_max: int = 512
    layers: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", size_pair(self.resolution, "resolution"))
        object.__setattr__(self, "spectra", dict(self.spectra))
        positive(1, layers=self.layers, channel_max=self.channel_max)
        positive(min(self.resolution), channel_base=self.channel_base)
        if any(side % 2**self.layers for side in self.resolution):
            raise ShapeError(
                f"resolution must be divisible by {2**self.layers} for {self.layers} layers; got "
                f"{self.resolution[0]}x{self.resolution[1]}. Use fewer layers"
            )

    def channels(self, halvings: int) -> int:
        """Feature channels after the size was halved so often."""
        return min(self.channel_base // (min(self.resolution) >> halvings), self.channel_max)


class PatchCritic(nn.Module):
    """Logits [N, 1, H / 2^layers, W / 2^layers], each above 0 where its patch is taken for real.

    >>> import torch
    >>> D = PatchCritic(PatchCriticConfig(32, channel_base=256, channel_max=16))
    >>> D(torch.zeros(4, 3, 32, 32)).shape
    torch.Size([4, 1, 4, 4])
    """

    architecture: ClassVar[str] = "patch-critic"
    kind: ClassVar[str] = "discriminator"

    def __init__(self, config: PatchCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.c_dim = 0
        self.resolution: tuple[int, int] = config.resolution
        self.spectra: dict[str, int] = dict(config.spectra)
        self.from_image = EqualizedConv2d(
            sum(config.spectra.values()), config.channels(0), 1, activation="lrelu"
        )
        self.convs = nn.ModuleList(
            EqualizedConv2d(config.channels(k), config.channels(k + 1), 3, activation="lrelu", down=2)
            for k in range(config.layers)
        )
        self.out = EqualizedConv2d(config.channels(config.layers), 1, 3)

    def forward(self, image: Images, c: Tensor | None = None) -> Tensor:
        """Logits of image [N, C, H, W] or a dict by spectrum; a condition `c` is not looked at.

        Raises ShapeError for another size or other spectra.
        """
        image = joined_spectra(image, self.spectra, self.resolution)
        x = self.from_image(image.to(self.out.weight.dtype))
        for conv in self.convs:
            x = conv(x)
        logits: Tensor = self.out(x)
        return logits

"""The blocks of the discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from pyface.nn.conv import EqualizedConv2d
from pyface.nn.filters import ResampleFilter
from pyface.nn.linear import EqualizedLinear
from pyface.nn.norm import append_minibatch_std
from pyface.ops import downsample2d

__all__ = ["CriticBlock", "CriticHead"]


class CriticBlock(nn.Module):
    """Two convolutions of which the second halves the size.

    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", figure 7: "resnet"
    adds a residual branch, "skip" feeds the image to every resolution, "orig" has neither.

    Args:
        in_channels: channels of the features that come in; 0 for the first block, which sees the image alone.
        mid_channels: channels between the two convolutions.
        out_channels: channels of the features that go out.
        image_channels: channels of the image.
        size: height and width of the features that come in.
        architecture: "resnet", "skip" or "orig".
        activation: of the convolutions.
        resample_filter: low-pass taps of the downsampling.
        conv_clamp: clamp of every convolution's output.
        dtype_16bit: element type of this block's features, when it computes in 16 bits by default.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        image_channels: int,
        size: tuple[int, int],
        *,
        architecture: str = "resnet",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        dtype_16bit: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size, self.architecture, self.dtype_16bit = size, architecture, dtype_16bit
        self.backend = "auto"
        self.filter = ResampleFilter(resample_filter) if architecture == "skip" else None
        self.from_image = None
        if in_channels == 0 or architecture == "skip":
            self.from_image = EqualizedConv2d(
                image_channels, mid_channels, 1, activation=activation, conv_clamp=conv_clamp
            )
        self.conv0 = EqualizedConv2d(
            mid_channels, mid_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.conv1 = EqualizedConv2d(
            mid_channels,
            out_channels,
            3,
            activation=activation,
            down=2,
            resample_filter=resample_filter,
            conv_clamp=conv_clamp,
        )
        self.skip = None
        if architecture == "resnet":
            self.skip = EqualizedConv2d(
                mid_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter
            )

    def layers(self) -> list[nn.Module]:
        """Its layers from the image inwards, the order in which Freeze-D counts them."""
        candidates = (self.from_image, self.conv0, self.conv1, self.skip)
        return [layer for layer in candidates if layer is not None]

    def forward(
        self, x: Tensor | None, image: Tensor | None, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> tuple[Tensor, Tensor | None]:
        """Features [N, out_channels, H / 2, W / 2] in `dtype`, and the image for the next block.

        Args:
            x: features [N, in_channels, H, W]; None for the first block.
            image: [N, image_channels, H, W], or None once no further block looks at it.
            dtype: element type to compute in.
            memory_format: layout to compute in.
        """
        if x is not None:
            x = x.to(dtype=dtype, memory_format=memory_format)
        if self.from_image is not None and image is not None:
            y = self.from_image(image.to(dtype=dtype, memory_format=memory_format))
            x = y if x is None else x + y
            image = (
                None if self.filter is None else downsample2d(image, self.filter.taps, backend=self.backend)
            )
        shortcut = None if self.skip is None else self.skip(x, gain=sqrt(0.5))
        x = self.conv0(x)
        x = self.conv1(x, gain=1.0 if shortcut is None else sqrt(0.5))
        return (x if shortcut is None else shortcut + x), image

    def extra_repr(self) -> str:
        return f"size={self.size}, {self.architecture}, dtype_16bit={self.dtype_16bit}"


class CriticHead(nn.Module):
    """Minibatch statistics, one convolution and two fully connected layers: from features to one number.

    Source: Karras et al. 2018 (minibatch standard deviation), Miyato and Koyama 2018, "cGANs with projection
    discriminator" (conditioning by a dot product).

    Args:
        in_channels: channels of the features.
        image_channels: channels of the image, looked at when architecture is "skip".
        size: height and width of the features.
        cmap_dim: size of the mapped condition; 0 for none.
        architecture: "resnet", "skip" or "orig".
        mbstd_group_size: images per group of the minibatch statistics; None for the whole batch.
        mbstd_channels: how many statistics; 0 for none.
        activation: of the layers.
        conv_clamp: clamp of the convolution's output.
    """

    def __init__(
        self,
        in_channels: int,
        image_channels: int,
        size: tuple[int, int],
        *,
        cmap_dim: int = 0,
        architecture: str = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim, self.mbstd_group_size, self.mbstd_channels = cmap_dim, mbstd_group_size, mbstd_channels
        self.from_image = None
        if architecture == "skip":
            self.from_image = EqualizedConv2d(image_channels, in_channels, 1, activation=activation)
        self.conv = EqualizedConv2d(
            in_channels + mbstd_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = EqualizedLinear(in_channels * size[0] * size[1], in_channels, activation=activation)
        self.out = EqualizedLinear(in_channels, cmap_dim if cmap_dim > 0 else 1)

    def forward(self, x: Tensor, image: Tensor | None, cmap: Tensor | None) -> Tensor:
        """Logits [N, 1].

        Args:
            x: features [N, in_channels, *size].
            image: [N, image_channels, *size] for the "skip" architecture.
            cmap: mapped condition [N, cmap_dim], when cmap_dim is not 0.
        """
        dtype = self.fc.weight.dtype
        x = x.to(dtype=dtype, memory_format=torch.contiguous_format)
        if self.from_image is not None and image is not None:
            x = x + self.from_image(image.to(dtype))
        if self.mbstd_channels > 0:
            x = append_minibatch_std(x, self.mbstd_group_size, self.mbstd_channels)
        x = self.conv(x)
        x = self.out(self.fc(x.flatten(1)))
        if cmap is None or self.cmap_dim == 0:
            return x
        return (x * cmap).sum(dim=1, keepdim=True) / sqrt(self.cmap_dim)

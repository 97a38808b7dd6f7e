"""One resolution of the synthesis network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from pyface.nn.conv import EqualizedConv2d
from pyface.nn.filters import ResampleFilter
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops import upsample2d

__all__ = ["SynthesisBlock"]


class SynthesisBlock(nn.Module):
    """A learned constant or an upsampling convolution, a second convolution, and one head per spectrum.

    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", figure 7: "skip" sums
    the heads of all resolutions, "resnet" adds a residual branch, "orig" has neither.

    Args:
        in_channels: channels of the features that come in; 0 makes the first block, which starts from a
            constant.
        out_channels: channels of the features that go out.
        w_dim: size of w.
        size: height and width of the features that go out.
        spectra: name and channels of every head; empty for a block without heads.
        architecture: "skip", "resnet" or "orig".
        activation: of the convolutions.
        resample_filter: low-pass taps of the upsampling.
        conv_clamp: clamp of every convolution's output.
        use_noise: whether convolutions add noise.
        dtype_16bit: element type of this block's features, when it computes in 16 bits by default.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        spectra: Mapping[str, int],
        *,
        architecture: str = "skip",
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_noise: bool = True,
        dtype_16bit: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size, self.in_channels, self.architecture = size, in_channels, architecture
        self.dtype_16bit = dtype_16bit
        self.backend = "auto"
        self.filter = ResampleFilter(resample_filter)

        def conv(channels: int, up: int) -> StyledConv2d:
            return StyledConv2d(
                channels,
                out_channels,
                w_dim,
                size,
                up=up,
                activation=activation,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
            )

        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = conv(in_channels, 2)
        self.conv1 = conv(out_channels, 1)
        self.heads = nn.ModuleDict(
            {name: StyledHead(out_channels, n, w_dim, conv_clamp=conv_clamp) for name, n in spectra.items()}
        )
        self.skip = None
        if in_channels != 0 and architecture == "resnet":
            self.skip = EqualizedConv2d(
                in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter
            )

    @property
    def conv_names(self) -> tuple[str, ...]:
        """Names of the styled convolutions, in the order in which they take their ws."""
        return ("conv1",) if self.in_channels == 0 else ("conv0", "conv1")

    def forward(
        self,
        x: Tensor | None,
        images: dict[str, Tensor],
        ws: Tensor,
        noise: Mapping[str, Tensor | None],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [N, out_channels, *size] in `dtype`, and the images summed so far.

        Args:
            x: features of the block before; None for the first block.
            images: images of the block before, by spectrum; empty before the first head.
            ws: [N, len(conv_names) + 1, w_dim]; the last one is for the heads.
            noise: noise of each convolution by its name in `conv_names`.
            dtype: element type to compute in.
            memory_format: layout to compute in.
        """
        if x is None:
            const = self.const.to(dtype).unsqueeze(0).expand(ws.shape[0], -1, -1, -1)
            x = const.contiguous(memory_format=memory_format)
            x = self.conv1(x, ws[:, 0], noise.get("conv1"))
        else:
            x = x.to(dtype=dtype, memory_format=memory_format)
            shortcut = None if self.skip is None else self.skip(x, gain=sqrt(0.5))
            x = self.conv0(x, ws[:, 0], noise.get("conv0"))
            x = self.conv1(x, ws[:, 1], noise.get("conv1"), gain=1.0 if shortcut is None else sqrt(0.5))
            x = x if shortcut is None else shortcut + x
        images = {
            name: upsample2d(image, self.filter.taps, backend=self.backend) for name, image in images.items()
        }
        for name, head in self.heads.items():
            image = head(x, ws[:, -1]).to(ws.dtype)
            images[name] = images[name] + image if name in images else image
        return x, images

    def extra_repr(self) -> str:
        return f"size={self.size}, {self.architecture}, dtype_16bit={self.dtype_16bit}"

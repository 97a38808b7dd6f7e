"""Convolutions modulated by a style, as the synthesis network is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyface.nn.conv import activation_gain
from pyface.nn.filters import ResampleFilter
from pyface.nn.linear import EqualizedLinear
from pyface.ops import bias_act, modulated_conv2d_act

__all__ = ["StyledConv2d", "StyledHead"]


class StyledConv2d(nn.Module):
    """Modulated and demodulated 3x3 convolution, noise, bias and activation.

    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 2.2.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        w_dim: size of w.
        size: height and width of y.
        up: 1, or 2 to double the size.
        activation: any activation of `pyface.ops.bias_act`.
        resample_filter: low-pass taps of the upsampling.
        conv_clamp: clamp the output to plus or minus this.
        use_noise: add noise, scaled by one learned number.
    """

    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: tuple[int, int],
        *,
        up: int = 1,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.up, self.activation, self.conv_clamp = size, up, activation, conv_clamp
        self.use_noise = use_noise
        self.backend = "auto"
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.filter = ResampleFilter(resample_filter) if up > 1 else None
        if use_noise:
            self.register_buffer("noise_const", torch.randn(size))
            self.noise_strength = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None, gain: float = 1.0) -> Tensor:
        """y [N, out_channels, *size].

        Args:
            x: [N, in_channels, H, W].
            w: [N, w_dim].
            noise: standard normal, [N, 1, *size] or shared [*size]; None adds none.
            gain: extra scale of y.
        """
        if noise is not None:
            noise = noise.to(self.noise_strength.dtype) * self.noise_strength
        clamp = _clamp(self.conv_clamp, x.dtype)
        return modulated_conv2d_act(
            x,
            self.weight,
            self.affine(w),
            noise=noise,
            up=self.up,
            padding=1,
            resample_filter=None if self.filter is None else self.filter.taps,
            flip_weight=self.up == 1,
            bias=self.bias,
            act=self.activation,
            gain=activation_gain(self.activation) * gain,
            clamp=None if clamp is None else clamp * gain,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels} -> {out_channels}, size={self.size}, up={self.up}, {self.activation}"


class StyledHead(nn.Module):
    """Modulated 1x1 convolution (no demodulation) from features to the channels of one spectrum.

    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 4.1 (tRGB).
    """

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.backend = "auto"
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Image [N, out_channels, H, W] of features x [N, in_channels, H, W] and w [N, w_dim]."""
        styles = self.affine(w) * self.weight_gain
        weights = (self.weight.flatten(1) * styles.unsqueeze(1)).to(x.dtype)  # [N, out, in]
        y = _per_sample_pointwise(x, weights)
        clamp = _clamp(self.conv_clamp, x.dtype)
        return bias_act(y, self.bias.to(x.dtype), clamp=clamp, backend=self.backend)


def _per_sample_pointwise(x: Tensor, weights: Tensor) -> Tensor:
    """1x1 convolution of x [N, C, H, W] with weights [N, O, C], one set per sample, in the layout of x.

    With few output channels, scaling the weights by the styles and one product per sample read the features
    once; scaling the features would write and read them again, and twice more for the gradients.
    """
    n, _, h, w = x.shape
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.matmul(weights, x.flatten(2)).reshape(n, weights.shape[1], h, w)
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    y = torch.matmul(pixels, weights.transpose(1, 2))
    return y.reshape(n, h, w, weights.shape[1]).permute(0, 3, 1, 2)


def _clamp(conv_clamp: float | None, dtype: torch.dtype) -> float | None:
    """The clamp in use: float16 overflows without one, so it always has one."""
    return 256.0 if conv_clamp is None and dtype == torch.float16 else conv_clamp

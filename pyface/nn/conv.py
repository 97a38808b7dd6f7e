"""Convolution with an equalised learning rate, resampling and an activation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyface.nn.filters import ResampleFilter
from pyface.ops import ACTIVATIONS, bias_act, conv2d_resample

__all__ = ["EqualizedConv2d"]


class EqualizedConv2d(nn.Module):
    """y = clamp(gain * act(conv(x, W / sqrt(in * k * k)) + b)), with filtered up- or downsampling.

    Source: Karras et al. 2018 (equalised learning rate); Karras et al. 2020, "Analyzing and improving the
    image quality of StyleGAN", appendix B (filtered resampling).

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: odd; the output keeps the size (before resampling).
        bias: learn an additive bias.
        activation: any activation of `pyface.ops.bias_act`.
        up: enlarge by this factor.
        down: shrink by this factor.
        resample_filter: low-pass taps for up and down.
        conv_clamp: clamp the output to plus or minus this.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.backend = "auto"
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels))
        else:
            self.register_parameter("bias", None)
        self.filter = ResampleFilter(resample_filter) if up > 1 or down > 1 else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """y [N, out_channels, H * up / down, W * up / down] of x [N, in_channels, H, W]; `gain` scales it."""
        taps = None if self.filter is None else self.filter.taps
        x = conv2d_resample(
            x,
            self.weight,
            taps,
            up=self.up,
            down=self.down,
            padding=self.padding,
            flip_weight=self.up == 1,
            weight_gain=self.weight_gain,
            backend=self.backend,
        )
        if self.bias is None and self.activation == "linear" and self.conv_clamp is None:
            return x if gain == 1 else x * gain
        bias = None if self.bias is None else self.bias.to(x.dtype)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        act_gain = activation_gain(self.activation) * gain
        return bias_act(x, bias, act=self.activation, gain=act_gain, clamp=clamp, backend=self.backend)

    def extra_repr(self) -> str:
        out_channels, in_channels, kernel, _ = self.weight.shape
        resampling = f"up={self.up}, down={self.down}"
        return f"{in_channels} -> {out_channels}, {kernel}x{kernel}, {resampling}, {self.activation}"


def activation_gain(activation: str) -> float:
    """The gain that `bias_act` gives an activation when none is asked for, to be scaled further."""
    return ACTIVATIONS[activation].gain

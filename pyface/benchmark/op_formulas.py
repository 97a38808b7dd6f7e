"""The ops in plain torch, as functions and as modules that other runtimes are given.

Where there are several forms of an op, the module is the one that other runtimes were fastest with: the
low-pass filter as one two-dimensional convolution (with a stride, or transposed), one convolution with shared
weights between two scalings in place of per-sample weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BiasAct", "ConvEpilogue", "Filter", "SynthesisLayer"]

GAIN, SLOPE, CLAMP = math.sqrt(2), 0.2, 256.0
TAPS = (1.0, 3.0, 3.0, 1.0)
EPS = 1e-8


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU, gain and clamp as three steps."""
    return (F.leaky_relu(x, SLOPE) * GAIN).clamp(-CLAMP, CLAMP)


def leaky_in_place(x: Tensor) -> Tensor:
    """The same, written over `x`."""
    return F.leaky_relu(x, SLOPE, inplace=True).mul_(GAIN).clamp_(-CLAMP, CLAMP)


def taps(like: Tensor, gain: float = 1.0) -> Tensor:
    """The low-pass filter of one axis [4], which sums to `gain`."""
    f = torch.tensor(TAPS, dtype=torch.float64) / sum(TAPS) * gain
    return f.to(like.device, like.dtype)


def depthwise(x: Tensor, kernel: Tensor, stride: tuple[int, int] = (1, 1)) -> Tensor:
    """Every channel of `x` convolved with `kernel` [rows, columns]."""
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), stride=stride, groups=x.shape[1])


def filter_formula(x: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """Zeros between the pixels, padding, one two-dimensional depthwise convolution, every second pixel."""
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    f = taps(x, up)
    y = depthwise(F.pad(x, (before, after, before, after)), torch.outer(f, f))
    return y[:, :, ::down, ::down].contiguous() if down > 1 else y


def filter_separable(x: Tensor, down: int, before: int, after: int) -> Tensor:
    """Two one-dimensional depthwise convolutions with a stride."""
    f = taps(x)
    x = depthwise(F.pad(x, (0, 0, before, after)), f.view(-1, 1), (down, 1))
    return depthwise(F.pad(x, (before, after, 0, 0)), f.view(1, -1), (1, down))


def filter_strided(x: Tensor) -> Tensor:
    """Downsampling by one two-dimensional convolution that computes every second pixel alone."""
    f = taps(x)
    kernel = torch.outer(f, f).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def filter_transposed(x: Tensor) -> Tensor:
    """Upsampling without the zeros: a transposed depthwise convolution."""
    f = taps(x, 2.0)
    kernel = torch.outer(f, f).expand(x.shape[1], 1, -1, -1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def filter_transposed_separable(x: Tensor) -> Tensor:
    """Upsampling by two one-dimensional transposed convolutions."""
    kernel = taps(x, 2.0).expand(x.shape[1], 1, -1)
    c = x.shape[1]
    x = F.conv_transpose2d(x, kernel[..., None], stride=(2, 1), padding=(1, 0), groups=c)
    return F.conv_transpose2d(x, kernel[:, :, None], stride=(1, 2), padding=(0, 1), groups=c)


def per_sample_kernels(weight: Tensor, styles: Tensor) -> Tensor:
    """One modulated and demodulated kernel per sample [N, O, I, 3, 3]."""
    kernels = weight[None] * styles[:, None, :, None, None]
    return kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + EPS).rsqrt()


def grouped(x: Tensor, kernels: Tensor, up: int) -> Tensor:
    """Every sample convolved with its own kernel, as one grouped convolution."""
    n, c, h, w = x.shape
    flat = x.reshape(1, n * c, h, w)
    if up == 1:
        return F.conv2d(flat, kernels.flatten(0, 1), padding=1, groups=n).view(n, -1, h, w)
    y = F.conv_transpose2d(flat, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
    return smooth(y.view(n, -1, 2 * h + 1, 2 * w + 1))


def shared(x: Tensor, kernel: Tensor, up: int) -> Tensor:
    """All samples convolved with one kernel [O, I, 3, 3]."""
    if up == 1:
        return F.conv2d(x, kernel, padding=1)
    return smooth(F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2))


def smooth(y: Tensor) -> Tensor:
    """The low-pass filter behind a transposed convolution: [.., 2H + 1, 2W + 1] to [.., 2H, 2W]."""
    f = taps(y, 2.0)
    y = depthwise(F.pad(y, (0, 0, 1, 1)), f.view(-1, 1))
    return depthwise(F.pad(y, (1, 1, 0, 0)), f.view(1, -1))


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """What makes outputs of unit variance [N, O]: Karras et al. 2020, section 2.2, equation 3."""
    return (styles.square() @ weight.square().sum((2, 3)).T + EPS).rsqrt()


class BiasAct(nn.Module):
    """x [N, C, H, W] to leaky(x + bias)."""

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias.float().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The result, of the shape of x."""
        return leaky(x + self.bias)


class ConvEpilogue(BiasAct):
    """x [N, C, H, W], demod [N, C], noise [N, 1, H, W] to leaky(x * demod + noise + bias)."""

    def forward(self, x: Tensor, demod: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        """The result, of the shape of x."""
        return leaky(x * demod[:, :, None, None] + noise + self.bias)


class Filter(nn.Module):
    """x [N, C, H, W] filtered to the same size, twice the size (up 2) or half of it (down 2)."""

    def __init__(self, up: int = 1, down: int = 1) -> None:
        super().__init__()
        self.up, self.down = up, down

    def forward(self, x: Tensor) -> Tensor:
        """The filtered images."""
        if self.up == 2:
            return filter_transposed(x)
        return filter_strided(x) if self.down == 2 else filter_formula(x, 1, 1, 2, 1)


class SynthesisLayer(nn.Module):
    """x [N, C, H, W], styles [N, C], noise [N, 1, H * up, W * up] through a synthesis layer."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, up: int) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float().view(1, -1, 1, 1))

    def forward(self, x: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
        """Modulated convolution with demodulation, noise, bias and activation."""
        y = shared(x * styles[:, :, None, None], self.weight, self.up)
        return leaky(y * demodulation(self.weight, styles)[:, :, None, None] + noise + self.bias)

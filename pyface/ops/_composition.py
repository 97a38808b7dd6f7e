"""How the compound ops are put together from primitives: written once, used by every back-end.

A back-end brings five primitives (`Primitives`); resampling convolution and modulated convolution follow.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyface.ops._checks import Resampling, filter_size, parameter_dtype
from pyface.ops.activations import Activation

__all__ = [
    "DEMODULATION_EPS",
    "Conv",
    "Epilogue",
    "Primitives",
    "StyledLayer",
    "WeightForm",
    "conv2d_resample",
    "is_channels_last",
    "modulated_conv2d",
    "shape_weight",
]

DEMODULATION_EPS = 1e-8


class Conv(NamedTuple):
    """Geometry of one convolution: factors and padding are (y, x)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1


class WeightForm(NamedTuple):
    """How a learned weight [O, I, kh, kw] convolves: times `gain`, in `dtype`; its taps turned by 180 degrees
    where `flip`; as [I, O, kh, kw] where `transposed`."""

    dtype: torch.dtype
    gain: float = 1.0
    flip: bool = False
    transposed: bool = False


class Epilogue(NamedTuple):
    """Settings of a convolution epilogue. clamp < 0 means none."""

    activation: Activation
    alpha: float
    gain: float
    clamp: float


class StyledLayer(NamedTuple):
    """What a modulated convolution does beside its weight: styles [N, I], and after it demod [N, O], noise
    [N or 1, 1, H', W'], bias [O]. up, padding, f and flip_weight as for `conv2d_resample`."""

    styles: Tensor
    demod: Tensor | None
    noise: Tensor | None
    bias: Tensor | None
    up: int
    padding: tuple[int, int, int, int]
    f: Tensor | None
    flip_weight: bool
    epilogue: Epilogue


class Primitives(Protocol):
    """What a back-end brings: FIR resampling, convolution and its weight, style multiply, demodulation,
    epilogue."""

    def fir(self, x: Tensor, f: Tensor | None, r: Resampling) -> Tensor:
        """Upsample, filter and downsample `x`."""

    def conv(self, x: Tensor, w: Tensor, c: Conv) -> Tensor:
        """Convolve (correlate) `x` with `w`, or its transpose."""

    def weight(self, x: Tensor, w: Tensor, form: WeightForm) -> Tensor:
        """`w` [O, I, kh, kw] as it convolves `x`; laid out as `x` where that helps."""

    def modulate(self, x: Tensor, scale: Tensor) -> Tensor:
        """`x` [N, C, H, W] times `scale` [N, C]."""

    def demodulate(self, weight: Tensor, styles: Tensor) -> Tensor:
        """1 / norm of every filter of `weight` [O, I, kh, kw] times `styles` [N, I]: [N, O], as `styles`.

        demod[n, o] = (sum_{i, kh, kw} (weight[o, i, kh, kw] * styles[n, i])^2 + 1e-8)^(-1/2).
        Karras et al. 2020 (StyleGAN2), equation 3.
        """

    def epilogue(
        self,
        x: Tensor,
        demod: Tensor | None,
        noise: Tensor | None,
        bias: Tensor | None,
        next_style: Tensor | None,
        e: Epilogue,
        owned: bool = False,
    ) -> Tensor:
        """next_style * clamp(gain * act(x * demod + noise + bias)).

        owned: nobody else holds `x`; where no gradient is wanted its memory may take the result.
        """

    def styled(self, x: Tensor, weight: Tensor, layer: StyledLayer) -> Tensor | None:
        """A whole modulated convolution in one kernel; None where there is none, or a gradient is wanted."""


def is_channels_last(x: Tensor) -> bool:
    """Whether the memory of `x` [N, C, H, W] runs N, H, W, C and not also N, C, H, W."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _fir_settings(
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Resampling:
    return Resampling(up, up, down, down, *padding, flip, gain)


def shape_weight(w: Tensor, form: WeightForm) -> Tensor:
    """`w` [O, I, kh, kw] in the form in which it convolves, by torch."""
    w = (w * form.gain if form.gain != 1 else w).to(form.dtype)
    w = w.flip([2, 3]) if form.flip else w
    return w.transpose(0, 1) if form.transposed else w


def _plain_conv(p: Primitives, x: Tensor, w: Tensor, c: Conv, flip_weight: bool, gain: float) -> Tensor:
    pointwise = w.shape[2] == w.shape[3] == 1
    return p.conv(x, p.weight(x, w, WeightForm(x.dtype, gain, not (flip_weight or pointwise))), c)


def _transposed_conv(p: Primitives, x: Tensor, w: Tensor, c: Conv, flip_weight: bool, gain: float) -> Tensor:
    """Convolution of the zero-inserted `x`: torch's transposed form convolves, hence the flip is reversed."""
    if c.groups == 1:
        return p.conv(x, p.weight(x, w, WeightForm(x.dtype, gain, flip_weight, transposed=True)), c)
    w = p.weight(x, w, WeightForm(x.dtype, gain, flip_weight))
    out_channels, in_per_group, k_h, k_w = w.shape
    w = w.reshape(c.groups, out_channels // c.groups, in_per_group, k_h, k_w).transpose(1, 2)
    return p.conv(x, w.reshape(c.groups * in_per_group, out_channels // c.groups, k_h, k_w), c)


def conv2d_resample(
    p: Primitives,
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
    weight_gain: float = 1.0,
) -> Tensor:
    """Upsample, convolve with weight_gain * w and downsample, in the cheapest order with the same numbers.

    All padding belongs in front of the first step (zeros of the upsampled image), so FIR and convolution
    commute.
    Karras et al. 2020 (StyleGAN2), section 4 and appendix B.
    """
    k_h, k_w = w.shape[2], w.shape[3]
    f_w, f_h = filter_size(f)
    x0, x1, y0, y1 = padding
    if up > 1:  # centres the interpolation filter
        x0, x1, y0, y1 = (
            x0 + (f_w + up - 1) // 2,
            x1 + (f_w - up) // 2,
            y0 + (f_h + up - 1) // 2,
            y1 + (f_h - up) // 2,
        )
    if down > 1:  # centres the decimation filter
        x0, x1 = x0 + (f_w - down + 1) // 2, x1 + (f_w - down) // 2
        y0, y1 = y0 + (f_h - down + 1) // 2, y1 + (f_h - down) // 2
    pads = (x0, x1, y0, y1)
    pointwise = k_h == 1 and k_w == 1
    up_gain = float(up * up)

    if pointwise and down > 1 and up == 1:  # fewer pixels first
        x = p.fir(x, f, _fir_settings(down=down, padding=pads, flip=flip_filter))
        return _plain_conv(p, x, w, Conv(groups=groups), flip_weight, weight_gain)
    if pointwise and up > 1 and down == 1:
        x = _plain_conv(p, x, w, Conv(groups=groups), flip_weight, weight_gain)
        return p.fir(x, f, _fir_settings(up=up, padding=pads, flip=flip_filter, gain=up_gain))
    if down > 1 and up == 1:
        x = p.fir(x, f, _fir_settings(padding=pads, flip=flip_filter))
        return _plain_conv(p, x, w, Conv(stride=(down, down), groups=groups), flip_weight, weight_gain)
    if up > 1:
        # The full transposed convolution starts k - 1 pixels earlier; what the FIR would crop is not
        # computed.
        x0, x1, y0, y1 = x0 - (k_w - 1), x1 - (k_w - up), y0 - (k_h - 1), y1 - (k_h - up)
        crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
        geometry = Conv(stride=(up, up), padding=(crop_y, crop_x), transposed=True, groups=groups)
        x = _transposed_conv(p, x, w, geometry, flip_weight, weight_gain)
        pads = (x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y)
        x = p.fir(x, f, _fir_settings(padding=pads, flip=flip_filter, gain=up_gain))
        return p.fir(x, f, _fir_settings(down=down, flip=flip_filter)) if down > 1 else x
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return _plain_conv(p, x, w, Conv(padding=(y0, x0), groups=groups), flip_weight, weight_gain)
    x = p.fir(x, None, _fir_settings(padding=pads))
    return _plain_conv(p, x, w, Conv(groups=groups), flip_weight, weight_gain)


def modulated_conv2d(
    p: Primitives,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int, int, int],
    resample_filter: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
    e: Epilogue,
) -> Tensor:
    """Scale the activations by the styles, convolve with shared weights, then one epilogue pass.

    float16 has too few exponent bits for raw weights and styles: both are normalised by their largest
    magnitude, which demodulation cancels (so the divisors need no gradient).
    """
    styles = styles.to(parameter_dtype(x))
    if x.dtype == torch.float16 and demodulate:
        fan_in = weight.shape[1] * weight.shape[2] * weight.shape[3]
        largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).to(torch.float32)
        weight = weight.to(torch.float32) * (1.0 / math.sqrt(fan_in) / largest.clamp(min=1e-30))
        styles = styles / styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    demod = p.demodulate(weight.to(styles.dtype), styles) if demodulate else None
    if down == 1:
        layer = StyledLayer(styles, demod, noise, bias, up, padding, resample_filter, flip_weight, e)
        y = p.styled(x, weight, layer)
        if y is not None:
            return y
    x = p.modulate(x, styles)
    x = conv2d_resample(p, x, weight, resample_filter, up, down, padding, 1, flip_weight, flip_filter=False)
    if (
        demod is None
        and noise is None
        and bias is None
        and e.activation.code == 0
        and e.gain == 1
        and e.clamp < 0
    ):
        return x
    return p.epilogue(x, demod, noise, bias, None, e, owned=True)

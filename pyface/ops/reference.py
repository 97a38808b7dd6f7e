"""The ops in plain torch: the truth that every native back-end is tested against.

Exportable, differentiable any number of times, on any device. 16-bit inputs are computed in float32 and
rounded once.
Arguments are those of the public ops after their checks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.ops._checks import Resampling, parameter_dtype, round_to
from pyface.ops._composition import (
    DEMODULATION_EPS,
    Conv,
    Epilogue,
    StyledLayer,
    WeightForm,
    is_channels_last,
    shape_weight,
)
from pyface.ops.activations import SELU_ALPHA, SELU_SCALE

__all__ = ["ReferencePrimitives", "activate", "bias_act", "bias_act_grad", "upfirdn2d"]


def activate(x: Tensor, e: Epilogue, dtype: torch.dtype) -> Tensor:
    """clamp(gain * act(x)); the clamp is rounded to `dtype`, its gradient is 0 where |y| >= clamp."""
    y = e.activation.formula(x, e.alpha)
    if e.gain != 1:
        y = y * e.gain
    if e.clamp >= 0:
        clamp = round_to(e.clamp, dtype)
        clamped = y.clamp(-clamp, clamp)
        if not (y.requires_grad and torch.is_grad_enabled()):
            return clamped
        y = torch.where(y.abs() < clamp, y, clamped.detach())
    return y


def bias_act(x: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
    """clamp(gain * act(x + b)); x of any shape, b [x.shape[dim]] or None."""
    wide = x.to(parameter_dtype(x))
    if b is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        wide = wide + b.to(wide.dtype).reshape(shape)
    y = activate(wide, e, x.dtype).to(x.dtype)
    return y.clone() if y is x else y


def bias_act_grad(dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
    """dy * gain * act'(.), 0 where clamped; `ref` is the input (with bias `b`) for swish, else the output
    y."""
    wide = parameter_dtype(ref)
    y = ref.to(wide)
    if e.activation.saves == "x":
        z = y if b is None else y + b.to(wide).reshape([-1 if axis == dim else 1 for axis in range(y.ndim)])
        s = torch.sigmoid(z)
        y, slope = e.gain * z * s, s * (1 + z * (1 - s))
    else:
        slope = _slope(y / e.gain, e)
    if e.clamp >= 0:
        slope = torch.where(y.abs() < round_to(e.clamp, ref.dtype), slope, torch.zeros_like(slope))
    return (dy.to(wide) * slope * e.gain).to(ref.dtype)


def _slope(u: Tensor, e: Epilogue) -> Tensor:
    """act'(.) where act(.) = u."""
    name, one = e.activation.code, torch.ones_like(u)
    if name in (1, 2):
        return torch.where(u > 0, one, one * (e.alpha if name == 2 else 0.0))
    if name == 3:
        return 1 - u * u
    if name == 4:
        return u * (1 - u)
    if name == 5:
        return torch.where(u >= 0, one, u + 1)
    if name == 6:
        return torch.where(u >= 0, one * SELU_SCALE, u + SELU_SCALE * SELU_ALPHA)
    return -torch.expm1(-u) if name == 7 else one


def upfirdn2d(x: Tensor, f: Tensor | None, r: Resampling) -> Tensor:
    """Zero-insert, pad or crop, convolve with `f`, keep every down-th pixel: [N, C, H', W']."""
    n, c, h, w = x.shape
    y = x.to(parameter_dtype(x))
    if r.up_x > 1 or r.up_y > 1:
        y = y.reshape(n, c, h, 1, w, 1)
        y = F.pad(y, [0, r.up_x - 1, 0, 0, 0, r.up_y - 1])
        y = y.reshape(n, c, h * r.up_y, w * r.up_x)
    if r.pad_x0 or r.pad_x1 or r.pad_y0 or r.pad_y1:
        y = F.pad(y, [r.pad_x0, r.pad_x1, r.pad_y0, r.pad_y1])
    if f is not None:
        taps = (f if r.flip else f.flip(list(range(f.ndim)))).to(y.dtype)
        if f.ndim == 2:
            y = _depthwise(y, taps)
        else:
            y = _depthwise(_depthwise(y, taps[None, :]), taps[:, None])
    y = y[:, :, :: r.down_y, :: r.down_x] if r.down_x > 1 or r.down_y > 1 else y
    y = (y * r.gain if r.gain != 1 else y).to(x.dtype)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    y = y.contiguous(memory_format=layout)
    return y.clone() if y is x else y


def _depthwise(x: Tensor, taps: Tensor) -> Tensor:
    channels = x.shape[1]
    if channels == 0 or x.shape[0] == 0:
        size = [x.shape[0], channels, x.shape[2] - taps.shape[0] + 1, x.shape[3] - taps.shape[1] + 1]
        return x.new_empty(size) + x.sum()
    return F.conv2d(x, taps.expand(channels, 1, *taps.shape), groups=channels)


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.to(x.dtype).reshape(*v.shape, 1, 1)


class ReferencePrimitives:
    """The primitives of the compound ops in plain torch."""

    def bias_act(
        self, x: Tensor, b: Tensor | None, dim: int, e: Epilogue, out: Tensor | None = None
    ) -> Tensor:
        """See `bias_act`."""
        y = bias_act(x, b, dim, e)
        return y if out is None else out.copy_(y)

    def fir(self, x: Tensor, f: Tensor | None, r: Resampling, out: Tensor | None = None) -> Tensor:
        """See `upfirdn2d`."""
        y = upfirdn2d(x, f, r)
        return y if out is None else out.copy_(y)

    def conv(self, x: Tensor, w: Tensor, c: Conv) -> Tensor:
        """torch's own convolution."""
        if c.transposed:
            return F.conv_transpose2d(
                x, w, stride=c.stride, padding=c.padding, output_padding=c.output_padding, groups=c.groups
            )
        return F.conv2d(x, w, stride=c.stride, padding=c.padding, groups=c.groups)

    def weight(self, x: Tensor, w: Tensor, form: WeightForm) -> Tensor:
        """`w` as it convolves `x`."""
        return shape_weight(w, form)

    def modulate(self, x: Tensor, scale: Tensor) -> Tensor:
        """`x` [N, C, H, W] times `scale` [N, C]."""
        wide = x.to(scale.dtype)
        return (wide * _per_channel(scale, wide)).to(x.dtype)

    def styled(self, x: Tensor, weight: Tensor, layer: StyledLayer) -> Tensor | None:
        """None: the layer goes in single steps."""
        return None

    def demodulate(self, weight: Tensor, styles: Tensor) -> Tensor:
        """1 / norm of every filter of `weight` times `styles`."""
        weight_sq = weight.square().sum(dim=(2, 3))
        return (styles.square() @ weight_sq.t() + DEMODULATION_EPS).rsqrt()

    def epilogue(
        self,
        x: Tensor,
        demod: Tensor | None,
        noise: Tensor | None,
        bias: Tensor | None,
        next_style: Tensor | None,
        e: Epilogue,
        owned: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """next_style * clamp(gain * act(x * demod + noise + bias))."""
        y = x.to(parameter_dtype(x))
        if demod is not None:
            y = y * _per_channel(demod, y)
        if noise is not None:
            y = y + noise.to(y.dtype)
        if bias is not None:
            y = y + _per_channel(bias, y)
        y = activate(y, e, x.dtype)
        if next_style is not None:
            y = y * _per_channel(next_style, y)
        y = y.to(x.dtype)
        if out is not None:
            return out.copy_(y)
        return y.clone() if y is x else y

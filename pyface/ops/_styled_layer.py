"""A synthesis layer without gradients in one launch: the style on its way into the convolution, the epilogue
on its way out, and the low-pass filter of an up-sampling layer between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyface.ops import _kernels
from pyface.ops._checks import parameter_dtype
from pyface.ops._composition import Conv, StyledLayer, WeightForm
from pyface.ops._kernels import Finish
from pyface.ops._native import Backend
from pyface.ops.convolution import chosen

__all__ = ["styled_layer"]

_MOST_CHANNELS = 4096  # whose styles the up-sampling kernel keeps in shared memory
_outer_products: WeakIdKeyDictionary = WeakIdKeyDictionary()  # filter -> (its version, whether it is one)


def styled_layer(
    k: Backend,
    x: Tensor,
    weight: Tensor,
    layer: StyledLayer,
    shape_weight: Callable[[Tensor, Tensor, WeightForm], Tensor],
) -> Tensor | None:
    """The output of `layer` with `weight` [O, I, kh, kw] on channels_last `x`; None where no kernel has it or
    torch's convolution is chosen. shape_weight: brings a weight into the form in which it convolves."""
    up = layer.up == 2
    c = _up_geometry(weight, layer) if up else _plain_geometry(layer)
    if c is None:
        return None
    like = torch.empty(weight.shape, dtype=x.dtype, device="meta")  # the choice goes by its shape
    if chosen(k, "conv", x, like.transpose(0, 1) if up else like, c) is None:
        return None
    # The transposed convolution turns the taps itself; its weight stays [O, I, 3, 3] for our kernel.
    flip = layer.flip_weight if up else not layer.flip_weight
    w = shape_weight(x, weight, WeightForm(x.dtype, 1.0, flip and weight.shape[2] > 1))
    wide = parameter_dtype(x)
    demod, noise, bias = (None if t is None else t.to(wide) for t in (layer.demod, layer.noise, layer.bias))
    finish = Finish(layer.epilogue, demod, noise, bias)
    styles = layer.styles.to(wide)
    if up and layer.f is not None:
        return _kernels.upconv2d(k, x, w, layer.f, styles, finish)
    return _kernels.conv2d(k, x, w, c, styles, finish)[0]


def _plain_geometry(layer: StyledLayer) -> Conv | None:
    x0, x1, y0, y1 = layer.padding
    if layer.up != 1 or layer.f is not None or x0 != x1 or y0 != y1 or min(x0, y0) < 0:
        return None
    return Conv(padding=(y0, x0))


def _up_geometry(weight: Tensor, layer: StyledLayer) -> Conv | None:
    """The transposed convolution of a layer that doubles the size as StyleGAN2 does."""
    f = layer.f
    if f is None or layer.padding != (1, 1, 1, 1) or tuple(weight.shape[2:]) != (3, 3):
        return None
    if weight.shape[1] > _MOST_CHANNELS or tuple(f.shape) not in ((4,), (4, 4)) or not _is_outer_product(f):
        return None
    return Conv((2, 2), transposed=True)


def _is_outer_product(f: Tensor) -> bool:
    """Whether `f` [4] or [4, 4] is that of its row and column sums; looked at once for every filter."""
    version = 0 if f.is_inference() else f._version
    known = _outer_products.get(f)
    if known is None or known[0] != version:
        wide = f.detach().double().cpu()
        if wide.ndim == 2:
            total = wide.sum()
            product = wide.sum(1)[:, None] * wide.sum(0) / total
            holds = bool(total != 0) and bool((product - wide).abs().max() <= 1e-6 * wide.abs().max())
        else:
            holds = bool(wide.sum() != 0)
        known = version, holds
        _outer_products[f] = known
    return bool(known[1])

"""Convolutions whose weight gradients can be switched off, differentiable any number of times.

Every derivative of a convolution is a convolution, its transpose or a weight gradient; the three are closed
under differentiation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.ops import _gradient_kernels, _kernels, convolution_choice
from pyface.ops._composition import Conv, is_channels_last
from pyface.ops._native import Backend
from pyface.ops.convolution_choice import ConvShape

__all__ = ["chosen", "convolve", "no_weight_gradients", "weight_gradients_enabled"]

_weight_gradients = True
_MOST_PADDING = 64  # of our kernels
_FEW_PIXELS = 512  # up to here (batch x height x width) a matrix product is the faster weight gradient


def weight_gradients_enabled() -> bool:
    """False inside `no_weight_gradients()`."""
    return _weight_gradients


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Inside, backward passes through our ops leave the gradients of weights, biases and noise out (None).

    For penalties on gradients of images (R1, path length): they are taken with respect to pixels or latents,
    and the weights' own gradients in that pass would be computed for nothing. Wrap the `torch.autograd.grad`
    call; the backward pass of the penalty itself stands outside. The reference back-end takes torch's
    convolutions, which leave out what `torch.autograd.grad` does not ask for. disable=False changes nothing.
    """
    global _weight_gradients
    before = _weight_gradients
    _weight_gradients = before and not disable
    try:
        yield
    finally:
        _weight_gradients = before


def convolve(x: Tensor, w: Tensor, c: Conv, k: Backend | None = None) -> Tensor:
    """`x` correlated with `w`, or the transpose of that, with our backward pass.

    By torch's convolution; by our kernels where `k` has them and they are chosen for the shape, in every
    derivative too. `k` is for channels_last tensors: others would be copied.
    """
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        y: Tensor = _Convolution.apply(x, w, c, k)
        return y
    return _forward(x, w, c, k)


def _fits(x: Tensor, w: Tensor, c: Conv) -> bool:
    """Whether our kernels can convolve `x` with `w`, and take the gradients of that."""
    k_h, k_w = w.shape[2], w.shape[3]
    return (
        x.dtype == w.dtype
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and c.groups == 1
        and k_h == k_w
        and k_h in (1, 3)
        and c.stride[0] == c.stride[1] <= 2
        and max(c.padding) <= _MOST_PADDING
        and x.numel() > 0
        and w.numel() > 0
    )


def chosen(k: Backend | None, op: str, x: Tensor, w: Tensor, c: Conv) -> Backend | None:
    """`k` where our kernels are taken for `op` of the convolution `c` of `x` with `w`, else None."""
    if k is None or not _fits(x, w, c):
        return None
    # With stride 1 a transposed convolution is a plain one with its taps turned.
    height, width = _kernels.conv_output_size(x, w, c)
    if height <= 0 or width <= 0:
        return None
    shape = ConvShape(
        op, "", x.shape[0], x.shape[1], w.shape[1 if c.transposed else 0], height, width, w.shape[2],
        c.stride[0], c.transposed and c.stride[0] > 1,
    )  # fmt: skip
    taken = convolution_choice.choose(k.capability(x.device), shape, x.dtype)
    return k if taken == "pyface" else None


def _is_slow_on_cpu(x: Tensor, c: Conv) -> bool:
    """Whether torch's forward takes twice the time of a backward pass that gives the same numbers."""
    return (
        c.transposed
        and c.groups == 1
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and is_channels_last(x)
    )


def _transposed_on_cpu(x: Tensor, w: Tensor, c: Conv) -> Tensor:
    """A transposed convolution as the input gradient of a plain one (of whose input the shape is enough)."""
    size = [
        (x.shape[a] - 1) * c.stride[a - 2] - 2 * c.padding[a - 2] + w.shape[a] + c.output_padding[a - 2]
        for a in (2, 3)
    ]
    shape = (x.shape[0], w.shape[1], size[0], size[1])
    like = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    plain = Conv(c.stride, c.padding)
    return cast(Tensor, _both_gradients(x, like, w, plain, True, False)[0])


def _forward(x: Tensor, w: Tensor, c: Conv, k: Backend | None) -> Tensor:
    ours = chosen(k, "conv", x, w, c)
    if ours is not None:
        w = w.transpose(0, 1) if c.transposed else w
        return cast(Tensor, _kernels.conv2d(ours, x, w, c)[0])
    if _is_slow_on_cpu(x, c):
        return _transposed_on_cpu(x, w, c)
    w = _weight_beside(x, w)
    return torch.convolution(
        x, w, None, c.stride, c.padding, (1, 1), c.transposed, c.output_padding, c.groups
    )


def _weight_beside(x: Tensor, w: Tensor) -> Tensor:
    """`w` in the layout of `x` on the CPU: oneDNN's own reordering costs more than a convolution of 8 x 8."""
    return w.contiguous(memory_format=torch.channels_last) if x.is_cpu and is_channels_last(x) else w


def _is_small_on_cpu(dy: Tensor, x: Tensor, w: Tensor, c: Conv) -> bool:
    """Whether the weight gradient is faster as one matrix product over the patches of `x`.

    With few pixels oneDNN's own spends its time on the weight's layout (512 channels, 8 x 4 x 4 pixels in
    bfloat16: 9.6 ms, 1.5 ms as a product).
    """
    small, large = (x, dy) if c.transposed else (dy, x)
    return (
        dy.device.type == "cpu"
        and dy.dtype == torch.bfloat16
        and c.groups == 1
        and w.shape[2] * w.shape[3] > 1
        and 0 < small.shape[0] * small.shape[2] * small.shape[3] <= _FEW_PIXELS
        and is_channels_last(small)
        and is_channels_last(large)
    )


def _weight_gradient_as_product(dy: Tensor, x: Tensor, w: Tensor, c: Conv) -> Tensor:
    """dw of a convolution of channels_last `x`, and of a transposed one with `dy` and `x` exchanged."""
    small, large = (x, dy) if c.transposed else (dy, x)
    pad_y, pad_x = c.padding
    if pad_y or pad_x:
        large = F.pad(large, [pad_x, pad_x, pad_y, pad_y]).contiguous(memory_format=torch.channels_last)
    n, out_channels, height, width = small.shape
    rows = large.permute(0, 2, 3, 1)
    step_n, step_y, step_x, _ = rows.stride()
    k_h, k_w, channels = w.shape[2], w.shape[3], large.shape[1]
    patches = rows.as_strided(
        (n, height, width, k_h, k_w, channels),
        (step_n, c.stride[0] * step_y, c.stride[1] * step_x, step_y, step_x, 1),
    )
    pixels = small.permute(0, 2, 3, 1).reshape(-1, out_channels)
    dw = pixels.t() @ patches.reshape(pixels.shape[0], -1)
    return dw.view(out_channels, k_h, k_w, channels).permute(0, 3, 1, 2)


def _both_gradients(
    dy: Tensor, x: Tensor, w: Tensor, c: Conv, need_x: bool, need_w: bool, k: Backend | None = None
) -> tuple[Tensor | None, Tensor | None]:
    if k is not None and dy.dtype == x.dtype == w.dtype:
        return _chosen_gradients(dy, x, w, c, need_x, need_w, k)
    return _torch_gradients(dy, x, w, c, need_x, need_w)


def _chosen_gradients(
    dy: Tensor, x: Tensor, w: Tensor, c: Conv, need_x: bool, need_w: bool, k: Backend
) -> tuple[Tensor | None, Tensor | None]:
    """Each gradient by our kernels or by torch, as chosen for its own shape."""
    dx = dw = None
    if need_w and chosen(k, "weight_grad", x, w, c) is not None:
        dw = _gradient_kernels.conv2d_weight_grad(k, dy, x, w.shape, c)
    adjoint = _adjoint(c, x.shape, dy.shape, w.shape)
    if need_x and chosen(k, "conv", dy, w, adjoint) is not None:
        dx = _forward(dy, w, adjoint, k)
    rest_x, rest_w = need_x and dx is None, need_w and dw is None
    if rest_x or rest_w:
        other_x, other_w = _torch_gradients(dy, x, w, c, rest_x, rest_w)
        dx, dw = (other_x if rest_x else dx), (other_w if rest_w else dw)
    return dx, dw


def _torch_gradients(
    dy: Tensor, x: Tensor, w: Tensor, c: Conv, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    if need_w and _is_small_on_cpu(dy, x, w, c):
        dx = _torch_gradients(dy, x, w, c, True, False)[0] if need_x else None
        return dx, _weight_gradient_as_product(dy, x, w, c)
    w = _weight_beside(dy, w) if need_x else w
    dx, dw, _ = torch.ops.aten.convolution_backward.default(
        dy,
        x,
        w,
        None,
        c.stride,
        c.padding,
        (1, 1),
        c.transposed,
        c.output_padding,
        c.groups,
        (need_x, need_w, False),
    )
    return dx, dw


def _adjoint(c: Conv, size: torch.Size, out_size: torch.Size, kernel: torch.Size) -> Conv:
    """The convolution that takes dy to dx: transposed if `c` is not, with the input's size."""
    if c.transposed:
        return Conv(c.stride, c.padding, False, (0, 0), c.groups)
    rest = [
        size[a] - ((out_size[a] - 1) * c.stride[a - 2] - 2 * c.padding[a - 2] + kernel[a]) for a in (2, 3)
    ]
    return Conv(c.stride, c.padding, True, (rest[0], rest[1]), c.groups)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, c: Conv, k: Backend | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.rest = c, k
        return _forward(x, w, c, k)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        c, k = ctx.rest
        need_x = ctx.needs_input_grad[0]
        need_w = ctx.needs_input_grad[1] and _weight_gradients
        if not (need_x or need_w):
            return None, None, None, None
        if not torch.is_grad_enabled():
            return *_both_gradients(dy, x, w, c, need_x, need_w, k), None, None
        dx = convolve(dy, w, _adjoint(c, x.shape, dy.shape, w.shape), k) if need_x else None
        dw = _WeightGradient.apply(dy, x, w, c, k) if need_w else None
        return dx, dw, None, None


class _WeightGradient(torch.autograd.Function):
    """dw of a convolution: linear in dy and in x. `w` lends its shape only."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, w: Tensor, c: Conv, k: Backend | None) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.rest = c, k
        dw = _both_gradients(dy, x, w, c, False, True, k)[1]
        return cast(Tensor, dw)  # the mask asks for it

    @staticmethod
    def backward(ctx: Any, ddw: Tensor) -> tuple[Tensor | None, ...]:
        dy, x = ctx.saved_tensors
        c, k = ctx.rest
        d_dy = convolve(x, ddw, c, k) if ctx.needs_input_grad[0] else None
        d_x = None
        if ctx.needs_input_grad[1]:
            d_x = convolve(dy, ddw, _adjoint(c, x.shape, dy.shape, ddw.shape), k)
        return d_dy, d_x, None, None, None

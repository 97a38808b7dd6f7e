"""One native launch each for the gradients that the CUDA kernels (and their emulation) make in one pass over
memory. Tensors are channels_last: others are copied. No gradients, no checks of arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyface.ops._checks import DTYPES, round_to
from pyface.ops._composition import Conv, Epilogue, is_channels_last
from pyface.ops._native import Backend

__all__ = ["EpilogueInputs", "conv2d_weight_grad", "conv_epilogue_grad", "takes_epilogue_grad"]

_LAST = torch.channels_last


class EpilogueInputs(NamedTuple):
    """What conv_epilogue read: x [N, C, H, W]; demod, next_style [N, C]; noise [N or 1, 1, H, W]; bias
    [C]."""

    x: Tensor
    demod: Tensor | None = None
    noise: Tensor | None = None
    bias: Tensor | None = None
    next_style: Tensor | None = None


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _laid_out(x: Tensor) -> Tensor:
    """`x` in channels_last memory that starts at a multiple of 16 bytes, as 16-byte accesses need it."""
    x = x.contiguous(memory_format=_LAST)
    return x.clone(memory_format=_LAST) if x.data_ptr() % 16 else x


def _table(t: Tensor | None) -> Tensor | None:
    """A small table of float32, contiguous and at a multiple of 16 bytes."""
    if t is None:
        return None
    t = t.contiguous()
    return t.clone() if t.data_ptr() % 16 else t


def _floats(x: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=torch.float32, device=x.device)


def conv2d_weight_grad(k: Backend, dy: Tensor, x: Tensor, shape: torch.Size, c: Conv) -> Tensor:
    """dw of the convolution `c` that took x [N, I, H, W] to the tensor of dy [N, O, H', W'], channels_last.

    shape: that of the weight, [O, I, kh, kw], or [I, O, kh, kw] where `c` is transposed. dy, x and dw are all
    float32, float16 or bfloat16; sums are float32 and have the same bits in every run on a device.
    """
    dy, x = _laid_out(dy), _laid_out(x)
    dw = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_LAST)
    if x.numel() == 0 or dy.numel() == 0 or dw.numel() == 0:
        return dw.zero_()
    n, in_channels, in_h, in_w = x.shape
    _, out_channels, out_h, out_w = dy.shape
    sizes = (
        DTYPES[x.dtype], n, in_h, in_w, in_channels, out_h, out_w, out_channels, shape[2], shape[3],
        c.stride[0], c.padding[0], c.padding[1], c.transposed,
    )  # fmt: skip
    splits, floats = k.conv2d_weight_grad_plan(*sizes, k.multiprocessors(x.device))
    workspace = _floats(x, floats) if floats else None
    k.run(
        k.conv2d_weight_grad, x, x.data_ptr(), dy.data_ptr(), 0, 0, dw.data_ptr(), _pointer(workspace),
        *sizes, splits,
    )  # fmt: skip
    return dw


def takes_epilogue_grad(k: Backend, dy: Tensor, x: Tensor | None) -> bool:
    """Whether `conv_epilogue_grad` has a kernel for these tensors."""
    return (
        k.has_convolutions
        and dy.numel() > 0
        and dy.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and is_channels_last(dy if x is None else x)
    )


def conv_epilogue_grad(
    k: Backend, dy: Tensor, inputs: EpilogueInputs, e: Epilogue, need: tuple[bool, bool, bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of conv_epilogue for (x, demod, noise, bias, next_style) where `need` asks for them, the
    others None: all of them while dy and x are read once. dx as x, the others float32."""
    dy = _laid_out(dy)
    x = _laid_out(inputs.x)
    demod, noise, bias, next_style = (_table(t) for t in inputs[1:])
    n, channels, height, width = x.shape
    hw = height * width
    dx = torch.empty_like(x) if need[0] else None
    d_demod = _floats(x, n, channels) if need[1] else None
    d_noise = _floats(x, *noise.shape) if need[2] and noise is not None else None
    d_bias = _floats(x, channels) if need[3] else None
    d_next = _floats(x, n, channels) if need[4] else None
    per_sample = noise is not None and noise.shape[0] == n
    chunks, floats = k.channel_dot_plan(DTYPES[x.dtype], n, channels, hw, k.multiprocessors(x.device))
    workspace = _floats(x, floats)
    clamp = e.clamp if e.clamp < 0 else round_to(e.clamp, x.dtype)
    k.run(
        k.conv_epilogue_grad, x, dy.data_ptr(), x.data_ptr(), _pointer(demod), _pointer(noise),
        _pointer(bias), _pointer(next_style), _pointer(dx), _pointer(d_demod), _pointer(d_noise),
        _pointer(d_bias), _pointer(d_next), workspace.data_ptr(), DTYPES[x.dtype], n, channels, hw,
        per_sample, e.activation.code, e.alpha, e.gain, clamp, chunks,
    )  # fmt: skip
    return dx, d_demod, d_noise, d_bias, d_next

"""One native launch each: allocate the output (or take `out`), pass pointers and sizes. No gradients, no
checks of arguments."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyface.errors import ShapeError
from pyface.ops._checks import DTYPES, Resampling, parameter_dtype, round_to
from pyface.ops._composition import DEMODULATION_EPS, Conv, Epilogue, WeightForm
from pyface.ops._native import Backend

__all__ = [
    "ConvPlan",
    "Finish",
    "Heads",
    "bias_act",
    "bias_act_grad",
    "conv2d",
    "conv2d_heads",
    "conv_epilogue",
    "conv_output_size",
    "demodulate",
    "layer_plan",
    "modulate",
    "pack_weight",
    "unpack_weight",
    "upconv2d",
    "upfirdn2d",
]

_MEMORY_POSITION = (0, 3, 1, 2)  # of axes N, C, H, W in channels_last memory

_round_to = functools.lru_cache(maxsize=256)(round_to)


def _clamp(e: Epilogue, dtype: torch.dtype) -> float:
    return e.clamp if e.clamp < 0 else _round_to(e.clamp, dtype)


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """`x`, copied if it has gaps, and whether its memory is channels_last."""
    if x.is_contiguous():
        return x, False
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), False


def _like(x: Tensor, channels_last: bool) -> Tensor:
    """`x` in the named memory layout."""
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _split(x: Tensor, b: Tensor | None, dim: int, channels_last: bool) -> tuple[int, int, int]:
    """Memory of `x` as [outer, channels, inner] around the axis that `b` runs along."""
    if b is None:
        return 1, 1, x.numel()
    shape = x.shape
    if dim == 1:
        channels = shape[1]
        if channels_last:
            return x.numel() // channels, channels, 1
        outer = shape[0]
        return outer, channels, x.numel() // (outer * channels)
    if channels_last:
        shape = torch.Size((shape[0], shape[2], shape[3], shape[1]))
        dim = _MEMORY_POSITION[dim]
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def _claimed(out: Tensor) -> Tensor:
    """`out`, with autograd told that its values change."""
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out


def bias_act(
    k: Backend, x: Tensor, b: Tensor | None, dim: int, e: Epilogue, out: Tensor | None = None
) -> Tensor:
    """clamp(gain * act(x + b)), laid out as `x` where that is dense."""
    x, channels_last = _dense(x)
    y = torch.empty_like(x) if out is None else _claimed(out)
    if x.numel() == 0:
        return y
    outer, channels, inner = _split(x, b, dim, channels_last)
    bias = 0
    if b is not None:
        b = b.contiguous()
        bias = b.data_ptr()
    act, alpha, gain, clamp = e
    dtype = x.dtype
    if clamp >= 0:
        clamp = _round_to(clamp, dtype)
    k.run(
        k.bias_act, x, x.data_ptr(), bias, y.data_ptr(), DTYPES[dtype], outer, channels, inner, act.code,
        alpha, gain, clamp,
    )  # fmt: skip
    return y


def bias_act_grad(k: Backend, dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
    """dy * gain * act'(.), 0 where clamped. `ref`: the input (with bias `b`) for swish, else the output."""
    ref, channels_last = _dense(ref)
    dy = _like(dy, channels_last)
    dx = torch.empty_like(ref)
    if ref.numel() == 0:
        return dx
    if e.activation.saves != "x":
        b = None
    outer, channels, inner = _split(ref, b, dim, channels_last)
    b = None if b is None else b.contiguous()
    k.run(
        k.bias_act_grad, ref, dy.data_ptr(), ref.data_ptr(), 0 if b is None else b.data_ptr(), dx.data_ptr(),
        DTYPES[ref.dtype], outer, channels, inner, e.activation.code, e.alpha, e.gain, _clamp(e, ref.dtype),
    )  # fmt: skip
    return dx


def upfirdn2d(k: Backend, x: Tensor, f: Tensor | None, r: Resampling, out: Tensor | None = None) -> Tensor:
    """Pad, upsample by zero insertion, filter and downsample; laid out as `x`."""
    x, channels_last = _dense(x)
    n, c, h, w = x.shape
    f = torch.ones(1, 1, device=x.device) if f is None else f
    f = f.to(parameter_dtype(x)).contiguous()
    f_w, f_h = f.shape[-1], f.shape[0]
    out_h, out_w = r.output_size(h, w, f_w, f_h)
    if out is None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        y = torch.empty((n, c, out_h, out_w), dtype=x.dtype, device=x.device, memory_format=layout)
    else:
        y = _claimed(out)
    if x.numel() == 0 or y.numel() == 0:
        return y.zero_()
    k.run(
        k.upfirdn2d, x, x.data_ptr(), f.data_ptr(), y.data_ptr(), DTYPES[x.dtype], n, c, h, w, out_h, out_w,
        channels_last, f.ndim == 1, r.flip, f_h, f_w, r.up_x, r.up_y, r.down_x, r.down_y, r.pad_x0, r.pad_y0,
        r.gain,
    )  # fmt: skip
    return y


def modulate(k: Backend, x: Tensor, scale: Tensor) -> Tensor:
    """x[n, c] * scale[n, c]; laid out as `x`."""
    x, channels_last = _dense(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    n, c, h, w = x.shape
    scale = scale.contiguous()
    k.run(
        k.modulate,
        x,
        x.data_ptr(),
        scale.data_ptr(),
        y.data_ptr(),
        DTYPES[x.dtype],
        n,
        c,
        h * w,
        channels_last,
    )
    return y


def demodulate(k: Backend, weight_sq: Tensor, styles: Tensor) -> Tensor:
    """rsqrt(styles^2 @ weight_sq^T + eps), [N, O]."""
    weight_sq, styles = weight_sq.contiguous(), styles.contiguous()
    n, out_channels = styles.shape[0], weight_sq.shape[0]
    demod = styles.new_empty(n, out_channels)
    if demod.numel():
        k.run(
            k.demodulate, styles, weight_sq.data_ptr(), styles.data_ptr(), demod.data_ptr(),
            DTYPES[styles.dtype], n, out_channels, weight_sq.shape[1], DEMODULATION_EPS,
        )  # fmt: skip
    return demod


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def conv_epilogue(
    k: Backend,
    x: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_style: Tensor | None,
    e: Epilogue,
    owned: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """next_style * clamp(gain * act(x * demod + noise + bias)); laid out as `x`, in its memory if `owned`."""
    x, channels_last = _dense(x)
    y = _claimed(out) if out is not None else x if owned else torch.empty_like(x)
    if x.numel() == 0:
        return y
    n, c, h, w = x.shape
    demod, noise, bias, next_style = (
        None if t is None else t.contiguous() for t in (demod, noise, bias, next_style)
    )
    per_sample = noise is not None and noise.shape[0] == n
    k.run(
        k.conv_epilogue, x, x.data_ptr(), _pointer(demod), _pointer(noise), _pointer(bias),
        _pointer(next_style), y.data_ptr(), DTYPES[x.dtype], n, c, h * w, channels_last, per_sample,
        e.activation.code, e.alpha, e.gain, _clamp(e, x.dtype),
    )  # fmt: skip
    return y


def pack_weight(k: Backend, w: Tensor, form: WeightForm, out: Tensor | None = None) -> Tensor:
    """`w` [O, I, kh, kw] as `form` says, in channels_last memory (that of `out` where given)."""
    w = w.contiguous()
    out_channels, in_channels, k_h, k_w = w.shape
    first, second = (in_channels, out_channels) if form.transposed else (out_channels, in_channels)
    packed = out
    if packed is None:
        packed = torch.empty(
            (first, second, k_h, k_w), dtype=form.dtype, device=w.device, memory_format=torch.channels_last
        )
    k.run(
        k.pack_weight, w, w.data_ptr(), packed.data_ptr(), DTYPES[form.dtype], out_channels, in_channels,
        k_h * k_w, form.transposed, form.flip, form.gain,
    )  # fmt: skip
    return packed


def unpack_weight(k: Backend, packed: Tensor, form: WeightForm) -> Tensor:
    """The adjoint of `pack_weight`: [O, I, kh, kw], float32 (float64 where `packed` is)."""
    packed = packed.contiguous(memory_format=torch.channels_last)
    first, second, k_h, k_w = packed.shape
    out_channels, in_channels = (second, first) if form.transposed else (first, second)
    w = torch.empty(
        (out_channels, in_channels, k_h, k_w), dtype=parameter_dtype(packed), device=packed.device
    )
    k.run(
        k.unpack_weight, w, packed.data_ptr(), w.data_ptr(), DTYPES[packed.dtype], out_channels, in_channels,
        k_h * k_w, form.transposed, form.flip, form.gain,
    )  # fmt: skip
    return w


class Finish(NamedTuple):
    """What `conv2d` does with its sums: next_style * clamp(gain * act(sums * demod + noise + bias)).

    demod, next_style [N, O]; noise [N or 1, 1, H, W]; bias [O]; all float32.
    Without an epilogue the sums stay as they are.
    """

    epilogue: Epilogue | None = None
    demod: Tensor | None = None
    noise: Tensor | None = None
    bias: Tensor | None = None
    next_style: Tensor | None = None


class Heads(NamedTuple):
    """Pictures made of a convolution's output v (before next_style):
    clamp(weight[n, k] . v + bias[k]) + the skip upsampled by two, or + `image` as it was.

    weight [N, K, O], K up to 8; bias [K]; skip [N, K, H / 2, W / 2] with its filter [4, 4] (sum 1); image
    [N, K, H, W], changed in place; all float32. clamp < 0 means none. out: memory for the pictures where
    there is no `image`.
    """

    weight: Tensor
    bias: Tensor | None = None
    skip: Tensor | None = None
    skip_filter: Tensor | None = None
    image: Tensor | None = None
    clamp: float = -1.0
    out: Tensor | None = None


class ConvPlan(NamedTuple):
    """How a convolution will go: what `conv2d_plan` of the native module answers."""

    tensor_cores: bool
    rows: int
    columns: int
    splits: int
    workspace_bytes: int
    fused_heads: bool


@functools.lru_cache(maxsize=4096)
def _conv2d_plan(k: Backend, device: torch.device, *sizes: int) -> ConvPlan:
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        return ConvPlan(*k.conv2d_plan(*sizes, 0))


def layer_plan(
    k: Backend,
    device: torch.device,
    dtype: torch.dtype,
    n: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    styled: bool,
    e: Epilogue,
    head_count: int,
) -> ConvPlan:
    """How `conv2d` will go for a 3x3 convolution of stride 1 and padding 1 whose tensors are aligned.

    channels: in and out. size: height and width. styled: whether there is a style.
    """
    sizes = (n, *size, channels[0], *size, channels[1], 3, 1)
    return _conv2d_plan(
        k, device, DTYPES[dtype], *sizes, False, styled, True, e.activation.code, head_count, -1, 0
    )


def conv_output_size(x: Tensor, w: Tensor, c: Conv) -> tuple[int, int]:
    """Height and width of `conv2d`'s output; `w` is [O, I, kh, kw]."""
    sizes = []
    for a in (0, 1):
        size, kernel = x.shape[a + 2], w.shape[a + 2]
        if c.transposed:
            sizes.append((size - 1) * c.stride[a] - 2 * c.padding[a] + kernel + c.output_padding[a])
        else:
            sizes.append((size + 2 * c.padding[a] - kernel) // c.stride[a] + 1)
    return sizes[0], sizes[1]


def conv2d(
    k: Backend,
    x: Tensor,
    w: Tensor,
    c: Conv,
    style: Tensor | None = None,
    finish: Finish | None = None,
    heads: Heads | None = None,
    keep_y: bool = True,
    tile: int = -1,
    splits: int = 0,
    out: Tensor | None = None,
    workspace: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """A convolution of x [N, I, H, W] times style [N, I] with w [O, I, kh, kw], finished: (y, image).

    1x1 or 3x3, stride 1 or 2 on both axes, one group; float32, float16 or bfloat16, the style float32. Where
    `c` is transposed `w` is torch's weight with its first two axes exchanged. y is channels_last; image
    [N, K, H, W] is there with `heads`. keep_y=False: y may be left out (None) where the heads come out of the
    same kernel. tile, splits: the choice of a launch, -1 and 0 for the rule (pyface/conv2d.h). out: memory
    for y, channels_last. workspace: float32, as many as the plan says or more; without it it is allocated.
    """
    f = Finish() if finish is None else finish
    channels_last = torch.channels_last
    x, w = x.contiguous(memory_format=channels_last), w.contiguous(memory_format=channels_last)
    n, in_channels, h, width = x.shape
    out_channels, kernel = w.shape[0], w.shape[2]
    out_h, out_w = conv_output_size(x, w, c)
    style, demod, noise, bias, next_style = (
        None if t is None else t.contiguous() for t in (style, f.demod, f.noise, f.bias, f.next_style)
    )
    act, alpha, gain, clamp = (0, 0.0, 1.0, -1.0)
    if f.epilogue is not None:
        e = f.epilogue
        act, alpha, gain, clamp = e.activation.code, e.alpha, e.gain, _clamp(e, x.dtype)
    count = 0 if heads is None else heads.weight.shape[1]
    sizes = (n, h, width, in_channels, out_h, out_w, out_channels, kernel, c.stride[0])
    aligned = x.data_ptr() % 16 == 0 and w.data_ptr() % 16 == 0
    plan = _conv2d_plan(
        k, x.device, DTYPES[x.dtype], *sizes, c.transposed, style is not None, aligned, act, count, tile,
        splits,
    )  # fmt: skip
    y = out
    if y is None and (keep_y or not plan.fused_heads):
        shape = (n, out_channels, out_h, out_w)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=channels_last)
    image, extra = _head_tensors(heads, (n, count, out_h, out_w))
    if n * out_channels * out_h * out_w == 0:
        return y, image
    if workspace is None:
        workspace = torch.empty(plan.workspace_bytes // 4, dtype=torch.float32, device=x.device)
    per_sample = noise is not None and noise.shape[0] == n
    k.run(
        k.conv2d, x, x.data_ptr(), w.data_ptr(), _pointer(style), _pointer(demod), _pointer(noise),
        _pointer(bias), _pointer(next_style), _pointer(y), *(_pointer(t) for t in extra), _pointer(image),
        workspace.data_ptr(), 4 * workspace.numel(), DTYPES[x.dtype], *sizes, c.padding[0], c.padding[1],
        c.transposed, per_sample, act, alpha, gain, clamp, count, -1.0 if heads is None else heads.clamp,
        heads is not None and heads.image is not None, tile, splits,
    )  # fmt: skip
    return y, image


def _head_tensors(
    heads: Heads | None, shape: tuple[int, int, int, int]
) -> tuple[Tensor | None, tuple[Tensor | None, ...]]:
    """The image, and weight, bias, skip and its filter as the kernel takes them."""
    if heads is None:
        return None, (None, None, None, None)
    image = heads.image
    if image is None and heads.out is not None:
        image = heads.out
    elif image is None:
        image = torch.empty(shape, dtype=torch.float32, device=heads.weight.device)
    else:
        image = _claimed(image)
    parts = (heads.weight, heads.bias, heads.skip, heads.skip_filter)
    return image, tuple(None if t is None else t.contiguous() for t in parts)


def conv2d_heads(k: Backend, y: Tensor, heads: Heads) -> Tensor:
    """The pictures [N, K, H, W] that `conv2d` makes with `heads`, of features y [N, O, H, W]."""
    y = y.contiguous(memory_format=torch.channels_last)
    n, channels, h, width = y.shape
    count = heads.weight.shape[1]
    image, extra = _head_tensors(heads, (n, count, h, width))
    if image is None:
        raise RuntimeError("there are heads but no image")
    k.run(
        k.conv2d_heads, y, y.data_ptr(), *(_pointer(t) for t in extra), image.data_ptr(), DTYPES[y.dtype], n,
        h, width, channels, count, heads.clamp, heads.image is not None,
    )  # fmt: skip
    return image


def upconv2d(
    k: Backend,
    x: Tensor,
    w: Tensor,
    f: Tensor,
    style: Tensor | None = None,
    finish: Finish | None = None,
    tile: int = -1,
    steps: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """A layer that doubles the size of x [N, I, H, W], in one kernel: y [N, O, 2H, 2W], channels_last.

    x times style [N, I] goes through the transposed convolution with w [O, I, 3, 3] (torch's weight with its
    first two axes exchanged) of stride 2, is filtered by 4 f, padded by one pixel, and finished; float32,
    float16 or bfloat16, the style float32. f: [4], or [4, 4] and then an outer product whose sum is not 0.
    tile, steps: the choice of a launch, -1 and 0 for the rule (pyface/upconv2d.h). out: memory for y.
    """
    g = Finish() if finish is None else finish
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    n, in_channels, h, width = x.shape
    out_channels = w.shape[0]
    if tuple(w.shape[1:]) != (in_channels, 3, 3) or tuple(f.shape) not in ((4,), (4, 4)):
        raise ShapeError(
            f"upconv2d: w must be [O, {in_channels}, 3, 3] and f [4] or [4, 4]; got {list(w.shape)} and "
            f"{list(f.shape)}. Other kernels and filters run as a convolution and upfirdn2d."
        )
    f = f.to(device=x.device, dtype=torch.float32).contiguous()
    style, demod, noise, bias, next_style = (
        None if t is None else t.contiguous() for t in (style, g.demod, g.noise, g.bias, g.next_style)
    )
    act, alpha, gain, clamp = (0, 0.0, 1.0, -1.0)
    if g.epilogue is not None:
        e = g.epilogue
        act, alpha, gain, clamp = e.activation.code, e.alpha, e.gain, _clamp(e, x.dtype)
    shape = (n, out_channels, 2 * h, 2 * width)
    y = out
    if y is None:
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel() == 0:
        return y
    per_sample = noise is not None and noise.shape[0] == n
    k.run(
        k.upconv2d, x, x.data_ptr(), w.data_ptr(), _pointer(style), f.data_ptr(), _pointer(demod),
        _pointer(noise), _pointer(bias), _pointer(next_style), y.data_ptr(), DTYPES[x.dtype], n, h, width,
        in_channels, out_channels, f.ndim == 2, per_sample, act, alpha, gain, clamp, tile, steps,
    )  # fmt: skip
    return y

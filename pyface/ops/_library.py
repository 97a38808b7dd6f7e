"""The ops as `torch.ops.pyface.*`, for torch.compile, torch.export, fake tensors and dispatch modes.

Same kernels as the eager path; the back-end is chosen when the op runs, the reference where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.ops import _gradients, _kernels, _native, reference
from pyface.ops._checks import Resampling, filter_size, parameter_dtype
from pyface.ops._composition import (
    DEMODULATION_EPS,
    Conv,
    Epilogue,
    StyledLayer,
    WeightForm,
    shape_weight,
)
from pyface.ops._gradient_kernels import EpilogueInputs
from pyface.ops.activations import ACTIVATIONS

__all__ = ["LibraryPrimitives"]

_LIB = torch.library.Library("pyface", "DEF")
_BY_CODE = tuple(ACTIVATIONS.values())
_ACT = "int act, float alpha, float gain, float clamp"
_LIB.define(f"bias_act(Tensor x, Tensor? b, int dim, {_ACT}) -> Tensor")
_LIB.define(f"bias_act_grad(Tensor dy, Tensor ref, Tensor? b, int dim, {_ACT}) -> Tensor")
_LIB.define(
    "upfirdn2d(Tensor x, Tensor? f, int[] factors, SymInt[] padding, bool flip, float gain) -> Tensor"
)
_LIB.define("modulate(Tensor x, Tensor scale) -> Tensor")
_LIB.define(
    "conv_epilogue(Tensor x, Tensor? demod, Tensor? noise, Tensor? bias, Tensor? next_style, "
    f"{_ACT}) -> Tensor"
)

_Numbers = tuple[int, float, float, float]


def _numbers(e: Epilogue) -> _Numbers:
    return e.activation.code, e.alpha, e.gain, e.clamp


def _epilogue(numbers: Sequence[Any]) -> Epilogue:
    code, alpha, gain, clamp = numbers
    return Epilogue(_BY_CODE[code], alpha, gain, clamp)


class LibraryPrimitives:
    """The primitives as registered ops; convolution, its weight and demodulation stay torch's own, which
    compilers know."""

    def bias_act(self, x: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
        """clamp(gain * act(x + b))."""
        y: Tensor = torch.ops.pyface.bias_act.default(x, b, dim, *_numbers(e))
        return y

    def bias_act_grad(self, dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
        """dy * gain * act'(.), 0 where clamped."""
        dx: Tensor = torch.ops.pyface.bias_act_grad.default(dy, ref, b, dim, *_numbers(e))
        return dx

    def fir(self, x: Tensor, f: Tensor | None, r: Resampling) -> Tensor:
        """Upsample, filter and downsample `x`."""
        factors = [r.up_x, r.up_y, r.down_x, r.down_y]
        padding = [r.pad_x0, r.pad_x1, r.pad_y0, r.pad_y1]
        y: Tensor = torch.ops.pyface.upfirdn2d.default(x, f, factors, padding, r.flip, r.gain)
        return y

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
        y: Tensor = torch.ops.pyface.modulate.default(x, scale.to(parameter_dtype(x)))
        return y

    def epilogue_gradients(
        self, dy: Tensor, inputs: EpilogueInputs, e: Epilogue, need: Sequence[bool]
    ) -> tuple[Tensor | None, ...] | None:
        """None: compilers fuse the single steps."""
        return None

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
    ) -> Tensor:
        """next_style * clamp(gain * act(x * demod + noise + bias))."""
        wide = parameter_dtype(x)
        demod, noise, bias, next_style = [
            None if t is None else t.to(wide) for t in (demod, noise, bias, next_style)
        ]
        y: Tensor = torch.ops.pyface.conv_epilogue.default(x, demod, noise, bias, next_style, *_numbers(e))
        return y


_STEPS = LibraryPrimitives()
_REFERENCE = reference.ReferencePrimitives()


def _dense(x: Tensor) -> Tensor:
    """`x` as the kernels lay it out: kept where dense in either layout, else contiguous."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _resampling(factors: Sequence[int], padding: Sequence[int], flip: bool, gain: float) -> Resampling:
    up_x, up_y, down_x, down_y = factors
    x0, x1, y0, y1 = padding
    return Resampling(up_x, up_y, down_x, down_y, x0, x1, y0, y1, flip, gain)


def _bias_act(x: Tensor, b: Tensor | None, dim: int, *numbers: Any) -> Tensor:
    chosen = _native.resolve(x)
    if chosen is None:
        return reference.bias_act(_dense(x), b, dim, _epilogue(numbers))
    return _kernels.bias_act(chosen, x, b, dim, _epilogue(numbers))


def _bias_act_grad(dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, *numbers: Any) -> Tensor:
    chosen = _native.resolve(ref)
    if chosen is None:
        dx = reference.bias_act_grad(dy, ref, b, dim, _epilogue(numbers))
        return torch.empty_like(_dense(ref)).copy_(dx)
    return _kernels.bias_act_grad(chosen, dy, ref, b, dim, _epilogue(numbers))


def _upfirdn2d(
    x: Tensor, f: Tensor | None, factors: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    r = _resampling(factors, padding, flip, gain)
    chosen = _native.resolve(x)
    return reference.upfirdn2d(x, f, r) if chosen is None else _kernels.upfirdn2d(chosen, x, f, r)


def _modulate(x: Tensor, scale: Tensor) -> Tensor:
    chosen = _native.resolve(x)
    if chosen is None:
        return _REFERENCE.modulate(_dense(x), scale)
    return _kernels.modulate(chosen, x, scale)


def _conv_epilogue(
    x: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    next_style: Tensor | None,
    *numbers: Any,
) -> Tensor:
    chosen = _native.resolve(x)
    if chosen is None:
        return _REFERENCE.epilogue(_dense(x), demod, noise, bias, next_style, _epilogue(numbers))
    return _kernels.conv_epilogue(chosen, x, demod, noise, bias, next_style, _epilogue(numbers))


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(_dense(x))


def _like_second(dy: Tensor, ref: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(_dense(ref))


def _upfirdn2d_fake(
    x: Tensor, f: Tensor | None, factors: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    f_w, f_h = filter_size(f)
    out_h, out_w = _resampling(factors, padding, flip, gain).output_size(x.shape[2], x.shape[3], f_w, f_h)
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = (x.shape[0], x.shape[1], out_h, out_w)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _bias_act_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, dim, *numbers = inputs
    ctx.e = _epilogue(numbers)
    ctx.dim = dim
    ctx.source = _gradients.reads(ctx.e)
    ctx.save_for_backward(*{"y": (output, None), "x": (x, b), "none": (None, None)}[ctx.source])


def _bias_act_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ref, b = ctx.saved_tensors
    grads = _gradients.bias_act_backward(_STEPS, dy, ref, b, ctx.dim, ctx.e, ctx.needs_input_grad)
    return *grads, None, None, None, None, None


def _bias_act_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, ref, b, dim, *numbers = inputs
    ctx.e = _epilogue(numbers)
    ctx.dim = dim
    act = ctx.e.activation
    ctx.save_for_backward(dy if act.curved else None, ref, b if act.saves == "x" else None)


def _bias_act_grad_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, ref, b = ctx.saved_tensors
    need = ctx.needs_input_grad
    grads = _gradients.bias_act_grad_backward(_STEPS, ddx, dy, ref, b, ctx.dim, ctx.e, need)
    return *grads, None, None, None, None, None


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *rest = inputs
    ctx.save_for_backward(f)
    ctx.r = _resampling(*rest)
    ctx.size = x.shape[2], x.shape[3]


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    dx = _gradients.upfirdn2d_backward(_STEPS, dy, f, ctx.r, *ctx.size)
    return dx, None, None, None, None, None


def _modulate_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _modulate_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, scale = ctx.saved_tensors
    return _gradients.modulate_backward(_STEPS, dy, x, scale, ctx.needs_input_grad)


def _conv_epilogue_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, demod, noise, bias, next_style, *numbers = inputs
    ctx.e = _epilogue(numbers)
    keep_y = next_style is None and _gradients.reads(ctx.e) == "y"
    ctx.save_for_backward(x, demod, noise, bias, next_style, output if keep_y else None)


def _conv_epilogue_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    grads = _gradients.conv_epilogue_backward(_STEPS, dy, ctx.saved_tensors, ctx.e, ctx.needs_input_grad)
    return *grads, None, None, None, None


for _name, _run, _fake, _setup, _backward in (
    ("bias_act", _bias_act, _like_first, _bias_act_setup, _bias_act_backward),
    ("bias_act_grad", _bias_act_grad, _like_second, _bias_act_grad_setup, _bias_act_grad_backward),
    ("upfirdn2d", _upfirdn2d, _upfirdn2d_fake, _upfirdn2d_setup, _upfirdn2d_backward),
    ("modulate", _modulate, _like_first, _modulate_setup, _modulate_backward),
    ("conv_epilogue", _conv_epilogue, _like_first, _conv_epilogue_setup, _conv_epilogue_backward),
):
    _LIB.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pyface::{_name}", _fake, lib=_LIB)
    torch.library.register_autograd(f"pyface::{_name}", _backward, setup_context=_setup, lib=_LIB)

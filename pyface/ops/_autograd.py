"""The eager path: kernels called directly, or through autograd functions where a gradient is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyface.ops import _gradients, _kernels
from pyface.ops._checks import Resampling, parameter_dtype
from pyface.ops._composition import (
    DEMODULATION_EPS,
    Conv,
    Epilogue,
    StyledLayer,
    WeightForm,
    is_channels_last,
    shape_weight,
)
from pyface.ops._gradient_kernels import EpilogueInputs, conv_epilogue_grad, takes_epilogue_grad
from pyface.ops._native import Backend
from pyface.ops._styled_layer import styled_layer
from pyface.ops.convolution import convolve, weight_gradients_enabled

__all__ = ["NativePrimitives"]


def _wanted(*tensors: Tensor | None) -> bool:
    if not torch.is_grad_enabled():
        return False
    return any(t is not None and t.requires_grad for t in tensors)


class _TapEnergy(torch.autograd.Function):
    """Sum of squares over the taps of `weight` [O, I, kh, kw]: [O, I].

    Sums over few contiguous taps are slow on CPUs, a product with ones is not (512^2 x 9: 5.7, 1.3 ms). The
    backward pass that torch makes of it goes over the weight five times, this one once.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        squares = weight.square()
        if not (squares.is_cpu and squares.is_contiguous()):
            return squares.sum(dim=(2, 3))
        return squares.flatten(2) @ squares.new_ones(squares.shape[2] * squares.shape[3])

    @staticmethod
    def backward(ctx: Any, d_energy: Tensor) -> Tensor | None:
        if not weight_gradients_enabled():
            return None
        (weight,) = ctx.saved_tensors
        d_weight: Tensor = weight * (2 * d_energy)[:, :, None, None]
        return d_weight


class NativePrimitives:
    """The ops of one native back-end, differentiable any number of times."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def bias_act(
        self, x: Tensor, b: Tensor | None, dim: int, e: Epilogue, out: Tensor | None = None
    ) -> Tensor:
        """clamp(gain * act(x + b)), in `out` where given (then no gradient is wanted)."""
        if torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad)):
            y: Tensor = _BiasAct.apply(x, b, dim, e, self)
            return y
        return _kernels.bias_act(self.backend, x, b, dim, e, out)

    def bias_act_grad(self, dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
        """dy * gain * act'(.), 0 where clamped."""
        if _wanted(dy, ref, b):
            dx: Tensor = _BiasActGrad.apply(dy, ref, b, dim, e, self)
            return dx
        return _kernels.bias_act_grad(self.backend, dy, ref, b, dim, e)

    def fir(self, x: Tensor, f: Tensor | None, r: Resampling, out: Tensor | None = None) -> Tensor:
        """Upsample, filter and downsample `x`, into `out` where given (then no gradient is wanted)."""
        if _wanted(x):
            y: Tensor = _Upfirdn2d.apply(x, f, r, self)
            return y
        return _kernels.upfirdn2d(self.backend, x, f, r, out)

    def conv(self, x: Tensor, w: Tensor, c: Conv) -> Tensor:
        """Convolve `x` with `w`, or its transpose; by our kernels where there are any for channels_last."""
        k = self.backend if self.backend.has_convolutions and is_channels_last(x) else None
        return convolve(x, w, c, k)

    def weight(self, x: Tensor, w: Tensor, form: WeightForm) -> Tensor:
        """`w` as it convolves `x`: by a kernel for 3 x 3 taps and channels_last, in one pass over memory."""
        if (
            w.shape[2] * w.shape[3] == 1
            or w.dtype != parameter_dtype(x)
            or w.device != x.device
            or not is_channels_last(x)
        ):
            return shape_weight(w, form)
        if _wanted(w):
            packed: Tensor = _PackWeight.apply(w, form, self)
            return packed
        return _kernels.pack_weight(self.backend, w, form)

    def unpack_weight(self, packed: Tensor, form: WeightForm) -> Tensor:
        """The adjoint of `weight`."""
        if _wanted(packed):
            w: Tensor = _UnpackWeight.apply(packed, form, self)
            return w
        return _kernels.unpack_weight(self.backend, packed, form)

    def modulate(self, x: Tensor, scale: Tensor) -> Tensor:
        """`x` [N, C, H, W] times `scale` [N, C]."""
        scale = scale.to(parameter_dtype(x))
        if _wanted(x, scale):
            y: Tensor = _Modulate.apply(x, scale, self)
            return y
        return _kernels.modulate(self.backend, x, scale)

    def epilogue_gradients(
        self, dy: Tensor, inputs: EpilogueInputs, e: Epilogue, need: Sequence[bool]
    ) -> tuple[Tensor | None, ...] | None:
        """Gradients of `epilogue` in one pass, where there is a kernel and nobody differentiates them."""
        if torch.is_grad_enabled() or not takes_epilogue_grad(self.backend, dy, inputs.x):
            return None
        return conv_epilogue_grad(self.backend, dy, inputs, e, (need[0], need[1], need[2], need[3], need[4]))

    def styled(self, x: Tensor, weight: Tensor, layer: StyledLayer) -> Tensor | None:
        """A whole modulated convolution in one kernel, where that is chosen and no gradient is wanted."""
        tensors = (x, weight, layer.styles, layer.demod, layer.noise, layer.bias)
        if not (self.backend.has_convolutions and is_channels_last(x)) or _wanted(*tensors):
            return None
        return styled_layer(self.backend, x, weight, layer, self.weight)

    def demodulate(self, weight: Tensor, styles: Tensor) -> Tensor:
        """1 / norm of every filter of `weight` times `styles`."""
        weight_sq: Tensor = _TapEnergy.apply(weight)
        if _wanted(weight_sq, styles):
            return (styles.square() @ weight_sq.t() + DEMODULATION_EPS).rsqrt()
        return _kernels.demodulate(self.backend, weight_sq, styles)

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
        """next_style * clamp(gain * act(x * demod + noise + bias)), in `out` where given (no gradient)."""
        wide = parameter_dtype(x)
        demod, noise, bias, next_style = (
            None if t is None else t.to(wide) for t in (demod, noise, bias, next_style)
        )
        if _wanted(x, demod, noise, bias, next_style):
            y: Tensor = _ConvEpilogue.apply(x, demod, noise, bias, next_style, e, self)
            return y
        return _kernels.conv_epilogue(self.backend, x, demod, noise, bias, next_style, e, owned, out)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor | None, dim: int, e: Epilogue, k: NativePrimitives) -> Tensor:
        y = _kernels.bias_act(k.backend, x, b, dim, e)
        source = _gradients.reads(e)
        if source == "y":
            ctx.save_for_backward(y)
        elif source == "x":
            ctx.save_for_backward(x, b)
        ctx.rest = source, dim, e, k
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        source, dim, e, k = ctx.rest
        ref, b = None, None
        if source == "y":
            (ref,) = ctx.saved_tensors
        elif source == "x":
            ref, b = ctx.saved_tensors
        need = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and weight_gradients_enabled()
        dx, db = _gradients.bias_act_backward(k, dy, ref, b, dim, e, need)
        return dx, db, None, None, None


class _BiasActGrad(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue, k: NativePrimitives
    ) -> Tensor:
        if e.activation.saves != "x":
            b = None
        ctx.save_for_backward(dy if e.activation.curved else None, ref, b)
        ctx.rest = dim, e, k
        return _kernels.bias_act_grad(k.backend, dy, ref, b, dim, e)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
        dim, e, k = ctx.rest
        dy, ref, b = ctx.saved_tensors
        grads = _gradients.bias_act_grad_backward(k, ddx, dy, ref, b, dim, e, ctx.needs_input_grad)
        return *grads, None, None, None


class _Upfirdn2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor | None, r: Resampling, k: NativePrimitives) -> Tensor:
        ctx.save_for_backward(f)
        ctx.rest = r, k, x.shape[2], x.shape[3]
        return _kernels.upfirdn2d(k.backend, x, f, r)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (f,) = ctx.saved_tensors
        r, k, height, width = ctx.rest
        return _gradients.upfirdn2d_backward(k, dy, f, r, height, width), None, None, None


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, k: NativePrimitives) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale)
        ctx.k = k
        return _kernels.modulate(k.backend, x, scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        return *_gradients.modulate_backward(ctx.k, dy, x, scale, ctx.needs_input_grad), None


class _PackWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, form: WeightForm, k: NativePrimitives) -> Tensor:
        ctx.rest = form, k
        ctx.set_materialize_grads(False)
        return _kernels.pack_weight(k.backend, w, form)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:  # inside no_weight_gradients
            return None, None, None
        form, k = ctx.rest
        return k.unpack_weight(dy, form), None, None


class _UnpackWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, form: WeightForm, k: NativePrimitives) -> Tensor:
        ctx.rest = form, k
        return _kernels.unpack_weight(k.backend, packed, form)

    @staticmethod
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, ...]:
        form, k = ctx.rest
        packed = _PackWeight.apply(dw, form, k) if _wanted(dw) else _kernels.pack_weight(k.backend, dw, form)
        return packed, None, None


class _ConvEpilogue(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        demod: Tensor | None,
        noise: Tensor | None,
        bias: Tensor | None,
        next_style: Tensor | None,
        e: Epilogue,
        k: NativePrimitives,
    ) -> Tensor:
        y = _kernels.conv_epilogue(k.backend, x, demod, noise, bias, next_style, e)
        keep_y = next_style is None and _gradients.reads(e) == "y"
        ctx.save_for_backward(x, demod, noise, bias, next_style, y if keep_y else None)
        ctx.rest = e, k
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        e, k = ctx.rest
        need_x, need_demod, need_noise, need_bias, need_next = ctx.needs_input_grad[:5]
        learned = weight_gradients_enabled()
        need = need_x, need_demod, need_noise and learned, need_bias and learned, need_next
        grads = _gradients.conv_epilogue_backward(k, dy, ctx.saved_tensors, e, need)
        return *grads, None, None

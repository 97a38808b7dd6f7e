"""Backward passes, written once: of differentiable steps, so that gradients of any order follow.

Each formula takes the differentiable steps (`Steps`) of the path that called it: eager kernels or registered
ops. Saved outputs carry their own graph, so what a derivative reads from y leads on to the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from pyface.ops._checks import Resampling, filter_size, parameter_dtype, round_to
from pyface.ops._composition import Epilogue
from pyface.ops._gradient_kernels import EpilogueInputs
from pyface.ops.activations import ACTIVATIONS, Activation

__all__ = [
    "Steps",
    "bias_act_backward",
    "bias_act_grad_backward",
    "conv_epilogue_backward",
    "modulate_backward",
    "needs_reference",
    "reads",
    "upfirdn2d_backward",
]

_LINEAR = ACTIVATIONS["linear"]
_PLAIN = Epilogue(_LINEAR, 0.0, 1.0, -1.0)


class Steps(Protocol):
    """Differentiable ops that backward passes are made of."""

    def bias_act_grad(self, dy: Tensor, ref: Tensor, b: Tensor | None, dim: int, e: Epilogue) -> Tensor:
        """dy * gain * act'(.), 0 where clamped."""

    def fir(self, x: Tensor, f: Tensor | None, r: Resampling) -> Tensor:
        """Upsample, filter and downsample."""

    def modulate(self, x: Tensor, scale: Tensor) -> Tensor:
        """`x` [N, C, H, W] times `scale` [N, C]."""

    def epilogue_gradients(
        self, dy: Tensor, inputs: EpilogueInputs, e: Epilogue, need: Sequence[bool]
    ) -> tuple[Tensor | None, ...] | None:
        """Gradients of `epilogue` for its five tensors in one pass over memory; None where there is no such
        pass, or somebody differentiates them."""

    def epilogue(
        self,
        x: Tensor,
        demod: Tensor | None,
        noise: Tensor | None,
        bias: Tensor | None,
        next_style: Tensor | None,
        e: Epilogue,
    ) -> Tensor:
        """next_style * clamp(gain * act(x * demod + noise + bias))."""


def reads(e: Epilogue) -> str:
    """What the first derivative reads: "y", "x" or "none"."""
    return "y" if e.activation.saves == "none" and e.clamp >= 0 else e.activation.saves


def needs_reference(e: Epilogue) -> bool:
    """True where y does not tell the slope: the gain is not above 0, or lrelu's own slope is below 0."""
    return not e.gain > 0 or (e.activation.code == 2 and e.alpha < 0)


def _sum(t: Tensor, dims: tuple[int, ...], dtype: torch.dtype, keepdim: bool = False) -> Tensor:
    """Sum of `t` over `dims`, accumulated in float32 or better, as `dtype`.

    Asked for another dtype, torch's CPU sum writes a converted copy of `t` first (2.3 times slower). Its
    bfloat16 sum accumulates in float32 as well and rounds once at the end.
    """
    if t.dtype == torch.bfloat16 and t.device.type == "cpu":
        return t.sum(dim=dims, keepdim=keepdim).to(dtype)
    return t.sum(dim=dims, keepdim=keepdim, dtype=dtype)


def _sum_to_axis(t: Tensor, dim: int) -> Tensor:
    return t.sum(dim=[axis for axis in range(t.ndim) if axis != dim]) if t.ndim > 1 else t


def bias_act_backward(
    k: Steps, dy: Tensor, ref: Tensor | None, b: Tensor | None, dim: int, e: Epilogue, need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of bias_act for (x, b)."""
    if not (need[0] or need[1]):
        return None, None
    dx = dy * e.gain if ref is None else k.bias_act_grad(dy, ref, b, dim, e)
    return (dx if need[0] else None), (_sum_to_axis(dx, dim) if need[1] else None)


def _second_derivative(ref: Tensor, e: Epilogue, clamp: float) -> Tensor:
    """d/d ref of the slope gain * act'(.): ref is y, or the biased input for swish. 0 where clamped."""
    act: Activation = e.activation
    if act.code == 8:
        s = torch.sigmoid(ref)
        out = e.gain * s * (1 - s) * (2 + ref * (1 - 2 * s))
        y = e.gain * ref * s
    else:
        y, u = ref, ref / e.gain
        if act.code == 3:
            out = -2 * u
        elif act.code == 4:
            out = 1 - 2 * u
        elif act.code == 7:
            out = torch.exp(-u)
        else:  # elu and selu: the slope is u + constant below zero
            out = torch.where(u < 0, torch.ones_like(u), torch.zeros_like(u))
    return out if clamp < 0 else torch.where(y.abs() < clamp, out, torch.zeros_like(out))


def bias_act_grad_backward(
    k: Steps,
    ddx: Tensor,
    dy: Tensor | None,
    ref: Tensor,
    b: Tensor | None,
    dim: int,
    e: Epilogue,
    need: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of bias_act_grad for (dy, ref, b). It is linear in dy, so the first is the same op again."""
    d_dy = k.bias_act_grad(ddx, ref, b, dim, e) if need[0] else None
    if dy is None or not (need[1] or need[2]):
        return d_dy, None, None
    wide = parameter_dtype(ref)
    z = ref.to(wide)
    if b is not None:
        shape = [1] * z.ndim
        shape[dim] = -1
        z = z + b.to(wide).reshape(shape)
    clamp = e.clamp if e.clamp < 0 else round_to(e.clamp, ref.dtype)
    d_ref = (ddx.to(wide) * dy.to(wide) * _second_derivative(z, e, clamp)).to(ref.dtype)
    return d_dy, d_ref, _sum_to_axis(d_ref, dim) if need[2] and b is not None else None


def upfirdn2d_backward(
    k: Steps, dy: Tensor, f: Tensor | None, r: Resampling, height: int, width: int
) -> Tensor:
    """Gradient of upfirdn2d for x: the op itself, up and down exchanged and the filter turned."""
    f_w, f_h = filter_size(f)
    return k.fir(dy, f, r.transposed(height, width, dy.shape[2], dy.shape[3], f_w, f_h))


def modulate_backward(
    k: Steps, dy: Tensor, x: Tensor | None, scale: Tensor, need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x * scale for (x, scale): those of an epilogue that is linear, with scale as demod."""
    if need[1] and x is not None:
        fused = k.epilogue_gradients(
            dy, EpilogueInputs(x, scale), _PLAIN, (need[0], need[1], False, False, False)
        )
        if fused is not None:
            return fused[0], fused[1]
    dx = k.modulate(dy, scale) if need[0] else None
    ds = _sum(dy * x, (2, 3), scale.dtype) if need[1] and x is not None else None
    return dx, ds


def conv_epilogue_backward(
    k: Steps,
    dy: Tensor,
    saved: Sequence[Tensor | None],
    e: Epilogue,
    need: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of conv_epilogue for (x, demod, noise, bias, next_style); `saved`: these and y or None.

    With z = x * demod + noise + bias and u = clamp(gain * act(z)): dz = dy * next_style * du/dz, and the rest
    are products and sums of dz.
    """
    maybe_x, demod, noise, bias, next_style, y = saved
    x = cast(Tensor, maybe_x)
    wide = parameter_dtype(x)
    fused = k.epilogue_gradients(dy, EpilogueInputs(x, demod, noise, bias, next_style), e, need)
    if fused is not None:
        return fused
    d_next = None
    if next_style is not None:
        y = k.epilogue(x, demod, noise, bias, None, e)
        d_next = _sum(dy * y, (2, 3), wide) if need[4] else None
        dy = k.modulate(dy, next_style)
    source = reads(e)
    if source == "none":
        dz = dy * e.gain if e.gain != 1 else dy
    elif source == "x":
        z = k.epilogue(x, demod, noise, bias, None, _PLAIN)
        dz = k.bias_act_grad(dy, z, None, 1, e)
    else:
        if y is None:
            y = k.epilogue(x, demod, noise, bias, None, e)
        dz = k.bias_act_grad(dy, y, None, 1, e)
    dx = (dz if demod is None else k.modulate(dz, demod)) if need[0] else None
    d_demod = _sum(dz * x, (2, 3), wide) if need[1] else None
    d_noise = None
    if need[2] and noise is not None:
        per_sample = noise.shape[0] == x.shape[0]
        d_noise = _sum(dz, (1,) if per_sample else (0, 1), wide, keepdim=True)
    d_bias = _sum(dz, (0, 2, 3), wide) if need[3] else None
    return dx, d_demod, d_noise, d_bias, d_next

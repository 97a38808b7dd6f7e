"""Whether a tensor that the caller brings can take a result. Texts are built only when a check fails."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.ops._checks import check_same_device
from pyface.ops._composition import is_channels_last

__all__ = ["check_out"]


def check_out(
    op: str, out: Tensor, x: Tensor, shape: Sequence[int], others: Sequence[Tensor | None], in_place: bool
) -> None:
    """Raise unless `out` can take the result of `op`: its shape, and x's dtype, device and memory layout.

    others: the tensors that are read beside `x`; none of them may share memory with `out`. in_place: `out`
    may be `x` itself. Where gradients are recorded no tensor involved may require one.
    """
    if out.shape != torch.Size(shape):
        raise ShapeError(f"{op}: out must be {list(shape)}, as the result is; got {list(out.shape)}.")
    if out.dtype != x.dtype:
        raise DTypeError(f"{op}: out is {out.dtype} but x is {x.dtype}; both must be the same.")
    check_same_device(op, x, out, "out")
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    if not out.is_contiguous(memory_format=layout):
        name = str(layout).removeprefix("torch.")
        raise ValueRangeError(
            f"{op}: out has strides {out.stride()}; allowed for this x: memory without gaps in {name}. "
            f"Make it with torch.empty({list(shape)}, dtype=x.dtype, device=x.device, "
            f"memory_format={layout})."
        )
    read = [x, *(t for t in others if t is not None)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (out, *read)):
        raise ValueRangeError(
            f"{op}: out was given where a gradient is wanted, and none passes through it. "
            "Call under torch.no_grad(), or leave out away."
        )
    if x.is_meta or out.numel() == 0:
        return
    if in_place and out.data_ptr() == x.data_ptr() and x.is_contiguous(memory_format=layout):
        del read[0]
    for t in read:
        if _overlap(out, t):
            itself = "x itself or memory" if in_place else "memory"
            raise ValueRangeError(f"{op}: out shares memory with an input; allowed: {itself} of its own.")


def _overlap(a: Tensor, b: Tensor) -> bool:
    first_a, end_a = _span(a)
    first_b, end_b = _span(b)
    return first_a < end_b and first_b < end_a


def _span(t: Tensor) -> tuple[int, int]:
    """First address of `t`, and the one behind its last element."""
    first = t.data_ptr()
    if t.numel() == 0:
        return first, first
    last = sum((length - 1) * stride for length, stride in zip(t.shape, t.stride(), strict=True))
    return first, first + (last + 1) * t.element_size()

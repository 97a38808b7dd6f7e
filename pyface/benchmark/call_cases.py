"""The whole way of a call on 128 numbers: what is left when the arithmetic is free."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface import ops
from pyface.benchmark.case import EAGER, OURS, Case, Variant, Workload

__all__ = ["call_cases", "call_workload"]


def call_cases() -> list[Case]:
    """bias_act without and with a gradient."""
    return [
        Case(
            f"call/bias_act/{'grad' if grad else 'no grad'}", "calls",
            f"bias_act, {'with gradient' if grad else 'no gradient'}", "1x8x4x4", "float32", "nchw",
            build=lambda device, grad=grad: call_workload(grad, device),  # type: ignore[misc]
            calls=200, cold=False, quick=not grad,
        )
        for grad in (False, True)
    ]  # fmt: skip


def call_workload(grad: bool, device: str) -> Workload:
    """A call on [1, 8, 4, 4]; grad: and its backward pass."""
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_(grad)
    b = torch.zeros(8, device=device)

    def ours() -> Tensor:
        y = ops.bias_act(x, b, act="lrelu")
        if grad:
            torch.autograd.grad(y, x, y.detach())
        return y.detach()

    def plain() -> Tensor:
        y = F.leaky_relu(x + b.view(1, -1, 1, 1), 0.2) * 2**0.5
        if grad:
            torch.autograd.grad(y, x, y.detach())
        return y.detach()

    reference = F.leaky_relu(x.detach().double(), 0.2) * 2**0.5
    return Workload({OURS: Variant(ours), EAGER: Variant(plain)}, reference=lambda: reference, tolerance=1e-6)

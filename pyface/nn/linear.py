"""Fully connected layer with an equalised learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyface.ops import bias_act

__all__ = ["EqualizedLinear"]


class EqualizedLinear(nn.Module):
    """y = act(x W' + b'), with W' = W * lr_multiplier / sqrt(in_features) and b' = b * lr_multiplier.

    Weights are drawn from N(0, 1 / lr_multiplier^2) and scaled at run time, so that Adam changes every layer
    at the same relative speed (Karras et al. 2018, "Progressive growing of GANs", section 4.1; the multiplier
    from Karras et al. 2019, "A style-based generator architecture", appendix C).

    Args:
        in_features: size of the last axis of x.
        out_features: size of the last axis of y.
        bias: learn an additive bias.
        activation: any activation of `pyface.ops.bias_act`, with its default gain.
        lr_multiplier: learning rate of this layer relative to the others.
        bias_init: start value of b (before lr_multiplier).
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.backend = "auto"
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        if bias:
            self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        else:
            self.register_parameter("bias", None)
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """y [N, out_features] of x [N, in_features], in x's dtype."""
        weight = self.weight.to(x.dtype)
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
            if self.bias_gain != 1:
                bias = bias * self.bias_gain
        if self.activation == "linear" and bias is not None:
            return torch.addmm(bias.unsqueeze(0), x, weight.t(), alpha=self.weight_gain)
        y = x.matmul((weight * self.weight_gain).t())
        if self.activation == "linear":
            return y
        return bias_act(y, bias, act=self.activation, backend=self.backend)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        return f"{in_features} -> {out_features}, {self.activation}"

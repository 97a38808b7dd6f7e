"""The activations that every op knows, with their codes, default gains and what their derivative needs.

>>> ACTIVATIONS["lrelu"].gain
1.4142135623730951
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "SELU_ALPHA", "SELU_SCALE", "Activation"]

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


class Activation(NamedTuple):
    """One activation: `code` of the native kernels, defaults, formula, and what a backward pass reads.

    `saves`: the tensor the first derivative is computed from: the output y, the input x, or nothing.
    `curved`: the second derivative is not zero everywhere.
    """

    code: int
    alpha: float
    gain: float
    saves: Literal["y", "x", "none"]
    curved: bool
    formula: Callable[[Tensor, float], Tensor]


_SQRT2 = math.sqrt(2.0)

ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(0, 0.0, 1.0, "none", False, lambda x, _: x),
    "relu": Activation(1, 0.0, _SQRT2, "y", False, lambda x, _: F.relu(x)),
    "lrelu": Activation(2, 0.2, _SQRT2, "y", False, lambda x, alpha: F.leaky_relu(x, alpha)),
    "tanh": Activation(3, 0.0, 1.0, "y", True, lambda x, _: torch.tanh(x)),
    "sigmoid": Activation(4, 0.0, 1.0, "y", True, lambda x, _: torch.sigmoid(x)),
    "elu": Activation(5, 0.0, 1.0, "y", True, lambda x, _: F.elu(x)),
    "selu": Activation(6, 0.0, 1.0, "y", True, lambda x, _: F.selu(x)),
    "softplus": Activation(7, 0.0, 1.0, "y", True, lambda x, _: F.softplus(x)),
    "swish": Activation(8, 0.0, _SQRT2, "x", True, lambda x, _: torch.sigmoid(x) * x),
}

"""Truncation built into a generator's weights."""

from __future__ import annotations

import torch

from pyface.errors import ValueRangeError
from pyface.models.stylegan2 import StyleGAN2Generator
from pyface.nn import EqualizedLinear

__all__ = ["bake_truncation"]


@torch.no_grad()
def bake_truncation(generator: StyleGAN2Generator, psi: float) -> None:
    """Change the weights so that the pictures of psi = 1 are those that `truncation_psi=psi` gave.

    Below 1 for a generator that is safe to use without a psi (in an exported file, say), above 1 for one that
    draws too little variety: recall for precision (Karras et al. 2019, section 3.2 and appendix B). The last
    layer of the mapping network is scaled, which passes its leaky ReLU, and the layers that read w take the
    shift of its mean into their biases.

    Raises ValueRangeError unless psi is above 0.
    """
    if not psi > 0:
        raise ValueRangeError(f"psi must be above 0; got {psi}.")
    mapping = generator.mapping
    mean = mapping.w_avg.clone()
    for name, layer in generator.named_modules():
        if name.endswith("affine") and isinstance(layer, EqualizedLinear) and layer.bias is not None:
            layer.bias += (1 - psi) * layer.weight_gain * (layer.weight @ mean)
    last = mapping.get_submodule(f"fc{mapping.num_layers - 1}")
    for scaled in (last.get_parameter("weight"), last.get_parameter("bias"), mapping.w_avg):
        scaled *= psi

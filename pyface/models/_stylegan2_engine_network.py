"""What the fused synthesis knows of a network between calls: its layers, and whether they still hold."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from operator import is_
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pyface.nn import SynthesisBlock
from pyface.nn.filters import ResampleFilter
from pyface.nn.linear import EqualizedLinear
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops.engine_choice import Choice
from pyface.ops.styled_conv import PackedMatrix, PackedWeight, best_choice

if TYPE_CHECKING:
    from pyface.models.stylegan2 import SynthesisNetwork

__all__ = ["Known", "KnownLayer", "known", "last_known"]

_KINDS = {SynthesisBlock, StyledConv2d, StyledHead, EqualizedLinear, ResampleFilter, nn.ModuleDict}
_known: weakref.WeakKeyDictionary[SynthesisNetwork, Known] = weakref.WeakKeyDictionary()


class KnownLayer:
    """One convolution, the heads behind it, and its packed weight."""

    def __init__(
        self, conv: StyledConv2d, name: str, block: int, heads: list[StyledHead], index: int
    ) -> None:
        self.conv, self.name, self.block, self.heads, self.w_index = conv, name, block, heads, index
        self.out_channels, self.in_channels = conv.weight.shape[:2]
        self.head_channels = sum(head.weight.shape[0] for head in heads)
        self.weight = PackedWeight(conv.up)
        self.affines: list[EqualizedLinear] = [conv.affine, *(head.affine for head in heads)]
        self.matrices = [PackedMatrix() for _ in self.affines]

    def choice(self, dtype: torch.dtype) -> Choice:
        """How it is worked through."""
        return best_choice(dtype, self.conv.up, (self.out_channels, self.in_channels), self.conv.size)


class Known:
    """The layers of a network; `parameters` finds out whether they still hold."""

    def __init__(self, network: SynthesisNetwork) -> None:
        self.lock = threading.Lock()
        self.modules = [module for module in network.modules() if module is not network]
        self.children = list(_children(network, self.modules))
        self.shapes = [p.shape for p in _parameters(self.modules)]
        self.sound = all(type(module) in _KINDS for module in self.modules) and _has_expected_shapes(network)
        self.layers = list(_layers(network)) if self.sound else []
        self.now: list[nn.Parameter] = []  # what `parameters` found last

    def parameters(self, network: SynthesisNetwork) -> list[nn.Parameter] | None:
        """All parameters as they are now; None where modules or shapes are not those that were seen."""
        now = list(_children(network, self.modules))
        if len(now) != len(self.children) or not all(map(is_, now, self.children)):
            return None
        self.now = found = list(_parameters(self.modules))
        return found if [p.shape for p in found] == self.shapes else None

    def is_plain(self, backends: tuple[str, ...] = ("auto", "cpu")) -> bool:
        """Whether every layer does what its class does: no hooks, no own forward, one of `backends`."""
        for module in self.modules:
            own = module.__dict__
            if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
                return False
            if own.get("backend", "auto") not in backends:
                return False
        return not (nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)


def known(network: SynthesisNetwork) -> tuple[Known, list[nn.Parameter]] | None:
    """What is known of `network` and its parameters as they are now; None where its layers are not ours."""
    found = _known.get(network)
    parameters = None if found is None else found.parameters(network)
    if found is None or parameters is None:
        found = _known[network] = Known(network)
        parameters = found.parameters(network)
    return None if parameters is None or not found.sound else (found, parameters)


def last_known(network: SynthesisNetwork) -> Known:
    """What `known` found last."""
    return _known[network]


def _children(network: nn.Module, modules: list[nn.Module]) -> Iterator[nn.Module | None]:
    yield from network._modules.values()
    for module in modules:
        yield from module._modules.values()


def _parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None:
                yield parameter


def _layers(network: SynthesisNetwork) -> Iterator[KnownLayer]:
    index = 0
    for number, block in enumerate(network.blocks()):
        for name in block.conv_names:
            last = name == block.conv_names[-1]
            heads = cast("list[StyledHead]", list(block.heads.values())) if last else []
            yield KnownLayer(getattr(block, name), name, number, heads, index)
            index += 1


def _has_expected_shapes(network: SynthesisNetwork) -> bool:
    """Whether all tensors that the kernels read by address are as large as the configuration says."""
    config = network.config
    before = 0
    for block, size in zip(network.blocks(), config.sizes, strict=True):
        channels = config.channels(size)
        if before == 0 and tuple(block.const.shape) != (channels, *size):
            return False
        for name in block.conv_names:
            inputs = before if name == "conv0" else channels
            if not _fits(getattr(block, name), (channels, inputs, 3, 3), config.w_dim):
                return False
        heads = cast("list[StyledHead]", list(block.heads.values()))
        if len(heads) != len(config.spectra):
            return False
        for head, outputs in zip(heads, config.spectra.values(), strict=True):
            if not _fits(head, (outputs, channels, 1, 1), config.w_dim):
                return False
        before = channels
    return True


def _fits(layer: StyledConv2d | StyledHead, weight: tuple[int, int, int, int], w_dim: int) -> bool:
    def shape(tensor: Tensor | None) -> tuple[int, ...]:
        return () if tensor is None else tuple(tensor.shape)

    affine = layer.affine
    outputs, inputs = weight[:2]
    if affine.activation != "linear" or affine.bias is None:
        return False
    if isinstance(layer, StyledConv2d) and layer.use_noise and layer.noise_strength.numel() != 1:
        return False
    found = (shape(layer.weight), shape(layer.bias), shape(affine.weight), shape(affine.bias))
    return found == (weight, (outputs,), (inputs, w_dim), (inputs,))

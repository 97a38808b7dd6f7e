"""Tensors made of a network's parameters for its synthesis on CUDA, and how they follow the parameters.

They keep their memory for as long as they live: a recorded CUDA graph reads the new values. What the host can
see (versions, addresses) is looked at before each call. Fused optimisers and writes through `.data` leave
both as they are: some numbers of every parameter are compared on the device while the images are being made,
and the images are made anew where those differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyface.models._stylegan2_engine_network import KnownLayer
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops import _kernels
from pyface.ops._composition import WeightForm
from pyface.ops._native import Backend

__all__ = ["CudaWeights", "StyleUse", "normalized"]

_SAMPLES = 256  # numbers of each parameter that are compared
_TINY = 1e-30


class StyleUse(NamedTuple):
    """An affine layer: whose it is, which w it takes, whether its styles are divided by the largest."""

    owner: StyledConv2d | StyledHead
    w_index: int
    channels: int
    unit: bool


def normalized(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` [O, I, 3, 3] as it convolves in `dtype`: float16 has too few exponent bits for raw weights.

    Demodulation takes the divisors out again (`pyface.ops._composition.modulated_conv2d`).
    """
    if dtype != torch.float16:
        return weight
    largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    return weight * (1 / math.sqrt(weight[0].numel()) / largest.clamp(min=_TINY))


class _Made(NamedTuple):
    tensor: Tensor
    fill: Callable[[Tensor], object]


class CudaWeights:
    """Tensors made of parameters, by what they are.

    Args:
        k: the back-end whose kernels pack weights.
        const: gives the learned constant [C, H, W].
        device: of the network.
    """

    def __init__(self, k: Backend, const: Callable[[], Tensor], device: torch.device) -> None:
        self._k, self._const, self.device = k, const, device
        self._made: dict[Hashable, _Made] = {}
        self._tracked: Sequence[Tensor] = ()
        self._state: list[tuple[int, int]] = []
        self._lines: list[Tensor] = []
        self._sample = self._seen = torch.empty(0)
        self._flag = torch.empty(0)
        self._answer = torch.zeros((), dtype=torch.bool)

    def follow(self, tracked: Sequence[Tensor]) -> None:
        """Fill everything anew where versions or addresses of `tracked` have changed: all it is made of."""
        state = [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in tracked]
        if state == self._state:
            return
        moved = [place for place, _ in state] != [place for place, _ in self._state]
        self._tracked, self._state = tracked, state
        if moved:
            self._watch()
        self.refill()

    def refill(self) -> None:
        """Fill everything anew."""
        for tensor, fill in self._made.values():
            fill(tensor)
        if self._lines:
            torch.cat(self._lines, out=self._seen)

    def _watch(self) -> None:
        flat = [t.detach().reshape(-1) for t in self._tracked]
        self._lines = [t[:: -(-t.numel() // _SAMPLES)] for t in flat if t.numel()]
        count = sum(line.numel() for line in self._lines)
        self._seen = torch.empty(count, device=self.device)
        self._sample = torch.empty(count, device=self.device)
        self._flag = torch.empty(count, dtype=torch.bool, device=self.device)
        if self.device.type == "cuda":
            self._answer = torch.zeros((), dtype=torch.bool, pin_memory=True)

    def look(self) -> Callable[[], bool]:
        """Start comparing numbers of all parameters with those that were seen.

        Gives what waits for the answer: whether any has changed.
        """
        torch.cat(self._lines, out=self._sample)
        torch.ne(self._sample.view(torch.int32), self._seen.view(torch.int32), out=self._flag)
        self._answer.copy_(self._flag.any(), non_blocking=True)
        if self.device.type != "cuda":
            return lambda: bool(self._answer)
        done = torch.cuda.Event()
        done.record()

        def changed() -> bool:
            done.synchronize()
            return bool(self._answer)

        return changed

    def _get(
        self,
        key: Hashable,
        shape: Sequence[int],
        fill: Callable[[Tensor], object],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        found = self._made.get(key)
        if found is None:
            tensor = torch.empty(tuple(shape), dtype=dtype, device=self.device)
            if len(shape) == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            fill(tensor)
            found = self._made[key] = _Made(tensor, fill)
        return found.tensor

    def const(self) -> Tensor:
        """The learned constant, [1, C, H, W]."""
        return self._get(
            "const", (1, *self._const().shape), lambda to: to.copy_(self._const().detach().unsqueeze(0))
        )

    def filters(self, layer: KnownLayer, dtype: torch.dtype, transposed: bool) -> Tensor:
        """The weight of a convolution in `dtype`, packed: [O, I, 3, 3], [I, O, 3, 3] where `transposed`."""
        conv = layer.conv
        form = WeightForm(dtype, transposed=transposed)
        first, second = layer.out_channels, layer.in_channels
        first, second = (second, first) if transposed else (first, second)

        def fill(to: Tensor) -> None:
            _kernels.pack_weight(self._k, normalized(conv.weight.detach(), dtype), form, to)

        return self._get((conv, "filters", dtype, transposed), (first, second, 3, 3), fill, dtype)

    def squares(self, layers: Sequence[KnownLayer], dtype: torch.dtype) -> Tensor:
        """Sums of squares over the taps of convolutions of one shape, [layers, I, O]."""
        first = layers[0]

        def fill(to: Tensor) -> None:
            for row, layer in zip(to, layers, strict=True):
                weight = normalized(layer.conv.weight.detach(), dtype)
                row.copy_(weight.square().sum(dim=(2, 3)).t())

        key = ("squares", dtype, *(layer.conv for layer in layers))
        return self._get(key, (len(layers), first.in_channels, first.out_channels), fill)

    def affines(self, uses: Sequence[StyleUse]) -> tuple[Tensor, Tensor]:
        """Weights [uses, w_dim, C] and biases [uses, 1, C] of affine layers with C outputs each."""
        weights = [use.owner.affine for use in uses]

        def fill_weight(to: Tensor) -> None:
            for row, affine in zip(to, weights, strict=True):
                torch.mul(affine.weight.detach().t(), affine.weight_gain, out=row)

        def fill_bias(to: Tensor) -> None:
            for row, affine in zip(to, weights, strict=True):
                if affine.bias is not None:  # there is one: `known` looked
                    torch.mul(affine.bias.detach(), affine.bias_gain, out=row[0])

        shape = (len(uses), weights[0].weight.shape[1], uses[0].channels)
        key = tuple(weights)
        return (
            self._get(("affine weights", *key), shape, fill_weight),
            self._get(("affine biases", *key), (shape[0], 1, shape[2]), fill_bias),
        )

    def bias(self, layer: KnownLayer) -> Tensor:
        """The bias of a convolution, [O]."""
        conv = layer.conv
        return self._get((conv, "bias"), (layer.out_channels,), lambda to: to.copy_(conv.bias.detach()))

    def noise(self, layer: KnownLayer) -> Tensor:
        """The convolution's own noise times its strength, [1, 1, H, W]."""
        conv = layer.conv

        def fill(to: Tensor) -> None:
            torch.mul(conv.noise_const, conv.noise_strength.detach(), out=to[0, 0])

        return self._get((conv, "noise"), (1, 1, *conv.size), fill)

    def head(self, head: StyledHead) -> Tensor:
        """The weight of a head with its gain, [1, outputs, C]."""

        def fill(to: Tensor) -> None:
            torch.mul(head.weight.detach().flatten(1), head.weight_gain, out=to[0])

        return self._get((head, "weight"), (1, *head.weight.shape[:2]), fill)

    def head_bias(self, layer: KnownLayer) -> Tensor:
        """The biases of all heads of a layer, [outputs]."""
        heads = layer.heads

        def fill(to: Tensor) -> None:
            torch.cat([head.bias.detach() for head in heads], out=to)

        return self._get((layer.conv, "head bias"), (layer.head_channels,), fill)

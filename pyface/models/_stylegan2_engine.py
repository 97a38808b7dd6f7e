"""The synthesis of StyleGAN2 without gradients on the CPU: every layer one native call.

Layers of low resolution take the whole batch at once, since reading their weights is what costs; then images
go one by one through the remaining layers, so that their activations stay in the cache
(`pyface.ops.engine_choice` says from which layer on). Styles, demodulation and the weights of heads are
computed for all layers in one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyface.errors import ShapeError
from pyface.models._stylegan2_engine_network import Known, KnownLayer, known, last_known
from pyface.nn.conv import activation_gain
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops._autograd import NativePrimitives
from pyface.ops._checks import DTYPES
from pyface.ops._dispatch import dispatch_modes, primitives
from pyface.ops.engine_choice import Choice
from pyface.ops.styled_conv import (
    LAYER_STYLE,
    MOST_HEAD_CHANNELS,
    MOST_SAMPLES,
    STYLED_CONV,
    Blocked,
    block_activations,
    engine_dtype,
    layer_styles,
    memory,
    packed_weights,
    padded,
    styled_convs,
)

if TYPE_CHECKING:
    from pyface.models.stylegan2 import SynthesisNetwork

__all__ = ["engine_precision", "synthesize"]

_LRELU_SLOPE = 0.2
_GAIN = activation_gain("lrelu")
_FLOAT = 4  # bytes


def engine_precision(network: SynthesisNetwork, ws: Tensor, precision: str | None) -> torch.dtype | None:
    """The element type in which `synthesize` can do what is asked, or None: the layers themselves have to.

    They have to where a gradient is wanted, under tracing and dispatch modes, with other back-ends than the
    CPU kernels, with hooks on any layer, with layers that are not of our classes, and for other
    architectures, activations and filters than those of StyleGAN2.
    """
    if torch.compiler.is_compiling():
        return None
    config = network.config
    if precision not in (None, "float32", "bfloat16") or (precision is None and config.num_16bit_res > 0):
        return None
    if config.architecture != "skip" or config.activation != "lrelu" or not ws.is_cpu:
        return None
    taps = config.resample_filter
    if len(taps) != 4 or [tap * 3 for tap in (taps[0], taps[3])] != [taps[1], taps[2]] or taps[0] != taps[3]:
        return None
    if sum(config.spectra.values()) > MOST_HEAD_CHANNELS or ws.dtype == torch.float64:
        return None
    chosen = primitives(ws, "auto")
    if not isinstance(chosen, NativePrimitives) or chosen.backend.name != "cpu":
        return None
    if dispatch_modes():
        return None
    found = known(network)
    if found is None or not found[0].is_plain() or len(ws) == 0:
        return None
    parameters = found[1]
    if any(p.dtype != torch.float32 or not p.is_cpu or not p.is_contiguous() for p in parameters):
        return None
    if torch.is_grad_enabled() and (ws.requires_grad or any(p.requires_grad for p in parameters)):
        return None
    return engine_dtype(ws, torch.bfloat16 if precision == "bfloat16" else torch.float32)


def synthesize(
    network: SynthesisNetwork, ws: Tensor, noise: Sequence[Mapping[str, Tensor | None]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Images [N, C, H, W] by spectrum.

    Args:
        network: that `engine_precision` has just accepted.
        ws: [N, num_ws, w_dim].
        noise: of each block, by the names of its convolutions.
        dtype: what `engine_precision` gave.
    """
    spectra = network.config.spectra
    with torch.no_grad():
        ws = ws.float().contiguous()
        image = torch.empty(len(ws), sum(spectra.values()), *network.sizes[-1])
        for first in range(0, len(ws), MOST_SAMPLES):
            last = min(first + MOST_SAMPLES, len(ws))
            batch = _Batch(last_known(network), ws[first:last], noise, first, dtype)
            batch.run(network.blocks()[0].const, image[first:last])
    return dict(zip(spectra, image.split(list(spectra.values()), 1), strict=True))


class _Layer(NamedTuple):
    """One convolution with all that it needs for a batch; addresses of float32 numbers, channels padded."""

    known: KnownLayer
    weight: Tensor
    noise: Tensor | None
    choice: Choice
    styles: int
    demod: int
    bias: int
    heads: int
    head_bias: int


class _Batch:
    """At most `MOST_SAMPLES` images on their way through all layers."""

    def __init__(
        self,
        network: Known,
        ws: Tensor,
        noise: Sequence[Mapping[str, Tensor | None]],
        start: int,
        dtype: torch.dtype,
    ) -> None:
        self.n, self.dtype, self.ws = len(ws), dtype, ws
        layers = network.layers
        with network.lock:  # packed weights are shared by threads
            kept = [layer.weight for layer in layers]
            packed = packed_weights([layer.conv.weight for layer in layers], kept, dtype)
            squares = [layer.weight.squares for layer in layers]
        rooms, size = _rooms(layers, self.n)
        base = memory("styles", size).data_ptr()
        self.layers = [
            _Layer(
                layer,
                weight,
                _noise(layer, noise[layer.block].get(layer.name), start, self.n),
                layer.choice(dtype),
                *(base + offset for offset in room),
            )
            for layer, weight, room in zip(layers, packed, rooms, strict=True)
        ]
        # The first layer that images take one by one.
        self.split = next((i for i, layer in enumerate(self.layers) if not _together(layer)), len(layers))
        self.styles = _style_rows(self.layers, squares)
        self.rows: list[tuple[float, ...]] = []
        self.held: list[Tensor] = []  # memory that rows point to: a later request may have taken its place

    def run(self, const: Tensor, image: Tensor) -> None:
        """From `const` to `image` [n, C, H, W]."""
        split = self.split
        first = self.layers[0]
        start = Blocked.new("low 1", self.dtype, self.n, first.known.in_channels, first.known.conv.size)
        x, below = self._part(0, split, 0, start, 0, image)
        if split < len(self.layers):
            # Of an image below; the last layer before the split need not be one with heads.
            heads = next((layer for layer in reversed(self.layers[:split]) if layer.known.heads), None)
            stride = (
                0 if heads is None else heads.known.head_channels * _FLOAT * math.prod(heads.known.conv.size)
            )
            for i in range(self.n):
                one = Blocked(x.data, x.channels, x.height, x.width, self.n, i, 1)
                self._part(split, len(self.layers), i, one, below and below + i * stride, image[i : i + 1])
        layer_styles(self.styles, self.ws)
        block_activations(const, first.styles, start, self.dtype)
        styled_convs(np.array(self.rows, dtype=STYLED_CONV), self.ws)

    def _part(
        self, begin: int, end: int, sample: int, x: Blocked, below: int, last: Tensor
    ) -> tuple[Blocked, int]:
        """Adds the rows of layers [begin, end) for x.n images from `sample` on.

        Gives where their features will be, and the address of the image of their heads or 0. The image of
        the network's last layer goes to `last`.
        """
        kind = "low" if begin < end <= self.split else "high"
        for index in range(begin, end):
            layer = self.layers[index]
            following = self.layers[index + 1] if index + 1 < len(self.layers) else None
            size, channels = layer.known.conv.size, layer.known.out_channels
            to = None
            if following is not None:
                to = Blocked.new(f"{kind} {index % 2}", self.dtype, x.n, channels, size)
                self.held.append(to.data)
            image = 0
            if layer.known.heads:
                bytes_needed = x.n * layer.known.head_channels * size[0] * size[1] * _FLOAT
                kept = last if following is None else memory(f"{kind} image {index % 4}", bytes_needed)
                self.held.append(kept)
                image = kept.data_ptr()
            self.rows.append(self._row(layer, following, sample, x, to, below, image))
            below = image or below
            x = to or x
        return x, below

    def _row(
        self,
        layer: _Layer,
        following: _Layer | None,
        sample: int,
        x: Blocked,
        to: Blocked | None,
        below: int,
        image: int,
    ) -> tuple[float, ...]:
        """What `STYLED_CONV` names, for x.n images from `sample` on."""
        conv, channels = layer.known.conv, layer.known.out_channels
        out = _FLOAT * padded(channels)
        noise, strength, own_noise = 0, 0, False
        if layer.noise is not None:
            own_noise = layer.noise.ndim == 4 and layer.noise.shape[0] > 1
            noise = layer.noise.data_ptr() + (
                sample * _FLOAT * conv.size[0] * conv.size[1] if own_noise else 0
            )
            strength = conv.noise_strength.data_ptr()
        y, y_batch, y_first = (0, 0, 0) if to is None else (to.data.data_ptr(), to.batch, to.first)
        count = layer.known.head_channels
        heads = (layer.heads + sample * count * out, layer.head_bias, below) if image else (0, 0, 0)
        return (
            x.data.data_ptr(), layer.weight.data_ptr(), layer.demod + sample * out, noise, strength,
            layer.bias, 0 if following is None else following.styles + sample * out, y, *heads, image, 0,
            x.n, x.batch, x.first, y_batch, y_first, x.channels, channels, x.height, x.width, count,
            _LRELU_SLOPE, _GAIN, -1.0 if conv.conv_clamp is None else conv.conv_clamp,
            layer.choice.chunk_bytes, 0, DTYPES[self.dtype], conv.up, own_noise, layer.choice.groups_inside,
        )  # fmt: skip


def _together(layer: _Layer) -> bool:
    return layer.choice.takes_together(*layer.known.conv.size)


def _noise(layer: KnownLayer, noise: Tensor | None, start: int, n: int) -> Tensor | None:
    """Noise [H, W] or [1 or n, 1, H, W] of the images from `start` on, float32 and dense."""
    if noise is None:
        return None
    if tuple(noise.shape[-2:]) != layer.conv.size or noise.numel() % (
        layer.conv.size[0] * layer.conv.size[1]
    ):
        raise ShapeError(f"noise of {layer.name} must be of size {layer.conv.size}; got {list(noise.shape)}")
    if noise.ndim == 4:
        noise = noise[start : start + n] if noise.shape[0] > 1 else noise
    return noise.float().contiguous()


def _rooms(layers: Sequence[KnownLayer], n: int) -> tuple[list[tuple[int, ...]], int]:
    """For each layer where its styles, demodulation, bias, heads and their bias begin; all bytes."""
    rooms, end = [], 0
    for layer in layers:
        out, heads = padded(layer.out_channels), layer.head_channels
        room = []
        for count in (n * padded(layer.in_channels), n * out, out, n * heads * out, padded(heads)):
            room.append(end)
            end += count * _FLOAT
        rooms.append(tuple(room))
    return rooms, end


def _style_rows(layers: Sequence[_Layer], squares: Sequence[Tensor]) -> NDArray[np.void]:
    """What `layer_styles` does: a row for each convolution and each head."""
    rows: list[tuple[Any, ...]] = []
    for layer, square in zip(layers, squares, strict=True):
        conv, inside = layer.known.conv, layer.known.in_channels
        demodulation = layer.known.weight.demodulation_gain(_GAIN)
        row = (
            _affine(conv), 0, square.data_ptr(), conv.bias.data_ptr(), layer.styles, layer.demod, layer.bias,
            inside, layer.known.out_channels, layer.known.w_index, padded(inside), demodulation, _GAIN,
        )  # fmt: skip
        rows.append(row)
        done, channels = 0, layer.known.out_channels
        stride = layer.known.head_channels * padded(channels)
        for head in layer.known.heads:
            count = head.weight.shape[0]
            styles = layer.heads + done * padded(channels) * _FLOAT
            row = (
                _affine(head), head.weight.data_ptr(), 0, head.bias.data_ptr(), styles, 0,
                layer.head_bias + done * _FLOAT, channels, count, layer.known.w_index + 1, stride,
                head.weight_gain, 1.0,
            )  # fmt: skip
            rows.append(row)
            done += count
    return np.array([(*affine[:2], *rest, *affine[2:]) for affine, *rest in rows], dtype=LAYER_STYLE)


def _affine(layer: StyledConv2d | StyledHead) -> tuple[int, int, float, float]:
    """Addresses of weight and bias of its affine layer, and their gains."""
    affine = layer.affine
    bias = 0 if affine.bias is None else affine.bias.data_ptr()
    return affine.weight.data_ptr(), bias, affine.weight_gain, affine.bias_gain

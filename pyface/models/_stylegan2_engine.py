"""The synthesis of StyleGAN2 without gradients on the CPU: every layer one native call.

Layers of low resolution take the whole batch at once, since reading their weights is what costs; then images
go one by one through the remaining layers, so that their activations stay in the cache
(`pyface.ops.engine_choice` says from which layer on). Styles, demodulation and the weights of heads are
computed for all layers in one call.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    is_kept,
    kept_plans,
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
        known_now, const = last_known(network), network.blocks()[0].const
        for first in range(0, len(ws), MOST_SAMPLES):
            last = min(first + MOST_SAMPLES, len(ws))
            own = [_noise(x, noise[x.block].get(x.name), first, last - first) for x in known_now.layers]
            _run(known_now, ws[first:last], own, const, image[first:last], dtype)
    return dict(zip(spectra, image.split(list(spectra.values()), 1), strict=True))


class _Layer(NamedTuple):
    """One convolution with all that it needs for a batch; addresses of float32 numbers, channels padded."""

    known: KnownLayer
    weight: int
    noise: _NoiseKind
    choice: Choice
    styles: int
    demod: int
    bias: int
    heads: int
    head_bias: int


class _NoiseKind(NamedTuple):
    """Whether a layer gets noise, and an own one for every image."""

    given: bool
    own: bool


_MOST_PLANS = 8  # that a thread keeps


def _run(
    network: Known,
    ws: Tensor,
    noise: Sequence[Tensor | None],
    const: Tensor,
    image: Tensor,
    dtype: torch.dtype,
) -> None:
    """At most `MOST_SAMPLES` images from `const` to `image` [n, C, H, W]; noise of each layer, dense."""
    layers = network.layers
    with network.lock:  # packed weights are shared by threads
        kept = [*(layer.weight for layer in layers), *(x for layer in layers for x in layer.matrices)]
        weights = [layer.conv.weight for layer in layers]
        weights += [affine.weight for layer in layers for affine in layer.affines]
        packed = packed_weights(weights, kept, dtype)
        squares = [layer.weight.read_squares[dtype] for layer in layers]
    kinds = tuple(_NoiseKind(x is not None, x is not None and x.ndim == 4 and len(x) > 1) for x in noise)
    choices = tuple(layer.choice(dtype) for layer in layers)
    addresses = tuple(x.data_ptr() for tensors in (network.now, packed, squares) for x in tensors)
    key = (id(network), len(ws), dtype, kinds, choices, addresses)
    plans = kept_plans()
    plan: _Plan | None = plans.get(key)
    if plan is None or plan.network() is not network:
        plan = _Planner(network, len(ws), dtype, packed, kinds, choices).plan(squares)
        if is_kept(plan.held):  # memory that had to grow on the way is not this thread's any more
            if len(plans) >= _MOST_PLANS:
                plans.clear()
            plans[key] = plan
    layer_styles(plan.styles, ws)
    block_activations(const, plan.start_styles, plan.start, dtype)
    styled_convs(plan.rows_for(noise, image), ws)


@dataclass
class _Plan:
    """What layers read, but for noise and the last image; a function of addresses alone: `_run` has them."""

    network: weakref.ref[Known]
    styles: NDArray[np.void]
    rows: NDArray[np.void]
    places: list[tuple[int, int]]  # layer and first sample of each row
    start: Blocked
    start_styles: int
    noise_steps: list[int]  # bytes from one image's noise to the next one's
    image_step: int
    held: list[Tensor]

    def rows_for(self, noise: Sequence[Tensor | None], image: Tensor) -> NDArray[np.void]:
        """The rows of all layers."""
        first, steps = [0 if x is None else x.data_ptr() for x in noise], self.noise_steps
        self.rows["noise"] = [first[layer] + sample * steps[layer] for layer, sample in self.places]
        images, last = self.rows["image"], len(noise) - 1
        for row, (layer, sample) in enumerate(self.places):
            if layer == last:
                images[row] = image.data_ptr() + sample * self.image_step
        return self.rows


class _Planner:
    """Lays out at most `MOST_SAMPLES` images on their way through all layers."""

    def __init__(
        self,
        network: Known,
        n: int,
        dtype: torch.dtype,
        packed: Sequence[Tensor],
        kinds: Sequence[_NoiseKind],
        choices: Sequence[Choice],
    ) -> None:
        self.network, self.n, self.dtype = network, n, dtype
        layers = network.layers
        self.matrices = packed[len(layers) :]
        rooms, size = _rooms(layers, n)
        styles = memory("styles", size)
        self.held = [styles]  # memory that rows point to: a later request may have taken its place
        self.layers = [
            _Layer(layer, weight.data_ptr(), kind, choice, *(styles.data_ptr() + offset for offset in room))
            for layer, weight, kind, choice, room in zip(
                layers, packed[: len(layers)], kinds, choices, rooms, strict=True
            )
        ]
        # The first layer that images take one by one.
        self.split = next((i for i, layer in enumerate(self.layers) if not _together(layer)), len(layers))
        self.places: list[tuple[int, int]] = []

    def plan(self, squares: Sequence[Tensor]) -> _Plan:
        """The plan of all layers."""
        first, last = self.layers[0], self.layers[-1]
        start = Blocked.new("low 1", self.dtype, self.n, first.known.in_channels, first.known.conv.size)
        self.held.append(start.data)
        rows = np.array(self._rows(start), dtype=STYLED_CONV)
        sizes = [_FLOAT * math.prod(layer.known.conv.size) for layer in self.layers]
        steps = [size if layer.noise.own else 0 for size, layer in zip(sizes, self.layers, strict=True)]
        return _Plan(
            weakref.ref(self.network), _style_rows(self.layers, squares, self.matrices), rows, self.places,
            start, first.styles, steps, sizes[-1] * last.known.head_channels, self.held,
        )  # fmt: skip

    def _rows(self, start: Blocked) -> list[tuple[float, ...]]:
        rows: list[tuple[float, ...]] = []
        split = self.split
        x, below = self._part(rows, 0, split, 0, start, 0)
        if split < len(self.layers):
            # Of an image below; the last layer before the split need not be one with heads.
            heads = next((layer for layer in reversed(self.layers[:split]) if layer.known.heads), None)
            stride = (
                0 if heads is None else heads.known.head_channels * _FLOAT * math.prod(heads.known.conv.size)
            )
            for i in range(self.n):
                one = Blocked(x.data, x.channels, x.height, x.width, self.n, i, 1)
                self._part(rows, split, len(self.layers), i, one, below and below + i * stride)
        return rows

    def _part(
        self, rows: list[tuple[float, ...]], begin: int, end: int, sample: int, x: Blocked, below: int
    ) -> tuple[Blocked, int]:
        """Adds the rows of layers [begin, end) for x.n images from `sample` on.

        Gives where their features will be, and the address of the image of their heads or 0; that of the
        network's last layer is not known yet.
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
            if layer.known.heads and following is not None:
                bytes_needed = x.n * layer.known.head_channels * size[0] * size[1] * _FLOAT
                kept = memory(f"{kind} image {index % 4}", bytes_needed)
                self.held.append(kept)
                image = kept.data_ptr()
            rows.append(self._row(layer, following, sample, x, to, below, image))
            self.places.append((index, sample))
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
        strength = conv.noise_strength.data_ptr() if layer.noise.given else 0
        y, y_batch, y_first = (0, 0, 0) if to is None else (to.data.data_ptr(), to.batch, to.first)
        count = layer.known.head_channels
        heads = (
            (layer.heads + sample * count * out, layer.head_bias, below) if layer.known.heads else (0, 0, 0)
        )
        return (
            x.data.data_ptr(), layer.weight, layer.demod + sample * out, 0, strength,
            layer.bias, 0 if following is None else following.styles + sample * out, y, *heads, image, 0,
            x.n, x.batch, x.first, y_batch, y_first, x.channels, channels, x.height, x.width, count,
            _LRELU_SLOPE, _GAIN, -1.0 if conv.conv_clamp is None else conv.conv_clamp,
            layer.choice.chunk_bytes, 0, DTYPES[self.dtype], conv.up, layer.noise.own,
            layer.choice.groups_inside,
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


def _style_rows(
    layers: Sequence[_Layer], squares: Sequence[Tensor], matrices: Sequence[Tensor]
) -> NDArray[np.void]:
    """What `layer_styles` does: a row for each convolution and each head, whose affine matrices are given."""
    rows: list[tuple[Any, ...]] = []
    following = iter(matrices)
    for layer, square in zip(layers, squares, strict=True):
        conv, inside = layer.known.conv, layer.known.in_channels
        demodulation = layer.known.weight.demodulation_gain(_GAIN)
        row = (
            _affine(conv, next(following), square), 0, square.data_ptr(), conv.bias.data_ptr(), layer.styles,
            layer.demod, layer.bias, inside, layer.known.out_channels, layer.known.w_index, padded(inside),
            demodulation, _GAIN,
        )  # fmt: skip
        rows.append(row)
        done, channels = 0, layer.known.out_channels
        stride = layer.known.head_channels * padded(channels)
        for head in layer.known.heads:
            count = head.weight.shape[0]
            styles = layer.heads + done * padded(channels) * _FLOAT
            row = (
                _affine(head, next(following)), head.weight.data_ptr(), 0, head.bias.data_ptr(), styles, 0,
                layer.head_bias + done * _FLOAT, channels, count, layer.known.w_index + 1, stride,
                head.weight_gain, 1.0,
            )  # fmt: skip
            rows.append(row)
            done += count
    return np.array(
        [(*affine[:2], *rest[:-2], *affine[2:4], *rest[-2:], *affine[4:]) for affine, *rest in rows],
        dtype=LAYER_STYLE,
    )


def _affine(
    layer: StyledConv2d | StyledHead, matrix: Tensor, square: Tensor | None = None
) -> tuple[int, int, int, int, float, float]:
    """Addresses of `matrix` and bias of its affine layer, element types of matrix and squares, gains."""
    affine = layer.affine
    bias = 0 if affine.bias is None else affine.bias.data_ptr()
    types = DTYPES[matrix.dtype], DTYPES[torch.float32 if square is None else square.dtype]
    return matrix.data_ptr(), bias, *types, affine.weight_gain, affine.bias_gain

"""The synthesis of StyleGAN2 without gradients on the CPU: every layer one native call.

Layers of low resolution take the whole batch at once, since reading their weights is what costs; then images
go one by one through the remaining layers, so that their activations stay in the cache
(`pyface.ops.engine_choice` says from which layer on).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from pyface.nn.conv import activation_gain
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops import upsample2d
from pyface.ops._autograd import NativePrimitives
from pyface.ops._dispatch import dispatch_modes, primitives
from pyface.ops.engine_choice import Choice
from pyface.ops.styled_conv import (
    MOST_HEAD_CHANNELS,
    Blocked,
    PackedWeight,
    best_choice,
    block_activations,
    engine_dtype,
    memory,
    padded,
    styled_conv,
)

if TYPE_CHECKING:
    from pyface.models.stylegan2 import SynthesisNetwork

__all__ = ["engine_precision", "synthesize"]

_MOST_TOGETHER = 16  # images of such a batch
_LRELU_SLOPE = 0.2
_packed: weakref.WeakKeyDictionary[StyledConv2d, PackedWeight] = weakref.WeakKeyDictionary()


def engine_precision(network: SynthesisNetwork, ws: Tensor, precision: str | None) -> torch.dtype | None:
    """The element type in which `synthesize` can do what is asked, or None: the layers themselves have to.

    They have to where a gradient is wanted, under tracing and dispatch modes, with other back-ends than the
    CPU kernels, with hooks on any layer, and for other architectures, activations and filters than those of
    StyleGAN2.
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
    parameters = list(network.parameters())
    if any(p.dtype != torch.float32 or not p.is_cpu for p in parameters):
        return None
    if torch.is_grad_enabled() and (ws.requires_grad or any(p.requires_grad for p in parameters)):
        return None
    for module in network.modules():
        if getattr(module, "backend", "auto") not in ("auto", "cpu"):
            return None
        if module is not network and (module._forward_hooks or module._forward_pre_hooks):
            return None
    chosen = primitives(ws, "auto")
    if not isinstance(chosen, NativePrimitives) or chosen.backend.name != "cpu":
        return None
    if dispatch_modes() or len(ws) == 0:  # sizes have no values under tracing
        return None
    wanted = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return engine_dtype(ws, wanted)


class _Layer(NamedTuple):
    """One convolution with all that it needs for a batch, channels padded."""

    conv: StyledConv2d
    weight: PackedWeight
    styles: Tensor
    demod: Tensor
    noise: Tensor | None
    bias: Tensor
    heads: Tensor | None
    head_bias: Tensor | None
    choice: Choice

    @property
    def channels(self) -> int:
        return self.conv.weight.shape[0]

    @property
    def together(self) -> bool:
        return self.choice.takes_together(*self.conv.size)


def synthesize(
    network: SynthesisNetwork, ws: Tensor, noise: Sequence[Mapping[str, Tensor | None]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Images [N, C, H, W] by spectrum.

    Args:
        network: that `engine_precision` accepts.
        ws: [N, num_ws, w_dim].
        noise: of each block, by the names of its convolutions.
        dtype: what `engine_precision` gave.
    """
    with torch.no_grad():
        ws = ws.float()
        parts = [
            _synthesize_together(network, ws[i : i + _MOST_TOGETHER], noise, i, dtype)
            for i in range(0, len(ws), _MOST_TOGETHER)
        ]
        image = parts[0] if len(parts) == 1 else torch.cat(parts)
        spectra = network.config.spectra
        return dict(zip(spectra, image.split(list(spectra.values()), 1), strict=True))


def _layers(
    network: SynthesisNetwork,
    ws: Tensor,
    noise: Sequence[Mapping[str, Tensor | None]],
    start: int,
    dtype: torch.dtype,
) -> list[_Layer]:
    layers = []
    index = 0
    for block, block_noise in zip(network.blocks(), noise, strict=True):
        for name in block.conv_names:
            conv: StyledConv2d = getattr(block, name)
            weight = _packed.get(conv)
            if weight is None:
                weight = _packed[conv] = PackedWeight(conv.up)
            weight.update(conv.weight, dtype)
            gain = activation_gain(conv.activation)
            styles = padded(conv.affine(ws[:, index]))
            index += 1
            heads = head_bias = None
            if name == block.conv_names[-1]:
                every = cast("list[StyledHead]", list(block.heads.values()))
                heads = torch.cat([_head_weights(head, ws[:, index]) for head in every], dim=1)
                head_bias = torch.cat([head.bias for head in every])
            layers.append(
                _Layer(
                    conv,
                    weight,
                    styles,
                    weight.demodulation(styles, gain),
                    _scaled_noise(conv, block_noise.get(name), start, len(ws), gain),
                    padded(conv.bias * gain),
                    heads,
                    head_bias,
                    best_choice(dtype, conv.up, conv.weight.shape, conv.size),
                )
            )
    return layers


def _head_weights(head: StyledHead, w: Tensor) -> Tensor:
    styles = head.affine(w) * head.weight_gain
    return padded(head.weight.flatten(1) * styles.unsqueeze(1))


def _scaled_noise(conv: StyledConv2d, noise: Tensor | None, start: int, n: int, gain: float) -> Tensor | None:
    if noise is None:
        return None
    if noise.ndim == 4:
        noise = noise[start : start + n] if noise.shape[0] > 1 else noise
    return (noise.float() * (conv.noise_strength * gain)).contiguous()


def _synthesize_together(
    network: SynthesisNetwork,
    ws: Tensor,
    noise: Sequence[Mapping[str, Tensor | None]],
    start: int,
    dtype: torch.dtype,
) -> Tensor:
    layers = _layers(network, ws, noise, start, dtype)
    n = len(ws)
    taps = network.blocks()[0].filter.taps
    split = next((i for i, layer in enumerate(layers) if not layer.together), len(layers))
    first = layers[0].conv
    x = _buffer("low", 1, n, first.weight.shape[1], first.size, dtype)
    block_activations(network.blocks()[0].const, layers[0].styles, x, dtype)
    x, image = _run(layers, 0, split, slice(0, n), x, None, taps, "low", dtype)
    if split < len(layers):
        images: list[Tensor | None] = []
        for i in range(n):
            one = Blocked(x.data, x.channels, x.height, x.width, n, i, 1)
            below = None if image is None else image[i : i + 1]
            images.append(
                _run(layers, split, len(layers), slice(i, i + 1), one, below, taps, "high", dtype)[1]
            )
        image = torch.cat([made for made in images if made is not None])
    if image is None:
        raise RuntimeError("a synthesis network has heads at its last resolution")
    return image


def _buffer(
    kind: str, index: int, n: int, channels: int, size: tuple[int, int], dtype: torch.dtype
) -> Blocked:
    data = memory(f"{kind} {index}", Blocked.bytes(torch.empty(0), dtype, n, channels, *size))
    return Blocked(data, channels, *size, n, 0, n)


def _run(
    layers: list[_Layer],
    begin: int,
    end: int,
    samples: slice,
    x: Blocked,
    image: Tensor | None,
    taps: Tensor,
    kind: str,
    dtype: torch.dtype,
) -> tuple[Blocked, Tensor | None]:
    """Layers [begin, end) for `samples`; their last features and image."""
    n = samples.stop - samples.start
    for index in range(begin, end):
        layer = layers[index]
        following = layers[index + 1] if index + 1 < len(layers) else None
        to = None
        if following is not None:
            to = _buffer(kind, index % 2, n, layer.channels, layer.conv.size, dtype)
        clamp = layer.conv.conv_clamp
        target = below = None
        if layer.head_bias is not None:
            below = None if image is None else upsample2d(image, taps)
            target = _head_target(layer.head_bias, layer.conv, below, n)
        styled_conv(
            x,
            layer.weight,
            dtype,
            layer.demod[samples],
            _noise_of(layer.noise, samples),
            layer.bias,
            to,
            None if following is None else following.styles[samples],
            None if layer.heads is None else layer.heads[samples],
            target,
            layer.channels,
            _LRELU_SLOPE,
            -1.0 if clamp is None else clamp,
            layer.choice,
        )
        if target is not None:
            if clamp is not None:
                target.clamp_(-clamp, clamp)
                target = target if below is None else target.add_(below)
            image = target
        if to is not None:
            x = to
    return x, image


def _noise_of(noise: Tensor | None, samples: slice) -> Tensor | None:
    per_sample = noise is not None and noise.ndim == 4 and noise.shape[0] > 1
    return noise[samples] if noise is not None and per_sample else noise


def _head_target(bias: Tensor, conv: StyledConv2d, below: Tensor | None, n: int) -> Tensor:
    """What heads are added to: their bias, and the image below where nothing is clamped."""
    bias = bias.reshape(1, -1, 1, 1)
    if below is None or conv.conv_clamp is not None:
        return bias.expand(n, -1, *conv.size).contiguous()
    return below.add_(bias)

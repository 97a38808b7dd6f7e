"""The synthesis of StyleGAN2 with static weights: what exporters take.

A style scales the input of a convolution and the demodulation its output, so that all images of a batch share
the weights and the batch stays free. Gains, squares of weights, noise and its strength are folded into
constants; everything that is known beforehand is computed in float64 and rounded once.
Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 2.2 and figure 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.export.up_form import UP_FORMS, Upsample
from pyface.models.stylegan2 import SynthesisNetwork
from pyface.nn import SynthesisBlock
from pyface.nn.conv import EqualizedConv2d, activation_gain
from pyface.nn.linear import EqualizedLinear
from pyface.nn.style import StyledConv2d, StyledHead
from pyface.ops import bias_act

__all__ = ["HOMOGENEOUS", "SynthesisForm", "folded_linear", "wide"]

EPS = 1e-8  # of demodulation, as in `pyface.ops.modulated_conv2d`
LEAST = 1e-15  # below this a filter or a style counts as zero where it divides
FLOAT16_CLAMP = 256.0  # without a clamp of its own a network has this one in float16
HOMOGENEOUS = ("linear", "relu", "lrelu")  # act(g x) = g act(x) for g > 0, so that gains move into weights


def wide(tensor: Tensor) -> Tensor:
    """`tensor` on the CPU in float64, in which constants are computed."""
    return tensor.detach().to("cpu", torch.float64)


def folded_linear(layer: EqualizedLinear, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out] of a linear layer with its gains and `gain`, float64."""
    weight = wide(layer.weight) * (layer.weight_gain * gain)
    if layer.bias is None:
        return weight, torch.zeros(len(weight), dtype=torch.float64)
    return weight, wide(layer.bias) * (layer.bias_gain * gain)


def _per_channel(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, C] as it scales features [N, C, H, W]."""
    return factors.to(dtype)[:, :, None, None]


def _normalized(styles: Tensor) -> tuple[Tensor, Tensor]:
    """`styles` [N, C] by their largest magnitude, and that [N, 1]: float16 has too few bits for raw ones."""
    largest = styles.abs().amax(dim=1, keepdim=True).clamp(min=LEAST)
    return styles / largest, largest


def _filter_scale(weight: Tensor) -> Tensor:
    """What filters [O, ...] are multiplied by so that no sum of float16 products overflows: [O]."""
    fan_in = weight[0].numel()
    return 1 / (weight.flatten(1).abs().amax(dim=1).clamp(min=LEAST) * math.sqrt(fan_in))


def _heads(block: SynthesisBlock) -> dict[str, StyledHead]:
    return cast("dict[str, StyledHead]", dict(block.heads.items()))


class _Styles(nn.Module):
    """Styles of all convolutions and heads, in their order: one linear layer for all that share a w."""

    def __init__(self, groups: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.sizes = [[len(bias) for _, bias in group] for group in groups]
        for index, group in enumerate(groups):
            weights, biases = zip(*group, strict=True)
            self.register_buffer(f"weight{index}", torch.cat(weights).float())
            self.register_buffer(f"bias{index}", torch.cat(biases).float())

    def forward(self, ws: Tensor) -> Iterator[Tensor]:
        """ws: [N, w_dim] for one group, else [N, groups, w_dim]. Styles are float32 [N, C]."""
        for index, sizes in enumerate(self.sizes):
            w = ws if ws.ndim == 2 else ws[:, index]
            styles = F.linear(w, self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}"))
            yield from styles.split(sizes, dim=1) if len(sizes) > 1 else (styles,)


class _StyledConv(nn.Module):
    """A styled convolution without its affine layer; `gain` scales its output further.

    In float16 styles and filters are scaled to at most 1 and 1 / sqrt(fan in); the demodulation, in float32,
    takes both back.
    """

    squares: Tensor
    eps: Tensor
    bias: Tensor
    noise: Tensor
    weight: Tensor

    def __init__(self, conv: StyledConv2d, gain: float, dtype: torch.dtype, up_form: str, noise: str) -> None:
        super().__init__()
        weight, total = wide(conv.weight), activation_gain(conv.activation) * gain
        self.activation, self.size, self.dtype = conv.activation, conv.size, dtype
        self.noise_mode = noise if conv.use_noise else "none"
        clamp = FLOAT16_CLAMP if conv.conv_clamp is None and dtype == torch.float16 else conv.conv_clamp
        self.clamp = None if clamp is None else clamp * gain
        folded = total if conv.activation in HOMOGENEOUS else 1.0
        self.gain = total / folded
        scale = torch.full((len(weight),), folded, dtype=torch.float64)
        squares = weight.square().sum(dim=(2, 3))
        if dtype == torch.float16:
            filters = _filter_scale(weight)
            weight, scale = weight * filters[:, None, None, None], scale / filters
        # scale / sqrt(squares . styles^2 + eps), with the scale inside the root
        self.register_buffer("squares", (squares / scale[:, None].square()).float())
        self.register_buffer("eps", (EPS / scale.square()).float())
        self.register_buffer("bias", (wide(conv.bias) * folded).to(dtype))
        if self.noise_mode != "none":
            strength = wide(conv.noise_strength) * folded
            if self.noise_mode == "const":
                self.register_buffer("noise", (wide(conv.noise_const) * strength).to(dtype)[None, None])
            else:
                self.register_buffer("noise", strength.float())
        self.conv: nn.Module | None = None
        if conv.filter is not None:
            self.conv = UP_FORMS[up_form](weight, wide(conv.filter.taps), dtype)
        else:
            self.register_buffer("weight", weight.to(dtype))

    def forward(self, x: Tensor, styles: Tensor, noise: Tensor | None) -> Tensor:
        """[N, O, *size] of x [N or 1, I, H, W], styles float32 [N, I], noise float32 [N, height * width]."""
        demod = F.linear(styles * styles, self.squares, self.eps).rsqrt()
        if self.dtype == torch.float16:
            styles, largest = _normalized(styles)
            demod = demod * largest
        x = x * _per_channel(styles, self.dtype)
        y = F.conv2d(x, self.weight, padding=1) if self.conv is None else self.conv(x)
        y = y * _per_channel(demod, self.dtype)
        if noise is not None:
            y = y + (noise * self.noise).to(self.dtype).reshape(-1, 1, *self.size)
        elif self.noise_mode == "const":
            y = y + self.noise
        return bias_act(y, self.bias, act=self.activation, gain=self.gain, clamp=self.clamp)


class _Head(nn.Module):
    """A modulated pointwise convolution to the channels of one spectrum; its sum is scaled in float32."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, head: StyledHead, dtype: torch.dtype) -> None:
        super().__init__()
        weight = wide(head.weight)
        self.dtype = dtype
        self.clamp = FLOAT16_CLAMP if head.conv_clamp is None and dtype == torch.float16 else head.conv_clamp
        if dtype == torch.float16:
            filters = _filter_scale(weight)
            weight = weight * filters[:, None, None, None]
            self.register_buffer("scale", (1 / filters).float())
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", wide(head.bias).float())

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """float32 [N, O, H, W] of x [N, C, H, W] and styles float32 [N, C]."""
        if self.dtype == torch.float32:
            y = F.conv2d(x * _per_channel(styles, x.dtype), self.weight, self.bias)
            return y if self.clamp is None else bias_act(y, clamp=self.clamp)
        if self.dtype != torch.float16:
            y = F.conv2d(x * _per_channel(styles, x.dtype), self.weight).float()
        else:
            styles, largest = _normalized(styles)
            y = F.conv2d(x * _per_channel(styles, x.dtype), self.weight).float()
            y = y * _per_channel(largest * self.scale, y.dtype)
        return bias_act(y, self.bias, clamp=self.clamp)


class _Block(nn.Module):
    """One resolution: a constant or an up-sampling convolution, a second one, and a head per spectrum."""

    const: Tensor

    def __init__(self, block: SynthesisBlock, dtype: torch.dtype, up_form: str, noise: str) -> None:
        super().__init__()
        self.first = block.in_channels == 0
        gain = math.sqrt(0.5)
        skip = block.skip if isinstance(block.skip, EqualizedConv2d) else None
        if self.first:
            self.register_buffer("const", wide(block.const).to(dtype)[None])
        else:
            self.conv0 = _StyledConv(block.conv0, 1.0, dtype, up_form, noise)
        self.conv1 = _StyledConv(block.conv1, 1.0 if skip is None else gain, dtype, up_form, noise)
        self.skip: nn.Module | None = None
        if skip is not None:
            weight = wide(skip.weight) * (skip.weight_gain * gain)
            self.skip = UP_FORMS[up_form](weight, wide(block.filter.taps), dtype)
        self.heads = nn.ModuleDict({name: _Head(head, dtype) for name, head in _heads(block).items()})
        self.upsample = Upsample(wide(block.filter.taps))

    def forward(
        self, x: Tensor | None, image: Tensor | None, styles: Iterator[Tensor], noise: Iterator[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Features in the form's element type, and the images of all spectra side by side, float32."""
        if x is None:
            x = self.conv1(self.const, next(styles), next(noise, None))
        else:
            shortcut = None if self.skip is None else self.skip(x)
            x = self.conv0(x, next(styles), next(noise, None))
            x = self.conv1(x, next(styles), next(noise, None))
            x = x if shortcut is None else shortcut + x
        if not self.heads:
            return x, image
        made = [head(x, next(styles)) for head in self.heads.values()]
        y = made[0] if len(made) == 1 else torch.cat(made, dim=1)
        return x, y if image is None else self.upsample(image) + y


class SynthesisForm(nn.Module):
    """Images float32 [N, C, H, W] of all spectra side by side.

    Args:
        network: whose weights it takes a copy of, on the CPU.
        dtype: of features and of the weights of convolutions; styles, demodulation and images stay float32.
        up_form: a key of `UP_FORMS`.
        noise: "const", "input" or "none".
        one_w: `forward` takes one w for all layers.
    """

    def __init__(
        self, network: SynthesisNetwork, *, dtype: torch.dtype, up_form: str, noise: str, one_w: bool
    ) -> None:
        super().__init__()
        groups: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(network.num_ws)]
        index = 0
        self.names: list[str] = []
        for name, block in network.named_children():
            if not isinstance(block, SynthesisBlock):
                continue
            for conv in block.conv_names:
                groups[index].append(folded_linear(getattr(block, conv).affine))
                index += 1
            for head in _heads(block).values():
                groups[index].append(folded_linear(head.affine, head.weight_gain))
            self.add_module(name, _Block(block, dtype, up_form, noise))
            self.names.append(name)
        self.styles = _Styles([list(chain.from_iterable(groups))] if one_w else groups)
        self.noise_sizes = [height * width for height, width in network.noise_shapes().values()]

    def forward(self, ws: Tensor, noise: Tensor | None = None) -> Tensor:
        """ws: [N, num_ws, w_dim], or [N, w_dim] for one w. noise: [N, sum of the layers' pixels]."""
        styles = self.styles(ws)
        parts = iter(()) if noise is None else iter(noise.split(self.noise_sizes, dim=1))
        x: Tensor | None = None
        image: Tensor | None = None
        for name in self.names:
            x, image = self.get_submodule(name)(x, image, styles, parts)
        if image is None:
            raise RuntimeError("the last block of a synthesis has heads")
        return image

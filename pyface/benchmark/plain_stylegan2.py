"""The StyleGAN2 networks in plain torch as one writes them from the paper: what ours are measured against.

Per-sample modulated weights in a grouped convolution, a grouped transposed convolution to double the size,
the FIR filter as a depthwise convolution, bias, activation and gain as separate steps, everything NCHW in
the dtype of the weights. Parameters carry the names of `pyface.models.stylegan2`, so that a state dict fits
both.
Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", sections 2.2 and 4,
appendix B; Karras et al. 2018, "Progressive growing of GANs", sections 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.models import DiscriminatorConfig, GeneratorConfig

__all__ = ["PlainDiscriminator", "PlainGenerator", "PlainStyledConv", "plain_twin"]

EPS = 1e-8
SQRT_HALF = math.sqrt(0.5)


def plain_twin(network: nn.Module) -> PlainGenerator | PlainDiscriminator:
    """`network`, a StyleGAN2 generator or discriminator of ours, in plain torch with the same weights.

    Raises ValueRangeError for a configuration that the twin has no form of.
    """
    config: Any = network.config
    twin: PlainGenerator | PlainDiscriminator
    if isinstance(config, GeneratorConfig):
        twin = PlainGenerator(config)
    else:
        twin = PlainDiscriminator(config)
    first = next(network.parameters())
    twin = twin.to(device=first.device, dtype=first.dtype).train(network.training)
    twin.load_state_dict(network.state_dict())
    return twin


def _check(config: GeneratorConfig | DiscriminatorConfig, architecture: str) -> None:
    found = (config.architecture, config.activation, len(config.spectra))
    wanted = (architecture, "lrelu", 1)
    if found != wanted or config.sizes[0] != (4, 4):
        raise ValueRangeError(
            f"the plain twin is made for architecture, activation and number of spectra {wanted} "
            f"that begin at 4 x 4; got {found} and {config.sizes[0]}."
        )
    if isinstance(config, DiscriminatorConfig) and (config.c_dim, config.conv_clamp) != (0, None):
        raise ValueRangeError(
            "the plain twin of a discriminator has neither condition nor clamp; "
            f"got c_dim {config.c_dim} and conv_clamp {config.conv_clamp}."
        )


def _clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def _activate(x: Tensor, bias: Tensor | None, gain: float = 1.0) -> Tensor:
    if bias is not None:
        x = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return F.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)


class _Filtered(nn.Module):
    """A module that resamples: the 2-D low-pass filter."""

    taps: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        row = torch.tensor(list(taps), dtype=torch.float32)
        self.register_buffer("taps", torch.outer(row, row) / row.sum().square(), persistent=False)

    def blur(self, x: Tensor, before: int, after: int, gain: float = 1.0, step: int = 1) -> Tensor:
        """`x` padded by (before, after) on both axes and filtered; every step-th pixel."""
        channels = x.shape[1]
        kernel = (self.taps.flip([0, 1]) * gain).to(x.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(F.pad(x, [before, after, before, after]), kernel, groups=channels, stride=step)

    def upsample(self, x: Tensor) -> Tensor:
        """`x` with twice the size: zeros between the pixels, then the filter."""
        n, c, h, w = x.shape
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, 1, 0, 0, 0, 1]).reshape(n, c, 2 * h, 2 * w)
        size = self.taps.shape[0]
        return self.blur(x, (size + 1) // 2, (size - 2) // 2, gain=4.0)


class _Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, active: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(inputs), lr_multiplier
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias * self.bias_gain
        y = x @ (self.weight * self.weight_gain).t()
        return _activate(y, bias) if self.active else y + bias


def _normalized(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=1, keepdim=True) + EPS).rsqrt()


class _Mapping(nn.Module):
    w_avg: Tensor

    def __init__(self, config: GeneratorConfig, num_ws: int) -> None:
        super().__init__()
        self.num_ws, self.decay, self.layers = num_ws, config.w_avg_decay, config.mapping_layers
        self.embed = _Linear(config.c_dim, config.w_dim) if config.c_dim else None
        sizes = [config.z_dim + (config.w_dim if config.c_dim else 0)] + [config.w_dim] * self.layers
        for index in range(self.layers):
            layer = _Linear(sizes[index], sizes[index + 1], config.mapping_lr_multiplier, active=True)
            self.add_module(f"fc{index}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None, update_w_avg: bool = False) -> Tensor:
        w = _normalized(z.to(self.w_avg.dtype))
        if self.embed is not None and c is not None:
            w = torch.cat([w, _normalized(self.embed(c.to(w.dtype)))], dim=1)
        for index in range(self.layers):
            w = getattr(self, f"fc{index}")(w)
        if update_w_avg:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.decay))
        return w.unsqueeze(1).repeat(1, self.num_ws, 1)


def _modulated(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, up: bool) -> Tensor:
    """Every sample convolved with its own weights, as groups of one convolution; up: stride 1/2."""
    n, c, h, w = x.shape
    weights = weight.unsqueeze(0) * styles.reshape(n, 1, c, 1, 1)
    if demodulate:
        weights = weights * (weights.square().sum(dim=[2, 3, 4], keepdim=True) + EPS).rsqrt()
    x = x.reshape(1, n * c, h, w)
    if up:
        weights = weights.flip([3, 4]).transpose(1, 2)
        y = F.conv_transpose2d(x, weights.reshape(n * c, -1, *weight.shape[2:]), stride=2, groups=n)
    else:
        y = F.conv2d(x, weights.reshape(-1, c, *weight.shape[2:]), padding=weight.shape[2] // 2, groups=n)
    return y.reshape(n, -1, *y.shape[2:])


class PlainStyledConv(_Filtered):
    """A modulated 3x3 convolution with noise, bias and activation; up: to twice the size."""

    noise_const: Tensor

    def __init__(self, config: GeneratorConfig, inputs: int, outputs: int, size: int, up: bool) -> None:
        super().__init__(config.resample_filter)
        self.up, self.use_noise, self.clamp = up, config.use_noise, config.effective_clamp
        self.affine = _Linear(config.w_dim, inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        if self.use_noise:
            self.register_buffer("noise_const", torch.empty(size, size))
            self.noise_strength = nn.Parameter(torch.empty([]))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Features of x [N, I, H, W] and w [N, w_dim]; noise: None takes its own."""
        return self.styled(x, self.affine(w), noise)

    def styled(self, x: Tensor, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """The same from styles [N, I]."""
        weight = self.weight.flip([2, 3]) if self.up else self.weight
        x = _modulated(x, weight, styles, demodulate=True, up=self.up)
        if self.up:
            size = self.taps.shape[0]
            x = self.blur(x, (size - 1) // 2, (size - 2) // 2, gain=4.0)
        if self.use_noise:
            noise = self.noise_const if noise is None else noise.to(x.dtype)
            x = x + noise * self.noise_strength
        return _clamped(_activate(x, self.bias), self.clamp)


class _Head(nn.Module):
    def __init__(self, config: GeneratorConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.clamp = config.effective_clamp
        self.affine = _Linear(config.w_dim, inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = _modulated(x, self.weight, styles, demodulate=False, up=False)
        return _clamped(y + self.bias.reshape(1, -1, 1, 1), self.clamp)


class _SynthesisBlock(_Filtered):
    def __init__(self, config: GeneratorConfig, index: int) -> None:
        super().__init__(config.resample_filter)
        size = config.sizes[index]
        channels = config.channels(size)
        self.first = index == 0
        if self.first:
            self.const = nn.Parameter(torch.empty(channels, *size))
        else:
            before = config.channels(config.sizes[index - 1])
            self.conv0 = PlainStyledConv(config, before, channels, size[0], up=True)
        self.conv1 = PlainStyledConv(config, channels, channels, size[0], up=False)
        self.heads = nn.ModuleDict(
            {name: _Head(config, channels, outputs) for name, outputs in config.spectra.items()}
        )

    def forward(
        self, x: Tensor, image: Tensor | None, ws: Tensor, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            x = self.const.unsqueeze(0).repeat(ws.shape[0], 1, 1, 1)
        else:
            x = self.conv0(x, ws[:, 0], noise.get("conv0"))
        x = self.conv1(x, ws[:, -2], noise.get("conv1"))
        (head,) = self.heads.values()
        y = head(x, ws[:, -1])
        return x, y if image is None else self.upsample(image) + y


class _Synthesis(nn.Module):
    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        for index, size in enumerate(config.sizes):
            self.add_module(f"b{size[0]}", _SynthesisBlock(config, index))
        self.num_ws = 2 * len(config.sizes)

    def noise_shapes(self) -> dict[str, tuple[int, int]]:
        """Name and size of every noise input."""
        return {
            f"{name}.{conv}": (int(name[1:]), int(name[1:]))
            for name, block in self.named_children()
            for conv in ("conv0", "conv1")
            if hasattr(block, conv)
        }

    def forward(
        self, ws: Tensor, noise_mode: str = "const", noise: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Images [N, C, H, W] of ws [N, num_ws, w_dim]; noise "given" by name, or its own ("const").

        Raises ValueRangeError for another noise_mode.
        """
        if noise_mode not in ("const", "given"):
            raise ValueRangeError(f"noise_mode of the plain twin is 'const' or 'given'; got {noise_mode!r}.")
        x, image = ws, ws
        for index, (name, block) in enumerate(self.named_children()):
            own = {
                key.split(".")[1]: value for key, value in (noise or {}).items() if key.startswith(name + ".")
            }
            first = max(2 * index - 1, 0)
            x, image = block(x, image if index else None, ws[:, first : 2 * index + 2], own)
        return image


class PlainGenerator(nn.Module):
    """Latents to images, as `pyface.models.StyleGAN2Generator` with architecture "skip"."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        _check(config, "skip")
        self.config, self.z_dim, self.w_dim = config, config.z_dim, config.w_dim
        self.synthesis = _Synthesis(config)
        self.num_ws = self.synthesis.num_ws
        self.mapping = _Mapping(config, self.num_ws)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Images [N, C, H, W] of z [N, z_dim] and c [N, c_dim], with the network's own noise."""
        images: Tensor = self.synthesis(self.mapping(z, c))
        return images


class _Conv(_Filtered):
    def __init__(
        self,
        taps: Sequence[float],
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: bool = False,
        active: bool = True,
    ) -> None:
        super().__init__(taps)
        self.down, self.active = down, active
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if active else None
        self.weight_gain = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight, kernel = self.weight * self.weight_gain, self.weight.shape[2]
        if self.down:
            size = self.taps.shape[0] + kernel - 1
            if kernel == 1:
                x = F.conv2d(self.blur(x, (size - 1) // 2, (size - 2) // 2, step=2), weight)
            else:
                x = F.conv2d(self.blur(x, (size - 1) // 2, (size - 2) // 2), weight, stride=2)
        else:
            x = F.conv2d(x, weight, padding=kernel // 2)
        return _activate(x, self.bias, gain) if self.active else x * gain


class _CriticBlock(nn.Module):
    def __init__(self, config: DiscriminatorConfig, index: int) -> None:
        super().__init__()
        taps = config.resample_filter
        channels, after = (config.channels(config.sizes[i]) for i in (index, index - 1))
        first = index == len(config.sizes) - 1
        self.from_image = _Conv(taps, sum(config.spectra.values()), channels, 1) if first else None
        self.conv0 = _Conv(taps, channels, channels, 3)
        self.conv1 = _Conv(taps, channels, after, 3, down=True)
        self.skip = _Conv(taps, channels, after, 1, down=True, active=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.from_image is not None:
            x = self.from_image(x)
        shortcut = self.skip(x, gain=SQRT_HALF)
        return shortcut + self.conv1(self.conv0(x), gain=SQRT_HALF)


class _CriticHead(nn.Module):
    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        size = config.sizes[0]
        channels = config.channels(size)
        self.group, self.statistics = config.mbstd_group_size, config.mbstd_channels
        self.conv = _Conv(config.resample_filter, channels + self.statistics, channels, 3)
        self.fc = _Linear(channels * size[0] * size[1], channels, active=True)
        self.out = _Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.statistics:
            n, c, h, w = x.shape
            group = n if self.group is None else min(self.group, n)
            y = x.reshape(group, n // group, self.statistics, c // self.statistics, h, w)
            y = ((y - y.mean(dim=0)).square().mean(dim=0) + EPS).sqrt().mean(dim=[2, 3, 4])
            x = torch.cat([x, y.repeat(group, 1).reshape(n, -1, 1, 1).repeat(1, 1, h, w)], dim=1)
        logits: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        return logits


class PlainDiscriminator(nn.Module):
    """Images to logits, as `pyface.models.StyleGAN2Discriminator` with architecture "resnet"."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        _check(config, "resnet")
        self.config = config
        for index in range(len(config.sizes) - 1, 0, -1):
            self.add_module(f"b{config.sizes[index][0]}", _CriticBlock(config, index))
        self.b4 = _CriticHead(config)

    def forward(self, image: Tensor, c: Tensor | None = None) -> Tensor:
        """Logits [N, 1] of images [N, C, H, W]."""
        x = image
        for block in self.children():
            x = block(x)
        return x

"""The synthesis of StyleGAN2 in plain torch with shared weights: what other runtimes take, and torch's best.

The style scales the input of a convolution and the demodulation its output, so that all images of a batch
share the weights: the graph has no sizes that depend on the batch, which exporters need, and 16-bit weights
can be made beforehand. Computes what `pyface.benchmark.plain_stylegan2` computes.
Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 2.2; the phases
of an up-sampling convolution: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
layer?".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.benchmark.plain_stylegan2 import EPS, PlainGenerator

__all__ = ["UP_FORMS", "SharedLayer", "SharedSynthesis"]

SQRT_2 = math.sqrt(2)


def _phase_rows(kernel: Tensor) -> Tensor:
    """The 3-tap kernels [.., 2, 2, 3, 3] by which the four phases of the output read the input.

    kernel: [.., 6, 6], of the transposed convolution with stride 2 and padding 2. Row 2 i + p of the output
    is the sum over t of x[t] kernel[2 i + p + 2 - 2 t].
    """
    taps = torch.tensor([[p + 2 - 2 * d for d in (-1, 0, 1)] for p in (0, 1)])
    return kernel[..., taps, :][..., taps].movedim(-2, -3)


class _Transposed(nn.Module):
    """A transposed convolution with stride 2, then the filter as a depthwise convolution."""

    weight: Tensor
    filter: Tensor

    def __init__(self, weight: Tensor, taps: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.transpose(0, 1).contiguous())
        self.register_buffer("filter", taps.expand(weight.shape[0], 1, -1, -1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(F.conv_transpose2d(x, self.weight, stride=2))

    def smooth(self, y: Tensor) -> Tensor:
        """[.., 2H + 1, 2W + 1] to [.., 2H, 2W]."""
        return F.conv2d(y, self.filter, padding=1, groups=y.shape[1])


class _Separable(_Transposed):
    """The filter along one axis after the other."""

    second: Tensor

    def __init__(self, weight: Tensor, taps: Tensor) -> None:
        super().__init__(weight, taps)
        row = taps.sum(0) / taps.sum().sqrt()
        shape = (weight.shape[0], 1, -1, -1)
        self.register_buffer("filter", row.reshape(-1, 1).expand(shape).contiguous())
        self.register_buffer("second", row.reshape(1, -1).expand(shape).contiguous())

    def smooth(self, y: Tensor) -> Tensor:
        y = F.conv2d(y, self.filter, padding=(1, 0), groups=y.shape[1])
        return F.conv2d(y, self.second, padding=(0, 1), groups=y.shape[1])


class _Phases(_Transposed):
    """Four small convolutions, one for each parity of row and column, laid into each other; the filter."""

    weight00: Tensor
    weight01: Tensor
    weight10: Tensor
    weight11: Tensor

    def __init__(self, weight: Tensor, taps: Tensor) -> None:
        super().__init__(weight, taps)
        self.channels = weight.shape[0]
        for name, row, column in (("00", 0, 0), ("01", 0, 1), ("10", 1, 0), ("11", 1, 1)):
            self.register_buffer(f"weight{name}", weight[:, :, row::2, column::2].flip([2, 3]).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
        y = x.new_empty((n, self.channels, 2 * h + 1, 2 * w + 1))
        if layout is not None:
            y = y.contiguous(memory_format=layout)
        y[:, :, 0::2, 0::2] = F.conv2d(x, self.weight00, padding=1)
        y[:, :, 0::2, 1::2] = F.conv2d(x, self.weight01, padding=(1, 0))
        y[:, :, 1::2, 0::2] = F.conv2d(x, self.weight10, padding=(0, 1))
        y[:, :, 1::2, 1::2] = F.conv2d(x, self.weight11)
        return self.smooth(y)


class _Shuffled(_Transposed):
    """One convolution of 2 x 2 taps to four times the channels, shuffled; the filter."""

    def __init__(self, weight: Tensor, taps: Tensor) -> None:
        super().__init__(weight, taps)
        out, into = weight.shape[:2]
        parity = torch.tensor([[2, 0], [3, 1]])  # taps of even and odd rows; number 3 is a zero
        phases = F.pad(weight, [0, 1, 0, 1])[:, :, parity][..., parity]
        self.weight = phases.permute(0, 2, 4, 1, 3, 5).reshape(4 * out, into, 2, 2).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(F.conv2d(x, self.weight, padding=1), 2)
        return self.smooth(y[:, :, :-1, :-1])


class _Plain(nn.Module):
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1)


class _Folded(nn.Module):
    """One 3x3 convolution to four times the channels with the filter folded into its weights, shuffled."""

    weight: Tensor

    def __init__(self, weight: Tensor, taps: Tensor) -> None:
        super().__init__()
        out, into = weight.shape[:2]
        whole = F.conv2d(weight.reshape(-1, 1, 3, 3), taps.flip([0, 1])[None, None], padding=3)
        phases = _phase_rows(whole.reshape(out, into, 6, 6))  # [out, into, 2, 2, 3, 3]
        self.register_buffer(
            "weight", phases.permute(0, 2, 3, 1, 4, 5).reshape(4 * out, into, 3, 3).contiguous()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(x, self.weight, padding=1), 2)


UP_FORMS: Mapping[str, Callable[[Tensor, Tensor], nn.Module]] = {
    "transposed": _Transposed,
    "separable": _Separable,
    "phases": _Phases,
    "shuffled": _Shuffled,
    "folded": _Folded,
}


class _Affine(nn.Module):
    """Styles of w: a linear layer with its gains folded in."""

    weight: Tensor
    bias: Tensor

    def __init__(self, plain: Any, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("weight", plain.weight.detach() * (plain.weight_gain * gain))
        self.register_buffer("bias", plain.bias.detach() * (plain.bias_gain * gain))

    def forward(self, w: Tensor) -> Tensor:
        return F.linear(w, self.weight, self.bias)


class SharedLayer(nn.Module):
    """A styled convolution without its affine layer: [N, O, H', W'] of x [N, I, H, W] and styles [N, I].

    Weights are those of `plain`, a `PlainStyledConv`; the gain of the activation lies in the demodulation,
    the noise and the bias. Other arguments as for `SharedSynthesis`.
    """

    squares: Tensor
    bias: Tensor
    strength: Tensor
    noise: Tensor | None

    def __init__(
        self,
        plain: Any,
        *,
        up_form: str = "transposed",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        self.in_place = in_place
        self.clamp: float | None = plain.clamp
        weight: Tensor = plain.weight.detach()
        self.register_buffer("squares", weight.square().sum(dim=[2, 3]))
        self.register_buffer("bias", (plain.bias.detach().reshape(1, -1, 1, 1) * SQRT_2).to(dtype))
        self.register_buffer("noise", None)
        if plain.use_noise:
            self.register_buffer("strength", plain.noise_strength.detach() * SQRT_2)
            self.noise = (plain.noise_const * self.strength).to(dtype)
        self.conv = UP_FORMS[up_form](weight, plain.taps * 4) if plain.up else _Plain(weight)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.conv.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """noise: [H', W'] or [N, 1, H', W'], in place of the layer's own."""
        demod = (F.linear(styles.square(), self.squares) + EPS).rsqrt() * SQRT_2
        y = self.conv(x * styles.to(x.dtype)[:, :, None, None])
        demod = demod.to(y.dtype)[:, :, None, None]
        own = self.noise if noise is None else (noise * self.strength).to(y.dtype)
        if self.in_place:
            y = y.mul_(demod).add_(self.bias)
            y = y if own is None else y.add_(own)
            y = F.leaky_relu(y, 0.2, inplace=True)
            return y if self.clamp is None else y.clamp_(-self.clamp, self.clamp)
        y = y * demod + self.bias
        y = F.leaky_relu(y if own is None else y + own, 0.2)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class _Head(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        super().__init__()
        weight: Tensor = plain.weight.detach()
        self.affine = _Affine(plain.affine, 1 / math.sqrt(weight.shape[1]))
        self.clamp: float | None = plain.clamp
        self.register_buffer("weight", weight.to(dtype, copy=True))
        self.register_buffer("bias", plain.bias.detach().reshape(1, -1, 1, 1).clone())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x * self.affine(w).to(x.dtype)[:, :, None, None]
        y = F.conv2d(x, self.weight).to(self.bias.dtype) + self.bias
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class SharedSynthesis(nn.Module):
    """Images [N, C, H, W] of ws [N, num_ws, w_dim], with the network's own noise or a given one.

    Args:
        plain: the twin whose weights it takes a copy of.
        up_form: how convolutions double the size, one of `UP_FORMS`.
        dtype: of activations and of the weights of convolutions; styles and images stay in float32.
        channels_last: the layout of activations.
        in_place: write over the output of convolutions; leave it off where a gradient is wanted.
    """

    const: Tensor
    enlarge: Tensor

    def __init__(
        self,
        plain: PlainGenerator,
        *,
        up_form: str = "transposed",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        blocks: list[tuple[str, Any]] = list(plain.synthesis.named_children())
        self.names = [f"{name}.{conv}" for name, block in blocks for conv in _conv_names(block)]
        sources = [getattr(block, conv) for _, block in blocks for conv in _conv_names(block)]
        self.affines = nn.ModuleList([_Affine(source.affine) for source in sources])
        self.layers = nn.ModuleList(
            [
                SharedLayer(
                    source, up_form=up_form, dtype=dtype, channels_last=channels_last, in_place=in_place
                )
                for source in sources
            ]
        )
        self.heads = nn.ModuleList([_Head(next(iter(block.heads.values())), dtype) for _, block in blocks])
        first = blocks[0][1]
        self.register_buffer("const", first.const.detach().unsqueeze(0).to(dtype, copy=True))
        channels = next(iter(first.heads.values())).weight.shape[0]
        self.register_buffer("enlarge", (first.taps * 4).expand(channels, 1, -1, -1).contiguous())
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, ws: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """noise: by name, as `PlainGenerator.synthesis` takes it; its own where absent."""
        x = self.const.repeat(ws.shape[0], 1, 1, 1).contiguous(memory_format=self.layout)
        image: Tensor | None = None
        for index, layer in enumerate(self.layers):
            given = None if noise is None else noise[self.names[index]]
            x = layer(x, self.affines[index](ws[:, index]), given)
            if index % 2 == 0:
                y = self.heads[index // 2](x, ws[:, index + 1])
                image = y if image is None else self._enlarged(image) + y
        if image is None:
            raise RuntimeError("a synthesis has at least one layer")
        return image

    def _enlarged(self, image: Tensor) -> Tensor:
        return F.conv_transpose2d(
            image, self.enlarge.to(image.dtype), stride=2, padding=1, groups=image.shape[1]
        )


def _conv_names(block: nn.Module) -> list[str]:
    return [name for name in ("conv0", "conv1") if hasattr(block, name)]

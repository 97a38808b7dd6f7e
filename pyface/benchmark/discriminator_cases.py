"""The discriminator of StyleGAN2 without gradients, against the same weights in plain torch.

"torch eager" is float32 and NCHW; the best form is the same code in NHWC and in the precision of the case, to
which weights and images are converted beforehand.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case, Formula, Variant, Workload, inferred
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.training.allocator import keep_freed_memory

__all__ = ["discriminator_cases", "discriminator_macs", "discriminator_workload"]

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
_SIDE, _BASE, _BATCHES = 256, 16384, (4, 8)


def discriminator_cases() -> list[Case]:
    """256 px with channel_base 16384, 4 and 8 images, float32 and bfloat16."""
    return [
        Case(
            f"discriminator/{batch}x3x{_SIDE}x{_SIDE}/{dtype}", "networks", "discriminator",
            f"{batch}x3x{_SIDE}x{_SIDE}", dtype, "-", cold=False,
            build=lambda device, batch=batch, dtype=dtype: discriminator_workload(  # type: ignore[misc]
                batch, dtype, device, _SIDE, channel_base=_BASE
            ),
            screen=f"discriminator {_SIDE} px, batch 8" if (batch, dtype) == (8, "bfloat16") else "",
        )
        for batch in _BATCHES
        for dtype in TOLERANCE
    ]  # fmt: skip


def discriminator_macs(config: Any) -> int:
    """Multiply-adds of one image: convolutions (where they shrink, at the output's size), filters of 16 taps
    at the size they are needed in, and full layers."""
    top = config.sizes[-1]
    total = sum(config.spectra.values()) * config.channels(top) * top[0] * top[1]
    for size, smaller in zip(config.sizes[:0:-1], config.sizes[-2::-1], strict=True):
        area, channels, after = size[0] * size[1], config.channels(size), config.channels(smaller)
        total += 9 * channels**2 * area + (9 + 1) * channels * after * area // 4
        total += 16 * channels * ((size[0] + 1) * (size[1] + 1) + area // 4)
    lowest = config.sizes[0]
    area, channels = lowest[0] * lowest[1], config.channels(lowest)
    return total + 9 * (channels + config.mbstd_channels) * channels * area + channels**2 * area + channels


def discriminator_workload(batch: int, dtype: str, device: str, side: int, **settings: Any) -> Workload:
    """Logits of `batch` images of `side` px; settings: of `DiscriminatorConfig`."""
    from pyface.models import DiscriminatorConfig, StyleGAN2Discriminator

    keep_freed_memory()
    torch.manual_seed(0)
    network = StyleGAN2Discriminator(DiscriminatorConfig(side, **settings)).to(device).eval()
    network.requires_grad_(False)
    plain = plain_twin(network).requires_grad_(False)
    kind = getattr(torch, dtype)
    last: nn.Module = copy.deepcopy(plain).to(kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
    numbers = torch.Generator().manual_seed(0)
    image = (torch.rand(batch, 3, side, side, generator=numbers) * 2 - 1).to(device)
    image_last = image.to(kind, memory_format=torch.channels_last)

    def ours() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(image, precision=dtype)
            return logits

    config = network.config
    weights = sum(p.numel() for p in network.parameters())
    return Workload(
        {
            OURS: Variant(ours),
            EAGER: Variant(inferred(plain, image)),
            BEST_FORM: Variant(inferred(last, image_last)),
        },
        reference=lambda: _logits(copy.deepcopy(plain).double(), image.double()),
        bytes=batch * _activations(config) * kind.itemsize + 4 * image.numel() + weights * kind.itemsize,
        flops=2 * batch * discriminator_macs(config),
        items=batch,
        tolerance=TOLERANCE[dtype],
        formula=Formula(plain, (image,)),
    )


def _activations(config: Any) -> int:
    """Numbers that go in and out of the layers for one image, a convolution with its filter being one."""
    found = 0
    for size, smaller in zip(config.sizes[:0:-1], config.sizes[-2::-1], strict=True):
        area, channels, after = size[0] * size[1], config.channels(size), config.channels(smaller)
        found += (2 + 1 + 1) * channels * area + (1 + 2) * after * area // 4
    return found


def _logits(network: nn.Module, image: Tensor) -> Tensor:
    logits: Tensor = network(image)
    return logits

"""The running average of a network's weights, which is the network that people use."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from pyface.errors import ValueRangeError

if TYPE_CHECKING:
    from pyface.training.loop import Trainer

__all__ = ["ExponentialAverage"]


class ExponentialAverage:
    """A copy of a network whose weights follow the original with a half-life counted in images.

    half_life: images after which an old weight counts half. rampup: the half-life is at most this share of
    the images seen so far, so that the start of a run is forgotten quickly (0: none). Buffers are copied.
    (Karras et al. 2018 average the generator so; the ramp-up is StyleGAN2-ADA's.)
    """

    def __init__(self, network: nn.Module, half_life: float, rampup: float = 0.05) -> None:
        if half_life < 0 or rampup < 0:
            raise ValueRangeError(
                f"ema half-life and ramp-up must be 0 or more; got {half_life} and {rampup}."
            )
        self.source = network
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life
        self.rampup = rampup

    def after_step(self, trainer: Trainer) -> None:
        """Follow the network after a step of the trainer."""
        self.update(trainer.images_seen - trainer.feed.batch, trainer.feed.batch)

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Move the average after a step of `batch` images, `images_seen` before it."""
        half_life = self.half_life
        if self.rampup:
            half_life = min(half_life, images_seen * self.rampup)
        beta = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        for averaged, parameter in zip(self.average.parameters(), self.source.parameters(), strict=True):
            averaged.lerp_(parameter, 1.0 - beta)
        for copied, buffer in zip(self.average.buffers(), self.source.buffers(), strict=True):
            copied.copy_(buffer)

"""The controller of adaptive discriminator augmentation: how much augmentation the data needs, found in
training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyface.errors import ValueRangeError
from pyface.training.augment import AugmentPipe
from pyface.training.loop import Trainer

__all__ = ["AdaptiveAugment"]


class AdaptiveAugment(nn.Module):
    """Moves the p of an augmentation pipe so that the discriminator is not too sure of the training images.

    Give it to the trainer as a module (its buffers and the pipe's p are the state of a resumed run) and as a
    follower, and let the discriminator's loss call `observe` with the logits of real images. After every
    `interval` steps p rises where the mean sign of these logits is above `target`, and falls where it is
    below, by as much as takes it from 0 to 1 in `kimg` thousand images; it never falls below 0. A mean sign
    of 1 says that every training image is recognised, which is overfitting.

    Source: Karras et al. 2020 (StyleGAN2-ADA), section 3 (heuristic r_t).
    """

    sign_sum: Tensor
    seen: Tensor
    step_signs: Tensor
    steps: Tensor
    real_sign: Tensor

    def __init__(
        self, pipe: AugmentPipe, *, target: float = 0.6, kimg: float = 500.0, interval: int = 4
    ) -> None:
        super().__init__()
        if not -1 < target < 1:
            raise ValueRangeError(f"target is a mean sign, between -1 and 1; got {target}.")
        if not kimg > 0:
            raise ValueRangeError(f"kimg, in which p can go from 0 to 1, must be above 0; got {kimg}.")
        if interval < 1:
            raise ValueRangeError(f"interval must be 1 step or more; got {interval}.")
        self.pipe = pipe
        self.target = target
        self.kimg = kimg
        self.interval = interval
        for name in ("sign_sum", "seen", "step_signs", "steps", "real_sign"):
            self.register_buffer(name, torch.zeros([]))

    @torch.no_grad()
    def observe(self, logits: Tensor) -> None:
        """Take note of the discriminator's logits of real images, any shape."""
        self.sign_sum += logits.sign().sum().to(self.sign_sum.dtype)
        self.seen += logits.numel()

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Close a step, and move p where `interval` of them are over.

        The trainer has by now averaged the sums over all processes, as it does with every running statistic.
        From here on only means of steps are kept, which are the same for any number of processes.
        """
        if self.seen > 0:
            self.step_signs += self.sign_sum / self.seen
            self.steps += 1
        self.sign_sum.zero_()
        self.seen.zero_()
        if trainer.step_number % self.interval or self.steps == 0:
            return
        self.real_sign.copy_(self.step_signs / self.steps)
        change = trainer.feed.batch * self.interval / (self.kimg * 1000)
        self.pipe.p += torch.sign(self.real_sign - self.target) * change
        self.pipe.p.clamp_(min=0)
        self.step_signs.zero_()
        self.steps.zero_()

    def figures(self) -> dict[str, float]:
        """p, and the mean sign that moved it last."""
        return {"augment_p": float(self.pipe.p), "real_sign": float(self.real_sign)}

    def extra_repr(self) -> str:
        return f"target={self.target:g}, kimg={self.kimg:g}, interval={self.interval}"

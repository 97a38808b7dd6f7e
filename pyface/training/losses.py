"""Adversarial losses as small functions of logits, each the mean over the batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["logistic_fake", "logistic_generator", "logistic_real"]


def logistic_real(logits: Tensor) -> Tensor:
    """Mean of softplus(-logits): what the discriminator pays for real images (Goodfellow et al. 2014, eq.
    1)."""
    return F.softplus(-logits).mean()


def logistic_fake(logits: Tensor) -> Tensor:
    """Mean of softplus(logits): what the discriminator pays for generated images."""
    return F.softplus(logits).mean()


def logistic_generator(logits: Tensor) -> Tensor:
    """Mean of softplus(-logits): the non-saturating loss of the generator (Goodfellow et al. 2014, section
    3)."""
    return F.softplus(-logits).mean()

"""Pixels of float images, in as few passes over memory as torch allows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_pixels", "write_pixels"]


def as_pixels(images: Tensor) -> Tensor:
    """uint8 [N, H, W, C] of float images [N, C, H, W] in [-1, 1], on their device; rounded, clipped and NaN
    to 0 as `pyface.io.images.to_uint8`, whose numbers these are.

    >>> as_pixels(torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2)).flatten().tolist()
    [0, 128, 255, 255]
    """
    n, c, h, w = images.shape
    pixels = torch.empty(n, h, w, c, dtype=torch.uint8, device=images.device)
    write_pixels(images, pixels)
    return pixels


def write_pixels(images: Tensor, pixels: Tensor) -> None:
    """What `as_pixels` gives, into `pixels` uint8 [N, H, W, C] on the same device.

    On a CPU images go one by one, so that the steps find an image in the cache.
    """
    if not images.is_cpu:
        pixels.copy_(_levels(images.float() + 1).to(torch.uint8).permute(0, 2, 3, 1))
        return
    room = torch.empty(images.shape[1:])
    for image, target in zip(images, pixels, strict=True):
        torch.add(image, 1, out=room)
        target.copy_(_levels(room).to(torch.uint8).permute(1, 2, 0))


def _levels(raised: Tensor) -> Tensor:
    """Levels 0 to 255 of images + 1, in place."""
    return raised.mul_(127.5).round_().nan_to_num_(nan=0.0).clamp_(0, 255)

"""Ways in which a picture can be worse than a render, each with a strength from 0 to 1 for every image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import ShapeError

__all__ = ["DEGRADATIONS", "NOISE_LEVEL", "blocky", "blurred", "degraded", "noisy", "warped"]

DEGRADATIONS = ("noise", "blur", "blocks", "warp")

NOISE_LEVEL = 0.25  # standard deviation at strength 1, of pixels in [-1, 1]
BLUR_RADIUS = 0.03  # standard deviation of the Gaussian at strength 1, as a share of the width
BLOCK = 4  # pixels on a side
WARP_REACH = 0.06  # standard deviation of the displacement at strength 1, as a share of the width
WARP_GRID = 5  # control points on a side
_TAPS = 4  # of the Gaussian on either side of its centre


def degraded(images: Tensor, strengths: Tensor, noise: Tensor, bends: Tensor) -> Tensor:
    """Images after warp, blur, blocks and noise of the given strengths; untouched where all are 0.

    Args:
        images: float [N, C, H, W] in [-1, 1].
        strengths: [N, 4] in [0, 1], columns in the order of DEGRADATIONS.
        noise: standard normal, of the shape of images.
        bends: standard normal [N, 2, WARP_GRID, WARP_GRID].

    Raises:
        ShapeError: strengths of another shape.
    """
    if strengths.shape != (images.shape[0], len(DEGRADATIONS)):
        raise ShapeError(
            f"strengths must be [{images.shape[0]}, {len(DEGRADATIONS)}]; got {list(strengths.shape)}"
        )
    by_noise, by_blur, by_blocks, by_warp = strengths.unbind(1)
    x = images.clone()
    for strength, change in (
        (by_warp, lambda part, s, rows: warped(part, s, bends[rows])),
        (by_blur, lambda part, s, rows: blurred(part, s)),
        (by_blocks, lambda part, s, rows: blocky(part, s)),
        (by_noise, lambda part, s, rows: noisy(part, s, noise[rows])),
    ):
        rows = torch.nonzero(strength > 0)[:, 0]
        if rows.numel():
            x[rows] = change(x[rows], strength[rows], rows)
    return x


def noisy(images: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    """Images with independent Gaussian noise, NOISE_LEVEL times `strength` [N]."""
    return images + NOISE_LEVEL * strength[:, None, None, None] * noise


def blurred(images: Tensor, strength: Tensor) -> Tensor:
    """Images through a Gaussian filter whose standard deviation is BLUR_RADIUS x width x `strength` [N]."""
    sigma = (BLUR_RADIUS * images.shape[3] * strength).clamp_min(1e-3)
    distance = torch.arange(-_TAPS, _TAPS + 1, device=images.device)
    weights = torch.exp(-0.5 * (distance[None] / sigma[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    x = images
    for dim, padding in ((2, (0, 0, _TAPS, _TAPS)), (3, (_TAPS, _TAPS, 0, 0))):
        wide, length = F.pad(x, padding, mode="replicate"), x.shape[dim]
        parts = [weights[:, k, None, None, None] * wide.narrow(dim, k, length) for k in range(2 * _TAPS + 1)]
        x = torch.stack(parts).sum(0)
    return x


def blocky(images: Tensor, strength: Tensor) -> Tensor:
    """Images moved by `strength` [N] towards the means of blocks of BLOCK x BLOCK pixels.

    Height and width must be multiples of BLOCK.
    """
    means = F.avg_pool2d(images, BLOCK).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    return images + strength[:, None, None, None] * (means - images)


def warped(images: Tensor, strength: Tensor, bends: Tensor) -> Tensor:
    """Images bent smoothly: displacements are a bicubic surface over `bends` [N, 2, grid, grid].

    Their standard deviation at a control point is WARP_REACH x width x `strength` [N].
    """
    height, width = images.shape[2:]
    field = F.interpolate(bends, (height, width), mode="bicubic", align_corners=True)
    field = (2 * WARP_REACH * strength)[:, None, None, None] * field
    theta = torch.eye(2, 3, device=images.device, dtype=images.dtype).expand(images.shape[0], -1, -1)
    grid = F.affine_grid(theta, [images.shape[0], 1, height, width], align_corners=False)
    return F.grid_sample(images, grid + field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)

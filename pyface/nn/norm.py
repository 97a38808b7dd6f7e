"""Normalisations without parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from pyface.errors import ShapeError

__all__ = ["append_minibatch_std", "normalize_second_moment"]


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x [N, C] scaled so that the mean square of every row is 1.

    Source: Karras et al. 2018, "Progressive growing of GANs", section 4.2 (pixel norm, applied to latents).
    """
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def append_minibatch_std(
    x: Tensor, group_size: int | None = 4, channels: int = 1, eps: float = 1e-8
) -> Tensor:
    """x with `channels` more channels that say how much the images of a group differ.

    The batch is cut into N / group groups; image i belongs to group i mod (N / group). Per group and per
    slice of C / channels feature channels: the standard deviation over the group's images, averaged over the
    slice and over all pixels. Source: Karras et al. 2018, "Progressive growing of GANs", section 3.

    Args:
        x: [N, C, H, W].
        group_size: images per group; None, or more than N, means the whole batch.
        channels: how many statistics to append; divides C.
        eps: added to the variance.

    Raises:
        ShapeError: N is no multiple of the group size, or C none of `channels`.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n and n % group:
        raise ShapeError(
            f"the batch must be a multiple of the minibatch-std group; got {n} images in groups of {group}. "
            f"Use a batch of {n - n % group} or {n - n % group + group}, or set mbstd_group_size"
        )
    if c % channels:
        raise ShapeError(f"mbstd_channels must divide the {c} feature channels; got {channels}")
    if n == 0:
        return torch.cat([x, x.new_zeros(0, channels, h, w)], dim=1)
    y = x.reshape(group, n // group, channels, c // channels, h, w)
    if y.dtype.itemsize < 4:
        y = y.float()
    y = (y - y.mean(dim=0)).square().mean(dim=0).add(eps).sqrt()
    y = y.mean(dim=(2, 3, 4)).to(x.dtype)
    y = y.repeat(group, 1)[:, :, None, None].expand(n, channels, h, w)
    return torch.cat([x, y], dim=1)

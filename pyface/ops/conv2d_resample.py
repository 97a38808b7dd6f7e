"""conv2d_resample: 2-D convolution with optional FIR up- or downsampling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyface.ops import _composition
from pyface.ops._checks import check_filter, check_images, check_weight, factor, quadruple, resampled_size
from pyface.ops._dispatch import primitives

__all__ = ["conv2d_resample"]


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    *,
    weight_gain: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """`x` upsampled, convolved with `w` and downsampled, FIR-filtered by `f`: [N, O, H', W'].

    x: [N, C, H, W]. w: [O, C / groups, kh, kw] of x's dtype or float32; weight_gain scales it. f: float32
    filter of setup_filter, or None.
    up, down: integers. padding: integer, (x, y) or (x0, x1, y0, y1), in pixels of the upsampled image.
    flip_weight: True correlates (as torch does), False convolves. Layout as `x`. Gradients of any order
    reach x and w.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2020 (StyleGAN2), section 4.
    """
    op = "conv2d_resample"
    check_images(op, x)
    check_weight(op, x, w, groups, mixed=True)
    check_filter(op, x, f)
    up, down = factor(op, "up", up), factor(op, "down", down)
    pads = quadruple(op, padding)
    resampled_size(op, x, w, up, down, pads)
    return _composition.conv2d_resample(
        primitives(x, backend), x, w, f, up, down, pads, groups, flip_weight, flip_filter, weight_gain
    )

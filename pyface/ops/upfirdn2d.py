"""upfirdn2d: upsample, FIR filter and downsample images, and its everyday forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.ops._checks import check_filter, filter_size, pair, quadruple, resampling
from pyface.ops._dispatch import primitives, writers
from pyface.ops._output import check_out

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]

Factor = int | Sequence[int]
_SEPARABLE_FROM = 8  # vectors of at least this many taps stay vectors


def setup_filter(
    f: Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: str | torch.device = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for upfirdn2d: [taps] where separable, else [height, width].

    f: vector, matrix, single number, or None (identity). normalize: make the taps sum to 1.
    gain: what the filter multiplies a constant image by. separable: keep a vector a vector; None: from 8
    taps on.
    Raises ShapeError for an empty filter or more than two axes, ValueRangeError for a separable matrix or a
    zero sum.

    >>> setup_filter([1, 3, 3, 1]).shape
    torch.Size([4, 4])
    """
    if f is None:
        f = 1.0
    taps = torch.as_tensor(f, dtype=torch.float32)
    if taps.ndim > 2 or taps.numel() == 0:
        raise ShapeError(
            f"setup_filter: f must be a number, [taps] or [height, width]; got {list(taps.shape)}."
        )
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= _SEPARABLE_FROM
    if separable and taps.ndim == 2:
        raise ValueRangeError(
            "setup_filter: separable is True but f is a matrix. Pass a vector, or separable=False."
        )
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        total = taps.sum()
        if total == 0:
            raise ValueRangeError(
                "setup_filter: the taps sum to 0 and cannot be normalised. Use normalize=False."
            )
        taps = taps / total
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    scaled: Tensor = taps * gain ** (taps.ndim / 2)
    return scaled.to(device)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """`x` with zeros inserted, padded, filtered by `f`, and every down-th pixel kept: [N, C, H', W'].

    x: [N, C, H, W]; float32, float64, bfloat16 or float16. f: float32 [height, width], [taps] for both axes,
    or None.
    up, down: integer or (x, y). padding: integer, (x, y) or (x0, x1, y0, y1), in pixels of the upsampled
    image; negative crops. flip_filter: correlate instead of convolve. gain: factor on the result.
    H' = (H * up + y0 + y1 - height) // down + 1. Memory layout as `x`. Gradients of any order reach x; f has
    none. out: takes the result and is returned, in eager calls that need no gradient; [N, C, H', W'] of x's
    dtype, device and dense memory layout, apart from `x`.

    Raises ShapeError, DTypeError or ValueRangeError on bad input, BackendError where `backend` cannot run.
    Source: Karras et al. 2019 (StyleGAN), appendix B; the name is MATLAB's.
    """
    r = resampling("upfirdn2d", x, f, up, down, padding, flip_filter, gain)
    if out is None:
        return primitives(x, backend).fir(x, f, r)
    writer = writers("upfirdn2d", x, out, backend)
    n, c, h, w = x.shape
    check_out("upfirdn2d", out, x, (n, c, *r.output_size(h, w, *filter_size(f))), (f,), in_place=False)
    return writer.fir(x, f, r, out)


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str = "auto",
) -> Tensor:
    """`x` filtered by `f`, of the same size as `x` (plus `padding`). Arguments as for upfirdn2d."""
    f_w, f_h = check_filter("filter2d", x, f)
    x0, x1, y0, y1 = quadruple("filter2d", padding)
    pads = (x0 + f_w // 2, x1 + (f_w - 1) // 2, y0 + f_h // 2, y1 + (f_h - 1) // 2)
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain, backend=backend)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str = "auto",
) -> Tensor:
    """`x` enlarged `up` times, interpolated by `f`; constants stay. Arguments as for upfirdn2d."""
    f_w, f_h = check_filter("upsample2d", x, f)
    up_x, up_y = pair("upsample2d", "up", up)
    x0, x1, y0, y1 = quadruple("upsample2d", padding)
    pads = (
        x0 + (f_w + up_x - 1) // 2,
        x1 + (f_w - up_x) // 2,
        y0 + (f_h + up_y - 1) // 2,
        y1 + (f_h - up_y) // 2,
    )
    total = gain * up_x * up_y
    return upfirdn2d(
        x, f, up=(up_x, up_y), padding=pads, flip_filter=flip_filter, gain=total, backend=backend
    )


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    *,
    backend: str = "auto",
) -> Tensor:
    """`x` made `down` times smaller after low-pass `f`. Arguments as for upfirdn2d."""
    f_w, f_h = check_filter("downsample2d", x, f)
    down_x, down_y = pair("downsample2d", "down", down)
    x0, x1, y0, y1 = quadruple("downsample2d", padding)
    pads = (
        x0 + (f_w - down_x + 1) // 2,
        x1 + (f_w - down_x) // 2,
        y0 + (f_h - down_y + 1) // 2,
        y1 + (f_h - down_y) // 2,
    )
    return upfirdn2d(
        x, f, down=(down_x, down_y), padding=pads, flip_filter=flip_filter, gain=gain, backend=backend
    )

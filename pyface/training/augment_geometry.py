"""Affine resampling of images without aliasing: 2x up, bilinear reading, 2x down, with a wavelet's low-pass.

Karras et al. 2020 (StyleGAN2-ADA), appendix B. Nothing is computed but what is read: each sample is
extended by reflection, or cropped, to the rectangle that its own matrix reaches. Where the device is a CPU,
samples go through in groups as large as the number of threads, ordered by the size of that rectangle; on one
thread a sample's result is the same to the bit whatever batch it is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pyface.ops import upfirdn2d
from pyface.training.augment_filters import reflected

__all__ = ["resample", "warp"]

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]

_GPU_GROUP = 8  # samples whose rectangles are united on a GPU: few launches, little wasted memory


class _Warp(torch.autograd.Function):
    """Bilinear reading of images at a grid, with gradients of any order for the images and none for the
    grid.

    torch's own grid_sample has no second derivative, and its backward operator has changed between releases.
    Reading is linear in the images, so the two Functions here are each other's backward, and both use public
    operations alone.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape  # type: ignore[attr-defined]
        return _read(images, grid)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _Unwarp.apply(gradient, grid, ctx.size), None  # type: ignore[attr-defined, no-untyped-call]


class _Unwarp(torch.autograd.Function):
    """The adjoint of _Warp: spreads values at the grid back over images of a given size."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, values: Tensor, grid: Tensor, size: torch.Size
    ) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            images = values.new_zeros(size).requires_grad_(True)
            (spread,) = torch.autograd.grad(_read(images, grid), images, values)
        return spread

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _Warp.apply(gradient, grid), None, None  # type: ignore[no-untyped-call]


def _read(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def warp(images: Tensor, grid: Tensor) -> Tensor:
    """`images` [N, C, H, W] read at `grid` [N, H', W', 2] bilinearly, 0 outside: [N, C, H', W'].

    The grid's coordinates are (x, y) from -1 to 1 between the outer edges of the outer pixels. Gradients of
    any order for the images, none for the grid.
    """
    warped: Tensor = _Warp.apply(images, grid)  # type: ignore[no-untyped-call]
    return warped


def resample(images: Tensor, inverse: Array, low_pass: Tensor) -> Tensor:
    """`images` [N, C, H, W] moved by affine maps, reflected at their borders.

    inverse: [N, 3, 3], where each output pixel comes from, in pixels from the centre; samples whose matrix is
    the identity come back as they are. low_pass: float32 filter of an orthogonal wavelet with an even number
    of taps, sum 1. What lies further outside than one picture is 0.
    """
    moved = np.flatnonzero((inverse != np.eye(3)).any(axis=(1, 2)))
    if moved.size == 0:
        return images
    height, width = images.shape[2:]
    boxes = [_reach(matrix, height, width, low_pass.numel()) for matrix in inverse[moved]]
    order = _by_size(boxes)
    size = max(torch.get_num_threads(), 1) if images.device.type == "cpu" else _GPU_GROUP
    # Split once: the gradient of single slices would be a picture of zeros for each of them.
    single = images.split(1)
    results = []
    for start in range(0, len(order), size):
        group = order[start : start + size]
        rows = [int(moved[i]) for i in group]
        box = _union([boxes[i] for i in group])
        chosen = single[rows[0]] if len(rows) == 1 else torch.cat([single[row] for row in rows])
        results.append(_resample_group(chosen, inverse[rows], box, low_pass))
    rows = [int(moved[i]) for i in order]
    return _merge(single, results, rows)


def _by_size(boxes: list[Box]) -> list[int]:
    return sorted(range(len(boxes)), key=lambda i: (boxes[i][1] - boxes[i][0]) * (boxes[i][3] - boxes[i][2]))


def _merge(images: Sequence[Tensor], results: list[Tensor], rows: list[int]) -> Tensor:
    """The single `images` with `results`, which belong to `rows`, in their places."""
    count = len(images)
    idle = sorted(set(range(count)) - set(rows))
    parts = torch.cat([*(images[row] for row in idle), *results])
    order = idle + rows
    if order == list(range(count)):
        return parts
    place = torch.empty(count, dtype=torch.int64)
    place[torch.tensor(order)] = torch.arange(count)
    return parts[place.to(parts.device)]


def _reach(inverse: Array, height: int, width: int, taps: int) -> Box:
    """Pixels (x0, x1, y0, y1) that a sample reads, x1 and y1 beyond the last; they may lie outside."""
    # Corners of the doubled picture that the down filter reads, then the bilinear neighbour and the up
    # filter's half width around what they map to.
    margin = taps // 4 - 0.5
    x, y = (width / 2 + margin, height / 2 + margin)
    corners = np.array([[-x, x, -x, x], [-y, -y, y, y], [1, 1, 1, 1]])
    reached = (inverse @ corners)[:2]
    half = taps // 4 + 1
    box = []
    for line, length in zip(reached, (width, height), strict=True):
        low = int(np.floor(line.min() + length / 2 - 0.5)) - half
        high = int(np.ceil(line.max() + length / 2 - 0.5)) + half + 1
        low = min(max(low, 1 - length), 2 * length - 2)
        box += [low, min(max(high, low + 1), 2 * length - 1)]
    return box[0], box[1], box[2], box[3]


def _union(boxes: list[Box]) -> Box:
    x0, x1, y0, y1 = zip(*boxes, strict=True)
    return min(x0), max(x1), min(y0), max(y1)


def _resample_group(images: Tensor, inverse: Array, box: Box, low_pass: Tensor) -> Tensor:
    height, width = images.shape[2:]
    taps = low_pass.numel()
    before, after = taps // 2, taps // 2 - 1
    x0, x1, y0, y1 = box
    region = reflected(images, x0, x1, y0, y1)
    doubled = upfirdn2d(region, low_pass, up=2, padding=(before, after, before, after), gain=4)
    read = _reading_matrices(inverse, box, height, width, taps)
    grid = _grid(read, 2 * height + taps - 2, 2 * width + taps - 2, images)
    return upfirdn2d(warp(doubled, grid), low_pass, down=2, flip_filter=True)


def _reading_matrices(inverse: Array, box: Box, height: int, width: int, taps: int) -> Array:
    """[n, 2, 3]: grid coordinates in the doubled region of `box` for (column, row, 1) of the doubled output.

    The wavelet's filter is off the centre by half a tap of the doubled picture, so a doubled pixel j stands
    for the place j / 2 of the picture's pixels; the same half tap is given back on the way down.
    """
    x0, x1, y0, y1 = box
    # Column 0 is the first that the down filter reads, (taps - 2) / 2 doubled pixels before the picture.
    start = (taps - 2) // 2 - 1
    out = np.array(
        [[0.5, 0, -(start + width) / 2], [0, 0.5, -(start + height) / 2], [0, 0, 1]], dtype=np.float64
    )
    # place = 2 X + size - 1 - 2 x0 in the doubled region; grid = (2 place + 1) / doubled size - 1.
    size_x, size_y = 2 * (x1 - x0), 2 * (y1 - y0)
    into = np.array(
        [
            [4 / size_x, 0, (2 * (width - 1 - 2 * x0) + 1) / size_x - 1],
            [0, 4 / size_y, (2 * (height - 1 - 2 * y0) + 1) / size_y - 1],
        ]
    )
    matrices: Array = into @ inverse @ out
    return matrices


def _grid(matrices: Array, height: int, width: int, like: Tensor) -> Tensor:
    """[n, height, width, 2] of `like`'s dtype: the matrices [n, 2, 3] at every (column, row)."""
    read = torch.from_numpy(matrices).to(like.device, like.dtype)[:, None, None]
    column = torch.arange(width, device=like.device, dtype=like.dtype)[:, None]
    row = torch.arange(height, device=like.device, dtype=like.dtype)[:, None, None]
    return torch.addcmul(torch.addcmul(read[..., 2], read[..., 0], column), read[..., 1], row)

"""Pictures moved by affine maps: batches of tensors with gradients, and single photographs fast.

Both read bilinearly and mean the same places: a matrix maps (x, y) of the picture to (x, y) of the result,
pixel centres lie at +0.5 in both. OpenCV's warpAffine gives the same when its integer centres are allowed
for, see `opencv_matrix`.

**Making smaller.** Bilinear reading looks at 2 x 2 pixels however many the result leaves out. So where a
map's scale (the root of its determinant) is below 1, the picture is first reduced by the mean of k x k
pixels, k the whole number below 1 / (2 scale), and then every pixel of the result is the mean of m x m
readings spread over it, so many that they are at most one reduced pixel apart. That is nearly the mean over
the pixel's area. From scale 0.75 to 1 the readings draw together, so that sharpness has no step at scale 1.
A batch may mix scales.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.affine import (
    Matrix,
    Size,
    check_invertible,
    checked_matrix,
    checked_size,
    inverse,
    opencv_matrix,
    scale_of,
    transform_points,
    valid_pixels,
)

__all__ = [
    "Border",
    "Matrix",
    "inverse",
    "opencv",
    "transform_points",
    "valid_pixels",
    "warp",
    "warp_image",
]

Border = Literal["constant", "reflect", "edge"]
_PADDING = {"constant": "zeros", "reflect": "reflection", "edge": "border"}
_FADE = 0.25  # below scale 1 by this much, the readings of a pixel are spread over all of it
_OPENCV_SIDE = 32767  # sides of pictures that OpenCV's warpAffine takes


def warp(
    images: Tensor,
    matrices: Tensor | npt.ArrayLike,
    size: Size,
    *,
    border: Border = "constant",
    fill: float = 0.0,
    antialias: bool = True,
) -> Tensor:
    """`images` moved by `matrices`: [N, C, height, width] of the images' dtype and device.

    Differentiable once in the images, and in the matrices where they are a tensor that asks for it.

    >>> half = [[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]]
    >>> warp(torch.arange(16.0).view(1, 1, 4, 4), half, 2).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]

    Args:
        images: floating point [N, C, H, W].
        matrices: [N, 2, 3], or [2, 3] for all: picture -> result, pixel centres at +0.5.
        size: of the result, one number or (height, width).
        border: what lies outside the picture: "constant" `fill`, "reflect" the picture mirrored at its edges
            (the outermost pixel comes twice), "edge" the nearest pixel.
        fill: value outside for "constant".
        antialias: take means where the picture becomes smaller, see the top of this module. Without it the
            result is what OpenCV's warpAffine gives.

    Raises:
        DTypeError: images are not a floating-point tensor.
        ShapeError: images or matrices of another shape.
        ValueRangeError: a matrix that is not finite or cannot be inverted, a bad size or border.
    """
    _check_images(images)
    height, width = checked_size(size)
    _check_border(border)
    maps = _checked_matrices(matrices, images)
    if images.shape[0] == 0:
        return images.new_empty(0, images.shape[1], height, width)
    plans = [
        _plan(matrix, (height, width), images.shape[2:], border, antialias)
        for matrix in maps.detach().cpu().numpy()
    ]
    work = images if images.dtype in (torch.float32, torch.float64) else images.float()
    if border == "constant" and fill:
        work = work - fill
    result = _warp_planned(work, maps, plans, (height, width), border)
    if border == "constant" and fill:
        result = result + fill
    return result.to(images.dtype)


def warp_image(
    image: npt.NDArray[np.uint8],
    matrix: npt.ArrayLike,
    size: Size,
    *,
    border: Border = "constant",
    fill: int = 0,
    antialias: bool = True,
) -> npt.NDArray[np.uint8]:
    """One picture moved by `matrix`: uint8 [height, width] or [height, width, C], as `image` is.

    By OpenCV where it is installed, else by torch; the two differ by the rounding of OpenCV's weights.

    Args:
        image: uint8 [H, W] or [H, W, C].
        matrix: [2, 3], picture -> result, pixel centres at +0.5.
        size, border, antialias: as for `warp`.
        fill: level outside for "constant".

    Raises:
        ShapeError: another shape or element type.
        ValueRangeError: as `warp`.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        came = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"image must be uint8 [H, W] or [H, W, C]; got {came}. Tensors go to warp().")
    if not image.size:
        raise ShapeError(f"image has no pixels: {list(image.shape)}.")
    target = checked_size(size)
    _check_border(border)
    given = checked_matrix(matrix)
    plan = _plan(given, target, image.shape[:2], border, antialias)
    cv2 = opencv()
    if cv2 is not None and max(*image.shape[:2], *target) * plan.samples <= _OPENCV_SIDE:
        return _warp_opencv(cv2, image, given, target, plan, border, fill)
    return _warp_torch(image, given, target, plan, border, fill)


# --- how a picture is read ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The pixels [top, bottom) x [left, right) that a result needs, and how they are read.

    reduce: means of so many pixels on a side come first; the rectangle's sides are multiples of it.
    samples: readings per pixel of the result, on a side. spread: over which share of it.
    """

    left: int
    top: int
    right: int
    bottom: int
    reduce: int
    samples: int
    spread: float

    def after(self, matrix: Matrix) -> Matrix:
        """`matrix` from the reduced rectangle instead of from the picture."""
        shift = matrix[:, :2] @ (self.left, self.top) + matrix[:, 2]
        return np.concatenate([matrix[:, :2] * self.reduce, shift[:, None]], 1)


def _plan(
    matrix: Matrix, size: tuple[int, int], shape: Sequence[int], border: Border, antialias: bool
) -> _Plan:
    reduce, samples, spread = _sampling(scale_of(matrix)) if antialias else (1, 1, 1.0)
    rows, columns = size
    corners = np.array([[0.0, 0.0], [columns, 0.0], [0.0, rows], [columns, rows]])
    back = inverse(matrix)
    reached = corners @ back[:, :2].T + back[:, 2]
    spans = []
    for low, high, length in zip(reached.min(0), reached.max(0), (shape[1], shape[0]), strict=True):
        # what lies further out repeats: a mirror has the period 2 length, the others are flat
        limit = length if border == "reflect" else 2 * reduce
        low = min(max(math.floor(low) - 2 * reduce, -limit), length + limit - reduce)
        high = max(min(math.ceil(high) + 2 * reduce, length + limit), low + reduce)
        spans.append((int(low), int(low + reduce * math.ceil((high - low) / reduce))))
    (left, right), (top, bottom) = spans
    return _Plan(left, top, right, bottom, reduce, samples, spread)


def _sampling(scale: float) -> tuple[int, int, float]:
    """(reduce, samples, spread) of a map that makes lengths `scale` times as long."""
    if scale >= 1 - 1e-6:
        return 1, 1, 1.0
    reduce = max(int(0.5 / scale + 1e-6), 1)
    samples = math.ceil(1 / (scale * reduce) - 1e-6)
    return reduce, samples, min(1.0, (1 - scale) / _FADE)


def _positions(count: int, plan: _Plan) -> npt.NDArray[np.float64]:
    """Where on one axis of the result the readings lie: [count * samples], pixel centres at +0.5."""
    offsets = ((np.arange(plan.samples) + 0.5) / plan.samples - 0.5) * plan.spread
    return (np.arange(count)[:, None] + 0.5 + offsets).reshape(-1)


# --- tensors -----------------------------------------------------------------------------------------------


def _warp_planned(
    images: Tensor, maps: Tensor, plans: list[_Plan], size: tuple[int, int], border: Border
) -> Tensor:
    """Every image by its plan: those with equal numbers of readings and no reduction go together."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, plan in enumerate(plans):
        groups.setdefault((plan.samples, -1 if plan.reduce == 1 else i), []).append(i)
    if len(groups) == 1 and plans[0].reduce == 1:
        return _read(images, maps, plans, size, border)
    single = images.split(1)  # once: the gradient of single slices would be a picture of zeros for each
    parts: list[Tensor] = []
    order: list[int] = []
    for (_, alone), rows in groups.items():
        order += rows
        if alone < 0:
            chosen = torch.cat([single[i] for i in rows])
            parts.append(_read(chosen, maps[rows], [plans[i] for i in rows], size, border))
        else:
            parts.append(_read_reduced(single[alone], maps[rows], plans[alone], size, border))
    together = torch.cat(parts)
    if order == sorted(order):
        return together
    return together[torch.tensor(np.argsort(order), device=images.device)]


def _read_reduced(
    image: Tensor, matrix: Tensor, plan: _Plan, size: tuple[int, int], border: Border
) -> Tensor:
    piece = _extended(image, plan, border)
    if plan.reduce > 1:
        piece = functional.avg_pool2d(piece, plan.reduce)
    corner = matrix.new_tensor([plan.left, plan.top])
    shift = (matrix[:, :, :2] @ corner + matrix[:, :, 2])[..., None]
    return _read(piece, torch.cat([matrix[:, :, :2] * plan.reduce, shift], 2), [plan], size, border)


def _extended(image: Tensor, plan: _Plan, border: Border) -> Tensor:
    """The plan's rectangle of `image` [1, C, H, W], continued beyond its edges."""
    for dim, low, high in ((2, plan.top, plan.bottom), (3, plan.left, plan.right)):
        length = image.shape[dim]
        if low >= 0 and high <= length:
            image = image.narrow(dim, low, high - low)
            continue
        at = np.arange(low, high)
        if border == "reflect":
            at = at % (2 * length)
            index = np.where(at < length, at, 2 * length - 1 - at)
        else:
            index = at.clip(0, length - 1)
        image = image.index_select(dim, torch.from_numpy(index).to(image.device))
        if border == "constant":
            inside = torch.from_numpy((at >= 0) & (at < length)).to(image.device)
            image = image * inside.view([-1 if d == dim else 1 for d in range(4)])
    return image


def _read(images: Tensor, maps: Tensor, plans: list[_Plan], size: tuple[int, int], border: Border) -> Tensor:
    """Images [N, C, H, W] read bilinearly at the plans' positions, and the means of each pixel's readings."""
    grid = _grid(maps, plans, size, images.shape[2:]).to(images.dtype)
    result = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode=_PADDING[border], align_corners=False
    )
    samples = plans[0].samples
    return result if samples == 1 else functional.avg_pool2d(result, samples)


def _grid(maps: Tensor, plans: list[_Plan], size: tuple[int, int], shape: Sequence[int]) -> Tensor:
    """[N, rows, columns, 2]: where the readings lie, from -1 to 1 between the outer edges of the images."""
    a, b, x, c, d, y = maps.reshape(-1, 6)[:, :, None, None].unbind(1)
    ys = maps.new_tensor(np.stack([_positions(size[0], plan) for plan in plans]))[:, :, None] - y
    xs = maps.new_tensor(np.stack([_positions(size[1], plan) for plan in plans]))[:, None] - x
    det = a * d - b * c
    across = (d * 2 / (det * shape[1])) * xs - (b * 2 / (det * shape[1])) * ys - 1
    down = (a * 2 / (det * shape[0])) * ys - (c * 2 / (det * shape[0])) * xs - 1
    return torch.stack([across, down], -1)


def _warp_torch(
    image: npt.NDArray[np.uint8],
    matrix: Matrix,
    size: tuple[int, int],
    plan: _Plan,
    border: Border,
    fill: int,
) -> npt.NDArray[np.uint8]:
    left, top = max(plan.left, 0), max(plan.top, 0)
    piece = image[top : max(plan.bottom, top + 1), left : max(plan.right, left + 1)]
    inside = piece.shape[0] == plan.bottom - plan.top and piece.shape[1] == plan.right - plan.left
    if not inside:  # the border counts: leave the picture whole
        piece, left, top = image, 0, 0
    grey = piece.ndim == 2
    pixels = torch.from_numpy(np.ascontiguousarray(piece[..., None] if grey else piece))
    tensor = pixels.permute(2, 0, 1)[None].float()
    if border == "constant" and fill:
        tensor = tensor - fill
    moved = torch.from_numpy(matrix.copy())
    moved[:, 2] += moved[:, :2] @ moved.new_tensor([left, top])
    here = dataclasses.replace(
        plan, left=plan.left - left, right=plan.right - left, top=plan.top - top, bottom=plan.bottom - top
    )
    result = _warp_planned(tensor, moved[None], [here], size, border)
    if border == "constant" and fill:
        result = result + fill
    levels = result[0].permute(1, 2, 0).round_().clamp_(0, 255).byte().numpy()
    return np.ascontiguousarray(levels[:, :, 0] if grey else levels)


# --- OpenCV ------------------------------------------------------------------------------------------------


@functools.cache
def opencv() -> Any:
    """OpenCV's module, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _warp_opencv(
    cv2: Any,
    image: npt.NDArray[np.uint8],
    matrix: Matrix,
    size: tuple[int, int],
    plan: _Plan,
    border: Border,
    fill: int,
) -> npt.NDArray[np.uint8]:
    kind = {"constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT, "edge": cv2.BORDER_REPLICATE}[
        border
    ]
    rows, columns = size
    value = (fill,) * 4

    def read(picture: Any, m: Matrix, height: int, width: int) -> Any:
        return cv2.warpAffine(
            picture,
            opencv_matrix(m),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=kind,
            borderValue=value,
        )

    if plan.reduce > 1:
        image = _extended_opencv(cv2, image, plan, kind, value)
        reduced = (image.shape[1] // plan.reduce, image.shape[0] // plan.reduce)
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        matrix = plan.after(matrix)
    if plan.samples == 1:
        found = read(image, matrix, rows, columns)
    elif plan.spread == 1:
        fine = read(image, matrix * plan.samples, rows * plan.samples, columns * plan.samples)
        found = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)
    else:
        total = np.zeros((rows, columns, *image.shape[2:]), np.uint16)
        offsets = _positions(1, plan) - 0.5
        for dy in offsets:
            for dx in offsets:
                total += read(image, matrix - [[0, 0, dx], [0, 0, dy]], rows, columns).reshape(total.shape)
        count = plan.samples**2
        found = ((total + count // 2) // count).astype(np.uint8)
    result: npt.NDArray[np.uint8] = found.reshape(rows, columns, *image.shape[2:])
    return result


def _extended_opencv(
    cv2: Any, image: npt.NDArray[np.uint8], plan: _Plan, kind: int, value: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    # at least one row and column, even where the result lies wholly outside
    top, left = min(max(plan.top, 0), height - 1), min(max(plan.left, 0), width - 1)
    bottom, right = max(min(plan.bottom, height), top + 1), max(min(plan.right, width), left + 1)
    if (left, top, right, bottom) == (plan.left, plan.top, plan.right, plan.bottom):
        return image[top:bottom, left:right]
    if kind == cv2.BORDER_REFLECT:  # mirrors reach back into the picture
        top, bottom = _mirrored(plan.top, plan.bottom, height)
        left, right = _mirrored(plan.left, plan.right, width)
    above, before = max(top - plan.top, 0), max(left - plan.left, 0)
    below, behind = max(plan.bottom - bottom, 0), max(plan.right - right, 0)
    wide = cv2.copyMakeBorder(
        image[top:bottom, left:right], above, below, before, behind, kind, value=value
    ).reshape(above + bottom - top + below, before + right - left + behind, *image.shape[2:])
    y, x = plan.top - (top - above), plan.left - (left - before)
    found: npt.NDArray[np.uint8] = wide[y : y + plan.bottom - plan.top, x : x + plan.right - plan.left]
    return found


def _mirrored(low: int, high: int, length: int) -> tuple[int, int]:
    """The pixels of a picture's axis that [low, high) shows when the picture is mirrored at its edges."""
    first = min(max(low, 0), max(2 * length - high, 0), length - 1)
    last = max(min(high, length), min(-low, length), 1)
    return (0 if low < 0 else first), (length if high > length else last)


# --- checks ------------------------------------------------------------------------------------------------


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DTypeError(
            f"images must be a floating-point tensor [N, C, H, W]; got {came}. Pictures of uint8 levels "
            "become one by x.permute(0, 3, 1, 2) / 127.5 - 1; single ones go to warp_image()."
        )
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ShapeError(f"images must be [N, C, H, W]; got {list(images.shape)}.")


def _check_border(border: str) -> None:
    if border not in get_args(Border):
        raise ValueRangeError(f"border must be one of {', '.join(get_args(Border))}; got {border!r}.")


def _checked_matrices(matrices: Tensor | npt.ArrayLike, images: Tensor) -> Tensor:
    if isinstance(matrices, Tensor):
        maps = matrices.to(images.device, torch.float64)
    else:
        maps = torch.from_numpy(np.array(matrices, np.float64)).to(images.device)
    count = images.shape[0]
    if maps.shape == (2, 3):
        maps = maps.expand(count, 2, 3)
    if maps.shape != (count, 2, 3):
        raise ShapeError(
            f"matrices must be [{count}, 2, 3], one per image, or [2, 3]; got {list(maps.shape)}."
        )
    check_invertible(maps.detach().cpu().numpy())
    return maps

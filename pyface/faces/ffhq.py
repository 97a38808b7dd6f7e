"""The crop of the FFHQ dataset: its square around a face and its padding where that leaves the picture.

Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", appendix A,
and the procedure published with the dataset. Networks trained on FFHQ have seen these crops; a photograph
that is to be projected or edited by them must be cut in the same way.

In order: a picture with far more pixels than needed is reduced; it is cut to the square and a border; where
the square comes near or beyond an edge, the picture is mirrored there, blurred more and more outwards and
blended into its median colour; the square is read at a multiple of the size and reduced by Lanczos' filter.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.face import Photo, checked_photo
from pyface.faces.warp import inverse, opencv, warp_image

__all__ = ["ffhq_crop", "ffhq_padding", "ffhq_quad"]

Points = npt.NDArray[np.float64]

# Shares of the square's side, and pixels.
_BORDER, _MIN_BORDER = 0.1, 3
_NEAR = 4  # an edge this near to the square, in pixels, is padded
_PADDING = 0.3
_BLUR = 0.02  # standard deviation
_MIN_SIDE = 4.0
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends
_WIDE = 6.0  # standard deviation in reduced pixels above which a Gaussian is computed on fewer of them
_STRIP, _ROWS = 1 << 20, 32  # pixels, and rows, that are worked on at once


def ffhq_quad(landmarks: npt.ArrayLike) -> tuple[Points, float]:
    """The square that FFHQ shows of a face, and its side.

    With the middle of the eyes E, the vector from eye to eye e, the middle of the mouth's corners M and
    m = M - E: the square's half axis x points along e plus m turned by -90 degrees and is max(2 |e|, 1.8 |m|)
    long, its centre is E + 0.1 m. The eyes are the means of their six contour points.

    >>> quad, side = ffhq_quad([[40, 50], [80, 50], [60, 70], [48, 90], [72, 90]])
    >>> side, quad.tolist()
    (160.0, [[-20.0, -26.0], [-20.0, 134.0], [140.0, 134.0], [140.0, -26.0]])

    Args:
        landmarks: [68, 2] of ibug68, or [5, 2] (eyes, nose tip, mouth corners; image left first).

    Returns:
        Corners float64 [4, 2] (upper left, lower left, lower right, upper right), and the side in pixels.

    Raises:
        ShapeError: other landmarks.
        ValueRangeError: not finite, or eyes and mouth do not make a face.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape not in ((68, 2), (5, 2)):
        raise ShapeError(f"landmarks must be [68, 2] (ibug68) or [5, 2] (5pt); got {list(points.shape)}.")
    if len(points) == 68:
        left, right, corners = points[36:42].mean(0), points[42:48].mean(0), points[[48, 54]]
    else:
        left, right, corners = points[0], points[1], points[3:5]
    eyes = (left + right) / 2
    e, m = right - left, corners.mean(0) - eyes
    axis = np.array([e[0] + m[1], e[1] - m[0]])
    length = float(np.linalg.norm(axis))
    half = max(2.0 * float(np.linalg.norm(e)), 1.8 * float(np.linalg.norm(m)))
    if not math.isfinite(length) or length <= 1e-6 * half or half <= 0:
        raise ValueRangeError(
            f"landmarks do not make a face: eye to eye {e.tolist()}, eyes to mouth {m.tolist()}. They must "
            "be finite, apart, and in image order (image left first)."
        )
    x = axis * (half / length)
    y = np.array([-x[1], x[0]])
    c = eyes + 0.1 * m
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y]), 2 * half


def ffhq_crop(
    image: Photo, quad: npt.ArrayLike, size: int, *, supersample: int | None = None, padding: bool = True
) -> Photo:
    """The square `quad` of `image` as FFHQ would show it: uint8 [size, size, 3].

    FFHQ itself reads the square at 4096 pixels and keeps 1024. Where the picture has few pixels, fewer
    readings give the same.

    Args:
        image: uint8 [H, W, 3].
        quad: [4, 2], corners of a square as `ffhq_quad` gives them.
        size: of the result.
        supersample: readings per pixel of the result, on a side; by default 2 where the square has no more
            pixels than the result, 3 up to twice as many, else 4.
        padding: fill what lies outside the picture; without it, it is black.

    Raises:
        ValueRangeError: a square that is not finite, tiny, or does not touch the picture; a bad size.
    """
    checked_photo(image)
    q = np.asarray(quad, np.float64)
    if q.shape != (4, 2):
        raise ShapeError(f"quad must be [4, 2], the corners of a square; got {list(q.shape)}.")
    if size < 1 or (supersample is not None and supersample < 1):
        raise ValueRangeError(f"size and supersample must be at least 1; got {size} and {supersample}.")
    side = float(np.linalg.norm(q[3] - q[0]))
    if not np.isfinite(q).all() or side < _MIN_SIDE:
        raise ValueRangeError(
            f"the face's square must be finite and at least {_MIN_SIDE:g} pixels on a side; "
            f"got {q.tolist()}. The face is too small, or its landmarks are wrong."
        )
    pixels, q, side = _reduced_and_cut(image, q, side, size)
    border = _border(side)
    if padding:
        sides = _overhang(pixels, q, border)
        if max(sides) > border - _NEAR:
            added = tuple(max(s, round(side * _PADDING)) for s in sides)
            pixels = ffhq_padding(pixels, added, side * _BLUR)
            q = q + added[:2]
    if supersample is None:
        supersample = min(max(math.ceil(side / size), 1), 3) + 1
    return _read(pixels, q, size, supersample)


def ffhq_padding(image: Photo, sides: tuple[int, ...], blur: float) -> Photo:
    """`image` continued on all sides: mirrored, blurred outwards, fading to its median colour.

    With t, how far a pixel lies beyond the old edge as a share of the padding there (0 on the edge, 1 on the
    new edge, below 0 inside; the larger of both axes): first a blend with the blurred picture by
    clip(3 t + 1, 0, 1), so that the blur begins a third of the padding inside, then with the median over the
    whole by clip(t, 0, 1).

    Args:
        image: uint8 [H, W, 3].
        sides: pixels to add left, above, right, below; each at least 1.
        blur: standard deviation of the Gaussian in pixels.
    """
    if len(sides) != 4 or min(sides) < 1:
        raise ValueRangeError(f"sides must be four numbers of pixels, each at least 1; got {sides}.")
    left, above, right, below = sides
    result = np.pad(image, ((above, below), (left, right), (0, 0)), "reflect")
    blurred = _gaussian(result, blur)
    wide = result.astype(np.float32)
    height, width = wide.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    across = 1 - np.minimum(x / left, (width - 1 - x) / right)
    down = 1 - np.minimum(y / above, (height - 1 - y) / below)
    # a few rows at a time: what is in the caches need not be fetched again
    strips = [slice(start, start + _ROWS) for start in range(0, height, _ROWS)]
    outside = [np.maximum(across[None], down[rows, None])[..., None] for rows in strips]
    for rows, t in zip(strips, outside, strict=True):
        wide[rows] += (blurred[rows] - wide[rows]) * np.clip(3 * t + 1, 0, 1)
    median = _medians(wide)
    for rows, t in zip(strips, outside, strict=True):
        wide[rows] += (median - wide[rows]) * np.clip(t, 0, 1)
        result[rows] = np.clip(np.rint(wide[rows]), 0, 255)
    return result


def _border(side: float) -> int:
    return max(round(side * _BORDER), _MIN_BORDER)


def _reduced_and_cut(image: Photo, q: Points, side: float, size: int) -> tuple[Photo, Points, float]:
    """The square and its border, reduced by a whole number where the picture has twice the pixels needed."""
    height, width = image.shape[:2]
    shrink = math.floor(side / size * 0.5)
    if shrink > 1:
        shape = np.array([max(round(width / shrink), 1), max(round(height / shrink), 1)])
        factors = shape / (width, height)
        q, side = q * factors, side * math.sqrt(float(factors.prod()))
    else:
        shape, factors = np.array([width, height]), np.ones(2)
    border = _border(side)
    low = np.clip(np.floor(q.min(0)).astype(np.int64) - border, 0, shape)
    high = np.clip(np.ceil(q.max(0)).astype(np.int64) + border, 0, shape)
    if (high <= low).any():
        raise ValueRangeError(
            f"the face's square lies outside the picture of {width} x {height} pixels. Its landmarks are "
            "wrong."
        )
    if shrink <= 1:
        return image[low[1] : high[1], low[0] : high[0]], q - low, side
    start, end = low / factors, np.minimum(high / factors, (width, height))
    # no more of the picture than the filter sees, which reaches 3 reduced pixels
    first = np.maximum(np.floor(start).astype(np.int64) - 4 * shrink, 0)
    last = np.minimum(np.ceil(end).astype(np.int64) + 4 * shrink, (width, height))
    piece = Image.fromarray(np.ascontiguousarray(image[first[1] : last[1], first[0] : last[0]]))
    cut = (int(high[0] - low[0]), int(high[1] - low[1]))
    box = (*(start - first).tolist(), *(end - first).tolist())
    return np.asarray(piece.resize(cut, Image.Resampling.LANCZOS, box=box)), q - low, side


def _overhang(pixels: Photo, q: Points, border: int) -> tuple[int, int, int, int]:
    """Pixels by which the square and its border leave the picture: left, above, right, below."""
    height, width = pixels.shape[:2]
    (left, above), (right, below) = np.floor(q.min(0)).tolist(), np.ceil(q.max(0)).tolist()
    distances = (-left, -above, right - width, below - height)
    left, above, right, below = (max(int(d) + border, 0) for d in distances)
    return left, above, right, below


def _read(pixels: Photo, q: Points, size: int, supersample: int) -> Photo:
    """The square q at `supersample` times the size, reduced by Lanczos' filter.

    In strips: one of the large picture stays in the caches, and 4096 x 4096 pixels never have to be there.
    """
    if supersample == 1:
        return np.array(_large(pixels, q, size, 0, size))
    fine = size * supersample
    rows = min(max(_STRIP // (fine * supersample), 1), size)
    result = np.empty((size, size, 3), np.uint8)
    for top in range(0, size, rows):
        bottom = min(top + rows, size)
        # Lanczos' filter reaches 3 pixels of the result
        start, end = max(top - 3, 0) * supersample, min(bottom + 3, size) * supersample
        box = (0, top * supersample - start, fine, bottom * supersample - start)
        strip = _large(pixels, q, fine, start, end)
        result[top:bottom] = np.asarray(strip.resize((size, bottom - top), Image.Resampling.LANCZOS, box=box))
    return result


def _large(pixels: Photo, q: Points, side: int, start: int, end: int) -> Image.Image:
    """Rows `start` to `end` of the square q read bilinearly at side x side pixels."""
    right, down = (q[3] - q[0]) / side, (q[1] - q[0]) / side
    corner = q[0] + start * down
    if opencv() is not None:
        back = np.stack([right, down, corner], 1)
        return Image.fromarray(warp_image(pixels, inverse(back), (end - start, side), antialias=False))
    below = corner + (end - start) * down
    corners = np.stack([corner, below, below + side * right, corner + side * right])
    return Image.fromarray(np.ascontiguousarray(pixels)).transform(
        (side, end - start), Image.Transform.QUAD, corners.reshape(-1).tolist(), Image.Resampling.BILINEAR
    )


def _medians(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The median of each channel of `image` [H, W, C]: float32 [C]."""
    count = image.shape[0] * image.shape[1]
    plane = np.empty(count, np.float32)  # selection wants its numbers in a row
    found = np.empty(image.shape[2], np.float32)
    for channel in range(image.shape[2]):
        plane.reshape(image.shape[:2])[:] = image[..., channel]
        plane.partition(count // 2)
        upper = plane[count // 2]
        found[channel] = upper if count % 2 else (upper + plane[: count // 2].max()) / 2
    return found


def _gaussian(image: Photo, sigma: float) -> npt.NDArray[np.float32]:
    """`image` [H, W, 3] under a Gaussian cut off at 4 standard deviations, the edge pixel mirrored too.

    A wide one is made of three: the mean over f x f pixels, a Gaussian over these, and bilinear interpolation
    between them, whose variances (f^2 - 1) / 12, s^2 f^2 and f^2 / 6 add up to sigma^2. With f at most
    sigma / 6 that is within 0.7 of 255 levels even for black and white squares, and f^3 times less work.
    """
    f = int(sigma / _WIDE)
    if f < 2:
        return _exact_gaussian(image.astype(np.float32), sigma)
    height, width = image.shape[:2]
    # what is mirrored at the lower and right edge first, so that blocks of f need not end there
    reach = math.ceil(_TRUNCATE * sigma)
    below, behind = reach + -(height + reach) % f, reach + -(width + reach) % f
    wide = np.pad(image, ((0, below), (0, behind), (0, 0)), "symmetric")
    narrow = math.sqrt(sigma * sigma - (f * f - 1) / 12 - f * f / 6) / f
    reduced = (wide.shape[0] // f, wide.shape[1] // f)
    cv2 = opencv()
    if cv2 is not None:
        strips = (wide[top : top + 8 * f].astype(np.float32) for top in range(0, wide.shape[0], 8 * f))
        parts = [cv2.resize(s, (reduced[1], len(s) // f), interpolation=cv2.INTER_AREA) for s in strips]
        small = _exact_gaussian(np.concatenate(parts), narrow)
        smooth = cv2.resize(small, wide.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    else:
        small = wide.reshape(reduced[0], f, reduced[1], f, 3).mean((1, 3), np.float32)
        planes = torch.from_numpy(_exact_gaussian(small, narrow)).permute(2, 0, 1)[None]
        smooth = functional.interpolate(planes, wide.shape[:2], mode="bilinear")[0].permute(1, 2, 0).numpy()
    found: npt.NDArray[np.float32] = smooth[:height, :width]
    return found


def _exact_gaussian(image: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    radius = int(_TRUNCATE * sigma + 0.5)
    if radius == 0:
        return image
    cv2 = opencv()
    if cv2 is not None:
        found: npt.NDArray[np.float32] = cv2.GaussianBlur(
            image, (2 * radius + 1, 2 * radius + 1), sigma, borderType=cv2.BORDER_REFLECT
        )
        return found
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2)
    weights = (weights / weights.sum()).float()
    x = torch.from_numpy(image).permute(2, 0, 1)[:, None]
    for dim, kernel in ((2, weights.view(1, 1, -1, 1)), (3, weights.view(1, 1, 1, -1))):
        length = x.shape[dim]
        at = torch.arange(-radius, length + radius) % (2 * length)
        x = functional.conv2d(x.index_select(dim, torch.where(at < length, at, 2 * length - 1 - at)), kernel)
    return x[:, 0].permute(1, 2, 0).numpy()

"""What every detector here does to pictures and to boxes: checks, windows, letterboxes, overlaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.face import Photo, checked_photo
from pyface.faces.opencv_network import opencv

__all__ = [
    "Candidates",
    "Limits",
    "Window",
    "as_rgb",
    "blend",
    "checked_images",
    "overlaps",
    "suppress",
    "windows",
]

Floats = npt.NDArray[np.float32]


def checked_images(images: Sequence[Photo], name: str = "images") -> list[Photo]:
    """The pictures as a list, each uint8 [H, W, 3].

    Raises:
        ShapeError: a picture is something else, such as grey or with an alpha channel, or has no pixel.
    """
    if isinstance(images, np.ndarray) and images.ndim == 3:
        raise ShapeError(
            f"{name} must be a sequence of pictures [H, W, 3]; got one array {list(images.shape)}. "
            "Pass a list: [image]."
        )
    photos = [checked_photo(image, f"{name}[{i}]") for i, image in enumerate(images)]
    for i, photo in enumerate(photos):
        if not photo.size:
            raise ShapeError(f"{name}[{i}] must have at least one pixel; got {list(photo.shape)}.")
    return photos


def as_rgb(image: Photo, background: tuple[int, int, int] = (255, 255, 255)) -> Photo:
    """An RGB picture of a grey, grey with alpha, RGB or RGBA one.

    Args:
        image: uint8 [H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4].
        background: what shows through where alpha is below 255, RGB from 0 to 255.

    Returns:
        uint8 [H, W, 3]; the same array where it is RGB already.

    Raises:
        ShapeError, DTypeError: something else.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DTypeError(f"image must be a numpy array of uint8; got {kind}.")
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or not 1 <= planes.shape[2] <= 4:
        raise ShapeError(f"image must be [H, W] or [H, W, 1 to 4]; got {list(image.shape)}.")
    channels = planes.shape[2]
    if channels == 3:
        return image
    colour = planes[..., :3] if channels == 4 else np.repeat(planes[..., :1], 3, axis=2)
    if channels == 1:
        return np.ascontiguousarray(colour)
    alpha = planes[..., -1:].astype(np.float32) / 255.0
    mixed = colour * alpha + np.array(background, np.float32) * (1.0 - alpha)
    return (mixed + 0.5).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Boxes that may be faces.

    Attributes:
        boxes: float32 [N, 4], (x0, y0, x1, y1).
        scores: float32 [N] in [0, 1].
        points: float32 [N, K, 2]; K may be 0.
    """

    boxes: Floats
    scores: Floats
    points: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Any) -> Candidates:
        return Candidates(self.boxes[chosen], self.scores[chosen], self.points[chosen])

    @staticmethod
    def none(points: int = 0) -> Candidates:
        """No candidate, with room for `points` points each."""
        return Candidates(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, points, 2), np.float32)
        )

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        """All candidates of at least one part, in order."""
        return Candidates(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.points for p in parts]),
        )


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle of a picture and how it is put into a network's input.

    The rectangle keeps its aspect and is put in the middle or at the corner; the rest is filled. A point p of
    the input (pixel centres at +0.5) lies at (p - offset) / scale + (left, top) in the picture.

    Attributes:
        left, top, right, bottom: whole pixels inside the picture.
        offset: pixels left and above the scaled rectangle in the input, (x, y).
        scale: input pixels per picture pixel, (x, y); they differ by rounding only.
        size: of the input, (width, height).
    """

    left: int
    top: int
    right: int
    bottom: int
    offset: tuple[int, int]
    scale: tuple[float, float]
    size: tuple[int, int]

    @staticmethod
    def of(
        rectangle: tuple[int, int, int, int], size: tuple[int, int], share: float = 1.0, centred: bool = True
    ) -> Window:
        """The rectangle (left, top, right, bottom) fitted into `share` of an input of (width, height)."""
        left, top, right, bottom = rectangle
        width, height = right - left, bottom - top
        scale = share * min(size[0] / width, size[1] / height)
        across = min(max(round(width * scale), 1), size[0])
        down = min(max(round(height * scale), 1), size[1])
        offset = ((size[0] - across) // 2, (size[1] - down) // 2) if centred else (0, 0)
        return Window(left, top, right, bottom, offset, (across / width, down / height), size)

    def cut(self, image: Photo, fill: int = 0) -> Photo:
        """What the network sees: uint8 [height, width, 3].

        Smaller pictures are made by the mean over areas, larger ones by linear interpolation.
        """
        cv2 = opencv()
        part = image[self.top : self.bottom, self.left : self.right]
        across = round((self.right - self.left) * self.scale[0])
        down = round((self.bottom - self.top) * self.scale[1])
        shrinks = min(self.scale) < 1.0
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        scaled = cv2.resize(np.ascontiguousarray(part), (across, down), interpolation=method)
        whole = np.full((self.size[1], self.size[0], 3), fill, np.uint8)
        x, y = self.offset
        whole[y : y + down, x : x + across] = scaled
        return whole

    def back(self, found: Candidates) -> Candidates:
        """Candidates in pixels of the input, in pixels of the picture."""
        scale = np.array(self.scale, np.float32)
        move = np.array([self.left, self.top], np.float32) - np.array(self.offset, np.float32) / scale
        boxes = found.boxes / np.tile(scale, 2) + np.tile(move, 2)
        return Candidates(boxes, found.scores, found.points / scale + move)

    def whole_inside(
        self, boxes: Floats, image_size: tuple[int, int], slack: float = 2.0
    ) -> npt.NDArray[np.bool_]:
        """Which boxes (pixels of the picture) no inner border of the window cuts: bool [N].

        Args:
            boxes: float32 [N, 4].
            image_size: (width, height) of the picture.
            slack: how far a box may reach beyond a border, in pixels of the input.
        """
        x, y = slack / self.scale[0], slack / self.scale[1]
        free = np.ones(len(boxes), bool)
        if self.left > 0:
            free &= boxes[:, 0] >= self.left - x
        if self.top > 0:
            free &= boxes[:, 1] >= self.top - y
        if self.right < image_size[0]:
            free &= boxes[:, 2] <= self.right + x
        if self.bottom < image_size[1]:
            free &= boxes[:, 3] <= self.bottom + y
        return free


def windows(width: int, height: int, side: int, overlap: float) -> Iterator[tuple[int, int, int, int]]:
    """Squares of `side` pixels that cover a picture, row by row: (left, top, right, bottom).

    Neighbours share at least `overlap` of the side; squares larger than the picture are cut to it.
    """

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = int(np.ceil((length - side) / (side * (1.0 - overlap)))) + 1
        return np.rint(np.linspace(0, length - side, count)).astype(int).tolist()

    for top in starts(height):
        for left in starts(width):
            yield left, top, min(left + side, width), min(top + side, height)


def overlaps(box: Floats, boxes: Floats, of_smaller: bool = False) -> Floats:
    """Intersection over union of one box [4] with each of boxes [N, 4]: float32 [N].

    With `of_smaller` it is the intersection over the area of the smaller box of the two.
    """
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=1)
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None), axis=1)
    area = float(np.prod(np.clip(box[2:] - box[:2], 0.0, None)))
    whole = np.minimum(areas, area) if of_smaller else areas + area - shared
    ratio: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return ratio


def suppress(found: Candidates, overlap: float, of_smaller: bool = False) -> Candidates:
    """The best candidates, best first, of which no two overlap by more than `overlap` (greedy).

    See `overlaps` for `of_smaller`.
    """
    left = np.argsort(-found.scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(found.boxes[best], found.boxes[left], of_smaller) <= overlap]
    return found[np.array(kept, np.int64)]


def blend(found: Candidates, overlap: float) -> Candidates:
    """Like `suppress`, but each kept box and its points are the mean of those it stands for.

    The weights are the scores; the score is the best one. This is the blending of V. Bazarevsky et al.,
    "BlazeFace: sub-millisecond neural face detection on mobile GPUs" (2019), section 3.3.
    """
    left = np.argsort(-found.scores, kind="stable")
    boxes, scores, points = [], [], []
    while len(left):
        near = overlaps(found.boxes[left[0]], found.boxes[left]) > overlap
        near[0] = True
        group, left = left[near], left[~near]
        weights = found.scores[group] / found.scores[group].sum()
        boxes.append(weights @ found.boxes[group])
        points.append(np.tensordot(weights, found.points[group], 1))
        scores.append(found.scores[group[0]])
    if not boxes:
        return found
    return Candidates(np.stack(boxes), np.array(scores, np.float32), np.stack(points))


@dataclasses.dataclass(frozen=True)
class Limits:
    """Which candidates are given as faces.

    Attributes:
        threshold: least score, in [0, 1].
        max_faces: keep the best so many; None keeps all.
        min_size: least longer side of a box in pixels.

    Raises:
        ValueRangeError: a number is out of range.
    """

    threshold: float = 0.5
    max_faces: int | None = None
    min_size: float = 0.0

    def __post_init__(self) -> None:
        checked_fraction(self.threshold, "threshold")
        if self.max_faces is not None and self.max_faces < 1:
            raise ValueRangeError(f"max_faces must be at least 1 or None; got {self.max_faces}.")
        if not self.min_size >= 0:
            raise ValueRangeError(f"min_size must not be negative; got {self.min_size} pixels.")

    def applied(self, found: Candidates) -> Candidates:
        """The candidates within the limits, best first."""
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0.0)
        found = found[(sides >= self.min_size) & (found.scores >= self.threshold)]
        return found[np.argsort(-found.scores, kind="stable")[: self.max_faces]]


def checked_fraction(value: float, name: str) -> float:
    """`value` as a float in [0, 1].

    Raises:
        ValueRangeError: it lies outside.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueRangeError(f"{name} must lie in [0, 1]; got {value}.")
    return float(value)

"""Faces laid into squares: photographs one by one, and a batch of tensors."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pyface.benchmark.case import OURS, Case, Variant, Workload
from pyface.errors import BackendError

__all__ = ["alignment_cases"]

ALIASED = "OpenCV warpAffine, which aliases"
PUBLISHED = "Pillow, the square at 4096 px"
_PHOTOGRAPHS, _SIZES = (512, 2000), (112, 256, 1024)
_BATCH = 16
# Eyes, nose, mouth of an upright face about its centre; its FFHQ square is 4 wide.
_FACE = np.array([[-0.5, -0.11], [0.5, -0.11], [0.0, 0.5], [-0.35, 0.99], [0.35, 0.99]])
_SQUARE = 0.75  # of the picture's side

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


def alignment_cases() -> list[Case]:
    """Photographs of 512 and 2000 px to 112, 256 and 1024 px by two templates, and 16 tensors to 112 px."""
    work = [
        (template, inside, photograph, size)
        for template, inside in (("arcface112", True), ("ffhq", True), ("ffhq", False))
        for photograph in _PHOTOGRAPHS
        for size in _SIZES
    ]
    cases = [_single_case(*each) for each in work]
    size = f"{_BATCH}x3x256x256 to 112 px"
    name = f"align_batch/{size}"
    return [*cases, Case(name, "alignment", "align_batch", size, "float32", "-", _batch, cold=False)]


def _single_case(template: str, inside: bool, photograph: int, size: int) -> Case:
    what = f"{template}, {'inside' if inside else 'at the edge'}"
    pixels = f"{photograph} to {size} px"
    return Case(
        f"align/{what}/{pixels}",
        "alignment",
        f"align {what}",
        pixels,
        "uint8",
        "-",
        lambda device: _single(template, inside, photograph, size, device),
        cold=False,
        quick=(photograph, size) == (512, 112),
    )


def _photograph(side: int) -> Pixels:
    """Noise with details of 8 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def _points(side: int, inside: bool) -> Points:
    return _FACE * (_SQUARE * side / 4) + (np.array([0.5, 0.5]) if inside else np.array([0.3, 0.5])) * side


def _single(template: str, inside: bool, photograph: int, size: int, device: str) -> Workload:
    from pyface.faces.align import align, alignment_matrix
    from pyface.faces.warp import opencv_matrix

    if device != "cpu":
        raise BackendError("photographs are aligned on the CPU")
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(torch.get_num_threads())
    image, points = _photograph(photograph), _points(photograph, inside)
    variants = {OURS: _without_result(lambda: align(image, points, template, size).image)}
    if template == "arcface112":
        matrix = opencv_matrix(alignment_matrix(points, template, size))
        variants[ALIASED] = _without_result(lambda: cv2.warpAffine(image, matrix, (size, size)))
    elif inside:
        variants[PUBLISHED] = _without_result(lambda: _as_published(image, points, size))
    return Workload({name: Variant(run) for name, run in variants.items()}, items=1)


def _as_published(image: Pixels, points: Points, size: int) -> Pixels:
    """A face inside its picture as the dataset's own procedure reads it, without the reduction before it."""
    from pyface.faces.ffhq import ffhq_quad

    corners = ffhq_quad(points)[0].reshape(-1).tolist()
    large = Image.fromarray(image).transform(
        (4096, 4096), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
    )
    return np.array(large.resize((size, size), Image.Resampling.LANCZOS))


def _without_result(run: Callable[[], Pixels]) -> Callable[[], None]:
    def once() -> None:
        run()

    return once


def _batch(device: str) -> Workload:
    from pyface.faces.align import align_batch

    photograph = torch.from_numpy(_photograph(256)).permute(2, 0, 1).float() / 127.5 - 1
    images = photograph.expand(_BATCH, -1, -1, -1).contiguous().to(device)
    points = np.stack([_points(256, True) + i for i in range(_BATCH)])

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return align_batch(x, points, "arcface112", 112)[0]

    return Workload(
        {OURS: Variant(lambda: run(images))},
        reference=lambda: run(images.double()),
        items=_BATCH,
        tolerance=1e-4,
    )

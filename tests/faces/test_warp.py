"""Warping against OpenCV, against supersampled truth, and its gradients."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces import warp as warp_module
from pyface.faces.affine import inverse, opencv_matrix, transform_points, valid_pixels
from pyface.faces.warp import warp, warp_image

CV_BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "reflect": cv2.BORDER_REFLECT,
    "edge": cv2.BORDER_REPLICATE,
}


@pytest.fixture(params=["opencv", "torch"])
def engine(request, monkeypatch):
    """Both ways of warp_image."""
    if request.param == "torch":
        monkeypatch.setattr(warp_module, "opencv", lambda: None)
    return request.param


def picture(height=150, width=180, seed=0):
    """Blurred noise: detail at every place, but no step of black to white.

    OpenCV rounds places to 1/32 of a pixel, which is 4 levels at such a step.
    """
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    smooth = (smooth - smooth.mean()) * (50 / smooth.std()) + 127
    return np.clip(np.rint(smooth), 0, 255).astype(np.uint8)


def similarity_matrix(scale, angle, centre, target):
    a = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([a, (np.asarray(target) - a @ np.asarray(centre))[:, None]], 1)


def random_matrices(count, seed=0):
    """Scales 0.4 to 3, any angle, centres that often put part of the crop outside the picture."""
    rng = np.random.default_rng(seed)
    return [
        similarity_matrix(
            np.exp(rng.uniform(np.log(0.4), np.log(3))),
            rng.uniform(-np.pi, np.pi),
            rng.uniform([0, 0], [180, 150]),
            (48, 48),
        )
        for _ in range(count)
    ]


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def levels(tensor):
    return tensor[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


@pytest.mark.parametrize("border", CV_BORDERS)
def test_equals_opencv(border):
    image = picture()
    means, worst = [], 0
    for matrix in random_matrices(12):
        ours = levels(warp(as_tensor(image), matrix, 96, border=border, fill=127.0, antialias=False))
        theirs = cv2.warpAffine(
            image,
            opencv_matrix(matrix),
            (96, 96),
            flags=cv2.INTER_LINEAR,
            borderMode=CV_BORDERS[border],
            borderValue=(127, 127, 127),
        )
        difference = np.abs(ours.astype(int) - theirs)
        means.append(difference.mean())
        worst = max(worst, difference.max())
    assert max(means) <= 0.2
    assert worst <= 2


def exact_bilinear(image, matrix, size):
    """The formula itself in float64, one pixel after the other, black outside."""
    back = inverse(matrix)
    result = np.zeros((size, size, 3))
    for row in range(size):
        for column in range(size):
            x, y = transform_points(back, [column + 0.5, row + 0.5]) - 0.5
            for dx in (0, 1):
                for dy in (0, 1):
                    px, py = int(np.floor(x)) + dx, int(np.floor(y)) + dy
                    if 0 <= px < image.shape[1] and 0 <= py < image.shape[0]:
                        result[row, column] += (1 - abs(x - px)) * (1 - abs(y - py)) * image[py, px]
    return result


def test_equals_the_formula(engine):
    image = picture()
    for matrix in random_matrices(3, seed=5):
        truth = exact_bilinear(image, matrix, 40)
        ours = warp(as_tensor(image), matrix, 40, antialias=False)[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - truth).max() < 0.02
        single = warp_image(image, matrix, 40, antialias=False)
        assert np.abs(single - truth).max() < (0.52 if engine == "torch" else 4)


@pytest.mark.parametrize("border", CV_BORDERS)
def test_batch_equals_single_photographs(border, engine):
    """The batch, whose samples have different scales, gives what warp_image gives for each."""
    images = [picture(seed=i) for i in range(8)]
    matrices = random_matrices(8, seed=3)
    matrices[0] = similarity_matrix(0.1, 0.4, (90, 75), (48, 48))
    matrices[1] = similarity_matrix(0.17, 2.0, (170, 10), (48, 48))
    batch = warp(
        torch.cat([as_tensor(i) for i in images]), np.stack(matrices), (96, 90), border=border, fill=127.0
    )
    for i, (image, matrix) in enumerate(zip(images, matrices, strict=True)):
        single = warp_image(image, matrix, (96, 90), border=border, fill=127)
        difference = np.abs(levels(batch[i : i + 1]).astype(int) - single)
        # reduced pictures are rounded to levels three times on OpenCV's way
        assert difference.mean() <= (0.3 if i < 2 else 0.2), i
        assert difference.max() <= 2, i


def test_identity_and_shift_move_no_level(engine):
    image = picture()
    assert np.array_equal(warp_image(image, [[1, 0, 0], [0, 1, 0]], (150, 180)), image)
    shifted = warp_image(image, [[1, 0, -7], [0, 1, 4]], (150, 180), fill=9)
    assert np.array_equal(shifted[4:, :-7], image[:-4, 7:])
    assert (shifted[:4] == 9).all()
    assert (shifted[:, -7:] == 9).all()


def test_quarter_turn_is_exact(engine):
    """Pixel centres at +0.5: turning a square about its middle maps centres onto centres."""
    image = picture(64, 64)
    turned = warp_image(image, [[0, -1, 64], [1, 0, 0]], 64)
    assert np.array_equal(turned, np.rot90(image, -1))


def test_grey_and_four_channels(engine):
    image = picture()
    matrix = random_matrices(1)[0]
    colour = warp_image(image, matrix, 50)
    assert np.array_equal(warp_image(image[..., 0].copy(), matrix, 50), colour[..., 0])
    assert np.array_equal(warp_image(image[..., :1], matrix, 50), colour[..., :1])
    four = warp_image(np.concatenate([image, image[..., :1]], 2), matrix, 50)
    assert np.array_equal(four[..., :3], colour)
    strided = np.asfortranarray(image)[:, ::-1][:, ::-1]
    assert np.array_equal(warp_image(strided, matrix, 50), colour)


@pytest.mark.parametrize(("border", "expected"), [("constant", 5), ("edge", 200), ("reflect", 200)])
def test_far_outside(border, expected, engine):
    """A crop that sees nothing of the picture is all border, at any scale."""
    image = np.full((40, 60, 3), 200, np.uint8)
    for scale in (2.0, 0.9, 0.3, 0.02):
        matrix = similarity_matrix(scale, 0.3, (-50000, 90000), (8, 8))
        assert (warp_image(image, matrix, 16, border=border, fill=5) == expected).all()
    tensor = warp(as_tensor(image), matrix, 16, border=border, fill=5.0)
    assert torch.allclose(tensor, torch.full_like(tensor, expected))


def test_tiny_picture_and_huge_reduction(engine):
    """One pixel, and a picture that becomes a speck: its share of the pixel's area."""
    one = np.full((1, 1, 3), 120, np.uint8)
    assert (warp_image(one, [[1, 0, 0], [0, 1, 0]], 1) == 120).all()
    assert (warp_image(one, [[40, 0, 0], [0, 40, 0]], 40, border="edge") == 120).all()
    image = np.full((100, 100, 3), 200, np.uint8)
    speck = warp_image(image, [[0.005, 0, 0.25], [0, 0.005, 0.25]], 1)
    assert abs(int(speck[0, 0, 0]) - 50) <= 2  # half by half of a pixel


# --- reduction ---------------------------------------------------------------------------------------------


def chirp(side=512):
    """Rings whose frequency grows to 0.45 cycles per pixel at the edge."""
    at = np.arange(side) + 0.5 - side / 2
    radius = at[:, None] ** 2 + at[None] ** 2
    return 127.5 + 127 * np.cos(0.9 * np.pi * radius / side)


def area_mean(image, matrix, size, fine=10):
    """The mean of fine x fine bilinear readings over each pixel of the result: float32."""
    position = (np.arange(size * fine) + 0.5) / fine
    (a, b, x), (c, d, y) = inverse(matrix)
    xs = (a * position[None] + b * position[:, None] + x - 0.5).astype(np.float32)
    ys = (c * position[None] + d * position[:, None] + y - 0.5).astype(np.float32)
    read = cv2.remap(image.astype(np.float32), xs, ys, cv2.INTER_LINEAR)
    return read.reshape(size, fine, size, fine).mean((1, 3))


@pytest.mark.parametrize("scale", [0.6, 0.5, 0.35, 0.2, 0.11])
def test_reduction_has_no_aliasing(scale, engine):
    rings = chirp()
    size = int(512 * scale * 0.65)
    matrix = similarity_matrix(scale, 0.3, (256, 256), (size / 2, size / 2))
    truth = area_mean(rings, matrix, size)
    image = np.repeat(np.rint(rings).astype(np.uint8)[..., None], 3, 2)
    with_means = np.sqrt(np.mean((warp_image(image, matrix, size)[..., 0] - truth) ** 2))
    without = np.sqrt(np.mean((warp_image(image, matrix, size, antialias=False)[..., 0] - truth) ** 2))
    assert with_means < 8
    assert with_means < without / 3.5
    tensor = warp(as_tensor(image), matrix, size)[0, 0].numpy()
    assert np.sqrt(np.mean((tensor - truth) ** 2)) < 8


def test_large_photograph_to_arcface_size(engine):
    """4000 px to 112 px: fine stripes, far above what 112 px can show, become their mean."""
    stripes = np.zeros((4000, 4000, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = similarity_matrix(112 / 3200, 0.2, (2000, 2000), (56, 56))
    aligned = warp_image(stripes, matrix, 112)
    assert np.abs(aligned.astype(int) - 127).max() <= 4
    assert warp_image(stripes, matrix, 112, antialias=False).std() > 60


def test_sharpness_has_no_step_at_scale_one():
    image = picture()
    results = [
        warp(as_tensor(image), similarity_matrix(scale, 0.2, (90, 75), (48, 48)), 96)
        for scale in (1.00001, 0.99999)
    ]
    assert float((results[0] - results[1]).abs().max()) < 0.1


# --- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("border", CV_BORDERS)
def test_gradient(border):
    images = torch.rand(3, 1, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrices = torch.tensor(
        np.stack(
            [
                similarity_matrix(1.3, 0.4, (2, 3), (1, 2)),
                similarity_matrix(0.7, -1.0, (4, 2), (2, 1)),
                similarity_matrix(0.23, 2.0, (3, 4), (1, 2)),
            ]
        )
    )
    assert torch.autograd.gradcheck(
        lambda x: warp(x, matrices, (3, 4), border=border, fill=-1.0),
        (images.requires_grad_(),),
        fast_mode=True,
    )
    matrices.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: warp(images.detach(), m, 3, border=border), (matrices,), atol=1e-4, eps=1e-7, fast_mode=True
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Places are computed in float32 whatever the images' type."""
    x = as_tensor(picture()) / 127.5 - 1
    matrix = random_matrices(1)[0]
    result = warp(x.to(dtype), matrix, 64, fill=-1.0)
    assert result.dtype == dtype
    truth = warp(x.to(dtype).float(), matrix, 64, fill=-1.0)
    assert float((result.float() - truth).abs().max()) <= float(torch.finfo(dtype).eps)


def test_empty_batch():
    assert warp(torch.zeros(0, 3, 8, 8), np.zeros((0, 2, 3)), 5).shape == (0, 3, 5, 5)


# --- maps --------------------------------------------------------------------------------------------------


def test_points_go_and_come_back():
    rng = np.random.default_rng(0)
    for matrix in random_matrices(10):
        points = rng.uniform(-500, 500, (4, 7, 3))
        there = transform_points(matrix, points)
        assert np.allclose(transform_points(inverse(matrix), there), points, atol=1e-9)
        assert np.allclose(there[..., :2], points[..., :2] @ matrix[:, :2].T + matrix[:, 2])
        assert np.allclose(there[..., 2] / points[..., 2], np.hypot(matrix[0, 0], matrix[1, 0]))


def test_valid_pixels_are_those_from_inside():
    for matrix in [*random_matrices(20), similarity_matrix(3, 0.1, (90, 75), (20, 30))]:
        ones = np.full((150, 180), 255, np.uint8)
        mask = valid_pixels(matrix, (60, 40), 150, 180)
        rows, columns = np.mgrid[0:60, 0:40] + 0.5
        back = transform_points(inverse(matrix), np.stack([columns, rows], -1))
        inside = ((back >= 0) & (back <= [180, 150])).all(-1)
        assert np.array_equal(mask, inside)
        # the warped picture of ones is at least half there, but at corners, on these pixels alone
        shown = warp_image(ones, matrix, (60, 40), antialias=False)
        assert (shown[mask] >= 62).all()
        assert (shown[~mask] <= 130).all()


# --- messages ----------------------------------------------------------------------------------------------

GOOD = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("images", "matrices", "size", "border", "error", "text"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), GOOD, 8, "constant", DTypeError, "ndarray"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), GOOD, 8, "constant", DTypeError, "127.5"),
        (torch.zeros(3, 8, 8), GOOD, 8, "constant", ShapeError, "N, C, H, W"),
        (torch.zeros(1, 3, 0, 8), GOOD, 8, "constant", ShapeError, "N, C, H, W"),
        (torch.zeros(1, 3, 8, 8), [GOOD, GOOD], 8, "constant", ShapeError, "one per image"),
        (torch.zeros(1, 3, 8, 8), [[1, 0], [0, 1]], 8, "constant", ShapeError, "2, 3"),
        (torch.zeros(1, 3, 8, 8), np.full((2, 3), np.nan), 8, "constant", ValueRangeError, "finite"),
        (torch.zeros(1, 3, 8, 8), np.zeros((2, 3)), 8, "constant", ValueRangeError, "invertible"),
        (torch.zeros(1, 3, 8, 8), GOOD, 0, "constant", ValueRangeError, "size"),
        (torch.zeros(1, 3, 8, 8), GOOD, (8, 2.5), "constant", ValueRangeError, "size"),
        (torch.zeros(1, 3, 8, 8), GOOD, 8, "wrap", ValueRangeError, "reflect"),
    ],
)
def test_refused(images, matrices, size, border, error, text):
    with pytest.raises(error, match=text):
        warp(images, matrices, size, border=border)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((0, 8, 3), np.uint8)],
)
def test_refused_photographs(image):
    with pytest.raises(ShapeError, match="image"):
        warp_image(image, GOOD, 8)


def test_works_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    warp_module.opencv.cache_clear()
    try:
        assert warp_module.opencv() is None
        assert np.array_equal(warp_image(picture(), GOOD, (150, 180)), picture())
    finally:
        monkeypatch.undo()
        warp_module.opencv.cache_clear()

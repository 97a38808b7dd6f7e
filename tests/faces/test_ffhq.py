"""The FFHQ crop on pictures whose pixels tell where they came from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pyface.data import ProceduralFaces
from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import ffhq as ffhq_module
from pyface.faces import warp as warp_module
from pyface.faces.affine import inverse, transform_points
from pyface.faces.align import align
from pyface.faces.ffhq import ffhq_crop, ffhq_padding, ffhq_quad
from pyface.faces.warp import warp_image

# Eye to eye 1, eyes to mouth 1.1, so that the square is 4 wide; about the square's centre.
LAYOUT = np.array([[-0.5, -0.11], [0.5, -0.11], [0.0, 0.5], [-0.35, 0.99], [0.35, 0.99]])

TOLERANCE = {"opencv": 1.3, "pillow": 1.8}  # levels of a ramp: its steps, and Pillow cuts fractions off


@pytest.fixture(params=["opencv", "pillow"])
def engine(request, monkeypatch):
    """With OpenCV, and as it goes where that is not installed."""
    if request.param == "pillow":
        monkeypatch.setattr(warp_module, "opencv", lambda: None)
        monkeypatch.setattr(ffhq_module, "opencv", lambda: None)
    return request.param


def face_at(centre, side, angle=0.0):
    """Five landmarks of a face whose square has this centre, side and turn."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return LAYOUT @ turn.T * (side / 4) + centre


def ramp(height, width):
    """Red grows with x, green with y, by one level for every `step` pixels; blue is 77."""
    step = max(height, width) / 250
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    image = np.stack([columns / step, rows / step, np.full((height, width), 77.0)], -1)
    return np.rint(image).astype(np.uint8), step


def places(matrix, size):
    """Where every pixel of the crop lies in the picture: [size, size, 2]."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    return transform_points(inverse(matrix), np.stack([columns, rows], -1))


# --- the square --------------------------------------------------------------------------------------------


def test_square_of_an_upright_face():
    """By hand: e = (40, 0), m = (0, 40): x along (80, 0), 2 |e| = 80 beats 1.8 |m| = 72."""
    quad, side = ffhq_quad([[40, 50], [80, 50], [60, 70], [48, 90], [72, 90]])
    assert side == 160
    assert np.allclose(quad, [[-20, -26], [-20, 134], [140, 134], [140, -26]])


def test_long_faces_are_framed_by_the_mouth():
    """m = (0, 50): 1.8 |m| = 90 beats 80."""
    quad, side = ffhq_quad([[40, 50], [80, 50], [60, 70], [48, 100], [72, 100]])
    assert side == pytest.approx(180)
    assert np.allclose(quad.mean(0), [60, 55])


def test_slanted_mouth_turns_the_square():
    """x = e + (m_y, -m_x): e = (40, 0), m = (10, 40) -> (80, -10)."""
    quad, _ = ffhq_quad([[40, 50], [80, 50], [60, 70], [58, 90], [82, 90]])
    right = (quad[3] - quad[0]) / np.linalg.norm(quad[3] - quad[0])
    assert np.allclose(right, np.array([80, -10]) / np.hypot(80, 10))
    assert np.allclose(quad.mean(0), [61, 54])


def test_68_points_count_by_means_of_contours():
    sample = ProceduralFaces(1, 1, size=128, spectra=("vis",))[0]
    points = sample.landmarks["ibug68"].astype(np.float64)
    five = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    assert np.allclose(ffhq_quad(points)[0], ffhq_quad(five)[0])


def test_square_moves_with_the_face():
    for angle in (0.0, 0.7, -2.0, np.pi):
        quad, side = ffhq_quad(face_at((200, 300), 80, angle))
        assert side == pytest.approx(80)
        assert np.allclose(quad.mean(0), [200, 300])
        right = (quad[3] - quad[0]) / 80
        assert np.allclose(right, [np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("points", "error"),
    [
        (np.zeros((7, 2)), ShapeError),
        (np.zeros((5, 3)), ShapeError),
        (np.full((5, 2), 4.0), ValueRangeError),
        (np.full((5, 2), np.nan), ValueRangeError),
        ([[80, 50], [40, 50], [60, 70], [72, 90], [48, 90]], ValueRangeError),  # e cancels m turned
    ],
)
def test_square_refuses(points, error):
    with pytest.raises(error):
        ffhq_quad(points)


# --- where pixels come from --------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2, 3.0])
@pytest.mark.parametrize(("side", "size"), [(120, 128), (120, 60), (100, 40), (150, 256)])
def test_inside_every_pixel_comes_from_its_place(side, size, angle, engine):
    image, step = ramp(300, 320)
    aligned = align(image, face_at((160, 150), side, angle), "ffhq", size)
    assert aligned.valid.all()
    expected = places(aligned.matrix, size) / step
    assert np.abs(aligned.image[..., :2] - expected).max() <= TOLERANCE[engine]
    assert (aligned.image[..., 2] == 77).all()


@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_huge_pictures_are_reduced_first(angle, engine):
    """Side 1300 for 64 pixels: reduced by 10 before it is cut; the numbers of pixels do not divide."""
    image, step = ramp(2003, 1997)
    aligned = align(image, face_at((1000, 990), 1300, angle), "ffhq", 64)
    expected = places(aligned.matrix, 64) / step
    assert np.abs(aligned.image[..., :2] - expected).max() <= TOLERANCE[engine]
    noisy = np.random.default_rng(0).integers(0, 256, (2003, 1997, 3)).astype(np.uint8)
    calm = align(noisy, face_at((1000, 990), 1300, angle), "ffhq", 64).image
    assert calm.std() < 8  # 400 pixels of noise, 74 levels, in each: near their mean, without aliasing
    assert abs(calm.mean() - 127.5) < 1


@pytest.mark.parametrize("side", [8, 14, 30])
def test_tiny_faces(side, engine):
    image, step = ramp(120, 120)
    aligned = align(image, face_at((60.3, 59.8), side), "ffhq", 64)
    expected = places(aligned.matrix, 64) / step
    assert np.abs(aligned.image[..., :2] - expected).max() <= 2.5


BORDERS = {
    "left": ((20, 150), 0, 0),
    "above": ((150, 20), 1, 0),
    "right": ((280, 150), 0, 300),
    "below": ((150, 280), 1, 300),
}


@pytest.mark.parametrize("name", BORDERS)
def test_beyond_each_border(name, engine):
    """Inside, pixels come from their place; just outside, from the mirrored one; at last, from the median."""
    centre, axis, edge = BORDERS[name]
    image, step = ramp(300, 300)
    aligned = align(image, face_at(centre, 160), "ffhq", 160)
    at = places(aligned.matrix, 160)
    beyond = (at[..., axis] - edge) * (1 if edge else -1)  # pixels outside; below 0 inside
    assert beyond.max() > 50
    assert np.array_equal(aligned.valid, beyond <= 0)
    # The padding is what sticks out, and a tenth of the side; the blur begins a third of it inside.
    padding = np.ceil(beyond.max()) + 16
    untouched = beyond < -padding / 3 - 1
    assert np.abs(aligned.image[..., :2] - at / step)[untouched].max() <= 1.3
    mirrored = at.copy()
    mirrored[..., axis] = np.abs(2 * edge - at[..., axis])
    near = (beyond > 3) & (beyond < 0.1 * padding)
    along = 1 - axis
    # across the border the ramp is folded: the blur mixes levels of a few pixels about the fold
    assert np.abs(aligned.image[..., axis] - mirrored[..., axis] / step)[near].max() < 8
    # along it, the blend with the median has the share of `beyond` in the padding
    share = np.clip(beyond / padding, 0, 1)
    slope = np.polyfit(at[..., along][untouched], aligned.image[..., along][untouched], 1)[0]
    assert slope == pytest.approx(1 / step, rel=0.02)
    for low in (0.2, 0.5, 0.7):
        band = (share > low) & (share < low + 0.03)
        middle = band & (np.abs(at[..., along] - 150) < 50)
        if middle.any():
            flatter = np.polyfit(at[..., along][middle], aligned.image[..., along][middle], 1)[0]
            assert flatter == pytest.approx((1 - low - 0.015) / step, rel=0.1)


def test_at_a_corner_and_much_outside(engine):
    image, _ = ramp(200, 200)
    aligned = align(image, face_at((10, 15), 150), "ffhq", 96)
    assert not aligned.valid[0, 0]
    assert aligned.valid[-1, -1]
    # a square far larger than the picture: all colours of the result are colours of the picture
    small = align(image, face_at((100, 100), 900), "ffhq", 96)
    assert small.image[..., 2].min() == small.image[..., 2].max() == 77
    assert small.valid.mean() == pytest.approx((200 / 900) ** 2, rel=0.2)
    assert np.abs(small.image[:4, :4, :2].astype(float) - 100).max() < 25  # the median, far out


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_eyes_and_mouth_land_where_they_should(angle):
    """In the layout, eyes are at 3/8 and 5/8 of the width."""
    aligned = align(ramp(400, 400)[0], face_at((190, 210), 160, angle), "ffhq", 256)
    expected = LAYOUT * 64 + 128
    assert np.allclose(aligned.landmarks["5pt"], expected, atol=1e-3)


def test_without_padding_outside_is_black(engine):
    image, _ = ramp(200, 200)
    quad, _ = ffhq_quad(face_at((10, 100), 150))
    crop = ffhq_crop(image, quad, 96, padding=False)
    assert (crop[:, :20] == 0).all()
    assert (crop[:, -20:, 2] == 77).all()


# --- against other computations ----------------------------------------------------------------------------


def test_equals_the_affine_warp_where_nothing_is_padded(engine):
    """A render twice as large as needed: Lanczos' filter against area means, both of one map."""
    sample = ProceduralFaces(1, 1, size=512, spectra=("vis",), seed=2)[0]
    centre = sample.landmarks["ibug68"].mean(0)
    for size in (128, 256):
        points = (sample.landmarks["5pt"] - centre) * 0.8 + centre
        aligned = align(sample.image, points, "ffhq", size)
        if not aligned.valid.all():
            pytest.fail("the render's square should lie inside the picture")
        plain = warp_image(sample.image, aligned.matrix, size)
        difference = np.abs(aligned.image.astype(int) - plain)
        assert difference.mean() < 0.8
        shifted = np.abs(aligned.image[:, 1:].astype(int) - plain[:, :-1]).mean()
        assert shifted > 3 * difference.mean()  # half a pixel of shift would show


def written_out(image, quad, size):
    """The published procedure step by step, with Pillow's QUAD at 4096 pixels and scipy's filter."""
    quad, side = quad.copy(), np.linalg.norm(quad[3] - quad[0])
    picture = Image.fromarray(image)
    shrink = int(np.floor(side / size * 0.5))
    if shrink > 1:
        new = (round(picture.width / shrink), round(picture.height / shrink))
        quad *= np.array(new) / picture.size
        side /= shrink
        picture = picture.resize(new, Image.Resampling.LANCZOS)
    border = max(int(np.rint(side * 0.1)), 3)
    x0, y0 = np.maximum(np.floor(quad.min(0)).astype(int) - border, 0)
    x1, y1 = np.minimum(np.ceil(quad.max(0)).astype(int) + border, picture.size)
    picture = picture.crop((x0, y0, x1, y1))
    quad -= [x0, y0]
    low, high = np.floor(quad.min(0)).astype(int), np.ceil(quad.max(0)).astype(int)
    pad = np.array([*(-low + border), *(high - picture.size + border)]).clip(0)
    if pad.max() > border - 4:
        pad = np.maximum(pad, int(np.rint(side * 0.3)))
        array = np.pad(
            np.asarray(picture, np.float64), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect"
        )
        y, x = np.mgrid[: array.shape[0], : array.shape[1]].astype(float)
        h, w = array.shape[:2]
        mask = np.maximum(
            1 - np.minimum(x / pad[0], (w - 1 - x) / pad[2]), 1 - np.minimum(y / pad[1], (h - 1 - y) / pad[3])
        )[..., None]
        blur = 0.02 * side
        array += (ndimage.gaussian_filter(array, [blur, blur, 0]) - array) * (3 * mask + 1).clip(0, 1)
        array += (np.median(array, axis=(0, 1)) - array) * mask.clip(0, 1)
        picture = Image.fromarray(np.rint(array).clip(0, 255).astype(np.uint8))
        quad += pad[:2]
    large = picture.transform(
        (4096, 4096), Image.Transform.QUAD, quad.ravel().tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(large.resize((size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(
    ("centre", "side", "angle", "size"),
    [
        ((250, 250), 200, 0.1, 128),
        ((60, 90), 260, -0.3, 128),
        ((400, 250), 420, 0.0, 64),
        ((470, 480), 180, 2.0, 96),
        ((250, 250), 24, 0.2, 64),
    ],
)
def test_equals_the_procedure_written_out(centre, side, angle, size):
    """Reading at 4 times the size instead of 4096 pixels, and OpenCV, change next to nothing."""
    image = ProceduralFaces(1, 1, size=512, spectra=("vis",), seed=4)[0].image
    points = face_at(centre, side, angle)
    quad, _ = ffhq_quad(points)
    theirs = written_out(image, quad, size)
    ours = align(image, points, "ffhq", size).image
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.999) <= 8


# --- the padding alone -------------------------------------------------------------------------------------


def test_padding_has_the_closed_form():
    """Every pixel by its formula in float64."""
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8), (0, 0), 1.0
    )
    sides, blur = (12, 9, 15, 20), 2.3
    ours = ffhq_padding(image, sides, blur)
    left, above, right, below = sides
    wide = np.pad(image.astype(np.float64), ((above, below), (left, right), (0, 0)), "reflect")
    blurred = ndimage.gaussian_filter(wide, [blur, blur, 0])
    height, width = wide.shape[:2]
    weight = np.empty((height, width, 1))
    for y in range(height):
        for x in range(width):
            across = min(x / left, (width - 1 - x) / right)
            down = min(y / above, (height - 1 - y) / below)
            weight[y, x] = 1 - min(across, down)
    mixed = wide + (blurred - wide) * np.clip(3 * weight + 1, 0, 1)
    truth = mixed + (np.median(mixed, axis=(0, 1)) - mixed) * np.clip(weight, 0, 1)
    assert np.abs(ours - truth).max() <= 0.51
    assert ours.shape == (40 + 29, 50 + 27, 3)
    # from the outer edge to a third of the padding inside of the old edge
    assert (ours[0] == np.rint(np.median(mixed, axis=(0, 1)))).all()
    inner = (weight <= -1 / 3)[..., 0]
    assert inner.any()
    assert np.array_equal(ours[inner], wide[inner].astype(np.uint8))


def test_gaussian_without_opencv(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (37, 61, 3)).astype(np.uint8)
    for sigma in (0.1, 0.9, 4.0, 10.0):  # the last reaches beyond the picture, which is mirrored again
        by_opencv = ffhq_module._gaussian(noise, sigma)
        monkeypatch.setattr(ffhq_module, "opencv", lambda: None)
        by_torch = ffhq_module._gaussian(noise, sigma)
        monkeypatch.undo()
        truth = ndimage.gaussian_filter(noise.astype(np.float64), [sigma, sigma, 0])
        assert np.abs(by_opencv - truth).max() < 0.02
        assert np.abs(by_torch - truth).max() < 0.02


@pytest.mark.parametrize("sigma", [12.5, 20.0, 31.0])
def test_wide_gaussians_are_near_enough(sigma, engine):
    """Computed on fewer pixels, on squares of black and white, to the edges of an odd size."""
    squares = np.kron(np.random.default_rng(0).integers(0, 2, (9, 8, 3)), np.full((30, 30, 1), 255.0))[
        :-3, :-7
    ]
    truth = ndimage.gaussian_filter(squares, [sigma, sigma, 0])
    difference = np.abs(ffhq_module._gaussian(squares.astype(np.uint8), sigma) - truth)
    assert difference.max() < 0.8
    assert difference.mean() < 0.2


def test_strips_make_no_seams(monkeypatch, engine):
    image = ProceduralFaces(1, 1, size=256, spectra=("vis",))[0].image
    quad, _ = ffhq_quad(face_at((130, 120), 240, 0.3))
    whole = ffhq_crop(image, quad, 64, supersample=4)
    monkeypatch.setattr(ffhq_module, "_STRIP", 256 * 4 * 5)
    assert np.abs(ffhq_crop(image, quad, 64, supersample=4).astype(int) - whole).max() <= 1


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (face_at((100, 100), 3.0), "too small"),
        (face_at((-200, 100), 100), "outside the picture"),
    ],
)
def test_refused_faces(points, text):
    with pytest.raises(ValueRangeError, match=text):
        align(ramp(200, 200)[0], points, "ffhq", 64)


def test_refused_arguments():
    image, _ = ramp(64, 64)
    quad, _ = ffhq_quad(face_at((32, 32), 40))
    with pytest.raises(ShapeError, match="uint8"):
        ffhq_crop(image.astype(np.float32), quad, 32)
    with pytest.raises(ShapeError, match=r"\[4, 2\]"):
        ffhq_crop(image, quad[:3], 32)
    with pytest.raises(ValueRangeError, match="supersample"):
        ffhq_crop(image, quad, 32, supersample=0)
    with pytest.raises(ValueRangeError, match="outside the picture"):
        ffhq_crop(image, quad + 500, 32)
    with pytest.raises(ValueRangeError, match="finite"):
        ffhq_crop(image, quad * np.nan, 32)
    with pytest.raises(ValueRangeError, match="each at least 1"):
        ffhq_padding(image, (0, 1, 1, 1), 2.0)

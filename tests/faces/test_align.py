"""Alignment of renders: landmarks, the way back, batches, and faults of published systems."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.data import ProceduralFaces
from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces import Face
from pyface.faces.affine import scale_of, transform_points
from pyface.faces.align import align, align_batch, alignment_matrix
from pyface.faces.schemes import SCHEMES, convert
from pyface.faces.templates import Template, arcface_points

TEMPLATES = ("arcface112", "ffhq", "eyes", "mouth", "mouth_seed")


@pytest.fixture(scope="module")
def faces():
    """Twelve renders of four people, 192 px, with landmarks."""
    dataset = ProceduralFaces(4, 3, size=192, spectra=("vis",), seed=5)
    return dataset.__getitems__(range(12))


def as_face(sample):
    points = sample.landmarks["ibug68"]
    box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    return Face(box, 1.0, dict(sample.landmarks))


@pytest.mark.parametrize("template", TEMPLATES)
def test_landmarks_go_with_the_picture(template, faces):
    for sample in faces[:4]:
        face = as_face(sample)
        aligned = align(sample.image, face, template, 112)
        assert aligned.image.shape == (112, 112, 3)
        assert aligned.image.dtype == np.uint8
        assert aligned.matrix.dtype == np.float64
        assert aligned.valid.shape == (112, 112)
        assert (aligned.template, aligned.size) == (template, 112)
        for scheme, points in sample.landmarks.items():
            assert aligned.landmarks[scheme].dtype == np.float32
            assert np.abs(aligned.landmarks[scheme] - transform_points(aligned.matrix, points)).max() < 1e-3
            assert np.abs(aligned.to_image(aligned.landmarks[scheme]) - points).max() < 1e-3
            assert np.allclose(aligned.to_crop(points), aligned.landmarks[scheme], atol=1e-4)


def test_depth_is_scaled_with_the_face(faces):
    points = faces[0].landmarks["ibug68"]
    deep = np.concatenate([points, np.linspace(-9, 9, 68, dtype=np.float32)[:, None]], 1)
    aligned = align(faces[0].image, {"ibug68": deep}, "arcface112", 224)
    scaled = aligned.landmarks["ibug68"]
    assert np.allclose(scaled[:, 2], deep[:, 2] * scale_of(aligned.matrix), atol=1e-5)
    assert np.allclose(aligned.matrix, align(faces[0].image, points, "arcface112", 224).matrix)


def test_points_may_come_in_many_ways(faces):
    sample = faces[1]
    five, many = sample.landmarks["5pt"], sample.landmarks["ibug68"]
    by_face = align(sample.image, as_face(sample), "arcface112", 112)
    assert np.array_equal(by_face.matrix, align(sample.image, five, "arcface112", 112).matrix)
    assert np.array_equal(by_face.matrix, align(sample.image, sample.landmarks, "arcface112", 112).matrix)
    # FFHQ was made with 68 points
    framed = align(sample.image, as_face(sample), "ffhq", 112)
    assert np.array_equal(framed.matrix, align(sample.image, many, "ffhq", 112).matrix)
    assert np.array_equal(framed.matrix, alignment_matrix(sample.landmarks, "ffhq", 112))
    for template in TEMPLATES:
        a = alignment_matrix(five, template, 112)
        b = alignment_matrix(many, template, 112)
        moved = np.abs(transform_points(a, five) - transform_points(b, five))
        assert moved.max() < 6, template


def test_pixels_are_where_the_landmarks_say(faces):
    """A dot painted at each of the five points lies, in the crop, at the landmark: for every template."""
    for template in ("arcface112", "ffhq", "eyes"):
        sample = faces[2]
        for point in sample.landmarks["5pt"]:
            dark = np.zeros((192, 192, 3), np.uint8)
            x, y = np.floor(point).astype(int)
            dark[y - 2 : y + 3, x - 2 : x + 3] = 255
            aligned = align(dark, sample.landmarks, template, 160)
            weight = aligned.image[..., 0].astype(float)
            rows, columns = np.mgrid[0:160, 0:160] + 0.5
            found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
            expected = aligned.to_crop(np.array([x + 0.5, y + 0.5]))
            assert np.abs(found - expected).max() < 0.1


def test_valid_says_what_came_from_the_picture(faces):
    sample = faces[0]
    shift = np.array([60.0, 0.0])
    cut = np.ascontiguousarray(sample.image[:, 60:])
    points = sample.landmarks["5pt"] - shift
    aligned = align(cut, points, "arcface112", 112)
    assert 0.5 < aligned.valid.mean() < 1
    assert (aligned.image[~aligned.valid] == 0).mean() > 0.9
    whole = align(sample.image, sample.landmarks["5pt"], "arcface112", 112)
    inner = aligned.valid & np.roll(aligned.valid, 2, 1)
    difference = np.abs(aligned.image[inner].astype(int) - whole.image[inner])
    assert difference.mean() < 0.2
    reflected = align(cut, points, "arcface112", 112, border="reflect")
    assert (reflected.image[~reflected.valid] == 0).mean() < 0.2


def test_points_of_a_mesh(faces):
    """A face mesh stands for the 68 points that are among its own; the depth comes along."""
    five = faces[0].landmarks["5pt"].astype(np.float64)
    mesh = np.zeros((468, 3), np.float32)
    mesh[:, :2] = five.mean(0)
    mesh[:, 2] = 4
    for name, place in (("left_eye", 0), ("right_eye", 1)):
        mesh[list(SCHEMES["mesh468"].parts[name]), :2] = five[place]
    by_mesh = align(faces[0].image, mesh, "eyes", 64)
    assert np.allclose(by_mesh.matrix, align(faces[0].image, five, "eyes", 64).matrix, atol=1e-4)
    assert by_mesh.landmarks["mesh468"].shape == (468, 3)
    converted = convert(mesh, "mesh468", "5pt")
    for template in TEMPLATES[:2]:
        a = alignment_matrix(mesh, template, 64)
        assert np.allclose(a, alignment_matrix(converted, template, 64))


# --- batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["arcface112", "ffhq", "mouth"])
def test_batch_of_photographs_equals_singles(template, faces):
    images = [sample.image for sample in faces[:3]] + [np.ascontiguousarray(faces[3].image[:150, 20:])]
    points = [as_face(sample) for sample in faces[:3]] + [faces[3].landmarks["5pt"] - [20, 0]]
    batch, matrices = align_batch(images, points, template, 80)
    assert batch.shape == (4, 3, 80, 80)
    assert batch.dtype == torch.float32
    for i, (image, point) in enumerate(zip(images, points, strict=True)):
        single = align(image, point, template, 80)
        assert np.array_equal(matrices[i], single.matrix)
        restored = ((batch[i] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(restored, single.image)


@pytest.mark.parametrize("template", ["arcface112", "eyes", "mouth", "mouth_seed"])
def test_batch_of_tensors_equals_photographs(template, faces):
    tensor = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in faces]) / 127.5 - 1
    points = np.stack([s.landmarks["5pt"] for s in faces])
    batch, matrices = align_batch(tensor, points, template, 112)
    photographs, same = align_batch([s.image for s in faces], list(points), template, 112)
    assert np.array_equal(matrices, same)
    difference = (batch - photographs).abs() * 127.5
    assert float(difference.mean()) < 0.3
    assert float(difference.flatten(1).quantile(0.999, dim=1).max()) < 4


def test_gradient_reaches_the_images(faces):
    """A loss on aligned faces moves the pixels of the face, and nothing outside of the crop."""
    tensor = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in faces[:2]]) / 127.5 - 1
    tensor.requires_grad_()
    points = torch.from_numpy(np.stack([s.landmarks["5pt"] for s in faces[:2]]))
    aligned, matrices = align_batch(tensor, points, "mouth", 32)
    aligned.square().sum().backward()
    for i in range(2):
        rows, columns = np.mgrid[0:192, 0:192] + 0.5
        there = transform_points(matrices[i], np.stack([columns, rows], -1))
        inside = ((there > -4) & (there < 36)).all(-1)
        touched = tensor.grad[i].abs().sum(0).numpy() > 0
        assert touched.any()
        assert not touched[~inside].any()


# --- what published systems got wrong ----------------------------------------------------------------------


def test_pose_and_place_leave_the_crop(faces):
    """Cutting the middle out of frames leaves the face where it was; alignment brings features together."""
    rng = np.random.default_rng(0)
    cropped, aligned = [], []
    for sample in faces:
        wide = np.zeros((320, 420, 3), np.uint8)
        x, y = rng.integers(0, 228), rng.integers(0, 128)
        wide[y : y + 192, x : x + 192] = sample.image
        points = sample.landmarks["5pt"] + [x, y]
        cropped.append((points - [50, 0]) * 112 / 320)
        aligned.append(align(wide, points, "arcface112", 112).landmarks["5pt"])
    scatter = [np.stack(p).std(0).max() for p in (cropped, aligned)]
    assert scatter[0] > 12
    assert scatter[1] < 5
    assert np.abs(np.mean(aligned, 0) - arcface_points(112)).max() < 5


def test_networks_get_rgb_from_minus_one_to_one(faces):
    """Neither BGR nor levels 0..255 come out, and tensors of levels do not go in."""
    red = np.zeros((192, 192, 3), np.uint8)
    red[..., 0] = 255
    batch, _ = align_batch([red], [faces[0].landmarks["5pt"]], "mouth", 16)
    assert torch.equal(batch[0].amax((1, 2)), torch.tensor([1.0, -1.0, -1.0]))
    assert torch.equal(batch[0].amin((1, 2)), torch.tensor([1.0, -1.0, -1.0]))
    tensor = torch.from_numpy(red).permute(2, 0, 1)[None]
    with pytest.raises(DTypeError, match="floating point"):
        align_batch(tensor, [faces[0].landmarks["5pt"]], "mouth", 16)
    with pytest.raises(ShapeError, match="uint8"):
        align(red.astype(np.float32), faces[0].landmarks["5pt"])
    # what lies outside the picture is black for both kinds of input
    far = faces[0].landmarks["5pt"] + [120, 0]
    outside, _ = align_batch(tensor / 127.5 - 1, [far], "arcface112", 32)
    assert float(outside.min()) == -1.0


def test_tall_and_wide_faces_are_centred(faces):
    """A box that is higher than wide is centred as one that is wider than high."""
    for stretch in ((0.6, 1.4), (1.4, 0.6)):
        points = faces[0].landmarks["ibug68"] * np.array(stretch)
        box = np.concatenate([points.min(0), points.max(0)])
        assert (box[3] - box[1] > box[2] - box[0]) == (stretch[1] > 1)
        matrix = alignment_matrix(points, "ffhq", 256)
        there = transform_points(matrix, points)
        eyes = (there[36:42].mean(0) + there[42:48].mean(0)) / 2
        mouth = (there[48] + there[54]) / 2
        assert np.allclose(eyes + 0.1 * (mouth - eyes), [128, 128], atol=1e-6)
        middle = (there.min(0) + there.max(0)) / 2
        assert np.abs(middle - 128).max() < 45
        assert there.min() > 0
        assert there.max() < 256


def frames(unit, template, values=(0.0, 1.0)):
    """Corners of the template's frame, in picture pixels, of five people with one action unit set."""
    found = []
    for value in values:
        calm = {f"au{u}": 0.0 for u in (1, 4, 6, 12, 15, 25, 26, 43) if u != unit}
        faces = ProceduralFaces(
            5,
            1,
            size=128,
            spectra=("vis",),
            seed=11,
            yaw=0.0,
            pitch=0.0,
            roll=0.0,
            **calm,
            **{f"au{unit}": value},
        )
        corners = []
        for points in faces.render(outputs=("landmarks",))["landmarks"]:
            matrix = alignment_matrix(points[68:73], template, 64)
            back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
            corners.append(transform_points(back, [[0, 0], [64, 64]]))
        found.append(np.stack(corners))
    return found


@pytest.mark.parametrize(("unit", "share"), [(12, 0.05), (26, 0.01)])
def test_the_mouth_frame_does_not_tell_the_expression(unit, share):
    """`mouth` stays where it is when a face smiles or its jaw drops; the published frame moves.

    Renders drop the jaw with the mouth's corners nearly in place, so there it moves less than for a smile.
    """
    calm, moved = frames(unit, "mouth")
    assert np.abs(calm - moved).max() < 0.05
    calm, moved = frames(unit, "mouth_seed")
    height = (calm[:, 1, 1] - calm[:, 0, 1]).mean()
    assert np.abs(calm - moved).max(axis=(1, 2)).mean() > share * height


def test_the_mouth_frame_holds_the_mouth():
    """Both corners lie inside for 9 of 10 renders in natural poses, yaw to 40 degrees."""
    faces = ProceduralFaces(40, 5, size=64, spectra=("vis",), seed=3)
    inside = 0
    for points in faces.render(outputs=("landmarks",))["landmarks"][:, 68:73]:
        corners = transform_points(alignment_matrix(points, "mouth", 1), points[3:5])
        inside += bool(((corners > 0) & (corners < 1)).all())
    assert inside >= 0.9 * len(faces)


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (lambda p: np.full((5, 2), 50.0), "face"),
        (lambda p: np.where(np.arange(10).reshape(5, 2) == 4, np.nan, p), "finite"),
        (lambda p: p - [-500, 0], "outside the picture of 192 x 192"),
        (lambda p: p - [0, 400], "outside the picture"),
        (lambda p: p[[1, 0, 2, 4, 3]], "mirrored"),
    ],
)
@pytest.mark.parametrize("template", ["arcface112", "ffhq", "eyes", "mouth"])
def test_bad_points(points, text, template, faces):
    bad = points(faces[0].landmarks["5pt"])
    with pytest.raises(ValueRangeError, match=text):
        align(faces[0].image, bad, template, 64)
    good = faces[0].landmarks["5pt"]
    with pytest.raises(ValueRangeError, match=f"face 1: .*{text}"):
        align_batch([faces[0].image] * 2, [good, bad], template, 64)
    with pytest.raises(ValueRangeError, match=f"face 1: .*{text}"):
        align_batch(torch.zeros(2, 3, 192, 192), np.stack([good, bad]), template, 64)


def test_other_messages(faces):
    sample = faces[0]
    five = sample.landmarks["5pt"]
    with pytest.raises(ShapeError, match=r"ibug68.*\[7, 2\]"):
        align(sample.image, np.zeros((7, 2)), "eyes", 64)
    with pytest.raises(ValueRangeError, match="needs landmarks of one of 5pt"):
        align(sample.image, Face(np.zeros(4, np.float32), 1.0), "eyes", 64)
    with pytest.raises(ValueRangeError, match="no template 'nose'"):
        align(sample.image, five, "nose", 64)
    with pytest.raises(ValueRangeError, match="size"):
        align(sample.image, five, "eyes", 0)
    with pytest.raises(ValueRangeError, match="border"):
        align(sample.image, five, "eyes", 64, border="wrap")
    with pytest.raises(ShapeError, match="2 for 1 images"):
        align_batch([sample.image], [five, five], "eyes", 64)
    with pytest.raises(ShapeError, match="N, 3, H, W"):
        align_batch(torch.zeros(1, 1, 8, 8), [five], "eyes", 64)
    far = Template("68", lambda p, s: np.eye(2, 3), scheme="ibug68", sources=("5pt",))
    with pytest.raises(ValueRangeError, match="'5pt' cannot be converted to 'ibug68'"):
        align(sample.image, five, far, 64)

"""Crops of photographs by their middle and by their landmarks."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from pyface.data import MTFL, CKPlus, draw_faces
from pyface.data.cropping import Crop, middle_picture, square_picture
from pyface.data.photographs import HALF_PIXEL
from pyface.data.writing_ckplus import write_ckplus
from pyface.data.writing_mtfl import write_mtfl
from pyface.errors import DataError, ValueRangeError
from pyface.io.images import write_image
from pyface.ops.face_render import face_parameters, face_render


def test_the_middle_of_a_picture():
    pixels = np.zeros((40, 60, 1), np.uint8)
    pixels[:, 10:50] = 200
    assert (square_picture(pixels, 8) == 200).all()
    assert middle_picture(pixels, 20, 30).shape == (20, 30, 1)
    assert (middle_picture(pixels, 40, 60) == pixels).all()
    assert square_picture(np.zeros((9, 5, 3), np.uint8), 7).shape == (7, 7, 3)


def test_the_matrix_says_where_pixels_go():
    """A white spot lands where the matrix says."""
    pixels = np.zeros((50, 80, 3), np.uint8)
    pixels[20:23, 40:43] = 255
    for size in (50, 25, 100):
        crop, matrix = Crop("square", size).apply(pixels, None)
        y, x = np.argwhere(crop[..., 0] > 60).mean(axis=0) + 0.5
        np.testing.assert_allclose(matrix @ (41.5, 21.5, 1.0), (x, y), atol=0.3)


def test_unknown_crops_and_sizes():
    with pytest.raises(
        ValueRangeError, match=r"crop must be None or one of square, face, .*mouth.*got 'head'"
    ):
        Crop("head")
    with pytest.raises(ValueRangeError, match=r"size must lie in \[4, 4096\]; got 5000"):
        Crop("face", 5000)
    assert Crop("square").size == 128
    assert Crop().size is None


@pytest.fixture(scope="module")
def mtfl(tmp_path_factory):
    return write_mtfl(tmp_path_factory.mktemp("crops") / "m", identities=4, size=64)


@pytest.mark.parametrize("crop", ["face", "mouth", "eyes", "arcface112"])
def test_faces_of_all_sizes_come_to_lie_alike(mtfl, crop):
    faces = MTFL(mtfl, crop=crop, size=48)
    assert faces.images().shape == (12, 48, 48, 3)
    points = faces.landmarks()
    for i, sample in enumerate(faces):
        np.testing.assert_array_equal(sample.landmarks["5pt"], points[i])
        np.testing.assert_array_equal(sample.image, faces.images([i])[0])
    eyes = points[:, :2].mean(axis=1)
    if crop != "mouth":
        assert ((eyes > 0) & (eyes < 48)).all()
        assert np.ptp(eyes, axis=0).max() < 8
    np.testing.assert_allclose(points[:, 0, 1], points[:, 1, 1], atol=5)  # eyes are level


def test_frames_are_aligned_and_not_only_cut(tmp_path):
    """The published system cut the middle out of 640 x 490; here the head is turned upright and scaled."""
    root = write_ckplus(
        tmp_path / "ck", identities=2, sequences=1, frames=2, size=96, overrides={"roll": 0.35}
    )
    raw, aligned = CKPlus(root), CKPlus(root, crop="face", size=96)
    assert aligned.image_shape == (96, 96, 1)

    def tilt(points):
        left, right = points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)
        return np.degrees(np.arctan2(*(right - left).T[::-1]))

    assert (np.abs(tilt(raw.landmarks())) > 15).all()
    assert (np.abs(tilt(aligned.landmarks())) < 3).all()
    assert aligned[0].landmarks["ibug68"].shape == (68, 2)


def test_the_mouth_crop_does_not_tell_a_smile(tmp_path):
    """The published crop was set by the mouth's own corners, so that its frame gave the label away."""
    drawn = draw_faces(1, [0, 0], 0, {"au12": 0.0, "au25": 0.0, "yaw": 0.0}).parameters.copy()
    drawn[1, [p.name for p in face_parameters()].index("au12")] = 1.0
    rendered = face_render(torch.from_numpy(drawn), 96, ("vis", "landmarks"), backend="cpu")
    (tmp_path / "lfw_5590").mkdir()
    lines = []
    for i in range(2):
        write_image(tmp_path / f"lfw_5590/{i}.png", rendered["vis"][i].numpy())
        points = rendered["landmarks"][i, 68:].numpy().astype(float) - HALF_PIXEL
        lines.append(
            f" lfw_5590\\{i}.png {' '.join(f'{v:.3f}' for v in points.T.reshape(-1))} 1 {2 - i} 2 3\n"
        )
    (tmp_path / "training.txt").write_text("".join(lines))
    still = MTFL(tmp_path, crop="mouth", size=64)
    moved = MTFL(tmp_path, crop="mouth_seed", size=64)
    a, b = still.landmarks()
    np.testing.assert_allclose(a[:3], b[:3], atol=0.05)  # eyes and nose stay
    assert np.abs(a[3:] - b[3:]).max() > 1  # the mouth moves within the frame
    c, d = moved.landmarks()
    assert np.abs(c[:3] - d[:3]).max() > 1  # there the frame moves
    outside = np.ones((64, 64), bool)
    outside[24:] = False
    difference = np.abs(still.images()[0].astype(int) - still.images()[1])
    assert difference[outside].mean() < 0.5 * difference[~outside].mean()


def test_pictures_that_cannot_be_cropped_are_problems(mtfl, tmp_path):
    lines = (mtfl / "training.txt").read_text().splitlines()[:3]
    head = [line.split()[0] for line in lines]
    codes = "1 1 2 3"
    (tmp_path / "training.txt").write_text(
        f"{lines[0]}\n{head[1]} 5 5 5 5 5 5 5 5 5 5 {codes}\n"
        f"{head[2]} 905 925 915 907 923 20 20 30 40 40 {codes}\n"
    )  # fmt: skip
    for folder in ("AFLW", "lfw_5590", "net_7876"):
        (tmp_path / folder).symlink_to(mtfl / folder)
    assert len(MTFL(tmp_path)) == 3
    faces = MTFL(tmp_path, crop="face", size=32, on_problem="skip")
    assert len(faces) == 1
    assert [p.code for p in faces.problems] == ["no-crop", "no-crop"]
    assert "lie outside of its" in faces.problems.message()
    np.testing.assert_array_equal(faces.images()[0], faces[0].image)
    with pytest.raises(DataError, match="2 problems"):
        MTFL(tmp_path, crop="face", size=32)


def test_a_crop_without_landmarks(tmp_path):
    root = write_ckplus(tmp_path / "ck", identities=2, sequences=1, frames=2, size=32)
    shutil.rmtree(root / "Landmarks/S001")
    faces = CKPlus(root, crop="face", size=32, on_problem="skip")
    assert faces.annotations["subject"].tolist() == ["S000"]
    assert faces[0].emotion == CKPlus(root)[0].emotion
    assert "needs them" in faces.problems.message()
    shutil.rmtree(root / "Landmarks")
    with pytest.raises(DataError, match=r"no picture .* can be cropped"):
        CKPlus(root, crop="face", size=32, on_problem="skip")

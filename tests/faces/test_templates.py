"""Templates: the least-squares similarity and where each template puts a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyface.data import ProceduralFaces
from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.affine import inverse, scale_of, transform_points
from pyface.faces.align import alignment_matrix
from pyface.faces.templates import (
    ARCFACE_POINTS,
    Template,
    arcface_points,
    load_template,
    point_template,
    register_template,
    similarity,
    template_names,
)

FACE = np.array([[80.0, 100.0], [140.0, 104.0], [108.0, 140.0], [88.0, 168.0], [130.0, 170.0]])


def umeyama(source, target):
    """Umeyama 1991 by a singular value decomposition, as written there."""
    a, b = source.mean(0), target.mean(0)
    s, t = source - a, target - b
    u, d, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / s.var(0).sum()
    rotation = scale * u @ sign @ vt
    return np.concatenate([rotation, (b - rotation @ a)[:, None]], 1)


def turned(points, angle, scale=1.0, shift=(0.0, 0.0)):
    a = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ a.T + shift


@pytest.mark.parametrize("count", [2, 3, 5, 68])
def test_similarity_is_umeyamas(count):
    rng = np.random.default_rng(count)
    for _ in range(20):
        source, target = rng.normal(0, 50, (count, 2)) + 200, rng.normal(0, 20, (count, 2)) - 30
        assert np.allclose(similarity(source, target), umeyama(source, target), atol=1e-9)


def test_similarity_is_recovered_exactly():
    rng = np.random.default_rng(1)
    for angle in rng.uniform(-np.pi, np.pi, 20):
        target = turned(FACE, angle, 0.37, (11.0, -7.0))
        found = similarity(FACE, target)
        assert np.allclose(transform_points(found, FACE), target, atol=1e-10)
        assert scale_of(found) == pytest.approx(0.37)


def test_no_similarity_is_nearer():
    """Any small change of turn, scale or shift makes the sum of squares larger."""
    template = arcface_points(112)
    best = similarity(FACE, template)

    def distance(matrix):
        return ((transform_points(matrix, FACE) - template) ** 2).sum()

    (a, b), (x, y) = best[:, 0], best[:, 2]
    for da, db, dx, dy in 1e-4 * np.vstack([np.eye(4), -np.eye(4)]):
        other = np.array([[a + da, -(b + db), x + dx], [b + db, a + da, y + dy]])
        assert distance(other) > distance(best)


@pytest.mark.parametrize(
    ("points", "template", "error", "text"),
    [
        (np.full((5, 2), 3.0), FACE, ValueRangeError, "one place"),
        (np.full((5, 2), 1e7), FACE, ValueRangeError, "one place"),
        (np.where(np.arange(10).reshape(5, 2) == 3, np.nan, FACE), FACE, ValueRangeError, "finite"),
        (FACE, np.full((5, 2), np.inf), ValueRangeError, "finite"),
        (FACE[:4], FACE, ShapeError, "one K"),
        (FACE[:1], FACE[:1], ShapeError, "at least 2"),
        (FACE.ravel(), FACE, ShapeError, r"\[K, 2\]"),
        ([[0, 0], [1, 0], [0, 1], [1, 1]], [[1, 0], [0, 0], [1, 1], [0, 1]], ValueRangeError, "mirrored"),
    ],
)
def test_similarity_refuses(points, template, error, text):
    with pytest.raises(error, match=text):
        similarity(points, template)


# --- arcface112 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [112, 224, 336, 128, 256, 512, 896, 160, 100])
def test_arcface_points(size):
    """The published rule in integer centres: multiples of 112 scaled; of 128 with x + 8, scaled."""
    if size % 112 and size % 128 == 0:
        published = ARCFACE_POINTS * (size / 128) + [8 * size / 128, 0]
    else:
        published = ARCFACE_POINTS * (size / 112)
    assert np.allclose(arcface_points(size) - 0.5, published)
    matrix = load_template("arcface112").matrix(turned(arcface_points(size), 0.3, 2, (5, 9)), size)
    assert np.allclose(
        transform_points(matrix, turned(arcface_points(size), 0.3, 2, (5, 9))) - 0.5, published
    )


# --- dlib150, rendered --------------------------------------------------------------------------------------


def test_dlib150_frames_as_dlib_does():
    """dlib fits 33 points, we five: the corners of chips lie 2 pixels apart on average, without bias."""
    with np.load(Path(__file__).parents[1] / "golden" / "dlib_chips.npz") as file:
        landmarks, wanted = file["landmarks"], file["matrices"]
    corners = np.array([[0.0, 0], [150, 0], [0, 150], [150, 150]])
    apart, scales = [], []
    for points, matrix in zip(landmarks, wanted, strict=True):
        ours = alignment_matrix(points, "dlib150", 150)
        apart.append(transform_points(matrix, transform_points(inverse(ours), corners)) - corners)
        scales.append(np.linalg.det(ours[:, :2]) / np.linalg.det(matrix[:, :2]))
    assert np.linalg.norm(apart, axis=2).mean() < 2.2
    assert np.abs(np.mean(apart, axis=(0, 1))).max() < 0.8
    assert 0.98 < np.mean(scales) ** 0.5 < 1.02


def test_rendered_leaves_pictures_nearly_as_they_are():
    faces = ProceduralFaces(40, 1, size=64, seed=3, yaw=0.0, roll=0.0, pitch=0.0)
    points = faces.render(outputs=("landmarks",))["landmarks"][:, 68:]
    matrices = np.stack([alignment_matrix(p, "rendered", 64) for p in points])
    scale = np.linalg.det(matrices[:, :, :2]) ** 0.5
    assert abs(scale.mean() - 1) < 0.03
    centre = [transform_points(m, [[32.0, 36.0]])[0] for m in matrices]
    assert np.abs(np.mean(centre, 0) - [32, 36]).max() < 1.0


# --- the others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arcface112", "dlib150", "rendered", "ffhq", "eyes", "mouth"])
@pytest.mark.parametrize("angle", [0.0, 0.6, -2.5])
def test_frame_moves_with_the_face(name, angle):
    """Turned, scaled and shifted faces come out the same, and a crop of twice the size shows the same."""
    template = load_template(name)
    upright = transform_points(template.matrix(FACE, 128), FACE)
    moved = turned(FACE, angle, 1.7, (300.0, -40.0))
    assert np.allclose(transform_points(template.matrix(moved, 128), moved), upright, atol=1e-9)
    double = transform_points(template.matrix(FACE, 256), FACE)
    assert np.allclose(double, 2 * upright, atol=0.51 if name == "arcface112" else 1e-9)
    matrix = template.matrix(moved, 128)
    assert np.allclose(matrix[0, 0], matrix[1, 1])
    assert np.allclose(matrix[0, 1], -matrix[1, 0])


def test_eyes_are_level_and_at_their_places():
    for size in (64, 200):
        eyes = transform_points(load_template("eyes").matrix(FACE, size), FACE)[:2]
        assert np.allclose(eyes / size, [[0.35, 0.4], [0.65, 0.4]])


def test_mouth_frame():
    """In the middle, below the eyes 1.65 and beside them 0.5 of the way to the nose; eyes level."""
    face = np.array([[0, 0], [60, 0], [36, 40], [20, 70], [50, 70]], float)
    length = np.hypot(6, 40)
    for angle in (0.0, 0.4):
        matrix = load_template("mouth").matrix(turned(face, angle), 64)
        assert np.allclose(transform_points(matrix, turned(np.array([30 + 3.0, 66.0]), angle)), [32, 32])
        assert scale_of(matrix) == pytest.approx(64 / (2 * 0.95 * length))
    eyes = transform_points(matrix, turned(face, angle))[:2]
    assert eyes[0, 1] == pytest.approx(eyes[1, 1])
    assert eyes[0, 0] < eyes[1, 0]


def test_mouth_does_not_look_at_the_mouth():
    rng = np.random.default_rng(0)
    other = FACE.copy()
    other[3:] += rng.normal(0, 15, (2, 2))
    assert np.array_equal(load_template("mouth").matrix(FACE, 64), load_template("mouth").matrix(other, 64))
    seed = load_template("mouth_seed")
    assert not np.allclose(seed.matrix(FACE, 64), seed.matrix(other, 64), rtol=0.05)


def test_mouth_seed_frame():
    """An upright face: the box from nose - A u to f + b + A u by hand."""
    face = np.array([[0, 0], [60, 0], [30, 30], [10, 70], [50, 70]], float)
    reach = np.hypot(20, 40)
    corners = transform_points(inverse(load_template("mouth_seed").matrix(face, 64)), [[0, 0], [64, 64]])
    assert np.allclose(corners, [[30 - reach, 30], [30 + reach, 110]])


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("eyes", FACE[[0, 0, 2, 3, 4]]),
        ("mouth", FACE[[0, 0, 2, 3, 4]]),
        ("mouth", np.array([[80, 100], [140, 100], [110, 100], [90, 168], [130, 170]], float)),
        ("mouth_seed", FACE[[0, 1, 2, 3, 3]]),
        ("mouth_seed", turned(FACE, np.pi)),
        ("ffhq", np.full((5, 2), 9.0)),
        ("arcface112", np.full((5, 2), 9.0)),
        ("ffhq", np.where(np.arange(10).reshape(5, 2) == 7, np.nan, FACE)),
    ],
)
def test_points_that_are_no_face(name, points):
    with pytest.raises(ValueRangeError):
        load_template(name).matrix(points, 64)


# --- names -------------------------------------------------------------------------------------------------


def test_further_templates():
    """Others add theirs; published points that count whole centres are moved by half a pixel."""
    template = point_template("corner150", ARCFACE_POINTS, 112, centres=0.0)
    assert np.allclose(template.matrix(FACE, 112), load_template("arcface112").matrix(FACE, 112))
    assert np.allclose(
        transform_points(template.matrix(FACE, 300), FACE),
        transform_points(template.matrix(FACE, 150), FACE) * 2,
    )
    before = template_names()
    assert {"arcface112", "dlib150", "eyes", "ffhq", "mouth", "mouth_seed", "rendered"} <= set(before)
    register_template(template)
    try:
        assert load_template("corner150") is template
        assert "corner150" in template_names()
    finally:
        from pyface.faces import templates

        del templates._TEMPLATES["corner150"]
    assert load_template(template) is template
    with pytest.raises(ValueRangeError, match="arcface112"):
        load_template("arcface")


def test_template_gives_what_fit_gives():
    matrix = np.array([[1.0, 0, 0], [0, 1, 0]])
    assert np.array_equal(Template("t", lambda points, size: matrix).matrix(FACE, 9), matrix)

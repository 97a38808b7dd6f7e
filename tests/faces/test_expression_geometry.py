"""Measures of a face mesh: free of the head's turn, size and place; mirrored as said; checked at the door."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces.expression_geometry import (
    _SIDES,
    GEOMETRY,
    MESH_POINTS,
    NUM_EVEN,
    RIGID_POINTS,
    RIGID_SHAPE,
    checked_meshes,
    expression_geometry,
    frontal_meshes,
)


def frontal(seed=0, symmetric=False):
    """A mesh [1, 468, 3] in distances between the eyes, its bone where RIGID_SHAPE says."""
    rng = np.random.default_rng(seed)
    mesh = rng.uniform((-1, -1, -0.5), (1, 1.7, 0.9), (MESH_POINTS, 3))
    for left, right in _SIDES.values():
        for a, b in zip(left, right, strict=True):
            mesh[a, 0] = -abs(mesh[a, 0])
            mesh[b] = mesh[a] * (-1, 1, 1) + (0 if symmetric else 0.02 * rng.standard_normal(3))
    mesh[list(RIGID_POINTS)] = RIGID_SHAPE
    return mesh[None]


def turned(mesh, yaw=0.0, pitch=0.0, roll=0.0, scale=40.0, shift=(64.0, 60.0, 3.0)):
    """The mesh of a head turned to image right, up and clockwise, in pixels."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    # image right is x, z grows away from the camera: the nose (small z) of a head turned right moves right
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (scale * mesh @ (about_z @ about_x @ about_y).T + shift).astype(np.float32)


def column(features, name):
    return features[:, GEOMETRY.index(name)]


def test_names_are_different_and_come_in_two_kinds():
    assert len(set(GEOMETRY)) == len(GEOMETRY)
    odd = GEOMETRY[NUM_EVEN:]
    assert all(name.endswith("left-right") or name in ("yaw", "roll") for name in odd)
    assert "yaw" not in GEOMETRY[:NUM_EVEN]


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (0.5, 0, 0), (0, -0.3, 0), (0.4, 0.2, -0.3)])
def test_turn_size_and_place_change_nothing_but_the_pose(yaw, pitch, roll):
    mesh = frontal()
    straight = expression_geometry(turned(mesh))
    moved = expression_geometry(turned(mesh, yaw, pitch, roll, scale=91.0, shift=(300, 20, 0)))
    same = [i for i, name in enumerate(GEOMETRY) if name not in ("yaw", "pitch", "roll")]
    np.testing.assert_allclose(moved[:, same], straight[:, same], atol=2e-3)


@pytest.mark.parametrize("name", ["yaw", "pitch", "roll"])
def test_pose_has_the_sign_of_the_renderer(name):
    features = expression_geometry(turned(frontal(), **{name: 0.3}))
    assert column(features, name)[0] == pytest.approx(np.sin(0.3), abs=2e-3)
    for other in {"yaw", "pitch", "roll"} - {name}:
        assert column(features, other)[0] == pytest.approx(0.0, abs=2e-3)


def test_frontal_meshes_have_the_eyes_at_unit_distance_about_the_origin():
    points, rotations = frontal_meshes(turned(frontal(), yaw=0.4, roll=0.2))
    eyes = [points[0, corners].mean(0) for corners in ((33, 133), (263, 362))]
    np.testing.assert_allclose(eyes[1] - eyes[0], (1, 0, 0), atol=1e-3)
    np.testing.assert_allclose(eyes[0] + eyes[1], 0, atol=1e-6)
    np.testing.assert_allclose(rotations[0] @ rotations[0].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotations[0]) == pytest.approx(1.0)


def test_a_mirrored_face_changes_the_sign_of_the_odd_features_only():
    mesh = frontal(3)
    mirrored = mesh.copy()
    for left, right in _SIDES.values():
        for a, b in zip(left, right, strict=True):
            mirrored[:, [a, b]] = mirrored[:, [b, a]]
    for a, b in ((33, 263), (133, 362), (98, 327), (127, 356), (234, 454)):
        mirrored[:, [a, b]] = mesh[:, [b, a]]
    mirrored = mirrored * (-1, 1, 1)
    first = expression_geometry(turned(mesh, yaw=0.3, pitch=0.1, roll=0.1))
    other = expression_geometry(turned(mirrored, yaw=-0.3, pitch=0.1, roll=-0.1))
    np.testing.assert_allclose(other[:, :NUM_EVEN], first[:, :NUM_EVEN], atol=2e-3)
    np.testing.assert_allclose(other[:, NUM_EVEN:], -first[:, NUM_EVEN:], atol=2e-3)


def test_measures_by_hand():
    mesh = frontal(symmetric=True)
    mesh[:, 13], mesh[:, 14] = (0.0, 1.00, 0.1), (0.0, 1.12, 0.1)
    mesh[:, [61, 78, 291, 308], 1] = 0.96
    features = expression_geometry(turned(mesh))
    assert column(features, "lip opening")[0] == pytest.approx(0.12, abs=1e-3)
    assert column(features, "lip corner lift")[0] == pytest.approx(0.10, abs=1e-3)
    assert column(features, "lip corner below nose")[0] == pytest.approx(0.96 - 0.746, abs=1e-3)
    assert column(features, "lip corner lift left-right")[0] == pytest.approx(0.0, abs=1e-3)
    mesh[:, [61, 78], 1] -= 0.05  # the corner on the image left goes up
    features = expression_geometry(turned(mesh))
    assert column(features, "lip corner lift")[0] == pytest.approx(0.125, abs=1e-3)
    assert column(features, "lip corner lift left-right")[0] == pytest.approx(0.05, abs=1e-3)


def test_whole_numbers_are_refused():
    mesh = turned(frontal())
    for dtype in (np.uint8, np.int32):  # once cast, fractions of a pixel are gone
        with pytest.raises(DTypeError, match="floating point"):
            expression_geometry(mesh.astype(dtype))


def test_bad_meshes_are_refused():
    mesh = turned(frontal())
    with pytest.raises(ShapeError, match="depth"):
        checked_meshes(mesh[:, :, :2])
    with pytest.raises(ShapeError, match="468"):
        checked_meshes(mesh[0])
    broken = np.concatenate([mesh, mesh])
    broken[1, 7, 0] = np.nan
    with pytest.raises(ValueRangeError, match="mesh 1"):
        checked_meshes(broken)
    with pytest.raises(ValueRangeError, match="both eyes in one place"):
        expression_geometry(np.ones((1, MESH_POINTS, 3)))


def test_no_faces():
    assert expression_geometry(np.zeros((0, MESH_POINTS, 3))).shape == (0, len(GEOMETRY))

"""Hulls, polygons, distances: against scipy, and against areas that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import masks

SQUARE = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]])


@pytest.mark.parametrize("count", [3, 4, 17, 300])
def test_hull_is_that_of_scipy(count):
    points = np.random.default_rng(count).normal(size=(count, 2)) * 50
    hull = masks.convex_hull(points)
    truth = points[ConvexHull(points).vertices]
    assert {tuple(p) for p in hull} == {tuple(p) for p in truth}
    a, b = np.roll(hull, -1, 0) - hull, np.roll(hull, -2, 0) - np.roll(hull, -1, 0)
    turns = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    assert (np.sign(turns) == np.sign(turns[0])).all()


def test_hull_of_points_on_a_line_has_no_area():
    assert len(masks.convex_hull([[0, 0], [1, 1], [2, 2]])) == 2
    assert len(masks.convex_hull([[3, 3], [3, 3]])) == 1
    assert not masks.polygon_mask(masks.convex_hull([[0, 0], [1, 1], [2, 2]]), (4, 4)).any()


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(4)])
def test_hull_of_no_points(bad):
    with pytest.raises(ShapeError, match="points must be"):
        masks.convex_hull(bad)


def test_hull_of_points_that_are_no_numbers():
    with pytest.raises(ValueRangeError, match="finite"):
        masks.convex_hull([[0, 0], [np.nan, 1], [2, 2]])


@pytest.mark.parametrize("turned", [False, True])
def test_polygon_covers_its_pixels(turned):
    mask = masks.polygon_mask(SQUARE[::-1] if turned else SQUARE, (40, 50))
    truth = np.zeros((40, 50), np.uint8)
    truth[10:30, 10:30] = 255
    np.testing.assert_array_equal(mask, truth)


def test_polygon_edge_shares_pixels():
    mask = masks.polygon_mask(SQUARE + np.array([0.25, 0.0]), (40, 50))
    assert abs(int(mask[20, 10]) - 0.75 * 255) <= 1
    assert abs(int(mask[20, 30]) - 0.25 * 255) <= 1
    circle = masks.grow_hull(np.array([[20.0, 20.0]]), 15.0)
    area = masks.polygon_mask(circle, (40, 40)).sum() / 255
    assert abs(area - np.pi * 15**2) < 0.01 * np.pi * 15**2


def test_feather_lies_inside():
    hard, soft = masks.polygon_mask(SQUARE, (40, 40)), masks.polygon_mask(SQUARE, (40, 40), 5.0)
    assert (hard[soft > 0] == 255).all()
    row = soft[20, 10:20].astype(int)
    assert (np.diff(row[:5]) > 0).all()
    assert row[0] < 30
    assert (row[5:] == 255).all()


def test_grown_hull_is_a_rounded_square():
    corners = masks.grow_hull(SQUARE, 4.0)
    distance = np.hypot(*(corners - np.clip(corners, 10.0, 30.0)).T)
    np.testing.assert_allclose(distance, 4.0, atol=1e-9)
    np.testing.assert_array_equal(masks.grow_hull(SQUARE, 0.0), masks.convex_hull(SQUARE))


@pytest.mark.parametrize("limit", [1.0, 3.5, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_distance_is_that_of_scipy(seed, limit):
    inside = np.random.default_rng(seed).random((37, 53)) > 0.02
    truth = np.minimum(ndimage.distance_transform_edt(inside), limit + 1)
    found = masks.distance_inside(inside, limit)
    near = truth <= limit
    np.testing.assert_allclose(found[near], truth[near], rtol=1e-6)
    assert (found[~near] > limit).all()
    np.testing.assert_array_equal(masks.grow_mask(~inside, limit), truth <= limit)


def test_distance_without_an_outside():
    np.testing.assert_array_equal(masks.distance_inside(np.ones((4, 5), bool), 3.0), 4.0)
    np.testing.assert_array_equal(masks.distance_inside(np.zeros((4, 5), bool), 3.0), 0.0)


def test_shrunk_mask_lies_inside_and_softens_at_the_border_too():
    mask = np.full((40, 40), 255, np.uint8)
    soft = masks.shrink_mask(mask, 3.0, 6.0)
    assert not soft[:3].any()
    assert not soft[:, -3:].any()
    assert (soft[10:30, 10:30] == 255).all()
    np.testing.assert_array_equal(soft, soft.T)
    np.testing.assert_array_equal(masks.shrink_mask(np.zeros((5, 5), np.uint8), 0.0, 2.0), 0)
    square = np.zeros((20, 20), np.uint8)
    square[5:15, 5:15] = 255
    np.testing.assert_array_equal(masks.shrink_mask(square, 0.0, 0.0), square)
    assert (masks.shrink_mask(square, 2.0, 0.0) > 0).sum() == 36


def test_outline_takes_the_richest_scheme(party):
    face = party[1][0]
    plain = masks.face_outline(face.landmarks, forehead=False)
    np.testing.assert_array_equal(plain, face.landmarks["ibug68"].astype(np.float64))
    assert len(masks.face_outline({"5pt": face.landmarks["5pt"]})) == 32
    mesh = np.random.default_rng(0).random((468, 3))
    np.testing.assert_array_equal(masks.face_outline(face.landmarks | {"mesh468": mesh}), mesh[:, :2])
    with pytest.raises(ValueRangeError, match="mesh468, ibug68, 5pt; the face has blazeface"):
        masks.face_outline({"blazeface": mesh})


def test_outlines_cover_the_face(photographs):
    _, faces, areas = photographs.photograph(
        [(1.0, 0.4, (200, 200)), (0.9, -0.3, (470, 220))], 420, 640, seed=5
    )
    for face, area in zip(faces, areas, strict=True):
        hull = masks.polygon_mask(masks.convex_hull(masks.face_outline(face.landmarks)), area.shape) > 127
        assert (hull & area).sum() > 0.85 * area.sum()
        assert (hull & ~area).sum() < 0.15 * area.sum()
        oval = masks.polygon_mask(masks.face_oval(face.landmarks["5pt"]), area.shape) > 127
        assert (oval & area).sum() > 0.8 * area.sum()
        without = masks.polygon_mask(
            masks.convex_hull(masks.face_outline(face.landmarks, forehead=False)), area.shape
        )
        assert (without > 127).sum() < 0.9 * hull.sum()


def test_five_points(party):
    landmarks = party[1][0].landmarks
    np.testing.assert_array_equal(masks.five_points(landmarks), landmarks["5pt"].astype(np.float64))
    found = masks.five_points({"ibug68": landmarks["ibug68"]})
    np.testing.assert_allclose(found, landmarks["5pt"], atol=6.0)
    with pytest.raises(ValueRangeError, match="5pt"):
        masks.five_points({})

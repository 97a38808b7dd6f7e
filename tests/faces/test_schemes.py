"""Schemes of landmarks: mirror images, parts and conversions."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import SCHEMES, convert, converted, mirror
from pyface.faces.schemes import eye_line, scheme

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("name", SCHEMES)
def test_mirror_is_its_own_inverse(name):
    mirrored = np.array(SCHEMES[name].mirrored)
    count = SCHEMES[name].count
    np.testing.assert_array_equal(np.sort(mirrored), np.arange(count))
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(count))
    points = RNG.uniform(0, 100, (2, count, 3)).astype(np.float32)
    twice = mirror(mirror(points, name, 100), name, 100)
    np.testing.assert_allclose(twice, points, atol=1e-4)


@pytest.mark.parametrize("name", SCHEMES)
def test_parts_are_points_and_mirror_to_parts(name):
    parts = SCHEMES[name].parts
    mirrored = SCHEMES[name].mirrored
    for part, points in parts.items():
        assert len(set(points)) == len(points)
        other = part.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert {mirrored[p] for p in points} == set(parts[other]), part


def test_parts_of_ibug68_are_all_of_it():
    assert sorted(p for points in SCHEMES["ibug68"].parts.values() for p in points) == list(range(68))


def test_mirrored_renders(render):
    """Yaw, roll and light turned round give the mirrored face; its landmarks are the mirrored ones."""
    one = render(1, yaw=0.3, roll=0.2, shift_x=0.05, hair_part=0.0)
    other = render(1, yaw=-0.3, roll=-0.2, shift_x=-0.05, hair_part=0.0)
    np.testing.assert_allclose(mirror(one.ibug68, "ibug68", 256), other.ibug68, atol=0.5)
    np.testing.assert_allclose(mirror(one.five, "5pt", 256), other.five, atol=0.5)


def test_five_of_68_is_rendered_truth(renders):
    error = np.linalg.norm(convert(renders.ibug68, "ibug68", "5pt") - renders.five, axis=-1)
    assert error.mean() < 0.005 * renders.iod.mean()
    assert error.max() < 0.04 * renders.iod.mean()


@pytest.mark.parametrize("source", ["mesh468", "ibug68"])
@pytest.mark.parametrize("target", ["5pt", "ibug68"])
def test_conversion_commutes_with_mirror(source, target):
    points = RNG.uniform(0, 90, (SCHEMES[source].count, 2)).astype(np.float32)
    one = mirror(convert(points, source, target), target, 90)
    other = convert(mirror(points, source, 90), source, target)
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_conversion_of_points_that_mark_themselves():
    """Points whose x is their own number show which were taken."""
    mesh = np.stack([np.arange(468), np.zeros(468), np.ones(468)], axis=1).astype(np.float32)
    taken = convert(mesh, "mesh468", "ibug68")
    assert taken.shape == (68, 2)
    assert taken[[8, 30, 36, 45, 51, 57, 62, 66], 0].tolist() == [152, 2.5, 33, 263, 0, 17, 13, 14]
    batch = convert(np.stack([mesh, mesh + 1]), "mesh468", "5pt")
    assert batch.shape == (2, 5, 2)
    np.testing.assert_allclose(batch[1] - batch[0], 1)


def test_estimated_corners_move_with_the_face():
    six = np.array([[40, 50], [80, 50], [60, 70], [60, 90], [20, 55], [100, 55]], np.float32)
    five = convert(six, "blazeface6", "5pt")
    np.testing.assert_allclose(five, [[40, 50], [80, 50], [60, 70], [44, 86], [76, 86]], atol=1e-4)
    turn = np.array([[0, -1], [1, 0]], np.float32)
    np.testing.assert_allclose(
        convert(2 * six @ turn + 7, "blazeface6", "5pt"), 2 * five @ turn + 7, atol=1e-3
    )


@pytest.mark.parametrize(
    ("source", "target"), [("5pt", "ibug68"), ("ibug68", "mesh468"), ("blazeface6", "mesh468")]
)
def test_impossible_conversions_list_the_possible(source, target):
    with pytest.raises(ValueRangeError, match="possible are mesh468 to ibug68"):
        convert(np.zeros((SCHEMES[source].count, 2)), source, target)


def test_unknown_schemes_and_wrong_counts():
    with pytest.raises(ValueRangeError, match="wflw98"):
        scheme("wflw98")
    with pytest.raises(ValueRangeError, match="there are 5pt, ibug68"):
        convert(np.zeros((5, 2)), "5pt", "aflw21")
    with pytest.raises(ShapeError, match=r"\[\.\.\., 68, 2\]"):
        convert(np.zeros((72, 2)), "ibug68", "5pt")
    with pytest.raises(ShapeError, match="5pt"):
        mirror(np.zeros(10), "5pt", 64)


def test_best_scheme_of_a_face_is_taken():
    five = RNG.uniform(0, 50, (5, 2)).astype(np.float32)
    ibug = RNG.uniform(0, 50, (68, 2)).astype(np.float32)
    np.testing.assert_array_equal(converted({"5pt": five, "ibug68": ibug}, "5pt"), five)
    np.testing.assert_array_equal(converted({"ibug68": ibug}, "5pt"), convert(ibug, "ibug68", "5pt"))
    with pytest.raises(ValueRangeError, match="it has 5pt"):
        converted({"5pt": five}, "ibug68")
    with pytest.raises(ValueRangeError, match="it has none"):
        converted({}, "5pt")


def test_eye_line_by_any_scheme(renders):
    truth = renders.five[0, 1] - renders.five[0, 0]
    np.testing.assert_allclose(eye_line({"5pt": renders.five[0]}), truth, atol=1e-4)
    np.testing.assert_allclose(eye_line({"ibug68": renders.ibug68[0]}), truth, atol=2)
    assert eye_line({}) is None

"""Action units of faces: letters and thresholds, what is refused, and how well unseen people are read."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.data import ATTRIBUTES
from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.faces import Face, load_action_units
from pyface.faces.action_units import (
    MESH_RULES,
    PRESENCE,
    MeshActionUnits,
    MeshRule,
    expression_picture,
    facs_letter,
    meshes_of,
    presence,
)
from pyface.faces.expression_geometry import GEOMETRY, MESH_POINTS, RIGID_POINTS, RIGID_SHAPE
from pyface.faces.protocols import ActionUnitModel


def mesh_at(x=60.0, y=50.0, unit=30.0, turn=0.0, seed=0):
    """A mesh [468, 3] whose eyes have their middle at (x, y) and lie `unit` pixels apart."""
    mesh = np.random.default_rng(seed).uniform((-1, -1, -0.5), (1, 1.7, 0.9), (MESH_POINTS, 3))
    mesh[list(RIGID_POINTS)] = RIGID_SHAPE
    cosine, sine = np.cos(turn), np.sin(turn)
    mesh[:, :2] = mesh[:, :2] @ np.array([[cosine, sine], [-sine, cosine]])
    return (unit * mesh + (x, y, 0)).astype(np.float32)


def face_at(**where):
    return Face(np.array([0, 0, 100, 100], np.float32), 0.9, {"mesh468": mesh_at(**where)})


def photo(seed=0, size=120):
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype(np.uint8)


class TestWords:
    def test_letters(self):
        found = [facs_letter(v) for v in (0, 0.099, 0.1, 0.2, 0.299, 0.3, 0.5, 0.7, 0.9, 1)]
        assert found == ["", "", "A", "A", "A", "B", "C", "D", "E", "E"]
        with pytest.raises(ValueRangeError, match="divided by 5"):
            facs_letter(3.0)
        with pytest.raises(ValueRangeError):
            facs_letter(float("nan"))

    def test_thresholds_are_those_of_the_attributes(self):
        assert f"AU12 of {PRESENCE['AU12']}" in ATTRIBUTES["Smiling"]
        assert f"AU25 of {PRESENCE['AU25']}" in ATTRIBUTES["Mouth_Slightly_Open"]
        assert f"AU26 of {PRESENCE['AU26']}" in ATTRIBUTES["Mouth_Slightly_Open"]
        assert f"AU43 of {PRESENCE['AU43']}" in ATTRIBUTES["Narrow_Eyes"]
        assert facs_letter(presence("AU1")) == "B"
        assert facs_letter(presence("AU1") - 0.01) == "A"


class TestPicture:
    @pytest.mark.parametrize(("unit", "turn"), [(30.0, 0.0), (18.0, 0.4), (75.0, -0.3)])
    def test_eyes_come_to_their_place(self, unit, turn):
        image = np.full((240, 240, 3), 40, np.uint8)
        mesh = mesh_at(x=110.0, y=100.0, unit=unit, turn=turn)
        ways = np.stack(np.meshgrid(np.arange(240) + 0.5, np.arange(240) + 0.5), -1)
        for corners in ((33, 133), (263, 362)):
            distance = np.linalg.norm(ways - mesh[list(corners), :2].mean(0), axis=-1)
            image[distance < 0.15 * unit] = 250
        found = expression_picture(image, mesh, size=80, eye_distance=0.375, margin=8)
        assert found.shape == (96, 96)
        rows, columns = np.nonzero(found > 150)
        for left, wanted in ((True, 48 - 15), (False, 48 + 15)):
            side = (columns < 48) == left
            assert columns[side].mean() + 0.5 == pytest.approx(wanted, abs=0.6)
            assert rows[side].mean() + 0.5 == pytest.approx(8 + 24, abs=0.6)

    def test_grey_is_luma(self):
        image = np.zeros((100, 100, 3), np.uint8)
        for channel, level in ((0, 76), (1, 150), (2, 29)):
            image[:] = 0
            image[..., channel] = 255
            assert abs(int(expression_picture(image, mesh_at())[40, 40]) - level) <= 1

    def test_what_is_no_photograph_is_refused(self):
        for bad in (photo().astype(np.float32), photo()[..., 0], photo().astype(np.int64)):
            with pytest.raises(ShapeError, match="uint8"):
                expression_picture(bad, mesh_at())
        with pytest.raises(DTypeError, match="floating point"):
            expression_picture(photo(), mesh_at().astype(np.uint8))


class TestMeshModel:
    def test_a_rule_is_a_line_between_its_ends(self):
        rule = MeshRule("lip opening", 0.1, 0.3)
        found = rule.intensities(np.array([0.0, 0.1, 0.2, 0.3, 0.9]))
        np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)
        falling = MeshRule("eye opening", 0.14, 0.04).intensities(np.array([0.2, 0.14, 0.09, 0.0]))
        np.testing.assert_allclose(falling, [0, 0, 0.5, 1], atol=1e-6)

    def test_units_and_neutral_face(self):
        model = load_action_units("mesh")
        assert isinstance(model, ActionUnitModel)
        assert model.units == tuple(MESH_RULES)
        faces = [face_at(seed=1), face_at(seed=2)]
        found = model.intensities([photo(), photo()], faces)
        assert found.shape == (2, len(MESH_RULES))
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1
        own = model.intensities([photo()], faces[:1], neutral=faces[0])
        np.testing.assert_allclose(own, 0, atol=1e-4)
        assert model.intensities([], []).shape == (0, len(MESH_RULES))

    def test_bad_rules_are_refused(self):
        with pytest.raises(ValueRangeError, match="GEOMETRY"):
            MeshActionUnits({"AU12": MeshRule("joy", 0, 1)})
        with pytest.raises(ValueRangeError, match="two different ends"):
            MeshActionUnits({"AU12": MeshRule(GEOMETRY[0], 1, 1)})


@pytest.fixture(scope="module", params=["default", "mesh"])
def either(request):
    return load_action_units(request.param)


class TestDoor:
    def test_the_error_says_which_landmarker_to_run(self, either):
        face = Face(np.zeros(4, np.float32), 0.9, {"5pt": np.zeros((5, 2), np.float32)})
        with pytest.raises(ValueRangeError, match=r"face 1 .*it has 5pt.*load_landmarker\('facemesh'\)"):
            either.intensities([photo(), photo()], [face_at(), face])

    def test_rounded_landmarks_are_refused(self, either):
        face = face_at()
        face.landmarks["mesh468"] = face.landmarks["mesh468"].astype(np.uint8)
        with pytest.raises(DTypeError, match="floating point"):
            either.intensities([photo()], [face])

    def test_landmarks_without_depth_are_refused(self, either):
        flat = face_at()
        flat.landmarks["mesh468"] = flat.landmarks["mesh468"][:, :2]
        with pytest.raises(ShapeError, match="468, 3"):
            either.intensities([photo()], [flat])
        with pytest.raises(ShapeError, match="depth"):
            either.intensities([photo(), photo()], [face_at(), flat])

    def test_one_picture_for_each_face(self, either):
        with pytest.raises(ShapeError, match="1 pictures and 2 faces"):
            either.intensities([photo()], [face_at(), face_at()])
        with pytest.raises(ShapeError, match=r"images\[0\] must be uint8"):
            either.intensities([photo() / 255.0], [face_at()])

    def test_no_faces(self, either):
        assert either.intensities([], []).shape == (0, len(either.units))
        assert meshes_of([]).shape == (0, MESH_POINTS, 3)

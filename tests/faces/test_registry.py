"""Models of faces by name, by ending and by protocol."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import Face, load_detector, model_names, register
from pyface.faces.face import checked_photo


class Nowhere:
    """Finds no face."""

    def __init__(self, path=None, **options):
        self.name, self.path, self.options = "nowhere", path, options

    def detect(self, images):
        return [[] for _ in images]


def test_registered_name_is_loaded_with_its_options():
    register("detector", "nowhere", Nowhere)
    found = load_detector("nowhere", threshold=0.3)
    assert isinstance(found, Nowhere)
    assert found.options == {"threshold": 0.3}
    assert "nowhere" in model_names("detector")


def test_ending_takes_the_path(tmp_path):
    register("detector", ".nowhere", Nowhere)
    file = tmp_path / "net.nowhere"
    file.touch()
    assert load_detector(file).path == file


def test_unknown_name_lists_what_there_is():
    register("detector", "nowhere", Nowhere)
    with pytest.raises(ValueRangeError, match=r"no detector 'nothing'.*nowhere"):
        load_detector("nothing")


def test_an_ending_alone_is_no_name():
    register("detector", ".nowhere", Nowhere)
    with pytest.raises(ValueRangeError, match=r"no detector '\.nowhere'"):
        load_detector(".nowhere")


def test_other_things_than_models_are_refused():
    register("detector", "number", lambda: 3)
    with pytest.raises(ValueRangeError, match="gives a int, which is no Detector"):
        load_detector("number")


def test_unknown_kind_is_refused():
    with pytest.raises(ValueRangeError, match="kind must be one of detector"):
        register("detektor", "x", Nowhere)


def test_points_of_a_missing_scheme_are_refused():
    face = Face(np.array([0, 0, 4, 8], np.float32), 1.0)
    assert face.size == 8
    with pytest.raises(ValueRangeError, match="no landmarks 'ibug68'; it has none"):
        face.points("ibug68")


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), [1]]
)
def test_pictures_of_another_form_are_refused(bad):
    with pytest.raises(ShapeError, match=r"uint8 \[H, W, 3\]"):
        checked_photo(bad)

"""Detector, landmarker and further models, one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from pyface.data import ProceduralFaces
from pyface.errors import ShapeError
from pyface.faces import Face, load_embedder
from pyface.faces.analyzer import FaceAnalyzer, aligned_tensor


class Two:
    """Finds two faces in every bright picture, one in every other that is not black."""

    name = "two"

    def detect(self, images):
        found = []
        for image in images:
            count = 0 if not image.any() else 2 if image.mean() > 127 else 1
            found.append([Face(np.float32([8 * i, 0, 8 * i + 8, 8]), 1 - i / 10) for i in range(count)])
        return found


class Points:
    """68 points spread over the box, so that the test knows whose they are."""

    name, scheme = "points", "ibug68"
    layout = np.random.default_rng(0).uniform(0.1, 0.9, (68, 2)).astype(np.float32)

    def __init__(self):
        self.calls = []

    def landmarks(self, images, faces):
        self.calls.append(len(faces))
        return np.stack([self.layout * 8 + face.box[:2] for face in faces])


class Brightness:
    """An embedder, an attribute model and an action-unit model in one."""

    name, dim, size, template, metric, threshold, differentiable = (
        "brightness", 1, 16, "eyes", "l2", 1.0, True,
    )  # fmt: skip
    names = ("bright",)
    units = ("AU12",)

    def embed(self, aligned):
        return aligned.mean(dim=(1, 2, 3))[:, None]

    def predict(self, aligned):
        return {"bright": (aligned.mean(dim=(1, 2, 3)) > 0).float().numpy()}

    def intensities(self, images, faces):
        return np.float32([[face.box[0] / 100] for face in faces])


@pytest.fixture
def photographs():
    return [np.full((16, 24, 3), level, np.uint8) for level in (200, 0, 60)]


def test_every_face_gets_what_the_models_say(photographs):
    model = Brightness()
    analyzer = FaceAnalyzer(Two(), Points(), model, model, model)
    found = analyzer.analyze(photographs)
    assert [len(faces) for faces in found] == [2, 0, 1]
    for image, faces in zip(photographs, found, strict=True):
        for face in faces:
            np.testing.assert_allclose(face.landmarks["ibug68"], Points.layout * 8 + face.box[:2])
            assert face.landmarks["5pt"].shape == (5, 2)
            assert face.embedding.shape == (1,)
            assert face.attributes == {"bright": float(image.mean() > 127)}
            assert face.action_units == {"AU12": pytest.approx(face.box[0] / 100)}
    assert found[0][0].embedding[0] > found[2][0].embedding[0]


def test_many_faces_are_worked_on_in_parts(photographs):
    points = Points()
    found = FaceAnalyzer(Two(), points).analyze([photographs[0]] * 40)
    assert sum(map(len, found)) == 80
    assert points.calls == [32, 32, 16]


def test_no_face_is_no_error(photographs):
    model = Brightness()
    assert FaceAnalyzer(Two(), Points(), model, model, model)(photographs[1]) == []
    assert FaceAnalyzer(Two(), Points(), model).analyze([]) == []
    assert aligned_tensor([], [], "eyes", 16).shape == (0, 3, 16, 16)


def test_pictures_of_another_form_are_named(photographs):
    with pytest.raises(ShapeError, match="image 1 must be uint8"):
        FaceAnalyzer(Two(), Points()).analyze([photographs[0], photographs[0][..., 0]])


def test_the_offline_models_tell_people_apart(model):
    for name in ("blazeface", "facemesh", "dlib-resnet"):
        model(name)
    faces = ProceduralFaces(3, 2, 192, ("vis",), seed=11, glasses=0.0)
    found = FaceAnalyzer(embedder=load_embedder()).analyze([faces[i].image for i in range(6)])
    assert [len(of_image) for of_image in found] == [1] * 6
    vectors = np.stack([of_image[0].embedding for of_image in found])
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    same = [distance[2 * k, 2 * k + 1] for k in range(3)]
    others = [distance[i, j] for i in range(6) for j in range(i) if i // 2 != j // 2]
    assert max(same) < np.mean(others)

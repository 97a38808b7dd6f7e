"""FaceMesh on renders and a photograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pyface.errors import CheckpointError, ShapeError, ValueRangeError
from pyface.faces import Face, convert, load_landmarker, mirror
from pyface.faces.blazeface import BlazeFace
from pyface.faces.mesh import FaceMesh
from pyface.faces.protocols import Landmarker
from pyface.faces.schemes import SCHEMES


@pytest.fixture(scope="module")
def detector(model):
    return BlazeFace(model("blazeface"))


@pytest.fixture(scope="module")
def landmarker(model):
    return FaceMesh(model("facemesh"))


@pytest.fixture(scope="module")
def found(detector, landmarker, renders):
    """Faces and meshes of the renders."""
    faces = [several[0] for several in detector.detect(list(renders.images))]
    return faces, *landmarker.landmarks_and_presence(list(renders.images), faces)


def strange_boxes(faces, seed=0):
    """As of another detector: 0.75 to 1.4 times as large, moved by up to an eighth, without landmarks."""
    rng = np.random.default_rng(seed)
    boxes = []
    for face in faces:
        middle, size = (face.box[:2] + face.box[2:]) / 2, face.box[2:] - face.box[:2]
        half = size / 2 * np.exp(rng.uniform(np.log(0.75), np.log(1.4)))
        middle = middle + rng.uniform(-0.125, 0.125, 2) * size
        boxes.append(Face(np.concatenate([middle - half, middle + half]).astype(np.float32), 1.0))
    return boxes


def test_default_landmarker_is_facemesh(landmarker):
    assert isinstance(landmarker, Landmarker)
    assert landmarker.scheme == "mesh468"
    assert isinstance(load_landmarker(), FaceMesh)
    assert load_landmarker("facemesh", max_passes=1).max_passes == 1


def test_error_on_renders(found, renders):
    _, meshes, presence = found
    errors = renders.nme(convert(meshes, "mesh468", "5pt"), renders.five)
    assert errors.mean() < 0.05
    assert np.percentile(errors, 95) < 0.075
    ibug = convert(meshes, "mesh468", "ibug68")
    assert renders.nme(ibug[:, 17:], renders.ibug68[:, 17:]).mean() < 0.068
    assert renders.nme(ibug, renders.ibug68).mean() < 0.085
    assert presence.min() > 0.9


def test_error_with_roll_and_yaw(detector, landmarker, render):
    turned = render(16, seed=8, roll=(-0.8, 0.8), yaw=(-0.75, 0.75))
    faces = [several[0] for several in detector.detect(list(turned.images))]
    meshes = landmarker.landmarks(list(turned.images), faces)
    assert turned.nme(convert(meshes, "mesh468", "5pt"), turned.five).mean() < 0.06


@pytest.mark.parametrize("degrees", [-60, 60])
def test_turned_picture(detector, landmarker, renders, degrees):
    """The crop follows the eyes: turning a picture turns its landmarks."""
    turn = cv2.getRotationMatrix2D((127.5, 127.5), degrees, 1)
    pictures = [cv2.warpAffine(image, turn, (256, 256)) for image in renders.images[:12]]
    truth = (renders.five[:12] - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    faces = [several[0] for several in detector.detect(pictures)]
    five = convert(landmarker.landmarks(pictures, faces), "mesh468", "5pt")
    assert (np.linalg.norm(five - truth, axis=-1).mean(axis=1) / renders.iod[:12]).mean() < 0.06


def test_further_passes_mend_boxes_of_other_detectors(model, found, renders):
    boxes = strange_boxes(found[0])
    errors = {}
    for passes in (1, 3):
        meshes = FaceMesh(model("facemesh"), max_passes=passes).landmarks(list(renders.images), boxes)
        errors[passes] = renders.nme(convert(meshes, "mesh468", "ibug68"), renders.ibug68).mean()
    own = renders.nme(convert(found[1], "mesh468", "ibug68"), renders.ibug68).mean()
    assert errors[3] < 0.85 * errors[1]
    assert errors[3] < 1.1 * own


def test_boxes_of_the_own_detector_need_one_pass(model, found, renders):
    once = FaceMesh(model("facemesh"), max_passes=1).landmarks(list(renders.images), found[0])
    same = np.isclose(once, found[1]).all(axis=(1, 2))
    assert same.mean() > 0.9


def test_batch_equals_single_faces(landmarker, found, renders):
    for i in (0, 17, 39):
        alone = landmarker.landmarks([renders.images[i]], [found[0][i]])[0]
        np.testing.assert_allclose(alone, found[1][i], atol=1e-2)


def test_tall_and_wide_boxes_are_both_centred(landmarker, found, renders):
    """A published cropper compared height with width twice, so that tall faces never sat in the middle."""
    errors = {}
    for name, stretch in (("tall", (0.8, 1.0)), ("wide", (1.0, 0.8))):
        boxes = []
        for face in found[0][:12]:
            middle, half = (face.box[:2] + face.box[2:]) / 2, (face.box[2:] - face.box[:2]) / 2 * stretch
            box = np.concatenate([middle - half, middle + half]).astype(np.float32)
            boxes.append(Face(box, 1.0, face.landmarks))
        meshes = landmarker.landmarks(list(renders.images[:12]), boxes)
        five = convert(meshes, "mesh468", "5pt")
        errors[name] = np.linalg.norm(five - renders.five[:12], axis=-1).mean() / renders.iod.mean()
    assert max(errors.values()) < 0.05
    assert abs(errors["tall"] - errors["wide"]) < 0.005


def test_landmarks_stay_with_their_faces(landmarker, found, renders):
    """A published extractor lost which landmarks belong to which picture."""
    order = np.random.default_rng(3).permutation(20)
    images, faces = [renders.images[i] for i in order], [found[0][i] for i in order]
    np.testing.assert_allclose(landmarker.landmarks(images, faces), found[1][order], atol=1e-2)


def test_mirrored_picture_gives_the_mirrored_mesh(detector, landmarker, renders, found):
    flipped = [np.ascontiguousarray(image[:, ::-1]) for image in renders.images[:20]]
    faces = [several[0] for several in detector.detect(flipped)]
    back = mirror(landmarker.landmarks(flipped, faces), "mesh468", 256)[..., :2]
    difference = np.linalg.norm(back - found[1][:20, :, :2], axis=-1) / renders.iod[:20, None]
    assert difference.mean() < 0.045
    # each point is nearer to its own mirror image than the two are to each other: the table pairs rightly
    middle = back.mean(axis=0) - found[1][:20, :, :2].mean(axis=0)
    assert np.linalg.norm(middle, axis=-1).max() < 0.08 * renders.iod.mean()


def test_parts_lie_where_their_names_say(found, renders):
    mesh = found[1][:, :, :2]
    for part, points in SCHEMES["mesh468"].parts.items():
        truth = renders.ibug68[:, list(SCHEMES["ibug68"].parts[part])].mean(axis=1)
        distance = np.linalg.norm(mesh[:, list(points)].mean(axis=1) - truth, axis=-1)
        assert (distance / renders.iod).mean() < 0.13, part


def test_large_picture_is_shrunk_without_aliasing(detector, landmarker, renders):
    """A photo of 3000 pixels gives what the same face gives at 256."""
    small = list(renders.images[:4])
    large = [cv2.resize(image, (3000, 3000), interpolation=cv2.INTER_CUBIC) for image in small]
    points = []
    for pictures in (small, large):
        faces = [several[0] for several in detector.detect(pictures)]
        points.append(landmarker.landmarks(pictures, faces)[..., :2] * 256 / pictures[0].shape[0])
    difference = np.linalg.norm(points[0] - points[1], axis=-1) / renders.iod[:4, None]
    assert difference.mean() < 0.025


def test_depth_of_the_nose_and_the_ears(found):
    mesh = found[1]
    assert (mesh[:, 1, 2] < mesh[:, [234, 454], 2].min(axis=1)).all()  # the nose is nearer to the camera


def test_astronaut(detector, landmarker, astronaut):
    face = detector.detect([astronaut])[0][0]
    mesh, presence = landmarker.landmarks_and_presence([astronaut], [face])
    assert presence[0] > 0.9
    five = convert(mesh[0], "mesh468", "5pt")
    # eyes, nose tip and corners of the mouth read off the photograph, whose eyes are 44 pixels apart
    np.testing.assert_allclose(
        five, [[203.5, 102], [247.5, 104], [225, 127], [200, 140], [246, 142]], atol=3.5
    )


def test_presence_is_low_without_a_face(landmarker, renders):
    nothing = np.random.default_rng(1).integers(100, 156, (256, 256, 3)).astype(np.uint8)
    box = Face(np.array([60, 60, 190, 190], np.float32), 1.0)
    _, presence = landmarker.landmarks_and_presence([nothing, renders.images[0]], [box, box])
    assert presence[0] < 0.5 < presence[1]


def test_box_at_the_border_and_outside(landmarker, renders):
    boxes = [[-100, -100, 60, 60], [200, 200, 400, 400], [900, 900, 2500, 2500], [50, 50, 50, 50]]
    faces = [Face(np.array(box, np.float32), 1.0) for box in boxes]
    points = landmarker.landmarks([renders.images[0]] * 4, faces)
    assert np.isfinite(points).all()


def test_nothing_and_wrong_counts(landmarker, renders, found):
    assert landmarker.landmarks([], []).shape == (0, 468, 3)
    with pytest.raises(ShapeError, match="one picture for each face"):
        landmarker.landmarks([renders.images[0]], found[0][:2])


def test_bad_options_and_files(model):
    with pytest.raises(ValueRangeError, match="max_passes"):
        FaceMesh(model("facemesh"), max_passes=0)
    with pytest.raises(CheckpointError, match="not FaceMesh"):
        FaceMesh(model("blazeface")).landmarks(
            [np.zeros((64, 64, 3), np.uint8)], [Face(np.array([0, 0, 64, 64], np.float32), 1.0)]
        )

"""BlazeFace on renders and a photograph: where, how large, how many, at any size."""

from __future__ import annotations

import pickle
import threading

import cv2
import numpy as np
import pytest

from pyface.errors import CheckpointError, ShapeError, ValueRangeError
from pyface.faces import as_rgb, load_detector
from pyface.faces.blazeface import BlazeFace
from pyface.faces.protocols import Detector


@pytest.fixture(scope="module")
def detector(model):
    return BlazeFace(model("blazeface"))


@pytest.fixture(scope="module")
def found(detector, renders):
    """The faces of each render."""
    return detector.detect(list(renders.images))


def inside(face, points):
    """Whether the middle of the true five points lies in the box."""
    x, y = points.mean(axis=0)
    return face.box[0] < x < face.box[2] and face.box[1] < y < face.box[3]


def pasted(faces, size, places, side):
    """A picture of `size` (width, height) with faces scaled to `side` at places (x, y)."""
    canvas = np.full((size[1], size[0], 3), 120, np.uint8)
    for face, (x, y) in zip(faces, places, strict=False):
        canvas[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return canvas


def test_default_detector_is_blazeface(detector):
    assert isinstance(detector, Detector)
    assert isinstance(load_detector(), BlazeFace)
    assert load_detector("blazeface", max_faces=1).name == "blazeface"


def test_every_render_has_one_face_in_its_place(found, renders):
    single = sum(len(faces) == 1 for faces in found)
    assert single >= 39
    assert all(inside(faces[0], five) for faces, five in zip(found, renders.five, strict=True) if faces)


def test_five_points_are_near_rendered_truth(found, renders):
    points = np.stack([faces[0].landmarks["5pt"] for faces in found])
    errors = np.linalg.norm(points - renders.five, axis=-1) / renders.iod[:, None]
    assert errors.mean() < 0.085
    assert errors[:, :2].mean() < 0.06  # the eyes
    assert np.percentile(errors.mean(axis=1), 95) < 0.12


def test_batch_equals_single_pictures(detector, found, renders):
    for image, faces in zip(renders.images[:9], found, strict=False):
        (alone,) = detector.detect([image])
        np.testing.assert_allclose(alone[0].box, faces[0].box, atol=1e-3)
        assert alone[0].score == pytest.approx(faces[0].score, abs=1e-5)


def test_pictures_of_different_shapes_in_one_call(detector, renders, astronaut):
    wide = pasted(renders.images[:1], (700, 300), [(420, 20)], 256)
    tall = pasted(renders.images[1:2], (260, 900), [(2, 600)], 256)
    one, two, three = detector.detect([wide, astronaut, tall])
    assert inside(one[0], renders.five[0] + [420, 20])
    assert 200 < one[0].landmarks["5pt"][0, 0] - 420 + 140 < 300
    assert inside(three[0], renders.five[1] + [2, 600])
    assert len(two) == 1


def test_letterbox_does_not_move_the_face(detector, renders):
    """The same pixels in a square and in a wide picture: the same place to a pixel of the network's input."""
    (square,) = detector.detect([renders.images[3]])
    canvas = np.zeros((256, 512, 3), np.uint8)
    canvas[:, 201:457] = renders.images[3]
    (wide,) = detector.detect([canvas])
    moved = wide[0].landmarks["blazeface6"] - [201, 0]
    distance = np.linalg.norm(moved - square[0].landmarks["blazeface6"], axis=1)
    assert distance[:4].max() < 0.06 * renders.iod[3]  # the ears, hidden by hair, are guesses


def test_astronaut(detector, astronaut):
    (faces,) = detector.detect([astronaut])
    assert len(faces) == 1
    assert faces[0].score > 0.8
    # eyes and middle of the mouth read off the photograph
    np.testing.assert_allclose(faces[0].landmarks["5pt"][:2], [[203, 102], [248, 104]], atol=4)
    np.testing.assert_allclose(faces[0].landmarks["5pt"][3:].mean(axis=0), [223.5, 145], atol=5)


@pytest.mark.parametrize("degrees", [-60, 45, 90, 180])
def test_turned_pictures(detector, renders, degrees):
    turn = cv2.getRotationMatrix2D((127.5, 127.5), degrees, 1)
    turned = [cv2.warpAffine(image, turn, (256, 256)) for image in renders.images[:10]]
    found = detector.detect(turned)
    assert sum(len(faces) > 0 for faces in found) >= 9


def test_face_that_fills_the_picture(detector, renders):
    crops = []
    for image, five in zip(renders.images[:20], renders.five, strict=False):
        x, y = five.mean(axis=0)
        half = 1.0 * np.linalg.norm(five[1] - five[0])
        left, top = int(x - half), int(y - half)
        crops.append(np.ascontiguousarray(image[top : int(y + half), left : int(x + half)]))
    assert sum(len(faces) > 0 for faces in detector.detect(crops)) >= 18


def test_small_faces_of_a_group_are_found_with_smallest(model, renders):
    side, columns, rows = 48, 9, 5
    places = [(20 + 130 * i, 15 + 110 * j) for j in range(rows) for i in range(columns)]
    faces = [renders.images[i % 40] for i in range(len(places))]
    picture = pasted(faces, (1200, 600), places, side)
    (whole,) = BlazeFace(model("blazeface")).detect([picture])
    (tiled,) = BlazeFace(model("blazeface"), smallest=28).detect([picture])
    assert len(whole) < 0.5 * len(places)
    centres = np.array([(face.box[:2] + face.box[2:]) / 2 for face in tiled])
    truth = np.array(
        [renders.five[i % 40].mean(axis=0) * side / 256 + place for i, place in enumerate(places)]
    )
    distance = np.linalg.norm(truth[:, None] - centres[None], axis=-1)
    assert (distance.min(axis=1) < 12).sum() >= 0.97 * len(places)
    # neither found twice nor where no face is
    assert len(tiled) <= 1.05 * len(places)


def test_large_face_is_whole_though_windows_cut_it(model, renders):
    picture = cv2.resize(renders.images[5], (900, 900))
    (faces,) = BlazeFace(model("blazeface"), smallest=40).detect([picture])
    assert len(faces) == 1
    assert inside(faces[0], renders.five[5] * 900 / 256)
    assert faces[0].size > 350


def test_limits(model, renders):
    picture = pasted(renders.images, (768, 256), [(0, 0), (256, 0), (512, 0)], 256)
    picture[:, 512:] = 120
    picture[60:188, 560:688] = cv2.resize(renders.images[2], (128, 128), interpolation=cv2.INTER_AREA)
    (everyone,) = BlazeFace(model("blazeface")).detect([picture])
    assert len(everyone) == 3
    assert [f.score for f in everyone] == sorted((f.score for f in everyone), reverse=True)
    (two,) = BlazeFace(model("blazeface"), max_faces=2).detect([picture])
    assert [f.score for f in two] == [f.score for f in everyone[:2]]
    (large,) = BlazeFace(model("blazeface"), min_size=110).detect([picture])
    assert len(large) == 2
    (none,) = BlazeFace(model("blazeface"), threshold=1.0).detect([picture])
    assert none == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (3, 2), (5000, 3)])
def test_odd_shapes_hold_no_face(detector, shape):
    assert detector.detect([np.full((*shape, 3), 90, np.uint8)]) == [[]]


def test_huge_picture(model, renders):
    picture = pasted(renders.images, (6000, 4500), [(3000, 2000)], 1200)
    (faces,) = BlazeFace(model("blazeface")).detect([picture])
    assert len(faces) == 1
    assert inside(faces[0], renders.five[0] * 1200 / 256 + [3000, 2000])


def test_flat_and_noise_pictures_hold_no_face(detector):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert detector.detect([np.zeros((64, 64, 3), np.uint8), noise]) == [[], []]
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((8, 8), np.uint8), "as_rgb"),
        (np.zeros((8, 8, 4), np.uint8), "as_rgb"),
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        ([[0]], "list"),
    ],
)
def test_pictures_of_another_kind_are_refused(detector, image, text):
    with pytest.raises(ShapeError, match=text):
        detector.detect([image])


def test_one_array_instead_of_a_list_is_refused(detector):
    with pytest.raises(ShapeError, match="Pass a list"):
        detector.detect(np.zeros((8, 8, 3), np.uint8))


def test_grey_and_alpha_become_rgb(detector, renders):
    grey = cv2.cvtColor(renders.images[0], cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(as_rgb(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(as_rgb(grey[..., None]), as_rgb(grey))
    alpha = np.zeros((2, 2, 4), np.uint8)
    alpha[..., 0] = 200
    alpha[0, :, 3] = 255
    alpha[1, 0, 3] = 51
    expected = [[[200, 0, 0], [200, 0, 0]], [[48, 8, 0], [10, 10, 0]]]
    np.testing.assert_array_equal(as_rgb(alpha, background=(10, 10, 0)), expected)
    assert as_rgb(renders.images[0]) is not None
    with pytest.raises(ShapeError, match="1 to 4"):
        as_rgb(np.zeros((2, 2, 5), np.uint8))
    assert len(detector.detect([as_rgb(grey)])[0]) == 1


@pytest.mark.parametrize(
    "options", [{"threshold": 1.5}, {"max_faces": 0}, {"min_size": -1}, {"smallest": 1}, {"smallest": np.nan}]
)
def test_bad_options(model, options):
    with pytest.raises(ValueRangeError, match=next(iter(options))):
        BlazeFace(model("blazeface"), **options)


def test_files_that_are_no_blazeface(model, tmp_path):
    with pytest.raises(CheckpointError, match="no network file"):
        BlazeFace(tmp_path / "absent.tflite")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"not a network" * 100)
    with pytest.raises(CheckpointError, match=r"broken\.tflite"):
        BlazeFace(broken)
    with pytest.raises(CheckpointError, match="not BlazeFace"):
        BlazeFace(model("facemesh")).detect([np.zeros((256, 256, 3), np.uint8)])


def test_threads_and_pickle(detector, found, renders):
    expected = [faces[0].box for faces in found[:4]]
    copy = pickle.loads(pickle.dumps(detector))
    results = {}

    def work(i):
        results[i] = copy.detect([renders.images[i]])[0][0].box

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_allclose(results[i], expected[i], atol=1e-3)

"""Detectors in ONNX files: outputs of every form read exactly, places mapped back, forms told apart."""

from __future__ import annotations

import pickle
import shutil

import cv2
import numpy as np
import pytest

from pyface.errors import CheckpointError, ShapeError, ValueRangeError
from pyface.faces import load_detector
from pyface.faces.detect import Candidates, blend, overlaps, suppress
from pyface.faces.onnx_detectors import OnnxDetector
from pyface.faces.onnx_forms import FORMS
from pyface.faces.protocols import Detector

pytest.importorskip("onnx", reason="onnx writes the graphs (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra faces)")

# what the graphs below encode at an input of 256 x 256: stride, column, row, box, points, score
SHARES = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
FACES = [
    (8, 5, 6, (20.0, 30.0, 60.0, 75.0), 0.8),
    (16, 9, 4, (110.0, 40.0, 180.0, 120.0), 0.95),
    (32, 3, 5, (50.0, 110.0, 150.0, 240.0), 0.6),
]
NO_FACE = (8, 20, 28, (150.0, 200.0, 190.0, 240.0), 0.3)  # below the threshold


def points_of(box):
    left, top, right, bottom = box
    return np.array([left, top]) + SHARES * [right - left, bottom - top]


def image(width=256, height=256):
    return np.full((height, width, 3), 77, np.uint8)


def scrfd_outputs(anchors=2, points=True, levels=3, leading=False):
    """Distances to the sides and to the points, in strides, from the cell's corner."""
    outputs = {}
    for level in range(levels):
        stride = 8 << level
        cells = (256 // stride) ** 2
        scores, boxes = np.zeros((cells, anchors, 1)), np.zeros((cells, anchors, 4))
        places = np.zeros((cells, anchors, 10))
        for at, column, row, box, score in [*FACES, NO_FACE]:
            if at == stride:
                i, corner = row * (256 // stride) + column, np.array([column, row]) * stride
                scores[i, -1] = score
                boxes[i, -1] = np.concatenate([corner - box[:2], box[2:] - corner]) / stride
                places[i, -1] = ((points_of(box) - corner) / stride).reshape(-1)
        kinds = [("score", scores), ("bbox", boxes)] + ([("kps", places)] if points else [])
        for kind, array in kinds:
            flat = array.reshape(cells * anchors, -1)
            outputs[f"{kind}_{stride}"] = flat[None] if leading else flat
    return {name: outputs[name] for kind in ("score", "bbox", "kps") for name in outputs if kind in name}


def yunet_outputs():
    """Centre, logarithm of the size and points, in strides; score is the root of class times object."""
    outputs = {}
    for stride in (8, 16, 32):
        side = 256 // stride
        cls, obj = np.zeros((side * side, 1)), np.zeros((side * side, 1))
        boxes, places = np.zeros((side * side, 4)), np.zeros((side * side, 10))
        for at, column, row, box, score in [*FACES, NO_FACE]:
            if at == stride:
                i, cell = row * side + column, np.array([column, row])
                cls[i], obj[i] = score**2 / 0.97, 0.97
                centre, size = np.array([box[0] + box[2], box[1] + box[3]]) / 2, np.subtract(box[2:], box[:2])
                boxes[i] = np.concatenate([centre / stride - cell, np.log(size / stride)])
                places[i] = (points_of(box) / stride - cell).reshape(-1)
        parts = zip(("cls", "obj", "bbox", "kps"), (cls, obj, boxes, places), strict=True)
        outputs |= {f"{kind}_{stride}": array[None] for kind, array in parts}
    return {n: outputs[n] for kind in ("cls", "obj", "bbox", "kps") for n in outputs if kind in n}


def yunet2022_outputs():
    """Against prior boxes of fixed sides; which prior a face uses is chosen here."""
    sides = {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)}
    priors = [
        ((c + 0.5) * stride, (r + 0.5) * stride, side, stride, c, r)
        for stride, several in sides.items()
        for r in range(256 // stride)
        for c in range(256 // stride)
        for side in several
    ]
    loc, conf, iou = np.zeros((len(priors), 14)), np.zeros((len(priors), 2)), np.zeros((len(priors), 1))
    conf[:, 0] = 1
    for stride, column, row, box, score in [*FACES, NO_FACE]:
        i = next(
            i for i, p in enumerate(priors) if p[3:] == (stride, column, row) and p[2] == sides[stride][-1]
        )
        x, y, side = priors[i][:3]
        centre, size = np.array([box[0] + box[2], box[1] + box[3]]) / 2, np.subtract(box[2:], box[:2])
        loc[i, :2] = (centre - [x, y]) / (0.1 * side)
        loc[i, 2:4] = np.log(size / side) / [0.1, 0.2]
        loc[i, 4:] = ((points_of(box) - [x, y]) / (0.1 * side)).reshape(-1)
        conf[i], iou[i] = [1 - score**2 / 0.98, score**2 / 0.98], 0.98
    return {"loc": loc, "conf": conf, "iou": iou}


def centerface_outputs():
    """Heat, logarithms of height and width, offsets from cells of four pixels, points as shares."""
    heat, size, offset, places = (np.zeros((1, k, 64, 64)) for k in (1, 2, 2, 10))
    for _, _, _, box, score in [*FACES, NO_FACE]:
        centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
        column, row = (centre // 4).astype(int)
        heat[0, 0, row, column] = score
        size[0, :, row, column] = np.log([(box[3] - box[1]) / 4, (box[2] - box[0]) / 4])
        offset[0, :, row, column] = [centre[1] / 4 - row - 0.5, centre[0] / 4 - column - 0.5]
        places[0, :, row, column] = SHARES[:, ::-1].reshape(-1)
    return {"537": heat, "538": size, "539": offset, "540": places}


GRAPHS = {
    "scrfd": scrfd_outputs(),
    "scrfd, one anchor": scrfd_outputs(anchors=1),
    "scrfd, leading axis": scrfd_outputs(leading=True),
    "scrfd, no points": scrfd_outputs(points=False),
    "scrfd, five levels": scrfd_outputs(anchors=1, levels=5),
    "yunet": yunet_outputs(),
    "yunet2022": yunet2022_outputs(),
    "centerface": centerface_outputs(),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("given", [False, True])
def test_outputs_are_read_exactly(graphs, tmp_path, name, given):
    path = graphs.constant_detector(tmp_path / "detector.onnx", GRAPHS[name], (1, 3, 256, 256))
    form = name.partition(",")[0]
    detector = load_detector(path, form=form) if given else load_detector(path)
    assert isinstance(detector, Detector)
    assert detector.form == form
    (found,) = detector.detect([image()])
    expected = sorted(FACES, key=lambda face: -face[-1])
    assert [face.score for face in found] == pytest.approx([face[-1] for face in expected], abs=1e-5)
    for face, (_, _, _, box, _) in zip(found, expected, strict=True):
        np.testing.assert_allclose(face.box, box, atol=2e-3)
        if "no points" in name:
            assert face.landmarks == {}
        else:
            np.testing.assert_allclose(face.landmarks["5pt"], points_of(box), atol=2e-3)


@pytest.mark.parametrize("name", ["scrfd", "yunet"])
def test_order_of_outputs_does_not_matter(graphs, tmp_path, name):
    shuffled = {f"out{i}": array for i, array in enumerate(reversed(GRAPHS[name].values()))}
    detector = load_detector(graphs.constant_detector(tmp_path / "a.onnx", shuffled, (1, 3, 256, 256)))
    assert detector.form == name
    (found,) = detector.detect([image()])
    assert len(found) == 3
    np.testing.assert_allclose(found[0].box, FACES[1][3], atol=2e-3)


def test_yunet_equals_opencv(graphs, tmp_path):
    """OpenCV reads this form by itself: an independent decoder of the same graph."""
    path = graphs.constant_detector(tmp_path / "yunet.onnx", GRAPHS["yunet"], (1, 3, 256, 256))
    opencv = cv2.FaceDetectorYN.create(str(path), "", (256, 256), 0.5, 0.4, 50)
    _, truth = opencv.detect(image())
    (found,) = load_detector(path).detect([image()])
    assert len(truth) == len(found) == 3
    for face, row in zip(found, sorted(truth, key=lambda r: -r[14]), strict=True):
        np.testing.assert_allclose(face.box, [*row[:2], *(row[:2] + row[2:4])], atol=0.01)
        np.testing.assert_allclose(face.landmarks["5pt"].reshape(-1), row[4:14], atol=0.01)
        assert face.score == pytest.approx(row[14], abs=1e-4)


def test_outputs_of_sizes_and_offsets_are_told_by_name(graphs, tmp_path):
    old = centerface_outputs()
    named = {"heatmap": old["537"], "offset": old["539"], "scale": old["538"], "landmark": old["540"]}
    (found,) = load_detector(graphs.constant_detector(tmp_path / "a.onnx", named, (1, 3, 256, 256))).detect(
        [image()]
    )
    np.testing.assert_allclose(found[0].box, FACES[1][3], atol=2e-3)


@pytest.mark.parametrize(("width", "height"), [(512, 256), (256, 512), (64, 128), (1000, 1000)])
def test_letterbox_is_mapped_back(graphs, tmp_path, width, height):
    """The network's 256 x 256 shows the picture in its left upper corner, scaled as a whole."""
    path = graphs.constant_detector(tmp_path / "a.onnx", GRAPHS["scrfd"], (1, 3, 256, 256))
    (found,) = load_detector(path).detect([image(width, height)])
    scale = max(width, height) / 256
    np.testing.assert_allclose(found[0].box, np.array(FACES[1][3]) * scale, rtol=1e-5, atol=0.01)
    np.testing.assert_allclose(
        found[0].landmarks["5pt"], points_of(FACES[1][3]) * scale, rtol=1e-5, atol=0.01
    )


@pytest.mark.parametrize(
    ("shape", "size", "spot"),
    [((128, 128), 128, (40, 60)), ((100, 304), 608, (200, 36)), ((256, 192), 128, (96, 144))],
)
def test_bright_spot_is_found_where_it_is(graphs, tmp_path, shape, size, spot):
    """A graph that looks at the picture: a white square becomes a face around its middle."""
    scale = size / max(shape)
    block = round(4 / scale) if scale < 1 else 4
    picture = np.zeros((*shape, 3), np.uint8)
    x, y = spot
    picture[y : y + block, x : x + block] = 255
    detector = load_detector(
        graphs.bright_spot_centerface(tmp_path / "a.onnx", side=24), size=size, threshold=0.8
    )
    assert detector.form == "centerface"
    (found,) = detector.detect([picture])
    assert len(found) == 1  # several bright cells are one face
    middle = (found[0].box[:2] + found[0].box[2:]) / 2
    assert np.abs(middle - (np.array(spot) + block / 2)).max() <= 2.01 / scale
    np.testing.assert_allclose(found[0].box[2:] - found[0].box[:2], 24 / scale, rtol=1e-4)
    shares = (found[0].landmarks["5pt"] - found[0].box[:2]) / (24 / scale)
    np.testing.assert_allclose(shares, [[0.1 * i, 0.2 * i] for i in range(5)], atol=1e-4)


def test_channels_and_scaling(graphs, tmp_path):
    """A CenterFace graph sees grey levels; with order, mean and std it sees what these say."""
    path = graphs.bright_spot_centerface(tmp_path / "a.onnx", side=24)
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[32:36, 32:36] = 128
    (found,) = load_detector(path, size=64, threshold=0.4).detect([picture])
    assert found[0].score == pytest.approx(128 / 255, abs=1e-5)
    (found,) = load_detector(path, size=64, threshold=0.4, mean=28.0, std=0.5).detect([picture])
    assert found[0].score == pytest.approx(200 / 255, abs=1e-5)
    (found,) = load_detector(path, size=64, threshold=0.4, order="bgr").detect([picture])
    assert found[0].score == pytest.approx(128 / 255, abs=1e-5)


@pytest.mark.parametrize(("order", "seen"), [(None, "red"), ("rgb", "red"), ("bgr", "blue")])
def test_first_channel_is_what_the_order_says(graphs, tmp_path, order, seen):
    """A published projector fed BGR into a network of RGB; here the order belongs to the form."""
    path = graphs.bright_spot_centerface(tmp_path / "a.onnx", side=24, weights=(1 / 255, 0, 0))
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[32:36, 32:36, channel] = 255
        (found,) = load_detector(path, size=64, order=order).detect([picture])
        assert bool(found) == (colour == seen)


def test_each_form_is_fed_as_it_was_trained(graphs, tmp_path):
    detectors = {
        name: load_detector(
            graphs.constant_detector(tmp_path / f"{name}.onnx", GRAPHS[name], (1, 3, 256, 256))
        )
        for name in ("scrfd", "yunet", "yunet2022", "centerface")
    }
    picture = image()
    picture[..., 0], picture[..., 2] = 255, 0
    fed = {}
    for name, detector in detectors.items():
        fed[name] = detector._prepared(picture)
    np.testing.assert_allclose(fed["scrfd"][0, :, 9, 9], (np.array([255, 77, 0]) - 127.5) / 128, atol=1e-6)
    np.testing.assert_array_equal(fed["yunet"][0, :, 9, 9], [0, 77, 255])
    np.testing.assert_array_equal(fed["yunet2022"][0, :, 9, 9], [0, 77, 255])
    np.testing.assert_array_equal(fed["centerface"][0, :, 9, 9], [255, 77, 0])


def test_boxes_of_one_face_are_joined(graphs, tmp_path):
    outputs = scrfd_outputs()
    side = 256 // 16
    for (column, row), score in (((10, 4), 0.9), ((9, 5), 0.85)):
        i = (row * side + column) * 2
        corner = np.array([column, row]) * 16
        box = np.array(FACES[1][3]) + 3
        outputs["score_16"][i] = score
        outputs["bbox_16"][i] = np.concatenate([corner - box[:2], box[2:] - corner]) / 16
    path = graphs.constant_detector(tmp_path / "a.onnx", outputs, (1, 3, 256, 256))
    assert len(load_detector(path).detect([image()])[0]) == 3
    assert len(load_detector(path, overlap=0.95).detect([image()])[0]) == 4


def test_limits(graphs, tmp_path):
    path = graphs.constant_detector(tmp_path / "a.onnx", GRAPHS["yunet"], (1, 3, 256, 256))
    assert [f.score for f in load_detector(path, max_faces=1).detect([image()])[0]] == pytest.approx([0.95])
    assert len(load_detector(path, threshold=0.2).detect([image()])[0]) == 4
    assert len(load_detector(path, min_size=100).detect([image()])[0]) == 1


def test_suppression_and_blending_by_hand():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 6, 6]], np.float32)
    np.testing.assert_allclose(overlaps(boxes[0], boxes), [1, 90 / 110, 0, 0.16], rtol=1e-6)
    np.testing.assert_allclose(overlaps(boxes[0], boxes, of_smaller=True), [1, 0.9, 0, 1], rtol=1e-6)
    found = Candidates(boxes, np.array([0.6, 0.9, 0.3, 0.5], np.float32), boxes.reshape(4, 2, 2))
    assert suppress(found, 0.5).scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert suppress(found, 0.5, of_smaller=True).scores.tolist() == pytest.approx([0.9, 0.3])
    mixed = blend(found, 0.5)
    np.testing.assert_allclose(mixed.boxes[0], [0.6, 0, 10.6, 10], rtol=1e-6)
    np.testing.assert_allclose(mixed.points[0], [[0.6, 0], [10.6, 10]], rtol=1e-6)
    assert mixed.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert len(blend(Candidates.none(5), 0.5)) == 0


def test_outputs_of_no_known_form_are_listed(graphs, tmp_path):
    path = graphs.constant_detector(
        tmp_path / "a.onnx", {"boxes": np.zeros((1, 100, 4)), "labels": np.zeros((1, 100))}, (1, 3, 256, 256)
    )
    with pytest.raises(CheckpointError, match=r"boxes \[1, 100, 4\]; labels \[1, 100\]"):
        load_detector(path)
    wrong = graphs.constant_detector(tmp_path / "b.onnx", GRAPHS["scrfd"], (1, 3, 256, 256))
    with pytest.raises(CheckpointError, match="not of the form yunet"):
        load_detector(wrong, form="yunet")
    # the same outputs at another size of input are not what the form says
    with pytest.raises(CheckpointError, match=r"score_8 \[2048, 1\]"):
        load_detector(graphs.constant_detector(tmp_path / "c.onnx", GRAPHS["scrfd"], (1, 3, 320, 320)))


@pytest.mark.parametrize(
    "options",
    [
        {"form": "ssd"},
        {"size": 8},
        {"threshold": 2},
        {"overlap": -1},
        {"order": "grb"},
        {"std": 0.0},
        {"max_faces": 0},
        {"threads": -1},
        {"device": "tpu"},
    ],
)
def test_bad_options(graphs, tmp_path, options):
    path = graphs.constant_detector(tmp_path / "a.onnx", GRAPHS["scrfd"], (1, 3, 256, 256))
    with pytest.raises(ValueRangeError, match=next(iter(options))):
        OnnxDetector(path, **options)


def test_bad_pictures(graphs, tmp_path):
    detector = load_detector(graphs.constant_detector(tmp_path / "a.onnx", GRAPHS["scrfd"], (1, 3, 256, 256)))
    assert detector.detect([]) == []
    with pytest.raises(ShapeError, match="as_rgb"):
        detector.detect([np.zeros((8, 8), np.uint8)])


def test_pickle(graphs, tmp_path):
    detector = load_detector(graphs.constant_detector(tmp_path / "a.onnx", GRAPHS["yunet"], (1, 3, 256, 256)))
    copy = pickle.loads(pickle.dumps(detector))
    assert copy.form == "yunet"
    np.testing.assert_array_equal(copy.detect([image()])[0][0].box, detector.detect([image()])[0][0].box)


def test_forms_exclude_each_other():
    size = (256, 256)
    for name, outputs in GRAPHS.items():
        fitting = [form.name for form in FORMS.values() if form.fits(outputs, size)]
        assert fitting == [name.partition(",")[0]]


# ---- the real CenterFace


def test_centerface_on_a_photograph_and_renders(model, astronaut, renders):
    model("centerface")
    detector = load_detector("centerface", size=256)
    (faces,) = detector.detect([astronaut])
    assert len(faces) == 1
    np.testing.assert_allclose(faces[0].landmarks["5pt"][:2], [[203, 102], [248, 104]], atol=4)
    found = detector.detect(list(renders.images[:20]))
    assert [len(several) for several in found].count(1) >= 19
    points = np.stack([several[0].landmarks["5pt"] for several in found])
    errors = np.linalg.norm(points - renders.five[:20], axis=-1).mean(axis=1) / renders.iod[:20]
    assert errors.mean() < 0.09


def test_centerface_by_path_needs_free_sizes(model, tmp_path):
    path = shutil.copy(model("centerface"), tmp_path / "centerface.onnx")
    assert load_detector(path, free_sizes=True).form == "centerface"

"""Age, male and expression of aligned faces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pyface.data import ProceduralFaces
from pyface.errors import CheckpointError, DTypeError, MissingExtraError, ShapeError, ValueRangeError
from pyface.faces import load_attributes, model_names
from pyface.faces.align import align_batch
from pyface.faces.attributes import EXPRESSIONS, AgeGender, Expression, JoinedAttributes, strongest

onnxruntime = pytest.importorskip("onnxruntime")

# Eyes, nose tip and mouth corners of the astronaut, read off once with dlib's 68 points.
ASTRONAUT = np.array([[203.7, 102.0], [247.3, 104.5], [225.5, 127.5], [201.5, 140.5], [245.5, 141.5]])


def chips_of(images, points):
    """The faces as the models take them: float32 [N, 3, 150, 150]."""
    return align_batch(images, points, "dlib150", 150)[0]


@pytest.fixture(scope="module")
def attributes(model):
    model("fer")
    return load_attributes()


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return chips_of([data.astronaut()], [ASTRONAUT])


@pytest.fixture(scope="module")
def renders():
    """60 rendered faces: chips [60, 3, 150, 150] and whether each was drawn as male."""
    faces = ProceduralFaces(seed=5, identities=60, samples_per_identity=1, size=128)
    samples = [faces[i] for i in range(len(faces))]
    chips = chips_of([sample.image for sample in samples], [sample.landmarks["5pt"] for sample in samples])
    return chips, np.array([sample.attributes["Male"] for sample in samples], bool)


def test_names_and_framing(attributes):
    assert {"default", "age-gender", "fer"} <= set(model_names("attributes"))
    assert attributes.names == ("age", "male", *(f"expression={word}" for word in EXPRESSIONS))
    assert (attributes.template, attributes.size, attributes.name) == ("dlib150", 150, "default")
    assert load_attributes("fer").names == attributes.names[2:]
    assert load_attributes("age-gender", threads=1).names == attributes.names[:2]


def test_the_photograph(attributes, astronaut):
    found = {name: float(values[0]) for name, values in attributes.predict(astronaut).items()}
    assert tuple(found) == attributes.names
    assert strongest(found) == "happy"
    assert found["expression=happy"] > 0.9
    # Chips cut by dlib: 28.7 years by 68 points, 33.1 by 5; male 0.002 and 0.13.
    assert 24 < found["age"] < 42
    assert found["male"] < 0.15
    mirrored = attributes.predict(astronaut.flip(3))
    assert strongest({name: float(values[0]) for name, values in mirrored.items()}) == "happy"
    assert mirrored["male"][0] < 0.1


def test_numbers_and_batches(attributes, renders):
    chips = renders[0][:37]  # more than one round of 32
    found = attributes.predict(chips)
    for values in found.values():
        assert values.dtype == np.float32
        assert values.shape == (37,)
        assert values.flags.c_contiguous
    assert ((found["age"] > 0) & (found["age"] <= 80)).all()
    assert ((found["male"] >= 0) & (found["male"] <= 1)).all()
    table = np.stack([found[f"expression={word}"] for word in EXPRESSIONS])
    np.testing.assert_allclose(table.sum(0), 1, atol=1e-5)
    one = attributes.predict(chips[35:36].double())
    for name, values in one.items():
        np.testing.assert_allclose(values, found[name][35:36], rtol=1e-3, atol=1e-4)
    nobody = attributes.predict(chips[:0])
    assert all(values.shape == (0,) and values.dtype == np.float32 for values in nobody.values())


def test_sex_as_drawn_is_seen_in_rendered_faces(attributes, renders):
    chips, male = renders
    found = attributes.predict(chips)["male"]
    pairs = found[male][:, None] - found[~male][None]
    area = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert area > 0.8  # area under the ROC curve


def test_what_the_networks_are_given(attributes, model):
    """A chip of one colour becomes (RGB - mean) / 256, as the manifest of the package says."""
    colour = torch.tensor([200.0, 100.0, 50.0])
    chips = (colour / 127.5 - 1).reshape(1, 3, 1, 1).expand(1, 3, 150, 150)
    means = np.array([122.781998, 117.000999, 104.297997], np.float32)
    values = (colour.numpy() - means) / 256
    for name, file, size in (("age", "age-v1.onnx", 64), ("male", "gender-v1.onnx", 32)):
        session = onnxruntime.InferenceSession(model("age-gender", file), providers=["CPUExecutionProvider"])
        image = np.broadcast_to(values[None, :, None, None], (1, 3, size, size)).astype(np.float32)
        (row,) = session.run(None, {session.get_inputs()[0].name: image})[0]
        expected = row[0] * 0.25 + row[1:] @ np.arange(1, 81) if name == "age" else row[1]
        assert attributes.predict(chips)[name][0] == pytest.approx(expected, rel=1e-4)


def test_expression_gives_gradients(model, astronaut):
    model("fer")
    expression = Expression()
    faces = astronaut.clone().requires_grad_()
    before = expression.probabilities(faces)
    sad = EXPRESSIONS.index("sad")
    (slope,) = torch.autograd.grad(before[0, sad].log(), faces)
    after = expression.probabilities(faces.detach() + 0.02 * slope.sign())
    assert after[0, sad] > 2 * before[0, sad]
    assert all(not buffer.requires_grad for buffer in expression.network.buffers())


def test_wrong_faces_are_refused(attributes):
    for shape in ((3, 150, 150), (1, 3, 112, 112), (1, 1, 150, 150)):
        with pytest.raises(ShapeError, match=r"must be \[N, 3, 150, 150\].*dlib150"):
            attributes.predict(torch.zeros(shape))
    with pytest.raises(DTypeError, match=r"x / 127.5 - 1"):
        attributes.predict(torch.zeros(1, 3, 150, 150, dtype=torch.uint8))
    with pytest.raises(DTypeError, match="float"):
        attributes.predict(np.zeros((1, 3, 150, 150), np.float32))


def test_wrong_files_are_refused(model, tmp_path):
    age, gender = model("age-gender", "age-v1.onnx"), model("age-gender", "gender-v1.onnx")
    with pytest.raises(CheckpointError, match=r"expected \[3, 64, 64\]"):
        AgeGender(gender, age)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"words")
    with pytest.raises(CheckpointError, match="is damaged"):
        AgeGender(path)
    with pytest.raises(CheckpointError, match="not one of fer's"):
        Expression(model("facemesh"))


def test_files_of_ones_own_need_no_cache(model, tmp_path, monkeypatch):
    files = [model("age-gender", name) for name in ("age-v1.onnx", "gender-v1.onnx")]
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    assert AgeGender(*files).names == ("age", "male")


def test_what_can_be_joined(model):
    model("fer")
    fer = Expression()
    with pytest.raises(ValueRangeError, match="two models give expression=angry"):
        JoinedAttributes([fer, fer])
    with pytest.raises(ValueRangeError, match="no models"):
        JoinedAttributes([])
    other = Expression()
    other.size, other.names = 112, ("glasses",)
    with pytest.raises(ValueRangeError, match="one template and size"):
        JoinedAttributes([fer, other])
    other.size = 150
    assert JoinedAttributes([fer, other]).names == (*fer.names, "glasses")


def test_without_onnxruntime_the_extra_is_named(model, monkeypatch):
    model("age-gender", "age-v1.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pyface-synth\[faces\]"):
        AgeGender()


def test_the_strongest_word():
    assert strongest({"expression=sad": 0.2, "expression=happy": 0.7, "age": 90.0}) == "happy"
    assert strongest({"age": 30.0}) is None

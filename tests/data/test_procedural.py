"""Rendered datasets: each picture alone, in workers, and with labels that agree with what is seen."""

import pickle

import numpy as np
import pytest
import torch

from pyface.data import (
    CONDITIONS,
    EMOTIONS,
    SEGMENTATION_CLASSES,
    ProceduralFaces,
    collate,
    condition_vector,
)
from pyface.errors import ValueRangeError

SIZE = 32


@pytest.fixture(scope="module")
def faces():
    return ProceduralFaces(6, 3, SIZE, extras=("segmentation", "depth"), seed=4)


def test_a_sample_is_complete(faces):
    sample = faces[7]
    assert sample.identity == 2
    assert sample.image.shape == (SIZE, SIZE, 3)
    assert sample.nir.shape == sample.segmentation.shape == sample.depth.shape == (SIZE, SIZE)
    assert sample.image.dtype == sample.nir.dtype == sample.segmentation.dtype == np.uint8
    assert sample.landmarks["ibug68"].shape == (68, 2)
    assert sample.landmarks["5pt"].shape == (5, 2)
    assert sample.emotion in EMOTIONS
    assert set(sample.action_units) >= {"AU1", "AU12", "AU43"}
    assert set(sample.pose) == {"yaw", "pitch", "roll"}
    assert sample.segmentation.max() < len(SEGMENTATION_CLASSES)
    np.testing.assert_array_equal(condition_vector(sample), faces.labels()[7])
    assert condition_vector(sample).shape == (len(CONDITIONS),)


def test_any_picture_can_be_made_alone(faces):
    whole = faces.render(range(len(faces)))
    for i in (0, 5, 17):
        alone = faces.render([i])
        for name, values in whole.items():
            np.testing.assert_array_equal(values[i], alone[name][0], err_msg=name)
    np.testing.assert_array_equal(faces.images([5, 0])[1], faces[0].image)
    np.testing.assert_array_equal(faces.images([5], "nir")[0, ..., 0], faces[5].nir)
    later = ProceduralFaces(range(2, 4), 3, SIZE, seed=4)
    np.testing.assert_array_equal(later[1].image, faces[7].image)
    assert later[1].identity == 2


def test_annotations_agree_with_samples(faces):
    table = faces.annotations
    for i in (0, 8, 11):
        sample = faces[i]
        assert table["identity"][i] == sample.identity
        assert table["emotion"][i] == sample.emotion
        for name, value in sample.attributes.items():
            assert table[name][i] == value
        for name, value in sample.action_units.items():
            assert table[name][i] == np.float32(value)
    assert all(len(column) == len(faces) for column in table.values())


def test_one_spectrum_and_overrides():
    nir = ProceduralFaces(2, 1, SIZE, spectra=("nir",), emotion="happy", glasses=1)
    assert nir[0].image is None
    assert nir[0].nir.shape == (SIZE, SIZE)
    assert nir.image_shape == (SIZE, SIZE, 1)
    assert nir.annotations["Eyeglasses"].all()
    assert nir.annotations["Smiling"].all()
    with pytest.raises(ValueRangeError, match="spectrum must be one of nir"):
        nir.images([0], "vis")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"identities": 0}, "identities"), ({"samples_per_identity": 0}, "samples"), ({"size": 8}, "size"),
     ({"spectra": ("uv",)}, "spectra"), ({"spectra": ()}, "spectra"), ({"extras": ("vis",)}, "extras"),
     ({"noses": 2}, "no face parameter"), ({"identities": [-1]}, "identity"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(ValueRangeError, match=words):
        ProceduralFaces(**({"identities": 1, "samples_per_identity": 1, "size": SIZE} | change)).draw()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_workers(faces, context):
    faces[0]  # the native thread pool is up before the fork
    loader = torch.utils.data.DataLoader(
        faces, batch_size=4, num_workers=2, collate_fn=collate, multiprocessing_context=context, timeout=120
    )
    images = torch.cat([batch["image"] for batch in loader])
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), faces.images())


def test_pickle(faces):
    again = pickle.loads(pickle.dumps(faces))
    np.testing.assert_array_equal(again[3].image, faces[3].image)


def pixels_of(segmentation, name):
    return (segmentation == SEGMENTATION_CLASSES.index(name)).sum(axis=(1, 2))


def test_labels_agree_with_segmentation():
    faces = ProceduralFaces(48, 1, 64, seed=9, glasses_thickness=0.6)
    seen = faces.render(None, ("segmentation", "vis"))
    segmentation, table, p = seen["segmentation"], faces.annotations, faces.draw().columns
    np.testing.assert_array_equal(pixels_of(segmentation, "glasses") > 0, table["Eyeglasses"])
    assert (pixels_of(segmentation, "skin") > 200).all()
    assert (pixels_of(segmentation, "lips") > 0).all()
    opened = pixels_of(segmentation, "mouth") + pixels_of(segmentation, "teeth")
    assert (opened[p["au26"] > 0.4] > 0).all()
    hair = pixels_of(segmentation, "hair")
    assert hair[p["hair_length"] > 0.7].mean() > 1.5 * hair[(p["hair_length"] < 0.3)].mean()


def test_landmarks_lie_on_the_face():
    faces = ProceduralFaces(60, 1, SIZE, seed=2024)
    p = faces.draw().columns
    seen = faces.render(None, ("landmarks", "segmentation"))
    points, segmentation = seen["landmarks"], seen["segmentation"]
    assert (points > 0).all()
    assert (points < SIZE).all()
    jaw = points[:, :17]
    steps = np.linalg.norm(np.diff(jaw, axis=1), axis=2)
    assert steps.max() < 0.15 * SIZE  # no point has left the line
    upright = (np.abs(p["roll"]) < 0.1) & (np.abs(p["yaw"]) < 0.3)
    assert (jaw[upright][:, 8, 1] >= points[upright][:, 48:68, 1].max(axis=1)).all()
    face = {
        SEGMENTATION_CLASSES.index(n) for n in ("skin", "eye", "glasses", "mouth", "teeth", "lips", "hair")
    }
    columns, rows = points[:, 30].astype(int).T
    assert set(segmentation[np.arange(60), rows, columns].tolist()) <= face


def test_beard_darkens_the_chin_of_a_light_skin_with_dark_hair():
    looks = dict.fromkeys(
        ("hair_grey", "yaw", "pitch", "roll", "au26", "stubble", "goatee", "moustache"), 0.0
    ) | {"melanin": 0.1, "hair_tone": 0.05, "sex": 0.9, "emotion": "neutral"}
    shaved = ProceduralFaces(8, 1, 64, seed=1, beard=0.0, **looks).render(None, ("vis", "landmarks"))
    bearded = ProceduralFaces(8, 1, 64, seed=1, beard=0.9, **looks).render(None, ("vis", "landmarks"))
    for i in range(8):
        lower_lip, chin = shaved["landmarks"][i][57], shaved["landmarks"][i][8]
        (x, y) = (0.35 * lower_lip + 0.65 * chin).round().astype(int)
        patch = (i, slice(y - 2, y + 3), slice(x - 4, x + 5))
        assert bearded["vis"][patch].mean() < 0.8 * shaved["vis"][patch].mean()

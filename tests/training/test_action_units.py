"""The recipe of action units: what is drawn, what the network gets to see, and that it learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pyface.data import ACTION_UNITS
from pyface.errors import DataError, ValueRangeError
from pyface.faces import Face
from pyface.faces.expression_geometry import GEOMETRY, MESH_POINTS, NUM_EVEN, RIGID_POINTS, RIGID_SHAPE
from pyface.models import ActionUnitConfig
from pyface.ops.face_render import face_parameters
from pyface.training import TrainingSet
from pyface.training.recipes.action_units import (
    MARGIN,
    UNITS,
    ActionUnitRecipe,
    FaceSource,
    ObservedFaces,
    build,
    centre_presence,
    drawn_parameters,
    independent_units,
    observed_faces,
    train,
)

SMALL = ActionUnitConfig(
    units=UNITS,
    geometry=GEOMETRY,
    odd_geometry=len(GEOMETRY) - NUM_EVEN,
    size=32,
    channels=(8, 8, 16, 16),
    hidden=16,
)


class Everywhere:
    """A detector that finds a face in the middle of every picture but the darkest of each batch."""

    name = "everywhere"

    def detect(self, images):
        darkest = int(np.argmin([image.mean() for image in images]))
        size = images[0].shape[0]
        box = np.array([0.2, 0.2, 0.8, 0.8], np.float32) * size
        return [[] if i == darkest else [Face(box, 0.9)] for i in range(len(images))]


class AverageMesh:
    """A landmarker that places the mean bone of a face in its box."""

    name, scheme = "average", "mesh468"

    def landmarks(self, images, faces):
        mesh = np.random.default_rng(0).uniform(-0.5, 0.5, (MESH_POINTS, 3))
        mesh[list(RIGID_POINTS)] = RIGID_SHAPE
        found = [mesh * 0.4 * face.size + (*((face.box[:2] + face.box[2:]) / 2), 0) for face in faces]
        return np.array(found, np.float32).reshape(len(faces), MESH_POINTS, 3)


def learnable_faces(count=256, seed=0):
    """AU12 is how far the mouth reaches to both sides, AU26 a measure."""
    rng = np.random.default_rng(seed)
    units = rng.random((count, len(UNITS))).astype(np.float32)
    side = SMALL.size + 2 * MARGIN
    pictures = rng.normal(100, 10, (count, 1, side, side))
    reach = np.abs(np.arange(side) - side / 2) < side * (0.05 + 0.3 * units[:, 6, None])
    pictures[:, 0, side * 5 // 8 : side * 7 // 8] += 100 * reach[:, None]
    geometry = rng.normal(0, 0.1, (count, len(GEOMETRY))).astype(np.float32)
    geometry[:, 5:15] += 3 + units[:, 11:12]
    data = ObservedFaces(
        np.clip(pictures, 0, 255).astype(np.uint8),
        np.zeros((count, MESH_POINTS, 3), np.float32),
        units,
        np.arange(count),
        0,
    )
    labels = torch.from_numpy(np.concatenate([units, geometry], 1))
    return TrainingSet.from_arrays(torch.from_numpy(data.pictures), labels, (*UNITS, *GEOMETRY))


def test_independent_units_exclude_what_excludes_itself_and_nothing_else():
    people, samples = np.divmod(np.arange(6000), 3)
    units = independent_units(7, people, samples)
    assert units.shape == (6000, len(ACTION_UNITS))
    assert units.dtype == np.float32
    assert units.min() == 0
    assert 0.9 < units.max() <= 1
    at = {unit: units[:, i] for i, unit in enumerate(ACTION_UNITS)}
    assert (at[25] >= np.where(at[26] > 0.1, at[26], 0)).all()
    assert not ((at[5] > 0) & (at[43] >= 0.2)).any()
    assert not ((at[15] > 0) & (at[12] >= 0.3)).any()
    for first, second in ((6, 12), (1, 2), (4, 9), (12, 25), (20, 5)):
        assert abs(np.corrcoef(at[first], at[second])[0, 1]) < 0.06
    alone = independent_units(7, [4], [1])
    np.testing.assert_array_equal(alone[0], units[4 * 3 + 1])


def test_parameters_of_a_source():
    drawn, people = drawn_parameters(FaceSource(3, 2, 32, seed=5))
    free, same = drawn_parameters(FaceSource(3, 2, 32, seed=5, independent=True))
    np.testing.assert_array_equal(people, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(people, same)
    assert (drawn != free).any()
    assert (drawn != free).sum() <= 6 * len(ACTION_UNITS)  # nothing but the units differs


def test_faces_are_observed_with_what_was_drawn_and_misses_are_counted():
    source = FaceSource(3, 2, 48, seed=5, compressed=True)
    found = observed_faces(source, Everywhere(), AverageMesh(), SMALL)
    assert (len(found), found.missed) == (5, 1)
    assert found.pictures.shape == (5, 1, SMALL.size + 2 * MARGIN, SMALL.size + 2 * MARGIN)
    assert found.pictures.dtype == np.uint8
    assert found.geometry.shape == (5, len(GEOMETRY))
    drawn, people = drawn_parameters(source)
    names = [p.name for p in face_parameters()]
    units = drawn[:, [names.index(f"au{unit}") for unit in ACTION_UNITS]]
    kept = [i for i in range(6) if (found.units == units[i]).all(1).any()]
    assert len(kept) >= 5
    assert set(found.identities.tolist()) <= set(people.tolist())
    again = observed_faces(source, Everywhere(), AverageMesh(), SMALL)
    np.testing.assert_array_equal(again.pictures, found.pictures)


def test_a_source_without_faces_is_refused():
    class Nowhere:
        name = "nowhere"

        def detect(self, images):
            return [[] for _ in images]

    with pytest.raises(DataError, match="no face"):
        observed_faces(FaceSource(2, 1, 32, seed=1), Nowhere(), AverageMesh(), SMALL)


def test_people_of_joined_sources_stay_different():
    one = observed_faces(FaceSource(3, 2, 32, seed=5), Everywhere(), AverageMesh(), SMALL)
    joined = ObservedFaces.joined([one, one])
    assert len(joined) == 2 * len(one)
    assert not set(joined.identities[: len(one)]) & set(joined.identities[len(one) :])
    assert joined.missed == 2 * one.missed


def test_no_person_is_both_learnt_from_and_checked_with():
    path = Path(__file__).resolve().parents[2] / "tools" / "make_action_units.py"
    spec = importlib.util.spec_from_file_location("make_action_units", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    learnt = {source.seed for source in tool.TRAINING.values()}
    checked = {source.seed for source in tool.CHECKS.values()}
    assert not learnt & checked  # a seed is a population of its own


def test_it_learns_from_pictures_and_measures():
    recipe = ActionUnitRecipe(
        epochs=12, batch=32, lr=0.005, precision="float32", network=SMALL, degradation=0.1, hidden_share=0.05,
        geometry_noise=0.05, light=0.05,
    )  # fmt: skip
    data = learnable_faces()
    run = build(recipe, data)
    losses = list(train(run, recipe))
    assert not run.network.training
    assert losses[-1]["intensity"] < losses[0]["intensity"]
    unseen = learnable_faces(seed=1)
    inner = unseen.images["vis"][:, :, MARGIN:-MARGIN, MARGIN:-MARGIN].float() / 127.5 - 1
    with torch.inference_mode():
        read = run.network.intensities(inner, unseen.labels[:, len(UNITS) :])
    for unit, least in ((6, 0.8), (11, 0.7)):
        assert np.corrcoef(read[:, unit], unseen.labels[:, unit])[0, 1] > least


def test_same_seed_same_weights():
    recipe = ActionUnitRecipe(epochs=1, refine_epochs=1, batch=48, precision="float32", network=SMALL)
    weights = []
    for _ in range(2):
        run = build(recipe, learnable_faces())
        list(train(run, recipe))
        weights.append(torch.cat([p.flatten() for p in run.network.parameters()]))
    assert torch.equal(*weights)


def test_standardisation_of_what_changes_its_sign_keeps_zero():
    run = build(ActionUnitRecipe(network=SMALL), learnable_faces())
    assert run.network.geometry_mean[5] == pytest.approx(3.5, abs=0.05)
    assert (run.network.geometry_mean[NUM_EVEN:] == 0).all()
    assert (run.network.geometry_spread > 0).all()


def test_presence_is_centred_on_what_was_learnt_from():
    run = build(ActionUnitRecipe(network=SMALL), learnable_faces())
    network = run.network.eval().requires_grad_(False)
    side = SMALL.size + 2 * MARGIN
    rng = np.random.default_rng(0)
    meshes = np.concatenate([AverageMesh().landmarks([], [Face(np.array([0, 0, 40, 40]), 1.0)])] * 200)
    pictures = rng.integers(0, 255, (200, 1, side, side)).astype(np.uint8)
    faces = ObservedFaces(pictures, meshes, np.zeros((200, len(UNITS)), np.float32), np.arange(200), 0)
    inner = torch.from_numpy(pictures[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]).float() / 127.5 - 1
    with torch.inference_mode():
        logits = network(inner, torch.from_numpy(faces.geometry)).numpy()
    threshold = np.log(0.3 / 0.7)
    middle = float(np.median(logits[:, 6]))
    network.head[-1].bias[6] += threshold - 0.2 - middle  # half of the faces read 0.2 or more below it
    faces.units[:, 6] = logits[:, 6] >= middle
    before = network.head[-1].bias.clone()
    shifts = centre_presence(network, faces)
    assert shifts["AU12"] == pytest.approx(0.2, abs=0.06)
    assert (network.head[-1].bias - before)[6] == pytest.approx(shifts["AU12"])


def test_bad_data_and_recipes_are_refused():
    with pytest.raises(ValueRangeError, match="training_set"):
        build(ActionUnitRecipe(network=SMALL), TrainingSet.from_arrays(torch.zeros(2, 1, 48, 48).byte()))
    with pytest.raises(ValueRangeError, match="96x96"):
        build(ActionUnitRecipe(), learnable_faces())
    with pytest.raises(ValueRangeError, match="precision"):
        ActionUnitRecipe(precision="int8")
    with pytest.raises(ValueRangeError, match="hidden_share"):
        ActionUnitRecipe(hidden_share=0.8)

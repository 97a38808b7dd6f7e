"""How well rendered people are told apart, by the landmarks of the renderer and by the whole pipeline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from pyface.faces import load_embedder
from pyface.faces.align import align_batch
from pyface.faces.embed import distances
from pyface.faces.licences import licences_of_models
from pyface.faces.protocols import Embedder

_FILE = Path(__file__).parents[2] / "bench" / "faces_identity.py"
_spec = importlib.util.spec_from_file_location("faces_identity", _FILE)
faces_identity = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faces_identity)


def areas(found):
    """(embedder, source of the landmarks, with glasses) -> AUC."""
    return {(row["embedder"], row["landmarks"], row["glasses"]): row["auc"] for row in found["rows"]}


def test_few_people(model):
    """60 pictures say little beyond 1 %: the bounds leave room for that."""
    model("dlib-resnet")
    found = areas(faces_identity.measure(20, 3, 128, ("truth",)))
    assert found["dlib", "truth", True] > 0.93
    assert found["dlib-rendered", "truth", True] > 0.98
    assert found["recognition-64", "truth", True] > 0.99


def test_few_people_with_found_landmarks(model):
    for name in ("dlib-resnet", "blazeface", "facemesh"):
        model(name)
    measured = faces_identity.measure(16, 3, 160, ("found",))
    assert measured["about"]["not found"] <= 2
    found = areas(measured)
    assert found["dlib-rendered", "found", True] > 0.97
    assert found["recognition-64", "found", True] > 0.97


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_people(model):
    """The acceptance: 200 people, 5 pictures each, pose, light, expression and glasses drawn."""
    for name in ("dlib-resnet", "blazeface", "facemesh"):
        model(name)
    measured = faces_identity.measure()
    assert measured["about"]["not found"] <= 10
    found = areas(measured)
    for source in ("truth", "found"):
        for name in ("dlib-rendered", "recognition-64"):
            assert found[name, source, True] >= 0.99, (name, source)
            assert found[name, source, False] >= found[name, source, True] - 0.001
        assert found["dlib", source, True] >= 0.95
    for row in measured["rows"]:
        if row["embedder"] != "dlib" and row["landmarks"] == "truth":  # thresholds mean what they say
            assert row["false matches"] < 0.02
            assert row["false non-matches"] < 0.1


def test_a_photograph_as_dlib_sees_it(model):
    """Detector, mesh, dlib150 and network lead to what dlib alone says; 0.6 would be another person."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    for name in ("dlib-resnet", "blazeface", "facemesh"):
        model(name)
    photo = data.astronaut()
    (points,) = faces_identity.found_landmarks([photo])
    embedder = load_embedder("dlib")
    faces, _ = align_batch([photo], [points], embedder.template, embedder.size)
    with np.load(Path(__file__).parents[1] / "golden" / "dlib_resnet.npz") as file:
        wanted = torch.from_numpy(file["astronaut"])
    assert distances(embedder, embedder.embed(faces), wanted[None]) < 0.25


def test_dlib_rendered(model):
    model("dlib-resnet")
    embedder = load_embedder("dlib-rendered")
    assert isinstance(embedder, Embedder)
    facts = (embedder.dim, embedder.size, embedder.template, embedder.metric, embedder.differentiable)
    assert facts == (32, 150, "dlib150", "cosine", True)
    licences = [row["spdx"] for row in licences_of_models([embedder])]
    assert licences == ["CC0-1.0", "Apache-2.0"]
    faces = torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = embedder.embed(faces.requires_grad_(True))
    assert found.shape == (2, 32)
    (gradient,) = torch.autograd.grad(found.sum(), faces)
    assert gradient.abs().sum() > 0

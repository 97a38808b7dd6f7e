"""Embedders: by name and by file, their attributes, batches, precision, gradients, messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyface.data import ProceduralFaces
from pyface.errors import CheckpointError, DTypeError, ModelMissingError, ShapeError, ValueRangeError
from pyface.faces import load_embedder, model_names
from pyface.faces.align import align_batch
from pyface.faces.embed import NetworkEmbedder, distances, in_frame, same_person
from pyface.faces.protocols import Embedder
from pyface.io.checkpoint import save_model
from pyface.models import IResNet, IResNetConfig, create
from pyface.training import losses

GOLDEN = Path(__file__).parents[1] / "golden" / "dlib_resnet.npz"


def chips():
    with np.load(GOLDEN) as file:
        images = torch.from_numpy(file["chips"]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, torch.from_numpy(file["descriptors"])


def tiny(**options):
    """The mean colour of every quarter as an embedder."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    facts = {"name": "tiny", "dim": 12, "size": 8, "template": "arcface112", "metric": "l2", "threshold": 0.5}
    return NetworkEmbedder(network, **(facts | options))


def test_names():
    wanted = {"default", "dlib", "recognition-64", ".onnx", ".pth", ".safetensors"}
    assert wanted <= set(model_names("embedder"))


@pytest.mark.parametrize("name", ["default", "dlib", "dlib-resnet"])
def test_dlib_by_name(model, name):
    model("dlib-resnet")
    embedder = load_embedder(name)
    assert isinstance(embedder, Embedder)
    facts = (embedder.dim, embedder.size, embedder.template, embedder.metric, embedder.threshold)
    assert facts == (128, 150, "dlib150", "l2", 0.6)
    assert embedder.differentiable
    images, wanted = chips()
    found = embedder.embed(images)
    assert (found - wanted).norm(dim=1).max() < 3e-3  # from the copy in float16


def test_dlib_by_file_is_exact(model):
    images, wanted = chips()
    found = load_embedder(model("dlib-resnet")).embed(images)
    assert (found - wanted).norm(dim=1).max() < 2e-5


def test_dlib_options(model):
    model("dlib-resnet")
    images, wanted = chips()
    half = load_embedder("dlib", precision="bfloat16", batch=2).embed(images)
    assert half.dtype == torch.float32
    assert (half - wanted).norm(dim=1).max() < 0.05
    flipped = load_embedder("dlib", flip=True, threshold=0.4)
    assert flipped.threshold == 0.4
    torch.testing.assert_close(flipped.embed(images), flipped.embed(images.flip(3)), rtol=0, atol=1e-5)


def test_dlib_that_was_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    with pytest.raises(ModelMissingError, match="pyface models fetch dlib-resnet"):
        load_embedder("dlib")


def test_gradients_reach_the_faces(model):
    model("dlib-resnet")
    for name, size in (("dlib", 150), ("recognition-64", 64)):
        embedder = load_embedder(name)
        faces = F.interpolate(chips()[0][:2], (size, size)).requires_grad_(True)
        first, second = embedder.embed(faces)
        apart = distances(embedder, first[None], second[None]).sum()
        (gradient,) = torch.autograd.grad(apart, faces)
        with torch.no_grad():
            moved = embedder.embed(faces - 0.5 * gradient / gradient.norm())
        assert distances(embedder, moved[:1], moved[1:]).sum() < apart
        assert not any(p.requires_grad for p in embedder.network.parameters())
        with torch.no_grad():
            assert not embedder.embed(faces).requires_grad


def test_recognition_64():
    embedder = load_embedder("recognition-64")
    facts = (embedder.dim, embedder.size, embedder.template, embedder.metric)
    assert facts == (128, 64, "rendered", "cosine")
    vectors = embedder.embed(torch.rand(3, 3, 64, 64) * 2 - 1)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_iresnet_and_saved_networks(tmp_path, model):
    torch.manual_seed(0)
    network = IResNet(IResNetConfig((1, 1, 1, 1), (4, 4, 6, 6), 32, 7)).eval()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    save_model(tmp_path / "a.safetensors", network)
    save_model(tmp_path / "d.safetensors", create("dlib-resnet", channels=(4, 4), blocks=(1, 1), size=40))
    save_model(
        tmp_path / "r.safetensors", create("face-recognition", channels=(4, 4, 4, 4, 4), resolution=16)
    )
    save_model(tmp_path / "g.safetensors", create("patch-critic", resolution=16, channel_max=8))
    faces = torch.rand(3, 3, 32, 32) * 2 - 1
    for name in ("a.pth", "a.safetensors"):
        embedder = load_embedder(tmp_path / name, template="ffhq", threshold=0.25, batch=2)
        facts = (embedder.dim, embedder.size, embedder.template, embedder.metric, embedder.threshold)
        assert facts == (7, 32, "ffhq", "cosine", 0.25)
        torch.testing.assert_close(embedder.embed(faces), network(faces), rtol=1e-4, atol=1e-5)
        assert name in embedder.name
    assert load_embedder(tmp_path / "d.safetensors").template == "dlib150"
    own = load_embedder(tmp_path / "r.safetensors")
    assert (own.size, own.name) == (16, "r.safetensors")  # not the name of the network that comes with pyface
    with pytest.raises(CheckpointError, match="an embedder is needed"):
        load_embedder(tmp_path / "g.safetensors")


def test_batches_and_flips():
    faces = torch.rand(5, 3, 8, 8) * 2 - 1
    plain = tiny().embed(faces)
    torch.testing.assert_close(tiny(batch=2).embed(faces), plain)
    quarters = plain.reshape(5, 3, 2, 2)
    mean = (quarters + quarters.flip(3)) / 2
    torch.testing.assert_close(tiny(flip=True, batch=2).embed(faces), mean.flatten(1))
    assert tiny().embed(faces[:0]).shape == (0, 12)
    assert tiny().embed(faces.double()).dtype == torch.float32


def test_distances():
    one, other = torch.eye(12)[:2], torch.stack([torch.eye(12)[0] * 3, -torch.eye(12)[1]])
    l2, cosine = tiny(), tiny(metric="cosine", threshold=0.3)
    torch.testing.assert_close(distances(l2, one, other), torch.tensor([[2.0, 2**0.5], [10**0.5, 2.0]]))
    torch.testing.assert_close(distances(cosine, one, other), torch.tensor([[0.0, 1.0], [1.0, 2.0]]))
    assert same_person(l2, one, one).tolist() == [[True, False], [False, True]]
    assert same_person(cosine, one, other).tolist() == [[True, False], [False, False]]


def test_pictures_in_a_frame(model):
    """Reading the face out of an aligned picture gives nearly what aligning it directly does."""
    model("dlib-resnet")
    faces = ProceduralFaces(6, 1, size=256, seed=5, yaw=(-0.2, 0.2))
    part = faces.render()
    for name, frame in (("dlib", "ffhq"), ("dlib", "rendered"), ("recognition-64", "ffhq")):
        embedder = load_embedder(name)
        direct, _ = align_batch(
            list(part["vis"]), list(part["landmarks"][:, 68:]), embedder.template, embedder.size
        )
        framed, _ = align_batch(list(part["vis"]), list(part["landmarks"][:, :68]), frame, 224)
        wanted, found = embedder.embed(direct), in_frame(embedder, frame)(framed)
        apart = distances(embedder, wanted, found)
        assert apart.argmin(1).tolist() == list(range(6)), (name, frame)
    embed = in_frame(load_embedder("recognition-64"), "rendered")
    images = (torch.rand(2, 3, 100, 100) * 2 - 1).requires_grad_(True)
    losses.identity(embed, images, torch.rand(2, 3, 100, 100)).backward()
    assert images.grad.abs().sum() > 0
    with pytest.raises(ShapeError, match="S, S"):
        embed(images[:, :, :50])
    with pytest.raises(ValueRangeError, match="there is no template"):
        in_frame(load_embedder("recognition-64"), "portrait")


def test_messages():
    cases = [
        (lambda: tiny().embed(torch.zeros(3, 8, 8)), ShapeError, "template='arcface112', size=8"),
        (lambda: tiny().embed(torch.zeros(1, 3, 9, 8)), ShapeError, r"got \[1, 3, 9, 8\]"),
        (lambda: tiny().embed(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), DTypeError, "uint8"),
        (lambda: tiny(metric="dot"), ValueRangeError, "metric"),
        (lambda: tiny(precision="int8"), ValueRangeError, "precision"),
        (lambda: tiny(batch=0), ValueRangeError, "batch"),
        (lambda: distances(tiny(), torch.zeros(1, 3), torch.zeros(1, 12)), ShapeError, r"\[N, 12\]"),
        (lambda: load_embedder("nobody"), ValueRangeError, "there is no embedder 'nobody'"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()

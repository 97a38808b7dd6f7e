"""The recognition network: shapes, sizes, resizing, gradients, and messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.io.checkpoint import save_model
from pyface.models import ARCHITECTURES, RecognitionConfig, create, find_checkpoint, load
from pyface.models.recognition import resized

SMALL = {"resolution": 16, "channels": (4, 4, 6, 6, 8), "num_features": 12, "embedding_dim": 6}


def make(seed=0, **config):
    torch.manual_seed(seed)
    return create("face-recognition", **(SMALL | config)).eval()


def faces(n=3, channels=3, size=16, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_registry_builds_and_describes():
    network = make()
    architecture = ARCHITECTURES["face-recognition"]
    assert (network.architecture, network.kind) == ("face-recognition", architecture.kind)
    assert architecture.config.from_dict(network.config.to_dict()) == network.config


@pytest.mark.parametrize("resolution", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (40, 24), (9, 100)])
def test_outputs(resolution, channels, size):
    network = make(resolution=resolution)
    images = torch.rand(5, channels, *size) * 2 - 1
    features, embedding = network.features(images), network.embedding(images)
    assert (features.shape, embedding.shape) == ((5, 12), (5, 6))
    assert features.dtype == embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(network.embedding_of(features), embedding)
    torch.testing.assert_close(network(images), embedding)


def test_the_shipped_sizes():
    network = create("face-recognition")
    parameters = sum(p.numel() for p in network.parameters())
    assert 500_000 <= parameters <= 950_000
    assert (network.config.num_features, network.config.embedding_dim) == (160, 128)


def test_grey_is_repeated_and_a_resized_image_gives_the_same():
    network = make()
    grey = faces(channels=1)
    torch.testing.assert_close(network.features(grey), network.features(grey.expand(-1, 3, -1, -1)))
    large = faces(size=48)
    shrunk = F.interpolate(large, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(network.features(large), network.features(shrunk))


def test_resizing():
    images = faces(size=16)
    assert torch.equal(resized(images, 16), images)
    assert resized(images.double(), 16).dtype == torch.float32
    flat = torch.full((1, 3, 50, 30), 0.25)
    torch.testing.assert_close(resized(flat, 16), torch.full((1, 3, 16, 16), 0.25))
    fine = (torch.arange(64) % 2 * 2.0 - 1).expand(
        1, 3, 64, 64
    )  # stripes of a pixel: antialiasing greys them
    assert resized(fine, 16)[..., 2:-2].abs().max() < 0.05


def test_one_image_does_not_depend_on_the_others():
    network = make()
    images = faces(7)
    alone = torch.cat([network.features(image[None]) for image in images])
    torch.testing.assert_close(network.features(images), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 20])
def test_gradients_reach_the_images(size):
    network = make()
    images = faces(2, size=size).requires_grad_(True)
    other = faces(2, seed=9)
    loss = (1 - (network.embedding(images) * network.embedding(other)).sum(1)).mean()
    loss.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    step = 1e-2 * images.grad / images.grad.norm()
    with torch.no_grad():
        after = (1 - (network.embedding(images - step) * network.embedding(other)).sum(1)).mean()
    assert after < loss


def test_bad_calls_and_configurations():
    network = make()
    cases = [
        (lambda: network.features(faces()[0]), ShapeError, r"\[N, 3, H, W\]"),
        (lambda: network.features(torch.zeros(1, 4, 16, 16)), ShapeError, "got"),
        (lambda: network.features(torch.zeros(1, 3, 0, 16)), ShapeError, "got"),
        (lambda: network.features(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), DTypeError, "uint8"),
        (lambda: make(channels=(4, 4)), ValueRangeError, "five numbers"),
        (lambda: make(resolution=60), ValueRangeError, "resolution"),
        (lambda: make(num_features=0), ValueRangeError, "num_features"),
        (lambda: RecognitionConfig.from_dict({"width": 3}), ValueRangeError, "width"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_kinds_are_told_apart(tmp_path):
    save_model(tmp_path / "r.safetensors", make())
    with pytest.raises(CheckpointError, match="a generator is needed"):
        load(tmp_path / "r.safetensors", kind="generator")
    assert find_checkpoint("demo").name == find_checkpoint("demo-64").name == "demo-64.safetensors"

"""Perceptual features: shapes, the formula, the order of distances, gradients, use as losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces import load_features
from pyface.faces.perceptual import StageFeatures
from pyface.faces.protocols import FeatureExtractor
from pyface.training import losses

GOLDEN = Path(__file__).parents[1] / "golden" / "dlib_resnet.npz"


@pytest.fixture(params=["dlib", "recognition-64"])
def extractor(request, model):
    model("dlib-resnet")
    return load_features(request.param)


def chips():
    with np.load(GOLDEN) as file:
        return torch.from_numpy(file["chips"][:4]).permute(0, 3, 1, 2).float() / 127.5 - 1


def blurred(images, sigma):
    reach = int(4 * sigma) + 1
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    rows = F.pad(images.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(F.conv2d(rows, weights[None, None, None]), weights[None, None, :, None])
    return rows[:, 0].unflatten(0, (-1, 3))


def test_shapes(extractor):
    assert isinstance(extractor, FeatureExtractor)
    images = torch.rand(2, 3, 200, 100) * 2 - 1
    maps = extractor.features(images)
    sizes = {
        "dlib-resnet": [(32, 35), (64, 17), (128, 8), (256, 4)],
        "recognition-64": [(32, 32), (64, 16), (80, 8), (112, 4)],
    }
    assert [(m.shape[1], m.shape[2], m.shape[3]) for m in maps] == [
        (c, s, s) for c, s in sizes[extractor.name]
    ]
    assert len(extractor.layers) == 4
    torch.testing.assert_close(extractor.pooled(images), maps[-1].mean((2, 3)))
    grey = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(extractor.pooled(grey), extractor.pooled(grey.expand(-1, 3, -1, -1)))


def test_formula(extractor):
    images, targets = chips()[:2], chips()[2:]
    wanted = 0
    for a, b in zip(extractor.features(images), extractor.features(targets), strict=True):
        a, b = (x.double() / x.double().norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (a, b))
        wanted = wanted + (a - b).norm(dim=1).square().mean((1, 2))
    found = extractor.distance(images, targets)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    assert extractor.distance(images, images).abs().max() == 0
    torch.testing.assert_close(extractor.distance(targets, images), found)
    twice = extractor.distance(images, targets, weights=[2.0] * 4)
    torch.testing.assert_close(twice, 2 * found)


def test_distances_are_ordered_as_eyes_see_them(model):
    """A brighter picture is nearer than a blurred one, which pixels rate the other way round."""
    model("dlib-resnet")
    extractor, images = load_features("dlib"), chips()
    brighter = (images + 20 / 127.5).clamp(-1, 1)
    moved = F.pad(images, (3, 0, 0, 0), mode="replicate")[..., :-3]
    others = images.roll(1, 0)
    changed = [brighter, blurred(images, 1), moved, blurred(images, 4), others]
    distances = torch.stack([extractor.distance(images, c) for c in changed]).mean(1).tolist()
    assert distances == sorted(distances)
    assert distances[0] < 0.05
    assert distances[-1] > 1
    pixels = torch.stack([(images - c).square().mean() for c in changed[:2]])
    assert pixels[0] > pixels[1]


def test_people_are_farther_apart_than_changes(extractor):
    images = chips()
    changes = [blurred(images, 1), (images + 20 / 127.5).clamp(-1, 1), blurred(images, 2)]
    worst = max(float(extractor.distance(images, c).max()) for c in changes)
    assert float(extractor.distance(images, images.roll(1, 0)).min()) > 2 * worst


def test_gradients_bring_a_picture_nearer(extractor):
    images, target = chips()[:1], chips()[1:2]
    images = blurred(target, 3).requires_grad_(True)
    loss = extractor.loss(images, target)
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.isfinite().all()
    with torch.no_grad():
        after = extractor.loss(images - 0.3 * gradient / gradient.norm(), target)
    assert after < loss


def test_losses_of_training_take_them(model):
    model("dlib-resnet")
    extractor = load_features("recognition-64")
    images, targets = chips()[:2].requires_grad_(True), chips()[2:]
    layers = [lambda x, i=i: extractor.features(x)[i] for i in range(4)]
    found = losses.perceptual(layers, images, targets, weights=[1.0] * 4, unit=True)
    torch.testing.assert_close(found, extractor.loss(images, targets), rtol=1e-3, atol=1e-5)
    assert extractor.loss(images, targets.clone().requires_grad_(True)).requires_grad


def test_bad_calls():
    extractor = StageFeatures(lambda x: [x], name="plain", layers=("x",), size=8)
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ShapeError, match="as many"):
        extractor.distance(images, images[:1])
    with pytest.raises(ValueRangeError, match="1 numbers, one for each layer; got 2"):
        extractor.distance(images, images, weights=[1, 2])
    with pytest.raises(ShapeError, match=r"\[N, 3, H, W\]"):
        extractor.features(images[0])

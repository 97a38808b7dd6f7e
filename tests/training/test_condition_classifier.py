"""The classifier learns a visible condition, and its loss pulls images towards their labels."""

from __future__ import annotations

import pytest
import torch

from pyface.training import TrainingSet
from pyface.training.recipes.condition_classifier import (
    ClassifierRecipe,
    ConditionClassifier,
    condition_loss,
    predictions,
    train_classifier,
)


def _stripes(count, seed):
    """Images whose upper half is bright when the first condition holds, left half when the second does."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 2), generator=rng).float()
    pixels = torch.randint(0, 100, (count, 3, 32, 32), generator=rng)
    pixels[:, :, :16] += (labels[:, 0, None, None, None] * 100).long()
    pixels[:, :1, :, :] += (labels[:, 1, None, None, None] * 50).long()
    return TrainingSet.from_arrays(pixels.to(torch.uint8), labels, ("up", "red"))


def test_it_learns_and_judges_unseen_images():
    network = train_classifier(_stripes(256, 0), ClassifierRecipe(kimg=3, batch=32))
    unseen = _stripes(100, 1)
    read = predictions(network, unseen.images["vis"])
    assert ((read >= 0.5) == (unseen.labels >= 0.5)).float().mean() > 0.95


def test_same_seed_same_weights():
    recipe = ClassifierRecipe(kimg=0.1, batch=32)
    a, b = (train_classifier(_stripes(64, 0), recipe).head[0].weight for _ in range(2))
    assert torch.equal(a, b)


def test_loss_is_zero_at_the_labels_and_has_a_gradient():
    network = ConditionClassifier(2)
    images = torch.randn(3, 3, 32, 32, requires_grad=True)
    loss = condition_loss(network)
    with torch.no_grad():
        agreed = network(images).sigmoid()
    assert loss(images, agreed).item() == pytest.approx(0.0, abs=1e-5)
    value = loss(images, 1 - agreed.round())
    value.backward()
    assert value.item() > 0
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())

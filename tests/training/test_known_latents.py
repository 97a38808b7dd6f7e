"""Latents that hold the parameters of renders, and what pairs of them teach."""

from __future__ import annotations

import pytest
import torch

from pyface.errors import ShapeError
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.training.recipes.condition_classifier import ClassifierRecipe
from pyface.training.recipes.known_latents import (
    KnownLatents,
    PairWeights,
    latents_of,
    learn_pairs,
    train_reader,
)


def _parameters(count=4000, seed=0):
    """Skewed, discrete and correlated numbers, one of which decides the label."""
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(count, 4, generator=random)
    label = (a[:, :1] > 0.7).float() * a[:, :1]
    columns = [a[:, 0] ** 3, (a[:, 1] > 0.9).float(), a[:, 2], a[:, 2] * 0.8 + 0.2 * a[:, 3], a[:, 3] * 0]
    return torch.stack(columns, 1), label


def test_latents_look_drawn_from_a_standard_normal():
    parameters, labels = _parameters()
    z = latents_of(parameters, labels, 8)
    assert z.shape == (4000, 8)
    assert z.mean(0).abs().max() < 0.05
    torch.testing.assert_close(torch.cov(z.T), torch.eye(8), atol=0.08, rtol=0)
    joint = torch.corrcoef(torch.cat([z, labels, labels**2], 1).T)
    assert joint[:8, 8:].abs().max() < 0.06
    assert (z.abs() > 2).float().mean() == pytest.approx(0.0455, abs=0.015)


def test_latents_tell_the_parameters():
    parameters, labels = _parameters()
    z = latents_of(parameters, labels, 8)
    design = torch.cat([z, torch.ones(4000, 1)], 1)
    fitted = design @ torch.linalg.lstsq(design, parameters[:, 2:4]).solution
    wrong = (fitted - parameters[:, 2:4]).var(0) / parameters[:, 2:4].var(0)
    assert wrong.max() < 0.1


def test_too_few_latents_are_refused():
    parameters, labels = _parameters(50)
    with pytest.raises(ShapeError, match="z_dim must be at least"):
        latents_of(parameters, labels, 4)


def _pictures(parameters):
    """16 px pictures: the first parameter is the red of the upper half, the third the blue of the lower."""
    pixels = torch.zeros(len(parameters), 3, 16, 16)
    pixels[:, 0, :8] = parameters[:, 0, None, None]
    pixels[:, 2, 8:] = parameters[:, 2, None, None]
    return (pixels * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def reader():
    parameters, _ = _parameters(1500)
    recipe = ClassifierRecipe(kimg=6, batch=32, mirror=False)
    return train_reader(_pictures(parameters), parameters, recipe)


def test_reader_knows_what_it_can_read(reader):
    parameters, _ = _parameters(200, seed=1)
    read = reader(_pictures(parameters).float() / 127.5 - 1)
    error = (read - reader.targets(parameters)).square().mean(0)
    assert error[[0, 2]].max() < 0.15
    assert reader.weights[[0, 2]].min() > 1
    assert reader.weights[1] < 0.2
    assert reader.weights[4] < 0.2
    assert not any(p.requires_grad for p in reader.parameters())


def test_pairs_teach_what_each_latent_means(reader):
    parameters, labels = _parameters(1000)
    images, z = _pictures(parameters), latents_of(parameters, labels, 8)
    torch.manual_seed(0)
    config = GeneratorConfig(
        16, z_dim=8, w_dim=8, c_dim=1, mapping_layers=2, channel_base=256, channel_max=16
    )
    generator = StyleGAN2Generator(config)
    pairs = KnownLatents(images, labels, z, reader, reader.targets(parameters), PairWeights(reading=1.0))

    def blue(count=200):
        with torch.no_grad():
            made = generator(z[:count], labels[:count], noise_mode="const")
        return torch.corrcoef(torch.stack([made[:, 2, 10:].mean((1, 2)), parameters[:count, 2]]))[0, 1]

    before = blue()
    learn_pairs(generator, pairs, 8, batch=32)
    assert before < 0.6
    assert blue() > 0.8

"""Latents and conditions: functions of (seed, identity, sample) alone, with the statistics they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.generation.plan import DatasetRecipe, Picture
from pyface.generation.sampling import (
    Sampler,
    draw_conditions,
    draw_latents,
    label_samples,
    passing_conditions,
)
from pyface.io.rng import Domain, normals

CHOICES = np.array([[1, 0], [0, 1], [1, 1]], np.float32)


def test_without_variation_z_is_the_identitys():
    whole = draw_latents(5, np.arange(10), z_dim=8)
    np.testing.assert_array_equal(whole, normals(5, Domain.LATENT, np.arange(10), 0, 8))
    torch.testing.assert_close(draw_latents(5, [4, 5], z_dim=8), whole[4:6], rtol=0, atol=0)
    torch.testing.assert_close(draw_latents(5, [4, 5], [7, 8], z_dim=8), whole[4:6], rtol=0, atol=0)
    assert not torch.equal(draw_latents(6, 0, z_dim=8), whole[:1])


@pytest.mark.parametrize("v", [0.2, 0.6, 1.0])
def test_samples_of_an_identity_have_correlation_1_minus_v_squared(v):
    identities, samples = np.repeat(np.arange(1500), 2), np.tile([0, 1], 1500)
    z = draw_latents(1, identities, samples, z_dim=8, variation=v).double()
    assert abs(z.mean().item()) < 0.03
    assert abs(z.std().item() - 1) < 0.03
    assert abs((z[0::2] * z[1::2]).mean().item() - (1 - v**2)) < 0.04
    assert abs((z[0:-2:2] * z[2::2]).mean().item()) < 0.04  # of two people


def test_the_formula_of_a_sample():
    got = draw_latents(9, 3, 5, z_dim=6, variation=0.3)
    identity = normals(9, Domain.LATENT, 3, 0, 6).astype(np.float64)
    own = normals(9, Domain.VARIATION, 3, 5, 6).astype(np.float64)
    np.testing.assert_allclose(got, math.sqrt(1 - 0.09) * identity + 0.3 * own, rtol=1e-6)


def test_conditions_are_drawn_from_choices_or_fair():
    numbers = np.arange(300)
    drawn = draw_conditions(0, numbers, choices=CHOICES, c_dim=2)
    assert {tuple(row) for row in drawn.tolist()} == {(1, 0), (0, 1), (1, 1)}
    torch.testing.assert_close(draw_conditions(0, numbers[100:105], choices=CHOICES, c_dim=2), drawn[100:105])
    fair = draw_conditions(0, np.arange(1000), choices=None, c_dim=2)
    assert ((fair.mean(0) - 0.5).abs() < 0.06).all()


def test_only_varying_conditions_change_within_an_identity():
    identities, samples = np.repeat(np.arange(50), 6), np.tile(np.arange(6), 50)
    c = draw_conditions(0, identities, samples, choices=CHOICES, c_dim=2, varying=[1]).reshape(50, 6, 2)
    assert (c[:, :, 0] == c[:, :1, 0]).all()
    assert (c[:, :, 1].std(1) > 0).any()
    alone = draw_conditions(0, np.arange(50), choices=CHOICES, c_dim=2)
    torch.testing.assert_close(c[:, 0], alone)
    whole = draw_conditions(0, identities, samples, choices=CHOICES, c_dim=2, varying=[0, 1])
    assert {tuple(row) for row in whole.tolist()} == {(1, 0), (0, 1), (1, 1)}


def test_traits_do_not_pass():
    names = ("smile", "mouth_open", "glasses", "beard", "hair_length", "male", "Smiling", "Young", "c0")
    assert passing_conditions(names) == ("smile", "mouth_open", "glasses", "Smiling", "c0")


def test_label_samples_of_a_checkpoint(network):
    np.testing.assert_array_equal(label_samples(network, 2), [[1, 0], [0, 1]])
    assert label_samples(network, 3) is None


def recipe(**fields):
    chosen = {"conditions": ("a", "b"), "condition_rule": "samples", "varying": ("b",), "variation": 0.3}
    return DatasetRecipe("net", "", 4, 20, 3, (16, 16), {"vis": 3}, **(chosen | fields))


def test_a_sampler_does_not_care_who_else_is_drawn():
    sampler = Sampler(recipe(), 8, CHOICES)
    pictures = [Picture(i, s) for i in range(20) for s in range(3)]
    z, c = sampler.latents(pictures), sampler.conditions(pictures)
    for i in (0, 17, 59):
        torch.testing.assert_close(sampler.latents([pictures[i]])[0], z[i], rtol=0, atol=0)
        torch.testing.assert_close(sampler.conditions([pictures[i]])[0], c[i], rtol=0, atol=0)


def test_the_rules_of_conditions():
    pictures = [Picture(0, 0), Picture(1, 2)]
    fixed = recipe(condition_rule="fixed", condition=(0.25, 1.0), varying=())
    assert Sampler(fixed, 8).conditions(pictures).tolist() == [[0.25, 1.0]] * 2
    none = recipe(condition_rule="none", conditions=(), varying=())
    assert Sampler(none, 8).conditions(pictures).shape == (2, 0)
    fair = Sampler(recipe(condition_rule="fair"), 8, CHOICES).conditions(pictures)
    assert set(fair.flatten().tolist()) <= {0.0, 1.0}
    with pytest.raises(ValueRangeError, match="carries no conditions"):
        Sampler(recipe(), 8)

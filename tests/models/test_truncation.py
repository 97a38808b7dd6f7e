"""A psi built into the weights gives the pictures that the psi gave."""

from __future__ import annotations

import copy

import pytest
import torch

from pyface.errors import ValueRangeError
from pyface.models import GeneratorConfig, StyleGAN2Generator, bake_truncation


@pytest.mark.parametrize("psi", [0.5, 1.0, 1.3])
def test_pictures_are_those_of_psi(psi):
    torch.manual_seed(0)
    config = GeneratorConfig(
        16, z_dim=8, w_dim=12, c_dim=2, mapping_layers=3, channel_base=256, channel_max=16
    )
    generator = StyleGAN2Generator(config).double().eval()
    generator.mapping.w_avg.copy_(torch.randn(12))
    z, c = torch.randn(3, 8).double(), torch.rand(3, 2).double()
    baked = copy.deepcopy(generator)
    bake_truncation(baked, psi)
    with torch.no_grad():
        expected = generator(z, c, truncation_psi=psi, noise_mode="const")
        torch.testing.assert_close(baked(z, c, noise_mode="const"), expected, rtol=1e-9, atol=1e-9)
        further = generator(z, c, truncation_psi=0.6 * psi, noise_mode="const")
        found = baked(z, c, truncation_psi=0.6, noise_mode="const")
        torch.testing.assert_close(found, further, rtol=1e-9, atol=1e-9)


def test_psi_must_be_positive():
    with pytest.raises(ValueRangeError, match="above 0"):
        bake_truncation(StyleGAN2Generator(GeneratorConfig(16, channel_base=128, channel_max=8)), 0)

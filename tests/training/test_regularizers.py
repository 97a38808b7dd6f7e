"""Gradient penalties against closed forms on critics of known gradient, and their second derivatives."""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyface.training.regularizers import interpolate, r1_penalty, r2_penalty, watched, wgan_gp


def _images(seed, channels=2):
    return torch.randn(3, channels, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_penalties_of_a_linear_critic():
    """logit = sum(weight * x): the gradient is the weight, whatever the image."""
    weight = _images(1)[0]
    images = watched(_images(0))
    logits = (images * weight).sum(dim=(1, 2, 3))
    square = weight.square().sum().item()
    np.testing.assert_allclose(r1_penalty(images, logits).detach().numpy(), np.full(3, square), rtol=1e-12)
    np.testing.assert_allclose(r2_penalty(images, logits).detach().numpy(), np.full(3, square), rtol=1e-12)
    found = wgan_gp(images, logits).detach().numpy()
    np.testing.assert_allclose(found, np.full(3, (square**0.5 - 1) ** 2), rtol=1e-12)
    other = wgan_gp(images, logits, target=0.5).detach().numpy()
    np.testing.assert_allclose(other, np.full(3, (square**0.5 - 0.5) ** 2), rtol=1e-12)


def test_penalties_of_a_quadratic_critic():
    """logit = a / 2 * |x|^2: the gradient is a * x, so R1 is a^2 |x|^2."""
    images = watched(_images(0))
    logits = 1.5 * images.square().sum(dim=(1, 2, 3))
    wanted = 9 * images.detach().square().sum(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(r1_penalty(images, logits).detach().numpy(), wanted, rtol=1e-12)
    found = wgan_gp(images, logits).detach().numpy()
    np.testing.assert_allclose(found, (np.sqrt(wanted) - 1) ** 2, rtol=1e-12)


def _critic(x, weight, depth):
    return (torch.tanh(x.flatten(1) @ weight) @ depth).sum(1)


def test_first_and_second_derivatives_of_the_penalties_in_the_critics_weights():
    x = _images(3)
    weight = 0.3 * torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    depth = torch.randn(4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    inputs = [weight.requires_grad_(True), depth.requires_grad_(True)]
    for penalty in (r1_penalty, r2_penalty, wgan_gp):

        def loss(weight, depth, penalty=penalty):
            images = watched(x)
            return penalty(images, _critic(images, weight, depth)).mean()

        assert gradcheck(loss, inputs)
        assert gradgradcheck(loss, inputs)


def test_a_flat_critic_gives_no_nan():
    weight = torch.zeros(12, 1, dtype=torch.float64, requires_grad=True)
    images = watched(_images(0))
    penalty = wgan_gp(images, images.flatten(1) @ weight)
    np.testing.assert_allclose(penalty.detach().numpy(), np.ones(3))
    penalty.mean().backward()
    assert torch.isfinite(weight.grad).all()


def test_interpolation_lies_between_pairs():
    real, fake = _images(0), _images(1)
    share = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    mixed = interpolate(real, fake, share)
    wanted = (1 - share)[:, None, None, None] * real + share[:, None, None, None] * fake
    torch.testing.assert_close(mixed.detach(), wanted, rtol=1e-12, atol=1e-12)
    assert mixed.requires_grad
    assert mixed.is_leaf
    both = interpolate({"vis": real, "nir": fake}, {"vis": fake, "nir": real}, share[:, None])
    torch.testing.assert_close(both["vis"].detach(), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both["nir"].detach(), real + fake - wanted, rtol=1e-12, atol=1e-12)


def test_penalties_sum_over_spectra_before_the_root():
    images = watched({"vis": _images(0), "nir": _images(1, channels=1)})
    logits = (2 * images["vis"]).sum(dim=(1, 2, 3)) + (3 * images["nir"]).sum(dim=(1, 2, 3))
    square = 4 * 12 + 9 * 6
    np.testing.assert_allclose(r1_penalty(images, logits).detach().numpy(), np.full(3, square), rtol=1e-12)
    found = wgan_gp(images, logits).detach().numpy()
    np.testing.assert_allclose(found, np.full(3, (square**0.5 - 1) ** 2), rtol=1e-12)

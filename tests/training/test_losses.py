"""Every loss against its closed form in float64, and what it says to bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from pyface.errors import ShapeError, ValueRangeError
from pyface.training import losses

REAL = np.array([[-3.0], [-0.2], [0.7], [2.5]])
FAKE = np.array([[1.5], [-2.0], [0.1], [-0.9]])


def _softplus(x):
    return np.log1p(np.exp(x))


def _tensor(array):
    return torch.tensor(array, dtype=torch.float64)


UNPAIRED = {
    "logistic": (lambda r: _softplus(-r), _softplus, lambda f: _softplus(-f)),
    "hinge": (lambda r: np.maximum(0, 1 - r), lambda f: np.maximum(0, 1 + f), lambda f: -f),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_unpaired_losses_have_their_closed_forms(name):
    loss = losses.adversarial(name)
    assert not loss.paired
    for function, formula, logits in zip(
        (loss.real, loss.fake, loss.generator), UNPAIRED[name], (REAL, FAKE, FAKE), strict=True
    ):
        np.testing.assert_allclose(
            function(_tensor(logits)).item(), formula(logits).mean(), rtol=1e-12, err_msg=name
        )
        assert gradcheck(function, [_tensor(logits).requires_grad_(True)])


def test_relativistic_loss_compares_pairs():
    loss = losses.adversarial("relativistic")
    assert loss.paired
    real, fake = _tensor(REAL), _tensor(FAKE)
    discriminator = loss.paired_discriminator(real, fake).item()
    np.testing.assert_allclose(discriminator, _softplus(FAKE - REAL).mean(), rtol=1e-12)
    np.testing.assert_allclose(
        loss.paired_generator(fake, real).item(), _softplus(REAL - FAKE).mean(), rtol=1e-12
    )
    shifted = loss.paired_discriminator(real + 5, fake + 5).item()  # only differences count
    np.testing.assert_allclose(shifted, discriminator, rtol=1e-12)
    assert gradcheck(loss.paired_discriminator, [real.requires_grad_(True), fake.requires_grad_(True)])


def test_unknown_adversarial_loss_is_named():
    with pytest.raises(ValueRangeError, match=r"logistic, hinge, wasserstein, relativistic; got 'lsgan'"):
        losses.adversarial("lsgan")


def test_l1_and_cycle_average_over_all_values_of_all_spectra():
    rng = np.random.default_rng(0)
    a = {"vis": rng.normal(size=(2, 3, 4, 4)), "nir": rng.normal(size=(2, 1, 4, 4))}
    b = {"vis": rng.normal(size=(2, 3, 4, 4)), "nir": rng.normal(size=(2, 1, 4, 4))}
    wanted = sum(np.abs(a[k] - b[k]).sum() for k in a) / sum(a[k].size for k in a)
    ours, theirs = ({k: _tensor(v) for k, v in x.items()} for x in (a, b))
    np.testing.assert_allclose(losses.l1(ours, theirs).item(), wanted, rtol=1e-12)
    np.testing.assert_allclose(losses.cycle(theirs, ours).item(), wanted, rtol=1e-12)
    one = losses.l1(ours["vis"], theirs["vis"]).item()
    np.testing.assert_allclose(one, np.abs(a["vis"] - b["vis"]).mean(), rtol=1e-12)
    with pytest.raises(ShapeError, match="same spectra and shapes"):
        losses.l1(ours["vis"], theirs["nir"])
    with pytest.raises(ShapeError, match="nir"):
        losses.l1(ours, {"vis": theirs["vis"]})


def test_perceptual_loss_sums_weighted_layers():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))
    layers = [lambda x: 2 * x, lambda x: x.square()]
    first, second = ((2 * a - 2 * b) ** 2).mean(), ((a**2 - b**2) ** 2).mean()
    found = losses.perceptual(layers, _tensor(a), _tensor(b), weights=[0.5, 3.0]).item()
    np.testing.assert_allclose(found, 0.5 * first + 3 * second, rtol=1e-12)
    even = losses.perceptual(layers, _tensor(a), _tensor(b)).item()
    np.testing.assert_allclose(even, (first + second) / 2, rtol=1e-12)
    unit = losses.perceptual(layers[:1], _tensor(a), _tensor(b), unit=True).item()
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    np.testing.assert_allclose(unit, ((u - v) ** 2).sum(1).mean(), rtol=1e-10)
    with pytest.raises(ValueRangeError, match="2 layers and 1 weights"):
        losses.perceptual(layers, _tensor(a), _tensor(b), weights=[1])
    with pytest.raises(ValueRangeError, match="0 layers"):
        losses.perceptual([], _tensor(a), _tensor(b))


def test_distances_give_the_targets_no_gradient():
    x, y = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    losses.perceptual([lambda t: t], x, y).backward()
    losses.identity(lambda t: t.flatten(1), x, y).backward()
    assert x.grad is not None
    assert y.grad is None


def test_identity_is_one_minus_the_cosine():
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 3.0], [2.0, 2.0]])
    found = losses.identity(lambda t: t, _tensor(a), _tensor(b)).item()
    np.testing.assert_allclose(found, (1 + 0) / 2, atol=1e-12)
    opposite = losses.identity(lambda t: t, _tensor(a), _tensor(-a)).item()
    np.testing.assert_allclose(opposite, 2, rtol=1e-12)


def test_cross_entropy_takes_class_numbers_and_one_hot_rows():
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 0.3, -1.0]])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log([p[0, 2], p[1, 1]]).mean()
    by_number = losses.cross_entropy(_tensor(logits), torch.tensor([2, 1])).item()
    by_row = losses.cross_entropy(_tensor(logits), torch.eye(3)[[2, 1]]).item()
    np.testing.assert_allclose([by_number, by_row], wanted, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        losses.cross_entropy(_tensor(logits), torch.eye(2))
    with pytest.raises(ShapeError, match=r"labels must be \[2\]"):
        losses.cross_entropy(_tensor(logits), torch.tensor([1]))


def test_multi_hot_and_the_auxiliary_classifier():
    logits, labels = np.array([[1.0, -2.0], [0.4, 3.0]]), np.array([[1.0, 0.0], [0.25, 1.0]])
    p = 1 / (1 + np.exp(-logits))
    wanted = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    np.testing.assert_allclose(losses.multi_hot(_tensor(logits), _tensor(labels)).item(), wanted, rtol=1e-10)
    reads = losses.auxiliary_classifier(lambda images: images.mean((2, 3)))
    images = _tensor(logits)[:, :, None, None].expand(2, 2, 4, 4)
    np.testing.assert_allclose(reads(images, _tensor(labels)).item(), wanted, rtol=1e-10)
    single = losses.auxiliary_classifier(lambda images: images.mean((2, 3)), losses.cross_entropy)
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log([q[0, 0], q[1, 1]]).mean()
    np.testing.assert_allclose(single(images, torch.tensor([0, 1])).item(), wanted, rtol=1e-10)
    with pytest.raises(ShapeError):
        losses.multi_hot(_tensor(logits), _tensor(labels[:1]))

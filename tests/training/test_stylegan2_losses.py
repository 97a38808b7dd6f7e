"""Losses and regularisers of StyleGAN2 against arrays measured on the public reference, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyface.models import (
    DiscriminatorConfig,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    nvidia_name_map,
)
from pyface.training.losses import logistic_fake, logistic_generator, logistic_real
from pyface.training.regularizers import PathLength, r1_penalty

SIZES = {"resolution": 32, "c_dim": 4, "channel_base": 1024, "channel_max": 64}


def _network(network, config, arrays):
    names = nvidia_name_map(config)
    state = {
        names[key.removeprefix("sd/")]: torch.from_numpy(np.asarray(arrays[key]))
        for key in arrays
        if key.startswith("sd/") and key.removeprefix("sd/") in names
    }
    made = network(config)
    made.load_state_dict(state)
    return made.double()


@pytest.fixture(scope="module")
def networks(golden):
    generator, discriminator = golden("generator_c4.npz"), golden("discriminator_c4.npz")
    G = _network(
        StyleGAN2Generator, GeneratorConfig(**SIZES, z_dim=64, w_dim=64, mapping_layers=4), generator
    )
    D = _network(StyleGAN2Discriminator, DiscriminatorConfig(**SIZES, mapping_layers=2), discriminator)
    return G, D


def _check_gradients(network, arrays, prefix, tolerance=1e-7):
    names = nvidia_name_map(network.config)
    parameters = dict(network.named_parameters())
    checked = 0
    for key in arrays:
        kind, _, name = key.partition("/")
        if not name or kind not in (f"{prefix}_norm64", f"{prefix}64"):
            continue
        gradient = parameters[names[name]].grad
        gradient = torch.zeros_like(parameters[names[name]]) if gradient is None else gradient
        wanted = np.asarray(arrays[key])
        if kind.endswith("norm64"):
            np.testing.assert_allclose(
                gradient.norm().item(), wanted, rtol=tolerance, atol=1e-12, err_msg=key
            )
        else:
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(gradient.numpy(), wanted, rtol=0, atol=1e-6 * scale, err_msg=key)
        checked += 1
    assert checked > 10


def test_generator_loss_and_gradients(golden, networks):
    G, D = networks
    arrays, inputs = golden("losses_c4.npz"), golden("generator_c4.npz")
    z, c = torch.from_numpy(inputs["z"]).double(), torch.from_numpy(inputs["c"]).double()
    G.zero_grad()
    loss = logistic_generator(D(G(z, c, noise_mode="const"), c))
    loss.backward()
    np.testing.assert_allclose(loss.item(), arrays["Gmain_loss64"], rtol=1e-9)
    _check_gradients(G, arrays, "Gmain_pgrad")


def test_path_length_and_second_order_gradients(golden, networks):
    G, _ = networks
    arrays, inputs = golden("losses_c4.npz"), golden("generator_c4.npz")
    z, c = torch.from_numpy(inputs["z"][:2]).double(), torch.from_numpy(inputs["c"][:2]).double()
    G.zero_grad()
    regularizer = PathLength().double()
    ws = G.mapping(z, c)
    images = G.synthesis(ws, noise_mode="const")
    lengths = regularizer.lengths(images, ws, {"vis": torch.from_numpy(arrays["pl_noise_unscaled"]).double()})
    np.testing.assert_allclose(lengths.detach().numpy(), arrays["pl_lengths64"], rtol=1e-8)
    loss = 2.0 * regularizer(lengths).mean()
    loss.backward()
    np.testing.assert_allclose(regularizer.mean.item(), arrays["pl_mean64"], rtol=1e-8)
    np.testing.assert_allclose(loss.item(), arrays["Gpl_loss64"], rtol=1e-7)
    _check_gradients(G, arrays, "Gpl_pgrad", 1e-6)


def test_r1_and_second_order_gradients(golden, networks):
    _, D = networks
    arrays = golden("discriminator_c4.npz")
    images = torch.from_numpy(arrays["img"]).double().requires_grad_(True)
    D.zero_grad()
    logits = D(images, torch.from_numpy(arrays["c"]).double())
    np.testing.assert_allclose(logits.detach().numpy(), arrays["logits64"], rtol=1e-8)
    penalty = r1_penalty(images, logits)
    np.testing.assert_allclose(penalty.detach().numpy(), arrays["r1_penalty64"], rtol=1e-8)
    (penalty.mean() * 5).backward()
    _check_gradients(D, arrays, "r1_pgrad", 1e-6)


def test_logistic_losses_have_their_closed_forms():
    logits = torch.tensor([[-3.0], [0.0], [2.0]], dtype=torch.float64)
    x = logits.numpy()
    np.testing.assert_allclose(logistic_fake(logits).item(), np.log1p(np.exp(x)).mean(), rtol=1e-12)
    np.testing.assert_allclose(logistic_real(logits).item(), np.log1p(np.exp(-x)).mean(), rtol=1e-12)
    np.testing.assert_allclose(logistic_generator(logits).item(), np.log1p(np.exp(-x)).mean(), rtol=1e-12)


def test_r1_sums_over_spectra():
    vis = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    nir = torch.randn(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (2 * vis).sum(dim=(1, 2, 3)) + (3 * nir).sum(dim=(1, 2, 3))
    penalty = r1_penalty({"vis": vis, "nir": nir}, logits)
    np.testing.assert_allclose(penalty.detach().numpy(), np.full(3, 4 * 32 + 9 * 16))

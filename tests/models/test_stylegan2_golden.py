"""The StyleGAN2 networks against recorded numbers of the published implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from pyface import nn as pnn
from pyface.models import (
    DiscriminatorConfig,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    mix_styles,
    nvidia_name_map,
)
from pyface.nn import MappingNetwork, append_minibatch_std
from pyface.ops import no_weight_gradients

BACKENDS = ["reference", "cpu"]
CUTOFF = {"psi1": (1.0, None), "psi07": (0.7, None), "psi07_cut3": (0.7, 3)}
SIZES = {"resolution": 32, "c_dim": 4, "channel_base": 1024, "channel_max": 64}


def tensors(data, prefix):
    return {name[len(prefix) :]: torch.from_numpy(data[name]) for name in data if name.startswith(prefix)}


def filled(network, data, backend, dtype):
    state = tensors(data, "sd/")
    network.load_state_dict(
        {ours: state[theirs].float() for theirs, ours in nvidia_name_map(network.config).items()}
    )
    pnn.set_backend(network, backend)
    return network.to(dtype)


def generator(data, backend, dtype=torch.float64):
    return filled(
        StyleGAN2Generator(GeneratorConfig(**SIZES, z_dim=64, w_dim=64, mapping_layers=4)),
        data,
        backend,
        dtype,
    )


def discriminator(data, backend, dtype=torch.float64):
    return filled(
        StyleGAN2Discriminator(DiscriminatorConfig(**SIZES, mapping_layers=2)), data, backend, dtype
    )


def close(value, wanted, rtol=1e-6, atol=1e-7):
    wanted = torch.as_tensor(np.asarray(wanted)).to(value.dtype)
    torch.testing.assert_close(value.detach(), wanted, rtol=rtol, atol=atol)


def latents(data, dtype=torch.float64):
    return (torch.from_numpy(data[name]).to(dtype) for name in "zc")


def check_gradients(data, prefix, network, gradients):
    """Norms of all parameter gradients, and the values of those recorded."""
    theirs = {ours: name for name, ours in nvidia_name_map(network.config).items()}
    found = dict(zip((name for name, _ in network.named_parameters()), gradients, strict=True))
    norms, values = tensors(data, f"{prefix}_norm64/"), tensors(data, f"{prefix}64/")
    assert len(norms) > 10
    for name, gradient in found.items():
        if theirs[name] in norms:
            close(gradient.norm(), norms[theirs[name]], rtol=1e-5)
        if theirs[name] in values:
            close(gradient.float(), values[theirs[name]], rtol=1e-4, atol=1e-6)
    assert set(norms) <= {theirs[name] for name in found}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CUTOFF)
@pytest.mark.parametrize(
    ("dtype", "suffix", "atol"), [(torch.float64, "64", 2e-6), (torch.float32, "", 3e-5)]
)
def test_generator_images(golden, backend, case, dtype, suffix, atol):
    data = golden("generator_c4.npz")
    G = generator(data, backend, dtype)
    psi, cutoff = CUTOFF[case]
    z, c = latents(data, dtype)
    ws = G.mapping(z, c, truncation_psi=psi, truncation_cutoff=cutoff)
    close(ws, data[f"{case}/ws{suffix}"], atol=2e-6)
    suffix = "_64" if suffix else ""
    for mode in ("const", "none"):
        close(G.synthesis(ws, noise_mode=mode), data[f"{case}/img_{mode}{suffix}"], atol=atol)
    close(G(z, c, psi, cutoff, noise_mode="const"), data[f"{case}/img_const{suffix}"], atol=atol)


@pytest.mark.parametrize("backend", BACKENDS)
def test_style_mixing(golden, backend):
    data = golden("generator_c4.npz")
    G = generator(data, backend)
    ws = G.mapping(*latents(data))
    mixed = mix_styles(ws[:1], ws[1:2], 3)
    close(G.synthesis(mixed, noise_mode="const"), data["mix3/img_const_64"], atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_layer(golden, backend):
    G = generator(golden("generator_c4.npz"), backend)
    layers = golden("generator_c4_layers.npz")
    names = {name.replace("torgb", "heads.vis"): name for name in layers}
    seen = {}
    for name, module in G.named_modules():
        if name in names:
            module.register_forward_hook(lambda _m, _i, y, name=name: seen.update({name: y}))
    z, c = latents(golden("generator_c4.npz"))
    G(z[:1], c[:1], noise_mode="const")
    assert len(seen) == len(names) == 11
    for name, y in seen.items():
        close(y, layers[names[name]], atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_discriminator_and_r1(golden, backend):
    data = golden("discriminator_c4.npz")
    D = discriminator(data, backend)
    image = torch.from_numpy(data["img"]).double().requires_grad_()
    c = torch.from_numpy(data["c"]).double()
    logits = D(image, c)
    close(logits, data["logits64"], atol=1e-6)
    close(discriminator(data, backend, torch.float32)(image.float(), c.float()), data["logits"], atol=3e-5)
    with no_weight_gradients():
        (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    close(gradient.float(), data["r1_grads64"], rtol=1e-4, atol=1e-6)
    penalty = gradient.square().sum(dim=(1, 2, 3))
    close(penalty, data["r1_penalty64"], rtol=1e-5)
    gradients = torch.autograd.grad(penalty.mean() * 5, list(D.parameters()), materialize_grads=True)
    check_gradients(data, "r1_pgrad", D, gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_generator_loss(golden, backend):
    data, losses = golden("generator_c4.npz"), golden("losses_c4.npz")
    G, D = generator(data, backend), discriminator(golden("discriminator_c4.npz"), backend)
    z, c = latents(data)
    loss = softplus(-D(G(z, c, noise_mode="const"), c)).mean()
    close(loss, losses["Gmain_loss64"])
    check_gradients(losses, "Gmain_pgrad", G, torch.autograd.grad(loss, list(G.parameters())))


@pytest.mark.parametrize("backend", BACKENDS)
def test_path_length(golden, backend):
    data, losses = golden("generator_c4.npz"), golden("losses_c4.npz")
    G = generator(data, backend)
    z, c = latents(data)
    ws = G.mapping(z[:2], c[:2])
    images = G.synthesis(ws, noise_mode="const")
    noise = torch.from_numpy(losses["pl_noise_unscaled"]).double() / np.sqrt(
        images.shape[2] * images.shape[3]
    )
    with no_weight_gradients():
        (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    close(gradient, losses["pl_grads64"], atol=1e-6)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    close(lengths, losses["pl_lengths64"])
    mean = lengths.mean() * 0.01  # the running average began at 0; its newest term has a gradient
    close(mean, losses["pl_mean64"])
    loss = ((lengths - mean).square() * 2).mean()
    close(loss, losses["Gpl_loss64"])
    gradients = torch.autograd.grad(loss, list(G.parameters()), materialize_grads=True)
    check_gradients(losses, "Gpl_pgrad", G, gradients)


def test_mapping_and_average(golden):
    data = golden("mapping_mbstd.npz")
    mapping = MappingNetwork(16, 3, 12, 4, num_layers=3, embed_features=8, layer_features=20)
    mapping.load_state_dict(tensors(data, "map/sd/"))
    mapping.w_avg.zero_()  # the recorded state is the one after both calls
    z, c = (torch.from_numpy(data[f"map/{name}"]) for name in "zc")
    for call in (1, 2):
        close(mapping(z, c, update_w_avg=True), data["map/ws"], atol=2e-6)
        close(mapping.w_avg, data[f"map/w_avg_after_{call}"], atol=1e-7)


@pytest.mark.parametrize(
    ("case", "group", "channels"), [("g4_f1", 4, 1), ("g2_f2", 2, 2), ("gNone_f1", None, 1), ("g8_f4", 8, 4)]
)
def test_minibatch_std(golden, case, group, channels):
    data = golden("mapping_mbstd.npz")
    x = torch.from_numpy(data[f"mbstd/{case}/x"])
    close(append_minibatch_std(x, group, channels), data[f"mbstd/{case}/y"], rtol=1e-10, atol=1e-12)

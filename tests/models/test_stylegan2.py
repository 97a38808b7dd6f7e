"""StyleGAN2 networks: every architecture, condition, size, spectrum and precision; noise; messages."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from pyface import nn as pnn
from pyface.errors import ShapeError, ValueRangeError
from pyface.models import ARCHITECTURES, Generator, create, mix_styles
from pyface.models.stylegan2_config import DiscriminatorConfig, GeneratorConfig

SMALL = {"channel_base": 256, "channel_max": 12, "mapping_layers": 2}
STYLEGAN2 = ["stylegan2-generator", "stylegan2-discriminator"]
SIZES = [{"resolution": 16}, {"resolution": (20, 16), "initial_size": (5, 4)}]
SPECTRA = [{"vis": 3}, {"vis": 3, "nir": 1}]


def make(seed=0, **config):
    torch.manual_seed(seed)
    config = {**SMALL, "resolution": 16, **config}
    G = create("stylegan2-generator", z_dim=8, w_dim=10, **config)
    D = create("stylegan2-discriminator", **config)
    return G, D


def shapes(images, spectra):
    return {name: list(x.shape) for name, x in images.items()} if len(spectra) > 1 else list(images.shape)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("size", SIZES, ids=["square", "5:4"])
@pytest.mark.parametrize("spectra", SPECTRA, ids=["vis", "vis+nir"])
def test_every_kind_of_network(architecture, c_dim, size, spectra):
    G, D = make(architecture=architecture, c_dim=c_dim, spectra=spectra, **size)
    assert isinstance(G, Generator)
    h, w = G.resolution
    assert (G.num_ws, G.w_dim, G.z_dim, G.c_dim, G.spectra) == (6, 10, 8, c_dim, spectra)
    c = torch.rand(4, c_dim) if c_dim else None
    images = G(torch.randn(4, 8), c)
    wanted = {name: [4, channels, h, w] for name, channels in spectra.items()}
    assert shapes(images, spectra) == (wanted if len(spectra) > 1 else wanted["vis"])
    logits = D(images, c)
    assert list(logits.shape) == [4, 1]
    logits.sum().backward()
    for name, parameter in itertools.chain(G.named_parameters(), D.named_parameters()):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.startswith("b4.out.bias"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", STYLEGAN2)
def test_registry_builds_and_describes(name):
    network = create(name, **SMALL, resolution=16)
    architecture = ARCHITECTURES[name]
    assert isinstance(network, architecture.network)
    assert (network.architecture, network.kind) == (name, architecture.kind)
    assert architecture.config.from_dict(network.config.to_dict()) == network.config


def test_five_to_four_reaches_320_by_256():
    config = GeneratorConfig((320, 256), initial_size=(5, 4))
    assert config.sizes[0] == (5, 4)
    assert config.sizes[-1] == (320, 256)
    assert [config.channels(size) for size in config.sizes] == [512, 512, 512, 512, 512, 256, 128]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_16bit_blocks_follow_float32(precision, backend):
    G, D = make(num_16bit_res=2, precision_16bit=precision, c_dim=2)
    pnn.set_backend(G, backend)
    pnn.set_backend(D, backend)
    z, c = torch.randn(4, 8), torch.rand(4, 2)
    gradients = {}
    for mode in (None, "float32"):
        image = G(z, c, noise_mode="const", precision=mode)
        assert image.dtype == torch.float32
        loss = torch.nn.functional.softplus(-D(image, c, precision=mode)).mean()
        parameters = [*G.parameters(), *D.parameters()]
        gradients[mode] = (image.detach(), loss.detach(), torch.autograd.grad(loss, parameters))
    (image, loss, found), (image32, loss32, wanted) = gradients[None], gradients["float32"]
    error = (image - image32).square().mean().sqrt() / image32.std()
    assert 0 < error < 0.02
    assert abs(loss - loss32) < 0.02
    total = torch.cat([g.flatten() for g in wanted])
    assert (torch.cat([g.flatten() for g in found]) - total).norm() < 0.1 * total.norm()


def test_16bit_features_stay_channels_last():
    G, D = make(num_16bit_res=2, precision_16bit="bfloat16", resolution=32)
    seen = []

    def look(module, _inputs, output):
        seen.append(
            (module.size, output[0].dtype, output[0].is_contiguous(memory_format=torch.channels_last))
        )

    for block in [*G.synthesis.blocks(), *D.blocks()]:
        block.register_forward_hook(look)
    D(G(torch.randn(4, 8)))
    for size, dtype, channels_last in seen:
        is_16bit = size[0] >= 16
        assert dtype == (torch.bfloat16 if is_16bit else torch.float32)
        assert channels_last or not is_16bit


def test_clamp_comes_with_16_bits():
    assert GeneratorConfig(16).effective_clamp is None
    assert GeneratorConfig(16, num_16bit_res=1).effective_clamp == 256
    assert GeneratorConfig(16, num_16bit_res=1, conv_clamp=64).effective_clamp == 64
    G, _ = make(conv_clamp=0.01, architecture="orig")
    assert G(torch.randn(2, 8)).abs().max() <= 0.01


def test_noise_modes():
    G, _ = make()
    for parameter in G.parameters():
        if parameter.ndim == 0:
            torch.nn.init.constant_(parameter, 0.5)
    ws = G.mapping(torch.randn(2, 8))
    const, none = G.synthesis(ws, noise_mode="const"), G.synthesis(ws, noise_mode="none")
    assert not torch.equal(const, none)
    assert torch.equal(const, G.synthesis(ws, noise_mode="const"))
    assert not torch.equal(G.synthesis(ws), G.synthesis(ws))
    first, again = (G.synthesis(ws, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)

    names = G.synthesis.noise_shapes()
    assert names == {"b4.conv1": (4, 4)} | {f"b{r}.conv{i}": (r, r) for r in (8, 16) for i in (0, 1)}
    buffers = dict(G.synthesis.named_buffers())
    own = {name: buffers[f"{name}.noise_const"] for name in names}
    assert torch.equal(const, G.synthesis(ws, noise_mode="given", noise=own))
    per_sample = [noise.expand(2, 1, -1, -1) for noise in own.values()]
    torch.testing.assert_close(G.synthesis(ws, noise_mode="given", noise=per_sample), const)
    assert torch.equal(none, G.synthesis(ws, noise_mode="given", noise={}))
    silent = create("stylegan2-generator", **SMALL, resolution=16, z_dim=8, w_dim=10, use_noise=False)
    assert silent.synthesis.noise_shapes() == {}
    assert torch.equal(silent.synthesis(ws), silent.synthesis(ws, noise_mode="none"))


def test_truncation():
    G, _ = make()
    z = torch.randn(3, 8)
    with torch.no_grad():
        for _ in range(3):
            G.mapping(torch.randn(64, 8), update_w_avg=True)
    assert G.mapping.w_avg.abs().max() > 0
    ws = G.mapping(z)
    torch.testing.assert_close(G.mapping(z, truncation_psi=0.0), G.mapping.w_avg.expand(3, 6, 10))
    half = G.mapping(z, truncation_psi=0.5)
    torch.testing.assert_close(half, (ws + G.mapping.w_avg) / 2)
    cut = G.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], ws[:, 2:])
    assert torch.equal(cut[:, :2], half[:, :2])


def test_mixing_styles():
    G, _ = make()
    one, other = G.mapping(torch.randn(3, 8)), G.mapping(torch.randn(3, 8))
    mixed = mix_styles(one, other, 4)
    assert torch.equal(mixed, torch.cat([one[:, :4], other[:, 4:]], dim=1))
    rows = mix_styles(one, other, torch.tensor([0, 6, 2]))
    assert torch.equal(rows[0], other[0])
    assert torch.equal(rows[1], one[1])
    assert torch.equal(rows[2], torch.cat([one[2, :2], other[2, 2:]]))
    with pytest.raises(ShapeError, match=r"\[N, num_ws, w_dim\]"):
        mix_styles(one[0], other[0], 1)


def test_frozen_layers_stay_frozen():
    D = create("stylegan2-discriminator", **SMALL, resolution=16, freeze_layers=3)
    frozen = {id(p) for p in D.frozen_parameters()}
    assert frozen == {
        id(p) for layer in (D.b16.from_image, D.b16.conv0, D.b16.conv1) for p in layer.parameters()
    }
    for flag in (False, True):
        D.requires_grad_(flag)
        assert all(p.requires_grad == (flag and id(p) not in frozen) for p in D.parameters())


def test_deep_copies_and_dtypes():
    G, _ = make()
    twin = copy.deepcopy(G).double()
    assert twin.synthesis.b8.conv0.filter.taps.dtype == torch.float32
    z = torch.randn(2, 8)
    wanted = twin(z.double(), noise_mode="const")
    assert wanted.dtype == torch.float64
    torch.testing.assert_close(G(z, noise_mode="const").double(), wanted, rtol=1e-4, atol=1e-4)


def test_an_empty_batch_gives_an_empty_picture():
    G, D = make()
    image = G(torch.randn(0, 8))
    assert list(image.shape) == [0, 3, 16, 16]
    assert list(D(image).shape) == [0, 1]


BAD_CONFIGS = [
    ({"resolution": 100}, ShapeError, r"got 100x100 .*64x64.*128x128"),
    ({"resolution": (320, 256)}, ShapeError, "initial_size"),
    ({"resolution": (20, 16, 3)}, ShapeError, r"\(height, width\)"),
    ({"architecture": "vae"}, ValueRangeError, "skip, resnet, orig"),
    ({"activation": "gelu"}, ValueRangeError, "lrelu"),
    ({"precision_16bit": "int8"}, ValueRangeError, "float16, bfloat16"),
    ({"spectra": {}}, ValueRangeError, '"vis": 3'),
    ({"spectra": {"vis": 0}}, ValueRangeError, r"spectra\[vis\]"),
    ({"c_dim": -1}, ValueRangeError, "c_dim"),
    ({"channel_base": 8}, ValueRangeError, "channel_base"),
    ({"colour": 3}, ValueRangeError, "has no colour; its fields are"),
]


@pytest.mark.parametrize(("config", "error", "text"), BAD_CONFIGS)
@pytest.mark.parametrize("name", STYLEGAN2)
def test_bad_configurations(name, config, error, text):
    with pytest.raises(error, match=text):
        create(name, **{"resolution": 16, **config})


def test_bad_calls():
    G, D = make(c_dim=2)
    z, c = torch.randn(2, 8), torch.rand(2, 2)
    plain, plain_critic = make()
    ws, image = torch.zeros(2, 6, 10), torch.zeros(4, 3, 16, 16)
    cases = [
        (lambda: create("stylegan9"), ValueRangeError, "stylegan2-generator"),
        (lambda: G(z), ShapeError, r"c is missing; this network needs c \[N, 2\]"),
        (lambda: G(z[0], c), ShapeError, r"z must be \[N, 8\]; got \[8\]"),
        (lambda: G(z, c[:1]), ShapeError, "as many rows"),
        (lambda: plain(z, c), ShapeError, "no condition"),
        (lambda: plain.synthesis(ws[:, 0]), ShapeError, r"ws must be \[N, 6, 10\]"),
        (lambda: plain.synthesis(ws, noise_mode="some"), ValueRangeError, "random, const, none, given"),
        (lambda: plain.synthesis(ws, noise_mode="given"), ValueRangeError, "noise goes with"),
        (lambda: plain.synthesis(ws, noise=[]), ValueRangeError, "noise goes with"),
        (lambda: plain.synthesis(ws, noise_mode="given", noise=[]), ShapeError, "5 tensors"),
        (lambda: plain.synthesis(ws, noise_mode="given", noise={"b9": ws}), ValueRangeError, "b4.conv1"),
        (
            lambda: plain.synthesis(ws, noise_mode="given", noise={"b4.conv1": ws}),
            ShapeError,
            r"\[2, 1, 4, 4\]",
        ),
        (lambda: plain.synthesis(ws, precision="int8"), ValueRangeError, "bfloat16"),
        (lambda: plain_critic(image[:, :1]), ShapeError, r"image must be \[N, 3, 16, 16\]"),
        (lambda: plain_critic({"nir": image}), ShapeError, "spectra vis; got nir"),
        (lambda: plain_critic(image, torch.ones(4, 2)), ShapeError, "no condition"),
        (lambda: plain_critic(torch.zeros(6, 3, 16, 16)), ShapeError, "batch of 4 or 8"),
        (lambda: D.mapping(None, c, truncation_psi=0.5), ValueRangeError, "keeps no average"),
        (lambda: pnn.set_backend(G, "gpu"), ValueRangeError, "reference"),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()


def test_defaults_are_the_published_ones():
    config = GeneratorConfig(1024)
    assert (config.z_dim, config.w_dim, config.mapping_layers, config.architecture) == (512, 512, 8, "skip")
    assert [config.channels(size) for size in config.sizes] == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert DiscriminatorConfig(1024).architecture == "resnet"
    with torch.device("meta"):
        G = create("stylegan2-generator", resolution=1024)
        D = create("stylegan2-discriminator", resolution=1024)
    assert G.num_ws == 18
    assert sum(p.numel() for p in G.parameters()) == 30_370_060
    assert sum(p.numel() for p in D.parameters()) == 29_012_513


def test_exports_with_a_dynamic_batch():
    G, _ = make(c_dim=2)

    class Pictures(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = G.eval()

        def forward(self, z, c):
            return self.generator(z, c, truncation_psi=0.7, noise_mode="const")

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        Pictures(), (torch.randn(3, 8), torch.rand(3, 2)), dynamic_shapes=({0: batch}, {0: batch})
    )
    z, c = torch.randn(5, 8), torch.rand(5, 2)
    torch.testing.assert_close(program.module()(z, c), Pictures()(z, c), rtol=1e-5, atol=1e-5)

"""The form of a generator that exporters take computes what the network computes, with constants folded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyface.errors import ExportError, ShapeError, ValueRangeError
from pyface.export.generator_form import GeneratorForm
from pyface.io.images import to_uint8
from pyface.models import GeneratorConfig, StyleGAN2Discriminator, StyleGAN2Generator
from pyface.models.stylegan2 import DiscriminatorConfig
from pyface.ops import ACTIVATIONS

SMALL: dict[str, Any] = {
    "resolution": 32, "channel_base": 256, "channel_max": 24, "z_dim": 12, "w_dim": 16, "mapping_layers": 2,
}  # fmt: skip
SETTINGS: list[dict[str, Any]] = [
    {},
    {"architecture": "resnet"},
    {"architecture": "orig"},
    {"spectra": {"vis": 3, "nir": 1}, "c_dim": 3},
    {"initial_size": (5, 4), "resolution": (40, 32)},
    {"conv_clamp": 0.5, "architecture": "resnet"},
    {"use_noise": False},
    {"w_avg_decay": None},
    *({"resample_filter": taps} for taps in ((1,), (1, 2, 1), (1, 5, 2, 0.5))),
    {"resample_filter": (1, 2, 3, 4, 5, 4, 3, 2, 0.5), "architecture": "resnet"},
    *({"activation": name} for name in ACTIVATIONS if name != "lrelu"),
]
LIMITS = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}  # root mean square; largest error for fp32


def generator(**settings: Any) -> StyleGAN2Generator:
    """A network in which every parameter has its say."""
    torch.manual_seed(0)
    network = StyleGAN2Generator(GeneratorConfig(**{**SMALL, **settings})).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
        elif name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    if network.config.w_avg_decay is not None:
        network.mapping.w_avg.normal_()
    return network


def given(form: GeneratorForm, n: int, psi: float) -> dict[str, Tensor]:
    """Seeded inputs by name."""
    torch.manual_seed(n)
    drawn = {spec.name: torch.randn(spec.concrete(n)) for spec in form.inputs}
    return {**drawn, "psi": torch.tensor(psi)} if "psi" in drawn else drawn


def truth(network: StyleGAN2Generator, form: GeneratorForm, tensors: dict[str, Tensor]) -> list[Tensor]:
    """What the network itself gives in float64."""
    network = copy.deepcopy(network).double()
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    ws = wide.get("ws")
    if ws is None:
        ws = network.mapping(wide["z"], wide.get("c"), float(wide.get("psi", torch.tensor(1.0))))
    if form.part == "mapping":
        return [ws]
    options: dict[str, Any] = {"noise_mode": form.noise_mode}
    if "noise" in wide:
        shapes = network.synthesis.noise_shapes().values()
        parts = wide["noise"].split([h * w for h, w in shapes], dim=1)
        noise = [part.reshape(-1, 1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        options = {"noise_mode": "given", "noise": noise}
    images = network.synthesis(ws, **options)
    return list(images.values()) if isinstance(images, dict) else [images]


def held(network: StyleGAN2Generator, n: int = 3, psi: float = 0.7, **options: Any) -> GeneratorForm:
    """The form, after its outputs were compared with the network's in float64."""
    form = GeneratorForm(network, **options)
    tensors = given(form, n, psi)
    found = form(*tensors.values())
    for y, wanted, spec in zip(found, truth(network, form, tensors), form.outputs, strict=True):
        assert tuple(y.shape) == spec.concrete(n)
        assert str(y.dtype) == f"torch.{spec.dtype}"
        error = (y - wanted).abs() / wanted.std()
        worst = error.max() if form.precision == "fp32" else error.square().mean().sqrt()
        assert worst <= LIMITS[form.precision], f"{spec.name} of {options}: {worst:.2e}"
    return form


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_configuration_is_the_network_itself(settings):
    network = generator(**settings)
    noise = "input" if network.config.use_noise else "none"
    held(network)
    held(network, n=1, inputs="ws", up_form="phases", noise="none")
    held(network, n=8, part="synthesis", noise=noise)
    held(network, n=8, part="mapping", psi=1.0)


@pytest.mark.parametrize("up_form", ["transposed", "phases"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("settings", [{}, {"architecture": "resnet"}, {"activation": "swish"}], ids=str)
def test_sixteen_bits(settings, precision, up_form):
    held(generator(**settings), precision=precision, up_form=up_form)


def test_inputs_and_outputs_are_named_in_order():
    form = GeneratorForm(generator(c_dim=3, spectra={"vis": 3, "nir": 1}), noise="input", uint8=True)
    pixels = 4 * 4 + 2 * (8 * 8 + 16 * 16 + 32 * 32)
    assert [(spec.name, spec.shape) for spec in form.inputs] == [
        ("z", ("batch", 12)), ("c", ("batch", 3)), ("psi", ()), ("noise", ("batch", pixels)),
    ]  # fmt: skip
    assert [(spec.name, spec.dtype, spec.shape) for spec in form.outputs] == [
        ("vis", "uint8", ("batch", 32, 32, 3)), ("nir", "uint8", ("batch", 32, 32, 1)),
    ]  # fmt: skip
    names = [spec.name for spec in GeneratorForm(generator(w_avg_decay=None), part="mapping").inputs]
    assert names == ["z"]
    assert GeneratorForm(generator(), part="mapping").up_form == ""
    assert GeneratorForm(generator(), precision="bf16").up_form == "phases"
    assert GeneratorForm(generator(), precision="bfloat16").precision == "bf16"
    assert GeneratorForm(generator(use_noise=False)).noise_mode == "none"


def test_psi_is_exact_at_both_ends():
    network = generator()
    form = GeneratorForm(network, part="mapping")
    z = torch.randn(2, 12)
    (average,) = form(z, torch.tensor(0.0))
    assert torch.equal(average, network.mapping.w_avg.expand_as(average))
    plain = GeneratorForm(generator(w_avg_decay=None), part="mapping")
    assert torch.equal(form(z, torch.tensor(1.0))[0], plain(z)[0])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_are_those_of_to_uint8(precision):
    network = generator(spectra={"vis": 3, "nir": 1})
    pictures = GeneratorForm(network, precision=precision)
    tensors = given(pictures, 3, 1.0)
    floats = pictures(*tensors.values())
    bytes_ = GeneratorForm(network, precision=precision, uint8=True)(*tensors.values())
    for image, pixels in zip(floats, bytes_, strict=True):
        assert np.array_equal(pixels.numpy(), to_uint8(image))


def test_levels_and_ties_round_as_to_uint8_does():
    from pyface.export.generator_form import _pixels

    steps = torch.arange(-20, 256 * 2 + 20, dtype=torch.float32) / 255 - 1  # levels, ties, and beyond
    near = torch.cat([steps, steps.nextafter(torch.tensor(9.0)), steps.nextafter(torch.tensor(-9.0))])
    image = near.reshape(1, 1, 1, -1)
    assert np.array_equal(_pixels(image).numpy(), to_uint8(image))


@pytest.mark.parametrize("up_form", ["transposed", "phases"])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_large_styles_and_weights_do_not_overflow_float16(architecture, up_form):
    network = generator(architecture=architecture)
    for name, parameter in network.synthesis.named_parameters():
        if ".affine." in name and ".heads." not in name:
            parameter.mul_(3e4)
        elif name.endswith(("conv0.weight", "conv1.weight")):
            parameter.mul_(1e4)
        elif ".heads." in name and ".affine." in name:
            parameter.mul_(1e3)
        elif ".heads." in name and name.endswith(".weight"):
            parameter.mul_(1e-3)
    held(network, precision="fp16", up_form=up_form)


def test_float16_has_a_clamp_as_in_the_network():
    plain, clamped = generator(), generator(conv_clamp=256.0)
    for network in (plain, clamped):
        for block in network.synthesis.blocks():
            block.conv1.bias[:8] = 400.0
            block.heads["vis"].bias[0] = 300.0
    form = GeneratorForm(plain, precision="fp16")
    tensors = given(form, 2, 0.7)
    (image,) = form(*tensors.values())
    (wanted,) = truth(clamped, form, tensors)
    (unclamped,) = truth(plain, form, tensors)
    assert (unclamped - wanted).abs().max() > wanted.std()
    assert (image - wanted).square().mean().sqrt() <= LIMITS["fp16"] * wanted.std()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_export_with_a_free_batch(precision):
    network = generator(c_dim=3, spectra={"vis": 3, "nir": 1})
    form = GeneratorForm(network, precision=precision, noise="input", uint8=True)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} if spec.shape else None for spec in form.inputs)
    program = torch.export.export(
        form, tuple(given(form, 2, 0.5).values()), dynamic_shapes=(shapes,), strict=False
    )
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"pyface.bias_act.default", "pyface.upfirdn2d.default"} <= called
    five = tuple(given(form, 5, 0.5).values())
    for y, wanted in zip(program.module()(*five), form(*five), strict=True):
        assert (y.int() - wanted.int()).abs().max() <= (precision != "fp32")


def test_the_form_keeps_its_own_weights():
    network = generator()
    form = GeneratorForm(network)
    tensors = given(form, 2, 0.7).values()
    before = form(*tensors)[0]
    for parameter in network.parameters():
        parameter.fill_(0.1)
    network.mapping.w_avg.zero_()
    assert torch.equal(form(*tensors)[0], before)
    assert not list(form.parameters())


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"part": "heads"}, ValueRangeError, "part must be one of whole, mapping, synthesis; got 'heads'"),
        ({"inputs": "w"}, ValueRangeError, "inputs must be one of z, ws"),
        ({"up_form": "folded"}, ValueRangeError, "up_form must be one of transposed, phases"),
        ({"noise": "random"}, ValueRangeError, "noise must be one of const, input, none"),
        ({"precision": "half"}, ValueRangeError, "precision must be one of"),
        ({"precision": "int8"}, ExportError, "Quantise the graph of one of them"),
        ({"part": "synthesis", "inputs": "z"}, ExportError, "the synthesis begins with ws"),
        ({"part": "mapping", "inputs": "ws"}, ExportError, "the mapping gives ws"),
        ({"part": "mapping", "uint8": True}, ExportError, "neither pictures nor noise"),
        ({"part": "mapping", "noise": "input"}, ExportError, "neither pictures nor noise"),
    ],
    ids=str,
)
def test_words_that_do_not_fit(options, kind, text):
    with pytest.raises(kind, match=text):
        GeneratorForm(generator(), **options)


def test_networks_and_tensors_that_do_not_fit():
    with pytest.raises(ExportError, match="has no noise"):
        GeneratorForm(generator(use_noise=False), noise="input")
    critic = StyleGAN2Discriminator(DiscriminatorConfig(16, channel_base=256, channel_max=16))
    with pytest.raises(ExportError, match="got StyleGAN2Discriminator"):
        GeneratorForm(critic)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"takes 2 tensors \(z, psi\); got 1"):
        GeneratorForm(generator())(torch.randn(2, 12))

"""The plain twin gives what our networks give, and a step is the weighted sum of its phases."""

from __future__ import annotations

import pytest
import torch

from pyface.benchmark import measure
from pyface.benchmark.arithmetic import count_flops
from pyface.benchmark.case import EAGER, Case, Part, Variant, Workload
from pyface.benchmark.ceilings import Ceilings
from pyface.benchmark.document import entry_of
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.benchmark.training_cases import PHASES, training_workload
from pyface.errors import ValueRangeError
from pyface.models import (
    DiscriminatorConfig,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from pyface.ops import no_weight_gradients

SMALL = {"channel_base": 256, "channel_max": 16, "mapping_layers": 2}


def networks():
    torch.manual_seed(3)
    generator = StyleGAN2Generator(GeneratorConfig(16, z_dim=8, w_dim=8, **SMALL)).double()
    discriminator = StyleGAN2Discriminator(DiscriminatorConfig(16, **SMALL)).double()
    for network in (generator, discriminator):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim <= 1:
                    parameter.normal_()
    return generator, discriminator


def gradients(loss, network):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return dict(zip((name for name, _ in network.named_parameters()), found, strict=True))


def assert_same(ours, plain):
    assert ours.keys() == plain.keys()
    largest = max(float(g.abs().max()) for g in plain.values() if g is not None)
    for name, gradient in plain.items():
        other = ours[name]
        if gradient is None or other is None:
            assert all(g is None or not g.any() for g in (gradient, other)), name
            continue
        torch.testing.assert_close(other, gradient, rtol=1e-8, atol=1e-10 * largest, msg=name)


def test_twin_gives_the_same_images_and_gradients():
    generator, _ = networks()
    z = torch.randn(4, 8, dtype=torch.float64)
    found = []
    for network in (generator, plain_twin(generator)):
        images = network.synthesis(network.mapping(z), noise_mode="const")
        found.append((images, gradients(images.square().mean(), network)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    assert_same(found[0][1], found[1][1])


def test_twin_gives_the_same_path_length_penalty():
    generator, _ = networks()
    z = torch.randn(2, 8, dtype=torch.float64)
    noise = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = []
    for network in (generator, plain_twin(generator)):
        ws = network.mapping(z)
        projected = (network.synthesis(ws, noise_mode="const") * noise).sum()
        with no_weight_gradients():
            (slope,) = torch.autograd.grad(projected, ws, create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        found.append((lengths, gradients((lengths - 1).square().mean(), network)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    assert_same(found[0][1], found[1][1])


def test_twin_gives_the_same_logits_and_r1_penalty():
    _, discriminator = networks()
    found = []
    for network in (discriminator, plain_twin(discriminator)):
        images = torch.linspace(-1, 1, 4 * 3 * 16 * 16, dtype=torch.float64).reshape(4, 3, 16, 16)
        images = images.sin().requires_grad_(True)
        logits = network(images)
        with no_weight_gradients():
            (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        penalty = slope.square().sum()
        found.append((logits, slope, gradients(penalty + logits.sum(), network)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)
    assert_same(found[0][2], found[1][2])


def test_twin_refuses_what_it_has_no_form_of():
    other = StyleGAN2Generator(GeneratorConfig(16, z_dim=8, w_dim=8, architecture="resnet", **SMALL))
    with pytest.raises(ValueRangeError, match="resnet"):
        plain_twin(other)


def test_phases_run_and_are_weighted():
    work = training_workload(16, 4, "cpu", z_dim=8, w_dim=8, **SMALL)
    assert list(work.variants) == ["pyface", "pyface float32", EAGER, "torch eager, autocast"]
    for variant in work.variants.values():
        assert tuple(variant.parts) == PHASES
        assert [part.weight for part in variant.parts.values()] == [1, 1 / 4, 1, 1 / 16]
        variant.run()
    counts = [count_flops(part.run) for part in work.variants["pyface"].parts.values()]
    assert work.flops == round(counts[0] + counts[1] / 4 + counts[2] + counts[3] / 16)


def test_the_whole_is_the_weighted_sum_of_its_parts():
    calls = []
    parts = {
        "often": Part(lambda: calls.append("often")),
        "seldom": Part(lambda: calls.append("seldom"), 0.25),
    }
    work = Workload({"pyface": Variant(lambda: None, parts=parts)}, items=4)
    case = Case("step/4", "training", "step", "4", "float32", "-", lambda device: work, rounds=2)
    entry = entry_of(case, work, "cpu", 5, Ceilings(10.0, 80.0, 100.0, 1000.0, None, 900.0))
    found = entry["variants"]["pyface"]
    assert found["rounds"] == 2
    assert calls.count("often") == calls.count("seldom") == 3  # one to warm up
    assert set(found["parts_ms"]) == {"often", "seldom"}


def test_warm_up_is_as_long_as_asked():
    calls = []
    measure({"a": Variant(lambda: calls.append(1))}, rounds=2, warmup=1, cold=False)
    assert len(calls) == 3

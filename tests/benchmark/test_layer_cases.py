"""Every way to compute a layer gives the layer; layers are those of the networks."""

from __future__ import annotations

import pytest
import torch

from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case
from pyface.benchmark.document import check_result
from pyface.benchmark.layer_cases import (
    LayerSize,
    convolutions_workload,
    layer_cases,
    layer_workload,
    network_layers,
)
from pyface.benchmark.synthesis_cases import SynthesisCounts
from pyface.models import GeneratorConfig

pytest.importorskip("pyface._cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("layer", "batch"),
    [
        (LayerSize(40, 24, 8, 1), 3),
        (LayerSize(40, 24, 8, 2), 3),
        (LayerSize(32, 32, 64, 1), 2),  # images one by one
        (LayerSize(16, 48, 40, 2), 2),
    ],
    ids=str,
)
def test_every_variant_gives_the_layer(layer, batch, dtype):
    work = layer_workload(layer, batch, dtype, "cpu")
    case = Case("any/1", "layers", "any", "1", dtype, "-", lambda device: work)
    checked = check_result(case, work)
    assert not checked.wrong
    assert set(checked.errors) == set(work.variants)
    assert work.formula is not None
    reference = work.reference()
    x, styles = work.formula.inputs
    result = work.formula.module(x.float(), styles)
    assert (result - reference).abs().max() <= 1e-5 * reference.abs().max()


def test_layers_are_those_of_the_network():
    for side, base in ((64, 4096), (256, 16384), (1024, 32768)):
        layers = network_layers(side, base)
        counts = SynthesisCounts.of(GeneratorConfig(side, channel_base=base))
        assert sum(layer.macs for layer in layers) == counts.convolutions
    assert [layer.text for layer in network_layers(8, 64)] == [
        "16 to 16 channels, 4 px",
        "16 to 8 channels, up to 8 px",
        "8 to 8 channels, 8 px",
    ]
    assert len(network_layers(1024, 32768, smallest=512)) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_alone(dtype):
    layers = [LayerSize(32, 32, 8, 1), LayerSize(32, 16, 8, 2)]
    work = convolutions_workload(layers, 2, dtype, "cpu")
    assert list(work.variants) == [OURS, EAGER, BEST_FORM]
    assert work.flops == 2 * 2 * 9 * 64 * (32 * 32 + 32 * 16)
    for variant in work.variants.values():
        assert list(variant.parts) == [layer.text for layer in layers]
        assert variant.run() is None


def test_the_phases_are_those_of_a_transposed_convolution():
    """Multiply-adds of the four convolutions: 9 for every pixel, but for the borders."""
    from torch.utils.flop_counter import FlopCounterMode

    layer = LayerSize(16, 16, 64, 2)
    work = convolutions_workload([layer], 1, "float32", "cpu")
    with FlopCounterMode(display=False) as counter:
        work.variants[BEST_FORM].run()
    assert counter.get_total_flops() == pytest.approx(2 * layer.macs, rel=0.03)


def test_cases():
    cases = layer_cases()
    assert len(cases) == 2 * (13 * 2 + 4 + 3)
    assert len({case.name for case in cases}) == len(cases)
    torch.testing.assert_close(sum(case.rivals for case in cases), 2 * (13 + 4 + 3))

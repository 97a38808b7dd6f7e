"""Every way to judge images gives the logits; the arithmetic is what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pyface.benchmark.case import BEST_FORM, EAGER, OURS, Case
from pyface.benchmark.discriminator_cases import (
    discriminator_cases,
    discriminator_macs,
    discriminator_workload,
)
from pyface.benchmark.document import check_result
from pyface.benchmark.plain_stylegan2 import plain_twin
from pyface.errors import ValueRangeError
from pyface.models import DiscriminatorConfig, StyleGAN2Discriminator

SMALL = {"channel_base": 512, "channel_max": 32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_variant_gives_the_logits(dtype):
    work = discriminator_workload(4, dtype, "cpu", 32, **SMALL)
    assert list(work.variants) == [OURS, EAGER, BEST_FORM]
    case = Case("any/1", "networks", "any", "1", dtype, "-", lambda device: work)
    checked = check_result(case, work)
    assert not checked.wrong
    assert work.formula is not None
    torch.testing.assert_close(
        work.formula.module(*work.formula.inputs).double(), work.reference(), rtol=1e-4, atol=1e-4
    )


def test_arithmetic_is_what_torch_counts():
    network = StyleGAN2Discriminator(DiscriminatorConfig(64, channel_base=1024, channel_max=64))
    plain = plain_twin(network.eval()).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        plain(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() == pytest.approx(2 * discriminator_macs(network.config), rel=1e-6)


def test_twin_refuses_conditions_and_clamps():
    for settings in ({"c_dim": 2}, {"conv_clamp": 1.0}):
        with pytest.raises(ValueRangeError, match="neither condition nor clamp"):
            plain_twin(StyleGAN2Discriminator(DiscriminatorConfig(16, **SMALL, **settings)))


def test_cases():
    assert [case.size for case in discriminator_cases()] == ["4x3x256x256"] * 2 + ["8x3x256x256"] * 2

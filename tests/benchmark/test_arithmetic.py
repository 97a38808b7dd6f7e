"""Counted arithmetic equals that of the formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyface import ops
from pyface.benchmark.arithmetic import count_flops


def test_products_and_convolutions():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    x, w = torch.ones(2, 8, 10, 12), torch.ones(16, 8, 3, 3)
    assert count_flops(lambda: F.conv2d(x, w, padding=1)) == 2 * 9 * 8 * 16 * 2 * 10 * 12
    assert count_flops(lambda: (x + 1).exp()) == 0


def test_gradients_count_twice_the_way_forward():
    x = torch.ones(2, 8, 10, 12, requires_grad=True)
    w = torch.ones(16, 8, 3, 3, requires_grad=True)
    forward = count_flops(lambda: F.conv2d(x, w, padding=1))
    assert count_flops(lambda: F.conv2d(x, w, padding=1).sum().backward()) == 3 * forward


@pytest.mark.parametrize("up", [1, 2])
def test_a_synthesis_layer(up):
    x, w, styles = torch.ones(2, 8, 10, 12), torch.ones(8, 8, 3, 3), torch.ones(2, 8)
    f = ops.setup_filter([1, 3, 3, 1])
    counted = count_flops(
        lambda: ops.modulated_conv2d(x, w, styles, up=up, padding=1, resample_filter=f, flip_weight=up == 1)
    )
    assert counted >= 2 * 9 * 8 * 8 * 2 * 10 * 12
    assert counted <= 1.2 * 2 * 9 * 8 * 8 * 2 * 10 * 12

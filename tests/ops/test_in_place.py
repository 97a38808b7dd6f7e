"""Layers may write over their own convolution's output, never over anything that the caller holds."""

from __future__ import annotations

import pytest
import torch

from pyface import ops


def arguments(dtype: torch.dtype, layout: torch.memory_format) -> dict:
    torch.manual_seed(0)
    shapes = {"weight": (8, 8, 3, 3), "styles": (2, 8), "noise": (2, 1, 9, 13), "bias": (8,)}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.randn(2, 8, 9, 13).to(dtype).contiguous(memory_format=layout)
    return {"x": x} | {name: torch.randn(shape).to(wide) for name, shape in shapes.items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_no_argument_changes_and_the_result_is_that_of_the_graded_path(dtype, layout, kernel):
    given = arguments(dtype, layout)
    given["weight"] = given["weight"][:, :, :kernel, :kernel].contiguous()
    before = {name: tensor.clone() for name, tensor in given.items()}
    settings = {"padding": kernel // 2, "act": "lrelu", "clamp": 2.0}
    with torch.no_grad():
        free = ops.modulated_conv2d_act(**given, **settings)
    for name, tensor in given.items():
        assert torch.equal(tensor, before[name]), name
    given["x"].requires_grad_(True)
    graded = ops.modulated_conv2d_act(**given, **settings)
    assert graded.requires_grad
    assert torch.equal(free, graded.detach())


def test_the_public_epilogue_keeps_its_input():
    x = torch.randn(2, 3, 4, 5)
    before = x.clone()
    with torch.no_grad():
        y = ops.conv_epilogue(x, bias=torch.ones(3), act="relu")
    assert torch.equal(x, before)
    assert y.data_ptr() != x.data_ptr()

"""Layers against their formulas written out, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pyface.errors import ShapeError, ValueRangeError
from pyface.nn import (
    EqualizedConv2d,
    EqualizedLinear,
    MappingNetwork,
    ResampleFilter,
    StyledConv2d,
    StyledHead,
    append_minibatch_std,
    normalize_second_moment,
    set_backend,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(layer):
    """The layer in float64 with biases and noise strengths that are not zero."""
    for parameter in layer.parameters():
        if parameter.ndim < 2:
            torch.nn.init.normal_(parameter)
    return layer.double()


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_linear(multiplier):
    x = torch.randn(5, 7, dtype=torch.float64)
    for activation, formula in {
        "linear": lambda v: v,
        "lrelu": lambda v: F.leaky_relu(v, 0.2) * math.sqrt(2),
    }.items():
        layer = randomized(EqualizedLinear(7, 3, activation=activation, lr_multiplier=multiplier))
        wanted = formula(x @ (layer.weight * multiplier / math.sqrt(7)).t() + layer.bias * multiplier)
        torch.testing.assert_close(layer(x), wanted)
    spread = EqualizedLinear(400, 400, lr_multiplier=multiplier).weight.std().item() * multiplier
    assert spread == pytest.approx(1, abs=0.02)
    free = EqualizedLinear(7, 3, bias=False).double()
    torch.testing.assert_close(free(x), x @ free.weight.t() / math.sqrt(7))
    start = EqualizedLinear(7, 3, bias_init=1).double()
    torch.testing.assert_close(start(x * 0), torch.ones(5, 3, dtype=torch.float64))


def test_convolution():
    x = torch.randn(2, 5, 8, 6, dtype=torch.float64)
    layer = randomized(EqualizedConv2d(5, 4, 3, activation="lrelu", conv_clamp=0.9))
    wanted = F.conv2d(x, layer.weight / math.sqrt(45), padding=1) + layer.bias.reshape(1, -1, 1, 1)
    wanted = (F.leaky_relu(wanted, 0.2) * math.sqrt(2)).clamp(-0.9, 0.9)
    torch.testing.assert_close(layer(x), wanted)
    half = (
        F.leaky_relu(F.conv2d(x, layer.weight / math.sqrt(45), layer.bias, padding=1), 0.2) / math.sqrt(2)
    ).clamp(-0.45, 0.45)
    torch.testing.assert_close(layer(x, gain=0.5), half)


@pytest.mark.parametrize(("up", "down", "size"), [(2, 1, (16, 12)), (1, 2, (4, 3))])
def test_resampling_keeps_a_flat_image_flat(up, down, size):
    layer = EqualizedConv2d(1, 1, 1, bias=False, up=up, down=down).double()
    y = layer(torch.ones(1, 1, 8, 6, dtype=torch.float64))
    assert y.shape[2:] == size
    inside = y[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside) * layer.weight.detach())


@pytest.mark.parametrize("noise_shape", [None, (2, 1, 8, 6), (8, 6)])
def test_styled_convolution_is_one_with_weights_per_sample(noise_shape):
    layer = randomized(StyledConv2d(5, 4, 7, (8, 6)))
    x, w = torch.randn(2, 5, 8, 6, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    noise = None if noise_shape is None else torch.randn(noise_shape, dtype=torch.float64)
    styles = layer.affine(w)
    rows = []
    for i in range(2):
        weight = layer.weight * styles[i].reshape(1, -1, 1, 1)
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(F.conv2d(x[i : i + 1], weight, padding=1))
    wanted = torch.cat(rows) + layer.bias.reshape(1, -1, 1, 1)
    if noise is not None:
        wanted = wanted + noise * layer.noise_strength
    torch.testing.assert_close(layer(x, w, noise), F.leaky_relu(wanted, 0.2) * math.sqrt(2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_head(layout):
    layer = randomized(StyledHead(5, 3, 7, conv_clamp=2.0))
    x, w = torch.randn(2, 5, 8, 6, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    styles = layer.affine(w) / math.sqrt(5)
    wanted = torch.einsum("nchw,oc,nc->nohw", x, layer.weight.flatten(1), styles)
    wanted = (wanted + layer.bias.reshape(1, -1, 1, 1)).clamp(-2, 2)
    torch.testing.assert_close(layer(x.contiguous(memory_format=layout), w), wanted)


def test_second_gradients_of_layers():
    w = torch.randn(2, 3, dtype=torch.float64)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    styled = randomized(StyledConv2d(2, 2, 3, (8, 8), up=2))
    head = randomized(StyledHead(2, 3, 3))
    plain = randomized(EqualizedConv2d(2, 2, 3, activation="swish", down=2))
    for layer in (lambda v: styled(v, w, styled.noise_const), lambda v: head(v, w), plain):
        assert torch.autograd.gradcheck(layer, x)
        assert torch.autograd.gradgradcheck(layer, x)


def test_mapping_is_normalized_and_conditional():
    mapping = MappingNetwork(6, 2, 5, 3, num_layers=2).double()
    z, c = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    ws = mapping(z, c)
    assert list(ws.shape) == [4, 3, 5]
    torch.testing.assert_close(ws, mapping(z * 3, c), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(ws, mapping(z, c.flip(0)))
    rows = normalize_second_moment(z)
    torch.testing.assert_close(rows.square().mean(dim=1), torch.ones(4, dtype=torch.float64))
    with pytest.raises(ValueRangeError, match="z_dim or c_dim"):
        MappingNetwork(0, 0, 5, 3)


def test_minibatch_std_of_equal_images_is_zero():
    x = torch.randn(1, 4, 3, 3).expand(6, -1, -1, -1)
    y = append_minibatch_std(x, 3, 2)
    assert list(y.shape) == [6, 6, 3, 3]
    assert torch.equal(y[:, :4], x)
    assert y[:, 4:].abs().max() < 1.1e-4
    assert append_minibatch_std(torch.randn(4, 4, 3, 3).bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ShapeError, match="groups of 4"):
        append_minibatch_std(x, 4)
    with pytest.raises(ShapeError, match="divide the 4 feature channels"):
        append_minibatch_std(x, 3, 3)


def test_filter_stays_float32_and_out_of_the_state():
    layer = ResampleFilter([1, 3, 3, 1])
    assert layer.state_dict() == {}
    wanted = torch.tensor([1.0, 3, 3, 1]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        taps = layer.to(dtype).taps
        assert taps.dtype == torch.float32
        torch.testing.assert_close(taps, wanted)


def test_set_backend_reaches_every_layer():
    layer = StyledConv2d(2, 2, 3, (8, 8), up=2)
    set_backend(layer, "reference")
    assert (layer.backend, layer.affine.backend) == ("reference", "reference")

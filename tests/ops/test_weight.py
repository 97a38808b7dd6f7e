"""Weights in the form in which they convolve, and weight gradients of few pixels, against torch's own."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyface.ops import convolution
from pyface.ops._composition import Conv, WeightForm, shape_weight
from pyface.ops._dispatch import primitives

LAST = torch.channels_last


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_weight_is_what_torch_makes_of_it(place, dtype):
    (x,) = place.put(images(1, 5, 4, 4, dtype=dtype))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    p = primitives(x, place.backend)
    for kernel, flip, transposed, gain in itertools.product(
        (3, 2), (False, True), (False, True), (1.0, 0.37)
    ):
        (w,) = place.put(torch.randn(7, 5, kernel, kernel, dtype=wide))
        w.requires_grad_(True)
        form = WeightForm(dtype, gain, flip, transposed)
        found, want = p.weight(x, w, form), shape_weight(w, form)
        assert torch.equal(found, want)
        assert found.dtype == dtype
        dy = torch.randn_like(want)
        (ours,), (theirs,) = torch.autograd.grad(found, w, dy), torch.autograd.grad(want, w, dy)
        torch.testing.assert_close(ours, theirs)
        assert ours.is_contiguous()
        if place.name != "reference":
            assert found.is_contiguous(memory_format=LAST)


def test_weight_has_gradients_of_any_order(place):
    (x, w) = place.put(images(1, 3, 4, 4, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64))
    w.requires_grad_(True)
    p = primitives(x, place.backend)
    form = WeightForm(torch.float64, 0.7, True, True)
    assert torch.autograd.gradcheck(lambda v: p.weight(x, v, form), w)
    assert torch.autograd.gradgradcheck(lambda v: p.weight(x, v, form).square(), w)


def test_demodulation_has_gradients_of_any_order(place):
    (x, w, s) = place.put(
        images(2, 3, 4, 4, dtype=torch.float64),
        torch.randn(4, 3, 3, 3, dtype=torch.float64),
        torch.randn(2, 3, dtype=torch.float64),
    )
    p = primitives(x, place.backend)
    assert torch.autograd.gradcheck(p.demodulate, (w.requires_grad_(True), s.requires_grad_(True)))
    assert torch.autograd.gradgradcheck(p.demodulate, (w, s))


@pytest.mark.parametrize(
    ("c", "x", "dy", "w"),
    [
        (Conv(padding=(1, 1)), (2, 5, 4, 6), (2, 7, 4, 6), (7, 5, 3, 3)),
        (Conv(padding=(0, 2)), (1, 5, 6, 4), (1, 7, 4, 6), (7, 5, 3, 3)),
        (Conv(stride=(2, 2)), (2, 5, 9, 13), (2, 7, 4, 6), (7, 5, 3, 3)),
        (Conv(stride=(2, 2), padding=(1, 1)), (2, 5, 8, 12), (2, 7, 4, 6), (7, 5, 3, 3)),
        (Conv(stride=(2, 2), transposed=True), (2, 5, 4, 6), (2, 7, 9, 13), (5, 7, 3, 3)),
        (
            Conv(stride=(2, 2), padding=(1, 1), output_padding=(1, 1), transposed=True),
            (2, 5, 4, 6),
            (2, 7, 8, 12),
            (5, 7, 3, 3),
        ),
    ],
)
def test_weight_gradient_of_few_pixels(c, x, dy, w):
    x, dy, w = (images(*shape, dtype=torch.bfloat16) for shape in (x, dy, w))
    assert convolution._is_small_on_cpu(dy, x, w, c)
    dx, dw = convolution._both_gradients(dy, x, w, c, True, True)
    assert dw.dtype == torch.bfloat16
    exact = convolution._both_gradients(dy.double(), x.double(), w.double(), c, True, True)
    for found, want in zip((dx, dw), exact, strict=True):
        assert float((found - want).abs().max() / want.abs().max()) < 2**-7


def test_many_pixels_and_other_layouts_take_torch():
    w = images(7, 5, 3, 3, dtype=torch.bfloat16)
    x, dy = images(2, 5, 17, 17, dtype=torch.bfloat16), images(2, 7, 17, 17, dtype=torch.bfloat16)
    few, few_dy = x[:, :, :4, :4].contiguous(), dy[:, :, :4, :4].contiguous()
    assert not convolution._is_small_on_cpu(dy, x, w, Conv(padding=(1, 1)))
    assert not convolution._is_small_on_cpu(few_dy, few, w, Conv(padding=(1, 1)))

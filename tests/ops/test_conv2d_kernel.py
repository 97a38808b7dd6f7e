"""The tensor-core convolution as Python calls it, in the emulator, against torch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pyface.ops import _kernels, _native
from pyface.ops._composition import Conv, Epilogue
from pyface.ops.activations import ACTIVATIONS

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(scope="module")
def emulator() -> Any:
    module = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    return _native._Emu(module, 2)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 2 - 1


def assert_near(y: torch.Tensor | None, truth: torch.Tensor, dtype: torch.dtype) -> None:
    assert y is not None
    assert y.shape == truth.shape
    error = (y.double() - truth).abs().max() / truth.abs().max()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "c",
    [
        Conv((1, 1), (1, 1)),
        Conv((2, 2), (1, 1)),
        Conv((2, 2), (0, 0), transposed=True),
        Conv((2, 2), (1, 1), transposed=True, output_padding=(1, 1)),
        Conv((1, 1), (1, 1), transposed=True),
    ],
)
def test_matches_torch(emulator: Any, dtype: torch.dtype, c: Conv) -> None:
    x, w = drawn(3, 16, 6, 5).to(dtype), drawn(24, 16, 3, 3).to(dtype)
    style = drawn(3, 16)
    y, image = _kernels.conv2d(emulator, x, w, c, style)
    weight = w.transpose(0, 1) if c.transposed else w
    truth = torch.convolution(
        x.double() * style.double()[:, :, None, None], weight.double(), None, c.stride, c.padding, (1, 1),
        c.transposed, c.output_padding, 1,
    )  # fmt: skip
    assert image is None
    assert_near(y, truth, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("splits", [0, 3])
def test_finishes_and_makes_images(emulator: Any, dtype: torch.dtype, splits: int) -> None:
    n, i, o, size = 2, 16, 40, 8
    x, w = drawn(n, i, size, size).to(dtype), drawn(o, i, 3, 3).to(dtype)
    demod, noise, bias = drawn(n, o), drawn(n, 1, size, size), drawn(o)
    weight, head_bias = drawn(n, 4, o), drawn(4)
    skip, taps = drawn(n, 4, size // 2, size // 2), torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    e = Epilogue(ACTIVATIONS["lrelu"], 0.2, 2**0.5, 8.0)
    finish = _kernels.Finish(e, demod, noise, bias)
    heads = _kernels.Heads(weight, head_bias, skip, torch.outer(taps, taps), clamp=16.0)
    y, image = _kernels.conv2d(emulator, x, w, Conv((1, 1), (1, 1)), None, finish, heads, splits=splits)
    v = F.conv2d(x.double(), w.double(), padding=1) * demod.double()[:, :, None, None]
    v = F.leaky_relu(v + noise.double() + bias.double()[None, :, None, None], 0.2) * 2**0.5
    v = v.clamp(-8, 8)
    assert_near(y, v, dtype)
    spread = torch.zeros(n, 4, size, size, dtype=torch.float64)
    spread[:, :, ::2, ::2] = skip.double()
    blur = (torch.outer(taps, taps) * 4).double().expand(4, 1, 4, 4)
    up = F.conv2d(F.pad(spread, [2, 1, 2, 1]), blur, groups=4)
    rgb = torch.einsum("nko,nohw->nkhw", weight.double(), v) + head_bias.double()[None, :, None, None]
    assert_near(image, rgb.clamp(-16, 16) + up, dtype)


def test_leaves_y_out_where_only_the_image_is_wanted(emulator: Any) -> None:
    x, w, weight = drawn(1, 8, 8, 16).half(), drawn(32, 8, 1, 1).half(), drawn(1, 3, 32)
    image = torch.ones(1, 3, 8, 16)
    heads = _kernels.Heads(weight, image=image)
    y, same = _kernels.conv2d(emulator, x, w, Conv(), heads=heads, keep_y=False, tile=3)
    assert y is None
    assert same is image
    truth = torch.einsum("nko,nohw->nkhw", weight.double(), F.conv2d(x.double(), w.double())) + 1
    assert_near(image, truth, torch.float16)


def test_empty_batch_and_no_input_channels(emulator: Any) -> None:
    y, _ = _kernels.conv2d(emulator, drawn(0, 8, 4, 4), drawn(8, 8, 3, 3), Conv((1, 1), (1, 1)))
    assert y is not None
    assert y.shape == (0, 8, 4, 4)
    y, _ = _kernels.conv2d(emulator, drawn(1, 0, 4, 4), drawn(8, 0, 3, 3), Conv((1, 1), (1, 1)))
    assert y is not None
    assert torch.equal(y, torch.zeros(1, 8, 4, 4))


def test_refuses_what_it_cannot_run(emulator: Any) -> None:
    with pytest.raises(ValueError, match=r"conv2d: kernel is 5; allowed: 1 or 3"):
        _kernels.conv2d(emulator, drawn(1, 8, 8, 8), drawn(8, 8, 5, 5), Conv((1, 1), (2, 2)))
    with pytest.raises(ValueError, match=r"conv2d: dtype is 1; allowed: 0 float32, 2 bfloat16, 3 float16"):
        _kernels.conv2d(emulator, drawn(1, 8, 8, 8).double(), drawn(8, 8, 3, 3).double(), Conv())

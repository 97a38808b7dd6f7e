"""The up-sampling layer in one kernel as Python calls it, in the emulator, against the float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyface import ops
from pyface.errors import ShapeError
from pyface.ops import _kernels, _native
from pyface.ops._composition import Epilogue, WeightForm
from pyface.ops.activations import ACTIVATIONS

TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2.4e-2}


@pytest.fixture(scope="module")
def emulator() -> Any:
    module = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    return _native._Emu(module, 2)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 2 - 1


def assert_near(y: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    assert y.shape == truth.shape
    assert y.dtype == dtype
    assert (y.double() - truth).abs().max() / truth.abs().max() < TOLERANCE[dtype]


def layer(
    k: Any,
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    f: torch.Tensor,
    noise: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    e: Epilogue | None = None,
    flip_weight: bool = False,
    demodulate: bool = True,
    **choice: int,
) -> torch.Tensor:
    """A synthesis layer as the kernel takes it: weight packed, demodulation coefficients beside it."""
    styles = styles.float()
    demod = _kernels.demodulate(k, weight.float().square().sum([2, 3]), styles) if demodulate else None
    packed = _kernels.pack_weight(k, weight.float(), WeightForm(x.dtype, flip=flip_weight))
    finish = _kernels.Finish(e, demod, noise, bias)
    return _kernels.upconv2d(k, x, packed, f, styles, finish, **choice)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("size", "tile", "steps"), [((5, 9), -1, 0), ((11, 17), 0, 2), ((30, 6), 2, 1)])
@pytest.mark.parametrize("separable", [False, True])
def test_is_the_synthesis_layer(
    emulator: Any, dtype: torch.dtype, size: tuple[int, int], tile: int, steps: int, separable: bool
) -> None:
    n, i, o = 2, 24, 40
    f = ops.setup_filter([1, 3, 3, 1], separable=separable)
    x, weight, styles = drawn(n, i, *size).to(dtype), drawn(o, i, 3, 3), drawn(n, i) + 1.5
    noise, bias = drawn(n, 1, 2 * size[0], 2 * size[1]), drawn(o)
    e = Epilogue(ACTIVATIONS["lrelu"], 0.2, 2**0.5, 2.5)
    y = layer(emulator, x, weight, styles, f, noise, bias, e, tile=tile, steps=steps)
    assert y.is_contiguous(memory_format=torch.channels_last)
    truth = ops.modulated_conv2d_act(
        x.double(), weight.double(), styles.double(), noise.double(), up=2, padding=1, resample_filter=f,
        flip_weight=False, bias=bias.double(), act="lrelu", gain=2**0.5, clamp=2.5, backend="reference",
    )  # fmt: skip
    assert_near(y, truth, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_golden(emulator: Any, golden: Any, dtype: torch.dtype) -> None:
    d, seen = golden("modulated_conv2d.npz"), 0
    for m in d.cases():
        key = m["id"]
        weight = torch.from_numpy(d[f"{key}_w"])
        if m["up"] != 2 or m["down"] != 1 or m["padding"] != 1 or weight.shape[2:] != (3, 3):
            continue
        noise = torch.from_numpy(d[f"{key}_noise"]).float() if f"{key}_noise" in d else None
        y = layer(
            emulator,
            torch.from_numpy(d[f"{key}_x"]).to(dtype),
            weight,
            torch.from_numpy(d[f"{key}_s"]),
            ops.setup_filter([1, 3, 3, 1]),
            noise,
            flip_weight=m["flip_weight"],
            demodulate=m["demodulate"],
        )
        assert_near(y, torch.from_numpy(d[f"{key}_y"]), dtype)
        seen += 1
    assert seen


def test_next_style_shared_noise_and_no_style(emulator: Any) -> None:
    n, i, o = 3, 16, 24
    f = torch.tensor([1.0, 2.0, 4.0, 1.0]) / 8  # a filter the wrong way round would show
    x, weight, noise = drawn(n, i, 4, 5).half(), drawn(o, i, 3, 3), drawn(1, 1, 8, 10)
    next_style = drawn(n, o)
    packed = _kernels.pack_weight(emulator, weight, WeightForm(torch.float16))
    y = _kernels.upconv2d(emulator, x, packed, f, None, _kernels.Finish(None, None, noise, None, next_style))
    truth = ops.modulated_conv2d(
        x.double(), weight.double(), torch.ones(n, i).double(), noise.double(), up=2, padding=1,
        resample_filter=f, demodulate=False, flip_weight=False, backend="reference",
    )  # fmt: skip
    assert_near(y, truth * next_style.double()[:, :, None, None], torch.float16)


def test_large_sums_of_float16_need_demodulation_alone(emulator: Any) -> None:
    x, weight = torch.full((1, 512, 4, 4), 64.0).half(), torch.ones(8, 512, 3, 3)
    y = layer(emulator, x, weight, torch.ones(1, 512), ops.setup_filter([1, 3, 3, 1]))
    assert y.isfinite().all()


def test_empty_batch_and_no_input_channels(emulator: Any) -> None:
    f = ops.setup_filter([1, 3, 3, 1])
    assert _kernels.upconv2d(emulator, drawn(0, 8, 4, 4), drawn(8, 8, 3, 3), f).shape == (0, 8, 8, 8)
    y = _kernels.upconv2d(emulator, drawn(1, 0, 4, 4), drawn(8, 0, 3, 3), f)
    assert torch.equal(y, torch.zeros(1, 8, 8, 8))


def test_refuses_what_it_cannot_run(emulator: Any) -> None:
    f = ops.setup_filter([1, 3, 3, 1])
    with pytest.raises(ShapeError, match=r"w must be \[O, 8, 3, 3\] and f .*; got \[8, 8, 5, 5\]"):
        _kernels.upconv2d(emulator, drawn(1, 8, 8, 8), drawn(8, 8, 5, 5), f)
    with pytest.raises(ShapeError, match=r"got \[8, 8, 3, 3\] and \[6\]"):
        _kernels.upconv2d(emulator, drawn(1, 8, 8, 8), drawn(8, 8, 3, 3), torch.ones(6))
    with pytest.raises(ValueError, match=r"upconv2d: dtype is 1; allowed: 0 float32, 2 bfloat16, 3 float16"):
        _kernels.upconv2d(emulator, drawn(1, 8, 8, 8).double(), drawn(8, 8, 3, 3).double(), f)
    with pytest.raises(ValueError, match=r"upconv2d: tile is 9; allowed: -1 to 2"):
        _kernels.upconv2d(emulator, drawn(1, 8, 8, 8), drawn(8, 8, 3, 3), f, tile=9)


def test_plan_stays_within_the_shared_memory_of_every_architecture(emulator: Any) -> None:
    for channels in (512, 4096):
        for tile in range(3):
            plan = emulator.module.upconv2d_plan(3, 8, 64, 64, channels, 512, True, 2, tile, 0, 0)
            assert plan[0]
            assert plan[1] == tile
            assert plan[-1] <= 99 * 1024

"""The CPU kernels, called through bare pointers, against float64 formulas, on every instruction set."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

_cpu = pytest.importorskip("pyface._cpu", reason="the CPU module is not built")

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# A result is one rounding of a float32 (float64) computation.
RTOL = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
ACTS = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
IS_CHILD = "PYFACE_KERNEL_TEST_CHILD" in os.environ


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """The formulas are small: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def side_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def activate(x: torch.Tensor, act: str, alpha: float) -> torch.Tensor:
    f = torch.nn.functional
    table = {
        "linear": lambda: x,
        "relu": lambda: f.relu(x),
        "lrelu": lambda: torch.where(x < 0, x * alpha, x),
        "tanh": lambda: torch.tanh(x),
        "sigmoid": lambda: torch.sigmoid(x),
        "elu": lambda: f.elu(x),
        "selu": lambda: f.selu(x),
        "softplus": lambda: torch.logaddexp(x, torch.zeros_like(x)),
        "swish": lambda: x * torch.sigmoid(x),
    }
    return table[act]()


def assert_close(
    got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype, atol: float | None = None
) -> None:
    limit = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 2.0**-24}[dtype]
    got, atol = got.double(), limit if atol is None else atol
    want = want.to(dtype).double() if dtype == torch.float16 else want
    torch.testing.assert_close(got, want, rtol=RTOL[dtype], atol=atol, equal_nan=True)


# ---------------------------------------------------------------- bias_act


def run_bias_act(x, bias, act, alpha=0.2, gain=1.0, clamp=-1.0, dims=None, threads=1, out=None):
    y = torch.full_like(x, float("nan")) if out is None else out
    outer, channels, inner = dims or (x.shape[0], x.shape[1], x[0, 0].numel() if x.numel() else 0)
    code = ACTS.index(act)
    _cpu.bias_act(
        *map(pointer, (x, bias, y)),
        DTYPES[x.dtype],
        outer,
        channels,
        inner,
        code,
        alpha,
        gain,
        clamp,
        threads,
    )
    return y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ACTS)
def test_bias_act(act: str, dtype: torch.dtype) -> None:
    cases = itertools.product(
        [(3, 5, 7), (2, 37, 1), (1, 1, 1), (2, 600, 1), (1, 2, 70)], [-1.0, 0.7], [True, False]
    )
    for shape, clamp, with_bias in cases:
        x = draw(*shape, dtype=dtype) * 4
        bias = draw(shape[1], dtype=dtype, seed=1) if with_bias else None
        wide = x.double() + (bias.double()[:, None] if with_bias else 0)
        want = activate(wide, act, 0.3) * 1.5
        want = want.clamp(-clamp, clamp) if clamp >= 0 else want
        assert_close(run_bias_act(x, bias, act, 0.3, 1.5, clamp), want, dtype)
        in_place = x.clone()
        run_bias_act(in_place, bias, act, 0.3, 1.5, clamp, out=in_place)
        assert_close(in_place, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", ACTS)
def test_bias_act_grad(act: str, dtype: torch.dtype) -> None:
    cases = itertools.product([(3, 5, 7), (2, 37, 1), (1, 1, 1)], [-1.0, 0.75], [1.5, -2.0], [True, False])
    for shape, clamp, gain, with_bias in cases:
        x, dy = draw(*shape, dtype=dtype) * 2, draw(*shape, dtype=dtype, seed=2)
        bias = draw(shape[1], dtype=dtype, seed=1) if with_bias else None
        y = run_bias_act(x, bias, act, 0.3, gain, clamp)
        wide = (x.double() + (bias.double()[:, None] if with_bias else 0)).requires_grad_()
        (slope,) = torch.autograd.grad((activate(wide, act, 0.3) * gain).sum(), wide)
        want = torch.where((y.double().abs() >= clamp) & (clamp >= 0), 0.0, dy.double() * slope)
        dx, ref = torch.full_like(dy, float("nan")), x if act == "swish" else y
        _cpu.bias_act_grad(
            *map(pointer, (dy, ref, bias, dx)), DTYPES[dtype], *shape, ACTS.index(act), 0.3, gain, clamp, 1
        )
        # The derivative is taken from the stored, rounded output.
        loss = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 6e-2, torch.float16: 8e-3}[dtype]
        assert_close(dx, want, dtype, atol=loss)


@pytest.mark.parametrize("act", ACTS)
def test_activation_accuracy_in_float32(act: str) -> None:
    x = torch.cat(
        [torch.linspace(-110, 95, 200001), torch.linspace(-1, 1, 100001), torch.logspace(-30, 0, 5001)]
    )
    got = run_bias_act(x[None, None], None, act)[0, 0].double()
    want = activate(x.double(), act, 0.2)
    error, subnormal = (got - want).abs(), 1e-42  # a subnormal factor has few bits
    assert (error <= 2e-6 * want.abs() + subnormal).all()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values(act: str, dtype: torch.dtype) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0] * 9, dtype=dtype)[None, None]
    want = activate(x.double(), act, 0.2)
    if act == "swish":
        want = torch.where(x.double() == -float("inf"), float("nan"), want)
    got = run_bias_act(x, None, act).double()
    torch.testing.assert_close(got, want, rtol=max(RTOL[dtype], 1e-6), atol=0, equal_nan=True)


def test_half_precision_conversions_are_exact() -> None:
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    numbers = torch.randint(-(2**31), 2**31 - 1, (1 << 20,), generator=torch.Generator().manual_seed(0))
    numbers = numbers.to(torch.int32).view(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        x = every.view(dtype)[None, None]
        y = run_bias_act(x, None, "linear")
        assert torch.equal(torch.nan_to_num(y, nan=1.0), torch.nan_to_num(x, nan=1.0))
        assert torch.equal(y.isnan(), x.isnan())
    # Rounding: float16 and bfloat16 products of random magnitude, against torch's own conversion.
    exponents = (numbers.view(torch.int32) & 0x87FFFFFF) | 0x30000000
    for dtype in (torch.float16, torch.bfloat16):
        x = (exponents.view(torch.float32) * 1024).to(dtype)[None, None]
        y = run_bias_act(x, None, "linear", gain=0.0003)
        assert torch.equal(y, (x.float() * 0.0003).to(dtype))


# ---------------------------------------------------------------- upfirdn2d


def filter2d(taps: torch.Tensor) -> torch.Tensor:
    return taps.outer(taps) if taps.ndim == 1 else taps


def upfirdn2d_formula(x, taps, up, down, pad, flip, gain):
    """x: [N, C, H, W] float64; up, down: (x, y); pad: (x0, x1, y0, y1)."""
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, h, up[1], w, up[0])
    wide[:, :, :, 0, :, 0] = x
    wide = torch.nn.functional.pad(wide.reshape(n, c, h * up[1], w * up[0]), [max(side, 0) for side in pad])
    left, right, top, bottom = (max(-side, 0) for side in pad)
    wide = wide[:, :, top : wide.shape[2] - bottom, left : wide.shape[3] - right]
    kernel = filter2d(taps.double()) * gain
    kernel = kernel if flip else kernel.flip(0, 1)
    y = torch.nn.functional.conv2d(wide.reshape(n * c, 1, *wide.shape[2:]), kernel[None, None])
    return y.reshape(n, c, *y.shape[2:])[:, :, :: down[1], :: down[0]]


def run_upfirdn2d(x, taps, up, down, pad, flip, gain, channels_last=False, threads=1):
    taps = taps.to(side_dtype(x.dtype)).contiguous()
    separable = taps.ndim == 1
    filter_h, filter_w = (taps.numel(), taps.numel()) if separable else taps.shape
    n, c, h, w = x.shape
    out_w = (w * up[0] + pad[0] + pad[1] - filter_w) // down[0] + 1
    out_h = (h * up[1] + pad[2] + pad[3] - filter_h) // down[1] + 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    y = torch.full((n, c, out_h, out_w), float("nan"), dtype=x.dtype).contiguous(memory_format=layout)
    sizes = (n, c, h, w, out_h, out_w)
    _cpu.upfirdn2d(
        *map(pointer, (x, taps, y)), DTYPES[x.dtype], *sizes, channels_last, separable, flip,
        filter_h, filter_w, *up, *down, pad[0], pad[2], gain, threads,
    )  # fmt: skip
    return y


FILTERS = {
    "1331": torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8,
    "asymmetric": torch.tensor([0.1, 0.7, -0.4]),
    "one": torch.tensor([1.0]),
    "long": draw(12, seed=5).float() / 4,
    "rank1": torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([0.5, -0.25, 0.75])),
    "full": draw(3, 6, seed=6).float() / 3,
}
PARAMETERS = [  # up, down, (x0, x1, y0, y1)
    ((1, 1), (1, 1), (1, 2, 2, 1)),
    ((2, 2), (1, 1), (2, 1, 2, 1)),
    ((2, 2), (1, 1), (3, 2, 3, 2)),
    ((1, 1), (2, 2), (1, 1, 1, 1)),
    ((2, 1), (1, 2), (3, 8, 2, 5)),
    ((3, 2), (2, 3), (12, 11, 13, 40)),
    ((2, 2), (3, 3), (5, 4, 6, 7)),
    ((5, 4), (1, 1), (11, 12, 12, 11)),
    ((1, 1), (1, 1), (30, 33, 40, 2)),
    ((2, 2), (1, 1), (-3, 8, -2, 12)),
    ((1, 1), (1, 1), (13, -4, 12, -5)),
]
SHAPES = [(2, 3, 7, 9), (1, 1, 5, 6), (1, 1, 1, 1), (1, 17, 4, 5), (1, 2, 3, 70)]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FILTERS)
def test_upfirdn2d(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    taps = FILTERS[name]
    height, width = filter2d(taps).shape
    tested = 0
    for (up, down, pad), shape in itertools.product(PARAMETERS, SHAPES):
        wide = (shape[3] * up[0] + pad[0] + pad[1], shape[2] * up[1] + pad[2] + pad[3])
        if wide[0] < width or wide[1] < height:
            continue
        flip, gain = tested % 2 == 0, 1.7
        x = draw(*shape, dtype=dtype)
        want = upfirdn2d_formula(x.double(), taps.to(side_dtype(dtype)), up, down, pad, flip, gain)
        got = run_upfirdn2d(x, taps, up, down, pad, flip, gain, channels_last)
        assert_close(got, want, dtype, atol=1e-13 if dtype == torch.float64 else 3e-6)
        tested += 1
    assert tested > 20


@pytest.mark.parametrize(("shape", "channels_last"), [((1, 700, 3, 40), True), ((1, 1, 2, 33001), False)])
@pytest.mark.parametrize("name", ["1331", "long", "full"])
def test_upfirdn2d_of_rows_cut_into_tiles(name: str, shape: tuple[int, ...], channels_last: bool) -> None:
    x, taps = draw(*shape, dtype=torch.float32), FILTERS[name]
    for up, down, pad in [
        ((1, 1), (1, 1), (30, 10, 8, 9)),
        ((2, 2), (1, 1), (6, 6, 6, 6)),
        ((2, 1), (3, 2), (7,) * 4),
    ]:
        want = upfirdn2d_formula(x.double(), taps, up, down, pad, False, 1.0)
        got = run_upfirdn2d(x, taps, up, down, pad, False, 1.0, channels_last, threads=2)
        assert_close(got, want, torch.float32, atol=3e-6)


def test_upfirdn2d_with_a_filter_shorter_than_the_upsampling() -> None:
    x = draw(1, 2, 3, 4, dtype=torch.float32)
    taps = torch.tensor([2.0])
    want = upfirdn2d_formula(x.double(), taps, (3, 3), (1, 1), (0, 2, 1, 0), False, 1.0)
    assert_close(run_upfirdn2d(x, taps, (3, 3), (1, 1), (0, 2, 1, 0), False, 1.0), want, torch.float32)


def test_upfirdn2d_does_not_mix_columns_that_the_filter_skips() -> None:
    x = draw(1, 1, 6, 8, dtype=torch.float32)
    x[..., 3] = float("nan")
    y = run_upfirdn2d(x, FILTERS["1331"], (1, 1), (1, 1), (1, 2, 1, 2), False, 1.0)
    assert y[..., 0].isfinite().all()
    assert y[..., 1:5].isnan().all()
    assert y[..., 5:].isfinite().all()


# ---------------------------------------------------------------- modulated convolution


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modulate(dtype: torch.dtype, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for n, c, h, w in [(2, 5, 3, 7), (1, 1, 1, 1), (3, 70, 2, 2), (2, 3, 0, 4)]:
        x = draw(n, c, h, w, dtype=dtype).contiguous(memory_format=layout)
        scale = draw(n, c, dtype=side_dtype(dtype), seed=1)
        y = torch.full_like(x, float("nan"))
        _cpu.modulate(*map(pointer, (x, scale, y)), DTYPES[dtype], n, c, h * w, channels_last, 1)
        assert_close(y, x.double() * scale.double()[:, :, None, None], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_demodulate(dtype: torch.dtype) -> None:
    for n, out, channels in [(2, 5, 7), (1, 1, 1), (3, 64, 512), (1, 3, 0)]:
        weight_sq, styles = draw(out, channels, dtype=dtype).abs(), draw(n, channels, dtype=dtype, seed=1)
        demod = torch.full((n, out), float("nan"), dtype=dtype)
        _cpu.demodulate(*map(pointer, (weight_sq, styles, demod)), DTYPES[dtype], n, out, channels, 1e-8, 1)
        want = (styles.double().square() @ weight_sq.double().T + 1e-8).rsqrt()
        torch.testing.assert_close(demod.double(), want, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pack_weight(dtype: torch.dtype, transposed: bool) -> None:
    cases = itertools.product(
        [(5, 7, 3, 3), (70, 33, 3, 3), (33, 70, 2, 5), (1, 1, 1, 1)], [False, True], [1, 2]
    )
    for (out, channels, k_h, k_w), flip, threads in cases:
        weight = draw(out, channels, k_h, k_w, dtype=side_dtype(dtype))
        want = weight.double() * 0.7
        want = want.flip([2, 3]) if flip else want
        want = (want.transpose(0, 1) if transposed else want).permute(0, 2, 3, 1)
        packed = torch.full(want.shape, float("nan"), dtype=dtype)
        rest = DTYPES[dtype], out, channels, k_h * k_w, transposed, flip
        _cpu.pack_weight(pointer(weight), pointer(packed), *rest, 0.7, threads)
        assert_close(packed, want, dtype)
        back = torch.full_like(weight, float("nan"))
        _cpu.unpack_weight(pointer(packed), pointer(back), *rest, 2.0, threads)
        turned = packed.permute(0, 3, 1, 2)
        turned = (turned.transpose(0, 1) if transposed else turned).to(back.dtype)
        assert torch.equal(back, 2 * (turned.flip([2, 3]) if flip else turned))


def test_pack_weight_checks_its_arguments() -> None:
    _cpu.pack_weight(0, 0, 0, 0, 3, 9, False, False, 1.0, 1)
    with pytest.raises(ValueError, match="unpack_weight: from is a null pointer"):
        _cpu.unpack_weight(0, 8, 0, 1, 1, 1, False, False, 1.0, 1)
    with pytest.raises(ValueError, match="pack_weight: weight is a size of -1"):
        _cpu.pack_weight(8, 8, 0, -1, 1, 1, False, False, 1.0, 1)


def epilogue_inputs(shape, dtype, present, noise_per_sample):
    n, c, h, w = shape
    side = side_dtype(dtype)
    tensors = {
        "demod": draw(n, c, dtype=side, seed=1),
        "noise": draw(n if noise_per_sample else 1, 1, h, w, dtype=side, seed=2),
        "bias": draw(c, dtype=side, seed=3),
        "next_style": draw(n, c, dtype=side, seed=4),
    }
    return {name: tensor if name in present else None for name, tensor in tensors.items()}


def epilogue_formula(x, side, act, alpha, gain, clamp):
    wide = x.double()
    if side["demod"] is not None:
        wide = wide * side["demod"].double()[:, :, None, None]
    if side["noise"] is not None:
        wide = wide + side["noise"].double()
    if side["bias"] is not None:
        wide = wide + side["bias"].double()[:, None, None]
    y = activate(wide, act, alpha) * gain
    y = y.clamp(-clamp, clamp) if clamp >= 0 else y
    return y if side["next_style"] is None else y * side["next_style"].double()[:, :, None, None]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv_epilogue(dtype: torch.dtype, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    names = ("demod", "noise", "bias", "next_style")
    presents = [(), *((name,) for name in names), names]
    acts = itertools.cycle(ACTS)
    cases = itertools.product(
        [(2, 5, 3, 7), (1, 1, 1, 1), (2, 70, 5, 2)], presents, [True, False], [-1.0, 0.7]
    )
    for shape, present, per_sample, clamp in cases:
        act = next(acts)
        x = draw(*shape, dtype=dtype).contiguous(memory_format=layout)
        side = epilogue_inputs(shape, dtype, present, per_sample)
        n, c, h, w = shape
        want = epilogue_formula(x, side, act, 0.2, 1.4, clamp)
        for y in (torch.full_like(x, float("nan")), x):
            _cpu.conv_epilogue(
                *map(pointer, (x, *side.values(), y)), DTYPES[dtype], n, c, h * w, channels_last, per_sample,
                ACTS.index(act), 0.2, 1.4, clamp, 1,
            )  # fmt: skip
            assert_close(y, want, dtype, atol=1e-13 if dtype == torch.float64 else 3e-6)


# ---------------------------------------------------------------- threads, checks, instruction sets


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_threads_do_not_change_a_bit(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = draw(2, 9, 101, 103, dtype=torch.float32).contiguous(memory_format=layout)
    bias, dims = draw(9, dtype=torch.float32), (2 * 101 * 103, 9, 1) if channels_last else (2, 9, 101 * 103)
    results = []
    for threads in (1, 2, 5):
        y = run_bias_act(x, bias, "swish", dims=dims, threads=threads)
        blurred = run_upfirdn2d(
            x, FILTERS["1331"], (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0, channels_last, threads
        )
        results.append((y, blurred))
    for y, blurred in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(blurred, results[0][1])


def test_empty_tensors_are_left_alone() -> None:
    for shape in [(0, 3, 4), (2, 0, 4), (2, 3, 0)]:
        _cpu.bias_act(0, 0, 0, 0, *shape, 2, 0.2, 1.0, -1.0, 1)
        _cpu.bias_act_grad(0, 0, 0, 0, 0, *shape, 2, 0.2, 1.0, -1.0, 1)
        _cpu.modulate(0, 0, 0, 0, *shape, False, 1)
        _cpu.conv_epilogue(0, 0, 0, 0, 0, 0, 0, *shape, False, False, 2, 0.2, 1.0, -1.0, 1)
    _cpu.upfirdn2d(0, 0, 0, 0, 0, 3, 4, 4, 4, 4, False, True, False, 4, 4, 1, 1, 1, 1, 1, 1, 1.0, 1)
    assert (
        run_upfirdn2d(torch.empty(2, 3, 0, 4), FILTERS["one"], (1, 1), (1, 1), (0, 0, 1, 1), True, 1.0)
        .eq(0)
        .all()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 8, 0, 1, 1, 1, 0, 0.0, 1.0, -1.0, 1), "bias_act: x is a null pointer; allowed: "),
        ((8, 0, 8, 9, 1, 1, 1, 0, 0.0, 1.0, -1.0, 1), "bias_act: dtype is 9; allowed: 0 float32"),
        ((8, 0, 8, 0, 1, 1, 1, 9, 0.0, 1.0, -1.0, 1), "bias_act: act is 9; allowed: 0 linear"),
        ((8, 0, 8, 0, -1, 1, 1, 0, 0.0, 1.0, -1.0, 1), "bias_act: x is a size of -1; allowed: "),
        (
            (8, 0, 8, 0, 1 << 40, 1 << 40, 1, 0, 0.0, 1.0, -1.0, 1),
            "bias_act: x is larger than the address space",
        ),
        ((8, 0, 8, 0, 1, 1, 1, 0, 0.0, 1.0, float("nan"), 1), "bias_act: clamp is NaN"),
        ((8, 0, 8, 0, 1, 1, 1, 0, 0.0, 1.0, -1.0, 0), "bias_act: where is 0; allowed: 1 to"),
    ],
)
def test_checks(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _cpu.bias_act(*arguments)


def run_python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYFACE_CPU_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(IS_CHILD, reason="runs in the parent process only")
def test_isa_can_be_chosen_and_wrong_choices_are_named() -> None:
    available = _cpu.isa_available()
    assert available[0] == "baseline"
    assert _cpu.isa() in available
    for isa in available:
        assert run_python("from pyface import _cpu; print(_cpu.isa())", isa).stdout.strip() == isa
    done = run_python("from pyface import _cpu; _cpu.isa()", "sse9")
    assert done.returncode != 0
    assert "ValueError: isa: PYFACE_CPU_ISA is 'sse9'; allowed: " + ", ".join(available) in done.stderr


@pytest.mark.skipif(IS_CHILD, reason="runs in the parent process only")
@pytest.mark.parametrize("isa", [isa for isa in _cpu.isa_available() if isa != _cpu.isa()])
def test_every_other_instruction_set(isa: str) -> None:
    environment = {
        **os.environ,
        "PYFACE_CPU_ISA": isa,
        "PYFACE_KERNEL_TEST_CHILD": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.skipif(IS_CHILD, reason="runs in the parent process only")
def test_no_instruction_set_leaks_into_shared_symbols() -> None:
    """A weak symbol of an AVX-512 or AMX object could replace the baseline's and crash an older machine."""
    objects = sorted(Path(__file__).parents[2].glob("build/*/CMakeFiles/pyface_cpu_a*.dir/csrc/cpu/*.o"))
    if not objects:
        pytest.skip("no object files: this is not a build folder")
    try:
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", *objects], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("nm is not installed")
    shared = [line for line in listing.stdout.splitlines() if re.match(r"[0-9a-f]+ [A-Zuvw] ", line)]
    assert shared
    own = (
        "pyface::isa_a",
        "DW.ref.__gxx_personality_v0",
    )  # the latter is the address of a libstdc++ function
    assert [line for line in shared if not any(name in line for name in own)] == []


def test_numpy_memory_works_too() -> None:
    x = np.linspace(-1, 1, 10, dtype=np.float32)
    y = np.empty_like(x)
    _cpu.bias_act(x.ctypes.data, 0, y.ctypes.data, 0, 1, 1, 10, ACTS.index("relu"), 0.0, 2.0, -1.0, 1)
    np.testing.assert_array_equal(y, np.maximum(x, 0) * 2)

"""One list of demands on every op, on every back-end: values, layouts, dtypes, gradients, empty and odd
sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface import ops

Truth = Callable[..., Tensor]
FILTER = ops.setup_filter([1, 3, 3, 1])
SKEWED = torch.tensor([[0.25, -0.5, 1.0], [0.125, 0.75, 0.5]])
LONG = ops.setup_filter([1, 2, 4, 7, 9, 11, 9, 7, 4, 2, 1, -1], separable=True)

# Largest error relative to the largest value of the float64 truth, for one pass; convolutions round more
# often.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@dataclass(frozen=True)
class Case:
    """An op with settings: `run` takes the tensors and `backend`, `truth` the same tensors in float64."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    run: Callable[..., Tensor]
    truth: Truth
    slack: float = 1.0  # factor on the tolerance
    wide: tuple[str, ...] = ()  # tensors that are float32 beside 16-bit images

    def __str__(self) -> str:
        return self.name

    def draw(self, dtype: torch.dtype, coarse: bool = True, batch: int | None = None) -> list[Tensor]:
        """Seeded inputs; `coarse`: multiples of 1/32, which every dtype holds exactly."""
        g = torch.Generator().manual_seed(7)
        out = []
        for name, shape in self.shapes.items():
            shape = shape if batch is None or name in ("w", "b") else (batch, *shape[1:])
            t = torch.randn(shape, generator=g, dtype=torch.float64)
            t = (t * 32).round().clamp(-100, 100) / 32 if coarse else t
            low = dtype in (torch.float16, torch.bfloat16)
            out.append(t.to(torch.float32 if low and name in self.wide else dtype))
        return out


def activate(z: Tensor, act: str, alpha: float | None, gain: float | None, clamp: float | None) -> Tensor:
    formula = {
        "linear": lambda v: v,
        "relu": lambda v: v.clamp(min=0),
        "lrelu": lambda v: torch.where(v > 0, v, v * (0.2 if alpha is None else alpha)),
        "tanh": torch.tanh,
        "sigmoid": lambda v: 1 / (1 + torch.exp(-v)),
        "elu": lambda v: torch.where(v > 0, v, torch.exp(v.clamp(max=0)) - 1),
        "selu": lambda v: (
            1.0507009873554805 * torch.where(v > 0, v, 1.6732632423543772 * torch.expm1(v.clamp(max=0)))
        ),
        "softplus": lambda v: torch.log1p(torch.exp(-v.abs())) + v.clamp(min=0),
        "swish": lambda v: v / (1 + torch.exp(-v)),
    }[act]
    if gain is None:
        gain = math.sqrt(2) if act in ("relu", "lrelu", "swish") else 1.0
    y = formula(z) * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def fir(
    x: Tensor, f: Tensor | None, up: Any, down: Any, pad: tuple[int, ...], flip: bool, gain: float
) -> Tensor:
    """Zero-insert, pad or crop, convolve, decimate: tap by tap, in float64."""
    (ux, uy), (dx, dy) = up, down
    n, c, h, w = x.shape
    z = x.new_zeros(n, c, h * uy, w * ux)
    z[:, :, ::uy, ::ux] = x
    z = F.pad(z, list(pad))
    f = torch.ones(1, 1) if f is None else f
    f = f.double()
    f = torch.outer(f, f) if f.ndim == 1 else f
    f = f.flip([0, 1]) if flip else f
    k_h, k_w = f.shape
    y = x.new_zeros(n, c, z.shape[2] - k_h + 1, z.shape[3] - k_w + 1)
    for i in range(k_h):
        for j in range(k_w):
            y += f[k_h - 1 - i, k_w - 1 - j] * z[:, :, i : i + y.shape[2], j : j + y.shape[3]]
    return y[:, :, ::dy, ::dx] * gain


def resample(
    x: Tensor, w: Tensor, f: Tensor | None, up: int, down: int, pad: Any, groups: int, corr: bool
) -> Tensor:
    """Upsample, convolve, downsample, each on its own and in that order."""
    f_h, f_w = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    x0, x1, y0, y1 = [pad] * 4 if isinstance(pad, int) else pad
    if up > 1:
        x0, x1, y0, y1 = (
            x0 + (f_w + up - 1) // 2,
            x1 + (f_w - up) // 2,
            y0 + (f_h + up - 1) // 2,
            y1 + (f_h - up) // 2,
        )
    if down > 1:
        x0, x1 = x0 + (f_w - down + 1) // 2, x1 + (f_w - down) // 2
        y0, y1 = y0 + (f_h - down + 1) // 2, y1 + (f_h - down) // 2
    z = fir(x, f if up > 1 else None, (up, up), (1, 1), (x0, x1, y0, y1), False, up * up)
    z = F.conv2d(z, w if corr else w.flip([2, 3]), groups=groups)
    return fir(z, f, (1, 1), (down, down), (0, 0, 0, 0), False, 1) if down > 1 else z


def modulated(
    x: Tensor, w: Tensor, s: Tensor, noise: Tensor | None, demod: bool, up: int, down: int
) -> Tensor:
    """One convolution per sample with weights of its own, equations 1 and 3 of StyleGAN2."""
    out = []
    for i in range(x.shape[0]):
        own = w * s[i][None, :, None, None]
        if demod:
            own = own / (own.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        out.append(resample(x[i : i + 1], own, FILTER, up, down, w.shape[2] // 2, 1, up == 1))
    y = torch.cat(out)
    return y if noise is None else y + noise


def bias_act_case(
    act: str, name: str = "", shape: tuple[int, ...] = (2, 3, 5, 7), dim: int = 1, **kw: Any
) -> Case:
    def truth(x: Tensor, b: Tensor | None = None) -> Tensor:
        z = x if b is None else x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
        return activate(z, act, kw.get("alpha"), kw.get("gain"), kw.get("clamp"))

    def run(x: Tensor, b: Tensor | None = None, **k: Any) -> Tensor:
        return ops.bias_act(x, b, dim, act, **kw, **k)

    shapes = {"x": shape} if name == "nobias" else {"x": shape, "b": (shape[dim],)}
    return Case(f"bias_act-{act}{'-' if name else ''}{name}", shapes, run, truth)


def fir_case(
    name: str, f: Tensor | None, up: Any, down: Any, pad: Any, flip: bool = False, gain: float = 1
) -> Case:
    def run(x: Tensor, **k: Any) -> Tensor:
        return ops.upfirdn2d(x, None if f is None else f.to(x.device), up, down, pad, flip, gain, **k)

    def truth(x: Tensor) -> Tensor:
        four = [pad] * 4 if isinstance(pad, int) else pad
        return fir(x, f, *((v, v) if isinstance(v, int) else v for v in (up, down)), tuple(four), flip, gain)

    return Case(f"upfirdn2d-{name}", {"x": (2, 3, 6, 9)}, run, truth)


def resample_case(
    name: str, k: int, groups: int = 1, corr: bool = True, f: Tensor | None = FILTER, **kw: Any
) -> Case:
    up, down, pad = kw.get("up", 1), kw.get("down", 1), kw.get("padding", 0)

    def run(x: Tensor, w: Tensor, **b: Any) -> Tensor:
        own = None if f is None else f.to(x.device)
        return ops.conv2d_resample(x, w, own, groups=groups, flip_weight=corr, **kw, **b)

    shapes = {"x": (2, 4, 6, 7), "w": (6, 4 // groups, k, k)}
    return Case(
        f"conv2d_resample-{name}",
        shapes,
        run,
        lambda x, w: resample(x, w, f, up, down, pad, groups, corr),
        4.0,
    )


def modulated_case(name: str, k: int, noise: str = "", act: str = "", demod: bool = True, **kw: Any) -> Case:
    up, down = kw.get("up", 1), kw.get("down", 1)
    h, w = 6 * up // down, 4 * up // down
    shapes: dict[str, tuple[int, ...]] = {"x": (2, 4, 6, 4), "w": (5, 4, k, k), "s": (2, 4)}
    shapes |= {"noise": (2, 1, h, w)} if noise else {}
    shapes |= {"b": (5,)} if act else {}

    def split(rest: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
        return (rest[0] if noise else None), (rest[-1] if act else None)

    def run(x: Tensor, weight: Tensor, s: Tensor, *rest: Tensor, backend: str = "auto") -> Tensor:
        n, b = split(rest)
        common: dict[str, Any] = {
            "padding": k // 2,
            "resample_filter": FILTER.to(x.device),
            "demodulate": demod,
        }
        common |= {"flip_weight": up == 1, "backend": backend} | kw
        if act:
            return ops.modulated_conv2d_act(x, weight, s, n, bias=b, act=act, clamp=2.0, **common)
        return ops.modulated_conv2d(x, weight, s, n, **common)

    def truth(x: Tensor, weight: Tensor, s: Tensor, *rest: Tensor) -> Tensor:
        n, b = split(rest)
        y = modulated(x, weight, s, n, demod, up, down)
        return activate(y + b[:, None, None], act, None, None, 2.0) if act and b is not None else y

    op = "modulated_conv2d_act" if act else "modulated_conv2d"
    return Case(f"{op}-{name}", shapes, run, truth, 8.0, ("w", "s", "noise", "b"))


def epilogue_case(act: str, given: str, **kw: Any) -> Case:
    every: dict[str, tuple[int, ...]] = {"d": (2, 3), "n": (2, 1, 5, 7), "b": (3,), "s": (2, 3)}
    names = {"d": "demod", "n": "noise", "b": "bias", "s": "next_style"}

    def run(x: Tensor, *rest: Tensor, **k: Any) -> Tensor:
        return ops.conv_epilogue(
            x, **{names[c]: t for c, t in zip(given, rest, strict=True)}, act=act, **kw, **k
        )

    def truth(x: Tensor, *rest: Tensor) -> Tensor:
        t = dict(zip(given, rest, strict=True))
        z = x * t["d"][:, :, None, None] if "d" in t else x
        z = z + t["n"] if "n" in t else z
        z = z + t["b"][:, None, None] if "b" in t else z
        y = activate(z, act, None, kw.get("gain"), kw.get("clamp"))
        return y * t["s"][:, :, None, None] if "s" in t else y

    shapes = {"x": (2, 3, 5, 7), **{c: every[c] for c in given}}
    return Case(f"conv_epilogue-{act}-{given or 'bare'}", shapes, run, truth, wide=tuple("dnbs"))


CASES = [
    *(bias_act_case(act) for act in ops.ACTIVATIONS),
    *(
        bias_act_case(act, "clamp", clamp=0.7, gain=1.5)
        for act in ("linear", "lrelu", "elu", "softplus", "swish")
    ),
    bias_act_case("lrelu", "alpha", alpha=0.35),
    bias_act_case("lrelu", "mirrored", alpha=-0.5),
    bias_act_case("relu", "negative_gain", gain=-1.5),
    bias_act_case("tanh", "nobias"),
    bias_act_case("swish", "dim0", dim=0),
    bias_act_case("lrelu", "dim3", dim=3),
    bias_act_case("lrelu", "matrix", shape=(5, 17)),
    bias_act_case("sigmoid", "vector", shape=(13,), dim=0),
    bias_act_case("lrelu", "one_pixel", shape=(1, 1, 1, 1)),
    bias_act_case("selu", "volume", shape=(2, 3, 2, 3, 2), dim=2),
    fir_case("blur", FILTER, 1, 1, (2, 1, 1, 2)),
    fir_case("up", FILTER, 2, 1, (2, 1, 2, 1), gain=4),
    fir_case("down", FILTER, 1, 2, 1),
    fir_case("up_down", SKEWED, (3, 2), (2, 3), (5, 2, 1, 6), gain=1.7),
    fir_case("flip", SKEWED, (1, 2), (2, 1), (2, 3, 4, 1), flip=True),
    fir_case("crop", SKEWED, 2, 1, (-1, -2, 3, -2)),
    fir_case("long", LONG, 2, 1, (6, 5, 6, 5), gain=4),
    fir_case("long_down", LONG, 1, 2, (5, 5, 5, 5), flip=True),
    fir_case("no_filter", None, 2, 3, (1, 0, 2, 1)),
    fir_case("much_padding", FILTER, 1, 1, (30, 29, 1, 27)),
    resample_case("plain", 3, padding=1),
    resample_case("padding", 3, padding=[1, 0, 2, 1], corr=False),
    resample_case("groups", 3, groups=2, padding=1),
    resample_case("pointwise_down", 1, down=2),
    resample_case("pointwise_up", 1, up=2),
    resample_case("down", 3, down=2, padding=1),
    resample_case("up", 3, up=2, padding=1, corr=False),
    resample_case("up_groups", 3, groups=2, up=2, padding=1),
    resample_case("up_down", 3, up=2, down=2, padding=1),
    resample_case("up4", 2, up=4, padding=-2),
    resample_case("up_no_filter", 3, f=None, up=2, padding=1),
    modulated_case("plain", 3),
    modulated_case("noise", 3, noise="own"),
    modulated_case("up", 3, noise="own", up=2),
    modulated_case("down", 3, down=2),
    modulated_case("to_rgb", 1, demod=False),
    modulated_case("lrelu", 3, noise="own", act="lrelu"),
    modulated_case("up_swish", 3, noise="own", act="swish", up=2),
    modulated_case("rgb_linear", 1, demod=False, act="linear"),
    epilogue_case("lrelu", "dnb", clamp=1.0),
    epilogue_case("swish", "dnbs", clamp=1.0),
    epilogue_case("tanh", "dnbs", gain=1.5),
    epilogue_case("softplus", "nb"),
    epilogue_case("linear", "d"),
    epilogue_case("lrelu", ""),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def assert_close(got: Tensor, want: Tensor, relative: float) -> None:
    assert got.shape == want.shape
    error = (got.detach().double().cpu() - want.detach()).abs().max().item() if want.numel() else 0.0
    scale = want.detach().abs().max().item() if want.numel() else 1.0
    assert error <= relative * max(scale, 1e-3), f"error {error:.3g} at scale {scale:.3g}"


@each_case
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda t: str(t).removeprefix("torch."))
def test_values(case: Case, dtype: torch.dtype, place: Any) -> None:
    inputs = case.draw(dtype)
    y = case.run(*place.put(*inputs), backend=place.backend)
    assert y.dtype == dtype
    assert_close(y, case.truth(*(t.double() for t in inputs)), TOLERANCE[dtype] * case.slack)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_first_gradients(case: Case, dtype: torch.dtype, place: Any) -> None:
    exact = [t.double().requires_grad_() for t in case.draw(dtype, coarse=False)]
    inputs = [t.detach().to(like.dtype) for t, like in zip(exact, case.draw(dtype), strict=True)]
    exact = [t.double().requires_grad_() for t in inputs]
    inputs = [t.requires_grad_() for t in place.put(*inputs)]
    y = case.run(*inputs, backend=place.backend)
    want_y = case.truth(*exact)
    dy = torch.ones_like(want_y)
    want = torch.autograd.grad(want_y, exact, dy)
    got = torch.autograd.grad(y, inputs, dy.to(y))
    for name, a, b, x in zip(case.shapes, got, want, inputs, strict=True):
        assert a.dtype == x.dtype, name
        if dtype == torch.float32:
            assert_close(a, b, 2e-5)
        else:  # 16-bit rounding moves single elements across a kink: compare as a whole
            assert (a.double().cpu() - b).norm() <= 0.15 * b.norm() + 1e-3, name


@each_case
def test_gradients_of_any_order(case: Case, place: Any) -> None:
    inputs = [t.requires_grad_() for t in place.put(*case.draw(torch.float64, coarse=False))]

    def run(*tensors: Tensor) -> Tensor:
        return case.run(*tensors, backend=place.backend)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_third_derivative(place: Any) -> None:
    x = place.put(torch.linspace(-2, 2, 9, dtype=torch.float64))[0].requires_grad_()
    y = ops.bias_act(x, dim=0, act="tanh", backend=place.backend)
    for _ in range(3):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    t = torch.tanh(x)
    assert_close(y, ((1 - t**2) * (6 * t**2 - 2)).cpu(), 1e-12)


@each_case
def test_memory_layouts(case: Case, place: Any) -> None:
    inputs = place.put(*case.draw(torch.float32))
    want = case.run(*inputs, backend=place.backend)
    x = inputs[0]
    strided = torch.empty(*x.shape[:-1], 2 * x.shape[-1], device=x.device)[..., ::2].copy_(x)
    shifted = torch.empty(x.numel() + 1, device=x.device)[1:].view(x.shape).copy_(x)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    variants = [strided, shifted, turned]
    if x.ndim == 4:
        variants.append(x.contiguous(memory_format=torch.channels_last))
    for variant in variants:
        before = variant.clone()
        y = case.run(variant, *inputs[1:], backend=place.backend)
        assert_close(y, want.double().cpu(), 2e-6)
        assert torch.equal(variant, before), "the input was changed"
    if x.ndim == 4:
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert want.is_contiguous()


@each_case
def test_gradients_through_channels_last(case: Case, place: Any) -> None:
    inputs = place.put(*case.draw(torch.float64, coarse=False))
    if inputs[0].ndim != 4:
        pytest.skip("channels_last has four axes")
    plain = [t.clone().requires_grad_() for t in inputs]
    last = [t.clone().requires_grad_() for t in inputs]
    y = case.run(*plain, backend=place.backend)
    z = case.run(last[0].contiguous(memory_format=torch.channels_last), *last[1:], backend=place.backend)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    for a, b in zip(torch.autograd.grad(y, plain, dy), torch.autograd.grad(z, last, dy), strict=True):
        assert_close(b, a.cpu(), 1e-11)


@each_case
def test_empty_batch(case: Case, place: Any) -> None:
    inputs = case.draw(torch.float32, batch=0)
    if case.name in ("bias_act-swish-dim0", "bias_act-sigmoid-vector"):
        inputs[1] = inputs[1][:0]
    inputs = [t.requires_grad_() for t in place.put(*inputs)]
    y = case.run(*inputs, backend=place.backend)
    assert y.numel() == 0
    grads = torch.autograd.grad(y.sum(), inputs)
    assert all(g.shape == t.shape for g, t in zip(grads, inputs, strict=True))


def test_gradient_is_zero_at_the_clamp(place: Any) -> None:
    for dtype in TOLERANCE:
        for act in ("linear", "lrelu", "swish"):
            x = torch.tensor([[-9.0, -0.1, 0.1, 9.0]], dtype=dtype, device=place.device, requires_grad=True)
            y = ops.bias_act(x, act=act, clamp=0.7, gain=1.0, backend=place.backend)
            (dx,) = torch.autograd.grad(y.sum(), x)
            assert (dx[0] != 0).tolist() == [act == "swish", True, True, False]
            exact = torch.tensor([[0.5]], dtype=dtype, device=place.device, requires_grad=True)
            y = ops.bias_act(exact, act="linear", clamp=0.5, backend=place.backend)
            assert torch.autograd.grad(y.sum(), exact)[0].item() == 0


def test_float16_neither_overflows_nor_vanishes(place: Any) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 6, 6, generator=g)
    w = torch.randn(8, 64, 3, 3, generator=g) * 300
    s = torch.randn(1, 64, generator=g) * 300
    x16 = x.half()
    y = ops.modulated_conv2d(*place.put(x16, w, s), padding=1, backend=place.backend)
    want = modulated(x16.double(), w.double(), s.double(), None, True, 1, 1)
    assert_close(y, want, 2**-8)

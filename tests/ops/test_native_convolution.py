"""Convolutions and gradients by the tensor-core kernels, emulated, against the reference in float64."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyface import ops
from pyface.errors import BackendError
from pyface.models import DiscriminatorConfig, GeneratorConfig, StyleGAN2Discriminator, StyleGAN2Generator
from pyface.ops import _gradient_kernels, _kernels, _native, convolution, convolution_choice
from pyface.ops._composition import Conv
from pyface.ops._dispatch import primitives
from pyface.training.losses import logistic_generator, logistic_real
from pyface.training.regularizers import r1_penalty

LAST = torch.channels_last
DEVICE = "cpu"
# Of the largest value of a tensor; 16-bit gradients are rounded at every step.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


@pytest.fixture(params=["emu", "cuda"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Backend "auto" takes our kernels, in the emulator or on a GPU; counts their launches."""
    launches: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        run = getattr(module, name)

        def call(*arguments: Any, **settings: Any) -> Any:
            launches[name] += 1
            return run(*arguments, **settings)

        monkeypatch.setattr(module, name, call)

    for name in ("conv2d", "upconv2d", "modulate", "conv_epilogue"):
        counted(_kernels, name)
    counted(_gradient_kernels, "conv2d_weight_grad")
    if request.param == "cuda":
        found = _native._load("cuda")
        if isinstance(found, str):
            pytest.skip(f"back-end cuda cannot run here: {found}")
        monkeypatch.setattr(convolution_choice, "choose", lambda *_: "pyface")
        monkeypatch.setattr(sys.modules[__name__], "DEVICE", "cuda")
        yield launches
        return
    try:
        with _native.use("emu", schedule=2):
            yield launches
    except BackendError as error:
        pytest.skip(str(error))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE)


def low_pass() -> Tensor:
    return ops.setup_filter([1, 3, 3, 1], device=DEVICE)


def derivatives(run: Callable[..., Tensor], leaves: list[Tensor], wide: bool) -> list[Tensor]:
    """The output of `run`, its first gradients for `leaves`, and those of a sum of products of these."""
    leaves = [(t.double() if wide else t).detach().clone(memory_format=torch.preserve_format) for t in leaves]
    for t in leaves:
        t.requires_grad_(True)
    y = run(*leaves)
    seeds = [drawn(*t.shape, seed=9) for t in (y, *leaves)]
    first = torch.autograd.grad((y * seeds[0].to(y.dtype)).sum(), leaves, create_graph=True)
    penalty = sum((g * s.to(g.dtype)).sum() for g, s in zip(first, seeds[1:], strict=True))
    second = torch.autograd.grad(penalty, leaves, allow_unused=True)
    return [y, *first, *(torch.zeros((), device=DEVICE) if g is None else g for g in second)]


def assert_derivatives(found: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    for i, (got, truth) in enumerate(zip(found, wanted, strict=True)):
        scale = truth.abs().max().clamp(min=1e-6)
        error = ((got.double() - truth).abs().max() / scale).item()
        assert error < TOLERANCE[dtype], f"tensor {i}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("up", "kernel", "channels"), [(1, 3, 16), (2, 3, 12), (1, 1, 5)])
def test_modulated_convolution(
    kernels: Counter[str], dtype: torch.dtype, up: int, kernel: int, channels: int
) -> None:
    x = drawn(2, channels, 6, 5).to(dtype).contiguous(memory_format=LAST)
    w, s = drawn(8, channels, kernel, kernel), drawn(2, channels, seed=3) + 1
    b, noise = drawn(8), drawn(2, 1, 6 * up, 5 * up)

    def run(backend: str) -> Callable[..., Tensor]:
        def layer(x: Tensor, w: Tensor, s: Tensor, b: Tensor, noise: Tensor) -> Tensor:
            return ops.modulated_conv2d_act(
                x, w, s, noise, up, kernel // 2, low_pass() if up == 2 else None, flip_weight=up == 1, bias=b,
                act="tanh", gain=0.7, backend=backend,
            )  # fmt: skip

        return layer

    leaves = [x, w, s, b, noise]
    found = derivatives(run("auto"), leaves, wide=False)
    assert_derivatives(found, derivatives(run("reference"), leaves, wide=True), dtype)
    assert kernels["conv2d"] >= 6
    assert kernels["conv2d_weight_grad"] >= 2


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("up", "down", "kernel"), [(1, 1, 3), (1, 2, 3), (2, 1, 3), (1, 2, 1)])
def test_resampling_convolution(
    kernels: Counter[str], dtype: torch.dtype, up: int, down: int, kernel: int
) -> None:
    x = drawn(2, 8, 6, 7).to(dtype).contiguous(memory_format=LAST)
    w = drawn(9, 8, kernel, kernel)

    def run(backend: str) -> Callable[..., Tensor]:
        f = None if up == down else low_pass()
        return lambda x, w: ops.conv2d_resample(
            x, w, f, up, down, kernel // 2, weight_gain=0.3, backend=backend
        )

    found = derivatives(run("auto"), [x, w], wide=False)
    assert found[0].is_contiguous(memory_format=LAST)
    assert_derivatives(found, derivatives(run("reference"), [x, w], wide=True), dtype)
    assert kernels["conv2d"] >= 3
    assert kernels["conv2d_weight_grad"] >= 1


@pytest.mark.parametrize(
    "c",
    [
        Conv((1, 1), (1, 1)),
        Conv((2, 2), (1, 0)),
        Conv((2, 2), (1, 1), transposed=True, output_padding=(1, 0)),
        Conv((1, 1), (0, 1), transposed=True),
    ],
)
def test_every_derivative_is_one_of_the_three(kernels: Counter[str], c: Conv) -> None:
    x, w = drawn(2, 5, 5, 6).contiguous(memory_format=LAST), drawn(5 if c.transposed else 4, 5, 3, 3)
    p = primitives(x, "auto")

    def truth(x: Tensor, w: Tensor) -> Tensor:
        return torch.convolution(
            x, w, None, c.stride, c.padding, (1, 1), c.transposed, c.output_padding, c.groups
        )

    found = derivatives(lambda x, w: p.conv(x, w, c).square(), [x, w], wide=False)
    wanted = derivatives(lambda x, w: truth(x, w).square(), [x, w], wide=True)
    assert_derivatives(found, wanted, torch.float32)
    assert kernels["conv2d"] >= 4
    assert kernels["conv2d_weight_grad"] >= 2


def test_what_the_kernels_do_not_take_goes_to_torch(kernels: Counter[str]) -> None:
    last = drawn(1, 4, 6, 6).contiguous(memory_format=LAST)
    w = drawn(4, 4, 3, 3)
    for x, weight, groups, padding in (
        (last.double(), w.double(), 1, 1),  # float64
        (last.contiguous(), w, 1, 1),  # NCHW
        (last, drawn(4, 4, 5, 5), 1, 2),  # 5 x 5
        (last, drawn(4, 2, 3, 3), 2, 1),  # groups
        (last[:0], w, 1, 1),  # no images
    ):
        y = ops.conv2d_resample(x, weight, padding=padding, groups=groups)
        torch.testing.assert_close(y, F.conv2d(x, weight, padding=padding, groups=groups))
    assert not kernels["conv2d"]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("up", "kernel"), [(1, 3), (1, 1), (2, 3)])
@pytest.mark.parametrize("demodulate", [False, True])
def test_a_layer_without_gradients_is_one_launch(
    kernels: Counter[str], dtype: torch.dtype, up: int, kernel: int, demodulate: bool
) -> None:
    x = drawn(2, 16, 6, 5).to(dtype).contiguous(memory_format=LAST)
    w, s = drawn(12, 16, kernel, kernel), drawn(2, 16, seed=3) + 1
    b, noise = drawn(12), drawn(6 * up, 5 * up)

    def layer(x: Tensor, backend: str) -> Tensor:
        wide = [t.to(x.dtype) if x.dtype == torch.float64 else t for t in (w, s, b, noise)]
        return ops.modulated_conv2d_act(
            x, wide[0], wide[1], wide[3], up, kernel // 2, low_pass() if up == 2 else None, demodulate,
            flip_weight=up == 1, bias=wide[2], act="lrelu", gain=1.4, clamp=6.0, backend=backend,
        )  # fmt: skip

    with torch.no_grad():
        y = layer(x, "auto")
    assert kernels == Counter({"upconv2d" if up == 2 else "conv2d": 1})
    assert y.is_contiguous(memory_format=LAST)
    assert_derivatives([y], [layer(x.double(), "reference")], dtype)


def test_a_filter_that_is_no_outer_product_goes_in_steps(kernels: Counter[str]) -> None:
    x, w = drawn(1, 8, 4, 4).contiguous(memory_format=LAST), drawn(8, 8, 3, 3)
    f = low_pass().clone()
    out = []
    for corner in (0.0, 0.1):
        f[0, 0] += corner  # in place: the same tensor is looked at again
        y = ops.modulated_conv2d(x, w, drawn(1, 8) + 1, None, 2, 1, 1, f, flip_weight=False)
        out.append(kernels["upconv2d"])
        truth = ops.modulated_conv2d(
            x.double(), w.double(), (drawn(1, 8) + 1).double(), None, 2, 1, 1, f, flip_weight=False,
            backend="reference",
        )  # fmt: skip
        assert_derivatives([y], [truth], torch.float32)
    assert out == [1, 1]
    assert kernels["conv2d"] == 1


def test_no_weight_gradients_launches_none(kernels: Counter[str]) -> None:
    x = drawn(1, 8, 4, 4).contiguous(memory_format=LAST).requires_grad_(True)
    w = drawn(8, 8, 3, 3).requires_grad_(True)
    y = ops.conv2d_resample(x, w, padding=1)
    with ops.no_weight_gradients():
        dx, dw = torch.autograd.grad(y.square().sum(), [x, w], create_graph=True, allow_unused=True)
    assert dw is None
    assert kernels["conv2d_weight_grad"] == 0
    (dw,) = torch.autograd.grad(dx.square().sum(), [w])
    assert dw is not None
    assert kernels["conv2d_weight_grad"] > 0


def test_weight_gradients_have_the_same_bits_in_every_order() -> None:
    module = pytest.importorskip("pyface._emu", reason="built without PYFACE_EMU")
    x, dy = drawn(3, 16, 9, 7).bfloat16(), drawn(3, 24, 9, 7).bfloat16()
    shape, c = torch.Size((24, 16, 3, 3)), Conv((1, 1), (1, 1))
    first, *others = (
        _gradient_kernels.conv2d_weight_grad(_native._Emu(module, schedule), dy, x, shape, c)
        for schedule in range(3)
    )
    assert all(torch.equal(first, other) for other in others)
    truth = convolution._torch_gradients(
        dy.double(), x.double(), torch.empty(shape).double(), c, False, True
    )[1]
    assert_derivatives([first], [truth], torch.bfloat16)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish", "softplus"])
@pytest.mark.parametrize("shared_noise", [False, True])
def test_epilogue_gradients_in_one_pass(
    kernels: Counter[str], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, act: str, shared_noise: bool
) -> None:
    x = drawn(2, 12, 5, 6).to(dtype).contiguous(memory_format=LAST)
    leaves = [x, drawn(2, 12), drawn(1 if shared_noise else 2, 1, 5, 6), drawn(12), drawn(2, 12, seed=5)]
    seen = []
    run = _gradient_kernels.conv_epilogue_grad
    monkeypatch.setattr("pyface.ops._autograd.conv_epilogue_grad", lambda *a: seen.append(a) or run(*a))
    out = []
    for wide in (False, True):
        own = [(t.double() if wide else t.clone()).requires_grad_(True) for t in leaves]
        x, demod, noise, bias, next_style = own
        y = ops.conv_epilogue(
            x, demod, noise, bias, next_style, act, clamp=2.0, backend="reference" if wide else "auto"
        )
        out.append(torch.autograd.grad(y, own, drawn(*y.shape).to(y.dtype)))
    assert len(seen) == 1
    assert_derivatives(list(out[0]), list(out[1]), dtype)
    assert out[0][0].is_contiguous(memory_format=LAST)
    for got, leaf in zip(out[0], leaves, strict=True):
        assert (got.dtype, got.shape) == (leaf.dtype, leaf.shape)


def training_step(backend: str, dtype: str) -> dict[str, Tensor]:
    """Gradients of all parameters in a step: generator and path length, discriminator and R1."""
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"resolution": 16, "channel_base": 128, "channel_max": 16}
    if dtype != "float32":
        sizes |= {"num_16bit_res": 2, "precision_16bit": dtype}
    G = StyleGAN2Generator(GeneratorConfig(**sizes, z_dim=16, w_dim=16, mapping_layers=2))
    D = StyleGAN2Discriminator(DiscriminatorConfig(**sizes))
    for name, parameter in G.named_parameters():
        if "noise_strength" in name:
            parameter.data.fill_(0.1)
    G, D = G.to(DEVICE), D.to(DEVICE)
    if backend == "double":
        G, D = G.double(), D.double()
    wide = torch.float64 if backend == "double" else torch.float32
    z, real = drawn(2, 16).to(wide), drawn(2, 3, 16, 16).to(wide).requires_grad_(True)
    ws = G.mapping(z, None)
    images = G.synthesis(ws, noise_mode="const")
    logistic_generator(D(images, None)).mean().backward()
    ws = G.mapping(z, None).detach().requires_grad_(True)
    images = G.synthesis(ws, noise_mode="const")
    directions = drawn(*images.shape, seed=4).to(images.dtype) / 16
    with ops.no_weight_gradients():
        (slope,) = torch.autograd.grad((images * directions).sum(), [ws], create_graph=True)
    slope.square().sum(2).mean(1).sqrt().sub(0.1).square().mean().backward()
    logits = D(real, None)
    (logistic_real(logits).mean() + r1_penalty(real, logits).mean()).backward()
    found = {f"G.{n}": p.grad for n, p in G.named_parameters()}
    found |= {f"D.{n}": p.grad for n, p in D.named_parameters()}
    return {name: g.double() for name, g in found.items() if g is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.15)])
def test_a_training_step_agrees_with_the_reference(
    kernels: Counter[str], dtype: str, tolerance: float
) -> None:
    found = training_step("auto", dtype)
    assert kernels["conv2d"] > 20
    assert kernels["conv2d_weight_grad"] > 10
    before = kernels["conv2d"], kernels["conv2d_weight_grad"]
    wanted = training_step("double", "float32")
    assert (kernels["conv2d"], kernels["conv2d_weight_grad"]) == before  # float64 is torch's
    assert found.keys() == wanted.keys()
    whole = torch.cat([g.flatten() for g in wanted.values()]).norm() / len(wanted) ** 0.5
    for name, truth in wanted.items():
        if truth.numel() == 1 and dtype != "float32":
            continue  # a strength of noise: what is left of thousands of rounded products of either sign
        error = (found[name] - truth).norm() / max(truth.norm(), 0.05 * whole)
        assert error < tolerance, f"{name}: {error:.2e}"

"""The fused synthesis on the CPU against the layers in float64: error, following of weights, when it runs."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pyface
from pyface.models import GeneratorConfig, StyleGAN2Generator
from pyface.models import _stylegan2_engine as engine
from pyface.ops import styled_conv

_cpu = pytest.importorskip("pyface._cpu")

# Error relative to the standard deviation of the image: (largest, root mean square).
LIMITS = {"float32": (5e-5, 1e-5), "bfloat16": (0.15, 0.01)}


def random_generator(resolution: object = 32, seed: int = 0, **settings: object) -> StyleGAN2Generator:
    """A generator whose noise and biases matter."""
    torch.manual_seed(seed)
    defaults = {"channel_base": 1024, "channel_max": 128, "z_dim": 32, "w_dim": 32, "mapping_layers": 2}
    network = StyleGAN2Generator(GeneratorConfig(resolution, **{**defaults, **settings}))  # type: ignore[arg-type]
    return randomized(network)


def randomized(network: StyleGAN2Generator) -> StyleGAN2Generator:
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.2)
        elif name.endswith("bias"):
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return network.eval().requires_grad_(False)


def exact(network: StyleGAN2Generator, ws: Tensor, **options: object) -> Tensor:
    """The image of the layers in float64, all spectra as channels."""
    options = {
        key: [t.double() for t in value] if key == "noise" else value  # type: ignore[attr-defined]
        for key, value in options.items()
    }
    return joined(copy.deepcopy(network).double().synthesis(ws.double(), **options))


def joined(image: Tensor | dict[str, Tensor]) -> Tensor:
    return image if isinstance(image, Tensor) else torch.cat(list(image.values()), dim=1)


def check(network: StyleGAN2Generator, ws: Tensor, precision: str, **options: object) -> None:
    assert engine.engine_precision(network.synthesis, ws, precision) is not None
    got = joined(network.synthesis(ws, precision=precision, **options))
    wanted = exact(network, ws, **options)
    assert got.shape == wanted.shape
    assert got.dtype == torch.float32
    error = (got - wanted) / wanted.std()
    largest, rms = LIMITS[precision]
    assert error.abs().max() <= largest
    assert error.square().mean().sqrt() <= rms


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resolution": (80, 64), "initial_size": (5, 4)},
        {"resolution": (24, 96), "initial_size": (3, 12)},
        {"channel_base": 160, "channel_max": 20},
        {"spectra": {"vis": 3, "nir": 1}},
        {"conv_clamp": 0.5},
        {"use_noise": False},
    ],
    ids=str,
)
def test_error_against_float64(settings: dict[str, object], precision: str) -> None:
    network = random_generator(**settings)  # type: ignore[arg-type]
    ws = torch.randn(3, network.num_ws, network.w_dim)
    check(network, ws, precision, noise_mode="const")


@pytest.mark.parametrize("precision", list(LIMITS))
@pytest.mark.parametrize(("resolution", "batch"), [(64, 18), (256, 1)])
def test_error_at_full_width(resolution: int, batch: int, precision: str) -> None:
    torch.manual_seed(1)
    network = randomized(StyleGAN2Generator(GeneratorConfig(resolution, channel_base=16384)))
    torch.manual_seed(2)
    ws = torch.randn(batch, network.num_ws, 512)
    check(network, ws, precision, noise_mode="const")


@pytest.mark.parametrize("precision", list(LIMITS))
def test_error_on_the_shipped_generator(precision: str) -> None:
    network = pyface.load("demo-64").eval().requires_grad_(False)
    torch.manual_seed(3)
    c = torch.zeros(4, network.c_dim) if network.c_dim else None
    ws = network.mapping(torch.randn(4, network.z_dim), c, truncation_psi=0.7)
    check(network, ws, precision, noise_mode="const")


@pytest.mark.parametrize("shared", [False, True])
def test_given_noise(shared: bool) -> None:
    network = random_generator(64)
    shapes = network.synthesis.noise_shapes().values()
    noise = [torch.randn(shape if shared else (3, 1, *shape)) for shape in shapes]
    ws = torch.randn(3, network.num_ws, network.w_dim)
    check(network, ws, "float32", noise_mode="given", noise=noise)


def test_random_noise_is_that_of_the_layers() -> None:
    network = random_generator(64)
    ws = torch.randn(2, network.num_ws, network.w_dim)

    def image() -> Tensor:
        return joined(network.synthesis(ws, generator=torch.Generator().manual_seed(7)))

    fused = image()
    handle = network.synthesis.b8.register_forward_hook(lambda *_: None)  # the layers themselves run now
    layers = image()
    handle.remove()
    assert not torch.equal(fused, layers)
    torch.testing.assert_close(fused, layers, rtol=0, atol=1e-4 * float(layers.std()))


def test_images_do_not_depend_on_their_batch() -> None:
    network = random_generator(64)
    ws = torch.randn(3, network.num_ws, network.w_dim)
    for precision in LIMITS:
        together = network.synthesis(ws, noise_mode="const", precision=precision)
        alone = torch.cat([network.synthesis(w[None], noise_mode="const", precision=precision) for w in ws])
        # The styles' last bits may differ, and in bfloat16 they decide how a value is rounded.
        error = (together - alone).square().mean().sqrt() / alone.std()
        assert error <= (1e-6 if precision == "float32" else 3e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", list(LIMITS))
def test_weights_follow_an_optimiser_step(precision: str, fused: bool) -> None:
    """Also a fused one, which leaves the versions of tensors as they are."""
    network = random_generator(32)
    ws = torch.randn(2, network.num_ws, network.w_dim)
    before = network.synthesis(ws, noise_mode="const", precision=precision)
    network.requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=fused)
    network.synthesis(ws, noise_mode="const").square().mean().backward()
    optimizer.step()
    network.requires_grad_(False)
    after = network.synthesis(ws, noise_mode="const", precision=precision)
    assert (after - before).abs().max() > 0.1 * before.std()
    check(network, ws, precision, noise_mode="const")
    network.load_state_dict(random_generator(32, seed=5).state_dict())
    check(network, ws, precision, noise_mode="const")
    network.synthesis.b16.conv1.weight.data.mul_(0.5)
    check(network, ws, precision, noise_mode="const")
    twin = copy.deepcopy(network)
    twin.synthesis.b32.conv0.weight.mul_(-1)
    check(twin, ws, precision, noise_mode="const")
    check(network, ws, precision, noise_mode="const")


def test_threads_give_the_same_image() -> None:
    network = random_generator(128, channel_base=4096)
    ws = torch.randn(2, network.num_ws, network.w_dim)
    threads = torch.get_num_threads()
    try:
        for precision in LIMITS:
            images = []
            for count in (1, 3):
                torch.set_num_threads(count)
                images.append(network.synthesis(ws, noise_mode="const", precision=precision))
            torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-5 * float(images[0].std()))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", list(LIMITS))
def test_threads_that_share_output_channels(precision: str) -> None:
    """Layers with few pixels and many channels, where each thread reads its own part of the weights."""
    network = random_generator(32, channel_base=16384, channel_max=256, spectra={"vis": 3, "nir": 1})
    ws = torch.randn(2, network.num_ws, network.w_dim)
    threads = torch.get_num_threads()
    try:
        images = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            images.append(joined(network.synthesis(ws, noise_mode="const", precision=precision)))
        check(network, ws, precision, noise_mode="const")
    finally:
        torch.set_num_threads(threads)
    for image in images[1:]:  # sums of heads are added in another order
        torch.testing.assert_close(image, images[0], rtol=0, atol=1e-5 * float(images[0].std()))


def test_calls_from_several_threads_at_once() -> None:
    network = random_generator(32)
    ws = [torch.randn(2, network.num_ws, network.w_dim) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda w: network.synthesis(w, noise_mode="const"), ws))
    for w, image in zip(ws, images, strict=True):
        torch.testing.assert_close(image, network.synthesis(w, noise_mode="const"))


def test_memory_can_be_released() -> None:
    network = random_generator(32)
    ws = torch.randn(1, network.num_ws, network.w_dim)
    before = network.synthesis(ws, noise_mode="const")
    assert styled_conv._arena.held
    styled_conv.release_memory()
    styled_conv.release_memory()
    assert not hasattr(styled_conv._arena, "held")
    assert torch.equal(network.synthesis(ws, noise_mode="const"), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_kept_plans_follow_every_call(precision: str) -> None:
    """Batches, kinds of noise and networks take turns; each image is that of a thread that begins anew."""
    networks = [random_generator(32, seed=seed) for seed in range(2)]
    noise = [torch.randn(*size) for size in networks[0].synthesis.noise_shapes().values()]
    options = ({"noise_mode": "const"}, {"noise_mode": "none"}, {"noise_mode": "given", "noise": noise})

    def image(turn: int) -> Tensor:
        network, ws = networks[turn % 2], torch.empty(1 + turn % 3, networks[0].num_ws, networks[0].w_dim)
        torch.manual_seed(turn)
        with torch.no_grad():
            return joined(network.synthesis(ws.normal_(), precision=precision, **options[turn // 6]))

    kept = [image(turn) for _ in range(2) for turn in range(18)][18:]
    for turn, wanted in enumerate(kept):
        styled_conv.release_memory()
        assert torch.equal(image(turn), wanted)


def test_float32_keeps_all_bits_of_numbers() -> None:
    """On AMX a number is three of bfloat16; every one of them has to count."""
    network = random_generator(16, channel_base=512, channel_max=32)
    ws = torch.randn(2, network.num_ws, network.w_dim)
    scale = torch.linspace(0, 6, 32).exp()  # large and small channels side by side
    block = network.synthesis.b16
    network.synthesis.b8.conv1.weight.mul_(1 + 1e-6)
    block.conv1.affine.weight.div_(scale[:, None])
    block.conv1.affine.bias.div_(scale)
    block.conv1.weight.mul_(scale[:, None, None])
    check(network, ws, "float32", noise_mode="const")


def test_affine_weights_in_bfloat16() -> None:
    """They are read in float16 where they fit, and followed."""
    network = random_generator(16)
    ws = torch.randn(2, network.num_ws, network.w_dim)
    affine = network.synthesis.b16.conv0.affine.weight
    for change in (1.0, -1.0, 1e7):  # the last one beyond float16; demodulation takes it out again
        affine.data.mul_(change)
        check(network, ws, "bfloat16", noise_mode="const")


def test_notices_changes_of_the_layers() -> None:
    network = random_generator(16)
    ws = torch.randn(1, network.num_ws, network.w_dim)

    def fused() -> bool:
        return engine.engine_precision(network.synthesis, ws, None) is not None

    def changed() -> None:
        """Another layer in place of one that was seen."""
        assert fused()
        check(network, ws, "float32", noise_mode="const")

    changed()
    block = network.synthesis.b8
    other = random_generator(16, seed=9).synthesis.b8
    block.conv0 = other.conv0
    changed()
    block.heads["vis"] = other.heads["vis"]
    changed()
    block.conv1.weight = other.conv1.weight
    changed()
    values = block.conv1.weight.detach().clone()
    block.conv1.weight.data = values.neg()
    changed()
    block.conv1.affine.bias.data = other.conv1.affine.bias.data + 1
    changed()
    block.conv1.weight.data = values[:, :, :, :2].contiguous()
    assert not fused()
    block.conv1.weight.data = values
    changed()
    block.conv1.weight.data = values.transpose(2, 3)
    assert not fused()
    block.conv1.weight.data = values
    block.conv1.forward = lambda *a, **k: None  # type: ignore[method-assign]
    assert not fused()
    del block.conv1.forward
    assert fused()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not fused()
    hook.remove()
    torch.nn.utils.parametrizations.orthogonal(block.conv1.affine)
    assert not fused()


def test_leaves_to_the_layers_what_it_cannot_do() -> None:
    network = random_generator(16)
    ws = torch.randn(1, network.num_ws, network.w_dim)

    def runs(net: StyleGAN2Generator = network, w: Tensor = ws, precision: str | None = None) -> bool:
        return engine.engine_precision(net.synthesis, w, precision) is not None

    assert runs()
    assert not runs(precision="float16")
    assert not runs(w=ws.clone().requires_grad_())
    with torch.no_grad():
        assert runs(w=ws.clone().requires_grad_())
    assert not runs(copy.deepcopy(network).double(), ws.double())
    assert not runs(random_generator(16, architecture="resnet"))
    assert not runs(random_generator(16, activation="relu"))
    assert not runs(random_generator(16, resample_filter=(1, 2, 1)))
    assert not runs(random_generator(16, num_16bit_res=2))
    assert not runs(copy.deepcopy(network).requires_grad_(True))
    hooked = copy.deepcopy(network)
    hooked.synthesis.b8.conv0.register_forward_hook(lambda *_: None)
    assert not runs(hooked)
    elsewhere = copy.deepcopy(network)
    for module in elsewhere.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"
    assert not runs(elsewhere)


_ON_ANOTHER_CPU = """
import torch
from tests_engine import check, random_generator
network = random_generator(32)
ws = torch.randn(2, network.num_ws, network.w_dim)
for precision in ("float32", "bfloat16"):
    check(network, ws, precision, noise_mode="const")
"""


@pytest.mark.parametrize("isa", _cpu.isa_available())
def test_every_instruction_set(isa: str, tmp_path: Path) -> None:
    module = tmp_path / "tests_engine.py"
    module.write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYFACE_CPU_ISA": isa, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_CPU], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

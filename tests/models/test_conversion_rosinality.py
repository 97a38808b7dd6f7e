"""rosinality's training files: the converted networks agree with a forward pass written here from the papers.

The forward below knows that layout's conventions only (Karras et al. 2020, "Analyzing and improving the image
quality of StyleGAN", section 2.2 and appendix B): every sample has its own modulated and demodulated kernel,
applied as one grouped convolution; upsampling is a transposed convolution followed by the low-pass filter. It
shares no code with pyface.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pyface
from pyface.errors import CheckpointError
from pyface.models.conversion import convert_checkpoint, read_networks

KERNEL = torch.outer(*2 * [torch.tensor([1.0, 3.0, 3.0, 1.0])]) / 64


def lowpass(x: Tensor, kernel: Tensor, before: int, after: int) -> Tensor:
    """Every channel padded and convolved with one kernel."""
    x = F.pad(x, (before, after, before, after))
    taps = kernel.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, taps, groups=x.shape[1])


def enlarge(image: Tensor, kernel: Tensor) -> Tensor:
    """Zeros between the pixels, then the low-pass filter: twice the size."""
    n, c, h, w = image.shape
    spread = image.new_zeros(n, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = image
    return lowpass(spread, kernel, 2, 1)


def leaky(x: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), 0.2) * math.sqrt(2)


def linear(x: Tensor, s: dict, name: str, lr: float = 1.0) -> Tensor:
    weight = s[f"{name}.weight"]
    return x @ (weight * lr / math.sqrt(weight.shape[1])).T + s[f"{name}.bias"] * lr


def modulated(x: Tensor, w: Tensor, s: dict, name: str, demodulate: bool, up: bool) -> Tensor:
    """The convolution whose kernel is scaled per sample, as one grouped convolution."""
    weight = s[f"{name}.weight"][0]
    out_channels, in_channels, k, _ = weight.shape
    style = linear(w, s, f"{name}.modulation")
    kernels = weight[None] / math.sqrt(in_channels * k * k) * style[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    n, _, h, width = x.shape
    x = x.reshape(1, n * in_channels, h, width)
    if not up:
        y = F.conv2d(x, kernels.flatten(0, 1), padding=k // 2, groups=n)
        return y.view(n, out_channels, h, width)
    y = F.conv_transpose2d(x, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
    return lowpass(y.view(n, out_channels, 2 * h + 1, 2 * width + 1), s[f"{name}.blur.kernel"], 1, 1)


def generate(s: dict, z: Tensor) -> tuple[Tensor, Tensor]:
    """(w, image) of a generator's state dictionary with its own noise."""
    w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(1, 1 + sum(name.startswith("style.") for name in s) // 2):
        w = leaky(linear(w, s, f"style.{i}", 0.01), torch.zeros(w.shape[1], dtype=w.dtype))

    def styled(x: Tensor, name: str, index: int, up: bool) -> Tensor:
        x = modulated(x, w, s, f"{name}.conv", True, up)
        return leaky(x + s[f"{name}.noise.weight"] * s[f"noises.noise_{index}"], s[f"{name}.activate.bias"])

    def picture(x: Tensor, name: str) -> Tensor:
        return modulated(x, w, s, f"{name}.conv", False, False) + s[f"{name}.bias"]

    x = styled(s["input.input"].expand(len(z), -1, -1, -1), "conv1", 0, False)
    image = picture(x, "to_rgb1")
    for level in range(sum(name.endswith("upsample.kernel") for name in s)):
        x = styled(x, f"convs.{2 * level}", 2 * level + 1, True)
        x = styled(x, f"convs.{2 * level + 1}", 2 * level + 2, False)
        image = enlarge(image, s[f"to_rgbs.{level}.upsample.kernel"]) + picture(x, f"to_rgbs.{level}")
    return w, image


def judge(s: dict, x: Tensor) -> Tensor:
    """Logits of a discriminator's state dictionary."""

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        weight = s[f"{name}.weight"]
        return F.conv2d(x, weight / math.sqrt(weight[0].numel()), **options)

    x = leaky(conv(x, "convs.0.0"), s["convs.0.1.bias"])
    for i in range(1, 1 + sum("skip.1.weight" in name for name in s)):
        y = leaky(conv(x, f"convs.{i}.conv1.0", padding=1), s[f"convs.{i}.conv1.1.bias"])
        y = lowpass(y, s[f"convs.{i}.conv2.0.kernel"], 2, 2)
        y = leaky(conv(y, f"convs.{i}.conv2.1", stride=2), s[f"convs.{i}.conv2.2.bias"])
        x = conv(lowpass(x, s[f"convs.{i}.skip.0.kernel"], 1, 1), f"convs.{i}.skip.1", stride=2)
        x = (x + y) / math.sqrt(2)
    n, c, h, width = x.shape
    groups = x.view(min(n, 4), -1, c, h, width)
    spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    x = torch.cat([x, spread.repeat(min(n, 4)).view(n, 1, 1, 1).expand(-1, 1, h, width)], 1)
    x = leaky(conv(x, "final_conv.0", padding=1), s["final_conv.1.bias"]).flatten(1)
    x = leaky(linear(x, s, "final_linear.0"), torch.zeros(c, dtype=x.dtype))
    return linear(x, s, "final_linear.1")


WIDTHS = {4: 12, 8: 12, 16: 8}
W = 10


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape) * scale


def generator_state(kernel: Tensor = KERNEL) -> dict[str, Tensor]:
    torch.manual_seed(0)
    s = {"input.input": draw(1, WIDTHS[4], 4, 4)}
    for i in (1, 2, 3):
        s |= {f"style.{i}.weight": draw(W, W, scale=100), f"style.{i}.bias": draw(W)}

    def styled(name: str, index: int, before: int, size: int, up: bool) -> None:
        s[f"{name}.conv.weight"] = draw(1, WIDTHS[size], before, 3, 3)
        s[f"{name}.conv.modulation.weight"] = draw(before, W)
        s[f"{name}.conv.modulation.bias"] = 1 + draw(before, scale=0.1)
        s[f"{name}.noise.weight"] = draw(1)
        s[f"{name}.activate.bias"] = draw(WIDTHS[size])
        s[f"noises.noise_{index}"] = draw(1, 1, size, size)
        if up:
            s[f"{name}.conv.blur.kernel"] = kernel * 4

    def picture(name: str, size: int) -> None:
        s[f"{name}.conv.weight"] = draw(1, 3, WIDTHS[size], 1, 1)
        s[f"{name}.conv.modulation.weight"] = draw(WIDTHS[size], W)
        s[f"{name}.conv.modulation.bias"] = 1 + draw(WIDTHS[size], scale=0.1)
        s[f"{name}.bias"] = draw(1, 3, 1, 1)
        if size > 4:
            s[f"{name}.upsample.kernel"] = kernel * 4

    styled("conv1", 0, WIDTHS[4], 4, False)
    picture("to_rgb1", 4)
    for level, size in enumerate((8, 16)):
        styled(f"convs.{2 * level}", 2 * level + 1, WIDTHS[size // 2], size, True)
        styled(f"convs.{2 * level + 1}", 2 * level + 2, WIDTHS[size], size, False)
        picture(f"to_rgbs.{level}", size)
    return s


def discriminator_state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    s = {"convs.0.0.weight": draw(WIDTHS[16], 3, 1, 1), "convs.0.1.bias": draw(WIDTHS[16])}
    for i, size in enumerate((16, 8), start=1):
        before, after = WIDTHS[size], WIDTHS[size // 2]
        s |= {
            f"convs.{i}.conv1.0.weight": draw(before, before, 3, 3),
            f"convs.{i}.conv1.1.bias": draw(before),
            f"convs.{i}.conv2.0.kernel": KERNEL,
            f"convs.{i}.conv2.1.weight": draw(after, before, 3, 3),
            f"convs.{i}.conv2.2.bias": draw(after),
            f"convs.{i}.skip.0.kernel": KERNEL,
            f"convs.{i}.skip.1.weight": draw(after, before, 1, 1),
        }
    c = WIDTHS[4]
    s |= {"final_conv.0.weight": draw(c, c + 1, 3, 3), "final_conv.1.bias": draw(c)}
    s |= {"final_linear.0.weight": draw(c, c * 16), "final_linear.0.bias": draw(c)}
    return s | {"final_linear.1.weight": draw(1, c), "final_linear.1.bias": draw(1)}


@pytest.mark.parametrize("zipped", [True, False])
def test_generator_gives_the_same_pictures(zipped, tmp_path):
    state = generator_state()
    path, out = tmp_path / "000100.pt", tmp_path / "face.safetensors"
    torch.save({"g_ema": state, "latent_avg": torch.arange(W).float()}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    network = convert_checkpoint(path, out)["G_ema"]
    assert network.notes == ()
    assert (network.config.channel_base, network.config.channel_max) == (128, 12)
    G = pyface.load(out, kind="generator")
    z = torch.randn(3, W)
    exact = {name: tensor.double() for name, tensor in state.items()}
    w, image = generate(exact, z.double())
    with torch.no_grad():
        ws = G.mapping(z)
        torch.testing.assert_close(ws[:, 0].double(), w, rtol=0, atol=1e-5)
        got = G.synthesis(ws, noise_mode="const").double()
    torch.testing.assert_close(got, image, rtol=0, atol=3e-5 * float(image.abs().max()))
    assert torch.equal(G.mapping.w_avg, torch.arange(W).float())


def test_demodulation_epsilon_is_that_of_the_layout(tmp_path):
    """Weights so small that the epsilon counts."""
    state = generator_state()
    state["convs.0.conv.weight"] *= 1e-3
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    G = read_networks(tmp_path / "a.pt")["G_ema"].build()
    z = torch.randn(2, W)
    _, image = generate({name: tensor.double() for name, tensor in state.items()}, z.double())
    with torch.no_grad():
        got = G(z, noise_mode="const").double()
    torch.testing.assert_close(got, image, rtol=0, atol=3e-5 * float(image.abs().max()))


def test_discriminator_gives_the_same_logits(tmp_path):
    state = discriminator_state()
    torch.save({"d": state}, tmp_path / "a.pt")
    D = read_networks(tmp_path / "a.pt", "D")["D"].build()
    image = torch.randn(8, 3, 16, 16)
    wanted = judge({name: tensor.double() for name, tensor in state.items()}, image.double())
    with torch.no_grad():
        got = D(image).double()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_other_filters_are_recognised(tmp_path):
    taps = torch.tensor([1.0, 2.0, 2.0, 1.0])
    state = generator_state(torch.outer(taps, taps) / 36)
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    network = read_networks(tmp_path / "a.pt")["G_ema"]
    assert network.config.resample_filter == (1, 2, 2, 1)
    z = torch.randn(2, W)
    with torch.no_grad():
        got = network.build()(z, noise_mode="const")
    image = generate(state, z)[1]
    torch.testing.assert_close(got, image, rtol=0, atol=1e-4 * float(image.abs().max()))


def test_what_older_files_lack_is_made_and_said(tmp_path):
    state = {name: t for name, t in generator_state().items() if not name.startswith("noises.")}
    torch.save(state, tmp_path / "bare.pt")
    network = read_networks(tmp_path / "bare.pt")["G_ema"]
    assert "no constant noise" in network.notes[0]
    assert "no average of w" in network.notes[1]
    z = torch.randn(20_000, W)
    with torch.no_grad():
        average = network.build().mapping(z)[:, 0].mean(0)
    torch.testing.assert_close(network.tensors["mapping.w_avg"], average, rtol=0, atol=0.1)


def test_networks_of_a_training_file(tmp_path):
    file = {
        "g": generator_state(),
        "d": discriminator_state(),
        "g_ema": generator_state(),
        "g_optim": {"state": {}},
    }
    torch.save(file, tmp_path / "a.pt")
    assert list(read_networks(tmp_path / "a.pt", "all")) == ["G_ema", "G", "D"]


WRONG = {
    "missing": ({"convs.1.activate.bias": None}, "lacks convs.1.activate.bias"),
    "unknown": ({"attention.weight": torch.zeros(3)}, "such as attention.weight"),
    "shape": ({"conv1.conv.modulation.weight": torch.zeros(5, W)}, "needed is"),
    "axes": ({"conv1.conv.weight": torch.zeros(3)}, "has shape"),
    "empty": ({"style.1.weight": torch.zeros(0, 0)}, "has shape"),
    "kernel": ({"convs.0.conv.blur.kernel": torch.rand(4, 4)}, "low-pass"),
    "no levels": ({"to_rgbs.0.bias": None, "to_rgbs.1.bias": None}, "resolutions 4"),
    "no style": (
        {f"style.{i}.{p}": None for i in (1, 2, 3) for p in ("weight", "bias")},
        "lacks mapping.fc0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_networks_are_refused(name, tmp_path):
    changes, match = WRONG[name]
    state = {k: v for k, v in {**generator_state(), **changes}.items() if v is not None}
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=match):
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]

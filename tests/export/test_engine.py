"""Engines: the same pictures from all of them, whatever the batch; choice and bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyface.errors import CheckpointError, ExportError, ShapeError, ValueRangeError
from pyface.export import available_engines, choose_engine, open_engine
from pyface.export.engine import ENGINES
from pyface.export.engines.pixels import as_pixels
from pyface.export.gates import compare, gate_of
from pyface.io.checkpoint import save_model
from pyface.io.images import to_uint8
from pyface.models import (
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)

SETTINGS = [
    (name, precision) for name, kinds in ENGINES.items() if "cpu" in kinds for precision in kinds["cpu"]
]


def small_generator(**fields):
    torch.manual_seed(3)
    settings = {
        "channel_base": 512,
        "channel_max": 32,
        "z_dim": 24,
        "w_dim": 24,
        "mapping_layers": 2,
    } | fields
    network = StyleGAN2Generator(GeneratorConfig(32, **settings))
    with torch.no_grad():
        for name, parameter in network.synthesis.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
            elif name.endswith("bias") and "affine" not in name:
                parameter.normal_(std=0.1)
        network.mapping.w_avg.normal_(std=0.2)
    return network.eval().requires_grad_(False)


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    """Files of engines are made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYFACE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def network():
    """Two spectra and a condition."""
    return small_generator(spectra={"vis": 3, "nir": 1}, c_dim=3)


@pytest.fixture(scope="module")
def latents(network):
    drawn = torch.Generator().manual_seed(7)
    return torch.randn(11, 24, generator=drawn), torch.rand(11, 3, generator=drawn)


@pytest.fixture(scope="module")
def truth(network, latents):
    """ws and images in float64."""
    exact = small_generator(spectra={"vis": 3, "nir": 1}, c_dim=3).double()
    ws = exact.mapping(latents[0].double(), latents[1].double(), 0.7)
    return ws, exact.synthesis(ws, noise_mode="const")


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(setting))
def engine(request, network):
    name, precision = request.param
    absent = available_engines("cpu")[name]
    if absent is not None:
        pytest.skip(absent)
    # So small a network has pictures whose error in bf16 is at the gate of the certificate.
    force = request.param == ("openvino", "bf16")
    with open_engine(network, name, precision=precision, batch=4, device="cpu", force=force) as opened:
        yield opened


def test_pictures_agree_with_float64(engine, latents, truth):
    ws = engine.mapping(*latents, truncation_psi=0.7)
    assert ws.dtype == torch.float32
    assert ws.shape == (11, engine.num_ws, 24)
    assert (ws - truth[0]).abs().max() < 1e-5
    images = engine.synthesis(ws)
    pixels = engine.pixels(ws)
    for name, channels in (("vis", 3), ("nir", 1)):
        image, exact = images[name], truth[1][name]
        assert image.shape == (11, channels, 32, 32)
        assert image.dtype == torch.float32
        gate = gate_of(engine.precision)
        assert compare(image.numpy(), exact.float().numpy(), gate, pictures=True).passed
        assert pixels[name].shape == (11, 32, 32, channels)
        assert pixels[name].dtype == torch.uint8
        assert (pixels[name].numpy() == to_uint8(image)).all()


def test_ws_are_the_same_numbers_everywhere(engine, network, latents):
    with open_engine(network, "torch", batch=1, device="cpu") as other:
        assert torch.equal(engine.mapping(*latents), other.mapping(*latents))


def test_a_picture_depends_on_its_ws_alone(engine, latents):
    ws = engine.mapping(*latents)
    whole = engine.pixels(ws)["vis"]
    images = engine.synthesis(ws)["nir"]
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(engine.pixels(ws[order])["vis"], whole[order])
    for i in (0, 3, 4, 10):
        assert torch.equal(engine.pixels(ws[i : i + 1])["vis"], whole[i : i + 1])
        assert torch.equal(engine.synthesis(ws[i : i + 1])["nir"], images[i : i + 1])
    assert torch.equal(engine.pixels(ws[2:9])["vis"], whole[2:9])


@pytest.mark.parametrize("name", ["torch", "native", "onnxruntime", "openvino"])
def test_a_picture_depends_on_its_ws_alone_with_threads(name, network, latents):
    absent = available_engines("cpu")[name]
    if absent is not None:
        pytest.skip(absent)
    with open_engine(network, name, batch=3, threads=2, device="cpu") as engine:
        ws = engine.mapping(*latents)
        whole = engine.synthesis(ws)["vis"]
        for rows in ([7], [4, 3, 2, 1], [10, 0]):
            assert torch.equal(engine.synthesis(ws[rows])["vis"], whole[rows])


def test_a_latent_gives_the_same_ws_in_any_company(engine, latents):
    z, c = latents
    whole = engine.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    assert torch.equal(engine.mapping(z[order], c[order], 0.5, 2), whole[order])
    assert torch.equal(engine.mapping(z[5:6], c[5:6], 0.5, 2), whole[5:6])


def test_an_engine_is_a_generator(engine, latents):
    assert isinstance(engine, Generator)
    images = engine(*latents, truncation_psi=0.7, noise_mode="const", precision=engine.precision)
    assert torch.equal(images["vis"], engine.synthesis(engine.mapping(*latents, truncation_psi=0.7))["vis"])
    assert engine.pixels(torch.zeros(0, engine.num_ws, 24))["vis"].shape == (0, 32, 32, 3)


def test_the_description_is_plain_and_complete(engine, network):
    described = json.loads(json.dumps(engine.describe()))
    assert described["name"] == engine.name
    assert described["precision"] == engine.precision
    assert described["batch"] == 4
    assert len(described["weights_sha256"]) == 64
    assert {"pyface", "noise", "device", "processor", "threads"} <= set(described)


def test_bad_input(engine, latents):
    z, c = latents
    ws = engine.mapping(z, c)
    with pytest.raises(ShapeError, match=r"ws must be \[N, \d+, 24\]; got \[11, 24\]"):
        engine.synthesis(ws[:, 0])
    with pytest.raises(ShapeError, match="z must be"):
        engine.mapping(z[:, :5], c)
    with pytest.raises(ShapeError, match="c is missing"):
        engine.mapping(z)
    with pytest.raises(ShapeError, match="c must be"):
        engine.mapping(z, c[:1])
    for psi in (float("nan"), float("inf")):
        with pytest.raises(ValueRangeError, match="truncation_psi must be a finite number"):
            engine(z, c, truncation_psi=psi)
    with pytest.raises(ValueRangeError, match="noise_mode='random'"):
        engine.synthesis(ws, noise_mode="random")
    with pytest.raises(ValueRangeError, match="computes in"):
        engine.synthesis(ws, precision="int8")


def test_noise_none_differs_and_agrees(network, latents):
    with (
        open_engine(network, "torch", noise="none", device="cpu") as plain,
        open_engine(network, "torch", device="cpu") as const,
    ):
        ws = plain.mapping(*latents)
        expected = network.synthesis(ws, noise_mode="none")["vis"]
        assert torch.allclose(plain.synthesis(ws)["vis"], expected, atol=1e-5)
        assert not torch.allclose(const.synthesis(ws)["vis"], expected, atol=1e-2)


def test_one_spectrum_without_condition_is_a_tensor():
    network = small_generator()
    with open_engine(network, device="cpu", batch=3) as engine:
        assert engine.name in ("native", "torch")
        assert engine.reason
        z = torch.randn(2, 24)
        assert torch.allclose(engine(z), network(z, noise_mode="const"), atol=1e-5)
        assert list(engine.pixels(engine.mapping(z))) == ["vis"]


def test_weights_stay_those_it_was_opened_with(network, latents):
    changed = small_generator(spectra={"vis": 3, "nir": 1}, c_dim=3)
    with open_engine(changed, "torch", device="cpu") as engine:
        before = engine(*latents)["vis"]
        with torch.no_grad():
            changed.synthesis.b4.conv1.bias.add_(1)
        assert torch.equal(engine(*latents)["vis"], before)


def test_threads_are_set_inside_alone(network, latents):
    before = torch.get_num_threads()
    with open_engine(network, "torch", threads=2, device="cpu") as engine:
        engine(*latents)
    assert torch.get_num_threads() == before


def test_a_closed_engine_is_refused(network, latents):
    engine = open_engine(network, "torch", device="cpu")
    ws = engine.mapping(*latents)
    engine.close()
    engine.close()
    for use in (lambda: engine.mapping(*latents), lambda: engine.synthesis(ws), lambda: engine.pixels(ws)):
        with pytest.raises(ExportError, match="is closed"):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "tensorflow"}, "engine must be auto or one of torch, native.*got 'tensorflow'"),
        ({"batch": 0}, "batch must be 1 or more; got 0"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"precision": "fp64"}, "precision must be one of"),
        ({"noise": "random"}, "noise must be one of const, none; got 'random'"),
        ({"device": "tpu"}, "device must be cpu, cuda"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
    ],
)
def test_bad_settings(network, arguments, message):
    with pytest.raises(ValueRangeError, match=message):
        open_engine(network, **({"device": "cpu"} | arguments))


def test_native_refuses_what_it_cannot_compute_in(network):
    with pytest.raises(
        ExportError, match=r"native engine cannot run: .*not in fp16.*Engines that can: torch"
    ):
        open_engine(network, "native", precision="float16", device="cpu")


def test_native_refuses_networks_that_it_has_no_kernels_for():
    network = small_generator(architecture="resnet")
    if available_engines("cpu")["native"] is None:
        with pytest.raises(ExportError, match='architecture is "resnet"'):
            open_engine(network, "native", device="cpu")
    choice = choose_engine(network, device="cpu")
    assert choice.name != "native"
    assert "not native" in choice.reason


def test_choice_prefers_native(network):
    if available_engines("cpu")["native"] is not None:
        pytest.skip("the native module is not built")
    choice = choose_engine(network, device="cpu", precision="bfloat16")
    assert (choice.name, choice.precision) == ("native", "bf16")
    assert "fastest" in choice.reason
    assert choose_engine(device="cpu").name == "native"


def test_checkpoints_open_by_path_and_other_networks_do_not(tmp_path, network, latents):
    path = tmp_path / "net.safetensors"
    save_model(path, network)
    with (
        open_engine(path, "torch", device="cpu") as opened,
        open_engine(network, "torch", device="cpu") as own,
    ):
        assert torch.equal(opened(*latents)["vis"], own(*latents)["vis"])
        assert opened.weights_sha256 != own.weights_sha256  # of the file, and of the tensors
    critic = StyleGAN2Discriminator(DiscriminatorConfig(16, channel_base=256, channel_max=16))
    with pytest.raises(ExportError, match="got a StyleGAN2Discriminator"):
        open_engine(critic, device="cpu")
    save_model(tmp_path / "critic.safetensors", critic)
    with pytest.raises(CheckpointError, match="a generator is needed"):
        open_engine(tmp_path / "critic.safetensors", device="cpu")
    with pytest.raises(CheckpointError):
        open_engine(tmp_path / "nothing.safetensors", device="cpu")


def test_pixels_are_those_of_to_uint8():
    images = torch.randn(3, 3, 17, 19, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, :8] = torch.tensor([np.nan, np.inf, -np.inf, 1, -1, 0, 5e9, -5e9])
    levels = torch.arange(0, 256) / 127.5 - 1
    images[1, 1, :15, :17] = torch.cat([levels, levels])[:255].reshape(15, 17)
    assert (as_pixels(images).numpy() == to_uint8(images)).all()
    assert as_pixels(images[:0]).shape == (0, 17, 19, 3)


def test_importing_the_package_imports_no_runtime():
    code = (
        "import sys, pyface.export, pyface.export.engine\n"
        "runtimes = ('onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx')\n"
        "print([name for name in runtimes if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import pyface.export

    for name in pyface.export.__all__:
        assert callable(getattr(pyface.export, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyface.export.nothing

"""The TensorRT engines without a GPU: what they ask of a running engine, refusals, and the choice."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pyface.errors import ExportError, MissingExtraError
from pyface.export import available_engines, choose_engine, open_engine
from pyface.export.artefact import Artefact, seal, staged
from pyface.export.engines import availability, sources
from pyface.export.engines.fixed_batch import GeneratorFacts, Settings
from pyface.export.engines.tensorrt_engine import TensorRTEngine, TensorRTRTXEngine
from pyface.export.spec import BATCH, EngineSpec, TensorSpec
from pyface.io.images import to_uint8
from pyface.models import GeneratorConfig, StyleGAN2Generator


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    config = GeneratorConfig(16, channel_base=256, channel_max=16, z_dim=12, w_dim=12, mapping_layers=2)
    return StyleGAN2Generator(config).eval().requires_grad_(False)


def described(network, **change) -> EngineSpec:
    spec = EngineSpec(
        "tensorrt-rtx", network.architecture, "whole", "fp32", 20, "transposed",
        (TensorSpec("ws", "float32", (BATCH, network.num_ws, 12)),),
        (TensorSpec("vis", "float32", (BATCH, 3, 16, 16)),),
        profile=(1, 4, 4), compute_capabilities=(89,), z_dim=12, w_dim=12, num_ws=network.num_ws,
        resolution=(16, 16), spectra={"vis": 3},
    )  # fmt: skip
    return replace(spec, **change)


class Running:
    """Stands for a loaded engine: the network itself, on the CPU."""

    def __init__(self, network, spec):
        self.network, self.spec, self.open, self.rows = network, spec, True, []
        self.library = SimpleNamespace(title="TensorRT-RTX 1")
        self.device = SimpleNamespace(name="a GPU")

    def fixed(self, rows):
        def run(inputs):
            self.rows.append(len(inputs["ws"]))
            image = self.network.synthesis(inputs["ws"], noise_mode="const")
            return {"vis": torch.from_numpy(to_uint8(image)) if self.spec.uint8 else image}

        assert rows == 4
        return run

    def close(self):
        self.open = False


@pytest.fixture
def opened(network, monkeypatch, tmp_path):
    def make(**change):
        spec = described(network, **change)
        running = Running(network, spec)
        monkeypatch.setattr("pyface.export.tensorrt.load_engine", lambda artefact, device: running)
        artefact = Artefact(tmp_path / "net.engine", spec, {"net.engine": "0" * 64})
        settings = Settings("fp32", 4)
        return TensorRTRTXEngine(artefact, GeneratorFacts.of(spec), settings, network.mapping), running

    return make


def test_pictures_come_from_the_running_engine(network, opened):
    engine, running = opened()
    z = torch.randn(6, 12)
    assert torch.allclose(engine(z), network(z, noise_mode="const"), atol=1e-5)
    assert running.rows == [4, 4]
    pixels = engine.pixels(engine.mapping(z))["vis"]
    assert (pixels.numpy() == to_uint8(engine(z))).all()
    assert engine.describe()["runtime"] == "TensorRT-RTX 1"
    engine.close()
    assert not running.open


def test_an_engine_of_pixels(network, opened):
    outputs = (TensorSpec("vis", "uint8", (BATCH, 16, 16, 3)),)
    engine, _ = opened(uint8=True, outputs=outputs)
    ws = engine.mapping(torch.randn(5, 12))
    assert engine.pixels(ws)["vis"].shape == (5, 16, 16, 3)
    with pytest.raises(ExportError, match="gives pixels and no float images"):
        engine.synthesis(ws)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_it_says_so(network, name):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    assert "no CUDA device is here" in available_engines()[name]
    with pytest.raises(
        ExportError, match=rf"{name} engine cannot run: it runs on cuda alone.*Engines that can:"
    ):
        open_engine(network, name)


def test_a_missing_library_names_its_extra(network, monkeypatch):
    monkeypatch.setattr(availability, "_missing", lambda name: ["it"] if name == "tensorrt-rtx" else [])
    settings = Settings("fp16", 4, torch.device("cuda"))
    with pytest.raises(MissingExtraError, match=r'pip install "pyface-synth\[export,tensorrt-rtx\]"'):
        availability.require("tensorrt-rtx", settings)


def test_a_file_runs_within_its_profile_and_library_alone(network, tmp_path):
    path = tmp_path / "net.engine"
    with staged(path) as inside:
        inside.write_bytes(b"plan")
        seal(inside, described(network), {"passed": True})
    with pytest.raises(Exception, match="batches from 1 to 4; got batch=8"):
        open_engine(path, batch=8)
    with pytest.raises(ExportError, match="runs engines built for tensorrt alone"):
        open_engine(path, "tensorrt")
    with pytest.raises(ExportError, match="onnxruntime engine cannot run this tensorrt-rtx artefact"):
        open_engine(path, "onnxruntime")


def test_a_kept_engine_goes_before_all_others(network, monkeypatch):
    kept = availability.Choice("tensorrt", "fp32", "kept")
    monkeypatch.setattr("pyface.export.engine.cached_tensorrt", lambda network, settings: kept)
    assert choose_engine(network, device="cpu") == kept
    assert sources.cached_tensorrt(network, Settings()) is None  # on a CPU


def test_what_is_asked_of_the_builder(network, monkeypatch, tmp_path):
    asked: dict = {}

    def build(source, out, **options):
        asked.update(options, source=source, out=out)

    monkeypatch.setattr("pyface.export.tensorrt.build_engine", build)
    facts = GeneratorFacts.of(network, "a" * 64)
    make = sources._maker("tensorrt-rtx", network, facts, Settings("fp16", 4), False)
    make(tmp_path / "net.engine")
    assert asked["profile"] == (1, 4, 4)
    assert asked["rtx"] is True
    assert (asked["precision"], asked["inputs"], asked["uint8"]) == ("fp16", "ws", False)
    assert issubclass(TensorRTRTXEngine, TensorRTEngine)

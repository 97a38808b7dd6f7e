"""Engines over exported files: what fits, what is refused, and files that engines make themselves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from pyface.errors import ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export import available_engines, choose_engine, engine_cache, open_engine
from pyface.export.artefact import open_artefact, seal, sidecar_path, staged
from pyface.export.engines import availability
from pyface.io.checkpoint import save_model
from pyface.io.images import to_uint8
from pyface.models import GeneratorConfig, StyleGAN2Generator

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CONFIG = GeneratorConfig(
    16,
    channel_base=256,
    channel_max=16,
    z_dim=12,
    w_dim=12,
    c_dim=2,
    mapping_layers=2,
    spectra={"vis": 3, "nir": 1},
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    made = StyleGAN2Generator(CONFIG)
    made.mapping.w_avg.normal_()
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents():
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(5, 12, generator=drawn), torch.rand(5, 2, generator=drawn)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, network):
    """ws.onnx, certified; pixels.onnx (uint8), z.onnx, and z-pixels.onnx with a batch of 4, not certified;
    mapping.onnx and noisy.onnx, which are ws.onnx with another description."""
    from pyface.export.onnx import export_onnx

    made = tmp_path_factory.mktemp("artefacts")
    save_model(made / "net.safetensors", network)
    export_onnx(made / "net.safetensors", made / "ws.onnx", inputs="ws")
    for name, options in {
        "pixels": {"inputs": "ws", "uint8": True},
        "z": {"inputs": "z"},
        "z-pixels": {"inputs": "z", "uint8": True, "batch": 4, "noise": "none"},
    }.items():
        export_onnx(network, made / f"{name}.onnx", certify=False, **options)
    for name, change in {"mapping": {"part": "mapping"}, "noisy": {"noise_mode": "input"}}.items():
        copied(made / "ws.onnx", made / f"{name}.onnx", **change)
    return made


@pytest.fixture
def expected(network, latents):
    with open_engine(network, "torch", device="cpu") as engine:
        return engine(*latents, truncation_psi=0.6)


def copied(source, out, **change):
    """The artefact `source` again at `out`, with these fields of its description changed."""
    artefact = open_artefact(source)
    with staged(out) as path:
        shutil.copy(source, path)
        made = seal(path, replace(artefact.spec, **change), artefact.parity)
    return made.moved(out)


@pytest.fixture
def quick_export(folder, monkeypatch, tmp_path):
    """An exporter that copies, and a cache of its own."""
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))

    def export(network, out, **options):
        return copied(folder / "ws.onnx", out)

    monkeypatch.setattr("pyface.export.onnx.export_onnx", export)


def close(found, expected):
    return all((found[name] - expected[name]).abs().max() < 1e-4 * expected[name].std() for name in expected)


def test_a_file_of_ws_runs_with_the_mapping_of_its_network(folder, latents, expected):
    with open_engine(folder / "ws.onnx", network=folder / "net.safetensors", batch=2, device="cpu") as engine:
        assert engine.name == "onnxruntime"
        assert "ws.onnx" in engine.reason
        assert close(engine(*latents, truncation_psi=0.6), expected)
        described = engine.describe()
        assert described["artefact_sha256"] == engine.artefact.sha256
        assert "onnxruntime" in described["versions"]
        assert json.loads(json.dumps(described)) == described


def test_a_file_of_ws_alone_has_no_mapping(folder, network, latents):
    with open_engine(folder / "ws.onnx", device="cpu") as engine:
        with pytest.raises(ExportError, match="takes ws, and has no mapping"):
            engine.mapping(*latents)
        ws = network.mapping(*latents)
        assert engine.pixels(ws)["nir"].shape == (5, 16, 16, 1)


def test_a_file_of_pixels(folder, network, latents, expected):
    with open_engine(folder / "pixels.onnx", network=network, force=True, batch=3, device="cpu") as engine:
        pixels = engine.pixels(engine.mapping(*latents, truncation_psi=0.6))
        for name in ("vis", "nir"):
            off = pixels[name].int() - torch.from_numpy(to_uint8(expected[name])).int()
            assert off.abs().max() <= 1
        with pytest.raises(ExportError, match="gives pixels and no float images"):
            engine(*latents)


def test_a_file_of_z_maps_inside(folder, latents, expected):
    with open_engine(folder / "z.onnx", force=True, batch=2, device="cpu") as engine:
        assert close(engine(*latents, truncation_psi=0.6), expected)
        one = engine(latents[0][3:4], latents[1][3:4], truncation_psi=0.6)
        assert torch.equal(one["vis"], engine(*latents, truncation_psi=0.6)["vis"][3:4])
        assert engine.pixels_of(*latents, truncation_psi=0.6)["vis"].dtype == torch.uint8
        with pytest.raises(ExportError, match="takes z and has its mapping inside"):
            engine.mapping(*latents)
        with pytest.raises(ExportError, match="takes z"):
            engine.synthesis(torch.zeros(1, engine.num_ws, 12))
        with pytest.raises(ValueRangeError, match="truncation_cutoff 2"):
            engine(*latents, truncation_cutoff=2)
        with pytest.raises(ValueRangeError, match="finite"):
            engine(*latents, truncation_psi=float("nan"))
        with pytest.raises(ShapeError, match="z must be"):
            engine(latents[0][:, :3], latents[1])


def test_a_fixed_batch_is_kept_to(folder, latents):
    with open_engine(folder / "z-pixels.onnx", force=True, device="cpu") as engine:
        assert (engine.batch, engine.noise) == (4, "none")
        whole = engine.pixels_of(*latents)["vis"]
        assert torch.equal(engine.pixels_of(latents[0][4:], latents[1][4:])["vis"], whole[4:])
    with pytest.raises(ValueRangeError, match="exported for a batch of 4; got batch=8"):
        open_engine(folder / "z-pixels.onnx", force=True, batch=8, device="cpu")


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("z.onnx", {}, ExportError, "z.onnx was not certified"),
        ("mapping.onnx", {"force": True}, ExportError, "holds the mapping of stylegan2-generator"),
        ("noisy.onnx", {"force": True}, ExportError, "takes its noise as an input"),
        ("ws.onnx", {"precision": "fp16"}, ValueRangeError, "computes in fp32; got precision='fp16'"),
        ("ws.onnx", {"noise": "none"}, ValueRangeError, "exported with noise 'const'; got 'none'"),
        ("ws.onnx", {"engine": "native"}, ExportError, "native engine cannot run this onnx artefact"),
        ("ws.onnx", {"batch": 0}, ValueRangeError, "batch=0"),
        ("absent.onnx", {}, ExportError, "there is no file"),
    ],
)
def test_files_that_do_not_fit(folder, name, arguments, error, message):
    with pytest.raises(error, match=message):
        open_engine(folder / name, **({"device": "cpu"} | arguments))


def test_a_file_of_other_weights_is_refused(folder):
    torch.manual_seed(6)
    other = StyleGAN2Generator(CONFIG)
    with pytest.raises(ExportError, match=r"ws.onnx was made of other weights: sha256 [0-9a-f]{16}"):
        open_engine(folder / "ws.onnx", network=other, device="cpu")


def test_a_damaged_file_is_refused(folder, tmp_path):
    for path in (folder / "ws.onnx", sidecar_path(folder / "ws.onnx")):
        shutil.copy(path, tmp_path)
    data = bytearray((tmp_path / "ws.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "ws.onnx").write_bytes(data)
    with pytest.raises(ExportError, match="is not the file that was exported"):
        open_engine(tmp_path / "ws.onnx", device="cpu")


def test_a_network_is_no_companion_of_a_network(folder, network):
    with pytest.raises(ExportError, match="network goes with an exported file"):
        open_engine(network, network=folder / "net.safetensors", device="cpu")


def test_files_are_made_once_and_kept(network, latents, monkeypatch, tmp_path, expected):
    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    with open_engine(network, "onnxruntime", device="cpu") as engine:
        assert close(engine(*latents, truncation_psi=0.6), expected)
        kept = engine.artefact
    assert kept.path.is_relative_to(tmp_path / "engines")
    assert kept.parity["passed"]
    monkeypatch.setattr("pyface.export.onnx.export_onnx", None)
    with open_engine(network, "onnxruntime", batch=3, threads=1, device="cpu") as engine:
        assert engine.artefact.sha256 == kept.sha256


@pytest.mark.usefixtures("quick_export")
def test_without_the_cache_nothing_is_kept(network):
    engine = open_engine(network, "onnxruntime", cache=False, device="cpu")
    path = engine.artefact.path
    assert path.exists()
    engine.close()
    assert not path.exists()
    assert not engine_cache.folder().exists()


@pytest.mark.usefixtures("quick_export")
def test_a_file_of_other_versions_is_made_anew(network, monkeypatch):
    with open_engine(network, "onnxruntime", device="cpu") as engine:
        before = engine.artefact.path.parent
    monkeypatch.setattr("pyface.export.engines.sources.__version__", "0.0.0")
    with open_engine(network, "onnxruntime", device="cpu") as engine:
        after = engine.artefact.path.parent
    assert before.name != after.name
    assert before.name.split("-")[0] == after.name.split("-")[0]


def test_a_missing_package_names_its_extra(network, monkeypatch):
    monkeypatch.setattr(
        availability, "_missing", lambda engine: ["onnxruntime"] if engine == "onnxruntime" else []
    )
    assert 'pip install "pyface-synth[export]"' in available_engines("cpu")["onnxruntime"]
    with pytest.raises(
        MissingExtraError, match=r'onnxruntime not installed: pip install "pyface-synth\[export\]"'
    ):
        open_engine(network, "onnxruntime", device="cpu")


def test_choice_without_native_kernels(network, monkeypatch):
    monkeypatch.setattr(availability, "backend", lambda kind: "reference")
    monkeypatch.setattr(availability, "_missing", lambda engine: [])
    choice = choose_engine(network, device="cpu", precision="fp16")
    assert choice.name in ("openvino", "onnxruntime")
    assert "not native: the native kernels for cpu are not built" in choice.reason
    monkeypatch.setattr(
        availability, "_missing", lambda engine: ["it"] if engine in availability._NEEDS else []
    )
    assert choose_engine(network, device="cpu").name == "torch"


def test_no_engine_for_a_precision(network):
    with pytest.raises(ExportError, match="no engine computes in fp8 on cpu: not native: "):
        choose_engine(network, device="cpu", precision="fp8")


def test_a_failed_certificate_keeps_the_file_away(network, monkeypatch, tmp_path):
    from pyface.export import gates

    monkeypatch.setenv("PYFACE_HOME", str(tmp_path))
    monkeypatch.setattr(gates, "GATES", {**gates.GATES, "fp32": gates.Gate("fp32", 0.0, 0.0)})
    with pytest.raises(ExportError, match="differs too much"):
        open_engine(network, "onnxruntime", device="cpu")
    assert not [entry for entry in (tmp_path / "engines").iterdir() if entry.suffix != ".lock"]

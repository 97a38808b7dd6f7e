"""Engines of whole generators, really built by TensorRT-RTX without a GPU, and quantised ones."""

import json

import numpy as np
import pytest

from pyface.errors import ExportError, ValueRangeError
from pyface.export.artefact import open_artefact, sha256_of_network
from pyface.export.calibration import calibration_feeds, export_quantized
from pyface.export.generator_form import GeneratorForm
from pyface.export.spec import EngineSpec
from pyface.export.tensorrt import build_engine
from pyface.models import ARCHITECTURES

pytest.importorskip("onnxscript", reason='needs the extra "export"')
pytest.importorskip("onnxruntime", reason='needs the extra "export"')

GENERATORS = [name for name, entry in ARCHITECTURES.items() if entry.kind == "generator"]


@pytest.fixture(scope="module")
def installed():
    """TensorRT-RTX itself."""
    return pytest.importorskip("tensorrt_rtx", reason='needs the extra "tensorrt-rtx"')


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp16", {}), ("fp32", {"inputs": "z", "uint8": False, "compute_capabilities": (89,)})],
)
def test_every_generator_is_built(installed, small_network, tmp_path, name, precision, options):
    network = small_network(name)
    out = tmp_path / "net.engine"
    built = build_engine(network, out, precision=precision, **options)
    assert open_artefact(out) == built
    spec = built.spec
    assert spec.architecture == name
    assert spec.format == "tensorrt-rtx"
    assert spec.precision == precision
    assert spec.profile == (1, 8, 32)
    assert spec.weights_sha256 == sha256_of_network(network)
    assert spec.compute_capabilities == ((89,) if options else (80, 86, 89, 120, 121))
    assert [tensor.name for tensor in spec.inputs] == (["z", "c", "psi"] if options else ["ws"])
    pictures = {tensor.name: (tensor.dtype, tensor.shape) for tensor in spec.outputs}
    height, width = network.resolution
    floats, pixels = (3, height, width), (height, width, 3)
    assert pictures["vis"] == (("float32", ("batch", *floats)) if options else ("uint8", ("batch", *pixels)))
    assert built.parity is not None
    assert built.parity["passed"]
    assert json.loads((tmp_path / "net.engine.json").read_text())["parity"]["passed"]


@pytest.mark.parametrize(("precision", "target"), [("fp16", 75), ("int8", 75), ("fp8", 86)])
def test_targets_are_refused_before_anything_is_exported(
    installed, small_network, tmp_path, monkeypatch, precision, target
):
    monkeypatch.setattr("pyface.export.onnx.graph_of", None)
    with pytest.raises(ExportError, match=r"Leave 75 out|fp8 needs compute capability 89"):
        build_engine(
            small_network(GENERATORS[0]), tmp_path / "a.engine", precision=precision,
            compute_capabilities=(target,),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_other_precisions_are_built(installed, small_network, tmp_path, precision):
    graph = tmp_path / "net.onnx"
    built = build_engine(
        small_network(GENERATORS[0]), tmp_path / "net.engine", precision=precision, graph=graph,
        compute_capabilities=(89,), calibration=8,
    )  # fmt: skip
    kept = open_artefact(graph)
    assert built.spec.onnx_sha256 == kept.sha256
    assert built.spec.opset == kept.spec.opset == {"int8": 21, "bf16": 22}[precision]
    assert bool(built.spec.calibration_sha256) == (precision == "int8")
    assert built.spec.up_form == ("phases" if precision == "bf16" else "transposed")
    again = build_engine(graph, tmp_path / "again.engine", compute_capabilities=(120,))
    assert again.spec.precision == precision
    assert again.spec.weights_sha256 == built.spec.weights_sha256


@pytest.mark.slow
def test_networks_that_are_no_generators_are_built_too(installed, small_network, tmp_path):
    built = build_engine(small_network("face-recognition"), tmp_path / "a.engine", precision="fp16")
    assert built.spec.architecture == "face-recognition"


def test_options_of_generators_are_refused_for_others(installed, small_network, tmp_path):
    with pytest.raises(ExportError, match="int8 is for generators"):
        build_engine(small_network("face-recognition"), tmp_path / "b.engine", precision="int8")
    with pytest.raises(ExportError, match="has no uint8"):
        build_engine(small_network("face-recognition"), tmp_path / "b.engine", uint8=True)


def test_calibration_has_latents_of_its_own_for_every_input(small_network):
    network = small_network(GENERATORS[0])
    form = GeneratorForm(network, noise="input")
    spec = EngineSpec("onnx", GENERATORS[0], "whole", "fp32", 21, "", form.inputs, form.outputs, "input")
    feeds = list(calibration_feeds(network, spec, 19))
    assert [len(feed["z"]) for feed in feeds] == [8, 8, 3]
    assert [float(feed["psi"]) for feed in feeds] == [1.0, pytest.approx(0.7), 1.0]
    assert set(feeds[0]) == {"z", "c", "psi", "noise"}
    assert not np.isin(feeds[0]["z"], feeds[1]["z"]).any()
    first = np.random.RandomState(0).randn(network.z_dim).astype(np.float32)
    assert not np.isin(first, np.concatenate([feed["z"] for feed in feeds])).any()


def test_options_of_quantised_graphs_are_checked(small_network, tmp_path):
    network, out = small_network(GENERATORS[0]), tmp_path / "net.onnx"
    with pytest.raises(ValueRangeError, match="calibration must be 1 picture or more; got 0"):
        export_quantized(network, out, calibration=0)
    with pytest.raises(ValueRangeError, match="base must be fp16 or fp32; got 'bf16'"):
        export_quantized(network, out, base="bf16")
    with pytest.raises(ExportError, match="got the mapping alone"):
        export_quantized(network, out, part="mapping")
    assert not out.exists()


def test_demo_quantised_to_int8_is_as_near_as_measured(tmp_path):
    """Measured with onnxruntime: 43.1 dB in the worst batch, with ranges of 64 pictures."""
    made = export_quantized("demo", tmp_path / "demo.onnx", inputs="ws", calibration=32)
    assert made.parity is not None
    found = next(result for result in made.parity["results"] if result["runtime"] == "onnxruntime")
    assert min(m["agreement"]["psnr"] for m in found["measurements"]) > 41
    assert max(m["identity_drift"] for m in found["measurements"]) < 0.01
    assert made.spec.opset == 21
    assert made.spec.calibration_sha256
    pytest.importorskip("tensorrt_rtx", reason='needs the extra "tensorrt-rtx"')
    built = build_engine(made.path, tmp_path / "demo.engine", compute_capabilities=(80, 89))
    assert built.spec.precision == "int8"
    assert built.spec.onnx_sha256 == made.sha256
    assert built.spec.calibration_sha256 == made.spec.calibration_sha256

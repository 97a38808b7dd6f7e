"""Runners: a small graph whose results numpy knows, and every way to call them wrongly."""

from __future__ import annotations

import dataclasses
import importlib
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pyface.errors import DTypeError, ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export import runners
from pyface.export.artefact import Artefact
from pyface.export.runners import default_runtime, obstacle, open_runner
from pyface.export.spec import BATCH, EngineSpec, TensorSpec

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pyface-synth[export])")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pyface-synth[export])")

WEIGHT = np.random.RandomState(0).randn(4, 12).astype(np.float32)
SPEC = EngineSpec(
    format="onnx",
    architecture="test",
    part="whole",
    precision="fp32",
    opset=20,
    up_form="",
    inputs=(TensorSpec("z", "float32", (BATCH, 4)), TensorSpec("psi", "float32", ())),
    outputs=(TensorSpec("vis", "float32", (BATCH, 3, 2, 2)), TensorSpec("grey", "uint8", (BATCH, 12))),
)
Z = np.random.RandomState(1).randn(8, 4).astype(np.float32)


def _graph(element: int) -> onnx.ModelProto:
    """z and psi -> vis = psi z W, grey = vis * 100 cut to bytes; computed in `element`."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(WEIGHT, "weight32")
    shape = numpy_helper.from_array(np.array([-1, 3, 2, 2], np.int64), "shape")
    low, high, scale = (numpy_helper.from_array(np.array(v, np.float32), n) for v, n in
                        ((0.0, "low"), (255.0, "high"), (100.0, "scale")))  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["z", "psi"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["x"], to=element),
        helper.make_node("Cast", ["weight32"], ["weight"], to=element),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Cast", ["y"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["flat", "shape"], ["vis"]),
        helper.make_node("Mul", ["flat", "scale"], ["wide"]),
        helper.make_node("Clip", ["wide", "low", "high"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["grey"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [BATCH, 4]),
            helper.make_tensor_value_info("psi", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("vis", TensorProto.FLOAT, [BATCH, 3, 2, 2]),
            helper.make_tensor_value_info("grey", TensorProto.UINT8, [BATCH, 12]),
        ],
        [weight, shape, low, high, scale],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _truth(z: np.ndarray, psi: float) -> dict[str, np.ndarray]:
    vis = (z * np.float32(psi)) @ WEIGHT
    return {"vis": vis.reshape(-1, 3, 2, 2), "grey": np.clip(vis * 100, 0, 255).astype(np.uint8)}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    path = tmp_path_factory.mktemp("runners") / "net.onnx"
    onnx.save(_graph(onnx.TensorProto.FLOAT), str(path))
    return Artefact(path, SPEC, {path.name: ""})


def _with(artefact: Artefact, **changes: object) -> Artefact:
    return dataclasses.replace(artefact, spec=dataclasses.replace(artefact.spec, **changes))


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def test_results_of_any_batch(artefact: Artefact, runtime: str) -> None:
    with open_runner(artefact, runtime=runtime, threads=1) as runner:
        assert (runner.runtime, runner.threads, runner.batch) == (runtime, 1, None)
        assert importlib.import_module(runtime).__version__.startswith(runner.versions[runtime])
        for rows in (1, 3, 8):
            found = runner.run({"z": Z[:rows], "psi": 0.7})
            assert list(found) == ["vis", "grey"]
            np.testing.assert_allclose(found["vis"], _truth(Z[:rows], 0.7)["vis"], atol=1e-5)
            assert np.abs(found["grey"].astype(int) - _truth(Z[:rows], 0.7)["grey"]).max() <= 1


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_reads_and_writes_the_callers_memory(artefact: Artefact, runtime: str, kind: str) -> None:
    z, vis = Z[:3].copy(), np.full((3, 3, 2, 2), np.nan, np.float32)
    psi = np.array(0.5, np.float32)
    give = torch.from_numpy if kind == "torch" else np.asarray
    with open_runner(artefact, runtime=runtime, threads=1) as runner:
        found = runner.run({"z": give(z), "psi": give(psi)}, {"vis": give(vis)})
        assert np.shares_memory(found["vis"], vis)
        np.testing.assert_allclose(vis, _truth(z, 0.5)["vis"], atol=1e-5)
        fresh = found["grey"]
        z *= -1  # the same memory with other numbers
        again = runner.run({"z": give(z), "psi": give(psi)}, {"vis": give(vis)})
        np.testing.assert_allclose(vis, _truth(z, 0.5)["vis"], atol=1e-5)
        assert not np.shares_memory(again["grey"], fresh)


def test_results_outlive_the_next_call_and_the_runner(artefact: Artefact, runtime: str) -> None:
    with open_runner(artefact, runtime=runtime, threads=1) as runner:
        first = runner.run({"z": Z[:2], "psi": 1.0})["vis"]
        kept = first.copy()
        runner.run({"z": Z[2:4], "psi": 1.0})
        runner.run({"z": Z, "psi": 1.0})
    np.testing.assert_array_equal(first, kept)


def test_takes_arrays_that_are_not_dense(artefact: Artefact, runtime: str) -> None:
    wide = np.repeat(Z[:3], 2, axis=1)
    with open_runner(artefact, runtime=runtime, threads=1) as runner:
        found = runner.run({"z": wide[:, ::2], "psi": 1.0})["vis"]
    np.testing.assert_allclose(found, _truth(Z[:3], 1.0)["vis"], atol=1e-5)


def test_calls_from_several_threads(artefact: Artefact, runtime: str) -> None:
    with open_runner(artefact, runtime=runtime, threads=2, throughput=True) as runner:

        def call(rows: int) -> float:
            found = runner.run({"z": Z[:rows], "psi": 0.25})["vis"]
            return float(np.abs(found - _truth(Z[:rows], 0.25)["vis"]).max())

        with ThreadPoolExecutor(4) as pool:
            assert max(pool.map(call, [1 + i % 8 for i in range(64)])) < 1e-5


def test_prepared_for_one_batch(artefact: Artefact, runtime: str) -> None:
    with open_runner(artefact, runtime=runtime, threads=1, batch=3) as runner:
        assert runner.batch == 3
        np.testing.assert_allclose(
            runner.run({"z": Z[:3], "psi": 1.0})["vis"], _truth(Z[:3], 1.0)["vis"], atol=1e-5
        )
        with pytest.raises(ValueRangeError, match=r"batch must be 3.*got 2"):
            runner.run({"z": Z[:2], "psi": 1.0})
    with pytest.raises(ValueRangeError, match="batch of 4; got 3"):
        open_runner(_with(artefact, batch=4), runtime=runtime, batch=3)


def test_batch_outside_the_profile(artefact: Artefact, runtime: str) -> None:
    with (
        open_runner(_with(artefact, profile=(2, 4, 4)), runtime=runtime, threads=1) as runner,
        pytest.raises(ValueRangeError, match=r"2 to 4.*got 5"),
    ):
        runner.run({"z": Z[:5], "psi": 1.0})


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({"z": Z}, ValueRangeError, "inputs must be z float32 [batch, 4], psi float32 []; got z"),
        ({"z": Z, "psi": 1.0, "c": Z}, ValueRangeError, "got z, psi, c"),
        ({"z": Z.astype(np.float64), "psi": 1.0}, DTypeError, "z must be float32; got float64"),
        ({"z": Z[:, :3], "psi": 1.0}, ShapeError, "z must be [batch, 4]"),
        ({"z": Z[0], "psi": 1.0}, ShapeError, "z must be [batch, 4]; got [4]"),
        ({"z": Z[:0], "psi": 1.0}, ShapeError, "at least one row"),
        ({"z": Z, "psi": float("nan")}, ValueRangeError, "psi must be a finite number; got nan"),
        ({"z": Z, "psi": np.array(np.inf, np.float32)}, ValueRangeError, "psi must be a finite number"),
        ({"z": Z, "psi": np.ones(1, np.float32)}, ShapeError, "psi must be []; got [1]"),
    ],
)
def test_wrong_inputs(artefact: Artefact, inputs: dict, error: type[Exception], words: str) -> None:
    with open_runner(artefact, threads=1) as runner, pytest.raises(error, match=re.escape(words)):
        runner.run(inputs)


def test_wrong_buffers(artefact: Artefact) -> None:
    inputs = {"z": Z, "psi": 1.0}
    strided = np.empty((8, 3, 2, 4), np.float32)[..., ::2]
    with open_runner(artefact, threads=1) as runner:
        with pytest.raises(ShapeError, match="buffer of vis must be float32 \\[8, 3, 2, 2\\]"):
            runner.run(inputs, {"vis": np.empty((7, 3, 2, 2), np.float32)})
        with pytest.raises(ShapeError, match="buffer of vis must be float32"):
            runner.run(inputs, {"vis": np.empty((8, 3, 2, 2))})
        with pytest.raises(ValueRangeError, match="dense and writeable"):
            runner.run(inputs, {"vis": strided})
        with pytest.raises(ValueRangeError, match="outputs must be of vis, grey; got nir"):
            runner.run(inputs, {"nir": strided})


def test_closed(artefact: Artefact, runtime: str) -> None:
    runner = open_runner(artefact, runtime=runtime, threads=1)
    runner.close()
    with pytest.raises(ExportError, match="it was closed"):
        runner.run({"z": Z, "psi": 1.0})


def test_description_and_graph_do_not_fit(artefact: Artefact, runtime: str) -> None:
    other = _with(artefact, outputs=(TensorSpec("nir", "float32", (BATCH, 1, 2, 2)),))
    with pytest.raises(ExportError, match="outputs are vis, grey, described are nir"):
        open_runner(other, runtime=runtime)
    other = _with(artefact, inputs=artefact.spec.inputs[:1])
    with pytest.raises(ExportError, match="inputs are z, psi, described are z"):
        open_runner(other, runtime=runtime)


def test_damaged_and_missing_files(artefact: Artefact, runtime: str, tmp_path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(artefact.path.read_bytes()[:150])
    with pytest.raises(ExportError, match="is damaged, or no network that"):
        open_runner(artefact.moved(cut), runtime=runtime)
    with pytest.raises(ExportError, match="there is no file"):
        open_runner(artefact.moved(tmp_path / "none.onnx"), runtime=runtime)


def test_bfloat16_goes_to_openvino(tmp_path) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "bf16.onnx"
    onnx.save(_graph(onnx.TensorProto.BFLOAT16), str(path))
    halves = Artefact(path, dataclasses.replace(SPEC, precision="bf16", opset=22), {path.name: ""})
    assert default_runtime(halves.spec) == "openvino"
    with pytest.raises(ExportError, match="no bfloat16 arithmetic on CPUs; use openvino"):
        open_runner(halves, runtime="onnxruntime")
    with open_runner(halves, threads=1) as runner:
        found, truth = runner.run({"z": Z, "psi": 1.0})["vis"], _truth(Z, 1.0)["vis"]
    assert 1e-5 < np.abs(found - truth).max() < 0.1  # rounded to 8 bits, and no more than that


@pytest.mark.parametrize(("precision", "coarse"), [("int8", 0.1), ("fp8", 0.2)])
def test_graphs_of_few_bits(tmp_path, precision: str, coarse: float) -> None:
    from onnx import TensorProto, helper, numpy_helper

    element = TensorProto.INT8 if precision == "int8" else TensorProto.FLOAT8E4M3FN
    nodes = []
    for name in ("z", "weight"):
        nodes += [
            helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_d"]),
        ]
    nodes.append(helper.make_node("MatMul", ["z_d", "weight_d"], ["y"]))
    constants = [numpy_helper.from_array(WEIGHT, "weight"), helper.make_tensor("zero", element, [], [0])]
    constants.append(numpy_helper.from_array(np.array(0.03, np.float32), "step"))
    z, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [BATCH, k]) for n, k in (("z", 4), ("y", 12)))
    graph = helper.make_graph(nodes, "test", [z], [y], constants)
    opsets = [helper.make_opsetid("", 21)]
    path = tmp_path / "few.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    tensors = (TensorSpec("z", "float32", (BATCH, 4)),), (TensorSpec("y", "float32", (BATCH, 12)),)
    spec = dataclasses.replace(SPEC, precision=precision, opset=21, inputs=tensors[0], outputs=tensors[1])
    with open_runner(Artefact(path, spec, {path.name: ""}), threads=1) as runner:
        error = np.abs(runner.run({"z": Z})["y"] - Z @ WEIGHT).max() / (Z @ WEIGHT).std()
    assert runner.runtime == "onnxruntime"
    assert 0.01 < error < coarse


def test_openvino_models(artefact: Artefact, tmp_path) -> None:
    ov = pytest.importorskip("openvino")
    path = tmp_path / "net.xml"
    ov.save_model(ov.Core().read_model(artefact.path), path, compress_to_fp16=False)
    model = Artefact(path, dataclasses.replace(SPEC, format="openvino"), {path.name: ""})
    with pytest.raises(ExportError, match="OpenVINO model; use openvino"):
        open_runner(model, runtime="onnxruntime")
    with open_runner(model, threads=1) as runner:
        assert runner.runtime == "openvino"
        np.testing.assert_allclose(runner.run({"z": Z, "psi": 0.7})["vis"], _truth(Z, 0.7)["vis"], atol=1e-5)


def test_what_cannot_run_here(artefact: Artefact) -> None:
    with pytest.raises(ExportError, match="made for tensorrt-rtx on a GPU"):
        open_runner(_with(artefact, format="tensorrt-rtx"))
    with pytest.raises(ExportError, match="does not read fp8 numbers; use onnxruntime"):
        open_runner(_with(artefact, precision="fp8"), runtime="openvino")
    with pytest.raises(ValueRangeError, match="runtime must be one of onnxruntime, openvino"):
        open_runner(artefact, runtime="tflite")
    with pytest.raises(ValueRangeError, match="threads must be 1 or more"):
        open_runner(artefact, threads=0)
    with pytest.raises(ValueRangeError, match="batch must be 1 or more"):
        open_runner(artefact, batch=0)
    assert obstacle(SPEC, "onnxruntime") is None
    assert obstacle(SPEC, "openvino") is None


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")])
def test_missing_packages(artefact: Artefact, monkeypatch, name: str, extra: str) -> None:
    def missing(module: str) -> None:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(runners.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=re.escape(f'pip install "pyface-synth[{extra}]"')):
        open_runner(artefact, runtime=name)


def test_a_device_that_is_not_there(artefact: Artefact) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ValueRangeError, match="pip install onnxruntime-gpu"):
        open_runner(artefact, runtime="onnxruntime", device="cuda")
    with pytest.raises(ValueRangeError, match="openvino runs on the CPU here"):
        open_runner(artefact, runtime="openvino", device="cuda")

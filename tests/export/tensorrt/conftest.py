"""Small ONNX graphs, and the recording double of TensorRT."""

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def tiny_graph(tmp_path):
    """`tiny_graph("net.onnx", "Conv", np.float16)`: a file with one layer, "x" to "y", of free batch."""
    onnx = pytest.importorskip("onnx", reason='needs the extra "export"')
    from onnx import helper, numpy_helper

    def make(name="net.onnx", kind="Conv", dtype=np.float32, *, batch="batch", opset=22, side=8):
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        random = np.random.default_rng(3)
        matrix = kind == "MatMul"
        shape = [batch, 16] if matrix else [batch, 16, side, side]
        weight = random.standard_normal((16, 16) if matrix else (16, 16, 3, 3)) * 0.1
        options = {"Conv": {"pads": [1] * 4}, "ConvTranspose": {"strides": [2, 2]}}.get(kind, {})
        domain = "ours" if kind == "Ours" else ""
        node = helper.make_node(kind, ["x", "w"], ["y"], name="layer", domain=domain, **options)
        out = [batch, 16] if matrix else [batch, 16, None, None]
        graph = helper.make_graph(
            [node],
            "net",
            [helper.make_tensor_value_info("x", element, shape)],
            [helper.make_tensor_value_info("y", element, shape if kind == "Conv" else out)],
            [numpy_helper.from_array(weight.astype(dtype), "w")],
        )
        opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid("ours", 1)] * bool(domain)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        path = tmp_path / name
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def tensorrt_double(tmp_path, monkeypatch):
    """`tensorrt_double("11")`: TensorRT 10 or 11, or "rtx", as a double, here and in child processes."""
    pytest.importorskip("onnx", reason='needs the extra "export"')

    def use(kind):
        name = "tensorrt_rtx" if kind == "rtx" else "tensorrt"
        folder = tmp_path / "double"
        folder.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("tensorrt_double.py"), folder / f"{name}.py")
        monkeypatch.setenv("TENSORRT_DOUBLE", kind)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setitem(sys.modules, name, None)  # so that what was there comes back afterwards
        del sys.modules[name]
        return importlib.import_module(name)

    return use

"""The wrapper around onnxruntime, and the sizes that a file declares."""

from __future__ import annotations

import builtins
import contextlib
import pickle

import numpy as np
import pytest

from pyface.errors import CheckpointError, MissingExtraError, ShapeError, ValueRangeError
from pyface.faces.onnx_network import OnnxNetwork
from pyface.io.onnx_file import with_free_sizes

onnx = pytest.importorskip("onnx", reason="onnx writes the graphs (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra faces)")


def mean_graph(graphs, path, input_shape, keep_batch=True):
    axes = [1, 2, 3] if keep_batch else [0, 1, 2, 3]
    nodes = [onnx.helper.make_node("ReduceMean", ["picture"], ["mean"], axes=axes, keepdims=0)]
    return graphs.save(path, nodes, {"mean": [input_shape[0]] if keep_batch else []}, {}, input_shape)


def pictures(count, height=8, width=8):
    return np.random.default_rng(count).normal(size=(count, 3, height, width)).astype(np.float32)


def test_names_shapes_and_values(graphs, tmp_path):
    network = OnnxNetwork(mean_graph(graphs, tmp_path / "a.onnx", ["N", 3, 8, 8]))
    assert network.input.name == "picture"
    assert network.input.shape == (None, 3, 8, 8)
    assert str(network.input) == "picture float [?, 3, 8, 8]"
    assert [output.name for output in network.outputs] == ["mean"]
    batch = pictures(5)
    np.testing.assert_allclose(network(batch)["mean"], batch.mean(axis=(1, 2, 3)), atol=1e-6)
    assert "a.onnx" in repr(network)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_fixed_batch_is_run_in_parts(graphs, tmp_path, count):
    network = OnnxNetwork(mean_graph(graphs, tmp_path / "a.onnx", [3, 3, 8, 8]))
    batch = pictures(count)
    np.testing.assert_allclose(network(batch)["mean"], batch.mean(axis=(1, 2, 3)), atol=1e-6)


def test_fixed_batch_without_batch_in_the_output(graphs, tmp_path):
    network = OnnxNetwork(mean_graph(graphs, tmp_path / "a.onnx", [3, 3, 8, 8], keep_batch=False))
    assert network(pictures(3))["mean"].shape == ()
    with pytest.raises(CheckpointError, match="does not tell them apart"):
        network(pictures(2))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 9), (3, 8, 8), (0, 3, 8, 8)])
def test_wrong_batches(graphs, tmp_path, shape):
    network = OnnxNetwork(mean_graph(graphs, tmp_path / "a.onnx", ["N", 3, 8, 8]))
    with pytest.raises(ShapeError, match=r"a\.onnx takes picture float \[\?, 3, 8, 8\]"):
        network(np.zeros(shape, np.float32))


def test_pickle_and_threads(graphs, tmp_path):
    network = OnnxNetwork(mean_graph(graphs, tmp_path / "a.onnx", ["N", 3, 8, 8]), threads=1)
    copy = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(copy(pictures(2))["mean"], network(pictures(2))["mean"])
    with pytest.raises(ValueRangeError, match="threads"):
        OnnxNetwork(network.path, threads=-1)


def test_damaged_and_absent_files(graphs, tmp_path):
    good = mean_graph(graphs, tmp_path / "a.onnx", ["N", 3, 8, 8]).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        for free in (False, True):
            with pytest.raises(CheckpointError, match=rf"{name}\.onnx is damaged"):
                OnnxNetwork(tmp_path / f"{name}.onnx", free_sizes=free)
    with pytest.raises(CheckpointError, match="there is no file"):
        OnnxNetwork(tmp_path / "none.onnx")


def test_other_inputs_are_listed(graphs, tmp_path):
    nodes = [onnx.helper.make_node("Identity", ["picture"], ["same"])]
    path = graphs.save(tmp_path / "flat.onnx", nodes, {"same": ["N", 48]}, {}, ["N", 48])
    with pytest.raises(CheckpointError, match=r"picture float \[\?, 48\]"):
        OnnxNetwork(path)


def test_without_onnxruntime(graphs, tmp_path, monkeypatch):
    path = mean_graph(graphs, tmp_path / "a.onnx", ["N", 3, 8, 8])
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("no module")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pyface-synth\[faces\]"):
        OnnxNetwork(path)


def test_freed_sizes(graphs, tmp_path):
    """A graph saved with one size takes any; weights among its inputs and its values stay."""
    path = graphs.bright_spot_centerface(tmp_path / "a.onnx", 24, (10, 3, 32, 32))
    fixed = OnnxNetwork(path)
    assert fixed.input.shape == (10, 3, 32, 32)
    free = OnnxNetwork(path, free_sizes=True)
    assert free.input.shape == (None, 3, None, None)
    assert free.outputs[3].shape == (None, 10, None, None)
    small = pictures(10, 32, 32)
    for name, value in fixed(small).items():
        np.testing.assert_allclose(free(small)[name], value, atol=1e-6)
    assert free(pictures(2, 64, 96))["heat"].shape == (2, 1, 16, 24)
    freed = onnx.load_from_string(with_free_sizes(path.read_bytes()))
    before = onnx.load(str(path))
    assert freed.graph.node == before.graph.node
    assert freed.graph.initializer == before.graph.initializer
    assert freed.opset_import == before.opset_import
    onnx.checker.check_model(freed)


def test_weights_among_the_inputs_keep_their_sizes(graphs, tmp_path):
    path = graphs.bright_spot_centerface(tmp_path / "a.onnx", 24, (1, 3, 32, 32))
    model = onnx.load(str(path))
    weight = onnx.helper.make_tensor_value_info("grey", onnx.TensorProto.FLOAT, [1, 3, 1, 1])
    model.graph.input.append(weight)
    freed = onnx.load_from_string(with_free_sizes(model.SerializeToString()))
    assert [i.name for i in freed.graph.input] == ["picture", "grey"]
    assert freed.graph.input[1] == weight
    assert freed.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3
    assert not freed.graph.input[0].type.tensor_type.shape.dim[2].dim_value


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_are_refused_or_read(graphs, tmp_path, seed):
    """Random damage gives an error of ours or some other bytes, nothing else."""
    data = bytearray(graphs.bright_spot_centerface(tmp_path / "a.onnx", 24).read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(8):
        data[rng.integers(len(data))] = rng.integers(256)
    cut = bytes(data[: rng.integers(1, len(data))])
    with contextlib.suppress(CheckpointError):
        assert isinstance(with_free_sizes(cut), bytes)

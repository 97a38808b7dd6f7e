"""TensorFlow Lite files as plain data."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pyface.errors import CheckpointError
from pyface.io.tflite import _dequantised, read_tflite


def test_the_graph_of_a_known_network(model):
    graph = read_tflite(model("fer"))
    assert [graph.tensors[i].shape for i in graph.inputs] == [(1, 64, 64, 1)]
    assert [graph.tensors[i].shape for i in graph.outputs] == [(1, 7)]
    codes = [operation.code for operation in graph.operations]
    assert (codes.count("CONV_2D"), codes.count("DEPTHWISE_CONV_2D"), codes[-1]) == (15, 8, "SOFTMAX")
    first = graph.operations[0]
    assert first.options == {
        "padding": 1, "stride_w": 1, "stride_h": 1, "activation": 1, "dilation_w": 1, "dilation_h": 1,
    }  # fmt: skip
    weights = [t.data for t in graph.tensors if t.data is not None and len(t.shape) == 4]
    assert all(w.dtype == np.float32 for w in weights)  # some are int8 in the file
    made = set(graph.inputs)
    for operation in graph.operations:  # an order in which they can be computed
        assert all(graph.tensors[i].data is not None or i in made for i in operation.inputs if i >= 0)
        made |= set(operation.outputs)
    assert set(graph.outputs) <= made


class Facts:
    """Quantisation of a tensor, as the reader sees it."""

    def __init__(self, scale, zero, axis):
        self.fields = {2: scale, 3: zero}
        self.axis = axis

    def numbers(self, field, dtype):
        return np.array(self.fields[field], dtype)

    def scalar(self, field, form, default):
        return self.axis


def test_weights_are_dequantised():
    stored = np.array([[[1], [2]], [[-3], [127]]], np.int8)
    along = _dequantised(stored, Facts([0.5, 2.0], [0, 0], 0))
    np.testing.assert_array_equal(along, np.float32([[[0.5], [1.0]], [[-6.0], [254.0]]]))
    along = _dequantised(stored, Facts([0.5, 2.0], [1, 2], 1))
    np.testing.assert_array_equal(along, np.float32([[[0.0], [0.0]], [[-2.0], [250.0]]]))
    whole = _dequantised(stored, Facts([0.25], [-1], 0))
    np.testing.assert_array_equal(whole, np.float32([[[0.5], [0.75]], [[-0.5], [32.0]]]))
    assert _dequantised(np.array([1, 2], np.int32), Facts([], [], 0)).dtype == np.int32
    half = _dequantised(np.array([0.1, 3.0], np.float16), None)
    np.testing.assert_array_equal(half, np.array([0.1, 3.0], np.float16).astype(np.float32))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "net.tflite"
    for data in (b"", b"PK\x03\x04", b"\x1c\0\0\0TFL2" + bytes(60)):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="no TensorFlow Lite file"):
            read_tflite(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_tflite(tmp_path / "gone.tflite")


def test_damaged_files_are_refused_and_nothing_else_happens(model, tmp_path):
    data = model("fer").read_bytes()
    path = tmp_path / "net.tflite"
    for length in (8, 16, 100, 3000, len(data) // 2, len(data) - 5000):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"damaged|has 0 subgraphs"):
            read_tflite(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(8, len(data), 40):
            broken[place] = rng.integers(0, 256)
        root = struct.unpack_from("<I", data)[0]
        broken[root + rng.integers(0, 64)] ^= 255
        path.write_bytes(broken)
        try:
            read_tflite(path)
        except CheckpointError:
            refused += 1
    assert refused > 20

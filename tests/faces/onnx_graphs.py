"""Small ONNX graphs that say what a detector would: constants, or simple functions of the picture."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def save(path, nodes, outputs, constants, input_shape):
    """Write a graph of `nodes` with the input "picture"; outputs {name: shape}, constants {name: array}."""
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("picture", FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(a, np.float32), name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def constant_detector(path, outputs, input_shape=(1, 3, "H", "W")):
    """A graph that gives the same `outputs` {name: array} for every picture of the right shape."""
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    nodes += [helper.make_node("Add", [f"{name}_value", "nothing"], [name]) for name in outputs]
    constants = {f"{name}_value": array for name, array in outputs.items()} | {"zero": np.array(0.0)}
    return save(path, nodes, {n: list(a.shape) for n, a in outputs.items()}, constants, input_shape)


def bright_spot_centerface(path, side, input_shape=("N", 3, "H", "W"), weights=(1 / 765,) * 3):
    """A CenterFace whose faces are bright cells of 4 x 4 pixels; boxes have `side` pixels of its input.

    What counts as brightness is the sum of the channels times `weights`. Offsets are zero; the five points
    are shares (0.1 i, 0.2 i) of the box, i from 0 to 4.
    """
    shares = np.array([[0.2 * i, 0.1 * i] for i in range(5)]).reshape(-1)  # row before column
    constants = {
        "grey": np.array(weights).reshape(1, 3, 1, 1),
        "none": np.zeros((2, 1, 1, 1)),
        "same": np.full((2,), np.log(side / 4)),
        "none_of_ten": np.zeros((10, 1, 1, 1)),
        "shares": shares,
    }
    nodes = [
        helper.make_node("Conv", ["picture", "grey"], ["bright"]),
        helper.make_node("AveragePool", ["bright"], ["heat"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["heat", "none", "same"], ["size"]),
        helper.make_node("Conv", ["heat", "none"], ["offset"]),
        helper.make_node("Conv", ["heat", "none_of_ten", "shares"], ["points"]),
    ]
    batch = input_shape[0]
    outputs = {"heat": [batch, 1, "h", "w"], "size": [batch, 2, "h", "w"]}
    outputs |= {"offset": [batch, 2, "h", "w"], "points": [batch, 10, "h", "w"]}
    return save(path, nodes, outputs, constants, input_shape)

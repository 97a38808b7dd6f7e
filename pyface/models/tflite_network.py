"""A network of a TensorFlow Lite file as a torch module: batched, differentiable, on any device.

Only the operations of small image networks are known (the table at the end). Four-dimensional values,
stored as N, H, W, C in the file, are kept as [N, C, H, W]; the batch, 1 in the file, is free.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import CheckpointError, ShapeError
from pyface.io.tflite import TfliteGraph, TfliteOperation, read_tflite

__all__ = ["TfliteNetwork", "load_tflite"]

_AXES = (0, 2, 3, 1)  # where an axis of N, H, W, C lies in [N, C, H, W]


def load_tflite(path: str | os.PathLike[str]) -> TfliteNetwork:
    """The network of a `.tflite` file, in evaluation mode.

    Raises:
        CheckpointError: it cannot be read, or has an operation that is not known here.
    """
    try:
        return TfliteNetwork(read_tflite(path)).eval()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error


class TfliteNetwork(nn.Module):
    """Runs the operations of a graph; weights are buffers in float32.

    `forward` takes float [N, C, H, W] of the size in `input_shape` and gives one tensor for each of the
    graph's outputs, in the file's order; four-dimensional ones as [N, C, H, W].
    """

    def __init__(self, graph: TfliteGraph) -> None:
        super().__init__()
        self._graph = graph
        shape = graph.tensors[graph.inputs[0]].shape
        if len(graph.inputs) != 1 or len(shape) != 4:
            raise CheckpointError("only networks with one image as input can be run.")
        self.input_shape = (shape[3], shape[1], shape[2])
        self.output_names = tuple(graph.tensors[index].name for index in graph.outputs)
        constants = {i: tensor.data for i, tensor in enumerate(graph.tensors) if tensor.data is not None}
        self._operations = []
        for operation in graph.operations:
            if operation.code not in self._RUN:
                raise CheckpointError(f"operation {operation.code} cannot be run.")
            if operation.code == "DEQUANTIZE" and operation.inputs[0] in constants:
                constants[operation.outputs[0]] = constants[operation.inputs[0]]  # float32 already
                continue
            for place, index in enumerate(operation.inputs):
                self._add_constant(operation.code, place, index, constants.get(index))
            self._operations.append(operation)
        self._last_use = {i: n for n, op in enumerate(self._operations) for i in op.inputs}

    def _add_constant(self, code: str, place: int, index: int, data: npt.NDArray[Any] | None) -> None:
        """Keep a weight as the operation takes it: convolutions as [out, in, kh, kw], slopes per channel."""
        if data is None or f"c{index}" in self._buffers:
            return
        value = torch.from_numpy(np.array(data))
        if code == "CONV_2D" and place == 1:
            value = value.permute(0, 3, 1, 2)
        elif code == "DEPTHWISE_CONV_2D" and place == 1:
            value = value.permute(3, 0, 1, 2)
        elif code == "PRELU" and place == 1:
            if value.numel() != value.shape[-1]:
                raise CheckpointError(f"a PRELU with slopes {list(value.shape)} cannot be run.")
            value = value.reshape(-1)
        elif value.ndim == 4:
            value = value.permute(0, 3, 1, 2)
        self.register_buffer(f"c{index}", value.contiguous())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs for images [N, C, H, W]. Raises ShapeError for another size."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ShapeError(f"images must be [N, {wanted}]; got {list(images.shape)}.")
        values = {self._graph.inputs[0]: images}
        outputs = set(self._graph.outputs)
        for number, operation in enumerate(self._operations):
            inputs = [values[i] if i in values else self._constant(i) for i in operation.inputs]
            result = self._RUN[operation.code](self, inputs, operation)
            values[operation.outputs[0]] = _activated(result, operation.options.get("activation", 0))
            for index in operation.inputs:
                if self._last_use[index] == number and index not in outputs:
                    values.pop(index, None)
        return tuple(values[index] for index in self._graph.outputs)

    def _constant(self, index: int) -> Tensor | None:
        return getattr(self, f"c{index}") if index >= 0 else None

    def _convolution(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
        groups = x.shape[1] // weight.shape[1]
        facts = operation.options
        dilation = (facts["dilation_h"], facts["dilation_w"])
        reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
        x, padding = _padded(x, reach, facts, 0.0)
        stride = (facts["stride_h"], facts["stride_w"])
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def _pool(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        facts = operation.options
        window = (facts["height"], facts["width"])
        x, padding = _padded(inputs[0], window, facts, -torch.inf)
        return F.max_pool2d(x, window, (facts["stride_h"], facts["stride_w"]), padding)

    def _add(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        wide = max(x.ndim for x in inputs) == 4
        a, b = (x.reshape(-1, 1, 1) if wide and x.ndim == 1 else x for x in inputs)  # a value per channel
        return a + b

    def _mean(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        x = inputs[0]
        axes = [int(axis) % x.ndim for axis in inputs[1].reshape(-1)]
        kept: Tensor = x.mean([_AXES[a] if x.ndim == 4 else a for a in axes], keepdim=True)
        if operation.options["keep_dims"]:
            return kept
        rows = kept.permute(0, 2, 3, 1) if x.ndim == 4 else kept
        return rows.reshape([n for axis, n in enumerate(rows.shape) if axis not in axes])

    def _softmax(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        x = inputs[0]
        return torch.softmax(x * operation.options["beta"], 1 if x.ndim == 4 else -1)

    def _reshape(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        x = inputs[0].permute(0, 2, 3, 1) if inputs[0].ndim == 4 else inputs[0]
        shape = self._graph.tensors[operation.outputs[0]].shape
        x = x.reshape(x.shape[0], *shape[1:])
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def _concatenation(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        axis = operation.options["axis"] % inputs[0].ndim
        return torch.cat(list(inputs), _AXES[axis] if inputs[0].ndim == 4 else axis)

    def _pad(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        pairs = inputs[1].reshape(-1, 2).tolist()
        n, h, w, c = pairs
        return F.pad(inputs[0], (*w, *h, *c, *n))

    def _prelu(self, inputs: Sequence[Any], operation: TfliteOperation) -> Tensor:
        return F.prelu(inputs[0], inputs[1])

    _RUN: ClassVar[dict[str, Callable[[Any, Sequence[Any], TfliteOperation], Tensor]]] = {
        "CONV_2D": _convolution,
        "DEPTHWISE_CONV_2D": _convolution,
        "MAX_POOL_2D": _pool,
        "ADD": _add,
        "MEAN": _mean,
        "SOFTMAX": _softmax,
        "RESHAPE": _reshape,
        "CONCATENATION": _concatenation,
        "PAD": _pad,
        "PRELU": _prelu,
        "RELU": lambda self, inputs, operation: torch.relu(inputs[0]),
        "RELU6": lambda self, inputs, operation: inputs[0].clamp(0, 6),
        "LOGISTIC": lambda self, inputs, operation: torch.sigmoid(inputs[0]),
        "DEQUANTIZE": lambda self, inputs, operation: inputs[0],
    }


def _activated(x: Tensor, code: int) -> Tensor:
    """The activation that is fused into an operation: 0 none, 1 relu, 3 relu6, 4 tanh."""
    if code == 0:
        return x
    if code == 1:
        return torch.relu(x)
    if code == 3:
        return x.clamp(0, 6)
    if code == 4:
        return torch.tanh(x)
    raise CheckpointError(f"the fused activation {code} cannot be run.")


def _padded(
    x: Tensor, window: Sequence[int], facts: dict[str, Any], value: float
) -> tuple[Tensor, tuple[int, int]]:
    """Padding "SAME" (0): so much that the output has ceil(size / stride) pixels, the odd one behind.

    Gives x, padded where that is uneven, and the even padding that the operation is to do itself.
    """
    if facts["padding"] != 0:
        return x, (0, 0)
    strides = (facts["stride_h"], facts["stride_w"])
    total = [
        max((-(-size // stride) - 1) * stride + reach - size, 0)
        for size, stride, reach in zip(x.shape[2:], strides, window, strict=True)
    ]
    before = [t // 2 for t in total]
    if all(2 * b == t for b, t in zip(before, total, strict=True)):
        return x, (before[0], before[1])
    (top, left), (bottom, right) = before, [t - b for t, b in zip(total, before, strict=True)]
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)

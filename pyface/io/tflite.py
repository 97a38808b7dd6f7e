"""TensorFlow Lite files as plain data: tensors with their weights, and the operations between them.

A `.tflite` file is a FlatBuffer (tables whose fields are found through a table of offsets); numbers of fields
and codes are those of TensorFlow's public `schema.fbs`, version 3. Nothing in a file is executed, and every
offset is checked against the size of the file.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError

__all__ = ["TfliteGraph", "TfliteOperation", "TfliteTensor", "read_tflite"]

_DTYPES: dict[int, Any] = {
    0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
}  # fmt: skip
_CODES = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6",
    22: "RESHAPE", 25: "SOFTMAX", 34: "PAD", 40: "MEAN", 41: "SUB", 54: "PRELU",
}  # fmt: skip
# operation -> (field, name, format, default) of its options
_WINDOW = [(0, "padding", "b", 0), (1, "stride_w", "i", 0), (2, "stride_h", "i", 0)]
_OPTIONS: dict[str, list[tuple[int, str, str, Any]]] = {
    "CONV_2D": [*_WINDOW, (3, "activation", "b", 0), (4, "dilation_w", "i", 1), (5, "dilation_h", "i", 1)],
    "DEPTHWISE_CONV_2D": [
        *_WINDOW, (3, "multiplier", "i", 0), (4, "activation", "b", 0), (5, "dilation_w", "i", 1),
        (6, "dilation_h", "i", 1),
    ],
    "MAX_POOL_2D": [*_WINDOW, (3, "width", "i", 0), (4, "height", "i", 0), (5, "activation", "b", 0)],
    "AVERAGE_POOL_2D": [*_WINDOW, (3, "width", "i", 0), (4, "height", "i", 0), (5, "activation", "b", 0)],
    "ADD": [(0, "activation", "b", 0)],
    "SUB": [(0, "activation", "b", 0)],
    "MUL": [(0, "activation", "b", 0)],
    "FULLY_CONNECTED": [(0, "activation", "b", 0)],
    "CONCATENATION": [(0, "axis", "i", 0), (1, "activation", "b", 0)],
    "MEAN": [(0, "keep_dims", "?", False)],
    "SOFTMAX": [(0, "beta", "f", 0.0)],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TfliteTensor:
    """One tensor. `data` holds constants, dequantised to float where they are quantised; None: computed."""

    name: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any] | None


@dataclasses.dataclass(frozen=True)
class TfliteOperation:
    """One operation on tensors, given by their indices; -1 stands for an input that is absent."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TfliteGraph:
    """The first subgraph of a file. Operations stand in an order in which they can be computed."""

    tensors: tuple[TfliteTensor, ...]
    operations: tuple[TfliteOperation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Table:
    """A FlatBuffer table: field numbers to values, all little-endian."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._fields = position - self._at("i", position)
        self._length = self._at("H", self._fields)

    def _at(self, form: str, position: int) -> Any:
        if position < 0:
            raise struct.error("offset before the file's begin")
        return struct.unpack_from("<" + form, self._data, position)[0]

    def _place(self, field: int) -> int:
        """Where a field's value is; 0 where it is absent."""
        entry = 4 + 2 * field
        offset = self._at("H", self._fields + entry) if entry < self._length else 0
        return self._position + offset if offset else 0

    def scalar(self, field: int, form: str, default: Any) -> Any:
        place = self._place(field)
        return self._at(form, place) if place else default

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self._data, place + self._at("I", place)) if place else None

    def tables(self, field: int) -> Iterator[_Table]:
        start, count = self._vector(field)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self._data, place + self._at("I", place))

    def numbers(self, field: int, dtype: Any) -> npt.NDArray[Any]:
        start, count = self._vector(field)
        return np.frombuffer(self._data, np.dtype(dtype).newbyteorder("<"), count, start)

    def text(self, field: int) -> str:
        return self.numbers(field, np.uint8).tobytes().decode("utf-8", "replace")

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._place(field)
        if not place:
            return 0, 0
        start = place + self._at("I", place)
        count = self._at("I", start)
        if count > len(self._data):
            raise struct.error("vector longer than the file")
        return start + 4, count


def read_tflite(path: str | os.PathLike[str]) -> TfliteGraph:
    """The graph of a `.tflite` file with one subgraph, weights dequantised: float16 and int8 become float32.

    Raises:
        CheckpointError: it cannot be read, is no such file, is damaged, or has an operation or number format
            that is unknown here.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if data[4:8] != b"TFL3":
        raise CheckpointError(f"{path} is no TensorFlow Lite file (it has no TFL3 mark).")
    try:
        model = _Table(data, struct.unpack_from("<I", data)[0])
        return _graph(model, str(path))
    except (struct.error, ValueError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def _graph(model: _Table, path: str) -> TfliteGraph:
    subgraphs = list(model.tables(2))
    if len(subgraphs) != 1:
        raise CheckpointError(f"{path} has {len(subgraphs)} subgraphs; only files with one can be read.")
    buffers = list(model.tables(4))
    codes = [max(row.scalar(0, "b", 0), row.scalar(3, "i", 0)) for row in model.tables(1)]
    subgraph = subgraphs[0]
    graph = TfliteGraph(
        tuple(_tensor(row, buffers, path) for row in subgraph.tables(0)),
        tuple(_operation(row, codes, path) for row in subgraph.tables(3)),
        tuple(subgraph.numbers(1, np.int32).tolist()),
        tuple(subgraph.numbers(2, np.int32).tolist()),
    )
    known = range(len(graph.tensors))
    for operation in graph.operations:
        if not operation.outputs or any(index != -1 and index not in known for index in operation.inputs):
            raise CheckpointError(f"{path} is damaged: an operation names tensors that are not there.")
    if any(index not in known for index in (*graph.inputs, *graph.outputs)):
        raise CheckpointError(f"{path} is damaged: its inputs or outputs are not there.")
    return graph


def _tensor(row: _Table, buffers: list[_Table], path: str) -> TfliteTensor:
    shape = tuple(row.numbers(0, np.int32).tolist())
    name, code = row.text(3), row.scalar(1, "b", 0)
    raw = buffers[row.scalar(2, "I", 0)].numbers(0, np.uint8)
    if not raw.size:
        return TfliteTensor(name, shape, None)
    if code not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name} has number format {code}, which is not read.")
    values = np.frombuffer(raw.tobytes(), np.dtype(_DTYPES[code]).newbyteorder("<")).reshape(shape)
    return TfliteTensor(name, shape, _dequantised(values, row.table(4)))


def _dequantised(values: npt.NDArray[Any], facts: _Table | None) -> npt.NDArray[Any]:
    """float32 of stored weights: (q - zero point) * scale, along one axis or with one scale for all."""
    if values.dtype == np.float16:
        return values.astype(np.float32)
    scale = facts.numbers(2, np.float32) if facts else np.empty(0, np.float32)
    if facts is None or not scale.size or values.dtype.kind == "f":
        return values
    zero = facts.numbers(3, np.int64) if facts.numbers(3, np.int64).size else np.zeros(1, np.int64)
    if scale.size > 1:
        along = [1] * values.ndim
        along[facts.scalar(6, "i", 0)] = -1
        scale, zero = scale.reshape(along), zero.reshape(along) if zero.size > 1 else zero
    return ((values.astype(np.float64) - zero) * scale).astype(np.float32)


def _operation(row: _Table, codes: list[int], path: str) -> TfliteOperation:
    number = codes[row.scalar(0, "I", 0)]
    if number not in _CODES:
        raise CheckpointError(f"{path} uses operation {number} of TensorFlow Lite, which is not read.")
    code, table = _CODES[number], row.table(4)
    options = {
        name: table.scalar(field, form, default) if table else default
        for field, name, form, default in _OPTIONS.get(code, [])
    }
    return TfliteOperation(
        code, tuple(row.numbers(1, np.int32).tolist()), tuple(row.numbers(2, np.int32).tolist()), options
    )

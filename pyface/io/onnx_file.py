"""ONNX files as bytes: the sizes that a graph declares for its inputs and outputs, taken away.

An `.onnx` file is a message of Protocol Buffers: fields, each a number, a kind and a value; numbers are those
of the public `onnx.proto`. Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyface.errors import CheckpointError

__all__ = ["with_free_sizes"]

# numbers of the fields on the way from the model to one size: model.graph, graph.input, ...
_GRAPH = 7
_INPUT, _OUTPUT, _VALUE_INFO, _INITIALIZER, _NAME = 11, 12, 13, 5, 8
_VALUE_NAME, _VALUE_TYPE, _TENSOR_TYPE, _SHAPE, _DIMENSION = 1, 2, 1, 2, 1
_DIMENSION_NAME = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def with_free_sizes(data: bytes) -> bytes:
    """The same model with batch, height and width of its pictures left open.

    Some networks that work at any size were saved with the size that was at hand. Inputs and outputs of four
    axes keep the size of their second axis; the others, and all declared sizes inside of the graph, go.
    Inputs that are weights stay as they are.

    Args:
        data: a whole `.onnx` file.

    Raises:
        CheckpointError: the bytes are no such file.
    """
    return _rewritten(data, lambda number, body: _free_graph(body) if number == _GRAPH else body)


def _free_graph(graph: bytes) -> bytes:
    weights = {
        name
        for number, kind, tensor in _fields(graph)
        if number == _INITIALIZER and kind == _BYTES
        for inner, inner_kind, name in _fields(tensor)
        if inner == _NAME and inner_kind == _BYTES
    }

    def change(number: int, body: bytes) -> bytes | None:
        if number == _VALUE_INFO:
            return None
        if number not in (_INPUT, _OUTPUT) or _first(body, _VALUE_NAME) in weights:
            return body
        return _rewritten(body, lambda n, b: _nested(b, (_TENSOR_TYPE, _SHAPE)) if n == _VALUE_TYPE else b)

    return _rewritten(graph, change)


def _nested(body: bytes, path: tuple[int, ...]) -> bytes:
    """The message with its sizes freed, which lie under the fields of `path`."""
    if not path:
        return _free_shape(body)
    return _rewritten(body, lambda number, inner: _nested(inner, path[1:]) if number == path[0] else inner)


def _free_shape(shape: bytes) -> bytes:
    sizes = [body for number, _, body in _fields(shape) if number == _DIMENSION]
    if len(sizes) != 4:
        return shape
    freed = [
        size if axis == 1 else _field(_DIMENSION_NAME, f"size_{axis}".encode())
        for axis, size in enumerate(sizes)
    ]
    return b"".join(_field(_DIMENSION, size) for size in freed)


def _first(message: bytes, wanted: int) -> bytes:
    return next((body for number, kind, body in _fields(message) if (number, kind) == (wanted, _BYTES)), b"")


def _rewritten(message: bytes, change: Callable[[int, bytes], bytes | None]) -> bytes:
    """The message with each nested field changed; None leaves it out."""
    parts = []
    for number, kind, body in _fields(message):
        if kind != _BYTES:
            parts.append(_varint(number << 3 | kind) + body)
            continue
        changed = change(number, body)
        if changed is not None:
            parts.append(_field(number, changed))
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Number, kind and value of each field."""
    at = 0
    while at < len(message):
        key, start = _read_varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            _, end = _read_varint(message, start)
        elif kind in (_FIXED64, _FIXED32):
            end = start + (8 if kind == _FIXED64 else 4)
        elif kind == _BYTES:
            length, start = _read_varint(message, start)
            end = start + length
        else:
            raise CheckpointError(f"this is no ONNX file: a field of kind {kind} at byte {at}.")
        if end > len(message) or not key >> 3:
            raise CheckpointError(f"this is no ONNX file, or it is cut off: a field at byte {at}.")
        yield key >> 3, kind, message[start:end]
        at = end


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = 0
    for i in range(10):
        if at + i >= len(message):
            break
        byte = message[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise CheckpointError(f"this is no ONNX file, or it is cut off: a number at byte {at}.")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(body)) + body

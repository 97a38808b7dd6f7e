"""dlib's serialised networks (`.dat`) as plain data: names of layers, their sizes, their numbers.

The format, as it is found in files of dlib 19 (versions 1 to 3 of its wrappers), little-endian throughout:

* integer: a byte whose low half counts the bytes that follow and whose top bit is the sign, then those bytes,
* floating-point number: mantissa and exponent as integers, value = mantissa * 2^exponent,
* truth value: the character "0" or "1"; text: its length as integer, then its bytes,
* tensor: version 2, samples, channels, rows, columns, then float32 values,
* network: a chain of wrappers around the input layer, outermost first. Every wrapper begins with its version:
  2 a layer, 3 the layer at the input, 1 a tag or a skip, which hold nothing more. Then comes what is inside,
  and only then the wrapper's own layer: so layers stand in the order from input to output.

A file says what its layers hold, not how they are joined: tags and skips carry no numbers, so the branches of
a residual network belong to the code that builds it (`pyface.models.dlib_resnet`).

Nothing in a file is trusted: sizes are checked against what is left of it before memory is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError

__all__ = ["DlibInput", "DlibLayer", "DlibNetwork", "read_dlib_network"]

_LARGEST_FILE = 1 << 30
_MOST_WRAPPERS = 10_000
_LONGEST_TEXT = 64
_MOST_ELEMENTS = 1 << 40
_TAG, _LAYER, _INPUT_LAYER = 1, 2, 3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DlibInput:
    """How pictures enter: RGB, minus `mean` (red, green, blue in grey levels), divided by 256.

    `rows` and `columns` are the size of the picture in pixels.
    """

    name: str
    mean: tuple[float, float, float]
    rows: int
    columns: int


@dataclass(frozen=True)
class DlibLayer:
    """One layer.

    Attributes:
        name: of its kind without the version: "con", "affine", "relu", "max_pool", "avg_pool", "add_prev",
            "fc".
        sizes: whole numbers by name. con: filters, rows, columns, stride_y, stride_x, pad_y, pad_x. Pools:
            rows, columns (both 0: the whole picture), stride_y, stride_x, pad_y, pad_x. fc: outputs, inputs.
        parameters: float32 arrays by name. con: weight [filters, channels, rows, columns], bias [filters].
            affine: scale [channels], shift [channels]. fc: weight [inputs, outputs] and, if it has one, bias
            [outputs]. They cannot be written to.
    """

    name: str
    sizes: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class DlibNetwork:
    """What a file holds: the loss it was trained with, its input, and its layers from input to output."""

    loss: str
    input: DlibInput
    layers: tuple[DlibLayer, ...]


def read_dlib_network(path: str | Path) -> DlibNetwork:
    """The layers of a dlib network file.

    Reads networks made of con, affine, relu, max_pool, avg_pool, add_prev and fc layers over an RGB picture
    of fixed size, trained with the metric loss: the face recognition networks of dlib.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, no dlib network, or holds another kind of
            layer; the message says where.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise CheckpointError(
                f"{path} is no dlib network: it has {size} bytes, more than {_LARGEST_FILE}"
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    cursor = _Cursor(data)
    try:
        return _network(cursor)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is no dlib network that pyface reads, or it is damaged: at byte {cursor.place} of "
            f"{len(data)}, {error}"
        ) from error


class _Cursor:
    """Reads dlib's basic types one after the other; `place` is the next byte."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self.place

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise CheckpointError(f"{count} bytes are needed and {self.left} are left")
        self.place += count
        return self._data[self.place - count : self.place]

    def integer(self) -> int:
        control = self.take(1)[0]
        count = control & 0x0F
        if not 1 <= count <= 8 or control & 0x70:
            raise CheckpointError(f"no integer begins with the byte {control:#04x}")
        value = int.from_bytes(self.take(count), "little")
        return -value if control & 0x80 else value

    def size(self, most: int = _MOST_ELEMENTS) -> int:
        """An integer from 0 to `most`."""
        value = self.integer()
        if not 0 <= value <= most:
            raise CheckpointError(f"a size from 0 to {most} is expected, found is {value}")
        return value

    def expect(self, wanted: int, what: str) -> None:
        value = self.integer()
        if value != wanted:
            raise CheckpointError(f"{what} is {value}, and only {wanted} is known")

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        try:
            return math.ldexp(mantissa, exponent)
        except OverflowError as error:
            raise CheckpointError(f"{mantissa} * 2^{exponent} is no finite number") from error

    def truth(self) -> bool:
        value = self.take(1)
        if value not in (b"0", b"1"):
            raise CheckpointError(f"a truth value is expected, found is {value!r}")
        return value == b"1"

    def text(self) -> str:
        value = self.take(self.size(_LONGEST_TEXT))
        if not value.isascii() or not value.decode("ascii").isprintable():
            raise CheckpointError(f"a name is expected, found is {value[:16]!r}")
        return value.decode("ascii")

    def tensor(self) -> Floats:
        """float32 [samples, channels, rows, columns]."""
        self.expect(2, "the version of a tensor")
        shape = tuple(self.size() for _ in range(4))
        count = math.prod(shape)
        if 4 * count > self.left:
            raise CheckpointError(
                f"a tensor of {list(shape)} needs {4 * count} bytes and {self.left} are left"
            )
        if not count:
            return np.zeros((0, 0, 0, 0), np.float32)
        values = np.frombuffer(self._data, "<f4", count, self.place)
        self.place += 4 * count
        if not np.isfinite(values).all():
            raise CheckpointError(f"a tensor of {list(shape)} holds numbers that are not finite")
        return values.reshape(shape)

    def alias(self) -> tuple[int, ...]:
        """The shape of a part of another tensor."""
        self.expect(1, "the version of a part of a tensor")
        return tuple(self.size() for _ in range(4))


def _network(cursor: _Cursor) -> DlibNetwork:
    cursor.expect(1, "the version of the loss")
    loss = cursor.text()
    if loss != "loss_metric_2":
        raise CheckpointError(f"the loss is {loss!r}, and only 'loss_metric_2' is known")
    for _ in range(2):
        cursor.number()  # margin and distance threshold of the loss
    wrappers = [cursor.size(_INPUT_LAYER)]
    while wrappers[-1] != _INPUT_LAYER:
        wrappers.append(cursor.size(_INPUT_LAYER))
        if wrappers[-2] not in (_TAG, _LAYER) or len(wrappers) > _MOST_WRAPPERS:
            raise CheckpointError(f"{len(wrappers)} wrappers deep, version {wrappers[-2]} of a wrapper")
    entrance = _input(cursor)
    layers = []
    for version in reversed(wrappers):
        if version == _TAG:
            continue
        layers.append(_layer(cursor))
        for _ in range(3):
            cursor.truth()  # whether it was set up, and the state of its gradients
        for _ in range(3):
            cursor.tensor()  # gradient of the input, output of the last run, gradient of the parameters
        if version == _INPUT_LAYER:
            cursor.expect(1, "the number of pictures that one picture is turned into")
    if cursor.left:
        raise CheckpointError(f"{cursor.left} bytes are left behind the last layer")
    return DlibNetwork(loss, entrance, tuple(layers))


def _input(cursor: _Cursor) -> DlibInput:
    name = cursor.text()
    if name != "input_rgb_image_sized":
        raise CheckpointError(f"the input is {name!r}, and only 'input_rgb_image_sized' is known")
    red, green, blue = cursor.number(), cursor.number(), cursor.number()
    return DlibInput(name, (red, green, blue), rows=cursor.size(1 << 16), columns=cursor.size(1 << 16))


def _layer(cursor: _Cursor) -> DlibLayer:
    name = cursor.text()
    if name not in _LAYERS:
        raise CheckpointError(f"a layer is {name!r}, and only {', '.join(_LAYERS)} are known")
    return _LAYERS[name](cursor)


def _convolution(cursor: _Cursor) -> DlibLayer:
    values = cursor.tensor().reshape(-1)
    names = ("filters", "rows", "columns", "stride_y", "stride_x", "pad_y", "pad_x")
    sizes = {name: cursor.size() for name in names}
    shape, bias_shape = cursor.alias(), cursor.alias()
    filters = sizes["filters"]
    if (
        (shape[0], *shape[2:]) != (filters, sizes["rows"], sizes["columns"])
        or math.prod(bias_shape) != filters
        or math.prod(shape) + filters != len(values)
    ):
        raise CheckpointError(
            f"a convolution with filters {list(shape)} and bias {list(bias_shape)} has {len(values)} numbers"
        )
    for _ in range(4):
        cursor.number()  # learning rates and weight decays
    weight, bias = np.split(values, [len(values) - filters])
    return DlibLayer("con", sizes, {"weight": weight.reshape(shape), "bias": bias})


def _affine(cursor: _Cursor) -> DlibLayer:
    values = cursor.tensor().reshape(-1)
    channels, again = math.prod(cursor.alias()), math.prod(cursor.alias())
    cursor.size()  # whether it scales channels or single values; the sizes tell
    if channels != again or 2 * channels != len(values):
        raise CheckpointError(f"{len(values)} numbers scale {channels} channels and shift {again}")
    return DlibLayer("affine", {}, {"scale": values[:channels], "shift": values[channels:]})


def _full(cursor: _Cursor) -> DlibLayer:
    sizes = {"outputs": cursor.size(), "inputs": cursor.size()}
    values = cursor.tensor().reshape(-1)
    weight_shape, bias_shape = cursor.alias(), cursor.alias()
    cursor.size()  # whether there is a bias; the sizes tell
    for _ in range(4):
        cursor.number()
    count, biases = math.prod(weight_shape), math.prod(bias_shape)
    if (
        count != sizes["outputs"] * sizes["inputs"]
        or biases not in (0, sizes["outputs"])
        or len(values) != count + biases
    ):
        raise CheckpointError(
            f"a full layer from {sizes['inputs']} to {sizes['outputs']} has {len(values)} numbers"
        )
    parameters = {"weight": values[:count].reshape(sizes["inputs"], sizes["outputs"])}
    return DlibLayer("fc", sizes, parameters | ({"bias": values[count:]} if biases else {}))


def _pool(name: str) -> Callable[[_Cursor], DlibLayer]:
    names = ("rows", "columns", "stride_y", "stride_x", "pad_y", "pad_x")
    return lambda cursor: DlibLayer(name, {name: cursor.size() for name in names})


def _plain(name: str) -> Callable[[_Cursor], DlibLayer]:
    return lambda _: DlibLayer(name)


_LAYERS: dict[str, Callable[[_Cursor], DlibLayer]] = {
    "con_4": _convolution,
    "affine_": _affine,
    "relu_": _plain("relu"),
    "max_pool_2": _pool("max_pool"),
    "avg_pool_2": _pool("avg_pool"),
    "add_prev_": _plain("add_prev"),
    "fc_2": _full,
}

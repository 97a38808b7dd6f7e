"""What the registered ops of pyface are in ONNX: plain operators, or functions of a domain of our own.

`torch.onnx.export` meets `torch.ops.pyface.*` and asks `Translations.table` what to write. By default that
is a few standard operators, so that every runtime reads the graph. With `functions=True` each op becomes one
node of the domain "pyface" (BiasAct, Upfirdn2d, Modulate, ConvEpilogue; a number behind the name tells those
of other settings apart) that carries its settings as attributes, for runtimes with kernels of their own; its
body, of the same standard operators, goes into the file, and runtimes without such kernels compute that.

Sources of the formulas: `pyface.ops.bias_act`, `pyface.ops.upfirdn2d`, `pyface.ops.modulated_conv2d`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from pyface.ops import ACTIVATIONS  # and registers torch.ops.pyface

__all__ = ["DOMAIN", "Translations"]

DOMAIN = "pyface"
BASE_OPSET = 18  # of the operators below, as of those that torch translates itself

_BY_CODE = tuple(ACTIVATIONS)
_FIRST, _LAST = -(2**63) + 1, 2**63 - 1  # bounds of slices: before the first number, behind the last
_TYPES = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


class Translations:
    """The table for one export.

    Args:
        functions: keep each op as one node with a body instead of writing the operators in place.

    >>> list(Translations().table)[0]
    <OpOverload(op='pyface.bias_act', overload='default')>
    """

    def __init__(self, functions: bool = False) -> None:
        self._ops = _opset(BASE_OPSET)
        self._functions = _Functions() if functions else None

    @property
    def table(self) -> dict[Any, Callable[..., Any]]:
        """What `torch.onnx.export` takes as custom_translation_table."""
        return {
            torch.ops.pyface.bias_act.default: _as_function(self._bias_act),
            torch.ops.pyface.upfirdn2d.default: _as_function(self._upfirdn2d),
            torch.ops.pyface.modulate.default: _as_function(self._modulate),
            torch.ops.pyface.conv_epilogue.default: _as_function(self._conv_epilogue),
        }

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Within it an export may use the table; afterwards onnx has forgotten the functions' schemas."""
        try:
            yield
        finally:
            if self._functions is not None:
                self._functions.forget()

    def add_functions(self, model: Any, opset: int) -> None:
        """Put the bodies into an `onnx_ir.Model` whose nodes call them."""
        if self._functions is not None:
            self._functions.add_to(model, opset)

    def _write(
        self, name: str, body: Callable[..., Any], tensors: dict[str, Any], settings: dict[str, Any]
    ) -> Any:
        if self._functions is None:
            return body(self._ops, **tensors, **settings)
        return self._functions.call(name, body, tensors, settings)

    def _bias_act(self, x: Any, b: Any, dim: int, act: int, alpha: float, gain: float, clamp: float) -> Any:
        settings = {"dim": dim, **_epilogue(act, alpha, gain, clamp)}
        return self._write("BiasAct", bias_act, {"x": x, "b": b}, settings)

    def _upfirdn2d(
        self, x: Any, f: Any, factors: Sequence[int], padding: Sequence[int], flip: bool, gain: float
    ) -> Any:
        settings = {"factors": list(factors), "padding": list(padding), "flip": int(flip), "gain": gain}
        return self._write("Upfirdn2d", upfirdn2d, {"x": x, "f": f}, settings)

    def _modulate(self, x: Any, scale: Any) -> Any:
        return self._write("Modulate", modulate, {"x": x, "scale": scale}, {})

    def _conv_epilogue(
        self,
        x: Any,
        demod: Any,
        noise: Any,
        bias: Any,
        next_style: Any,
        act: int,
        alpha: float,
        gain: float,
        clamp: float,
    ) -> Any:
        tensors = {"x": x, "demod": demod, "noise": noise, "bias": bias, "next_style": next_style}
        return self._write("ConvEpilogue", conv_epilogue, tensors, _epilogue(act, alpha, gain, clamp))


def _as_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a method's signature; the exporter wants to write attributes to it."""

    @functools.wraps(method)
    def function(*tensors: Any, **settings: Any) -> Any:
        return method(*tensors, **settings)

    return function


def _opset(version: int) -> Any:
    import onnxscript

    return getattr(onnxscript, f"opset{version}")


def _epilogue(act: int, alpha: float, gain: float, clamp: float) -> dict[str, Any]:
    return {"act": _BY_CODE[act], "alpha": alpha, "gain": gain, "clamp": clamp}


def bias_act(op: Any, x: Any, b: Any, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Any:
    """clamp(gain * act(x + b)); `op` writes operators, a clamp below 0 is none."""
    kind, y = x.dtype, x
    if b is not None:
        behind = len(x.shape) - dim - 1
        b = _as(op, b, kind)
        y = op.Add(x, op.Unsqueeze(b, op.Constant(value_ints=list(range(1, behind + 1)))) if behind else b)
    return _activated(op, y, kind, act, alpha, gain, clamp)


def modulate(op: Any, x: Any, scale: Any) -> Any:
    """x [N, C, H, W] times scale [N, C]."""
    return op.Mul(x, _per_channel(op, scale, x.dtype))


def conv_epilogue(
    op: Any,
    x: Any,
    demod: Any,
    noise: Any,
    bias: Any,
    next_style: Any,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Any:
    """next_style * clamp(gain * act(x * demod + noise + bias))."""
    kind, y = x.dtype, x
    if demod is not None:
        y = op.Mul(y, _per_channel(op, demod, kind))
    if noise is not None:
        y = op.Add(y, _as(op, noise, kind))
    if bias is not None:
        y = op.Add(y, _per_channel(op, bias, kind))
    y = _activated(op, y, kind, act, alpha, gain, clamp)
    return y if next_style is None else op.Mul(y, _per_channel(op, next_style, kind))


def _as(op: Any, v: Any, kind: Any) -> Any:
    """v in an element type."""
    return v if v.dtype == kind else op.Cast(v, to=int(kind))


def _per_channel(op: Any, v: Any, kind: Any) -> Any:
    """v [N, C] or [C] in an element type, so that it is spread over height and width."""
    axes = [2, 3] if len(v.shape) == 2 else [1, 2]
    return op.Unsqueeze(_as(op, v, kind), op.Constant(value_ints=axes))


def _number(op: Any, value: float, kind: Any) -> Any:
    constant = op.Constant(value_float=float(value))
    return constant if kind.name == "FLOAT" else op.Cast(constant, to=int(kind))


def _activated(op: Any, y: Any, kind: Any, act: str, alpha: float, gain: float, clamp: float) -> Any:
    y = _ACTIVATED[act](op, y, alpha)
    if gain != 1:
        y = op.Mul(y, _number(op, gain, kind))
    if clamp >= 0:
        y = op.Clip(y, _number(op, -clamp, kind), _number(op, clamp, kind))
    return y


_ACTIVATED: dict[str, Callable[[Any, Any, float], Any]] = {
    "linear": lambda op, x, alpha: x,
    "relu": lambda op, x, alpha: op.Relu(x),
    "lrelu": lambda op, x, alpha: op.LeakyRelu(x, alpha=float(alpha)),
    "tanh": lambda op, x, alpha: op.Tanh(x),
    "sigmoid": lambda op, x, alpha: op.Sigmoid(x),
    "elu": lambda op, x, alpha: op.Elu(x, alpha=1.0),
    "selu": lambda op, x, alpha: op.Selu(x),
    "softplus": lambda op, x, alpha: op.Softplus(x),
    "swish": lambda op, x, alpha: op.Mul(x, op.Sigmoid(x)),
}


class _Axis(NamedTuple):
    """What happens along one axis: filter taps, factors, zeros put before and behind."""

    taps: int = 1
    up: int = 1
    down: int = 1
    before: int = 0
    behind: int = 0


def upfirdn2d(
    op: Any, x: Any, f: Any, factors: Sequence[int], padding: Sequence[int], flip: int, gain: float
) -> Any:
    """Zeros inserted, padded, filtered, every down-th pixel kept: convolutions of each channel by itself.

    A filter [height, width] is one (transposed) convolution, a filter [taps] is one along each axis. Inserted
    zeros are never made: enlarging by `up` with a filter is a transposed convolution of that stride.
    """
    up_x, up_y, down_x, down_y = factors
    x0, x1, y0, y1 = padding
    kind, channels, sizes = x.dtype, int(x.shape[1]), () if f is None else tuple(f.shape)
    across = _Axis(int(sizes[-1]) if sizes else 1, up_x, down_x, x0, x1)
    upright = _Axis(int(sizes[0]) if sizes else 1, up_y, down_y, y0, y1)
    if f is None and up_x == up_y == 1:
        y = _every(op, _padded(op, x, kind, upright, across), upright, across)
        return y if gain == 1 else op.Mul(y, _number(op, gain, kind))
    taps = op.Constant(value_floats=[1.0]) if f is None else f
    passes = [(upright, across)] if len(sizes) == 2 else [(_Axis(), across), (upright, _Axis())]
    for number, axes in enumerate(passes):
        shape = [axes[0].taps, axes[1].taps]
        kernel = taps if shape == list(sizes) else op.Reshape(taps, op.Constant(value_ints=shape))
        if bool(flip) == _transposes(*axes):  # convolutions correlate, transposed ones convolve
            kernel = _reversed(op, kernel)
        if gain != 1 and number == 0:
            kernel = op.Mul(kernel, op.Constant(value_float=float(gain)))
        if kind.name != "FLOAT":
            kernel = op.Cast(kernel, to=int(kind))
        kernel = op.Expand(kernel, op.Constant(value_ints=[channels, 1, *shape]))
        x = _filtered(op, x, kernel, channels, kind, *axes)
    return x


def _transposes(upright: _Axis, across: _Axis) -> bool:
    return upright.up > 1 or across.up > 1


def _filtered(op: Any, x: Any, kernel: Any, channels: int, kind: Any, upright: _Axis, across: _Axis) -> Any:
    """x filtered by one kernel for each channel [channels, 1, height, width]."""
    axes = (upright, across)
    if not _transposes(*axes):
        x = _padded(
            op,
            x,
            kind,
            *(axis._replace(before=min(axis.before, 0), behind=min(axis.behind, 0)) for axis in axes),
        )
        pads = [max(axis.before, 0) for axis in axes] + [max(axis.behind, 0) for axis in axes]
        return op.Conv(x, kernel, group=channels, pads=pads, strides=[axis.down for axis in axes])
    # A transposed convolution gives (size - 1) * up + taps numbers: some too many, or some zeros too few.
    before = [axis.taps - 1 - axis.before for axis in axes]
    behind = [axis.taps - axis.up - axis.behind for axis in axes]
    y = op.ConvTranspose(
        x,
        kernel,
        group=channels,
        strides=[axis.up for axis in axes],
        pads=[max(size, 0) for size in before + behind],
    )
    missing = [_Axis(before=-min(b, 0), behind=-min(e, 0)) for b, e in zip(before, behind, strict=True)]
    return _every(op, _padded(op, y, kind, *missing), *axes)


def _reversed(op: Any, kernel: Any) -> Any:
    """A matrix turned by 180 degrees."""
    last, first = op.Constant(value_ints=[-1, -1]), op.Constant(value_ints=[_FIRST, _FIRST])
    return op.Slice(kernel, last, first, op.Constant(value_ints=[0, 1]), last)


def _padded(op: Any, x: Any, kind: Any, upright: _Axis, across: _Axis) -> Any:
    """x [N, C, H, W] with zeros put before and behind, or cut off where these are negative."""
    before, behind = (upright.before, across.before), (upright.behind, across.behind)
    if min(before + behind) < 0:
        starts = op.Constant(value_ints=[-min(size, 0) for size in before])
        ends = op.Constant(value_ints=[min(size, 0) or _LAST for size in behind])
        x = op.Slice(x, starts, ends, op.Constant(value_ints=[2, 3]))
    if max(before + behind) > 0:
        pads = [0, 0, *(max(size, 0) for size in before), 0, 0, *(max(size, 0) for size in behind)]
        x = op.Pad(x, op.Constant(value_ints=pads), _number(op, 0.0, kind))
    return x


def _every(op: Any, x: Any, upright: _Axis, across: _Axis) -> Any:
    """Every `down`-th row and column of x [N, C, H, W]."""
    steps = [upright.down, across.down]
    if steps == [1, 1]:
        return x
    starts, ends = op.Constant(value_ints=[0, 0]), op.Constant(value_ints=[_LAST, _LAST])
    return op.Slice(x, starts, ends, op.Constant(value_ints=[2, 3]), op.Constant(value_ints=steps))


class _Builder:
    """Writes operators as onnxscript's opsets do, into a list of nodes."""

    def __init__(self, ir: Any) -> None:
        self._ir = ir
        self.nodes: list[Any] = []

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def write(*inputs: Any, **attributes: Any) -> Any:
            self.nodes.append(self._ir.node(op_type, inputs, attributes))
            return self.nodes[-1].outputs[0]

        return write


class _Functions:
    """The functions that one export has called so far, each with its body."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._bodies: list[Any] = []

    def call(
        self, op_type: str, body: Callable[..., Any], tensors: dict[str, Any], settings: dict[str, Any]
    ) -> Any:
        """A node that calls the function of this body for these tensors and settings."""
        import onnxscript

        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        key = (
            op_type,
            repr(settings),
            *((name, _kind_of(value, op_type)) for name, value in present.items()),
        )
        if key not in self._names:
            self._names[key] = self._add(op_type, body, tensors, settings)
        node = getattr(onnxscript.values.Opset(DOMAIN, 1), self._names[key])
        return node(*present.values(), **settings)

    def _add(
        self, op_type: str, body: Callable[..., Any], tensors: dict[str, Any], settings: dict[str, Any]
    ) -> str:
        from onnxscript import ir

        number = sum(function.name.startswith(op_type) for function in self._bodies)
        name = op_type if number == 0 else f"{op_type}_{number + 1}"
        inputs = {
            key: None if value is None else ir.Value(name=key, type=value.type, shape=value.shape)
            for key, value in tensors.items()
        }
        builder = _Builder(ir)
        result = body(builder, **inputs, **settings)
        if result in inputs.values():
            result = builder.Identity(result)
        given = [value for value in inputs.values() if value is not None]
        graph = ir.Graph(given, [result], nodes=builder.nodes, opset_imports={"": BASE_OPSET}, name=name)
        attributes = ir.convenience.convert_attributes(settings)
        self._bodies.append(ir.Function(DOMAIN, name, "", graph=graph, attributes=attributes))
        _register(name, [str(value.name) for value in given], attributes)
        return name

    def add_to(self, model: Any, opset: int) -> None:
        """Put the bodies into the model."""
        for function in self._bodies:
            function.opset_imports[""] = opset
            model.functions[function.identifier()] = function
        model.graph.opset_imports[DOMAIN] = 1

    def forget(self) -> None:
        """Take the schemas out of onnx's table, so that another export may use the names again."""
        import onnx

        for function in self._bodies:
            onnx.defs.deregister_schema(function.name, 1, DOMAIN)
        self._names.clear()
        self._bodies.clear()


def _kind_of(value: Any, op_type: str) -> Any:
    """What the body of an op depends on of a tensor: its type and number of axes; of filters the sizes."""
    sizes = tuple(value.shape)
    fixed = sizes[1:2] if len(sizes) == 4 else sizes
    return int(value.dtype), len(sizes), str(fixed) if op_type == "Upfirdn2d" else ""


def _register(name: str, inputs: Sequence[str], attributes: Sequence[Any]) -> None:
    import onnx

    schema = onnx.defs.OpSchema
    numbers = [f"T{number}" for number in range(len(inputs))]
    onnx.defs.register_schema(
        schema(
            name,
            DOMAIN,
            1,
            doc=f"torch.ops.pyface: {name}; see pyface.export.translations",
            inputs=[schema.FormalParameter(key, kind) for key, kind in zip(inputs, numbers, strict=True)],
            outputs=[schema.FormalParameter("y", "T0")],
            type_constraints=[(kind, _TYPES, "floating point") for kind in numbers],
            attributes=[
                schema.Attribute(entry.name, getattr(schema.AttrType, entry.type.name), "", required=True)
                for entry in attributes
            ],
        )
    )

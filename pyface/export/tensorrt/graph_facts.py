"""What an ONNX graph holds that TensorRT or a GPU might not take."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyface.errors import ExportError, MissingExtraError
from pyface.export.spec import BATCH, TensorSpec

__all__ = ["GraphFacts", "graph_facts"]

_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_OWN_DOMAINS = ("", "ai.onnx")
_PRECISION_OF = {"float8_e4m3fn": "fp8", "int8": "int8", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class GraphFacts:
    """Of an ONNX graph.

    Attributes:
        opset: of its nodes.
        inputs, outputs: in its order; a free first axis is called `BATCH`.
        batch: the fixed batch, or None when it is free.
        other_free_axes: of inputs, such as "ws[1]".
        float32_products: names of matrix products that compute in float32.
        bfloat16_transposed: names of transposed convolutions that compute in bfloat16.
        types: of its numbers, as numpy and ml_dtypes name them.
        foreign: "domain::Operator" of nodes without a meaning in ONNX or in the file.
        uint8_inside: names of uint8 tensors that another node reads.
    """

    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | None
    other_free_axes: tuple[str, ...] = ()
    float32_products: tuple[str, ...] = ()
    bfloat16_transposed: tuple[str, ...] = ()
    types: frozenset[str] = frozenset()
    foreign: tuple[str, ...] = ()
    uint8_inside: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """The key of `PRECISIONS` that its types tell: the smallest of them."""
        return next((name for kind, name in _PRECISION_OF.items() if kind in self.types), "fp32")


def graph_facts(path: str | os.PathLike[str]) -> GraphFacts:
    """The facts of the ONNX file at `path`.

    Raises:
        ExportError: it is no ONNX file, or not a consistent one.
        MissingExtraError: onnx is not installed.
    """
    onnx = _onnx()
    model, types = _typed(onnx, Path(path))
    proto = onnx.TensorProto
    given = {entry.name for entry in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    inputs = tuple(_spec(onnx, entry) for entry in model.graph.input if entry.name not in given)
    outputs = tuple(_spec(onnx, entry) for entry in model.graph.output)
    products, transposed, foreign, inside = [], [], [], []
    for node in model.graph.node:
        kinds = {types.get(name) for name in (*node.input[:2], *node.output[:1])}
        label = node.name or node.output[0]
        if node.domain not in _OWN_DOMAINS:
            foreign.append(f"{node.domain}::{node.op_type}")
        elif node.op_type in _PRODUCTS and proto.FLOAT in kinds:
            products.append(label)
        elif node.op_type == "ConvTranspose" and proto.BFLOAT16 in kinds:
            transposed.append(label)
        inside += [name for name in node.input if types.get(name) == proto.UINT8 and name in made]
    return GraphFacts(
        opset=max((entry.version for entry in model.opset_import if entry.domain in _OWN_DOMAINS), default=0),
        inputs=inputs,
        outputs=outputs,
        batch=_fixed_batch(inputs),
        other_free_axes=tuple(_free_axes(inputs)),
        float32_products=tuple(products),
        bfloat16_transposed=tuple(transposed),
        types=frozenset(
            str(onnx.helper.tensor_dtype_to_np_dtype(kind)) for kind in set(types.values()) if kind
        ),
        foreign=tuple(dict.fromkeys(foreign)),
        uint8_inside=tuple(dict.fromkeys(inside)),
    )


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError(
            f'onnx is needed to look into a graph ({error}): pip install "pyface-synth[export]"'
        ) from error


def _typed(onnx: Any, path: Path) -> tuple[Any, Mapping[str, int]]:
    """(the model with its functions written out, element type by name of the tensor)."""
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if model.functions:
            model = importlib.import_module("onnx.inliner").inline_local_functions(model)
        if not model.graph.node:
            raise ValueError("it has no nodes")
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # protobuf and onnx raise types of their own
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    types = {entry.name: entry.data_type for entry in inferred.graph.initializer}
    for entry in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        types[entry.name] = entry.type.tensor_type.elem_type
    return inferred, types


def _spec(onnx: Any, entry: Any) -> TensorSpec:
    """An input or output; a free first axis is the batch, other free axes keep their names."""
    tensor = entry.type.tensor_type
    shape: list[int | str] = []
    for axis, size in enumerate(tensor.shape.dim):
        if size.HasField("dim_value"):
            shape.append(int(size.dim_value))
        else:
            shape.append(BATCH if axis == 0 else size.dim_param or "?")
    return TensorSpec(entry.name, str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), tuple(shape))


def _fixed_batch(inputs: tuple[TensorSpec, ...]) -> int | None:
    """The first axis of the inputs that have axes, where it is a number in all of them."""
    sizes = [tensor.shape[0] for tensor in inputs if tensor.shape]
    first = sizes[0] if sizes else 1
    return None if BATCH in sizes or not isinstance(first, int) else first


def _free_axes(inputs: tuple[TensorSpec, ...]) -> list[str]:
    return [
        f"{tensor.name}[{axis}]"
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if axis and isinstance(size, str)
    ]

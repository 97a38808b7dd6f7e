"""INT8 and FP8: the 3x3 convolutions of an ONNX graph between quantise and dequantise nodes, calibrated.

A convolution's weights become int8 or float8 (E4M3) numbers with one scale per output channel, its input is
rounded to the same type with one scale per tensor, and everything else stays as it was. A runtime that knows
the pattern (TensorRT, TensorRT-RTX, OpenVINO) multiplies in the small type; any other computes the same
rounding in float. The scale of an input comes from running the graph on calibration latents in ONNX Runtime
and looking at the histogram of its sizes. Transposed convolutions, those of other sizes and the heads (1x1),
whose rounding would be seen in the image directly, are left alone.
Sources: Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", section 2 (here without zero points); ranges from a histogram: Migacz
2017, "8-bit inference with TensorRT", here with the squared error as the measure; E4M3: Micikevicius et al.
2022, "FP8 formats for deep learning".
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import ExportError, MissingExtraError, ValueRangeError

__all__ = ["METHODS", "QUANTIZED_OPSET", "Quantization", "SizeHistogram", "quantize_onnx"]

QUANTIZED_OPSET = 21
METHODS = ("error", "percentile", "max")
PERCENTILE = 0.9999
_LARGEST = {"int8": 127.0, "fp8": 448.0}
_PROTO_LIMIT = 1_500_000_000  # bytes; a protocol buffer ends at 2 GiB
_FLOATS = ("float32", "float16")

Feeds = Iterable[Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Quantization:
    """What was quantised, and by what.

    Attributes:
        precision: "int8" or "fp8".
        method: how ranges were chosen, one of `METHODS`.
        ranges: largest number that the input of each convolution can hold, by the name of its node.
        samples: how many rows of the first input were run.
        sha256: of everything that was run.
    """

    precision: str
    method: str
    ranges: Mapping[str, float]
    samples: int
    sha256: str


@dataclass(frozen=True)
class _Convolution:
    index: int  # of its node
    name: str
    input: str
    weight: str
    element: str  # numpy's name of its element type


class SizeHistogram:
    """How often numbers of each size occur: 64 bins per power of two, so that no range is needed beforehand.

    The bin is the upper bits of the float32 without its sign: within 1.6 % of the number.
    """

    _SHIFT = 17

    def __init__(self) -> None:
        self.counts = np.zeros(0x7F800000 >> self._SHIFT, np.int64)  # up to infinity
        self.largest = 0.0

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Upper edge of each bin."""
        bits = (np.arange(1, len(self.counts) + 1, dtype=np.uint32)) << np.uint32(self._SHIFT)
        return bits.view(np.float32).astype(np.float64)

    def add(self, numbers: npt.NDArray[Any], name: str = "the tensor") -> None:
        """Count these. Raises ExportError when one of them is not finite."""
        flat = np.ascontiguousarray(numbers, np.float32).reshape(-1)
        if not flat.size:
            return
        largest = float(np.abs(flat).max())
        if not np.isfinite(largest):
            raise ExportError(
                f"{name} is not finite on the calibration latents; export in fp32 or bf16 to see where the "
                "network overflows"
            )
        self.largest = max(self.largest, largest)
        bins = (flat.view(np.uint32) & np.uint32(0x7FFFFFFF)) >> np.uint32(self._SHIFT)
        self.counts += np.bincount(bins, minlength=len(self.counts))

    def percentile(self, share: float) -> float:
        """The size that `share` of all numbers do not exceed."""
        cumulative = np.cumsum(self.counts)
        index = int(np.searchsorted(cumulative, share * cumulative[-1]))
        return min(float(self.edges[index]), self.largest)

    def least_error(self, levels: float) -> float:
        """The range of least squared error when `levels` equal steps fill it and what is larger saturates.

        Of 40 candidates between a tenth of the largest number and that number.
        """
        used = np.flatnonzero(self.counts)
        counts, upper = self.counts[used].astype(np.float64), self.edges[used]
        sizes = np.minimum(upper / (1 + 0.5 / 64), self.largest)
        candidates = self.largest * np.geomspace(0.1, 1.0, 40)
        outside = np.maximum(sizes[None, :] - candidates[:, None], 0.0)
        rounding = (candidates / levels) ** 2 / 12
        small = np.minimum(
            sizes[None, :] ** 2, rounding[:, None]
        )  # below half a step the number itself is lost
        errors = (counts * np.where(outside > 0, outside**2 + rounding[:, None], small)).sum(axis=1)
        return float(candidates[int(np.argmin(errors))])


def quantize_onnx(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    precision: str,
    feeds: Feeds,
    *,
    method: str = "error",
    keep: Callable[[str], bool] | None = None,
) -> Quantization:
    """Write to `out` the graph `source` with its 3x3 convolutions quantised, and say what was done.

    Args:
        source: ONNX file of opset 21 or more whose convolutions are float32 or float16.
        out: the new file; one above 1.5 GB keeps its weights in `<out>.data`.
        precision: "int8" or "fp8".
        feeds: inputs by name to run for the ranges, such as latents in batches of 8. Their arrays are hashed.
        method: "error" takes the range with the least squared error ("fp8", whose steps grow with the number,
            takes the largest number then), "percentile" that of 99.99 % of the numbers, "max" the largest.
        keep: names of convolutions for which it is true stay as they are.

    Raises:
        ValueRangeError: `precision` or `method` is unknown.
        ExportError: another opset, no such convolution, no feeds, or numbers that are not finite.
        MissingExtraError: onnx or onnxruntime is missing.
    """
    if precision not in _LARGEST:
        raise ValueRangeError(f"quantised precisions are int8 and fp8; got {precision!r}")
    if method not in METHODS:
        raise ValueRangeError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    onnx = _package("onnx")
    model = _loaded(onnx, Path(source))
    found = [entry for entry in _convolutions(onnx, model) if keep is None or not keep(entry.name)]
    if not found:
        raise ExportError(
            f"{Path(source).name} has no 3x3 convolution of constant float32 or float16 weights to quantise; "
            "export it in fp16 instead"
        )
    with tempfile.TemporaryDirectory(prefix="pyface-calibrate-") as folder:
        histograms, samples, sha256 = _observed(onnx, model, found, feeds, Path(folder))
    ranges = {name: _range(histogram, precision, method) for name, histogram in histograms.items()}
    _rewrite(onnx, model, found, ranges, precision)
    _saved(onnx, model, Path(out))
    return Quantization(precision, method, {c.name: ranges[c.input] for c in found}, samples, sha256)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f'{name} is needed to quantise a network ({error}): pip install "pyface-synth[export]"'
        ) from error


def _loaded(onnx: Any, path: Path) -> Any:
    """The model with its weights in memory and functions written out."""
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise types of their own
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < QUANTIZED_OPSET:
        raise ExportError(
            f"{path.name} has opset {opset}; quantised graphs need {QUANTIZED_OPSET} or more: "
            f"export it with --opset {QUANTIZED_OPSET}"
        )
    if model.functions:
        model = importlib.import_module("onnx.inliner").inline_local_functions(model)
    return model


def _convolutions(onnx: Any, model: Any) -> list[_Convolution]:
    """Those of 3x3 taps, one group, stride 1 and constant weights, in the order of the graph."""
    elements = {
        initializer.name: (str(onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type)), initializer.dims)
        for initializer in model.graph.initializer
    }
    found = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        element, shape = elements.get(node.input[1], ("", ()))
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        plain = attributes.get("group", 1) == 1 and set(attributes.get("strides", [1])) == {1}
        if plain and element in _FLOATS and tuple(shape[2:]) == (3, 3):
            name = node.name or f"conv_{index}"
            found.append(_Convolution(index, name, node.input[0], node.input[1], element))
    return found


def _observed(
    onnx: Any, model: Any, found: Sequence[_Convolution], feeds: Feeds, folder: Path
) -> tuple[dict[str, SizeHistogram], int, str]:
    """(histogram by name of the tensor, rows run, hash of the feeds)."""
    histograms = {entry.input: SizeHistogram() for entry in found}
    session = _watching(onnx, model, found, folder)
    wanted = [output.name for output in session.get_outputs()]
    digest, rows = hashlib.sha256(), 0
    for feed in feeds:
        arrays = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        for name, array in sorted(arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        try:
            values = dict(zip(wanted, session.run(wanted, arrays), strict=True)) | arrays
        except Exception as error:  # the runtime raises types of its own
            raise ExportError(f"the graph does not run on the calibration latents: {error}") from error
        for name, histogram in histograms.items():
            histogram.add(values[name], name)
        rows += max((array.shape[0] for array in arrays.values() if array.ndim), default=1)
    if not rows:
        raise ExportError("quantisation needs calibration latents; none came. Give at least one batch")
    return histograms, rows, digest.hexdigest()


def _watching(onnx: Any, model: Any, found: Sequence[_Convolution], folder: Path) -> Any:
    """A session of the graph that gives the inputs of the convolutions instead of its outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {entry.name for entry in watched.graph.input}
    elements = {entry.input: entry.element for entry in found if entry.input not in given}
    if elements:
        del watched.graph.output[:]
    for name, element in elements.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(element))
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    path = folder / "watched.onnx"
    _saved(onnx, watched, path)
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _range(histogram: SizeHistogram, precision: str, method: str) -> float:
    if method == "percentile":
        found = histogram.percentile(PERCENTILE)
    elif method == "max" or precision == "fp8":
        found = histogram.largest
    else:
        found = histogram.least_error(_LARGEST["int8"])
    return found or 1.0  # an input of zeros only


def _rewrite(
    onnx: Any, model: Any, found: Sequence[_Convolution], ranges: Mapping[str, float], precision: str
) -> None:
    """Put the pairs of nodes before the convolutions, and the small weights in place of the large."""
    writer = _Writer(onnx, model, precision)
    by_index = {entry.index: entry for entry in found}
    nodes = []
    for index, node in enumerate(model.graph.node):
        if entry := by_index.get(index):
            fresh, quantized = writer.input(entry.input, ranges[entry.input], entry.element)
            nodes += fresh
            fresh, weight = writer.weight(entry.weight)
            nodes += fresh
            node.input[0], node.input[1] = quantized, weight
        nodes.append(node)
    written = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(written, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(written)
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    stale = [entry for entry in model.graph.initializer if entry.name not in used]
    for initializer in stale:
        model.graph.initializer.remove(initializer)


class _Writer:
    """Makes the nodes and constants, once for a tensor that several convolutions read."""

    def __init__(self, onnx: Any, model: Any, precision: str) -> None:
        self.onnx, self.graph, self.precision = onnx, model.graph, precision
        self.largest = _LARGEST[precision]
        self.weights = {entry.name: entry for entry in model.graph.initializer}
        self.done: dict[str, str] = {}
        small = {"int8": "int8", "fp8": "float8_e4m3fn"}[precision]
        self.small = np.dtype(np.int8 if small == "int8" else getattr(_package("ml_dtypes"), small))

    def input(self, name: str, limit: float, element: str) -> tuple[list[Any], str]:
        """(nodes, name of the rounded tensor)."""
        key = f"{name}_rounded"
        if key in self.done:
            return [], self.done[key]
        scale = self._scale(np.array(limit), element)
        pair = [
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros((), self.small)),
        ]
        make = self.onnx.helper.make_node
        nodes = [
            make("QuantizeLinear", [name, *pair], [f"{name}_{self.precision}"], name=f"{name}_quantize"),
            make("DequantizeLinear", [f"{name}_{self.precision}", *pair], [key], name=f"{name}_dequantize"),
        ]
        self.done[key] = key
        return nodes, key

    def weight(self, name: str) -> tuple[list[Any], str]:
        """(nodes, name of the dequantised weights); the weights themselves are stored in the small type."""
        key = f"{name}_restored"
        if key in self.done:
            return [], self.done[key]
        weight = self.onnx.numpy_helper.to_array(self.weights[name])
        numbers = weight.astype(np.float64)
        sizes = np.abs(numbers).max(axis=(1, 2, 3))
        scale = self._scale(np.where(sizes > 0, sizes, 1.0), str(weight.dtype))
        levels = np.clip(numbers / scale.astype(np.float64)[:, None, None, None], -self.largest, self.largest)
        levels = np.rint(levels) if self.precision == "int8" else levels
        inputs = [
            self._constant(f"{name}_{self.precision}", levels.astype(np.float32).astype(self.small)),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros(len(scale), self.small)),
        ]
        node = self.onnx.helper.make_node(
            "DequantizeLinear", inputs, [key], name=f"{name}_dequantize", axis=0
        )
        self.done[key] = key
        return [node], key

    def _scale(self, limit: npt.NDArray[Any], element: str) -> npt.NDArray[Any]:
        """Steps of this element type that reach the limit: rounded up, and normal numbers of float16."""
        dtype = np.dtype(element)
        wanted = np.maximum(np.asarray(limit, np.float64) / self.largest, float(np.finfo(dtype).tiny))
        scale = wanted.astype(dtype)
        low = scale.astype(np.float64) < wanted
        return np.where(low, np.nextafter(scale, np.array(np.inf, dtype)), scale).astype(dtype)

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(array, name))
        return name


def _saved(onnx: Any, model: Any, path: Path) -> None:
    large = model.ByteSize() > _PROTO_LIMIT
    onnx.save(
        model,
        str(path),
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )

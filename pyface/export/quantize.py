"""INT8 and FP8: the 3x3 convolutions of an ONNX graph between quantise and dequantise nodes, calibrated.

A convolution's weights become int8 or float8 (E4M3) numbers with one scale per output channel, its input is
rounded to the same type with one scale per tensor, and everything else stays as it was. A runtime that knows
the pattern (TensorRT, TensorRT-RTX, OpenVINO) multiplies in the small type; any other computes the same
rounding in float. The scale of an input comes from running the graph on calibration latents in ONNX Runtime
and looking at the histogram of its sizes. Before that, channels of large and of small numbers are brought
nearer to each other by factors that the weights take back. Transposed convolutions, those of other sizes and
the heads (1x1), whose rounding would be seen in the image directly, are left alone.
Sources: Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", section 2 (here without zero points); ranges from a histogram: Migacz
2017, "8-bit inference with TensorRT", here with the squared error as the measure; factors of channels: Xiao
et al. 2023, "SmoothQuant", equation 4 with alpha = 1/2; E4M3: Micikevicius et al. 2022, "FP8 formats for deep
learning".
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from collections import Counter
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
    equalize: bool = True,
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
        equalize: divide the channels of each input by factors that the weights are multiplied by, so that
            one scale suits all of them.
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
    batches = [{name: np.ascontiguousarray(array) for name, array in feed.items()} for feed in feeds]
    if not batches:
        raise ExportError("quantisation needs calibration latents; none came. Give at least one batch")
    with tempfile.TemporaryDirectory(prefix="pyface-calibrate-") as folder:
        watch = _Watch(onnx, model, found, Path(folder))
        factors = _factors(onnx, model, found, watch, batches) if equalize else {}
        histograms = {entry.input: SizeHistogram() for entry in found}
        for batch in batches:
            for name, values in watch.run(batch).items():
                histograms[name].add(_divided(values, factors.get(name)), name)
    ranges = {name: _range(histogram, precision, method) for name, histogram in histograms.items()}
    _rewrite(onnx, model, found, ranges, factors, precision)
    _saved(onnx, model, Path(out))
    limits = {entry.name: ranges[entry.input] for entry in found}
    return Quantization(precision, method, limits, sum(map(_rows, batches)), _hash(batches))


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


class _Watch:
    """Runs the graph for the inputs of its convolutions instead of its outputs."""

    def __init__(self, onnx: Any, model: Any, found: Sequence[_Convolution], folder: Path) -> None:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        given = {entry.name for entry in watched.graph.input}
        self.names = list(dict.fromkeys(entry.input for entry in found))
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
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.wanted = [output.name for output in self.session.get_outputs()]

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The inputs [N, C, H, W] of the convolutions, by name."""
        try:
            made = self.session.run(self.wanted, dict(batch))
        except Exception as error:  # the runtime raises types of its own
            raise ExportError(f"the graph does not run on the calibration latents: {error}") from error
        values = dict(zip(self.wanted, made, strict=True)) | dict(batch)
        return {name: values[name] for name in self.names}


def _factors(
    onnx: Any,
    model: Any,
    found: Sequence[_Convolution],
    watch: _Watch,
    batches: Sequence[Mapping[str, npt.NDArray[Any]]],
) -> dict[str, npt.NDArray[np.float64]]:
    """By what the channels of each input are divided: sqrt(largest input / largest weight), of mean 1 in log.

    From a quarter of the batches. Left out where a weight is read twice, and so cannot take it back.
    """
    sizes: dict[str, npt.NDArray[np.float64]] = {}
    for batch in batches[: max(1, len(batches) // 4)]:
        for name, values in watch.run(batch).items():
            largest = np.abs(values).max(axis=(0, 2, 3)).astype(np.float64)
            sizes[name] = np.maximum(sizes.get(name, 0.0), largest)
    readers = Counter(name for node in model.graph.node for name in node.input)
    constants = {entry.name: entry for entry in model.graph.initializer}
    factors = {}
    for name, size in sizes.items():
        weights = [entry.weight for entry in found if entry.input == name]
        if any(readers[weight] > 1 for weight in weights) or not np.isfinite(size).all():
            continue
        arrays = [onnx.numpy_helper.to_array(constants[weight]) for weight in weights]
        reach = np.max([np.abs(array).max(axis=(0, 2, 3)) for array in arrays], axis=0).astype(np.float64)
        used = (size > 0) & (reach > 0)
        factor = np.sqrt(np.where(used, size, 1.0) / np.where(used, reach, 1.0))
        factor /= np.exp(np.log(factor[used]).mean()) if used.any() else 1.0
        factors[name] = np.where(used, np.clip(factor, 2.0**-6, 2.0**6), 1.0)
    return factors


def _divided(values: npt.NDArray[Any], factor: npt.NDArray[np.float64] | None) -> npt.NDArray[Any]:
    return values if factor is None else values / factor.astype(np.float32)[:, None, None]


def _rows(batch: Mapping[str, npt.NDArray[Any]]) -> int:
    return max((array.shape[0] for array in batch.values() if array.ndim), default=1)


def _hash(batches: Iterable[Mapping[str, npt.NDArray[Any]]]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _range(histogram: SizeHistogram, precision: str, method: str) -> float:
    if method == "percentile":
        found = histogram.percentile(PERCENTILE)
    elif method == "max" or precision == "fp8":
        found = histogram.largest
    else:
        found = histogram.least_error(_LARGEST["int8"])
    return found or 1.0  # an input of zeros only


def _rewrite(
    onnx: Any,
    model: Any,
    found: Sequence[_Convolution],
    ranges: Mapping[str, float],
    factors: Mapping[str, npt.NDArray[np.float64]],
    precision: str,
) -> None:
    """Put the pairs of nodes before the convolutions, and the small weights in place of the large."""
    writer = _Writer(onnx, model, precision)
    by_index = {entry.index: entry for entry in found}
    nodes = []
    for index, node in enumerate(model.graph.node):
        if entry := by_index.get(index):
            factor = factors.get(entry.input)
            fresh, quantized = writer.input(entry.input, ranges[entry.input], entry.element, factor)
            nodes += fresh
            fresh, weight = writer.weight(entry.weight, factor)
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

    def input(
        self, name: str, limit: float, element: str, factor: npt.NDArray[np.float64] | None
    ) -> tuple[list[Any], str]:
        """(nodes, name of the rounded tensor)."""
        key = f"{name}_rounded"
        if key in self.done:
            return [], self.done[key]
        pair = [
            self._constant(f"{name}_scale", self._scale(np.array(limit), element)),
            self._constant(f"{name}_zero", np.zeros((), self.small)),
        ]
        make, source, nodes = self.onnx.helper.make_node, name, []
        if factor is not None:
            inverse = self._constant(f"{name}_factor", (1 / factor).astype(element)[None, :, None, None])
            source = f"{name}_equalized"
            nodes.append(make("Mul", [name, inverse], [source], name=f"{name}_equalize"))
        nodes += [
            make("QuantizeLinear", [source, *pair], [f"{name}_{self.precision}"], name=f"{name}_quantize"),
            make("DequantizeLinear", [f"{name}_{self.precision}", *pair], [key], name=f"{name}_dequantize"),
        ]
        self.done[key] = key
        return nodes, key

    def weight(self, name: str, factor: npt.NDArray[np.float64] | None) -> tuple[list[Any], str]:
        """(nodes, name of the dequantised weights); the weights themselves are stored in the small type."""
        key = f"{name}_restored"
        if key in self.done:
            return [], self.done[key]
        weight = self.onnx.numpy_helper.to_array(self.weights[name])
        numbers = weight.astype(np.float64)
        if factor is not None:
            given = (1 / factor).astype(weight.dtype).astype(np.float64)  # as the graph has it
            numbers = numbers / given[:, None, None]
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

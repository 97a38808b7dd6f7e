"""Artefacts run on a CPU as functions of arrays: by ONNX Runtime and by OpenVINO.

    with open_runner(open_artefact("demo.onnx")) as runner:
        images = runner.run({"z": z, "psi": 0.7})["vis"]

What a call reads and writes is the caller's memory: inputs are read where they lie, results go into buffers
that the caller gives, or into fresh arrays. A runner may be called from several threads at once.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import math
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from pyface.errors import DTypeError, ExportError, MissingExtraError, ShapeError, ValueRangeError
from pyface.export.spec import BATCH, EngineSpec, TensorSpec

if TYPE_CHECKING:
    from pyface.export.artefact import Artefact

__all__ = [
    "RUNTIMES",
    "CpuRunner",
    "OnnxRuntimeRunner",
    "OpenVinoRunner",
    "Runner",
    "absence",
    "default_runtime",
    "obstacle",
    "open_runner",
]

Array = npt.NDArray[Any]

RUNTIMES: Mapping[str, str] = {"onnxruntime": "export", "openvino": "openvino"}  # -> extra that brings it


class Runner(Protocol):
    """What runs an artefact.

    Attributes:
        runtime: such as "onnxruntime".
        spec: of the artefact: its inputs and outputs.
        device: "cpu" or "cuda".
        batch: the only number of rows that it takes; None where it is free.
        versions: of the runtime, by package.
    """

    @property
    def runtime(self) -> str: ...
    @property
    def spec(self) -> EngineSpec: ...
    @property
    def device(self) -> str: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def versions(self) -> Mapping[str, str]: ...

    def run(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None
    ) -> dict[str, Array]: ...

    def close(self) -> None: ...


def open_runner(
    artefact: Artefact,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    batch: int | None = None,
    throughput: bool = False,
) -> CpuRunner:
    """The artefact ready to run.

    Args:
        artefact: as `pyface.export.artefact.open_artefact` gives it; an ONNX or OpenVINO file.
        runtime: a key of `RUNTIMES`; None takes `default_runtime`.
        threads: that one call uses; None takes as many as torch is set to.
        device: "cpu", or "cuda" with a build of onnxruntime that has it.
        batch: prepare it for this number of rows alone, which saves the runtime work with free sizes.
        throughput: OpenVINO only: several calls from as many threads run side by side, each on a share of
            the threads, instead of one call as fast as possible on all of them.

    Raises:
        MissingExtraError: the runtime is not installed; names the extra.
        ExportError: the runtime cannot run such an artefact, or the file is damaged.
        ValueRangeError: an option that does not fit.
    """
    chosen = runtime or default_runtime(artefact.spec)
    if chosen not in RUNTIMES:
        raise ValueRangeError(f"runtime must be one of {', '.join(RUNTIMES)}; got {runtime!r}")
    if threads is not None and threads < 1:
        raise ValueRangeError(f"threads must be 1 or more; got {threads}")
    fixed = _fixed_batch(artefact.spec, batch)
    if reason := obstacle(artefact.spec, chosen, device):
        raise ExportError(f"{artefact.path.name} cannot run on {chosen}: {reason}")
    if chosen == "onnxruntime":
        return OnnxRuntimeRunner(artefact, threads=threads, batch=fixed, device=device)
    if device != "cpu":
        raise ValueRangeError(f'openvino runs on the CPU here: device must be "cpu"; got {device!r}')
    return OpenVinoRunner(artefact, threads=threads, batch=fixed, throughput=throughput)


def default_runtime(spec: EngineSpec) -> str:
    """Which runtime takes such an artefact: onnxruntime where it can and is installed, else openvino."""
    if obstacle(spec, "onnxruntime") or (not _installed("onnxruntime") and _installed("openvino")):
        return "openvino"
    return "onnxruntime"


def obstacle(spec: EngineSpec, runtime: str, device: str = "cpu") -> str | None:
    """Why a runtime, installed or not, cannot run such an artefact, with the remedy; None where it can."""
    if spec.format not in ("onnx", "openvino"):
        return f"it is made for {spec.format} on a GPU; pyface.export.engine.open_engine runs it there"
    if runtime == "onnxruntime" and spec.format == "openvino":
        return "it is an OpenVINO model; use openvino, or export to ONNX"
    if runtime == "onnxruntime" and spec.precision == "bf16" and device == "cpu":
        return "onnxruntime has no bfloat16 arithmetic on CPUs; use openvino, or export fp32 or fp16"
    if runtime == "openvino" and spec.functions:
        return (
            "openvino does not read functions of an ONNX file; use onnxruntime, or export without functions"
        )
    if runtime == "openvino" and spec.precision == "fp8":
        return "openvino does not read fp8 numbers; use onnxruntime, or export int8"
    return None


def absence(runtime: str) -> str | None:
    """Why a runtime is not here, with the command that installs it; None where it is."""
    if _installed(runtime):
        return None
    return f'{runtime} is not installed; install it with: pip install "pyface-synth[{RUNTIMES[runtime]}]"'


class CpuRunner(abc.ABC):
    """An artefact over the caller's memory: checks, buffers, and what `Runner` asks for."""

    runtime: str = ""

    def __init__(
        self, artefact: Artefact, package: ModuleType, threads: int | None, batch: int | None, device: str
    ) -> None:
        self.artefact, self.spec = artefact, artefact.spec
        self.threads = _torch_threads() if threads is None else threads
        self.batch, self.device = batch, device
        self.versions: Mapping[str, str] = {self.runtime: package.__version__.split("-")[0]}
        self.requests = 1

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """The outputs by name, as `spec.outputs` describes them.

        Args:
            inputs: an array or CPU tensor for every name of `spec.inputs`, of its type and shape; a number
                for those without axes. They are read where they lie when their memory is dense, else copied.
            outputs: arrays or CPU tensors, dense, to write results into and to give back; names that are
                left out get fresh memory. A buffer is the caller's: the next call may be given it again.

        Raises:
            ValueRangeError: names that do not fit, a batch that the artefact is not made for, or a psi that
                is no finite number.
            ShapeError, DTypeError: arrays that do not fit.
            ExportError: the runtime failed, or was closed.
        """
        arrays, rows = checked_inputs(self.spec, inputs, self.batch)
        results = _result_arrays(self.spec, rows, outputs or {})
        try:
            self._compute(arrays, results)
        except Exception as error:  # runtimes have exceptions of their own for each fault
            raise ExportError(
                f"{self.artefact.path.name} failed in {self.runtime} on a batch of {rows}: {error}"
            ) from error
        return results

    @abc.abstractmethod
    def _compute(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Runs the file on checked arrays, into `outputs`."""

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on, for reports."""
        return {
            "runtime": self.runtime,
            "versions": dict(self.versions),
            "device": self.device,
            "threads": self.threads,
            "batch": self.batch,
        }

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the runtime holds; calls after it raise ExportError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.runtime} of {self.artefact.path.name} on {self.device}, {self.threads} threads>"


class OnnxRuntimeRunner(CpuRunner):
    """An ONNX file in one session of ONNX Runtime, whose threads sleep between calls. See `open_runner`."""

    runtime = "onnxruntime"

    def __init__(
        self,
        artefact: Artefact,
        *,
        threads: int | None = None,
        batch: int | None = None,
        device: str = "cpu",
    ) -> None:
        package = _package("onnxruntime")
        super().__init__(artefact, package, threads, batch, device)
        options = package.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = package.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.spec.precision == "fp8":  # it would make integer products of them, which do not take fp8
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if batch is not None:
            options.add_free_dimension_override_by_name(BATCH, batch)
        with _opening(artefact.path, self.runtime):
            self._session: Any = package.InferenceSession(
                str(artefact.path), options, providers=_providers(package, device)
            )
        _check_ports(artefact, [p.name for p in self._session.get_inputs()], "inputs")
        _check_ports(artefact, [p.name for p in self._session.get_outputs()], "outputs")

    def _compute(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        session = self._session
        if session is None:
            raise ValueError("it was closed")
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)

    def close(self) -> None:
        self._session = None


class OpenVinoRunner(CpuRunner):
    """An ONNX or OpenVINO file compiled for the CPU by OpenVINO. See `open_runner`.

    Attributes as in `Runner`, and:
        precision_hint: in what it computes: "bf16" for bf16 artefacts on CPUs that have it, but for mapping,
            styles and demodulation, which stay in float32; else "f32".
        requests: how many calls run side by side; more than 1 with `throughput` alone.
    """

    runtime = "openvino"

    def __init__(
        self,
        artefact: Artefact,
        *,
        threads: int | None = None,
        batch: int | None = None,
        throughput: bool = False,
    ) -> None:
        self._package = _package("openvino")
        super().__init__(artefact, self._package, threads, batch, "cpu")
        core = self._package.Core()
        halves = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision_hint = "bf16" if self.spec.precision == "bf16" and halves else "f32"
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT" if throughput else "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision_hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,  # workers beside this one would be pinned to the same cores
        }
        with _opening(artefact.path, self.runtime):
            model = core.read_model(artefact.path)
            _check_ports(artefact, [_port_name(p, self.spec.inputs) for p in model.inputs], "inputs")
            _check_ports(artefact, [_port_name(p, self.spec.outputs) for p in model.outputs], "outputs")
            if self.precision_hint == "bf16":
                _keep_float32(model, self._package.Type)
            if batch is not None:
                model.reshape({spec.name: spec.concrete(batch) for spec in self.spec.inputs})
            compiled = core.compile_model(model, "CPU", settings)
            self.requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if throughput else 1
            self._free: queue.SimpleQueue[Any] | None = queue.SimpleQueue()
            for _ in range(self.requests):
                self._free.put(compiled.create_infer_request())

    def _compute(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        free = self._free
        if free is None:
            raise ValueError("it was closed")
        request = free.get()
        try:
            for name, array in (*inputs.items(), *outputs.items()):
                request.set_tensor(name, self._package.Tensor(array, shared_memory=True))
            request.infer(share_inputs=True, share_outputs=True)
        finally:
            free.put(request)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"precision_hint": self.precision_hint, "requests": self.requests}

    def close(self) -> None:
        self._free = None


def _keep_float32(model: Any, types: Any) -> None:
    """Mark what OpenVINO must not round to bfloat16, which its hint would do to all numbers.

    In a graph that computes in bfloat16 itself, that is everything it computes in float32; in one of float32
    alone, what comes before the first convolution: mapping, styles and demodulation, whose errors would be
    in every number after them. OpenVINO before 2026 heeds it; newer ones know another mark, which Python
    cannot make, and are nearly as exact without.
    """
    operations = model.get_ordered_ops()
    mixed = any(port.get_element_type() == types.bf16 for op in operations for port in op.outputs())
    behind: set[str] = set()  # convolutions and all that reads them
    for op in operations:
        sources = (port.get_source_output().get_node().get_friendly_name() for port in op.inputs())
        if not mixed and ("Convolution" in op.get_type_name() or not behind.isdisjoint(sources)):
            behind.add(op.get_friendly_name())
        elif all(port.get_element_type() == types.f32 for port in op.outputs()):
            op.get_rt_info()["precise_0"] = ""  # the attribute DisableFP16Compression of its passes


def checked_inputs(
    spec: EngineSpec, inputs: Mapping[str, Any], batch: int | None
) -> tuple[dict[str, Array], int]:
    """(dense arrays in the order of `spec.inputs`, number of rows). Arguments and errors as `CpuRunner.run`.

    >>> layer = EngineSpec("onnx", "net", "whole", "fp32", 20, "", (TensorSpec("psi", "float32", ()),), ())
    >>> checked_inputs(layer, {"psi": 0.5}, None)
    ({'psi': array(0.5, dtype=float32)}, 1)
    """
    if inputs.keys() != {tensor.name for tensor in spec.inputs}:
        wanted = ", ".join(f"{t.name} {t.dtype} {_shape_text(t.shape)}" for t in spec.inputs)
        raise ValueRangeError(f"inputs must be {wanted}; got {', '.join(inputs) or 'none'}")
    arrays = {tensor.name: _input_array(tensor, inputs[tensor.name]) for tensor in spec.inputs}
    rows = next(
        (arrays[t.name].shape[t.shape.index(BATCH)] for t in spec.inputs if BATCH in t.shape), batch or 1
    )
    for tensor in spec.inputs:
        if (shape := arrays[tensor.name].shape) != tensor.concrete(rows):
            raise ShapeError(
                f"{tensor.name} must be {_shape_text(tensor.shape)} with the same batch in all inputs; got "
                f"{_shape_text(shape)}"
            )
    _check_rows(spec, rows, batch)
    return arrays, rows


def _input_array(tensor: TensorSpec, value: Any) -> Array:
    if not tensor.shape and not hasattr(value, "shape"):
        value = np.array(value, tensor.dtype)  # the runtimes take arrays only
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype != tensor.dtype:
        raise DTypeError(
            f"{tensor.name} must be {tensor.dtype}; got {array.dtype}. Convert it: x.astype({tensor.dtype!r})"
        )
    if array.ndim != len(tensor.shape):
        raise ShapeError(f"{tensor.name} must be {_shape_text(tensor.shape)}; got {_shape_text(array.shape)}")
    if not tensor.shape and not math.isfinite(array.item()):
        raise ValueRangeError(f"{tensor.name} must be a finite number; got {array.item()}")
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _check_rows(spec: EngineSpec, rows: int, batch: int | None) -> None:
    if rows < 1:
        raise ShapeError("inputs must have at least one row; got none")
    if batch is not None and rows != batch:
        raise ValueRangeError(
            f"the batch must be {batch}, for which this was made; got {rows}. Split it and fill up the last "
            "part, or export with a free batch"
        )
    if spec.profile is not None and not spec.profile[0] <= rows <= spec.profile[2]:
        raise ValueRangeError(
            f"the batch must be {spec.profile[0]} to {spec.profile[2]}, the profile of this artefact; got "
            f"{rows}. Split it, or build the engine with a wider profile"
        )


def _result_arrays(spec: EngineSpec, rows: int, given: Mapping[str, Any]) -> dict[str, Array]:
    if unknown := given.keys() - {tensor.name for tensor in spec.outputs}:
        raise ValueRangeError(
            f"outputs must be of {', '.join(t.name for t in spec.outputs)}; got {', '.join(sorted(unknown))}"
        )
    results = {}
    for tensor in spec.outputs:
        shape = tensor.concrete(rows)
        if tensor.name not in given:
            results[tensor.name] = np.empty(shape, tensor.dtype)
            continue
        buffer = given[tensor.name]
        array = buffer.detach().numpy() if hasattr(buffer, "detach") else buffer
        if array.shape != shape or array.dtype != tensor.dtype:
            raise ShapeError(
                f"the buffer of {tensor.name} must be {tensor.dtype} {_shape_text(shape)}; got {array.dtype} "
                f"{_shape_text(array.shape)}"
            )
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueRangeError(f"the buffer of {tensor.name} must be dense and writeable memory")
        results[tensor.name] = array
    return results


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _fixed_batch(spec: EngineSpec, batch: int | None) -> int | None:
    if batch is not None and batch < 1:
        raise ValueRangeError(f"batch must be 1 or more; got {batch}")
    if spec.batch is not None and batch not in (None, spec.batch):
        raise ValueRangeError(f"the artefact is made for a batch of {spec.batch}; got {batch}")
    return spec.batch if batch is None else batch


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} cannot be imported ({error}). Install it with: "
            f'pip install "pyface-synth[{RUNTIMES[name]}]"'
        ) from error


def _providers(package: Any, device: str) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    there = package.get_available_providers()
    if device.partition(":")[0] != "cuda" or "CUDAExecutionProvider" not in there:
        raise ValueRangeError(
            f"device must be cpu, or cuda with onnxruntime for it (pip install onnxruntime-gpu); got "
            f"{device!r}, and this onnxruntime has {', '.join(there)}"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


@contextmanager
def _opening(path: Path, runtime: str) -> Iterator[None]:
    """Errors of a runtime that opens a file, as ExportError; each has its own for each fault."""
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    try:
        yield
    except (ExportError, ValueRangeError):
        raise
    except Exception as error:
        raise ExportError(f"{path} is damaged, or no network that {runtime} runs: {error}") from error


def _port_name(port: Any, tensors: tuple[TensorSpec, ...]) -> str:
    """The name among those of an OpenVINO port by which the artefact knows it."""
    names = sorted(port.get_names())
    return next((tensor.name for tensor in tensors if tensor.name in names), ", ".join(names) or "nameless")


def _check_ports(artefact: Artefact, found: list[str], kind: str) -> None:
    wanted = [tensor.name for tensor in getattr(artefact.spec, kind)]
    if sorted(found) != sorted(wanted):
        raise ExportError(
            f"{artefact.path} does not fit its description: its {kind} are {', '.join(found)}, described are "
            f"{', '.join(wanted)}; export the network again"
        )

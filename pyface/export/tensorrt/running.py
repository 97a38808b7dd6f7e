"""An engine of TensorRT on a GPU: torch's memory and streams, CUDA graphs, results copied behind the work.

Results are computed where they are wanted: inputs are read and outputs written at the addresses of torch
tensors, and the work is put on torch's current stream. `RunningEngine.fixed` records the work of one batch
size as a CUDA graph on buffers of its own; `RunningEngine.stream` runs batch after batch on two such sets of
buffers by turns, and copies the results of one into pinned memory of the CPU while the other computes.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pyface.errors import DataError, DTypeError, ExportError, ShapeError, ValueRangeError
from pyface.export.artefact import Artefact
from pyface.export.spec import BATCH, TensorSpec
from pyface.export.tensorrt.library import Library
from pyface.io.atomic import make_folder, write_bytes

__all__ = ["CudaDevice", "FixedBatch", "RunningEngine"]

_WARM_UP = 2  # runs before the work is recorded: libraries allocate and choose in the first
_LANES = 2


class CudaDevice:
    """What an engine needs of a GPU, by torch: memory, streams, events, recorded work."""

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)
        torch.zeros(1, device=self.device)  # TensorRT works in the context that torch makes here

    @property
    def name(self) -> str:
        """As the driver calls it."""
        return str(torch.cuda.get_device_name(self.device))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the CPU that the GPU copies to while the CPU does other work."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def new_stream(self) -> Any:
        """A queue of work beside torch's."""
        return torch.cuda.Stream(self.device)

    def current_stream(self) -> Any:
        """The queue that torch puts work on."""
        return torch.cuda.current_stream(self.device)

    def is_default(self, stream: Any) -> bool:
        """Whether it is the queue that all others wait for, on which TensorRT synchronises too often."""
        return bool(stream == torch.cuda.default_stream(self.device))

    def event(self) -> Any:
        """A mark on a queue."""
        return torch.cuda.Event()

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Torch puts its work on `stream` inside."""
        return torch.cuda.stream(stream)

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """TensorRT, which works on the thread's current GPU, works on this one inside."""
        return torch.cuda.device(self.device)

    def synchronize(self) -> None:
        """Wait until the GPU has done everything."""
        torch.cuda.synchronize(self.device)

    def record(self, work: Callable[[], None], stream: Any) -> Callable[[], None]:
        """What replays the work that was put on `stream`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


class RunningEngine:
    """An engine on a GPU; a context manager. One thread may use it at a time.

    Attributes:
        artefact: where it comes from; `artefact.spec` tells its inputs and outputs.
        library: TensorRT or TensorRT-RTX.
        device: the GPU.
    """

    def __init__(
        self,
        artefact: Artefact,
        library: Library,
        runtime: Any,
        engine: Any,
        device: CudaDevice,
        *,
        cuda_graphs: bool = True,
        runtime_cache: Path | None = None,
    ) -> None:
        self.artefact, self.library, self.device = artefact, library, device
        self.cuda_graphs = cuda_graphs
        self._runtime, self._engine = runtime, engine  # the runtime must outlive the engine
        self._cache_file = runtime_cache if library.has_runtime_cache else None
        self._cache: Any = None
        self._context: Any = None
        self._own_stream: Any = None
        self._fixed: dict[tuple[int, int], FixedBatch] = {}

    @property
    def batches(self) -> tuple[int, int]:
        """Smallest and largest batch that it takes."""
        spec = self.artefact.spec
        if spec.batch is not None:
            return spec.batch, spec.batch
        return (spec.profile[0], spec.profile[2]) if spec.profile else (1, 1)

    def run(
        self, inputs: Mapping[str, Tensor | float], outputs: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The outputs by name, on the GPU, put on torch's current stream; nothing waits for them.

        Args:
            inputs: a dense tensor on the GPU for every input, of its type and shape, which is read where it
                lies and must not change until the work is done; a number for one without axes.
            outputs: dense tensors on the GPU to write to; fresh ones where names are missing.

        Raises:
            ShapeError, DTypeError, ValueRangeError: an input or buffer does not fit, a batch outside of the
                profile, names that are not those of the engine, a number that is not finite.
            ExportError: TensorRT refused the work, or the engine is closed.
        """
        self._require_open()
        taken = self._inputs(inputs)
        rows = self._rows(taken)
        results = self._outputs(rows, outputs or {})
        if self._context is None:
            self._context = self.new_context()
        current = self.device.current_stream()
        if not self.device.is_default(current):
            self.enqueue(self._context, taken, results, current)
            return results
        stream = self._side_stream()
        stream.wait_stream(current)
        self.enqueue(self._context, taken, results, stream)
        current.wait_stream(stream)  # so that memory freed after this call is not reused before the work
        return results

    def fixed(self, rows: int, lane: int = 0) -> FixedBatch:
        """The engine for batches of `rows` alone, on buffers of its own; made once and kept.

        lane: another number gives another set of buffers, so that work on them can overlap.

        Raises:
            ValueRangeError: a batch outside of the profile.
        """
        self._require_open()
        self._check_rows(rows)
        if (rows, lane) not in self._fixed:
            self._fixed[rows, lane] = FixedBatch(self, rows)
        return self._fixed[rows, lane]

    def stream(
        self, batches: Iterable[Mapping[str, Tensor | float]], rows: int
    ) -> Iterator[dict[str, Tensor]]:
        """The outputs of each batch in pinned memory of the CPU, in order; the next is computed meanwhile.

        A result is valid until the next is asked for; then its memory is written anew.

        Args:
            batches: inputs as for `run`, all of `rows` rows.
        """
        copies = self.device.new_stream()
        lanes = [_Lane(self, self.fixed(rows, number), copies) for number in range(_LANES)]
        waiting: _Lane | None = None
        try:
            for number, inputs in enumerate(batches):
                lane = lanes[number % _LANES]
                lane.start(inputs)
                if waiting is not None:
                    yield waiting.result()
                waiting = lane
            if waiting is not None:
                yield waiting.result()
        finally:
            copies.synchronize()  # memory of the lanes may be freed after this

    def new_context(self, *, whole: bool = False) -> Any:
        """An execution context. whole: compile kernels at once, not in the background."""
        self._require_open()
        with self.device.active():
            context = self._made_context(whole)
        if context is None:
            raise ExportError(
                f"{self.artefact.path.name} got no execution context, most likely for lack of GPU memory; "
                "use a smaller largest batch, or close other engines"
            )
        return context

    def enqueue(
        self, context: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], stream: Any
    ) -> None:
        """Put the work on `stream`: shapes and addresses of the tensors, then execute."""
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise ExportError(f"TensorRT does not take the shape {list(tensor.shape)} of {name}")
            context.set_tensor_address(name, tensor.data_ptr())
        for name, tensor in outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if shape != tuple(tensor.shape):
                raise ExportError(
                    f"TensorRT would write {name} {list(shape)}, described is {list(tensor.shape)}; build "
                    "the engine again"
                )
            context.set_tensor_address(name, tensor.data_ptr())
        with self.device.active():
            done = context.execute_async_v3(stream.cuda_stream)
        if not done:
            raise ExportError(f"{self.library.title} could not run {self.artefact.path.name}")

    def copied(self, inputs: Mapping[str, Tensor | float], into: Mapping[str, Tensor]) -> None:
        """Copy inputs, checked as `run` does, to where they are read."""
        for name, tensor in self._inputs(inputs).items():
            if tensor.shape != into[name].shape:
                raise ShapeError(
                    f"{name} must be {list(into[name].shape)} for this batch; got {list(tensor.shape)}"
                )
            into[name].copy_(tensor, non_blocking=True)

    def buffers(self, specs: Iterable[TensorSpec], rows: int, *, pinned: bool = False) -> dict[str, Tensor]:
        """Memory for these tensors of a batch of `rows`, on the GPU or pinned on the CPU."""
        make = self.device.pinned if pinned else self.device.empty
        return {tensor.name: make(tensor.concrete(rows), _dtype(tensor)) for tensor in specs}

    def close(self) -> None:
        """Free the GPU's memory, and keep what was compiled for the next process."""
        if self._engine is None:
            return
        self.device.synchronize()
        self._keep_cache()
        self._fixed.clear()
        self._context = self._cache = self._engine = self._runtime = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _made_context(self, whole: bool) -> Any:
        if not self.library.has_runtime_cache:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.set_runtime_cache(self._shared_cache(config))
        if whole and hasattr(self.library.module, "DynamicShapesKernelSpecializationStrategy"):
            strategies = self.library.module.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(config)

    def _require_open(self) -> None:
        if self._engine is None:
            raise ExportError(f"the engine {self.artefact.path.name} is closed; load it again")

    def _side_stream(self) -> Any:
        if self._own_stream is None:
            self._own_stream = self.device.new_stream()
        return self._own_stream

    def _shared_cache(self, config: Any) -> Any:
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._cache_file is not None and self._cache_file.is_file():
                self._cache.deserialize(self._cache_file.read_bytes())  # one of another driver is not taken
        return self._cache

    def _keep_cache(self) -> None:
        if self._cache is None or self._cache_file is None:
            return
        try:
            make_folder(self._cache_file.parent)
            write_bytes(self._cache_file, bytes(self._cache.serialize()), sync=False)
        except DataError as error:
            warnings.warn(f"compiled kernels are not kept for the next time: {error}", stacklevel=3)

    def _inputs(self, given: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        specs = self.artefact.spec.inputs
        _check_names(given, [tensor.name for tensor in specs], "inputs")
        return {tensor.name: self._input(tensor, given[tensor.name]) for tensor in specs}

    def _input(self, spec: TensorSpec, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            self._check_tensor(spec, value)
            return value
        if spec.shape:
            raise ShapeError(f"{spec.name} must be a tensor {list(spec.shape)}; got {value!r}")
        if not math.isfinite(value):
            raise ValueRangeError(f"{spec.name} must be a finite number; got {value!r}")
        return self.device.empty((), _dtype(spec)).fill_(value)

    def _check_tensor(self, spec: TensorSpec, tensor: Tensor) -> None:
        if tensor.dtype != _dtype(spec):
            raise DTypeError(f"{spec.name} must be {spec.dtype}; got {tensor.dtype}. Convert it with .to()")
        fits = len(tensor.shape) == len(spec.shape) and all(
            size in (BATCH, found) for size, found in zip(spec.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ShapeError(f"{spec.name} must be {list(spec.shape)}; got {list(tensor.shape)}")
        if tensor.device != self.device.device:
            raise ValueRangeError(
                f"{spec.name} must lie on {self.device.device}; it is on {tensor.device}. Move it with .to()"
            )
        if not tensor.is_contiguous():
            raise ValueRangeError(f"{spec.name} must be dense memory; make it so with .contiguous()")

    def _rows(self, inputs: Mapping[str, Tensor]) -> int:
        """The batch of all inputs that have one."""
        rows = {
            tensor.name: inputs[tensor.name].shape[0]
            for tensor in self.artefact.spec.inputs
            if BATCH in tensor.shape
        }
        if len(set(rows.values())) > 1:
            raise ShapeError(f"inputs must have equally many rows; got {rows}")
        found = next(iter(rows.values()), self.artefact.spec.batch or 1)
        self._check_rows(found)
        return found

    def _check_rows(self, rows: int) -> None:
        low, high = self.batches
        if not low <= rows <= high:
            raise ValueRangeError(
                f"{self.artefact.path.name} takes batches of {low} to {high}; got {rows}. Split the batch, "
                "or build the engine with another profile"
            )

    def _outputs(self, rows: int, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        specs = self.artefact.spec.outputs
        unknown = [name for name in given if name not in {tensor.name for tensor in specs}]
        if unknown:
            _check_names(given, [tensor.name for tensor in specs], "outputs")
        for tensor in specs:
            if tensor.name in given:
                self._check_tensor(_sized(tensor, rows), given[tensor.name])
        fresh = self.buffers([tensor for tensor in specs if tensor.name not in given], rows)
        taken = {**fresh, **given}
        return {tensor.name: taken[tensor.name] for tensor in specs}


class FixedBatch:
    """An engine for one batch size on buffers of its own: call it with inputs, its outputs are overwritten.

    The third call records the work as a CUDA graph, where TensorRT allows it, and later ones replay it.

    Attributes:
        inputs, outputs: where they lie on the GPU.
    """

    def __init__(self, engine: RunningEngine, rows: int) -> None:
        spec = engine.artefact.spec
        self.rows = rows
        self.inputs = engine.buffers(spec.inputs, rows)
        self.outputs = engine.buffers(spec.outputs, rows)
        self._engine = engine
        self._context = engine.new_context(whole=True)
        self._stream = engine.device.new_stream()
        self._runs = 0
        self._replay: Callable[[], None] | None = None

    @property
    def recorded(self) -> bool:
        """Whether calls replay a CUDA graph."""
        return self._replay is not None

    def __call__(self, inputs: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        """The outputs, put on torch's current stream; the next call writes to the same memory.

        inputs: as for `RunningEngine.run`; they are copied.
        """
        device = self._engine.device
        current = device.current_stream()
        self._stream.wait_stream(current)
        with device.on(self._stream):
            self._engine.copied(inputs, self.inputs)
            self._execute(device)
        current.wait_stream(self._stream)
        return dict(self.outputs)

    def _execute(self, device: CudaDevice) -> None:
        if self._replay is not None:
            self._replay()
            return
        if self._runs >= _WARM_UP and self._engine.cuda_graphs and self._recordable():
            self._replay = device.record(self._enqueue, self._stream)
            self._replay()
            return
        self._runs += 1
        self._enqueue()

    def _enqueue(self) -> None:
        self._engine.enqueue(self._context, self.inputs, self.outputs, self._stream)

    def _recordable(self) -> bool:
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(self._stream.cuda_stream))


class _Lane:
    """One of the two sets of buffers of `RunningEngine.stream`."""

    def __init__(self, engine: RunningEngine, fixed: FixedBatch, copies: Any) -> None:
        self._device, self._fixed, self._copies = engine.device, fixed, copies
        self._results = engine.buffers(engine.artefact.spec.outputs, fixed.rows, pinned=True)
        self._done = engine.device.event()

    def start(self, inputs: Mapping[str, Tensor | float]) -> None:
        """Queue the computation, and the copies behind it on their own stream."""
        outputs = self._fixed(inputs)
        self._copies.wait_stream(self._device.current_stream())
        with self._device.on(self._copies):
            for name, tensor in outputs.items():
                self._results[name].copy_(tensor, non_blocking=True)
            self._done.record(self._copies)

    def result(self) -> dict[str, Tensor]:
        """Wait for the copies."""
        self._done.synchronize()
        return dict(self._results)


def _dtype(spec: TensorSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype


def _sized(spec: TensorSpec, rows: int) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.concrete(rows))


def _check_names(given: Mapping[str, Any], wanted: list[str], kind: str) -> None:
    if sorted(given) != sorted(wanted):
        raise ValueRangeError(
            f"the engine's {kind} are {', '.join(wanted)}; got {', '.join(given) or 'none'}"
        )

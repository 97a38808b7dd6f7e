"""`OnnxNetwork`: an ONNX file run by onnxruntime, without gradients."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import CheckpointError, MissingExtraError, ShapeError, ValueRangeError
from pyface.io.onnx_file import with_free_sizes

__all__ = ["OnnxNetwork", "OnnxValue", "open_session"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        shape: a whole number for each axis that is fixed, else None.
        dtype: such as "float".
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{sizes}]"


def open_session(
    path: str | os.PathLike[str], *, device: str = "cpu", threads: int = 0, free_sizes: bool = False
) -> Any:
    """An `onnxruntime.InferenceSession` of a file.

    Args:
        path: the file.
        device: "cpu", or "cuda" with a build of onnxruntime that has it.
        threads: on the CPU; 0 as many as onnxruntime likes.
        free_sizes: leave batch, height and width of pictures open, whatever the file declares.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: no such file, or a damaged one.
        ValueRangeError: a device that is not there, or threads below 0.
    """
    onnxruntime = _onnxruntime()
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"there is no file {source}.")
    if threads < 0:
        raise ValueRangeError(f"threads must not be negative; got {threads}.")
    providers = ["CPUExecutionProvider"]
    if device != "cpu":
        there = onnxruntime.get_available_providers()
        if device.partition(":")[0] != "cuda" or "CUDAExecutionProvider" not in there:
            raise ValueRangeError(
                f"device must be cpu, or cuda with onnxruntime for it (pip install onnxruntime-gpu); got "
                f"{device!r}, and this onnxruntime has {', '.join(there)}."
            )
        providers.insert(0, "CUDAExecutionProvider")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        model = with_free_sizes(source.read_bytes()) if free_sizes else str(source)
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime has exceptions of its own for each fault of a file
        raise CheckpointError(
            f"{source} is damaged, or no ONNX network that onnxruntime runs: {error}"
        ) from error


class OnnxNetwork:
    """A graph with one picture batch as input, as a function: outputs by name.

    Calls from several threads run side by side. Pickles as its path and options.

    Args:
        path: the file.
        device: see `open_session`.
        threads: see `open_session`.
        free_sizes: see `open_session`.

    Attributes:
        path: as given.
        input: the one input that is no weight.
        outputs: all outputs, in the order of the file.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: no such file, damaged, or not with one float input of four axes.
        ValueRangeError: an option that does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        threads: int = 0,
        free_sizes: bool = False,
    ) -> None:
        self.path = Path(path)
        self._options = {"device": device, "threads": threads, "free_sizes": free_sizes}
        self._open()

    def _open(self) -> None:
        self._session: Any = open_session(self.path, **self._options)  # type: ignore[arg-type]
        inputs = tuple(_value(found) for found in self._session.get_inputs())
        self.outputs = tuple(_value(found) for found in self._session.get_outputs())
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype != "float":
            raise CheckpointError(
                f"{self.path} has the inputs {'; '.join(map(str, inputs)) or 'none'}; expected is one of "
                "float pictures [N, C, H, W]."
            )
        self.input = inputs[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __call__(self, batch: Array) -> dict[str, Array]:
        """Outputs by name.

        Where the graph takes a fixed number of pictures, it is run as often as needed on parts of the batch,
        the last one filled up by its last picture; then the first axis of every output must be the batch.

        Args:
            batch: float32 [N, C, H, W], N at least 1.

        Raises:
            ShapeError: the graph takes pictures of another shape.
            CheckpointError: the graph fails, or its outputs have no batch axis where one is needed.
        """
        array = np.ascontiguousarray(batch, np.float32)
        wanted = self.input.shape
        fits = array.ndim == 4 and all(
            size in (None, got) for size, got in zip(wanted[1:], array.shape[1:], strict=True)
        )
        if not fits or not len(array):
            raise ShapeError(f"{self.path.name} takes {self.input}; got a batch {list(array.shape)}.")
        fixed = wanted[0]
        if fixed is None or fixed == len(array):
            return self._run(array)
        parts = []
        for start in range(0, len(array), fixed):
            part = array[start : start + fixed]
            filled = np.concatenate([part, np.repeat(part[-1:], fixed - len(part), axis=0)])
            parts.append({name: (output, len(part)) for name, output in self._run(filled).items()})
        for name, (output, _) in parts[0].items():
            if not output.ndim or len(output) != fixed:
                raise CheckpointError(
                    f"{self.path} takes {fixed} pictures at once, and its output {name} {list(output.shape)} "
                    f"does not tell them apart; got {len(array)} pictures."
                )
        return {name: np.concatenate([part[name][0][: part[name][1]] for part in parts]) for name in parts[0]}

    def _run(self, array: Array) -> dict[str, Array]:
        names = [output.name for output in self.outputs]
        try:
            found = self._session.run(names, {self.input.name: array})
        except Exception as error:  # onnxruntime has exceptions of its own for each fault of a graph
            raise CheckpointError(
                f"{self.path} does not run on a batch {list(array.shape)}: {error}"
            ) from error
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}

    def __repr__(self) -> str:
        outputs = "; ".join(map(str, self.outputs))
        return f"<ONNX network {self.path.name}: {self.input} -> {outputs}>"


def _value(found: Any) -> OnnxValue:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in found.shape or ())
    return OnnxValue(found.name, shape, str(found.type).removeprefix("tensor(").removesuffix(")"))


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX networks need onnxruntime, which cannot be imported ({error}). "
            "Install it with: pip install 'pyface-synth[faces]'"
        ) from error
    return onnxruntime

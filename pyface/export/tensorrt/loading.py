"""An engine file, checked against what is here before TensorRT reads it, ready to run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyface.errors import ExportError, ValueRangeError
from pyface.export.artefact import Artefact, open_artefact
from pyface.export.spec import EngineSpec
from pyface.export.tensorrt.build_child import make_log
from pyface.export.tensorrt.caches import runtime_cache_file
from pyface.export.tensorrt.library import FLAVOURS, Library, import_library
from pyface.export.tensorrt.running import CudaDevice, RunningEngine
from pyface.export.tensorrt.targets import present_capability

__all__ = ["check_capability", "check_version", "load_engine"]

_AGAIN = "build the engine again (pyface export tensorrt)"


def load_engine(
    source: Artefact | str | os.PathLike[str],
    *,
    device: int = 0,
    cuda_graphs: bool = True,
    runtime_cache: str | os.PathLike[str] | None = None,
) -> RunningEngine:
    """The engine ready to run on a GPU.

    Args:
        source: the artefact or its path; its description lies beside it. All files are hashed.
        device: number of the GPU.
        cuda_graphs: record the work of a fixed batch once and replay it, see `RunningEngine.fixed`.
        runtime_cache: file for kernels that TensorRT-RTX compiles while it runs; None takes one in the cache
            folder of pyface. Written when the engine is closed.

    Raises:
        ExportError: a file is missing or damaged, or the engine is for another library, version or GPU, or
            there is no GPU; says which field of the description it was.
        MissingExtraError: the library is not installed; names the extra.
        ValueRangeError: there is no such GPU.
    """
    artefact = open_artefact(source.path if isinstance(source, Artefact) else source)
    library = check_version(artefact)
    present = _capability(artefact, device)
    check_capability(artefact, present)
    cuda = CudaDevice(device)
    plan = artefact.path.read_bytes()
    with cuda.active():
        runtime = library.module.Runtime(make_log(library.module))
        _check_validity(artefact.path, library, runtime, plan)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"{artefact.path} could not be loaded by {library.title}; {_AGAIN}")
    _check_ports(artefact.path, artefact.spec, library, engine)
    cache = Path(runtime_cache or runtime_cache_file(library, cuda.name, artefact.sha256))
    return RunningEngine(
        artefact, library, runtime, engine, cuda, cuda_graphs=cuda_graphs, runtime_cache=cache
    )


def check_version(artefact: Artefact) -> Library:
    """The library that the artefact was built with.

    Raises:
        ExportError: it is no TensorRT engine, or was built with another version than the one here.
        MissingExtraError: the library is not installed.
    """
    spec = artefact.spec
    if spec.format not in FLAVOURS:
        raise ExportError(
            f"{artefact.path} is no TensorRT engine: its format is {spec.format!r}; open it with "
            "pyface.export.open_engine"
        )
    library = import_library(spec.format)
    built = spec.versions.get(spec.format)
    if built != library.version:
        raise ExportError(
            f"{artefact.path} was built with {spec.format} {built} (versions), and {library.version} is "
            f"here; an engine runs under its own version alone: install that one, or {_AGAIN}"
        )
    return library


def check_capability(artefact: Artefact, present: int | None) -> None:
    """Raises ExportError unless the engine was built for a GPU of this compute capability."""
    built = ", ".join(map(str, artefact.spec.compute_capabilities))
    if present is None:
        raise ExportError(
            f"{artefact.path} runs on a GPU of compute capability {built} (compute_capabilities), and there "
            "is no CUDA device here. Use another engine: native, onnxruntime, openvino or torch"
        )
    if present not in artefact.spec.compute_capabilities:
        raise ExportError(
            f"{artefact.path} was built for compute capability {built} (compute_capabilities), and the GPU "
            f"here has {present}: build it for that one (pyface export tensorrt --cc {present})"
        )


def _capability(artefact: Artefact, device: int) -> int | None:
    import torch

    if torch.cuda.is_available() and not 0 <= device < torch.cuda.device_count():
        raise ValueRangeError(
            f"there is no GPU {device} for {artefact.path}: torch sees {torch.cuda.device_count()}"
        )
    return present_capability(device)


def _check_validity(path: Path, library: Library, runtime: Any, plan: bytes) -> None:
    """Ask the library, where it can be asked, before the engine is loaded."""
    if not library.has_validity:
        return
    validity, diagnostics = runtime.get_engine_validity(plan)
    kinds = library.module.EngineValidity
    if validity == kinds.INVALID:
        raise ExportError(
            f"{path} cannot run here, says {library.title}: {_reasons(library, diagnostics)}; "
            f"update the driver if that is what is old, or {_AGAIN}"
        )
    if validity != kinds.VALID:
        print(
            f"pyface: {path.name} runs here, but slower than one built for this GPU "
            f"({_reasons(library, diagnostics)})",
            file=sys.stderr,
        )


def _reasons(library: Library, diagnostics: Any) -> str:
    """The names of the bits that are set."""
    members = getattr(library.module.EngineInvalidityDiagnostics, "__members__", {})
    found = [name.lower().replace("_", " ") for name, bit in members.items() if int(bit) & int(diagnostics)]
    return ", ".join(found) or "it gives no reason"


def _check_ports(path: Path, spec: EngineSpec, library: Library, engine: Any) -> None:
    modes = library.module.TensorIOMode
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for field, mode in (("inputs", modes.INPUT), ("outputs", modes.OUTPUT)):
        found = [name for name in names if engine.get_tensor_mode(name) == mode]
        described = [tensor.name for tensor in getattr(spec, field)]
        if sorted(found) != sorted(described):
            raise ExportError(
                f"{path} does not fit its description ({field}): it has {_list(found)}, described are "
                f"{_list(described)}; {_AGAIN}"
            )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"

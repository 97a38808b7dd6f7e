"""What the native modules are and can do here, in words, for `pyface doctor`."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch

from pyface.errors import PyfaceError
from pyface.ops._native import backend

__all__ = ["describe_backends"]


def _module(name: str) -> ModuleType | str:
    """The native module `name`, or why it cannot be imported."""
    try:
        return importlib.import_module(f"pyface.{name}")
    except ImportError as error:
        return str(error)


def _cpu_line() -> str:
    module = _module("_cpu")
    if isinstance(module, str):
        return f"cpu        not built ({module}); reinstall pyface-synth with a C++17 compiler"
    cap = os.environ.get("PYFACE_CPU_ISA")
    limit = f", capped by PYFACE_CPU_ISA={cap}" if cap else ""
    available = ", ".join(module.isa_available())
    return f"cpu        {module.isa()} in use{limit} (this machine: {available}); {torch.get_num_threads()} threads"


def _cuda_lines() -> list[str]:
    module = _module("_cuda")
    if isinstance(module, str):
        return [f"cuda       not built ({module}); install with nvcc present, or take a release wheel"]
    count, problem = module.device_count()
    built = (
        f"built for {', '.join(str(a) for a in module.architectures())}, runtime {module.runtime_version()}"
    )
    state = f"{count} device(s)" if count else f"no device ({problem or 'none found'})"
    lines = [f"cuda       {built}; {state}"]
    if count and not torch.cuda.is_available():
        lines.append(f"           torch {torch.__version__} has no CUDA: tensors stay on the CPU")
    return lines


def describe_backends() -> list[str]:
    """Lines for people: each native module, its instruction sets or architectures, and what ops will take.

    Raises nothing: what cannot run is said in the line.
    """
    lines = [_cpu_line(), *_cuda_lines()]
    for device in ("cpu", "cuda"):
        try:
            lines.append(f"ops on {device:<4} {backend(device)}")
        except PyfaceError as error:
            lines.append(f"ops on {device:<4} error: {error}")
    return lines

"""The native modules, and the choice of the back-end that an op takes.

"auto" takes the native module of the tensor's device, else the reference (said once, as a warning).
PYFACE_REQUIRE=cpu or cuda turns that fall-back into a BackendError.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyface.errors import BackendError, ValueRangeError

__all__ = ["Backend", "backend", "describe_backends", "reset", "resolve", "use"]

_NAMES = ("auto", "reference", "cpu", "cuda")


class Backend:
    """One native module, and how its functions are launched.

    Every function takes pointers, sizes and settings as plain numbers and, last, `where`: threads, stream or
    schedule.
    """

    name = "native"

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.primitives: Any = None  # the eager ops over this back-end, made on first use
        self.bias_act: Callable[..., None] = module.bias_act
        self.bias_act_grad: Callable[..., None] = module.bias_act_grad
        self.upfirdn2d: Callable[..., None] = module.upfirdn2d
        self.modulate: Callable[..., None] = module.modulate
        self.demodulate: Callable[..., None] = module.demodulate
        self.conv_epilogue: Callable[..., None] = module.conv_epilogue

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        """Call `function` with `arguments` where `x` lives."""
        raise NotImplementedError(f"{type(self).__name__}.run")


class _Cpu(Backend):
    name = "cpu"

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        function(*arguments, torch.get_num_threads())


class _Cuda(Backend):
    name = "cuda"

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        with torch.cuda.device_of(x):
            function(*arguments, torch.cuda.current_stream().cuda_stream)


class _Emu(Backend):
    name = "emu"

    def __init__(self, module: ModuleType, schedule: int) -> None:
        super().__init__(module)
        self.schedule = schedule

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        function(*arguments, self.schedule)


_KINDS: dict[str, type[Backend]] = {"cpu": _Cpu, "cuda": _Cuda}
_loaded: dict[str, Backend | str] = {}  # a back-end, or why there is none
_chosen: dict[tuple[str, str], Backend | None] = {}
_override: Backend | None = None


def _load(name: str) -> Backend | str:
    """The native back-end `name`, or the reason why it cannot run."""
    if name not in _loaded:
        try:
            module = importlib.import_module(f"pyface._{name}")
        except ImportError as error:
            _loaded[name] = f"pyface._{name} is not built ({error})"
        else:
            count, problem = module.device_count() if name == "cuda" else (1, "")
            _loaded[name] = _KINDS[name](module) if count else f"no CUDA device ({problem or 'none found'})"
    return _loaded[name]


def _required() -> str:
    value = os.environ.get("PYFACE_REQUIRE", "")
    if value not in ("", "cpu", "cuda"):
        raise ValueRangeError(f"PYFACE_REQUIRE is {value!r}; allowed: cpu, cuda, or unset.")
    return value


def _choose(device: str, wanted: str) -> Backend | None:
    if wanted not in _NAMES:
        raise ValueRangeError(f"backend is {wanted!r}; allowed: {', '.join(_NAMES)}.")
    if wanted == "reference" or (wanted == "auto" and device == "meta"):
        return None
    if wanted != "auto" and wanted != device:
        raise BackendError(
            f"backend {wanted!r} was asked for a tensor on {device}. Move the tensor, or use backend='auto'."
        )
    found = _load(device) if device in _KINDS else f"there are no native kernels for device type {device!r}"
    if isinstance(found, Backend):
        return found
    if wanted != "auto":
        raise BackendError(f"backend {wanted!r} cannot run: {found}. Use backend='auto' or 'reference'.")
    if _required() == device:
        raise BackendError(f"PYFACE_REQUIRE={device}, but {found}. Build the native modules, or unset it.")
    warnings.warn(
        f"pyface.ops take the slower torch reference on {device} tensors: {found}.",
        RuntimeWarning,
        stacklevel=4,
    )
    return None


def resolve(x: Tensor, wanted: str = "auto") -> Backend | None:
    """The native back-end for tensor `x`; None stands for the torch reference.

    Raises BackendError where `wanted`, or PYFACE_REQUIRE, asks for what cannot run here.
    """
    if _override is not None and wanted == "auto" and x.is_cpu:
        return _override
    key = ("cpu" if x.is_cpu else x.device.type, wanted)
    try:
        return _chosen[key]
    except KeyError:
        _chosen[key] = _choose(*key)
        return _chosen[key]


def backend(device: str | torch.device = "cpu") -> str:
    """Name of the back-end that ops take for tensors on `device`: "cpu", "cuda" or "reference".

    Raises BackendError where PYFACE_REQUIRE asks for one that cannot run here.

    >>> backend("meta")
    'reference'
    """
    kind = torch.device(device).type
    if _override is not None and kind == "cpu":
        return _override.name
    found = _load(kind) if kind in _KINDS else None
    if isinstance(found, Backend):
        return found.name
    if found is not None and _required() == kind:
        raise BackendError(f"PYFACE_REQUIRE={kind}, but {found}. Build the native modules, or unset it.")
    return "reference"


def describe_backends() -> list[str]:
    """One line for each native back-end: what it can do here, or why it cannot run."""
    lines = []
    for name in _KINDS:
        found = _load(name)
        if isinstance(found, str):
            lines.append(f"{name}: no, {found}")
        elif name == "cpu":
            best, have = found.module.isa(), found.module.isa_available()
            lines.append(f"cpu: {best} (of {', '.join(have)})")
        else:
            runtime, built = found.module.runtime_version(), found.module.architectures()
            lines.append(f"cuda: runtime {runtime}, built for {', '.join(str(a) for a in built)}")
    taken = ", ".join(f"{backend(name)} for {name} tensors" for name in _KINDS)
    return [*lines, f"ops take: {taken}"]


def reset() -> None:
    """Forget every choice made so far: the environment and the modules are looked at again."""
    _chosen.clear()
    _loaded.clear()


@contextlib.contextmanager
def use(name: str, schedule: int = 0) -> Iterator[None]:
    """Inside, `backend="auto"` takes native module `name` for CPU tensors: tests reach the emulator so.

    `schedule`: order of the emulated threads; 0 forward, 1 reverse, 2 random.
    """
    global _override
    if name != "emu":
        raise ValueRangeError(f"use: name is {name!r}; allowed: 'emu'.")
    try:
        module = importlib.import_module("pyface._emu")
    except ImportError as error:
        raise BackendError(f"pyface._emu is not built ({error}). Build it with -DPYFACE_EMU=ON.") from None
    before, _override = _override, _Emu(module, schedule)
    try:
        yield
    finally:
        _override = before

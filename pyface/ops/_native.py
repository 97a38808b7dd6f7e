"""The native modules, and the choice of the back-end that an op takes.

"auto" takes the native module of the tensor's device, else the reference (said once, as a warning).
PYFACE_REQUIRE=cuda makes everything that "auto" would not run on the CUDA kernels a BackendError;
PYFACE_REQUIRE=cpu takes the CPU kernels too, and refuses the reference alone. A back-end asked for by name
runs, and so do meta tensors, which hold no numbers.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pyface.errors import BackendError, ValueRangeError

__all__ = [
    "Backend",
    "backend",
    "capability",
    "describe_backends",
    "refuse_reference",
    "reset",
    "resolve",
    "use",
]

_NAMES = ("auto", "reference", "cpu", "cuda")


def _absent(*arguments: Any) -> Any:
    """Stands for the kernels on tensor cores, which the CPU module does not have."""
    raise BackendError("this kernel is in pyface._cuda alone. Use a CUDA device, or torch's convolution.")


class Backend(abc.ABC):
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
        self.pack_weight: Callable[..., None] = module.pack_weight
        self.unpack_weight: Callable[..., None] = module.unpack_weight
        self.conv2d: Callable[..., None] = getattr(module, "conv2d", _absent)
        self.conv2d_plan: Callable[..., Any] = getattr(module, "conv2d_plan", _absent)
        self.conv2d_heads: Callable[..., None] = getattr(module, "conv2d_heads", _absent)
        self.upconv2d: Callable[..., None] = getattr(module, "upconv2d", _absent)
        self.conv2d_weight_grad: Callable[..., None] = getattr(module, "conv2d_weight_grad", _absent)
        self.conv2d_weight_grad_plan: Callable[..., tuple[int, int]] = getattr(
            module, "conv2d_weight_grad_plan", _absent
        )
        self.channel_dot_plan: Callable[..., tuple[int, int]] = getattr(module, "channel_dot_plan", _absent)
        self.conv_epilogue_grad: Callable[..., None] = getattr(module, "conv_epilogue_grad", _absent)

    @property
    def has_convolutions(self) -> bool:
        """Whether it convolves, and has the one-pass gradients: the CUDA kernels and their emulation."""
        return self.conv2d is not _absent

    def multiprocessors(self, device: torch.device) -> int:
        """How many blocks of threads run at once, by order of magnitude: what sums are cut for."""
        return 1

    def capability(self, device: torch.device) -> tuple[int, int] | None:
        """Compute capability of a CUDA device; None where there is no device to choose for."""
        return None

    @abc.abstractmethod
    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        """Call `function` with `arguments` where `x` lives."""


class _Cpu(Backend):
    name = "cpu"

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        function(*arguments, torch.get_num_threads())


@functools.cache
def _properties(device: torch.device) -> Any:
    return torch.cuda.get_device_properties(device)


class _Cuda(Backend):
    name = "cuda"

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        with torch.cuda.device_of(x):
            function(*arguments, torch.cuda.current_stream().cuda_stream)

    def multiprocessors(self, device: torch.device) -> int:
        return int(_properties(device).multi_processor_count)

    def capability(self, device: torch.device) -> tuple[int, int] | None:
        found = _properties(device)
        return found.major, found.minor


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


def _look_up(device: str) -> Backend | str:
    """The native back-end for tensors on `device`, or the reason why there is none."""
    return _load(device) if device in _KINDS else f"there are no native kernels for device type {device!r}"


def _enforce(device: str, found: Backend | str) -> None:
    """Raise BackendError where PYFACE_REQUIRE refuses what "auto" takes for tensors on `device`."""
    required = _required()
    if not required:
        return
    if isinstance(found, str):
        raise BackendError(
            f"PYFACE_REQUIRE={required}, but {found}: a tensor on {device} would take the torch reference. "
            "Build the native modules, move the tensor to a device that has kernels, pass "
            "backend='reference', or unset PYFACE_REQUIRE."
        )
    if required == "cuda" and found.name != "cuda":
        raise BackendError(
            f"PYFACE_REQUIRE=cuda, but a tensor on {device} would take the {found.name} kernels. Move it to "
            f"a CUDA device, pass backend={found.name!r} or 'reference', or unset PYFACE_REQUIRE."
        )


def refuse_reference(x: Tensor, reason: str) -> None:
    """Raise BackendError if PYFACE_REQUIRE is set: `reason` makes "auto" take the reference for `x`."""
    required = "" if x.device.type == "meta" else _required()
    if required:
        raise BackendError(
            f"PYFACE_REQUIRE={required}, but this call on {x.device} takes the torch reference: {reason}. "
            "Pass backend='reference', or unset PYFACE_REQUIRE."
        )


def _choose(device: str, wanted: str) -> Backend | None:
    if wanted not in _NAMES:
        raise ValueRangeError(f"backend is {wanted!r}; allowed: {', '.join(_NAMES)}.")
    if wanted == "reference" or (wanted == "auto" and device == "meta"):
        return None
    if wanted != "auto" and wanted != device:
        raise BackendError(
            f"backend {wanted!r} was asked for a tensor on {device}. Move the tensor, or use backend='auto'."
        )
    found = _look_up(device)
    if wanted == "auto":
        _enforce(device, found)
    if isinstance(found, Backend):
        return found
    if wanted != "auto":
        raise BackendError(f"backend {wanted!r} cannot run: {found}. Use backend='auto' or 'reference'.")
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

    Raises BackendError where PYFACE_REQUIRE refuses that one (see `pyface.ops`).

    >>> backend("meta")
    'reference'
    """
    kind = torch.device(device).type
    if _override is not None and kind == "cpu":
        return _override.name
    if kind == "meta":
        return "reference"
    found = _look_up(kind)
    _enforce(kind, found)
    return found.name if isinstance(found, Backend) else "reference"


def describe_backends() -> list[str]:
    """One line for each native back-end and one for the choice between them; errors are told, not raised."""
    lines = []
    for name in _KINDS:
        try:
            lines.append(f"{name}: {_abilities(name)}")
        except ValueError as error:  # PYFACE_CPU_ISA asks for what there is not
            lines.append(f"{name}: error, {error}")
    for name in _KINDS:
        try:
            lines.append(f"ops take: {backend(name)} for {name} tensors")
        except (BackendError, ValueRangeError) as error:
            lines.append(f"ops take: error for {name} tensors, {error}")
    return lines


def _abilities(name: str) -> str:
    found = _load(name)
    if isinstance(found, str):
        return f"no, {found}"
    if name == "cpu":
        return f"{found.module.isa()} (of {', '.join(found.module.isa_available())})"
    built = ", ".join(str(a) for a in found.module.architectures())
    return f"runtime {found.module.runtime_version()}, built for {built}"


def capability() -> tuple[int, int] | None:
    """Compute capability of the first CUDA device that the kernels run on; None without one."""
    found = _load("cuda")
    return found.capability(torch.device("cuda", 0)) if isinstance(found, Backend) else None


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

"""Which path a call takes: torch reference, eager kernels, or the registered ops that tracing can see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyface.errors import DTypeError, ValueRangeError
from pyface.ops import _native
from pyface.ops._autograd import NativePrimitives
from pyface.ops._checks import activation_settings
from pyface.ops._composition import Epilogue
from pyface.ops._gradients import needs_reference
from pyface.ops._library import LibraryPrimitives
from pyface.ops.reference import ReferencePrimitives

__all__ = ["AnyPrimitives", "dispatch_modes", "epilogue_settings", "primitives", "under_modes", "writers"]

AnyPrimitives = ReferencePrimitives | NativePrimitives | LibraryPrimitives

_REFERENCE = ReferencePrimitives()
_LIBRARY = LibraryPrimitives()
_Key = tuple[str, float | None, float | None, float | None]
_settings: dict[_Key, Epilogue] = {}
_MOST_SETTINGS = 1000
_PLAIN = (Tensor, torch.nn.Parameter)
_under_modes: ReferencePrimitives | NativePrimitives | None = None

# Private names of torch, each with a fall-back for a version without it.
dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_functorch_level: Callable[[], Any] = getattr(torch._C._functorch, "maybe_current_level", lambda: None)
_tracing_state: Callable[[], Any] = getattr(torch._C, "_get_tracing_state", lambda: None)


def epilogue_settings(
    op: str, act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> Epilogue:
    """The activation `act` with its defaults filled in; checked once per set of arguments."""
    if torch.compiler.is_compiling():
        return Epilogue(*activation_settings(op, act, alpha, gain, clamp))
    key = (act, alpha, gain, clamp)
    try:
        return _settings[key]
    except KeyError:
        e = Epilogue(*activation_settings(op, act, alpha, gain, clamp))
        if len(_settings) < _MOST_SETTINGS:
            _settings[key] = e
        return e


def primitives(x: Tensor, backend: str, e: Epilogue | None = None) -> AnyPrimitives:
    """The primitives for tensor `x` under `backend`, with epilogue `e`.

    torch.compile, torch.export, fake tensors and dispatch modes get registered ops; torch.func transforms and
    torch.jit.trace see through the reference only. Gains <= 0 and negative slopes take the reference too:
    there the output does not tell the sign of the input. Under backend "auto" PYFACE_REQUIRE has a say in
    each of these, by BackendError.
    """
    mirrored = e is not None and not (e.gain > 0 and e.alpha >= 0) and needs_reference(e)
    if mirrored and backend == "auto":
        _native.refuse_reference(x, "its gain is not above 0, or its lrelu slope is negative")
    if torch.compiler.is_compiling():
        return _REFERENCE if backend == "reference" or mirrored else _LIBRARY
    if type(x) not in _PLAIN or dispatch_modes():
        if _under_modes is not None:
            return _REFERENCE if backend == "reference" or mirrored else _under_modes
        return _REFERENCE if backend == "reference" or mirrored or x.device.type == "meta" else _LIBRARY
    chosen = _native.resolve(x, backend)
    if chosen is None or mirrored:
        return _REFERENCE
    if _functorch_level() is not None or _tracing_state() is not None:
        if backend == "auto":
            _native.refuse_reference(x, "torch.func and torch.jit.trace see through the reference only")
        return _REFERENCE
    if chosen.primitives is None:
        chosen.primitives = NativePrimitives(chosen)
    eager: NativePrimitives = chosen.primitives
    return eager


@contextlib.contextmanager
def under_modes(chosen: ReferencePrimitives | NativePrimitives) -> Iterator[None]:
    """Inside, fake tensors and dispatch modes get `chosen` and not the registered ops (`ops.rehearsal`)."""
    global _under_modes
    before, _under_modes = _under_modes, chosen
    try:
        yield
    finally:
        _under_modes = before


def writers(
    op: str, x: Tensor, out: Tensor, backend: str, e: Epilogue | None = None
) -> ReferencePrimitives | NativePrimitives:
    """As `primitives`, for a call that writes its result into `out`: plain tensors in eager mode only."""
    if not isinstance(out, Tensor):
        raise DTypeError(f"{op}: out must be a torch.Tensor or None; got {type(out).__name__}.")
    traced = torch.compiler.is_compiling() or _tracing_state() is not None or _functorch_level() is not None
    found = primitives(x, backend, e)
    if traced or isinstance(found, LibraryPrimitives) or dispatch_modes() or type(out) not in _PLAIN:
        raise ValueRangeError(
            f"{op}: out was given under torch.compile, torch.export, torch.jit.trace, torch.func or a "
            "dispatch mode; allowed: eager calls on plain tensors. Leave out away there."
        )
    return found

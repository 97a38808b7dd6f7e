"""The eager path without its kernels: what a run allocates and saves, on tensors that hold no numbers.

Fake tensors and dispatch modes take the registered ops otherwise, whose graphs keep other tensors alive than
the eager autograd functions do. A forecast of memory has to see the latter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyface.ops import _dispatch, _native
from pyface.ops._autograd import NativePrimitives
from pyface.ops.reference import ReferencePrimitives

__all__ = ["eager_under_modes", "rehearsal"]


def _nothing(*_: Any) -> None:
    pass


class _Silent(_native.Backend):
    """A native back-end whose launches do nothing."""

    name = "rehearsal"

    def __init__(self) -> None:
        self.primitives = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any kernel by its name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return _nothing

    @property
    def has_convolutions(self) -> bool:
        """False: convolutions are rehearsed as torch's, whose outputs and gradients take the same memory."""
        return False

    def run(self, function: Callable[..., None], x: Tensor, *arguments: Any) -> None:
        """Nothing: the output stays as it was allocated."""


class _Numberless(TorchFunctionMode):
    """Fake tensors have the address 0, and as arrays numbers from 0 to 1, where torch would refuse."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.data_ptr:
            return 0
        if func is torch.Tensor.numpy and type(args[0]) is not Tensor:
            numbers = np.random.default_rng(0).random(tuple(args[0].shape))
            return numbers.astype(str(args[0].dtype).removeprefix("torch."))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def rehearsal(native: bool = True) -> Iterator[None]:
    """Inside, ops on fake tensors allocate and save what eager calls do, and compute nothing.

    Real tensors must not meet the ops inside: their results would be uninitialised. native: rehearse the
    kernels' path, which every back-end shares; else that of the torch reference.
    """
    chosen = NativePrimitives(_Silent()) if native else ReferencePrimitives()
    with _dispatch.under_modes(chosen), _Numberless():
        yield


@contextlib.contextmanager
def eager_under_modes() -> Iterator[None]:
    """Inside, ops on real CPU tensors take their eager path although a dispatch mode watches them."""
    found = _native.resolve(torch.empty(0))
    with _dispatch.under_modes(ReferencePrimitives() if found is None else NativePrimitives(found)):
        yield

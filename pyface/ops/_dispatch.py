"""Which primitives a call takes: the torch reference, or native kernels."""

from __future__ import annotations

from torch import Tensor

from pyface.ops import _native
from pyface.ops._composition import Primitives
from pyface.ops.reference import ReferencePrimitives

__all__ = ["primitives"]

_REFERENCE = ReferencePrimitives()


def primitives(x: Tensor, backend: str) -> Primitives:
    """The primitives for tensor `x` under `backend`."""
    _native.resolve(x, backend)
    return _REFERENCE

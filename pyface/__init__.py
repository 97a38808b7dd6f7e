"""pyface: synthetic face data on C++/CUDA kernels.

Importing this package compiles nothing, downloads nothing and touches no GPU.

>>> import pyface
>>> G = pyface.load("face.safetensors")          # doctest: +SKIP
>>> image = G(z, c)                              # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "backend", "load"]

if TYPE_CHECKING:
    from pyface.models import load
    from pyface.ops import backend

_LAZY = {"load": "pyface.models", "backend": "pyface.ops"}


def __getattr__(name: str) -> Any:
    """Load `pyface.load` and `pyface.backend` on first use, so that the import stays quick."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'pyface' has no attribute {name!r}")

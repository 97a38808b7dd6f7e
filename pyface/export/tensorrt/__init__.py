"""Engines of TensorRT and TensorRT-RTX: built in a process of their own, run on torch's memory.

>>> from pyface.export.tensorrt import build_engine, load_engine
>>> built = build_engine("demo", "demo.engine", precision="fp16", profile=(1, 8, 32))   # doctest: +SKIP
>>> with load_engine(built) as engine:                                                  # doctest: +SKIP
...     pixels = engine.run({"ws": ws})["vis"]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyface.export.tensorrt.build import build_engine
    from pyface.export.tensorrt.loading import load_engine
    from pyface.export.tensorrt.running import RunningEngine

__all__ = ["RunningEngine", "build_engine", "load_engine"]

_LAZY = {"build_engine": "build", "load_engine": "loading", "RunningEngine": "running"}


def __getattr__(name: str) -> Any:
    """Import on first use: the process that builds an engine does without torch."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

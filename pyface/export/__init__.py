"""Networks for other runtimes: files of ONNX, OpenVINO and TensorRT, proof of agreement, engines.

Importing this package imports no runtime; each name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Engine",
    "available_engines",
    "choose_engine",
    "open_artefact",
    "open_engine",
]

if TYPE_CHECKING:
    from pyface.export.artefact import open_artefact
    from pyface.export.engine import Engine, available_engines, choose_engine, open_engine

_PLACES = {
    "Engine": "engine",
    "available_engines": "engine",
    "choose_engine": "engine",
    "open_artefact": "artefact",
    "open_engine": "engine",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"pyface.export.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'pyface.export' has no attribute {name!r}")

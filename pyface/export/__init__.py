"""Networks for other runtimes: files of ONNX, OpenVINO and TensorRT, proof of agreement, engines.

Importing this package imports no runtime; each name is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Artefact",
    "Choice",
    "Engine",
    "available_engines",
    "build_engine",
    "choose_engine",
    "export_onnx",
    "export_openvino",
    "open_artefact",
    "open_engine",
    "verify_artefact",
]

if TYPE_CHECKING:
    from pyface.export.artefact import Artefact, open_artefact
    from pyface.export.engine import Choice, Engine, available_engines, choose_engine, open_engine
    from pyface.export.onnx import export_onnx
    from pyface.export.openvino import export_openvino
    from pyface.export.parity import verify_artefact
    from pyface.export.tensorrt.build import build_engine

_PLACES = {
    "Artefact": "artefact",
    "Choice": "engine",
    "Engine": "engine",
    "available_engines": "engine",
    "build_engine": "tensorrt.build",
    "choose_engine": "engine",
    "export_onnx": "onnx",
    "export_openvino": "openvino",
    "open_artefact": "artefact",
    "open_engine": "engine",
    "verify_artefact": "parity",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"pyface.export.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'pyface.export' has no attribute {name!r}")

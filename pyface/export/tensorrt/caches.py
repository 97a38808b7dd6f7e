"""Where measurements and compiled kernels of TensorRT are kept between processes."""

from __future__ import annotations

import re
from pathlib import Path

from pyface.export.tensorrt.library import Library
from pyface.faces.catalogue import cache_folder

__all__ = ["runtime_cache_file", "timing_cache_file"]


def timing_cache_file(library: Library, gpu: str) -> Path:
    """For builds with this version of TensorRT on this GPU: how fast its kernels were."""
    return _folder() / f"timing-{library.flavour}-{library.version}-{_slug(gpu)}.bin"


def runtime_cache_file(library: Library, gpu: str, engine_sha256: str) -> Path:
    """For an engine on this GPU: kernels that were compiled while it ran."""
    return _folder() / f"runtime-{library.flavour}-{library.version}-{_slug(gpu)}-{engine_sha256[:16]}.bin"


def _folder() -> Path:
    return cache_folder().parent / "tensorrt"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

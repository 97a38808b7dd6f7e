"""TensorRT or TensorRT-RTX: which of the two is here, and what this version of it can do.

One code path serves TensorRT 10 and 11 and TensorRT-RTX. What differs is asked of the module itself, by
attributes, never by version numbers; precision lies in the ONNX graph, so that builder flags for precisions,
which TensorRT 11 and TensorRT-RTX no longer have, are not needed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyface.errors import MissingExtraError, ValueRangeError

__all__ = ["EXTRAS", "FLAVOURS", "Library", "find_library", "import_library"]

FLAVOURS: Mapping[str, str] = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}  # -> module
EXTRAS: Mapping[str, str] = {"tensorrt-rtx": "tensorrt-rtx", "tensorrt": "tensorrt-cu13"}
_TARGET = re.compile(r"SM(\d+)")


@dataclass(frozen=True)
class Library:
    """An imported TensorRT module.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx", the formats of artefacts.
        module: the Python module.
    """

    flavour: str
    module: Any

    @property
    def version(self) -> str:
        """As the module tells it; engines run under this version alone."""
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        name = "TensorRT-RTX" if self.flavour == "tensorrt-rtx" else "TensorRT"
        return f"{name} {self.version}"

    @property
    def network_flags(self) -> int:
        """Of `create_network`: strongly typed, where it is a choice."""
        flags = getattr(self.module, "NetworkDefinitionCreationFlag", None)
        member = getattr(flags, "STRONGLY_TYPED", None)
        return 0 if member is None else 1 << int(member)

    @property
    def targets(self) -> tuple[int, ...]:
        """Compute capabilities that it builds for on any machine; () when it builds for the GPU present."""
        if not hasattr(self.module.IBuilderConfig, "set_compute_capability"):
            return ()
        names = (_TARGET.fullmatch(name) for name in dir(self.module.ComputeCapability))
        return tuple(sorted(int(found[1]) for found in names if found))

    @property
    def has_timing_cache(self) -> bool:
        """Whether measurements of one build serve the next; TensorRT-RTX measures nothing when it builds."""
        return not self.targets and hasattr(self.module.IBuilderConfig, "create_timing_cache")

    @property
    def has_runtime_config(self) -> bool:
        """Whether an execution context takes a configuration."""
        return hasattr(self.module.ICudaEngine, "create_runtime_config")

    @property
    def has_runtime_cache(self) -> bool:
        """Whether kernels that were compiled while running can be kept for the next process."""
        config = getattr(self.module, "IRuntimeConfig", None)
        return self.has_runtime_config and hasattr(config, "create_runtime_cache")

    @property
    def has_validity(self) -> bool:
        """Whether an engine can be asked, before it is loaded, if it runs here."""
        return hasattr(self.module.Runtime, "get_engine_validity")


def import_library(flavour: str) -> Library:
    """The library "tensorrt" or "tensorrt-rtx".

    Raises:
        ValueRangeError: another name.
        MissingExtraError: it cannot be imported; names the extra.
    """
    if flavour not in FLAVOURS:
        raise ValueRangeError(f"the library must be one of {', '.join(FLAVOURS)}; got {flavour!r}")
    try:
        return Library(flavour, importlib.import_module(FLAVOURS[flavour]))
    except (ImportError, OSError) as error:  # OSError: its shared libraries
        raise MissingExtraError(
            f"{FLAVOURS[flavour]} cannot be imported ({error}). Install it with: "
            f'pip install "pyface-synth[{EXTRAS[flavour]}]"'
        ) from error


def find_library(
    rtx: bool | None = None, present: int | None = None, wanted: Collection[int] = ()
) -> Library:
    """The library to build with.

    Args:
        rtx: TensorRT-RTX (True) or TensorRT (False). None takes TensorRT-RTX, whose engines are built without
            a GPU, except where a GPU that the engine is for is none of its targets and TensorRT is installed.
        present: compute capability of the GPU in this machine, such as 89; None where there is none.
        wanted: compute capabilities to build for; none means the GPU present.

    Raises:
        MissingExtraError: it is not installed, or neither is; names the extra.
    """
    if rtx is not None:
        return import_library("tensorrt-rtx" if rtx else "tensorrt")
    found, reasons = [], []
    for flavour in FLAVOURS:
        try:
            found.append(import_library(flavour))
        except MissingExtraError as error:
            reasons.append(str(error))
    if not found:
        raise MissingExtraError(f"neither TensorRT-RTX nor TensorRT is here. {' '.join(reasons)}")
    needed = set(wanted) or ({present} if present is not None else set())
    fits = [library for library in found if not library.targets or needed <= set(library.targets)]
    return (fits or found)[0]

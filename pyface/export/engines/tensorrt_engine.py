"""The generator in TensorRT or TensorRT-RTX on a GPU, over an engine file that was built for it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyface.export.artefact import Artefact
from pyface.export.engines.artefact_engine import ArtefactEngine
from pyface.export.engines.fixed_batch import GeneratorFacts, Settings

__all__ = ["TensorRTEngine", "TensorRTRTXEngine"]


class TensorRTEngine(ArtefactEngine):
    """TensorRT. Latents are read and pictures written on the GPU; the work of a batch is a CUDA graph.

    Args:
        artefact: of a generator, whole or its synthesis, for this GPU and this version of the library.
        facts, settings, mapping: as in `Engine`.
    """

    name: ClassVar[str] = "tensorrt"

    def __init__(
        self, artefact: Artefact, facts: GeneratorFacts, settings: Settings, mapping: nn.Module | None
    ) -> None:
        super().__init__(artefact, facts, settings, mapping)
        from pyface.export.tensorrt import load_engine

        self._running: Any = load_engine(artefact, device=settings.device.index or 0)
        self._fixed: Any = self._running.fixed(settings.batch)

    def _run(self, rows: dict[str, Tensor], psi: float) -> dict[str, Tensor]:
        made: dict[str, Tensor] = self._fixed({**rows, "psi": psi} if "psi" in self.inputs else rows)
        return made

    def _facts(self) -> dict[str, Any]:
        return {
            "artefact_sha256": self.artefact.sha256,
            "runtime": self._running.library.title,
            "processor": self._running.device.name,
            "torch": torch.__version__,
        }

    def _release(self) -> None:
        self._fixed = None
        self._running.close()


class TensorRTRTXEngine(TensorRTEngine):
    """TensorRT-RTX, whose engines are built without a GPU and finished on the one they run on."""

    name: ClassVar[str] = "tensorrt-rtx"

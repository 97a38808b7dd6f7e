"""The generator in ONNX Runtime or OpenVINO: an exported file and, where there is one, torch's mapping."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyface.export.artefact import Artefact
from pyface.export.engines.artefact_engine import ArtefactEngine
from pyface.export.engines.fixed_batch import GeneratorFacts, Settings
from pyface.export.runners import open_runner

__all__ = ["OnnxRuntimeEngine", "OpenVinoEngine", "RunnerEngine"]


class RunnerEngine(ArtefactEngine):
    """An engine over an artefact that runs on the CPU.

    The runtime reads latents where they lie and writes pictures into memory that is kept from call to call.

    Args:
        artefact: of a generator, whole or its synthesis.
        facts, settings, mapping: as in `Engine`.
    """

    def __init__(
        self, artefact: Artefact, facts: GeneratorFacts, settings: Settings, mapping: nn.Module | None
    ) -> None:
        super().__init__(artefact, facts, settings, mapping)
        self._runner: Any = open_runner(
            artefact, runtime=self.name, threads=settings.threads, batch=settings.batch
        )
        self._room = {
            tensor.name: torch.empty(tensor.concrete(settings.batch), dtype=getattr(torch, tensor.dtype))
            for tensor in artefact.spec.outputs
        }

    def _run(self, rows: dict[str, Tensor], psi: float) -> dict[str, Tensor]:
        self._runner.run({**rows, "psi": psi} if "psi" in self.inputs else rows, self._room)
        return self._room

    def _facts(self) -> dict[str, Any]:
        return {
            "artefact_sha256": self.artefact.sha256,
            **self._runner.describe(),
            "torch": torch.__version__,
            "processor": str(torch.backends.cpu.get_cpu_capability()),
        }

    def _release(self) -> None:
        self._runner.close()
        self._room = {}


class OnnxRuntimeEngine(RunnerEngine):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"


class OpenVinoEngine(RunnerEngine):
    """OpenVINO on the CPU."""

    name: ClassVar[str] = "openvino"

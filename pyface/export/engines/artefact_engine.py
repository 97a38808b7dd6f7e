"""Engines that run an exported file, float pictures or pixels as the file gives them."""

from __future__ import annotations

import abc
from collections.abc import Mapping

from torch import Tensor, nn

from pyface.errors import ExportError
from pyface.export.artefact import Artefact
from pyface.export.engines.fixed_batch import Engine, GeneratorFacts, Settings

__all__ = ["ArtefactEngine"]


class ArtefactEngine(Engine):
    """An engine of one file.

    Attributes:
        artefact: the file.
    """

    def __init__(
        self, artefact: Artefact, facts: GeneratorFacts, settings: Settings, mapping: nn.Module | None
    ) -> None:
        super().__init__(facts, settings, mapping, tuple(tensor.name for tensor in artefact.spec.inputs))
        self.artefact = artefact

    @abc.abstractmethod
    def _run(self, rows: dict[str, Tensor], psi: float) -> dict[str, Tensor]:
        """What the file gives for one batch; the next call may reuse its memory."""

    def _images(self, rows: dict[str, Tensor], psi: float) -> dict[str, Tensor]:
        if self.artefact.spec.uint8:
            raise ExportError(
                f"{self.artefact.path.name} gives pixels and no float images. Call pixels, or make it "
                "without uint8."
            )
        return self._run(rows, psi)

    def _pixels(self, rows: dict[str, Tensor], psi: float, count: int, into: Mapping[str, Tensor]) -> None:
        if not self.artefact.spec.uint8:
            super()._pixels(rows, psi, count, into)
            return
        for name, made in self._run(rows, psi).items():
            into[name].copy_(made[:count])

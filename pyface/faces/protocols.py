"""What a model must do to take part in the analysis of faces; any object with these members fits.

Photographs are uint8 [H, W, 3], RGB, of any size. Aligned faces are float32 tensors [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pyface.faces.face import Face, Photo

__all__ = [
    "ActionUnitModel",
    "AttributeModel",
    "Detector",
    "Embedder",
    "FeatureExtractor",
    "Landmarker",
]

Numbers = npt.NDArray[np.float32]


@runtime_checkable
class Detector(Protocol):
    """Finds faces."""

    name: str

    def detect(self, images: Sequence[Photo]) -> list[list[Face]]:
        """The faces of each picture, best score first; an empty list where there is none."""
        ...


@runtime_checkable
class Landmarker(Protocol):
    """Places the points of one scheme on faces that were found."""

    name: str
    scheme: str

    def landmarks(self, images: Sequence[Photo], faces: Sequence[Face]) -> Numbers:
        """float32 [N, K, 2] or [N, K, 3] in pixels; face i is in image i."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns aligned faces into vectors that are near each other for one person.

    `metric` "l2": two faces are taken for one person below `threshold`; "cosine": above it.
    """

    name: str
    dim: int
    size: int
    template: str
    metric: str
    threshold: float
    differentiable: bool

    def embed(self, aligned: Tensor) -> Tensor:
        """[N, dim] of faces [N, 3, size, size] in [-1, 1], aligned by `template`."""
        ...


@runtime_checkable
class AttributeModel(Protocol):
    """Reads attributes off aligned faces."""

    name: str
    names: tuple[str, ...]
    size: int
    template: str

    def predict(self, aligned: Tensor) -> dict[str, Numbers]:
        """attribute -> float32 [N]: probabilities in [0, 1], or years for "age"."""
        ...


@runtime_checkable
class ActionUnitModel(Protocol):
    """Reads action units of FACS off faces with landmarks."""

    name: str
    units: tuple[str, ...]

    def intensities(self, images: Sequence[Photo], faces: Sequence[Face]) -> Numbers:
        """float32 [N, units] from 0 (absent) to 1 (maximum); face i is in image i."""
        ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """Features of images for perceptual distances."""

    name: str
    layers: tuple[str, ...]

    def features(self, images: Tensor) -> list[Tensor]:
        """One map [N, C, H, W] for each of `layers`."""
        ...

    def pooled(self, images: Tensor) -> Tensor:
        """One vector [N, D] for each image."""
        ...


def protocols() -> dict[str, Any]:
    """kind -> the protocol that its models follow."""
    return {
        "detector": Detector,
        "landmarker": Landmarker,
        "embedder": Embedder,
        "attributes": AttributeModel,
        "action_units": ActionUnitModel,
        "features": FeatureExtractor,
    }

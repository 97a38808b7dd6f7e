"""Features of faces from the stages of a recognition network, and a perceptual distance over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pyface.errors import ShapeError, ValueRangeError
from pyface.faces.embed import dlib_network
from pyface.models import FaceRecognition, load
from pyface.models.recognition import resized

__all__ = ["StageFeatures", "dlib_features", "recognition_features"]


class StageFeatures:
    """Feature maps after the stages of a network that tells people apart, and a distance over them.

    Args:
        stages: pictures [N, 3, size, size] in [-1, 1] -> one map [N, C, H, W] for each of `layers`.
        name: for messages and reports.
        layers: names of the maps.
        size: of the pictures that `stages` takes; others are resized (bilinear, antialiased).

    Attributes: `name`, `layers` and `size` as given.
    """

    def __init__(
        self, stages: Callable[[Tensor], list[Tensor]], *, name: str, layers: Sequence[str], size: int
    ) -> None:
        self._stages = stages
        self.name, self.layers, self.size = name, tuple(layers), size

    def features(self, images: Tensor) -> list[Tensor]:
        """One map float [N, C, H, W] for each of `layers`, from the finest to the coarsest.

        Args:
            images: float [N, 3, H, W], or [N, 1, H, W] of grey pictures, in [-1, 1]; of any size. Gradients
                reach them.

        Raises:
            ShapeError, DTypeError: not such images.
        """
        return self._stages(resized(images, self.size))

    def pooled(self, images: Tensor) -> Tensor:
        """One vector [N, D] for each image: the mean of the last map over its positions."""
        return self.features(images)[-1].mean((2, 3))

    def distance(self, images: Tensor, targets: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """How different pictures look: [N], 0 for equal ones, at most 2 for each layer.

        Features at every position are scaled to unit length along the channels; the squares of their
        differences are summed over channels, averaged over positions and summed over layers (Zhang et al.
        2018, "The unreasonable effectiveness of deep features as a perceptual metric", equation 1, with equal
        weights in place of learned ones). Gradients reach both.

        Args:
            images: [N, 3 or 1, H, W] in [-1, 1].
            targets: as many, of any size.
            weights: of the layers; 1 each when absent.
        """
        if len(images) != len(targets):
            raise ShapeError(f"images and targets must be as many; got {len(images)} and {len(targets)}.")
        return self.feature_distance(self.features(images), self.features(targets), weights)

    def feature_distance(
        self, found: Sequence[Tensor], wanted: Sequence[Tensor], weights: Sequence[float] | None = None
    ) -> Tensor:
        """`distance` of maps that `features` gave before, as for the fixed target of a projection."""
        chosen = [1.0] * len(self.layers) if weights is None else list(weights)
        if len(chosen) != len(self.layers):
            raise ValueRangeError(
                f"weights must be {len(self.layers)} numbers, one for each layer; got {len(chosen)}."
            )
        parts = [
            weight * (_unit(a) - _unit(b)).square().sum(1).mean((1, 2))
            for a, b, weight in zip(found, wanted, chosen, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean of `distance` over the batch; no gradient flows into the targets."""
        with torch.no_grad():
            wanted = self.features(targets)
        return self.feature_distance(self.features(images), wanted).mean()

    def __repr__(self) -> str:
        return f"<features {self.name}: {', '.join(self.layers)} of {self.size} px>"


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-6)


def dlib_features(
    path: str | os.PathLike[str] | None = None, *, device: str | torch.device = "cpu"
) -> StageFeatures:
    """The first four stages of dlib's network: 32 to 256 channels at 35, 17, 8 and 4 positions a side.

    Pictures should show the face as the template dlib150 does; whole portraits work as well, since nothing
    but the last layers of the network, which are left out, is tied to places.

    Args:
        path: dlib's file; the one of the model store when absent.
        device: where it runs.

    Raises:
        ModelMissingError: the network has not been fetched yet.
    """
    network = dlib_network(path, device)
    layers = ("stage1", "stage2", "stage3", "stage4")
    return StageFeatures(
        lambda images: network.features(images)[: len(layers)],
        name="dlib-resnet",
        layers=layers,
        size=network.config.size,
    )


def recognition_features(
    path: str | os.PathLike[str] = "recognition-64", *, device: str | torch.device = "cpu"
) -> StageFeatures:
    """The four stages of the network that comes with pyface: 32 to 112 channels, 32 to 4 positions a side.

    It needs no download, has seen rendered faces alone, and resizes pictures to 64 pixels.

    Args:
        path: another network of that kind, by name or file.
        device: where it runs.
    """
    network: FaceRecognition = load(path, device, kind="recogniser").requires_grad_(False)
    layers = ("stage1", "stage2", "stage3", "stage4")
    return StageFeatures(network.stages, name=Path(path).name, layers=layers, size=network.config.resolution)

"""Features of images, and their mean and covariance, gathered block by block."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyface.errors import CheckpointError, DTypeError, ShapeError, ValueRangeError
from pyface.io.atomic import atomic_write
from pyface.models import FaceRecognition, load

__all__ = ["FaceFeatures", "FeatureExtractor", "FeatureStatistics", "as_matrix", "features_of"]

Matrix = npt.NDArray[np.float64]

FORMAT = 1  # of files of statistics


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turns images into vectors that statistics are taken of.

    Attributes:
        dim: length of a vector.
        fingerprint: changes with anything that changes the vectors: weights, sizes, preprocessing. Numbers
            of different fingerprints are never compared.

    Called with uint8 images [N, 3, H, W] or [N, 1, H, W] it gives float32 features [N, dim]. Images come as
    uint8 because that is what files hold: generated ones are rounded as if they were written and read.
    """

    dim: int
    fingerprint: str

    def __call__(self, images: Tensor) -> Tensor: ...


class FaceFeatures:
    """Features of the face-recognition network that ships with pyface, or of another one.

    Args:
        network: a network, or the name or path of its file.
        device: where it runs.
        batch: images that go through it at a time.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """

    def __init__(
        self,
        network: FaceRecognition | str | os.PathLike[str] = "recognition-64",
        device: str | torch.device = "cpu",
        batch: int = 128,
    ) -> None:
        if batch < 1:
            raise ValueRangeError(f"batch must be 1 or more; got {batch}")
        found = network if isinstance(network, FaceRecognition) else load(network, kind="recogniser")
        self.network: FaceRecognition = found.to(device).eval()
        self.device = torch.device(device)
        self.batch = batch
        self.dim = self.network.config.num_features
        self.fingerprint = _fingerprint(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, dim] on the CPU of uint8 images [N, 3 or 1, H, W]."""
        if images.dtype != torch.uint8:
            raise DTypeError(
                f"images must be uint8; got {images.dtype}. Round pictures in [-1, 1] by pyface.io.images."
                "to_uint8, as if they were written to files."
            )
        parts = [
            self.network.features(part.to(self.device).float().div(127.5).sub(1.0)).cpu()
            for part in images.split(self.batch)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)


def _fingerprint(network: FaceRecognition) -> str:
    """The first 16 hexadecimal digits of SHA-256 over weights, sizes and preprocessing."""
    digest = hashlib.sha256()
    about = [network.architecture, network.config.to_dict(), network.preprocessing]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        values = tensor.detach().cpu().numpy().astype("<f4")
        digest.update(f"{name} {list(values.shape)}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def features_of(extractor: FeatureExtractor, batches: Iterable[Tensor]) -> Tensor:
    """Features float32 [N, dim] of all images in `batches` of uint8 [n, C, H, W], in their order."""
    parts = [extractor(batch) for batch in batches]
    return torch.cat(parts) if parts else torch.zeros(0, extractor.dim)


def as_matrix(features: Tensor | npt.ArrayLike, name: str = "features") -> Matrix:
    """Features as float64 [N, dim].

    Raises:
        ShapeError: not two axes.
        ValueRangeError: a value that is not finite.
    """
    raw = features.detach().cpu().numpy() if isinstance(features, Tensor) else features
    values: Matrix = np.asarray(raw, np.float64)
    if values.ndim != 2:
        raise ShapeError(f"{name} must be [N, dim]; got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueRangeError(f"{name} hold values that are not finite: the images or the network are broken")
    return values


class FeatureStatistics:
    """Count, mean and covariance of features, in float64, gathered block by block in any order.

    Sums of squared deviations are carried along with the mean, so nothing cancels; source: Chan, Golub and
    LeVeque 1983, "Algorithms for computing the sample variance", equation 1.3b for matrices.

    Args:
        dim: length of a feature vector.
        fingerprint: of the extractor; statistics of different ones do not mix.

    Attributes:
        count: vectors seen.
        mean: float64 [dim].
    """

    def __init__(self, dim: int, fingerprint: str = "") -> None:
        if dim < 1:
            raise ValueRangeError(f"dim must be 1 or more; got {dim}")
        self.dim = dim
        self.fingerprint = fingerprint
        self.count = 0
        self.mean: Matrix = np.zeros(dim)
        self._scatter: Matrix = np.zeros((dim, dim))

    @classmethod
    def of(cls, features: Tensor | npt.ArrayLike, fingerprint: str = "") -> Self:
        """Statistics of features [N, dim] that are there already."""
        values = as_matrix(features)
        found = cls(values.shape[1], fingerprint)
        found.add(values)
        return found

    def add(self, features: Tensor | npt.ArrayLike) -> None:
        """Take in features [n, dim]."""
        values = as_matrix(features)
        if values.shape[1] != self.dim:
            raise ShapeError(f"features must be [n, {self.dim}]; got {list(values.shape)}")
        if len(values):
            mean = values.mean(0)
            deviations = values - mean
            self._take(len(values), mean, deviations.T @ deviations)

    def merge(self, other: FeatureStatistics) -> None:
        """Take in all that another one has seen.

        Raises:
            ValueRangeError: it belongs to another extractor.
        """
        self.check_same(other)
        if other.count:
            self._take(other.count, other.mean, other._scatter)

    def _take(self, count: int, mean: Matrix, scatter: Matrix) -> None:
        total = self.count + count
        apart = mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Matrix:
        """Unbiased covariance float64 [dim, dim].

        Raises:
            ValueRangeError: fewer than two vectors were seen.
        """
        if self.count < 2:
            raise ValueRangeError(f"a covariance needs two images or more; got {self.count}")
        return self._scatter / (self.count - 1)

    def check_same(self, other: FeatureStatistics) -> None:
        """Raise ValueRangeError when `other` comes from another extractor."""
        if (self.dim, self.fingerprint) != (other.dim, other.fingerprint):
            raise ValueRangeError(
                f"these features come from different extractors ({self.fingerprint or 'unnamed'} with "
                f"{self.dim} features, {other.fingerprint or 'unnamed'} with {other.dim}); their numbers "
                "cannot be compared. Compute both with the same network and preprocessing."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to an .npz file, which is there whole or not at all."""
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                format=np.int64(FORMAT),
                count=np.int64(self.count),
                mean=self.mean,
                scatter=self._scatter,
                fingerprint=np.array(self.fingerprint),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote. Raises CheckpointError for a missing, damaged or foreign file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                version = int(file["format"])
                mean, scatter = file["mean"].astype(np.float64), file["scatter"].astype(np.float64)
                found = cls(mean.size, str(file["fingerprint"]))
                found.count = int(file["count"])
        except FileNotFoundError as error:
            raise CheckpointError(f"there is no file {path}") from error
        except Exception as error:  # np.load and zipfile raise whatever the damage leads to
            raise CheckpointError(f"{path} holds no statistics of features, or it is damaged") from error
        if version != FORMAT:
            raise CheckpointError(
                f"{path} has format {version}; this pyface reads format {FORMAT}. Compute it again."
            )
        if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
            raise CheckpointError(f"{path} is damaged: mean and covariance do not fit each other")
        found.mean, found._scatter = mean, scatter
        return found

"""A small network that describes faces: features for statistics of many, an embedding of who is shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyface.errors import DTypeError, ShapeError, ValueRangeError
from pyface.models._config import Config, positive

__all__ = ["PREPROCESSING", "FaceRecognition", "RecognitionConfig", "resized"]

PREPROCESSING = "float32 RGB in [-1, 1], grey repeated, bilinear antialiased to {0}x{0}, no crop"

_SLOPE = 0.1


@dataclass(frozen=True)
class RecognitionConfig(Config):
    """Sizes of the network.

    Args:
        resolution: height and width that images are resized to; 16, 32, 64, ...
        channels: after the first layer (at half the resolution) and of the four stages of blocks, at 1/2,
            1/4, 1/8 and 1/16 of the resolution.
        num_features: length of the feature vector.
        embedding_dim: length of the identity vector.
    """

    resolution: int = 64
    channels: Sequence[int] = (24, 32, 64, 80, 112)
    num_features: int = 160
    embedding_dim: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        positive(1, num_features=self.num_features, embedding_dim=self.embedding_dim)
        if len(self.channels) != 5:
            raise ValueRangeError(f"channels must be five numbers; got {list(self.channels)}")
        for channels in self.channels:
            positive(1, channels=channels)
        if self.resolution not in (16, 32, 64, 128, 256):
            raise ValueRangeError(f"resolution must be 16, 32, 64, 128 or 256; got {self.resolution!r}")


class FaceRecognition(nn.Module):
    """A residual network with two outputs: `features(images)` and `embedding(images)`.

    Features see everything that was rendered (who, expression, pose, glasses, light, background) and how
    well (noise, blur, blocks, bent shapes): statistics of them compare sets of images. The embedding has unit
    length, and the dot product of two embeddings says whether they show one person.

    Residual blocks: He et al. 2016, "Deep residual learning for image recognition". Output by batch
    normalisation, a full layer over all positions and batch normalisation: Deng et al. 2019, "ArcFace",
    section 3.1. Features have about zero mean and unit variance over rendered faces.

    >>> network = FaceRecognition(RecognitionConfig()).eval()
    >>> images = torch.zeros(2, 3, 128, 128)
    >>> network.features(images).shape, network.embedding(images).shape
    (torch.Size([2, 160]), torch.Size([2, 128]))
    """

    architecture: ClassVar[str] = "face-recognition"
    kind: ClassVar[str] = "recogniser"

    def __init__(self, config: RecognitionConfig) -> None:
        super().__init__()
        self.config = config
        channels = tuple(config.channels)
        self.stem = _ConvolutionNorm(3, channels[0], kernel=5, stride=2)
        blocks: list[nn.Module] = []
        self._ends: list[int] = []  # of the stages among the blocks
        for level, (before, after) in enumerate(itertools.pairwise(channels)):
            blocks.append(_ResidualBlock(before, after, stride=1 if level == 0 else 2))
            if level in (1, 2):  # a second block where it sees most for its cost
                blocks.append(_ResidualBlock(after, after, stride=1))
            self._ends.append(len(blocks))
        self.blocks = nn.Sequential(*blocks)
        positions = (config.resolution // 16) ** 2
        self.output = nn.Linear(channels[-1] * positions, config.num_features, bias=False)
        self.output_norm = nn.BatchNorm1d(config.num_features, affine=False)
        self.identity = nn.Linear(config.num_features, config.embedding_dim, bias=False)

    @property
    def preprocessing(self) -> str:
        """What happens to images before the first layer, in words; part of the hash of an extractor."""
        return PREPROCESSING.format(self.config.resolution)

    def features(self, images: Tensor) -> Tensor:
        """Features float32 [N, num_features] of images.

        Args:
            images: float [N, 3, H, W], or [N, 1, H, W] of grey pictures, in [-1, 1]; of any size, they are
                resized, see `resized`. Gradients reach them.

        Raises:
            ShapeError, DTypeError: not such images.
        """
        found: Tensor = self.output_norm(self.output(self.stages(images)[-1].flatten(1)).float())
        return found

    def stages(self, images: Tensor) -> list[Tensor]:
        """What each of the four stages sees: [N, channels, H, W] at 1/2, 1/4, 1/8 and 1/16 of the resolution.

        Arguments as in `features`.
        """
        x = resized(images, self.config.resolution).contiguous(memory_format=torch.channels_last)
        x = F.leaky_relu(self.stem(x), _SLOPE)
        found = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in self._ends:
                found.append(x)
        return found

    def embedding_of(self, features: Tensor) -> Tensor:
        """Identity vectors [N, embedding_dim] of unit length, of features that were computed before."""
        return F.normalize(self.identity(features), dim=1)

    def embedding(self, images: Tensor) -> Tensor:
        """Identity vectors float32 [N, embedding_dim] of unit length; arguments as in `features`."""
        return self.embedding_of(self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        """The same as `embedding`."""
        return self.embedding(images)


def resized(images: Tensor, size: int) -> Tensor:
    """Images float32 [N, 3, size, size]: grey repeated, resized by bilinear interpolation with antialiasing.

    Images of that size already are left as they are. The whole picture is stretched: crop a face that does
    not fill a square first. Values are not clipped.

    Args:
        images: float [N, 3, H, W] or [N, 1, H, W] in [-1, 1].
        size: height and width of the result.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ShapeError(
            f"images must be [N, 3, H, W] or [N, 1, H, W]; got {list(images.shape)}. "
            "Add a batch axis to a single image: x[None]."
        )
    if not images.is_floating_point():
        raise DTypeError(
            f"images must be float in [-1, 1]; got {images.dtype}. Scale uint8 by x / 127.5 - 1."
        )
    x = images.float()
    if tuple(x.shape[2:]) != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return x.expand(-1, 3, -1, -1)


class _ConvolutionNorm(nn.Sequential):
    def __init__(self, channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


class _ResidualBlock(nn.Module):
    """y = act(norm(conv(act(norm(conv(x))))) + skip(x)); `stride` 2 halves height and width."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = _ConvolutionNorm(channels, out_channels, stride=stride)
        self.second = _ConvolutionNorm(out_channels, out_channels)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels != out_channels:
            self.skip = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.leaky_relu(self.first(x), _SLOPE))
        return F.leaky_relu(y + self.skip(x), _SLOPE)
